//! How a run went, read from its `metrics.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::ReportError;

/// Points over the optimizer steps of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// Bits per value.
    pub bits: Vec<(f64, f64)>,
    /// Bits per value that the budget allowed.
    pub budget: Vec<(f64, f64)>,
    /// Top-1 accuracy in percent on the validation split.
    pub top1: Vec<(f64, f64)>,
    /// Top-1 accuracy in percent of training batches.
    pub training_top1: Vec<(f64, f64)>,
    /// Stages that take steps: name, first and last step.
    pub stages: Vec<(String, f64, f64)>,
}

impl Timeline {
    /// Reads the file. Lines that are no events of this version are passed over: a kill may have cut off the last one. A
    /// step that was taken again after an interruption counts as it was the last time.
    ///
    /// # Errors
    /// [`ReportError::Read`].
    pub fn load(path: &Path) -> Result<Self, ReportError> {
        let text = fs::read(path).map_err(ReportError::read(path))?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut curves = [(); 4].map(|()| BTreeMap::<u64, f64>::new());
        let mut stages: Vec<(String, f64, f64)> = Vec::new();
        for event in text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()) {
            let Some(step) = event["step"].as_u64() else { continue };
            let mut put = |curve: usize, key: &str| {
                if let Some(value) = event[key].as_f64() {
                    curves[curve].insert(step, value);
                }
            };
            match event["event"].as_str() {
                Some("step") => {
                    put(0, "bits");
                    put(1, "budget_bits");
                    put(3, "top1");
                    if let (Some(name), Some(own)) = (event["stage"].as_str(), event["stage_step"].as_u64()) {
                        let start = step.saturating_sub(own) as f64;
                        match stages.last_mut().filter(|(last, _, _)| last == name) {
                            Some((_, _, end)) => *end = end.max(step as f64),
                            None => stages.push((name.to_owned(), start, step as f64)),
                        }
                    }
                }
                Some("evaluated") => {
                    put(0, "bits");
                    put(2, "top1");
                }
                _ => {}
            }
        }
        let [bits, budget, top1, training_top1] =
            curves.map(|curve| curve.into_iter().map(|(step, value)| (step as f64, value)).collect());
        Self { bits, budget, top1, training_top1, stages }
    }

    /// The last step; 0 if there is none.
    pub fn last_step(&self) -> f64 {
        let curves = [&self.bits, &self.budget, &self.top1, &self.training_top1];
        curves.into_iter().filter_map(|curve| curve.last()).fold(0.0, |last, point| last.max(point.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_curves_and_what_is_none_is_passed_over() {
        let timeline = Timeline::parse(concat!(
            "{\"event\":\"run_started\",\"name\":\"x\"}\n",
            "{\"event\":\"evaluated\",\"step\":0,\"top1\":88.0,\"bits\":null}\n",
            "{\"event\":\"step\",\"step\":10,\"stage\":\"search\",\"stage_step\":10,\"top1\":50.0,\"bits\":5.0,\"budget_bits\":6.0}\n",
            "{\"event\":\"step\",\"step\":10,\"stage\":\"search\",\"stage_step\":10,\"top1\":51.0,\"bits\":4.0,\"budget_bits\":6.0}\n",
            "no event\n",
            "{\"event\":\"step\",\"step\":25,\"stage\":\"finetune\",\"stage_step\":5,\"top1\":60.0,\"bits\":2.0}\n",
            "{\"event\":\"evaluated\",\"step\":30,\"top1\":87.0,\"bits\":2.0}\n",
            "{\"event\":\"evalua"
        ));
        assert_eq!(timeline.bits, [(10.0, 4.0), (25.0, 2.0), (30.0, 2.0)]);
        assert_eq!(timeline.budget, [(10.0, 6.0)]);
        assert_eq!(timeline.top1, [(0.0, 88.0), (30.0, 87.0)]);
        assert_eq!(timeline.training_top1, [(10.0, 51.0), (25.0, 60.0)]);
        assert_eq!(timeline.stages, [("search".to_owned(), 0.0, 10.0), ("finetune".to_owned(), 20.0, 25.0)]);
        assert_eq!(timeline.last_step(), 30.0);
        assert_eq!(Timeline::parse("").last_step(), 0.0);
    }
}
