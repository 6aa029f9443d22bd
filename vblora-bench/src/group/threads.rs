//! A job whose ranks are threads of one process, for tests.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use super::{Group, Message, Place};

type Parcel = (usize, Arc<Message>);

/// One of several threads.
#[derive(Debug)]
pub(crate) struct Threads {
    rank: usize,
    to: Vec<Sender<Parcel>>,
    own: Mutex<Receiver<Parcel>>,
}

impl Threads {
    /// The ranks of a job of `size` threads.
    pub(crate) fn group(size: usize) -> Vec<Self> {
        let (to, own): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
        let ranks = own.into_iter().enumerate();
        let of = |(rank, own)| Self {
            rank,
            to: to.clone(),
            own: Mutex::new(own),
        };
        ranks.map(of).collect()
    }
}

impl Group for Threads {
    fn place(&self) -> Place {
        let (rank, size) = (self.rank, self.to.len());
        Place {
            rank,
            size,
            local_rank: rank,
            local_size: size,
        }
    }

    fn broadcast(&self, message: Message) {
        let message = Arc::new(message);
        for to in &self.to[1..] {
            // A thread that has ended needs no message.
            let _ = to.send((self.rank, Arc::clone(&message)));
        }
    }

    fn report(&self, message: Message) {
        let _ = self.to[0].send((self.rank, Arc::new(message)));
    }

    fn receive(&self, patience: Duration) -> Option<Parcel> {
        let own = self.own.lock().expect("no other thread receives");
        own.recv_timeout(patience).ok()
    }

    fn lifeless(&self, _: &[usize], _: Duration) -> Vec<usize> {
        Vec::new()
    }
}
