//! The tokens that transformers 5.23's `generate` gives for the same scores.
//!
//! Recorded by a `PreTrainedModel` whose `forward` looks [`mixed`](crate::toy::mixed) up in a table, one prompt a call, with
//! `do_sample=False, use_cache=False` and the settings below (`AtOnce` is `early_stopping=True`, `Likely` `False`, `Certain` `"never"`).
//! The same script with 6,178 prompts and random settings (vocabularies of 20 and 40 tokens, 1 to 5 beams, length penalties -1 to 2,
//! n-grams up to 4, up to 4 stop tokens) gave other tokens once, where two tokens scored equal.

use vblora_models::generate::{
    Decoding,
    EarlyStopping::{AtOnce, Certain, Likely},
    GenerationConfig,
};

use crate::toy::{Toy, beam, tokens, with};

struct Recorded {
    vocabulary: usize,
    prompt: &'static [u32],
    stop_tokens: &'static [u32],
    max_new_tokens: usize,
    no_repeat_ngram_size: usize,
}

impl Recorded {
    fn gives(&self, decoding: Decoding, expected: &[u32]) {
        let config = GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            stop_tokens: self.stop_tokens.to_vec(),
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            ..GenerationConfig::default()
        };
        let config = with(&config, decoding);
        // The other row must not matter.
        let prompts = [vec![5, 1, 0, 2, 9, 9], self.prompt.to_vec()];
        let new = tokens(&mut Toy::new(self.vocabulary), &prompts, &config);
        assert_eq!(new[1], expected, "{config:?}");
    }
}

#[test]
fn matches_transformers_greedy_with_and_without_stop_tokens_and_n_grams() {
    let of = |stop_tokens, no_repeat_ngram_size| Recorded {
        vocabulary: 40,
        prompt: &[11, 30],
        stop_tokens,
        max_new_tokens: 14,
        no_repeat_ngram_size,
    };
    let greedy = || Decoding::Greedy;
    of(&[], 0).gives(
        greedy(),
        &[19, 34, 31, 23, 11, 30, 19, 34, 31, 23, 11, 30, 19, 34],
    );
    of(&[11, 30], 0).gives(greedy(), &[19, 34, 31, 23, 11]);
    of(&[], 2).gives(
        greedy(),
        &[19, 34, 31, 23, 11, 2, 24, 26, 28, 10, 0, 8, 7, 22],
    );
    of(&[], 3).gives(
        greedy(),
        &[19, 34, 31, 23, 11, 30, 27, 18, 19, 11, 7, 22, 9, 3],
    );
}

#[test]
fn matches_transformers_beam_search_at_every_length_penalty() {
    let of = |max_new_tokens| Recorded {
        vocabulary: 40,
        prompt: &[8, 7, 20],
        stop_tokens: &[11, 30],
        max_new_tokens,
        no_repeat_ngram_size: 0,
    };
    for (penalty, mode, expected) in [
        (-1.0, AtOnce, &[17, 6, 27, 16, 20, 38, 11][..]),
        (0.0, Certain, &[17, 6, 27, 16, 20, 38, 11]),
        (1.0, AtOnce, &[17, 6, 27, 16, 20, 25, 0, 30]),
        (1.0, Likely, &[17, 6, 27, 16, 20, 38, 39, 34, 19, 5, 11]),
        (2.0, AtOnce, &[17, 6, 27, 16, 20, 38, 39, 34, 30]),
        (
            2.0,
            Certain,
            &[17, 6, 27, 16, 20, 38, 39, 34, 19, 27, 4, 19],
        ),
    ] {
        of(12).gives(beam(3, penalty, mode), expected);
    }
}

#[test]
fn matches_transformers_early_stopping() {
    let case = Recorded {
        vocabulary: 20,
        prompt: &[11, 19],
        stop_tokens: &[0, 5, 10],
        max_new_tokens: 10,
        no_repeat_ngram_size: 0,
    };
    case.gives(beam(2, 1.0, AtOnce), &[7, 16, 15, 0]);
    case.gives(beam(2, 1.0, Likely), &[7, 16, 15, 16, 3, 10]);
    case.gives(beam(2, 1.0, Certain), &[7, 16, 15, 16, 3, 4, 8, 14, 16, 4]);
}

#[test]
fn matches_transformers_beam_search_without_repeated_n_grams() {
    let of = |max_new_tokens, no_repeat_ngram_size| Recorded {
        vocabulary: 40,
        prompt: &[1, 2, 3, 4, 5],
        stop_tokens: &[11, 30],
        max_new_tokens,
        no_repeat_ngram_size,
    };
    let expected = [0, 8, 7, 22, 9, 37, 16, 37, 18, 12, 18, 36, 27, 29];
    of(14, 2).gives(beam(4, 0.9, Likely), &expected);
    // The E2E recipe of the LoRA paper.
    let expected = [0, 8, 7, 22, 9, 37, 16, 37, 18, 12, 38, 11];
    of(20, 4).gives(beam(10, 0.9, Likely), &expected);
}
