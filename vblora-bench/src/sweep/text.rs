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
use vblora::{Factors, backend::VbLoraBackend, storage::sha256_hex};
use vblora_models::{
    ModelFiles, TextTokenizer,
    decoder::{AdaptedConfig, CausalLm},
    resolve,
};

use super::config::BUNDLED;
use crate::{
    Error, Result, demo,
    evaluate::{
        Answer, AnswerFile, Benchmark, Evaluation, Origin, Question, Responder, adapter_hash,
        asked, named,
    },
    results::{Results, RunResult, Stop},
    tasks::{
        SplitName,
        causal::{Form, Texts, read_texts},
    },
    train::{Ended, Session, causal::TextSource},
};

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
                let (benchmark, key) = key.strip_prefix("evaluate.")?.split_once('.')?;
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
        let (train, held_out) = match (data, &self.held_out) {
            (BUNDLED, None) => (demo::texts(SplitName::Train)?, demo::texts(SplitName::Dev)?),
            (BUNDLED, Some(_)) => {
                return Err(Error::Setting {
                    setting: "held_out".into(),
                    expected: "none beside the bundled data, which has held-out texts".into(),
                    found: self.held_out.clone().unwrap_or_default(),
                });
            }
            (data, Some(held_out)) => (
                read_texts(Path::new(data), &form)?,
                read_texts(Path::new(held_out), &form)?,
            ),
            (data, None) => read_texts(Path::new(data), &form)?.hold_out(HELD_OUT)?,
        };
        let thinned = |texts: Texts, rows: Option<usize>| match rows {
            Some(rows) => texts.thinned(rows),
            None => texts,
        };
        Ok(TextSource {
            train: thinned(train, self.rows),
            held_out: thinned(held_out, self.held_out_rows),
        })
    }

    /// Checks the settings, and gives a hash of all questions with their references.
    pub(super) fn questions_hash(&self, files: &ModelFiles) -> Result<String> {
        let mut lines = Vec::new();
        for (&benchmark, settings) in &self.evaluate {
            settings.check(benchmark)?;
            let (questions, _) = settings.questions(benchmark, files)?;
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
        let ended = self.session.run_all::<B>(device, self.interrupted, steps)?;
        // The lock is kept so that no other process changes the adapter before it has answered.
        let Ended {
            mut results,
            base,
            lock: _lock,
        } = ended;
        for run in &mut results.runs {
            let has_ended = run.stop != Stop::Interrupted && !run.stop.is_failure();
            if has_ended && !self.evaluate(run, &base, device)? {
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

    /// Adds the scores of every benchmark. Returns false after an interruption.
    fn evaluate<B: VbLoraBackend>(
        &self,
        run: &mut RunResult,
        base: &CausalLm<B>,
        device: &B::Device,
    ) -> Result<bool> {
        let Some(out) = self
            .session
            .out
            .as_ref()
            .filter(|_| !self.text.evaluate.is_empty())
        else {
            return Ok(true);
        };
        let files = &self.session.files;
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(base.config())?;
        let dir = out.dir.join(format!("{}-seed{}", run.method, run.seed));
        let has_adapter = dir.join("adapter_config.json").is_file();
        // A fully trained model has no adapter; it is a model of its own.
        let whole = match has_adapter {
            true => None,
            false => {
                let config = base.config().clone();
                let files = resolve(&dir.display().to_string(), None)?;
                Some(CausalLm::<B>::load_with(config, &files, device)?.0)
            }
        };
        let factors = match has_adapter {
            true => {
                let found = AdaptedConfig::open(&dir, base.config().clone())?;
                found.adapter.factors(device)
            }
            false => Factors::none(),
        };
        let responder = Responder {
            model: whole.as_ref().unwrap_or(base),
            factors,
            tokenizer: &tokenizer,
            device,
        };
        let from = match has_adapter {
            true => adapter_hash(&dir)?,
            false => crate::train::model_hash(&resolve(&dir.display().to_string(), None)?)?,
        };
        for (&benchmark, settings) in &self.text.evaluate {
            match self.answers(&responder, benchmark, settings, &from)? {
                Some(answers) => {
                    let scores = benchmark.score(&answers)?;
                    run.scores.extend(named(benchmark.name(), &scores));
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The answers to a benchmark; `None` after an interruption.
    fn answers<B: VbLoraBackend>(
        &self,
        responder: &Responder<'_, B>,
        benchmark: Benchmark,
        settings: &Evaluation,
        from: &str,
    ) -> Result<Option<Vec<Answer>>> {
        let files = &self.session.files;
        let (questions, _) = settings.questions(benchmark, files)?;
        let asking = settings.asking(benchmark, files, responder.tokenizer)?;
        let mut origin = Origin::from([
            ("trained".into(), from.into()),
            (
                "base_dtype".into(),
                self.session.recipe.base_dtype.to_string(),
            ),
        ]);
        origin.extend(asked(benchmark, &asking)?);
        let path = self.answers.join(format!("{benchmark}.jsonl"));
        let mut file = match AnswerFile::open(&path, &questions, &origin, false) {
            // The run was made anew, so these answers are of an earlier adapter.
            Err(Error::OtherAnswers { .. }) => AnswerFile::open(&path, &questions, &origin, true)?,
            opened => opened?,
        };
        let mut hear = |count: usize| {
            tracing::info!("{benchmark}: {count} of {} answered", questions.len());
        };
        responder.answer(&questions, &asking, &mut file, &mut hear, self.interrupted)?;
        file.finish(&questions)
    }
}
