//! Searches for VB-LoRA settings that fit into a number of bytes.

use serde::Serialize;
use vblora::{Result, SitePlan, ValidVbLora, VbLoraConfig};

use crate::forms::Form;

/// Ranks to try.
const RANKS: &[usize] = &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// Values of k to try. With k = 1 the logits get no gradient.
const TOPK: &[usize] = &[2, 3, 4];

/// The shortest vectors that the paper has results for (Table 6, where 256 does best). Shorter ones are tried only if the user pins them,
/// or if the model allows no longer ones. They cut the factors into many more sub-vectors and would lead every list.
const SHORTEST_VECTOR: usize = 128;

/// The largest bank to try: two bytes can index it.
const LARGEST_BANK: usize = 1 << 16;

/// The number of settings to list.
const LISTED: usize = 10;

/// Settings that the user fixes.
pub(crate) struct Pinned {
    pub(crate) bank: Option<usize>,
    pub(crate) vector_length: Option<usize>,
    pub(crate) rank: Option<usize>,
    pub(crate) topk: Option<usize>,
}

/// Settings that fit.
#[derive(Serialize)]
pub(crate) struct Fit {
    pub(crate) rank: usize,
    pub(crate) bank: usize,
    pub(crate) vector_length: usize,
    pub(crate) topk: usize,
    pub(crate) sub_vectors: usize,
    /// The bank's entries and all logits.
    pub(crate) trained: usize,
    pub(crate) bytes: usize,
}

/// Returns the settings whose file in this form has at most `most` bytes, most trained parameters first. For each rank, vector length and k
/// it takes the largest bank that fits. For each rank and vector length it keeps the best k. More trained parameters (bank and logits) give
/// the update more freedom, but promise no better result.
///
/// # Errors
/// A pinned setting is invalid for every model or for this one.
pub(crate) fn fits(plan: &SitePlan, pinned: &Pinned, form: Form, most: usize) -> Result<Vec<Fit>> {
    let mut lengths = plan.valid_vector_lengths();
    let longest = lengths.last().copied().unwrap_or(1);
    lengths.retain(|&b| b >= SHORTEST_VECTOR.min(longest));
    let mut fits = Vec::new();
    for rank in or(pinned.rank, RANKS) {
        for vector_length in or(pinned.vector_length, &lengths) {
            let mut best: Option<Fit> = None;
            for topk in or(pinned.topk, TOPK) {
                let check = |bank: usize| {
                    let config = VbLoraConfig {
                        bank,
                        vector_length,
                        rank,
                        topk,
                        ..VbLoraConfig::default()
                    };
                    config.check(plan)
                };
                let found = match pinned.bank {
                    Some(bank) => Some(check(bank)?).filter(|found| form.bytes(found) <= most),
                    None => largest_bank(topk, check, form, most)?,
                };
                let found = found.map(|settings| Fit::new(&settings, form));
                best = best.into_iter().chain(found).max_by_key(Fit::order);
            }
            fits.extend(best);
        }
    }
    fits.sort_by_key(|fit| std::cmp::Reverse(fit.order()));
    fits.truncate(LISTED);
    Ok(fits)
}

fn or(pinned: Option<usize>, otherwise: &[usize]) -> Vec<usize> {
    pinned.map_or(otherwise.to_vec(), |setting| vec![setting])
}

/// The largest bank that fits and has more than `topk` vectors. Sizes grow with the bank.
fn largest_bank(
    topk: usize,
    check: impl Fn(usize) -> Result<ValidVbLora>,
    form: Form,
    most: usize,
) -> Result<Option<ValidVbLora>> {
    let (mut fits, mut too_large) = (topk, LARGEST_BANK + 1);
    // The smallest bank shows errors that every bank has. A bank with too many logits only counts as too large.
    check(fits)?;
    while too_large - fits > 1 {
        let bank = fits.midpoint(too_large);
        match check(bank).is_ok_and(|found| form.bytes(&found) <= most) {
            true => fits = bank,
            false => too_large = bank,
        }
    }
    match fits > topk {
        true => check(fits).map(Some),
        false => Ok(None),
    }
}

impl Fit {
    fn new(settings: &ValidVbLora, form: Form) -> Self {
        let config = settings.config();
        Self {
            rank: config.rank,
            bank: config.bank,
            vector_length: config.vector_length,
            topk: config.topk,
            sub_vectors: settings.sub_vectors(),
            trained: settings.count().trained,
            bytes: form.bytes(settings),
        }
    }

    /// Sorts by more trained parameters, then by fewer bytes.
    fn order(&self) -> (usize, std::cmp::Reverse<usize>) {
        (self.trained, std::cmp::Reverse(self.bytes))
    }
}
