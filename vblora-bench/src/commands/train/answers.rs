//! Training, and the models' answers before and after.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, ensure};
use vblora::{
    Factors,
    backend::{BackendJob, VbLoraBackend},
    storage::{peft, write_atomically},
};
use vblora_models::{
    TextTokenizer,
    decoder::{AdaptedConfig, CausalLm},
    generate::{BeamSearch, Decoding, GenerationConfig},
    stop_tokens,
};

use super::arguments::CausalArguments;
use crate::{
    program::say,
    report::summary_table,
    results::{Results, Stop},
    tasks::causal::Texts,
    train::{
        Ended, Ranks, Session,
        causal::{self, Sample, TextSource},
    },
};

/// The number of answers shown in full.
const SHOWN: usize = 3;

/// The settings for answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerSettings {
    /// The number of held-out prompts.
    prompts: usize,
    /// The maximum number of tokens of an answer.
    max_new_tokens: usize,
    /// Sequences that beam search keeps.
    beams: usize,
    /// The power of the length in beam search's scores.
    length_penalty: f64,
    /// The length of sequences that are not repeated, or 0.
    no_repeat_ngram_size: usize,
}

impl AnswerSettings {
    pub(super) fn new(arguments: &CausalArguments) -> Self {
        Self {
            prompts: arguments.generate.unwrap_or(20),
            max_new_tokens: arguments.max_new_tokens.unwrap_or(64),
            beams: arguments.beams.unwrap_or(1),
            length_penalty: arguments
                .length_penalty
                .unwrap_or(BeamSearch::default().length_penalty),
            no_repeat_ngram_size: arguments.no_repeat_ngram_size.unwrap_or(0),
        }
    }

    fn generation(self, stop_tokens: Vec<u32>) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            stop_tokens,
            decoding: match self.beams {
                0 | 1 => Decoding::Greedy,
                beams => Decoding::Beam(BeamSearch {
                    beams,
                    length_penalty: self.length_penalty,
                    ..BeamSearch::default()
                }),
            },
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            ..GenerationConfig::default()
        }
    }
}

/// A session, and the prompts to answer after it.
pub(super) struct Answered<'a> {
    pub(super) session: &'a Session<TextSource>,
    /// All held-out texts. Each prompt is asked once and has all its references.
    pub(super) held_out: &'a Texts,
    pub(super) out: &'a Path,
    pub(super) settings: AnswerSettings,
    pub(super) interrupted: &'a AtomicBool,
    pub(super) ranks: Ranks<'a>,
}

impl BackendJob for Answered<'_> {
    type Output = Result<Results>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        // The lock is kept so that no other process changes the adapters before they have answered.
        let ended =
            self.session
                .run_with::<B>(&device, self.interrupted, Arc::default(), self.ranks)?;
        if !self.ranks.leads() {
            return Ok(ended.results);
        }
        let Ended {
            results,
            base,
            lock: _lock,
        } = &ended;
        say(summary_table(results));
        // A signal may have come to another rank.
        let mut runs = results.runs.iter();
        let was_interrupted =
            self.is_interrupted() || runs.any(|run| run.stop == Stop::Interrupted);
        if self.settings.prompts > 0 && !was_interrupted {
            self.answers(results, base, &device)?;
        }
        Ok(ended.results)
    }
}

impl Answered<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Answers held-out prompts with the base and with every stored adapter. Shows some answers and writes all of them to a file.
    fn answers<B: VbLoraBackend>(
        &self,
        results: &Results,
        base: &CausalLm<B>,
        device: &B::Device,
    ) -> Result<()> {
        let Session { recipe, files, .. } = self.session;
        let config = base.config();
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(config)?;
        let settings = self.settings.generation(stop_tokens(files, &tokenizer)?);
        let encoding = causal::encoding(recipe, config, &tokenizer)?;
        let questions = self.held_out.questions();
        let mut questions = causal::answerable(questions, &encoding, settings.max_new_tokens)?;
        questions.truncate(self.settings.prompts);
        let answer = |factors: &Factors<B>| {
            causal::answer(base, factors, &encoding, &questions, &settings, device)
        };
        let mut all = vec![("base".to_owned(), answer(&Factors::none())?)];
        for run in &results.runs {
            let name = run.file_name();
            let dir = self.out.join(&name);
            // A fully trained model has no adapter.
            if dir.join(peft::CONFIG).is_file() {
                if self.is_interrupted() {
                    return Ok(());
                }
                let found = AdaptedConfig::open(&dir, config.clone())?;
                // Runs train no whole module of the base, and this base has none replaced.
                ensure!(
                    found.saved.is_empty(),
                    "{}: tensors of modules_to_save",
                    dir.display()
                );
                all.push((name, answer(&found.adapter.factors(device))?));
            }
        }
        show(&all);
        let json = serde_json::to_vec_pretty(&all)?;
        Ok(write_atomically(&self.out.join("answers.json"), &json)?)
    }
}

fn show(all: &[(String, Vec<Sample>)]) {
    let Some((_, first)) = all.first().filter(|(_, samples)| !samples.is_empty()) else {
        return;
    };
    say(format!("BLEU-4 of {} held-out prompts:", first.len()));
    for (name, samples) in all {
        say(format!("  {name:<16} {:.4}", causal::answers_bleu(samples)));
    }
    for (i, sample) in first.iter().take(SHOWN).enumerate() {
        say(format!("\n{}", sample.prompt));
        say(format!(
            "  {:<16} {}",
            "reference",
            sample.references.join(" / ")
        ));
        for (name, samples) in all {
            say(format!(
                "  {name:<16} {}",
                samples[i].answer.replace('\n', " ")
            ));
        }
    }
}
