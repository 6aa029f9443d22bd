//! The questions of MT-Bench: `question.jsonl` of FastChat.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::lines::{self, wrong};
use crate::{Error, Result};

/// Categories whose answers the judge compares with a reference (`NEED_REF_CATS` of FastChat).
const WITH_REFERENCE: [&str; 4] = ["math", "reasoning", "coding", "arena-hard-200"];

/// Temperatures by category (`temperature_config` of FastChat). Other categories have [`OTHER_TEMPERATURE`].
const TEMPERATURES: [(&str, f64); 9] = [
    ("writing", 0.7),
    ("roleplay", 0.7),
    ("extraction", 0.0),
    ("math", 0.0),
    ("coding", 0.0),
    ("reasoning", 0.0),
    ("stem", 0.1),
    ("humanities", 0.1),
    ("arena-hard-200", 0.0),
];

const OTHER_TEMPERATURE: f64 = 0.7;

/// A question with its follow-ups.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Question {
    /// Its number in the benchmark.
    pub question_id: i64,
    /// Its subject: `writing`, `math`, ...
    pub category: String,
    /// The user's messages, in order. MT-Bench has two.
    pub turns: Vec<String>,
}

impl Question {
    /// The temperature that answers are drawn with; 0 means the most likely token.
    pub fn temperature(&self) -> f64 {
        let known = TEMPERATURES.iter().find(|(name, _)| *name == self.category);
        known.map_or(OTHER_TEMPERATURE, |(_, temperature)| *temperature)
    }

    /// Returns true if the judge is given a reference answer.
    pub fn has_reference(&self) -> bool {
        WITH_REFERENCE.contains(&self.category.as_str())
    }
}

/// All questions, in the order of their file.
#[derive(Debug, Clone, PartialEq)]
pub struct Questions {
    /// The questions; never empty.
    pub all: Vec<Question>,
    places: BTreeMap<i64, usize>,
}

impl Questions {
    /// Reads a file of questions.
    ///
    /// # Errors
    /// The file cannot be read or has no question; a line does not parse, repeats a number, or has no turn.
    pub fn read(path: &Path) -> Result<Self> {
        let mut places = BTreeMap::new();
        let mut all: Vec<Question> = Vec::new();
        for line in lines::read::<Question>(path)? {
            let (id, turns) = (line.value.question_id, line.value.turns.len());
            if places.insert(id, all.len()).is_some() {
                let found = format!("question {id} twice");
                return Err(wrong(path, line.number, "each question once", found));
            }
            if turns == 0 {
                let found = format!("none in question {id}");
                return Err(wrong(path, line.number, "at least one turn", found));
            }
            all.push(line.value);
        }
        match all.is_empty() {
            true => Err(Error::EmptySplit {
                file: path.display().to_string(),
            }),
            false => Ok(Self { all, places }),
        }
    }

    /// The question with a number.
    pub fn get(&self, id: i64) -> Option<&Question> {
        self.places.get(&id).map(|&place| &self.all[place])
    }

    /// The categories in the order of their first questions.
    pub fn categories(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for question in &self.all {
            if !found.contains(&question.category) {
                found.push(question.category.clone());
            }
        }
        found
    }
}
