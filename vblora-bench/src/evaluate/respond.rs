//! Answers from a resident model: batches by length, on any backend.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use vblora::{Factors, backend::VbLoraBackend};
use vblora_models::{
    DecoderConfig, TextTokenizer,
    decoder::{CachedLm, CausalLm},
    generate::{GeneratedText, GenerationConfig, generate_text},
};

use super::answer::{Answer, Question, StopReason};
use crate::{Error, Result, train::Turns};

/// A model in memory, in its own number type, with an adapter or without one.
#[derive(Debug)]
pub struct Responder<'a, B: VbLoraBackend> {
    /// The model.
    pub model: &'a CausalLm<B>,
    /// The adapter's factors; [`Factors::none`] for the base alone.
    pub factors: Factors<B>,
    /// The model's tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// The model's device.
    pub device: &'a B::Device,
}

/// The settings for answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    /// The choice of tokens, stop texts and maximum length. Stop texts are found wherever tokens part them.
    pub generation: GenerationConfig,
    /// The maximum number of prompts in a batch.
    pub batch: usize,
}

/// Takes a batch: the indices of its prompts, and their texts.
pub type Keep<'a> = dyn FnMut(&[usize], Vec<GeneratedText>) -> Result<()> + 'a;

/// Takes the answers of a batch.
pub type KeepAnswers<'a> = dyn FnMut(Vec<Answer>) -> Result<()> + Send + 'a;

impl<B: VbLoraBackend> Responder<'_, B> {
    /// Answers the questions of this process's batches. `keep` gets the answers of each batch when it ends. After `interrupted` is set, the
    /// answers that have ended are kept and the others are missing.
    ///
    /// # Errors
    /// A prompt is empty or leaves no room for an answer; the error names the question. The device failed; `keep` fails.
    pub fn answer(
        &self,
        questions: &[&Question],
        asking: &Asking,
        turns: Turns,
        keep: &mut KeepAnswers<'_>,
        interrupted: &AtomicBool,
    ) -> Result<()> {
        let prompts = encoded(questions, self.tokenizer, self.model.config())?;
        let mut keep = |rows: &[usize], texts: Vec<GeneratedText>| {
            let answers = rows.iter().zip(texts).filter_map(|(&row, text)| {
                let question = questions[row];
                Some(Answer {
                    id: question.id.clone(),
                    prompt: question.prompt.clone(),
                    references: question.references.clone(),
                    answer: text.text,
                    tokens: text.tokens.len(),
                    stop: StopReason::of(text.ended)?,
                })
            });
            keep(answers.collect())
        };
        self.respond(&prompts, asking, turns, &mut keep, interrupted)
    }

    /// Continues encoded prompts in batches of similar length, the longest first, those of this process's turns. `keep` gets the indices of a batch's prompts with their
    /// texts. After `interrupted` is set, the rows of the current batch are broken off and no further batch is started.
    ///
    /// # Errors
    /// A prompt is empty or fills the model's positions; the device failed; `keep` fails.
    pub fn respond(
        &self,
        prompts: &[Vec<u32>],
        asking: &Asking,
        turns: Turns,
        keep: &mut Keep<'_>,
        interrupted: &AtomicBool,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(prompts[row].len()));
        let batches = order.chunks(asking.batch.max(1)).enumerate();
        for (_, rows) in batches.filter(|&(number, _)| turns.has(number)) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(());
            }
            let batch: Vec<&[u32]> = rows.iter().map(|&row| prompts[row].as_slice()).collect();
            let go_on = |_: usize, _: &str| ControlFlow::Continue(());
            let texts = self.generate(&batch, &asking.generation, interrupted, go_on)?;
            keep(rows, texts)?;
        }
        Ok(())
    }

    /// Continues the prompts of one batch. `go_on` hears each new piece of a row's text, and may end the row. After `interrupted` is set, all
    /// rows are broken off before their next token.
    pub(super) fn generate(
        &self,
        prompts: &[&[u32]],
        settings: &GenerationConfig,
        interrupted: &AtomicBool,
        go_on: impl FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<Vec<GeneratedText>> {
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let capacity = longest.saturating_add(settings.max_new_tokens);
        let factors = self.factors.clone();
        let mut model =
            CachedLm::new(self.model, factors, capacity, self.device).interrupted_by(interrupted);
        let texts = generate_text(&mut model, self.tokenizer, prompts, settings, go_on)?;
        Ok(texts)
    }

    /// Returns true if a prompt has a token and leaves room for one more.
    pub(super) fn has_room(&self, prompt: &[u32]) -> bool {
        has_room(prompt, self.model.config())
    }
}

fn has_room(prompt: &[u32], config: &DecoderConfig) -> bool {
    !prompt.is_empty() && prompt.len() < config.max_positions
}

/// The prompts of questions as tokens.
///
/// # Errors
/// A prompt is empty or leaves no room for an answer; the error names the question.
pub(crate) fn encoded(
    questions: &[&Question],
    tokenizer: &TextTokenizer,
    config: &DecoderConfig,
) -> Result<Vec<Vec<u32>>> {
    let prompts: Vec<&str> = questions.iter().map(|q| q.prompt.as_str()).collect();
    let prompts = tokenizer.encode_prompts(&prompts)?;
    match prompts.iter().position(|prompt| !has_room(prompt, config)) {
        None => Ok(prompts),
        Some(row) => Err(Error::Setting {
            setting: format!("the prompt of question {}", questions[row].id),
            expected: format!("1 to {} tokens", config.max_positions - 1),
            found: prompts[row].len().to_string(),
        }),
    }
}
