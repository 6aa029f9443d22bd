//! Beam search, as transformers 5.23 does it (`_beam_search` of `generation/utils.py`).

use crate::Result;

use super::rows::check;
use super::stop::{Ended, Stops};
use super::{BeamSearch, EarlyStopping, Generated, NextToken, OnStep, Step, logits};

/// A sequence that goes on.
struct Beam {
    /// Prompt and new tokens.
    tokens: Vec<u32>,
    /// Log-probability of its new tokens.
    score: f64,
}

/// A sequence that has ended.
struct Hypothesis {
    new: Vec<u32>,
    /// Log-probability over its length to the power of the length penalty.
    score: f64,
    ended: Ended,
}

/// A beam, a token after it, and the log-probability of both.
struct Candidate {
    parent: usize,
    token: u32,
    score: f64,
}

/// The search of one row.
struct Search<'a> {
    settings: &'a BeamSearch,
    stops: &'a Stops<'a>,
    /// Its number in the batch that was asked for.
    number: usize,
    prompt: usize,
    /// At most as many as there are beams, best first.
    beams: Vec<Beam>,
    /// At most as many as there are beams, best first.
    finished: Vec<Hypothesis>,
}

/// Searches until every row has ended. A row's tokens are handed out when its search has ended.
pub(super) fn search(
    model: &mut impl NextToken,
    prompts: &[&[u32]],
    settings: &BeamSearch,
    stops: &Stops<'_>,
    on_step: &mut OnStep<'_>,
) -> Result<Vec<Generated>> {
    let new = |(number, prompt): (usize, &&[u32])| Search {
        settings,
        stops,
        number,
        prompt: prompt.len(),
        beams: vec![Beam {
            tokens: prompt.to_vec(),
            score: 0.0,
        }],
        finished: Vec::new(),
    };
    let mut rows: Vec<Search<'_>> = prompts.iter().enumerate().map(new).collect();
    let mut results: Vec<Option<Generated>> = vec![None; prompts.len()];
    let mut all_logits = model.start(prompts)?;
    loop {
        // The row of the model's batch that each beam continues, and its next token.
        let (mut parents, mut tokens) = (Vec::new(), Vec::new());
        let mut rest = all_logits.as_mut_slice();
        let mut first = 0;
        for row in &mut rows {
            let beams = row.beams.len();
            let (logits, behind) = rest.split_at_mut(beams * model.vocabulary());
            rest = behind;
            match row.advance(logits)? {
                Advance::Goes(on) => {
                    parents.extend(on.iter().map(|parent| first + parent));
                    tokens.extend(row.beams.iter().filter_map(|beam| beam.tokens.last()));
                }
                Advance::Ended => results[row.number] = Some(row.hand_out(on_step)?),
            }
            first += beams;
        }
        if parents.is_empty() {
            return Ok(results.into_iter().flatten().collect());
        }
        rows.retain(|row| results[row.number].is_none());
        if model.is_broken_off() {
            for row in &mut rows {
                results[row.number] = Some(row.break_off());
            }
            return Ok(results.into_iter().flatten().collect());
        }
        if !parents.iter().copied().eq(0..first) {
            model.keep(&parents)?;
        }
        all_logits = model.step(&tokens)?;
    }
}

/// The outcome of a step for a row.
enum Advance {
    /// It goes on: for each beam, the beam before that it continues.
    Goes(Vec<usize>),
    /// Its search has ended.
    Ended,
}

impl Search<'_> {
    /// One step: the best candidates become finished sequences and beams.
    fn advance(&mut self, logits: &mut [f32]) -> Result<Advance> {
        let candidates = self.candidates(logits)?;
        let mut parents = Vec::with_capacity(self.settings.beams);
        let mut beams = Vec::with_capacity(self.settings.beams);
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let beam = self.extended(&candidate);
            match self
                .stops
                .reason(self.prompt, &beam.tokens[self.prompt..])?
            {
                // Later candidates take the place of those that end.
                Some(ended) if rank < self.settings.beams => self.finish(beam, ended),
                Some(_) => {}
                None if beams.len() < self.settings.beams => {
                    parents.push(candidate.parent);
                    beams.push(beam);
                }
                None => {}
            }
        }
        if beams.is_empty() && self.finished.is_empty() {
            self.give_up();
        }
        let ended = beams.first().is_none_or(|best| self.is_over(best));
        self.beams = beams;
        Ok(if ended {
            Advance::Ended
        } else {
            Advance::Goes(parents)
        })
    }

    /// The best continuations of all beams together, best first. There are enough to continue with even if every stop token is among them.
    fn candidates(&self, logits: &mut [f32]) -> Result<Vec<Candidate>> {
        let wanted = (1 + self.stops.tokens()).max(2) * self.settings.beams;
        let vocabulary = logits.len() / self.beams.len();
        let mut all = Vec::new();
        let of_beams = logits.chunks_exact_mut(vocabulary);
        for (parent, (beam, logits)) in self.beams.iter().zip(of_beams).enumerate() {
            check(logits, self.number, beam.tokens.len() - self.prompt)?;
            let log_probability = logits::log_softmax(logits);
            let config = self.stops.config;
            logits::ban(logits, &beam.tokens, self.prompt, config);
            let is_forced = logits::forced(&beam.tokens, self.prompt, config).is_some();
            let penalty = logits::penalty(&beam.tokens, config.repetition_penalty);
            let possible = (0..).zip(logits.iter().copied());
            all.extend(
                possible
                    .filter(|(_, score)| *score > f32::NEG_INFINITY)
                    .map(|(token, score)| Candidate {
                        parent,
                        token,
                        // A log-probability is never above 0.
                        score: match is_forced {
                            true => beam.score,
                            false => beam.score + log_probability(score) * penalty(token),
                        },
                    }),
            );
        }
        let order = |a: &Candidate, b: &Candidate| {
            let place = |c: &Candidate| (c.parent, c.token);
            b.score
                .total_cmp(&a.score)
                .then_with(|| place(a).cmp(&place(b)))
        };
        if all.len() > wanted {
            all.select_nth_unstable_by(wanted, order);
            all.truncate(wanted);
        }
        all.sort_by(order);
        Ok(all)
    }

    fn extended(&self, candidate: &Candidate) -> Beam {
        let mut tokens = self.beams[candidate.parent].tokens.clone();
        tokens.push(candidate.token);
        Beam {
            tokens,
            score: candidate.score,
        }
    }

    /// Puts a sequence among the finished, unless enough of them are better.
    fn finish(&mut self, mut beam: Beam, ended: Ended) {
        let new = beam.tokens.split_off(self.prompt);
        let score = self.at_length(beam.score, new.len());
        let place = self.finished.partition_point(|other| other.score >= score);
        self.finished
            .insert(place, Hypothesis { new, score, ended });
        self.finished.truncate(self.settings.beams);
    }

    /// No candidate is left and none has ended: the best beam is as good as it gets.
    fn give_up(&mut self) {
        let beam = self.beams.swap_remove(0);
        self.finish(beam, Ended::NothingLeft);
    }

    fn at_length(&self, score: f64, length: usize) -> f64 {
        score / (length as f64).powf(self.settings.length_penalty)
    }

    /// Returns true if a row whose best beam is `best` has found what it can.
    fn is_over(&self, best: &Beam) -> bool {
        if self.finished.len() < self.settings.beams {
            return false;
        }
        let grows = self.settings.length_penalty > 0.0;
        let length = match self.settings.early_stopping {
            EarlyStopping::AtOnce => return true,
            EarlyStopping::Certain if grows => self.stops.longest(self.prompt),
            EarlyStopping::Certain | EarlyStopping::Likely => best.tokens.len() - self.prompt,
        };
        let possible = self.at_length(best.score, length);
        self.finished
            .last()
            .is_some_and(|worst| possible <= worst.score)
    }

    /// The best beam so far. None of its tokens is handed out.
    fn break_off(&mut self) -> Generated {
        let mut beam = self.beams.swap_remove(0);
        Generated {
            tokens: beam.tokens.split_off(self.prompt),
            ended: Ended::BrokenOff,
        }
    }

    /// Takes the best finished sequence and hands out its tokens.
    fn hand_out(&mut self, on_step: &mut OnStep<'_>) -> Result<Generated> {
        let Hypothesis { mut new, ended, .. } = self.finished.swap_remove(0);
        for (at, &token) in new.iter().enumerate() {
            let step = Step {
                row: self.number,
                token,
                ended: (at + 1 == new.len()).then_some(ended),
            };
            if on_step(step)?.is_break() && step.ended.is_none() {
                new.truncate(at + 1);
                return Ok(Generated {
                    tokens: new,
                    ended: Ended::BrokenOff,
                });
            }
        }
        Ok(Generated { tokens: new, ended })
    }
}
