//! The run in TensorBoard's table of runs ("HParams"): the recipe's values as parameters, the result's figures as metrics.

use std::collections::HashMap;
use std::time::SystemTime;

use protobuf::well_known_types::Value;
use protobuf::{Message, RepeatedField};
use serde_yaml::Value as Yaml;
use tensorboard_proto::api::{DataType, Experiment, HParamInfo, MetricInfo, MetricName, Status as SessionStatus};
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::Summary_Value;

use super::values::{metadata, plugin};
use crate::report::{Status, Summary};

/// A figure of a result: its tag, and its value where it is there.
type Figure = (&'static str, fn(&Summary) -> Option<f64>);

const FIGURES: [Figure; 10] = [
    ("result/top1", |summary| Some(summary.top1)),
    ("result/float_top1", |summary| Some(summary.float_top1)),
    ("result/bits_per_value", |summary| Some(summary.bits_per_value)),
    ("result/bits_per_value_stored", |summary| Some(summary.bits_per_value_stored)),
    ("result/bits_per_value_entropy", |summary| summary.bits_per_value_entropy),
    ("result/dropped_percent", |summary| Some(100.0 * summary.dropped_fraction)),
    ("result/mac_overhead_percent", |summary| Some(summary.mac_overhead_percent)),
    ("result/side_information_bytes", |summary| Some(summary.side_information_bytes as f64)),
    ("result/images_per_second", |summary| Some(summary.images_per_second)),
    ("result/seconds", |summary| Some(summary.seconds)),
];

/// The figures of a result that are there, by their tags.
pub(super) fn figures(summary: &Summary) -> impl Iterator<Item = (&'static str, f64)> {
    FIGURES.iter().filter_map(move |(tag, figure)| Some((*tag, figure(summary)?)))
}

/// The table's columns and this run's parameters.
pub(super) fn started(name: &str, recipe: &str) -> Vec<Summary_Value> {
    let parameters = parameters(recipe);
    let info = |(key, value): &(String, Value)| {
        let mut info = HParamInfo::new();
        info.set_name(key.clone());
        info.set_field_type(if value.has_number_value() {
            DataType::DATA_TYPE_FLOAT64
        } else if value.has_bool_value() {
            DataType::DATA_TYPE_BOOL
        } else {
            DataType::DATA_TYPE_STRING
        });
        info
    };
    let metric = |(tag, _): &Figure| {
        let mut name = MetricName::new();
        name.set_tag((*tag).to_owned());
        let mut info = MetricInfo::new();
        info.set_name(name);
        info.set_display_name(tag.trim_start_matches("result/").to_owned());
        info
    };
    let mut experiment = Experiment::new();
    experiment.set_time_created_secs(now());
    experiment.set_hparam_infos(RepeatedField::from(parameters.iter().map(info).collect::<Vec<_>>()));
    experiment.set_metric_infos(RepeatedField::from(FIGURES.iter().map(metric).collect::<Vec<_>>()));
    let mut start = SessionStartInfo::new();
    start.set_hparams(parameters.into_iter().collect::<HashMap<_, _>>());
    start.set_group_name(name.to_owned());
    start.set_start_time_secs(now());
    let (mut first, mut second) = (HParamsPluginData::new(), HParamsPluginData::new());
    first.set_experiment(experiment);
    second.set_session_start_info(start);
    vec![entry("_hparams_/experiment", &first), entry("_hparams_/session_start_info", &second)]
}

/// The end of the run.
pub(super) fn ended(status: Status) -> Summary_Value {
    let mut end = SessionEndInfo::new();
    end.set_status(match status {
        Status::Complete => SessionStatus::STATUS_SUCCESS,
        Status::Diverged | Status::BudgetNotMet => SessionStatus::STATUS_FAILURE,
    });
    end.set_end_time_secs(now());
    let mut data = HParamsPluginData::new();
    data.set_session_end_info(end);
    entry("_hparams_/session_end_info", &data)
}

fn entry(tag: &str, data: &HParamsPluginData) -> Summary_Value {
    // Plain fields always serialize.
    metadata(tag, plugin("hparams", data.write_to_bytes().unwrap_or_default()))
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The values of a resolved recipe by their key paths, such as `stages.search.target_bits`, as `--set` takes them.
fn parameters(recipe: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    if let Ok(root) = serde_yaml::from_str::<Yaml>(recipe) {
        walk(&root, "", &mut found);
    }
    found
}

fn walk(node: &Yaml, path: &str, found: &mut Vec<(String, Value)>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let mut value = Value::new();
    match node {
        Yaml::Mapping(entries) => {
            for (key, node) in entries {
                // A stage's kind is in its path.
                if let Some(key) = key.as_str().filter(|&key| key != "stage") {
                    walk(node, &below(key), found);
                }
            }
            return;
        }
        Yaml::Sequence(items) if items.iter().any(Yaml::is_mapping) => {
            let kind = |item: &Yaml| item.get("stage").and_then(Yaml::as_str).map(str::to_owned);
            for (index, item) in items.iter().enumerate() {
                let alone = items.iter().filter(|other| kind(other) == kind(item)).count() == 1;
                let name = kind(item).filter(|_| alone).unwrap_or_else(|| index.to_string());
                walk(item, &below(&name), found);
            }
            return;
        }
        Yaml::Sequence(items) => {
            let texts: Vec<&str> = items.iter().filter_map(Yaml::as_str).collect();
            value.set_string_value(texts.join(" "));
        }
        Yaml::Bool(truth) => value.set_bool_value(*truth),
        Yaml::Number(number) => value.set_number_value(number.as_f64().unwrap_or(f64::NAN)),
        Yaml::String(text) => value.set_string_value(text.clone()),
        Yaml::Null | Yaml::Tagged(_) => return,
    }
    found.push((path.to_owned(), value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipes_values_are_parameters_under_the_paths_that_set_takes() {
        let recipe = "seed: 3\nsites: {include: ['*', a], exclude: []}\nstages:\n- {stage: train, length: 1ep}\n- {stage: train, length: 2ep}\n- {stage: search, revival: true}\n";
        let found: Vec<(String, String)> =
            parameters(recipe).into_iter().map(|(key, value)| (key, format!("{value:?}"))).collect();
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            ["seed", "sites.include", "sites.exclude", "stages.0.length", "stages.1.length", "stages.search.revival"]
        );
        assert!(found[0].1.contains("3") && found[1].1.contains("* a") && found[5].1.contains("true"), "{found:?}");
    }
}
