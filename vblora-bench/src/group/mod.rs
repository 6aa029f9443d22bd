//! Processes that do one job together. Each has a number, its rank; rank 0 leads.
//!
//! [`Solo`] is a job of one process. With the feature `mpi`, a program that MPI's launcher has started as several processes finds the others
//! through [`Job::open`]. [`Terms`] are what ranks compare before they share work. Nothing here knows what other messages say.

mod hear;
mod job;
mod launcher;
mod message;
mod processors;
mod program;
mod terms;
#[cfg(test)]
mod threads;
#[cfg(feature = "mpi")]
mod world;

use std::{fmt::Debug, sync::Arc, time::Duration};

pub(crate) use hear::{hear_each, names, silent};
pub use job::Job;
pub use launcher::{is_launched, require_alone};
pub(crate) use message::{head, message};
pub use processors::processors;
pub(crate) use program::program_hash;
pub(crate) use terms::same;
pub use terms::{Terms, agree};
#[cfg(test)]
pub(crate) use threads::Threads;

/// A message between ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What the message is, in the words of those who exchange it.
    pub head: Vec<u8>,
    /// Numbers that go with it.
    pub values: Vec<f32>,
}

impl Message {
    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + 4 * self.values.len() as u64
    }
}

/// The place of a process among those of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The process's number, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// The process's number among those on this host.
    pub local_rank: usize,
    /// The number of processes on this host.
    pub local_size: usize,
}

/// The processes of one job, as one of them sees them.
///
/// Messages from one rank to another arrive in the order in which they were sent.
pub trait Group: Debug + Send + Sync {
    /// The place of this process.
    fn place(&self) -> Place;

    /// Sends a message from rank 0 to every other rank. It returns before the message has arrived.
    fn broadcast(&self, message: Message);

    /// Sends a message to rank 0. It returns before the message has arrived.
    fn report(&self, message: Message);

    /// The next message to this rank, and the rank that it is from. `None` if for as long as `patience` no message came and, on ranks other
    /// than 0, rank 0 has shown no other sign of life.
    fn receive(&self, patience: Duration) -> Option<(usize, Arc<Message>)>;

    /// Asks these ranks whether their processes live, and returns those that have not said so for as long as `patience`. Rank 0 asks, once it
    /// has given up: messages that come meanwhile are lost. Where ranks cannot be asked, there are none.
    fn lifeless(&self, ranks: &[usize], patience: Duration) -> Vec<usize>;
}

/// A job of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Group for Solo {
    fn place(&self) -> Place {
        Place {
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
        }
    }

    fn broadcast(&self, _: Message) {}

    fn report(&self, _: Message) {}

    fn receive(&self, _: Duration) -> Option<(usize, Arc<Message>)> {
        None
    }

    fn lifeless(&self, _: &[usize], _: Duration) -> Vec<usize> {
        Vec::new()
    }
}
