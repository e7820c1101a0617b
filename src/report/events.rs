//! The events of a run, in the order in which the training loop emits them.

use serde::{Deserialize, Deserializer, Serialize};

use super::{SiteHistogram, Summary};

/// Something that happened in a run. As JSON, an object whose `event` is the variant's name in snake case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event: what is going to be done, and to what.
    RunStarted {
        /// The run's name.
        name: String,
        /// The recipe's mode, such as `joint` or `float`.
        mode: String,
        /// Where the tensors live, such as `cpu` or `cuda:0`.
        device: String,
        /// The seed of every random choice.
        seed: u64,
        /// The model's file.
        model: String,
        /// Number of sites.
        sites: usize,
        /// How many of them the recipe leaves out.
        left_out: usize,
        /// Activation values per image, over all sites.
        values: u64,
        /// Parameters of the network.
        parameters: u64,
        /// Multiply-accumulates of the network for one image.
        macs: u64,
    },
    /// The run goes on from a checkpoint. Shown, but not kept: the files go on as if nothing had been.
    Resumed {
        /// The stage's name; none behind the last one.
        stage: Option<String>,
        /// The stage's position, from 0.
        index: usize,
        /// How many stages the run has.
        stages: usize,
        /// Optimizer steps since the stage's start.
        stage_step: u64,
        /// The stage's length in optimizer steps; 0 for a stage that only measures.
        stage_steps: u64,
        /// Optimizer steps since the run's start.
        step: u64,
    },
    /// A stage begins.
    StageStarted {
        /// The stage's name.
        stage: String,
        /// The stage's position, from 0.
        index: usize,
        /// How many stages the run has.
        stages: usize,
        /// The stage's length in epochs.
        epochs: f64,
        /// The stage's length in optimizer steps; 0 for a stage that only measures.
        steps: u64,
    },
    /// The training went on; not necessarily emitted at every step.
    Step {
        /// Optimizer steps since the run's start, over all stages.
        step: u64,
        /// The stage's name.
        stage: String,
        /// Optimizer steps since the stage's start.
        stage_step: u64,
        /// The stage's length in optimizer steps.
        stage_steps: u64,
        /// Epochs since the stage's start, with a fraction.
        epoch: f64,
        /// The parts of the loss.
        loss: Losses,
        /// Top-1 accuracy in percent, of the training batches since the last event.
        top1: f64,
        /// Learning rate of the weights.
        learning_rate: f64,
        /// Learning rate of the quantizers' steps and ranges.
        quantizer_learning_rate: Option<f64>,
        /// Bits per value now.
        bits: Option<f64>,
        /// Bits per value that the budget allows now.
        budget_bits: Option<f64>,
        /// The budget's multiplier λ.
        multiplier: Option<f64>,
        /// Training images per second.
        images_per_second: f64,
        /// Share of the time since the last event, from 0 to 1, in which the training waited for data.
        waiting: f64,
    },
    /// The calibration is done: every site has its transform, its groups and its first widths.
    Calibrated {
        /// Training images that were measured.
        images: usize,
        /// The sites, in the order of the network.
        sites: Vec<SiteRow>,
    },
    /// The widths as they stand: after the calibration, and once an epoch of the stages that follow.
    Widths {
        /// Optimizer steps since the run's start.
        step: u64,
        /// The sites, in the order of the network.
        sites: Vec<SiteRow>,
        /// Bits per value in the `stored` convention.
        bits_stored: f64,
    },
    /// How often each integer code occurred in an evaluation on the validation split that counted them.
    Codes {
        /// Optimizer steps since the run's start.
        step: u64,
        /// The compressed sites, in the order of the network; codes of dropped groups are not counted.
        sites: Vec<SiteHistogram>,
    },
    /// A pass that takes no optimizer steps (calibration, evaluation) went on. Shown, but not kept.
    Progress {
        /// The stage's name.
        stage: String,
        /// Done so far, in the unit of `total`.
        done: u64,
        /// The whole pass.
        total: u64,
        /// What is being done, such as `evaluating`.
        what: String,
    },
    /// An evaluation on the validation split.
    Evaluated {
        /// Optimizer steps since the run's start.
        step: u64,
        /// The stage's name.
        stage: String,
        /// Top-1 accuracy in percent.
        top1: f64,
        /// Mean cross-entropy.
        loss: f64,
        /// Images that were evaluated.
        images: usize,
        /// Bits per value that the evaluated network stores.
        bits: Option<f64>,
    },
    /// Dropped groups came back in the search.
    Revived {
        /// Optimizer steps since the run's start.
        step: u64,
        /// How many.
        groups: usize,
    },
    /// Something that the user should know, but that stops nothing.
    Warning {
        /// The whole text, without a prefix.
        message: String,
    },
    /// A stage ended.
    StageEnded {
        /// The stage's name.
        stage: String,
        /// How long the stage took.
        seconds: f64,
    },
    /// The last event.
    Finished {
        /// What the run reached.
        summary: Box<Summary>,
    },
}

/// The parts of the training loss, each as it enters the sum (weights applied).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Losses {
    /// Cross-entropy against the labels.
    pub task: f64,
    /// Distillation from the float network, where the recipe asks for it.
    pub distillation: Option<f64>,
    /// Estimated code length, where the recipe gives it a weight.
    pub rate: Option<f64>,
    /// The budget's term, in stages that have a budget.
    pub budget: Option<f64>,
}

impl Losses {
    /// The loss that is minimized: the sum of the parts that are there.
    pub fn total(&self) -> f64 {
        [self.distillation, self.rate, self.budget].into_iter().flatten().fold(self.task, |sum, part| sum + part)
    }
}

/// One site: its tensor, its transform and its groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRow {
    /// The site's name, such as `layer1.0.relu`.
    pub name: String,
    /// Shape of the original activation tensor of one image: `[channels, height, width]`, or `[features]`.
    pub shape: Vec<i64>,
    /// Number of values of that tensor.
    pub values: u64,
    /// The transform's name, such as `none` or `pca`.
    pub transform: String,
    /// The groups, dropped ones included; empty if the site is left in floating point.
    pub groups: Vec<GroupRow>,
    /// Stored bits per value of the original tensor, fixed-length.
    #[serde(deserialize_with = "number_or_nan")]
    pub bits_per_value: f64,
}

impl SiteRow {
    /// Whether the recipe leaves the site out: it has no codec, and keeps 32 bits a value.
    pub fn is_left_out(&self) -> bool {
        self.groups.is_empty()
    }

    /// Stored bits of one image, summed over the groups: values / channels × Σ (group's channels × bits).
    ///
    /// The site's channels are the sum over all its groups, so dropped ones count as channels of 0 bits. A site without groups is
    /// stored as it is, in 32 bits a value.
    pub fn stored_bits(&self) -> f64 {
        let channels: usize = self.groups.iter().map(|group| group.channels).sum();
        if channels == 0 {
            return self.values as f64 * super::summary::FLOAT_BITS;
        }
        let bits: f64 = self.groups.iter().map(|group| group.channels as f64 * f64::from(group.bits)).sum();
        self.values as f64 / channels as f64 * bits
    }

    /// Values of one image whose group is dropped (0 bits).
    pub fn dropped_values(&self) -> f64 {
        let channels: usize = self.groups.iter().map(|group| group.channels).sum();
        let dropped: usize = self.groups.iter().filter(|group| group.bits == 0).map(|group| group.channels).sum();
        if channels == 0 {
            return 0.0;
        }
        self.values as f64 * dropped as f64 / channels as f64
    }
}

/// One group of coefficients and its quantizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Number of channels (coefficients) in the group.
    pub channels: usize,
    /// Bit-width; 0 if the group is dropped.
    pub bits: u32,
    /// The quantizer's step `d`, in the unit of the coefficients.
    #[serde(deserialize_with = "number_or_nan")]
    pub step: f64,
    /// The quantizer's range `qmax`, in the unit of the coefficients.
    #[serde(deserialize_with = "number_or_nan")]
    pub range: f64,
}

/// JSON has no NaN: it's written as `null`, and this reads it back, so that a diverged run's summary can still be opened.
pub(super) fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
pub(super) mod samples {
    //! Events and sites that the tests of this room share.

    use super::*;

    /// A group with a plausible quantizer.
    pub fn group(channels: usize, bits: u32) -> GroupRow {
        GroupRow { channels, bits, step: 0.031, range: 0.22 }
    }

    /// A site whose `bits_per_value` agrees with its groups.
    pub fn site(name: &str, shape: &[i64], transform: &str, groups: Vec<GroupRow>) -> SiteRow {
        let values = shape.iter().product::<i64>() as u64;
        let mut site = SiteRow {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values,
            transform: transform.to_owned(),
            groups,
            bits_per_value: 0.0,
        };
        site.bits_per_value = site.stored_bits() / values as f64;
        site
    }

    /// A step of the stage `search`.
    pub fn step(stage_step: u64, stage_steps: u64, task: f64) -> Event {
        Event::Step {
            step: 1000 + stage_step,
            stage: "search".to_owned(),
            stage_step,
            stage_steps,
            epoch: 0.5,
            loss: Losses { task, distillation: Some(0.25), rate: None, budget: None },
            top1: 87.214,
            learning_rate: 0.01,
            quantizer_learning_rate: Some(0.001),
            bits: Some(4.321),
            budget_bits: Some(4.5),
            multiplier: Some(1.5),
            images_per_second: 1812.4,
            waiting: 0.125,
        }
    }

    /// The start of the stage `search`, the second of four.
    pub fn stage_started(steps: u64) -> Event {
        Event::StageStarted { stage: "search".to_owned(), index: 1, stages: 4, epochs: 3.0, steps }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;

    #[test]
    fn an_event_is_a_flat_object_with_its_name() {
        let json = serde_json::to_value(step(3, 10, 0.5)).unwrap();
        assert_eq!(json["event"], "step");
        assert_eq!(json["stage_step"], 3);
        assert_eq!(json["loss"]["task"], 0.5);
        assert!(json["loss"]["budget"].is_null());
        let json = serde_json::to_value(stage_started(10)).unwrap();
        assert_eq!(json["event"], "stage_started");
    }

    #[test]
    fn the_total_loss_adds_the_parts_that_are_there() {
        let loss = Losses { task: 1.0, distillation: None, rate: None, budget: Some(0.5) };
        assert_eq!(loss.total(), 1.5);
    }

    #[test]
    fn bits_are_divided_by_the_original_channels() {
        let row = site("relu", &[64, 2, 2], "pca", vec![group(16, 4), group(16, 2), group(32, 0)]);
        assert_eq!(row.stored_bits(), 4.0 * (16.0 * 4.0 + 16.0 * 2.0));
        assert_eq!(row.bits_per_value, 1.5);
        assert_eq!(row.dropped_values(), 128.0);
    }

    #[test]
    fn a_site_without_groups_is_stored_in_floating_point() {
        let row = site("relu", &[8], "none", Vec::new());
        assert_eq!(row.stored_bits(), 8.0 * 32.0);
        assert_eq!(row.dropped_values(), 0.0);
    }
}
