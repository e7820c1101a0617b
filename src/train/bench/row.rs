//! The rows of a bench: what each one trains, in a recipe's terms.

use std::fmt;
use std::str::FromStr;

use super::BenchOptions;
use crate::recipe::{
    BatchNorm, CalibrateStage, Data, Length, Model, Recipe, SearchStage, SitePatterns, Stage, SyntheticData, Transform,
    nearest_word,
};

/// What a row trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// The network alone.
    Float,
    /// Quantizers at every site without a transform, at the start of a search.
    Quantizer,
    /// Transforms and quantizers at every site, at the start of a search: nothing is dropped.
    Joint,
    /// The end of a search: planned and dropped for its target, with the transforms that pay there.
    JointTarget,
}

/// A name that is no row's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no row `{asked}`{hint}; the rows are {}", Row::ALL.map(Row::name).join(", "))]
pub struct UnknownRow {
    asked: String,
    /// The row that may be meant, as a part of the sentence.
    hint: String,
}

/// Images that a row's bases and sensitivities are calibrated on: enough for bases of full rank, and soon done.
const IMAGES: usize = 64;
const SENSITIVITY_IMAGES: usize = 32;

/// Steps of a row's search: so many that its budget and its learning rates stand still meanwhile.
const LENGTH: Length = Length::Steps(1_000_000_000);

/// A row's recipe and its two stages.
pub(super) struct Plan {
    pub(super) recipe: Recipe,
    pub(super) calibrate: CalibrateStage,
    pub(super) search: SearchStage,
}

impl Row {
    /// All rows.
    pub const ALL: [Self; 4] = [Self::Float, Self::Quantizer, Self::Joint, Self::JointTarget];

    /// The row's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Quantizer => "quantizer",
            Self::Joint => "joint",
            Self::JointTarget => "joint-target",
        }
    }

    /// The recipe's defaults, with what the row and the options say. The float row trains by the same keys.
    pub(super) fn plan(self, options: &BenchOptions) -> Plan {
        let transform = match self {
            Self::Quantizer => Transform::None,
            Self::Float | Self::Joint | Self::JointTarget => options.transform,
        };
        let calibrate = CalibrateStage {
            images: IMAGES,
            sensitivity_images: SENSITIVITY_IMAGES,
            transform,
            placement: options.placement,
            basis: options.basis,
            max_mac_overhead: options.max_mac_overhead,
            ..CalibrateStage::default()
        };
        let mut search = SearchStage::new(LENGTH, options.target_bits);
        if self != Self::JointTarget {
            search.start_bits = Some(8.0);
        }
        if self == Self::Float || !options.distillation {
            search.distillation = 0.0;
        }
        search.save_activations = options.save_activations;
        if options.freeze_batch_norm {
            search.batch_norm = BatchNorm::Frozen;
        }
        let data = SyntheticData {
            images: (IMAGES + SENSITIVITY_IMAGES).max(options.batch),
            batch_size: options.batch,
            eval_batch_size: options.batch,
        };
        let recipe = Recipe {
            version: 1,
            name: None,
            seed: 0,
            device: options.device,
            model: Model { path: options.model.clone(), input: options.input },
            data: Data::Synthetic(data),
            sites: SitePatterns::default(),
            stages: vec![Stage::Calibrate(calibrate.clone()), Stage::Search(search.clone())],
        };
        Plan { recipe, calibrate, search }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Row {
    type Err = UnknownRow;

    fn from_str(text: &str) -> Result<Self, UnknownRow> {
        Self::ALL.into_iter().find(|row| row.name() == text).ok_or_else(|| {
            let near = nearest_word(text, Self::ALL.map(Self::name));
            let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
            UnknownRow { asked: text.to_owned(), hint }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{BasisLearning, Device, Mode, Placement, SaveActivations};

    fn options() -> BenchOptions {
        BenchOptions {
            model: "m.pt".into(),
            input: "3x8x8".parse().unwrap(),
            batch: 128,
            steps: 1,
            device: Device::Cpu,
            threads: None,
            rows: Row::ALL.to_vec(),
            transform: Transform::Pca,
            basis: BasisLearning::Apart,
            max_mac_overhead: 25.0,
            target_bits: 2.5,
            distillation: false,
            save_activations: SaveActivations::Full,
            placement: Placement::Before,
            freeze_batch_norm: false,
        }
    }

    #[test]
    fn names_are_read_back_and_near_ones_are_told() {
        for row in Row::ALL {
            assert_eq!(row.to_string().parse(), Ok(row));
        }
        let error = "jiont".parse::<Row>().unwrap_err().to_string();
        assert!(error.contains("`jiont` (did you mean `joint`?)") && error.contains("joint-target"), "{error}");
        assert!(!"codec".parse::<Row>().unwrap_err().to_string().contains("did you mean"));
    }

    #[test]
    fn rows_are_recipes_that_load_and_differ_in_what_they_are_for() {
        let options = options();
        for row in Row::ALL {
            let recipe = row.plan(&options).recipe;
            // Valid in the language, too: paths become absolute, all else stays.
            let again = Recipe::parse(&recipe.resolved_yaml(), "/bench.yaml", &[]).unwrap().recipe;
            assert_eq!((again.stages, again.data), (recipe.stages, recipe.data), "{row}");
        }
        let mode = |row: Row| row.plan(&options).recipe.mode();
        assert_eq!((mode(Row::Quantizer), mode(Row::Joint)), (Mode::MpGrouped, Mode::Joint));
        let start = |row: Row| row.plan(&options).search.first_bits();
        assert_eq!((start(Row::Joint), start(Row::JointTarget)), (8.0, 2.5));
        let weight = |row: Row| row.plan(&BenchOptions { distillation: true, ..options.clone() }).search.distillation;
        assert_eq!((weight(Row::Float), weight(Row::Joint), start(Row::Quantizer)), (0.0, 0.5, 8.0));
        let (basis, placement) = (BasisLearning::Fixed, Placement::Auto);
        let other = BenchOptions { basis, placement, freeze_batch_norm: true, ..options.clone() };
        let Plan { calibrate, search, .. } = Row::Joint.plan(&other);
        assert_eq!((calibrate.basis, calibrate.placement, search.batch_norm), (basis, placement, BatchNorm::Frozen));
    }
}
