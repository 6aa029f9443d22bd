//! The settings with which a trained head is used again: `classifier.json` beside the adapter.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vblora::storage::{MAX_CONFIG_BYTES, read_input, strict_json, write_atomically};
use vblora_models::{BaseDtype, Nf4Settings};

use super::{classification::problem_type, run_dir::RunDir};
use crate::{
    Error, Result,
    limits::{MAX_BATCH, MAX_LENGTH as MAX_TOKENS, MAX_TEXT_BYTES},
    recipes::{Recipe, held_as},
    tasks::{Columns, Target, Task, Written, counted},
};

/// The file.
pub const FILE: &str = "classifier.json";

/// transformers' configuration of the whole model beside it.
const MODEL_CONFIG: &str = "config.json";

/// The maximum length of a head whose training left no settings (PEFT's own adapters).
const MAX_LENGTH: usize = 128;

/// The lowest maximum length: a pair's special tokens, as in recipes.
const SHORTEST: usize = 4;

/// Rows per training batch of such a head.
const BATCH: usize = 16;

/// The settings of a trained head that change its predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSettings {
    /// Columns, labels in the order of the head's outputs, and metrics.
    pub task: Task,
    /// Texts longer than this many tokens are cut.
    pub max_length: usize,
    /// Rows per training batch. Evaluations take twice as many.
    pub batch: usize,
    /// The form of the base's linear maps.
    pub base_dtype: BaseDtype,
    /// The settings of a base in 4 bits.
    #[serde(default, skip_serializing_if = "crate::recipes::is_default")]
    pub nf4: Nf4Settings,
}

impl HeadSettings {
    /// The settings of a recipe.
    pub fn new(recipe: &Recipe) -> Self {
        Self {
            task: recipe.task.clone(),
            max_length: recipe.max_length,
            batch: recipe.batch,
            base_dtype: recipe.base_dtype,
            nf4: recipe.nf4,
        }
    }

    /// The form in which the base was held in training, given the form of its files.
    ///
    /// # Errors
    /// As [`Recipe::held_as`].
    pub fn held_as(&self, files: BaseDtype) -> Result<BaseDtype> {
        held_as(self.base_dtype, self.nf4, files)
    }

    /// The settings of the head in a directory with this many outputs: from `classifier.json`, or from the recipe of the run that the
    /// directory is of. A directory of PEFT's own has neither. Its classes are then named by their ids, and one output is a number.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(dir: &Path, outputs: usize) -> Result<Self> {
        let file = dir.join(FILE);
        if file.is_file() {
            let bytes = read_input(&file, MAX_TEXT_BYTES).map_err(|e| Error::read(&file, e))?;
            let read = |e| Error::json(&file, e);
            check_numbers(&strict_json::from_slice(&bytes).map_err(read)?, &file)?;
            let settings: Self = strict_json::from_slice(&bytes).map_err(read)?;
            // A head of another size than the settings say is another mistake.
            if settings.task.outputs() == outputs {
                settings.check_config(dir, &file)?;
            }
            return Ok(settings);
        }
        match dir.parent().filter(|run| RunDir::holds_session(run)) {
            Some(run) => Ok(Self::new(&RunDir::recipe(run)?)),
            None => {
                tracing::warn!(
                    "{}: {FILE} is missing, so classes are named by their ids, and texts are cut to {MAX_LENGTH} tokens",
                    dir.display()
                );
                Ok(Self::unknown(outputs))
            }
        }
    }

    /// Refuses labels that are others in transformers' `config.json` beside the settings, if it has labels. Names such as `LABEL_0` are
    /// transformers' own and stand for any.
    fn check_config(&self, dir: &Path, file: &Path) -> Result<()> {
        let place = dir.join(MODEL_CONFIG);
        if !place.is_file() {
            return Ok(());
        }
        let bytes = read_input(&place, MAX_CONFIG_BYTES).map_err(|e| Error::read(&place, e))?;
        let config: Value = strict_json::from_slice(&bytes).map_err(|e| Error::json(&place, e))?;
        let (classes, outputs) = (self.task.classes(), self.task.outputs());
        let differs = |key: &str, expected: String, found: String| {
            Err(Error::Setting {
                setting: format!("{}: {key}", place.display()),
                expected: format!("{expected}, as in {}", file.display()),
                found,
            })
        };
        if let Some(labels) = config["id2label"].as_object() {
            if labels.len() != outputs {
                let [expected, found] =
                    [outputs, labels.len()].map(|count| counted(count, "label", "labels"));
                return differs("id2label", expected, found);
            }
            for (id, class) in classes.iter().enumerate() {
                let found = labels.get(&id.to_string()).and_then(Value::as_str);
                if found != Some(class) && found != Some(&*format!("LABEL_{id}")) {
                    let found = found.map_or("none".into(), |name| format!("{name:?}"));
                    return differs("id2label", format!("{id}: {class:?}"), found);
                }
            }
        }
        let expected = self.task.target().map(problem_type);
        match (expected, config["problem_type"].as_str()) {
            (Some(expected), Some(found)) if expected != found => {
                differs("problem_type", expected.into(), found.into())
            }
            _ => Ok(()),
        }
    }

    /// Writes the settings beside the adapter.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_atomically(&dir.join(FILE), &self.to_json())?)
    }

    /// The content of the file.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("settings are JSON");
        text.push(b'\n');
        text
    }

    /// The rows of a batch without training.
    pub fn evaluation_batch(&self) -> usize {
        2 * self.batch
    }

    fn unknown(outputs: usize) -> Self {
        let columns = Columns {
            first: "text".to_owned(),
            second: None,
            label: "label".to_owned(),
        };
        let target = match outputs {
            0 | 1 => Target::Number {
                lowest: f32::MIN,
                highest: f32::MAX,
            },
            classes => Target::Classes {
                names: (0..classes).map(|class| class.to_string()).collect(),
                written: Written::Id,
            },
        };
        Self {
            task: Task::own("text", columns, target),
            max_length: MAX_LENGTH,
            batch: BATCH,
            base_dtype: BaseDtype::F32,
            nf4: Nf4Settings::default(),
        }
    }
}

/// Refuses numbers that no training has.
fn check_numbers(settings: &Value, file: &Path) -> Result<()> {
    for (key, range) in [
        ("max_length", SHORTEST..=MAX_TOKENS),
        ("batch", 1..=MAX_BATCH),
    ] {
        let Some(value) = settings.get(key) else {
            continue;
        };
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        if !number.is_some_and(|number| range.contains(&number)) {
            return Err(Error::Setting {
                setting: format!("{}: {key}", file.display()),
                expected: format!("a whole number from {} to {}", range.start(), range.end()),
                found: value.to_string(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::recipes::Size;

    #[test]
    fn the_form_of_the_base_goes_round_with_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        recipe.base_dtype = BaseDtype::Nf4(Nf4Settings::default());
        recipe.nf4.double_quant = false;
        let written = HeadSettings::new(&recipe);
        written.write(dir.path()).unwrap();
        let found = HeadSettings::read(dir.path(), 2).unwrap();
        assert_eq!(found, written);
        let held = found.held_as(BaseDtype::F32).unwrap();
        assert_eq!(held, BaseDtype::Nf4(recipe.nf4));
    }

    #[test]
    fn labels_are_those_of_the_configuration_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        HeadSettings::new(&recipe).write(dir.path()).unwrap();
        let read = |config: Value| {
            std::fs::write(dir.path().join(MODEL_CONFIG), config.to_string()).unwrap();
            HeadSettings::read(dir.path(), 2).map_err(|error| error.to_string())
        };
        let kind = "single_label_classification";
        for config in [
            json!({}),
            json!({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "problem_type": null}),
            json!({"id2label": {"0": "unacceptable", "1": "acceptable"}, "problem_type": kind}),
        ] {
            read(config).unwrap();
        }
        let place = |name: &str| dir.path().join(name).display().to_string();
        for (config, key, expected, found) in [
            (
                json!({"id2label": {"0": "acceptable", "1": "unacceptable"}}),
                "id2label",
                "0: \"unacceptable\"",
                "\"acceptable\"",
            ),
            (
                json!({"id2label": {"0": "unacceptable", "2": "acceptable"}}),
                "id2label",
                "1: \"acceptable\"",
                "none",
            ),
            (
                json!({"id2label": {"0": "x"}}),
                "id2label",
                "2 labels",
                "1 label",
            ),
            (
                json!({"problem_type": "regression"}),
                "problem_type",
                kind,
                "regression",
            ),
        ] {
            let [config_file, file] = [MODEL_CONFIG, FILE].map(place);
            let message = format!(
                "setting {config_file}: {key}: expected {expected}, as in {file}, found {found}"
            );
            assert_eq!(read(config).unwrap_err(), message);
        }
    }
}
