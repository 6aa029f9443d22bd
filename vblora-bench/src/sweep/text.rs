//! Runs of causal models: their texts, and the benchmarks that they answer after training.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use serde::{Deserialize, Serialize};
use vblora::{backend::VbLoraBackend, storage::sha256_hex};
use vblora_models::{DecoderConfig, ModelFiles, TextTokenizer};

use super::{axis::EVALUATE, config::BUNDLED};
use crate::{
    Error, Result, demo,
    evaluate::{Benchmark, Evaluation, Question, Trained, encoded},
    results::{Results, Stop},
    tasks::{
        SplitName,
        causal::{Form, Texts, read_texts},
    },
    train::{Ended, Ranks, Session, causal::TextSource},
};

/// The format of the bundled data.
pub(super) const BUNDLED_FORMAT: &str = "e2e";

/// Without a file of held-out texts, one of so many prompts is held out.
const HELD_OUT: usize = 20;

/// The texts of a run, and the benchmarks after its training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRun {
    /// The format of the rows, by its name in `vblora train --format`.
    pub format: String,
    /// The file of held-out texts; absent to hold out a part of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<String>,
    /// The number of training texts, evenly spaced; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// The number of held-out texts, evenly spaced; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_rows: Option<usize>,
    /// The benchmarks, with their data and settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evaluate: BTreeMap<Benchmark, Evaluation>,
}

impl TextRun {
    /// The value of a sweep file's key, if the run has it.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        let number = |value: Option<usize>| value.map(|value| value.to_string());
        match key {
            "format" => Some(self.format.clone()),
            "held_out" => self.held_out.clone(),
            "rows" => number(self.rows),
            "held_out_rows" => number(self.held_out_rows),
            key => {
                let (benchmark, key) = key.strip_prefix(EVALUATE)?.split_once('.')?;
                let settings = self.evaluate.get(&benchmark.parse().ok()?)?;
                let settings = serde_json::to_value(settings).ok()?;
                settings.get(key).map(|value| match value {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
            }
        }
    }

    /// Every setting that the results depend on, apart from files, which count by their content.
    pub(super) fn keys(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        for key in ["format", "rows", "held_out_rows"] {
            keys.extend(self.value(key).map(|value| (key.to_owned(), value)));
        }
        for (benchmark, settings) in &self.evaluate {
            let settings = Evaluation {
                data: String::new(),
                batch: None,
                java_metrics: None,
                ..settings.clone()
            };
            let settings = serde_json::to_string(&settings).unwrap_or_default();
            keys.insert(format!("evaluate.{benchmark}"), settings);
        }
        keys
    }

    /// Reads the texts.
    pub(super) fn source(&self, data: &str) -> Result<TextSource> {
        let form: Form = self.format.parse()?;
        let refused = |setting: &str, expected: &str, found: &str| {
            Err(Error::Setting {
                setting: setting.into(),
                expected: expected.into(),
                found: found.into(),
            })
        };
        for (setting, rows) in [("rows", self.rows), ("held_out_rows", self.held_out_rows)] {
            if rows == Some(0) {
                return refused(setting, "at least 1", "0");
            }
        }
        let (train, held_out) = match (data, &self.held_out) {
            (BUNDLED, Some(file)) => {
                let expected = "none beside the bundled data, which has held-out texts";
                return refused("held_out", expected, file);
            }
            (BUNDLED, None) if self.format != BUNDLED_FORMAT => {
                let expected = "e2e, which is the form of the bundled data";
                return refused("format", expected, &self.format);
            }
            (BUNDLED, None) => (demo::texts(SplitName::Train)?, demo::texts(SplitName::Dev)?),
            (data, Some(held_out)) => (
                read_texts(Path::new(data), &form)?,
                read_texts(Path::new(held_out), &form)?,
            ),
            (data, None) => read_texts(Path::new(data), &form)?.hold_out(HELD_OUT)?,
        };
        Ok(TextSource {
            train: train.thinned(self.rows.unwrap_or(usize::MAX)),
            held_out: held_out.thinned(self.held_out_rows.unwrap_or(usize::MAX)),
        })
    }

    /// Checks the settings and the length of the prompts, and gives a hash of all questions with their references.
    pub(super) fn questions_hash(&self, files: &ModelFiles) -> Result<String> {
        let config = DecoderConfig::from_files(files)?;
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(&config)?;
        let mut lines = Vec::new();
        for (&benchmark, settings) in &self.evaluate {
            settings.check(benchmark)?;
            let (questions, _) = settings.questions(benchmark, files)?;
            encoded(&questions.iter().collect::<Vec<_>>(), &tokenizer, &config)?;
            lines.extend(questions.iter().map(|question| {
                let Question {
                    prompt, references, ..
                } = question;
                format!("{benchmark} {prompt:?} {references:?}\n")
            }));
        }
        Ok(sha256_hex(lines))
    }
}

/// SHA-256 of prompts and responses.
pub(super) fn texts_hash(texts: &Texts) -> String {
    let lines = texts.texts.iter();
    sha256_hex(lines.map(|text| format!("{:?} {:?}\n", text.prompt, text.response)))
}

/// A session with the benchmarks after it. Answers lie in a folder beside the run.
pub(super) struct Evaluated<'a> {
    pub(super) session: &'a Session<TextSource>,
    pub(super) text: &'a TextRun,
    pub(super) answers: &'a Path,
    pub(super) interrupted: &'a AtomicBool,
}

impl Evaluated<'_> {
    /// Trains, answers and scores. An interrupted run keeps the answers that have ended, and has no results yet.
    pub(super) fn run<B: VbLoraBackend>(
        &self,
        device: &B::Device,
        steps: Arc<AtomicU64>,
    ) -> Result<Results> {
        let ended = self
            .session
            .run_with::<B>(device, self.interrupted, steps, Ranks::alone())?;
        // The lock is kept so that no other process changes the adapter before it has answered.
        let Ended {
            mut results,
            base,
            lock: _lock,
        } = ended;
        let trained = Trained {
            session: self.session,
            base: &base,
            device,
            evaluations: &self.text.evaluate,
            interrupted: self.interrupted,
        };
        for run in &mut results.runs {
            if !trained.evaluate(run, self.answers)? {
                run.stop = Stop::Interrupted;
                return Ok(results);
            }
        }
        let results = Results::new(results.command, results.backend, results.runs);
        if let Some(out) = &self.session.out {
            results.write(out.dir.join("results.json"))?;
        }
        Ok(results)
    }
}
