//! Text from a causal language model, one token at a time.

use crate::Result;

/// What generation asks of a model: the scores of the next token of every row, step by step, over a memory of the tokens before.
pub trait NextToken {
    /// Scores per row.
    fn vocabulary(&self) -> usize;

    /// The most tokens that a row can have, prompt and generated together.
    fn capacity(&self) -> usize;

    /// Forgets everything and reads prompts, of any lengths over 0.
    ///
    /// # Shapes
    /// - output: `[prompts, vocabulary]`, the scores of each row's next token
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

    /// Row `i` becomes what row `rows[i]` was: beams that split, change places or end.
    ///
    /// # Errors
    /// A device that failed.
    fn keep(&mut self, rows: &[usize]) -> Result<()>;
}
