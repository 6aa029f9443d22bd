//! A model without weights: its scores are a function of the last two tokens.

use std::ops::ControlFlow;

use vblora_models::generate::{
    BeamSearch, Decoding, EarlyStopping, Generated, GenerationConfig, NextToken, Sampling, generate,
};
use vblora_models::{Error, Result};

/// The score of the third token after the first two.
pub(crate) type Score = fn(u32, u32, u32) -> f32;

/// Its rows, and what was asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Toy {
    pub(crate) vocabulary: usize,
    pub(crate) capacity: usize,
    /// Every row's tokens, as the calls left them.
    pub(crate) rows: Vec<Vec<u32>>,
    /// Rows of the batch, call by call.
    pub(crate) batches: Vec<usize>,
    /// Its rows are broken off after so many steps.
    pub(crate) most: usize,
    pub(crate) score: Score,
}

/// Spreads over [-4, 4) in steps that f32 holds exactly, so that other programs can have the very same scores.
pub(crate) fn mixed(before: u32, last: u32, token: u32) -> f32 {
    let mut x = before
        .wrapping_mul(7919)
        .wrapping_add(last.wrapping_mul(104_729))
        .wrapping_add(token.wrapping_mul(1_299_709))
        .wrapping_add(12_345);
    x ^= x >> 15;
    x = x.wrapping_mul(2_246_822_519);
    x ^= x >> 13;
    (x % 65_536) as f32 / 8192.0 - 4.0
}

impl Toy {
    pub(crate) fn new(vocabulary: usize) -> Self {
        Self::with_scores(vocabulary, mixed)
    }

    pub(crate) fn with_scores(vocabulary: usize, score: Score) -> Self {
        Self {
            vocabulary,
            capacity: 1000,
            rows: Vec::new(),
            batches: Vec::new(),
            most: usize::MAX,
            score,
        }
    }

    fn logits(&mut self) -> Vec<f32> {
        self.batches.push(self.rows.len());
        let (vocabulary, score) = (self.vocabulary as u32, self.score);
        let of_row = |row: &Vec<u32>| {
            let last = row[row.len() - 1];
            let before = row.len().checked_sub(2).map_or(0, |at| row[at]);
            (0..vocabulary).map(move |token| score(before, last, token))
        };
        self.rows.iter().flat_map(of_row).collect()
    }
}

impl NextToken for Toy {
    fn is_broken_off(&self) -> bool {
        self.batches.len() >= self.most
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>> {
        self.rows = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        Ok(self.logits())
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        assert_eq!(tokens.len(), self.rows.len());
        for (row, &token) in self.rows.iter_mut().zip(tokens) {
            row.push(token);
            assert!(row.len() < self.capacity, "a full row has no next token");
        }
        Ok(self.logits())
    }

    fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.rows = rows.iter().map(|&row| self.rows[row].clone()).collect();
        Ok(())
    }
}

/// Settings with another way of choosing.
pub(crate) fn with(config: &GenerationConfig, decoding: Decoding) -> GenerationConfig {
    GenerationConfig {
        decoding,
        ..config.clone()
    }
}

pub(crate) fn sample(sampling: Sampling) -> Decoding {
    Decoding::Sample(sampling)
}

pub(crate) fn beam(beams: usize, length_penalty: f64, early_stopping: EarlyStopping) -> Decoding {
    Decoding::Beam(BeamSearch {
        beams,
        length_penalty,
        early_stopping,
    })
}

pub(crate) fn slices(prompts: &[Vec<u32>]) -> Vec<&[u32]> {
    prompts.iter().map(Vec::as_slice).collect()
}

/// Generation to the end.
pub(crate) fn run(
    model: &mut Toy,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
) -> Result<Vec<Generated>, Error> {
    generate(model, &slices(prompts), config, |_| {
        ControlFlow::Continue(())
    })
}

/// The new tokens of every row.
pub(crate) fn tokens(
    model: &mut Toy,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
) -> Vec<Vec<u32>> {
    let rows = run(model, prompts, config).unwrap();
    rows.into_iter().map(|row| row.tokens).collect()
}
