//! Greedy decoding and sampling: every row for itself, in one batch.

use std::ops::ControlFlow;

use crate::{Error, Result};

use super::stop::{Ended, Stops};
use super::{Decoding, Generated, NextToken, OnStep, Step, logits};

/// A row that goes on.
struct Row {
    /// Its number in the batch that was asked for.
    number: usize,
    /// Tokens of its prompt.
    prompt: usize,
    /// Prompt and new tokens.
    tokens: Vec<u32>,
}

/// Generates until every row has ended; rows that end leave the model's batch.
pub(super) fn decode(
    model: &mut impl NextToken,
    prompts: &[&[u32]],
    stops: &Stops<'_>,
    on_step: &mut OnStep<'_>,
) -> Result<Vec<Generated>> {
    let mut rows: Vec<Row> = prompts.iter().enumerate().map(Row::new).collect();
    let mut results: Vec<Option<Generated>> = vec![None; prompts.len()];
    if another_follows(&rows, stops) {
        model.foresee();
    }
    let mut all_logits = model.start(prompts)?;
    loop {
        let mut staying = Vec::with_capacity(rows.len());
        let logits_of_rows = all_logits.chunks_exact_mut(model.vocabulary());
        for (at, (row, logits)) in rows.iter_mut().zip(logits_of_rows).enumerate() {
            match row.advance(logits, stops, on_step)? {
                None => staying.push(at),
                Some(ended) => results[row.number] = Some(row.take(ended)),
            }
        }
        if staying.is_empty() {
            return Ok(results.into_iter().flatten().collect());
        }
        if staying.len() < rows.len() {
            model.keep(&staying)?;
            rows.retain(|row| results[row.number].is_none());
        }
        if model.is_broken_off() {
            for row in &mut rows {
                results[row.number] = Some(row.take(Ended::BrokenOff));
            }
            return Ok(results.into_iter().flatten().collect());
        }
        let last: Vec<u32> = rows
            .iter()
            .filter_map(|row| row.tokens.last())
            .copied()
            .collect();
        if another_follows(&rows, stops) {
            model.foresee();
        }
        all_logits = model.step(&last)?;
    }
}

/// True if every row takes its likeliest token, and none reaches its length with the next one.
fn another_follows(rows: &[Row], stops: &Stops<'_>) -> bool {
    let goes_on = |row: &Row| row.tokens.len() - row.prompt + 1 < stops.longest(row.prompt);
    matches!(stops.config.decoding, Decoding::Greedy) && rows.iter().all(goes_on)
}

impl Row {
    fn new((number, prompt): (usize, &&[u32])) -> Self {
        Self {
            number,
            prompt: prompt.len(),
            tokens: prompt.to_vec(),
        }
    }

    /// Chooses and appends the next token; says why the row ends, if it does.
    fn advance(
        &mut self,
        logits: &mut [f32],
        stops: &Stops<'_>,
        on_step: &mut OnStep<'_>,
    ) -> Result<Option<Ended>> {
        let step = self.tokens.len() - self.prompt;
        check(logits, self.number, step)?;
        logits::penalise(logits, &self.tokens, stops.config.repetition_penalty);
        logits::ban(logits, &self.tokens, self.prompt, stops.config);
        let choice = match &stops.config.decoding {
            Decoding::Sample(sampling) => sampling.draw(logits, self.number, step),
            _ => logits::best(logits),
        };
        let Some(token) = choice else {
            return Ok(Some(Ended::NothingLeft));
        };
        self.tokens.push(token);
        let ended = stops.reason(self.prompt, &self.tokens[self.prompt..])?;
        let row = self.number;
        Ok(match on_step(Step { row, token, ended })? {
            ControlFlow::Continue(()) => ended,
            ControlFlow::Break(()) => ended.or(Some(Ended::BrokenOff)),
        })
    }

    fn take(&mut self, ended: Ended) -> Generated {
        Generated {
            tokens: self.tokens.split_off(self.prompt),
            ended,
        }
    }
}

/// Refuses logits that are no numbers. Minus infinity is one: a token that cannot come.
pub(super) fn check(logits: &[f32], row: usize, step: usize) -> Result<()> {
    let wrong = |score: &&f32| score.is_nan() || **score == f32::INFINITY;
    match logits.iter().find(wrong) {
        None => Ok(()),
        Some(&logit) => Err(Error::Logits { row, step, logit }),
    }
}
