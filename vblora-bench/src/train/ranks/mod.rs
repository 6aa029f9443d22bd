//! Training by several ranks, with the bits of one.
//!
//! Rank 0 leads. It owns adapter, head, optimizer, files and evaluation. In each step it composes the factors and sends them with the head's
//! values. Each rank computes the gradients of whole micro-batches: rank r of n takes the numbers r, r + n, and so on. Data order, dropout
//! and noise are functions of seed, step and number, so it does not matter which rank computes a micro-batch. Rank 0 adds the gradients in
//! the order of the numbers, as one rank does, and finishes the step.

mod agreement;
mod fold;
mod leader;
mod message;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod worker;

use std::time::Duration;

pub(super) use agreement::{Terms, agree};
pub(super) use leader::{Communication, Leader};
pub(super) use worker::serve;

use crate::{
    group::{Group, Job, Solo},
    recipes::Recipe,
    tasks::counted,
};

/// The ranks that train together, as one of them sees them.
#[derive(Debug, Clone, Copy)]
pub struct Ranks<'a> {
    group: &'a dyn Group,
    /// How long to wait for another rank.
    patience: Duration,
}

impl Ranks<'static> {
    /// This process alone.
    pub fn alone() -> Self {
        Self::new(&Solo, Duration::ZERO)
    }
}

impl<'a> Ranks<'a> {
    /// The ranks of a group. A rank that another waits for longer than `patience` fails the job.
    pub fn new(group: &'a dyn Group, patience: Duration) -> Self {
        Self { group, patience }
    }

    /// The ranks of a job.
    pub fn of(job: &'a Job) -> Self {
        Self::new(job.group(), job.patience())
    }

    /// True on rank 0.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.group.place().size
    }

    /// What to say if ranks would have no work: the batch and the accumulation of the same step for all of them.
    pub(super) fn advice(&self, recipe: &Recipe) -> Option<String> {
        let (
            size,
            Recipe {
                batch,
                accumulation,
                ..
            },
        ) = (self.size(), recipe);
        let rows = batch * accumulation;
        if *accumulation >= size || size == 1 {
            return None;
        }
        let idle = counted(size - accumulation, "rank has", "ranks have");
        Some(match rows >= size {
            true => format!(
                "{idle} no work: a step has {}. --batch {} --accumulation {size} uses all {size} ranks",
                counted(*accumulation, "micro-batch", "micro-batches"),
                rows.div_ceil(size),
            ),
            false => format!(
                "{idle} no work: a step has {}",
                counted(rows, "row", "rows")
            ),
        })
    }

    /// The number of this rank.
    pub fn rank(&self) -> usize {
        self.group.place().rank
    }
}
