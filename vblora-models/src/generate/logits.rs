//! From logits to a token.

use std::cmp::Ordering;

use vblora::rng::Key;

use super::{GenerationConfig, Sampling};

/// A token and its score.
type Candidate = (u32, f64);

/// The factor of a token's log-probability: the penalty if `tokens` has it, else 1.
pub(super) fn penalty(tokens: &[u32], penalty: f64) -> impl Fn(u32) -> f64 + use<> {
    let mut seen = match penalty {
        1.0 => Vec::new(),
        _ => tokens.to_vec(),
    };
    seen.sort_unstable();
    move |token| match seen.binary_search(&token) {
        Ok(_) => penalty,
        Err(_) => 1.0,
    }
}

/// Makes the tokens that `tokens` has less likely, each once, however often it is there.
pub(super) fn penalise(logits: &mut [f32], tokens: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = tokens.to_vec();
    seen.sort_unstable();
    seen.dedup();
    let penalty = penalty as f32;
    for token in seen {
        if let Some(score) = logits.get_mut(token as usize) {
            *score = match *score < 0.0 {
                true => *score * penalty,
                false => *score / penalty,
            };
        }
    }
}

/// Takes away what may not come after `tokens`, of which the first `prompt` are given.
pub(super) fn ban(logits: &mut [f32], tokens: &[u32], prompt: usize, config: &GenerationConfig) {
    ban_repeats(logits, tokens, config.no_repeat_ngram_size);
    ban_words(logits, tokens, config);
    if tokens.len() < config.min_total_tokens || tokens.len() - prompt < config.min_new_tokens {
        take_away(logits, &config.stop_tokens);
    }
    if let Some(forced) = forced(tokens, prompt, config) {
        logits.fill(f32::NEG_INFINITY);
        for &token in forced {
            if let Some(score) = logits.get_mut(token as usize) {
                *score = 0.0;
            }
        }
    }
    take_away(logits, &config.suppress_tokens);
    if tokens.len() == prompt {
        take_away(logits, &config.begin_suppress_tokens);
    }
}

/// The tokens of which the next one must be; their log-probability counts as 0, as in transformers.
pub(super) fn forced<'a>(
    tokens: &[u32],
    prompt: usize,
    config: &'a GenerationConfig,
) -> Option<&'a [u32]> {
    let most = prompt.saturating_add(config.max_new_tokens);
    let most = most.min(config.max_total_tokens.unwrap_or(usize::MAX));
    if tokens.len() + 1 == most && !config.forced_last.is_empty() {
        return Some(&config.forced_last);
    }
    let first = config.forced_first.as_slice();
    (tokens.len() == 1 && !first.is_empty()).then_some(first)
}

/// Takes away the last tokens of sequences that may not come and have come up to there, but for a stop token alone.
fn ban_words(logits: &mut [f32], tokens: &[u32], config: &GenerationConfig) {
    for word in &config.bad_words {
        let Some((&last, before)) = word.split_last() else {
            continue;
        };
        let is_stop = before.is_empty() && config.stop_tokens.contains(&last);
        if !is_stop && (before.is_empty() || word.len() <= tokens.len()) && tokens.ends_with(before)
        {
            take_away(logits, &[last]);
        }
    }
}

fn take_away(logits: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        if let Some(score) = logits.get_mut(token as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Takes away (sets to minus infinity) the tokens that would complete a sequence of `size` tokens that `tokens` already has.
fn ban_repeats(logits: &mut [f32], tokens: &[u32], size: usize) {
    if size == 0 || tokens.len() < size {
        return;
    }
    let begun = &tokens[tokens.len() + 1 - size..];
    for window in tokens.windows(size) {
        if let Some((&last, before)) = window.split_last()
            && before == begun
            && let Some(score) = logits.get_mut(last as usize)
        {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The token with the highest score, the first of equals; none if all were taken away.
pub(super) fn best(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &score) in (0..).zip(logits) {
        if score > best.map_or(f32::NEG_INFINITY, |(_, highest)| highest) {
            best = Some((token, score));
        }
    }
    best.map(|(token, _)| token)
}

/// Logarithms of the softmax of `logits`, summed in f64.
pub(super) fn log_softmax(logits: &[f32]) -> impl Fn(f32) -> f64 + use<> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let highest = f64::from(highest);
    let sum: f64 = logits
        .iter()
        .map(|&score| (f64::from(score) - highest).exp())
        .sum();
    let log_sum = highest + sum.ln();
    move |score| f64::from(score) - log_sum
}

impl Sampling {
    /// A draw that depends on the logits and on (seed, row, step) alone; none if all tokens were taken away.
    pub(super) fn draw(&self, logits: &[f32], row: usize, step: usize) -> Option<u32> {
        let key = Key::new(self.seed)
            .name("generate")
            .index(self.first_row.wrapping_add(row as u64))
            .index(step as u64);
        draw(&self.warped(logits), key.unit(0))
    }

    /// The tokens that can be drawn with their probabilities, by token: temperature, top k, top p, in transformers' order.
    pub(super) fn warped(&self, logits: &[f32]) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = (0..)
            .zip(logits)
            .filter(|(_, score)| **score > f32::NEG_INFINITY)
            .map(|(token, &score)| (token, f64::from(score) / self.temperature))
            .collect();
        keep_top_k(&mut candidates, self.top_k);
        softmax(&mut candidates);
        if self.top_p < 1.0 {
            keep_top_p(&mut candidates, self.top_p);
        }
        candidates
    }
}

/// Keeps what logits at least as high as the k-th best: more than k where logits are equal.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= candidates.len() {
        return;
    }
    let mut logits: Vec<f64> = candidates.iter().map(|(_, score)| *score).collect();
    let (_, &mut lowest, _) = logits.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    candidates.retain(|(_, score)| *score >= lowest);
}

/// Keeps the likeliest candidates up to the one with which their probabilities reach p, and makes them probabilities again.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f64) {
    candidates.sort_by(descending);
    let mut before = 0.0;
    let mut kept = 0;
    for (_, probability) in candidates.iter() {
        if kept > 0 && before >= p {
            break;
        }
        before += probability;
        kept += 1;
    }
    candidates.truncate(kept);
    candidates.sort_by_key(|(token, _)| *token);
    candidates
        .iter_mut()
        .for_each(|(_, probability)| *probability /= before);
}

/// By falling score, then by rising token.
fn descending(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn softmax(candidates: &mut [Candidate]) {
    let highest = candidates
        .iter()
        .map(|(_, score)| *score)
        .fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for (_, score) in candidates.iter_mut() {
        *score = (*score - highest).exp();
        sum += *score;
    }
    candidates.iter_mut().for_each(|(_, score)| *score /= sum);
}

/// The candidate within whose part of the unit interval `at` lies.
fn draw(candidates: &[Candidate], at: f64) -> Option<u32> {
    let mut sum = 0.0;
    for &(token, probability) in candidates {
        sum += probability;
        if at < sum {
            return Some(token);
        }
    }
    // Rounding can leave the sum below 1, and `at` beyond it.
    candidates.last().map(|(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 12] = [
        3.232666, 0.826782, -2.928345, 2.234619, -2.443359, -3.835327, -0.591064, 3.944946,
        1.762207, -0.699463, -0.437744, -1.651612,
    ];

    /// Temperature, k, p, and the tokens left with their probabilities.
    type Case = (f64, usize, f64, &'static [Candidate]);

    /// Token and probability from `TemperatureLogitsWarper`, `TopKLogitsWarper` and `TopPLogitsWarper` of transformers 5.23, in this order.
    #[test]
    fn matches_transformers_temperature_top_k_and_top_p() {
        let cases: [Case; 5] = [
            (
                1.5,
                5,
                1.0,
                &[
                    (0, 0.270404),
                    (1, 0.05438),
                    (3, 0.139011),
                    (7, 0.43475),
                    (8, 0.101455),
                ],
            ),
            (1.0, 0, 0.8, &[(0, 0.293493), (3, 0.108181), (7, 0.598325)]),
            (0.7, 5, 0.9, &[(0, 0.265506), (7, 0.734494)]),
            (2.0, 0, 0.3, &[(7, 1.0)]),
            (1.0, 1, 1.0, &[(7, 1.0)]),
        ];
        for (temperature, top_k, top_p, expected) in cases {
            let sampling = Sampling {
                temperature,
                top_k,
                top_p,
                ..Sampling::default()
            };
            let found = sampling.warped(&LOGITS);
            let close = |(a, b): (&Candidate, &Candidate)| a.0 == b.0 && (a.1 - b.1).abs() < 2e-6;
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(close), "{found:?}");
        }
    }

    #[test]
    fn top_k_keeps_what_equals_the_kth_best_and_leaves_what_was_taken_away() {
        let sampling = Sampling {
            top_k: 2,
            ..Sampling::default()
        };
        let tokens = |logits: &[f32]| -> Vec<u32> {
            sampling
                .warped(logits)
                .iter()
                .map(|(token, _)| *token)
                .collect()
        };
        assert_eq!(tokens(&[1.0, 0.5, 2.0, 1.0]), [0, 2, 3]);
        assert_eq!(tokens(&[1.0, f32::NEG_INFINITY]), [0]);
        assert!(tokens(&[f32::NEG_INFINITY]).is_empty());
    }

    #[test]
    fn a_draw_lies_in_its_tokens_part_of_the_unit_interval() {
        let candidates = [(3, 0.25), (5, 0.5), (9, 0.25)];
        let drawn = [0.0, 0.24, 0.25, 0.74, 0.75, 1.0].map(|at| draw(&candidates, at));
        assert_eq!(drawn, [3, 3, 5, 5, 9, 9].map(Some));
        assert_eq!(draw(&[], 0.5), None);
    }

    #[test]
    fn what_would_repeat_is_taken_away() {
        let banned = |tokens: &[u32], size| {
            let mut logits = [0.0; 4];
            ban_repeats(&mut logits, tokens, size);
            logits.map(|score| score == f32::NEG_INFINITY)
        };
        assert_eq!(banned(&[3, 3], 2), [false, false, false, true]);
        assert_eq!(banned(&[1, 2, 1, 0, 1], 2), [true, false, true, false]);
        assert_eq!(banned(&[1, 2, 3, 1, 2], 3), [false, false, false, true]);
        assert_eq!(banned(&[1, 3], 1), [false, true, false, true]);
        assert_eq!(banned(&[1, 1, 1], 0), [false; 4]);
        assert_eq!(banned(&[1, 1], 4), [false; 4]);
        // A token that the model does not score.
        assert_eq!(banned(&[1, 9, 1], 2), [false; 4]);
    }

    /// As transformers 5.x does it: `NoBadWordsLogitsProcessor`, `MinLengthLogitsProcessor`, `MinNewTokensLengthLogitsProcessor`,
    /// `ForcedBOSTokenLogitsProcessor`, `ForcedEOSTokenLogitsProcessor`.
    #[test]
    fn bad_words_early_ends_and_forced_tokens_are_as_asked() {
        let left = |tokens: &[u32], prompt: usize, change: fn(&mut GenerationConfig)| {
            let mut config = GenerationConfig {
                stop_tokens: vec![0],
                ..GenerationConfig::default()
            };
            change(&mut config);
            let mut scores = [1.0; 4];
            ban(&mut scores, tokens, prompt, &config);
            let left = (0..4).filter(|&i| scores[i] > f32::NEG_INFINITY);
            left.collect::<Vec<_>>()
        };
        let words: fn(&mut GenerationConfig) =
            |c| c.bad_words = vec![vec![3], vec![0], vec![1, 2], vec![9], vec![]];
        assert_eq!(left(&[2, 1], 1, words), [0, 1]);
        assert_eq!(left(&[1, 3], 1, words), [0, 1, 2]);
        // A sequence longer than what is there is left alone.
        assert_eq!(left(&[1], 1, words), [0, 1, 2]);
        assert_eq!(left(&[1, 2], 1, |c| c.min_total_tokens = 3), [1, 2, 3]);
        assert_eq!(
            left(&[1, 2, 3], 1, |c| c.min_total_tokens = 3),
            [0, 1, 2, 3]
        );
        assert_eq!(left(&[1, 2], 2, |c| c.min_new_tokens = 1), [1, 2, 3]);
        assert_eq!(left(&[1, 2, 3], 2, |c| c.min_new_tokens = 1), [0, 1, 2, 3]);
        assert_eq!(left(&[1], 1, |c| c.forced_first = Some(2)), [2]);
        assert_eq!(left(&[1, 2], 2, |c| c.forced_first = Some(2)), [0, 1, 2, 3]);
        let last: fn(&mut GenerationConfig) =
            |c| (c.forced_last, c.max_new_tokens) = (vec![0, 3], 2);
        assert_eq!(left(&[1, 2], 1, last), [0, 3]);
        assert_eq!(left(&[1], 1, last), [0, 1, 2, 3]);
    }

    #[test]
    fn the_first_of_equal_scores_is_the_best() {
        assert_eq!(best(&[0.0, 2.0, 2.0]), Some(1));
        assert_eq!(best(&[f32::NEG_INFINITY, -5.0]), Some(1));
        assert_eq!(best(&[f32::NEG_INFINITY; 2]), None);
    }

    #[test]
    fn log_softmax_holds_for_logits_of_any_size() {
        let of = log_softmax(&[1000.0, 1000.0, f32::NEG_INFINITY]);
        assert!((of(1000.0) + std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!(of(f32::NEG_INFINITY), f64::NEG_INFINITY);
    }
}
