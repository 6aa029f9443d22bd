//! Training, and what the models answer before and after.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, ensure};
use vblora::{
    Factors,
    backend::{BackendJob, VbLoraBackend},
    storage::write_atomically,
};
use vblora_bench::{
    program::say,
    report::summary_table,
    results::Results,
    tasks::causal::Texts,
    train::{
        Session,
        causal::{self, Sample, TextSource},
    },
};
use vblora_models::{
    DecoderConfig, TextTokenizer,
    decoder::{AdaptedConfig, CausalLm},
    generate::{BeamSearch, Decoding, GenerationConfig},
    stop_tokens,
};

use crate::arguments::Arguments;

/// Answers that are shown in full.
const SHOWN: usize = 3;

/// A session, and the prompts to answer once it has ended.
pub(crate) struct Work<'a> {
    pub(crate) session: &'a Session<TextSource>,
    pub(crate) arguments: &'a Arguments,
    /// All of them: a prompt is asked once and has all its references.
    pub(crate) held_out: &'a Texts,
    pub(crate) out: &'a Path,
    pub(crate) interrupted: &'a AtomicBool,
}

impl BackendJob for Work<'_> {
    type Output = Result<Results>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        // Nobody else may change the adapters before they have answered.
        let (results, _lock) = self.session.run_locked::<B>(&device, self.interrupted)?;
        say(summary_table(&results));
        if self.arguments.generate > 0 && !self.interrupted.load(Ordering::Relaxed) {
            self.answers::<B>(&results, &device)?;
        }
        Ok(results)
    }
}

impl Work<'_> {
    /// Answers held-out prompts with the base and with every adapter that was stored, shows some and writes all down.
    fn answers<B: VbLoraBackend>(&self, results: &Results, device: &B::Device) -> Result<()> {
        let Session { recipe, files, .. } = self.session;
        let config = DecoderConfig::from_files(files)?;
        let tokenizer = TextTokenizer::from_files(files)?.for_decoder(&config)?;
        let settings = self.settings(stop_tokens(files, &tokenizer)?);
        let encoding = causal::encoding(recipe, &config, &tokenizer)?;
        let questions = self.held_out.by_prompt();
        let mut questions = causal::answerable(questions, &encoding, settings.max_new_tokens)?;
        questions.truncate(self.arguments.generate);
        let (model, _) = CausalLm::<B>::load(files, device)?;
        let answer = |factors: &Factors<B>| {
            causal::answer(&model, factors, &encoding, &questions, &settings, device)
        };
        let mut all = vec![("base".to_owned(), answer(&Factors::none())?)];
        for run in &results.runs {
            let name = format!("{}-seed{}", run.method, run.seed);
            let dir = self.out.join(&name);
            // A model that was trained itself is no adapter.
            if dir.join("adapter_config.json").is_file() {
                if self.interrupted.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let found = AdaptedConfig::open(&dir, model.config().clone())?;
                // Runs train no module of the base in full, and the base at hand has none in its place.
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

    fn settings(&self, stop_tokens: Vec<u32>) -> GenerationConfig {
        let beams = self.arguments.beams;
        GenerationConfig {
            max_new_tokens: self.arguments.max_new_tokens,
            stop_tokens,
            decoding: match beams {
                0 | 1 => Decoding::Greedy,
                beams => Decoding::Beam(BeamSearch {
                    beams,
                    ..BeamSearch::default()
                }),
            },
            ..GenerationConfig::default()
        }
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
