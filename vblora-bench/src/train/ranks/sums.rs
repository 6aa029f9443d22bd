//! What rank 0 collects in a step: the gradients of each micro-batch, or one sum of each rank.

use vblora::backend::VbLoraBackend;

use super::{
    Sending,
    fold::{Flat, Fold, HostFlat, Summand},
    message::Part,
};
use crate::Result;

/// The gradients of a step so far.
#[derive(Debug)]
pub(super) enum Sums<B: VbLoraBackend> {
    /// Every micro-batch, added in the order of their numbers.
    Ordered(Fold<Flat<B>>),
    /// Rank 0's own sum, and those of the others, added on the host in the order of the ranks.
    ByRank {
        own: Option<Flat<B>>,
        others: Fold<HostFlat>,
    },
}

impl<B: VbLoraBackend> Sums<B> {
    pub(super) fn new(sending: Sending) -> Self {
        match sending {
            Sending::EachMicroBatch => Self::Ordered(Fold::new()),
            Sending::OneSum => Self::ByRank {
                own: None,
                others: Fold::new(),
            },
        }
    }

    /// Adds one of rank 0's own micro-batches.
    ///
    /// # Errors
    /// The gradients are of other tensors than those before.
    pub(super) fn add_own(&mut self, number: usize, flat: Flat<B>) -> Result<()> {
        match self {
            Self::Ordered(fold) => fold.add(number, 0, flat),
            Self::ByRank { own, .. } => {
                *own = Some(match own.take() {
                    None => flat,
                    Some(sum) => sum.plus(flat, 0)?,
                });
                Ok(())
            }
        }
    }

    /// Adds what rank `from` has sent.
    ///
    /// # Errors
    /// The message has another number of values than its layout; it has come before; its gradients are of other tensors than those before.
    pub(super) fn add_received(
        &mut self,
        from: usize,
        part: Part,
        values: Vec<f32>,
        device: &B::Device,
    ) -> Result<()> {
        let received = HostFlat::received(from, part.layout, values)?;
        match self {
            Self::Ordered(fold) => fold.add(part.number, from, received.upload(device)),
            Self::ByRank { others, .. } => others.add(from - 1, from, received),
        }
    }

    /// The ranks of `size` that have not sent all they should of `count` micro-batches.
    pub(super) fn missing(&self, count: usize, size: usize) -> Vec<usize> {
        let mut ranks: Vec<usize> = match self {
            Self::Ordered(fold) => fold.missing(count).map(|number| number % size).collect(),
            Self::ByRank { others, .. } => {
                let senders = size.min(count).saturating_sub(1);
                others.missing(senders).map(|index| index + 1).collect()
            }
        };
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// The sum, if there is anything in it.
    ///
    /// # Errors
    /// The gradients of rank 0 are of other tensors than those of the others.
    pub(super) fn into_sum(self, device: &B::Device) -> Result<Option<Flat<B>>> {
        match self {
            Self::Ordered(fold) => Ok(fold.into_sum()),
            Self::ByRank { own, others } => {
                let others = others.into_sum().map(|sum| sum.upload(device));
                match (own, others) {
                    (Some(own), Some(others)) => own.plus(others, 1).map(Some),
                    (own, others) => Ok(own.or(others)),
                }
            }
        }
    }
}
