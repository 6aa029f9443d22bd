//! Benchmarks after training: a run's stored adapter answers on the base that trained it, in the base's own number type.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use vblora::{Factors, backend::VbLoraBackend, storage::peft};
use vblora_models::{
    TextTokenizer,
    decoder::{AdaptedConfig, CausalLm},
    resolve,
};

use super::{
    Answer, AnswerFile, Benchmark, Evaluation, Origin, Responder, asked, encoded,
    model::adapter_hash, named, question_counts,
};
use crate::{
    Error, Result,
    results::{RunResult, Stop},
    train::{Session, Turns, causal::TextSource, model_hash},
};

/// The benchmarks of a session's runs.
#[derive(Debug)]
pub struct Trained<'a, B: VbLoraBackend> {
    /// The session, which has a directory.
    pub session: &'a Session<TextSource>,
    /// The model that it trained adapters for.
    pub base: &'a CausalLm<B>,
    /// The model's device.
    pub device: &'a B::Device,
    /// The benchmarks, with their data and settings.
    pub evaluations: &'a BTreeMap<Benchmark, Evaluation>,
    /// Set when the work must end.
    pub interrupted: &'a AtomicBool,
}

/// The model of a run.
struct OfRun<B: VbLoraBackend> {
    /// A fully trained model; `None` for an adapter on the base.
    whole: Option<CausalLm<B>>,
    factors: Factors<B>,
    /// The hash of what was trained.
    hash: String,
}

impl<B: VbLoraBackend> Trained<'_, B> {
    /// Adds the scores of every benchmark to a run that has ended. The answers lie in the folder `answers`. Returns false after an
    /// interruption: the next call goes on with the answers that have ended.
    ///
    /// # Errors
    /// The session has no directory; its adapter or a file of questions or answers cannot be read; the device failed.
    pub fn evaluate(&self, run: &mut RunResult, answers: &Path) -> Result<bool> {
        let has_ended = run.stop != Stop::Interrupted && !run.stop.is_failure();
        if self.evaluations.is_empty() || !has_ended {
            return Ok(true);
        }
        let files = &self.session.files;
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(self.base.config())?;
        let model = self.model(&self.directory(run)?)?;
        let responder = Responder {
            model: model.whole.as_ref().unwrap_or(self.base),
            factors: model.factors,
            tokenizer: &tokenizer,
            device: self.device,
        };
        for (&benchmark, settings) in self.evaluations {
            let path = answers.join(format!("{benchmark}.jsonl"));
            let found = self.answers(&responder, benchmark, settings, &model.hash, &path)?;
            let Some(found) = found else {
                return Ok(false);
            };
            let scores = settings.score(benchmark, &found)?;
            run.scores.extend(named(benchmark.name(), &scores));
        }
        Ok(true)
    }

    /// The directory in which the session stored a run.
    fn directory(&self, run: &RunResult) -> Result<PathBuf> {
        let out = self.session.out.as_ref();
        let dir = out.map(|out| out.dir.join(run.file_name()));
        dir.ok_or_else(|| Error::Setting {
            setting: "out".into(),
            expected: "a directory, since answers come from the stored adapter".into(),
            found: "none".into(),
        })
    }

    fn model(&self, dir: &Path) -> Result<OfRun<B>> {
        let config = self.base.config().clone();
        if dir.join(peft::CONFIG).is_file() {
            let found = AdaptedConfig::open(dir, config)?;
            // Runs train no whole module of the base, and this base has none replaced.
            if !found.saved.is_empty() {
                return Err(Error::Setting {
                    setting: format!("modules_to_save of {}", dir.display()),
                    expected: "none, as training writes it".into(),
                    found: "tensors of the model".into(),
                });
            }
            return Ok(OfRun {
                whole: None,
                factors: found.adapter.factors(self.device),
                hash: adapter_hash(dir)?,
            });
        }
        let files = resolve(&dir.display().to_string(), None)?;
        let (whole, _) = CausalLm::<B>::load_with(config, &files, self.device)?;
        Ok(OfRun {
            whole: Some(whole),
            factors: Factors::none(),
            hash: model_hash(&files)?,
        })
    }

    /// The answers to a benchmark; `None` after an interruption.
    fn answers(
        &self,
        responder: &Responder<'_, B>,
        benchmark: Benchmark,
        settings: &Evaluation,
        hash: &str,
        path: &Path,
    ) -> Result<Option<Vec<Answer>>> {
        let files = &self.session.files;
        let (questions, all) = settings.questions(benchmark, files)?;
        let asking = settings.asking(benchmark, files, responder.tokenizer)?;
        let mut origin = Origin::from([
            ("trained".into(), hash.into()),
            (
                "base_dtype".into(),
                self.base.config().base_dtype.to_string(),
            ),
        ]);
        origin.extend(asked(benchmark, &asking)?);
        origin.extend(question_counts(questions.len(), all));
        // A prompt without room is found before a file is made.
        let asked: Vec<_> = questions.iter().collect();
        encoded(&asked, responder.tokenizer, self.base.config())?;
        let mut file = match AnswerFile::open(path, &questions, &origin, false) {
            // The run was made anew, so these answers are of an earlier adapter.
            Err(Error::OtherAnswers { .. }) => AnswerFile::open(path, &questions, &origin, true)?,
            opened => opened?,
        };
        let left: Vec<_> = questions.iter().filter(|q| !file.has(&q.id)).collect();
        let mut keep = |answers| {
            file.append(answers)?;
            let count = file.count();
            tracing::info!("{benchmark}: {count} of {} answered", questions.len());
            Ok(())
        };
        responder.answer(&left, &asking, Turns::ALL, &mut keep, self.interrupted)?;
        file.finish(&questions)
    }
}
