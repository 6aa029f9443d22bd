//! Bounds for the fields of every architecture.

use super::{MAX_WEIGHT_VALUES, wrong};
use crate::Result;

/// A size from 1 to `limit`.
pub(super) fn size(file: &str, field: &str, size: usize, limit: usize) -> Result<()> {
    if size == 0 || size > limit {
        let problem = format!("expected 1 to {limit}, found {size}");
        return Err(wrong(file, field, problem));
    }
    Ok(())
}

/// A size that is a dimension of a weight, beside the model's width.
pub(super) fn weight(file: &str, field: &str, size: usize, hidden_size: usize) -> Result<()> {
    let values = size.saturating_mul(hidden_size);
    if values > MAX_WEIGHT_VALUES {
        let problem = format!(
            "{size} with hidden_size {hidden_size} makes a weight of {values} values, over the limit of {MAX_WEIGHT_VALUES}"
        );
        return Err(wrong(file, field, problem));
    }
    Ok(())
}

/// A probability in [0, 1).
pub(super) fn probability(file: &str, field: &str, p: f64) -> Result<()> {
    if !(0.0..1.0).contains(&p) {
        let problem = format!("expected a probability in [0, 1), found {p}");
        return Err(wrong(file, field, problem));
    }
    Ok(())
}

/// A token id below the size of the vocabulary.
pub(super) fn token(file: &str, field: &str, id: u32, vocab_size: usize) -> Result<()> {
    if id as usize >= vocab_size {
        let problem = format!("{id} is outside the vocabulary of {vocab_size}");
        return Err(wrong(file, field, problem));
    }
    Ok(())
}
