//! Text from a causal language model, one token at a time.
//!
//! [`generate`] works on token ids, [`generate_text`] gives text as it grows; both take any model that is a [`NextToken`].

mod beam;
mod config;
mod logits;
mod rows;
mod stop;
mod text;

pub use config::{BeamSearch, Decoding, EarlyStopping, GenerationConfig, Sampling};
pub use config::{MAX_BEAMS, MAX_NEW_TOKENS};
pub use stop::Ended;
pub use text::{GeneratedText, TextStream, generate_text};

use std::ops::ControlFlow;

pub use crate::config::GenerationDefaults;

use crate::{Error, Result, TextTokenizer};
use stop::Stops;

/// The model as generation sees it: the next token's logits for every row, step by step, over a memory of earlier tokens.
pub trait NextToken {
    /// Logits per row.
    fn vocabulary(&self) -> usize;

    /// The most tokens that a row can have, prompt and generated together.
    fn capacity(&self) -> usize;

    /// Forgets everything and reads prompts, of any lengths over 0.
    ///
    /// # Shapes
    /// - output: `[prompts, vocabulary]`, the logits of each row's next token
    ///
    /// # Errors
    /// A prompt that is empty or longer than [`capacity`](Self::capacity); a device that failed.
    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>>;

    /// Appends one token to each row.
    ///
    /// # Shapes
    /// - tokens: one per row; output: `[rows, vocabulary]`
    ///
    /// # Errors
    /// A row is full; a device that failed.
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// Says that another step will probably follow the next [`start`](Self::start) or [`step`](Self::step), with each row's likeliest token,
    /// the first of equals. A model on a GPU can begin that step while the host looks at the logits.
    fn foresee(&mut self) {}

    /// Row `i` becomes what row `rows[i]` was: beams that split, change places or end.
    ///
    /// # Errors
    /// A device that failed.
    fn keep(&mut self, rows: &[usize]) -> Result<()>;

    /// Returns true if the rows that go on are broken off. It is asked between tokens.
    fn is_broken_off(&self) -> bool {
        false
    }
}

/// A new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Index of the prompt that this row continues.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// Why the row ends with it, if it does.
    pub ended: Option<Ended>,
}

/// The input of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens; a stop token is the last of them.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub ended: Ended,
}

type OnStep<'a> = dyn FnMut(Step) -> Result<ControlFlow<()>> + 'a;

/// Continues each prompt until all rows have ended.
///
/// A row gets the tokens that it would get alone. Rows that end leave the batch, and draws are keyed by the row's number. A prompt's
/// padding counts for nothing (in transformers it counts for `no_repeat_ngram_size`).
///
/// `on_step` sees every token as soon as it is chosen. Beam search shows the tokens of a row together, when its search has ended. A
/// `Break` ends the token's row.
///
/// # Errors
/// Settings are out of range, or have stop strings, which need [`generate_text`]. A prompt is empty ([`Error::EmptyText`]), too long
/// ([`Error::PromptTooLong`]), or has a token that the model does not know ([`Error::NoSuchToken`]). The model fails, or its logits are NaN
/// or infinity ([`Error::Logits`]).
pub fn generate(
    model: &mut impl NextToken,
    prompts: &[&[u32]],
    config: &GenerationConfig,
    mut on_step: impl FnMut(Step) -> ControlFlow<()>,
) -> Result<Vec<Generated>> {
    if let Some(string) = config.stop_strings.first() {
        return Err(vblora::Error::Setting {
            setting: "stop_strings",
            expected: "empty where there is no tokenizer".into(),
            found: format!("{string:?}"),
        }
        .into());
    }
    run(model, prompts, config, None, &mut |step| Ok(on_step(step)))
}

fn run(
    model: &mut impl NextToken,
    prompts: &[&[u32]],
    config: &GenerationConfig,
    tokenizer: Option<&TextTokenizer>,
    on_step: &mut OnStep<'_>,
) -> Result<Vec<Generated>> {
    config.check(model.vocabulary())?;
    config.check_room(prompts)?;
    check_prompts(model, prompts)?;
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let stops = Stops::new(config, tokenizer, model.capacity());
    match &config.decoding {
        Decoding::Greedy | Decoding::Sample(_) => rows::decode(model, prompts, &stops, on_step),
        Decoding::Beam(settings) => beam::search(model, prompts, settings, &stops, on_step),
    }
}

fn check_prompts(model: &impl NextToken, prompts: &[&[u32]]) -> Result<()> {
    let (vocab_size, capacity) = (model.vocabulary(), model.capacity());
    for (row, prompt) in prompts.iter().enumerate() {
        let tokens = prompt.len();
        if tokens == 0 {
            return Err(Error::EmptyText { row });
        }
        if tokens >= capacity {
            return Err(Error::PromptTooLong {
                row,
                tokens,
                capacity,
            });
        }
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
            let id = i64::from(id);
            return Err(Error::NoSuchToken { id, vocab_size });
        }
    }
    Ok(())
}
