//! Training by several ranks, with the bits of one.
//!
//! Rank 0 leads. It owns adapter, head, optimizer, files and evaluation. In each step it composes the factors and sends them with the head's
//! values. Each rank computes the gradients of whole micro-batches: rank r of n takes the numbers r, r + n, and so on. Data order, dropout
//! and noise are functions of seed, step and number, so it does not matter which rank computes a micro-batch. Rank 0 adds the gradients in
//! the order of the numbers, as one rank does, and finishes the step. On GPUs, whose sums have no fixed order, each rank sends one sum; where
//! all can, from device to device.
//! The batches of an evaluation are dealt out in the same way.

mod agreement;
mod evaluation;
mod exchange;
mod fold;
#[cfg(all(test, feature = "flex"))]
mod hub;
mod leader;
mod message;
mod sums;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod worker;

use std::time::Duration;

pub(super) use agreement::{Terms, agree, instructions};
pub(super) use exchange::open;
pub(super) use leader::{Communication, Leader};
pub(super) use worker::serve;

use crate::{
    group::{Group, Job, Solo},
    recipes::Recipe,
    tasks::counted,
    train::objective::Turns,
};

/// What a rank sends of the gradients of its micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Each by itself, so that rank 0 can add all in the order of their numbers.
    EachMicroBatch,
    /// Their sum, which is less to send.
    OneSum,
}

/// The ranks that train together, as one of them sees them.
#[derive(Debug, Clone, Copy)]
pub struct Ranks<'a> {
    group: &'a dyn Group,
    sending: Sending,
    /// How long to wait for another rank.
    patience: Duration,
    #[cfg(all(test, feature = "flex"))]
    hub: Option<&'a hub::Hub>,
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
        Self {
            group,
            sending: Sending::EachMicroBatch,
            patience,
            #[cfg(all(test, feature = "flex"))]
            hub: None,
        }
    }

    /// The same ranks, each of which adds its micro-batches before it sends them. Results then have the bits of one rank no longer. GPUs do
    /// not promise those bits anyway: their sums have no fixed order.
    #[must_use]
    pub(super) fn adding_early(self) -> Self {
        Self {
            sending: Sending::OneSum,
            ..self
        }
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

    /// How the ranks share the work, in a line; `None` for one rank. If some would have no work, it names the batch and the accumulation of
    /// the same step for all of them.
    pub(super) fn line(&self, recipe: &Recipe) -> Option<String> {
        shared(self.size(), recipe.batch, recipe.accumulation)
    }

    /// The batches of an evaluation that this rank computes.
    fn turns(&self) -> Turns {
        let (rank, size) = (self.rank(), self.size());
        Turns { rank, size }
    }

    /// The number of this rank.
    pub fn rank(&self) -> usize {
        self.group.place().rank
    }
}

/// See [`Ranks::line`].
fn shared(size: usize, batch: usize, accumulation: usize) -> Option<String> {
    let micro_batches = counted(accumulation, "micro-batch", "micro-batches");
    let rows = batch.saturating_mul(accumulation);
    match size {
        1 => None,
        _ if accumulation >= size => Some(format!(
            "{size} ranks share the {micro_batches} of each step"
        )),
        _ => {
            let idle = counted(size - accumulation, "rank has", "ranks have");
            let way = match rows >= size {
                true => format!(
                    "; --batch {} --accumulation {size} would use all {size}",
                    rows.div_ceil(size)
                ),
                false => String::new(),
            };
            Some(format!(
                "{idle} no work, because a step has {micro_batches}{way}"
            ))
        }
    }
}
