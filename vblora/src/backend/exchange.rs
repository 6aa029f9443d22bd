//! The way of tensors from device to device among several processes, where their hosts need not carry them.

use std::{fmt::Debug, time::Duration};

use burn::tensor::{
    backend::Backend,
    ops::{Device, FloatTensor},
};

/// One of several processes, each with a device of its own. Rank 0 leads.
///
/// All ranks must ask for the same operations in the same order, over f32 tensors of the same shapes. An operation returns before the device has
/// done it.
pub trait Exchange<B: Backend>: Debug {
    /// Rank 0's tensors, on every rank. Those of the others only have their shapes.
    fn broadcast(&self, tensors: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>>;

    /// The sums of the tensors of all ranks, on rank 0. Their order is not fixed. The others get values without a meaning.
    fn sum(&self, tensors: Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>>;

    /// Says whether an operation that the device has got has failed.
    ///
    /// # Errors
    /// The reason.
    fn check(&self) -> Result<(), String>;
}

/// How processes come to an exchange.
#[derive(Debug)]
pub struct Exchanges<B: Backend> {
    /// Says why this process can join none, if so.
    pub ready: fn() -> Result<(), String>,
    /// The name of a new one. One process makes it and tells the others.
    pub name: fn() -> Result<Vec<u8>, String>,
    /// Joins the one of this name.
    pub join: Join<B>,
}

/// Joins the exchange of a name, with this process's rank and the number of ranks. It waits for the others up to a time.
pub type Join<B> = fn(&Device<B>, &[u8], [usize; 2], Duration) -> Joined<B>;

/// An exchange, or why it cannot be joined.
pub type Joined<B> = Result<Box<dyn Exchange<B>>, String>;
