//! A model's answers, next to the expected ones.

use std::ops::ControlFlow;

use serde::Serialize;
use vblora::{Factors, backend::VbLoraBackend};
use vblora_models::{
    TextTokenizer,
    decoder::{CachedLm, CausalLm},
    generate::{GenerationConfig, generate_text},
};

use super::encode::Encoding;
use crate::{Result, metrics::bleu, tasks::causal::Question};

/// The number of prompts that are answered in one batch.
const BATCH: usize = 10;

/// A prompt, its reference responses, and the model's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// Its reference responses.
    pub references: Vec<String>,
    /// The model's answer, without blanks at its ends.
    pub answer: String,
}

/// The questions whose prompts leave room for an answer of `room` tokens.
///
/// # Errors
/// The tokenizer refuses a text.
pub fn answerable<'a>(
    questions: Vec<Question<'a>>,
    encoding: &Encoding<'_>,
    room: usize,
) -> Result<Vec<Question<'a>>> {
    let mut kept = Vec::new();
    for question in questions {
        let length = encoding.question(&question)?.len();
        if length > 0 && length + room <= encoding.max_length {
            kept.push(question);
        }
    }
    Ok(kept)
}

/// Generates an answer to each question with these settings.
///
/// # Errors
/// A prompt is empty or leaves no room; a device failed.
pub fn answer<B: VbLoraBackend>(
    model: &CausalLm<B>,
    factors: &Factors<B>,
    encoding: &Encoding<'_>,
    questions: &[Question<'_>],
    settings: &GenerationConfig,
    device: &B::Device,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::with_capacity(questions.len());
    for questions in questions.chunks(BATCH) {
        let prompts = questions.iter().map(|question| encoding.question(question));
        let prompts: Vec<Vec<u32>> = prompts.collect::<Result<_>>()?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let capacity = longest + settings.max_new_tokens;
        let mut decoding = CachedLm::new(model, factors.clone(), capacity, device);
        let tokenizer: &TextTokenizer = encoding.tokenizer;
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let go_on = |_: usize, _: &str| ControlFlow::Continue(());
        let texts = generate_text(&mut decoding, tokenizer, &prompts, settings, go_on)?;
        let sample = |(question, text): (&Question<'_>, String)| Sample {
            prompt: question.prompt.to_owned(),
            references: question
                .references
                .iter()
                .map(|r| r.trim().to_owned())
                .collect(),
            answer: text.trim().to_owned(),
        };
        let texts = texts.into_iter().map(|generated| generated.text);
        samples.extend(questions.iter().zip(texts).map(sample));
    }
    Ok(samples)
}

/// Corpus BLEU-4 of the answers.
pub fn answers_bleu(samples: &[Sample]) -> f64 {
    bleu(
        samples
            .iter()
            .map(|s| (s.answer.as_str(), s.references.as_slice())),
    )
}
