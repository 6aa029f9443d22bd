//! The sum of micro-batches' gradients, in the order of their numbers, as one flat tensor.
//!
//! Gradients travel flat. Adding them flat costs a single operation for each micro-batch, and gives the bits of adding them one by one.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use vblora::{FactorGradients, backend::VbLoraBackend};

use super::message::Layout;
use crate::{
    Error, Result,
    train::{
        parameters::{Gradients, join},
        step::MicroGradients,
    },
};

/// Gradients and loss as one flat tensor.
#[derive(Debug, Clone)]
pub(super) struct Flat<B: VbLoraBackend> {
    pub(super) layout: Layout,
    pub(super) values: Tensor<B, 1>,
}

impl<B: VbLoraBackend> Flat<B> {
    /// Lays the gradients of a micro-batch out one after another.
    pub(super) fn of(micro: MicroGradients<B>) -> Self {
        let layout = Layout::of(&micro);
        let mut pieces = vec![micro.loss];
        pieces.extend(micro.parameters.into_tensors().into_values());
        for factors in micro.factors.into_sites().into_values() {
            pieces.extend(factors.map(|grad| {
                let size = grad.shape().num_elements();
                grad.reshape([size])
            }));
        }
        let values = join(pieces);
        Self { layout, values }
    }

    /// Takes the gradients apart again.
    pub(super) fn into_micro(self) -> MicroGradients<B> {
        let mut pieces = Pieces::new(self.values);
        let loss = pieces.take(1);
        let parameters = self.layout.parameters.into_iter();
        let parameters = parameters.map(|(path, size)| (path, pieces.take(size)));
        let parameters = Gradients::from_tensors(parameters.collect());
        let factors = self.layout.sites.into_iter();
        let factors: FactorGradients<B> = factors
            .map(|(site, shapes)| (site, shapes.map(|shape| pieces.matrix(shape))))
            .collect();
        MicroGradients {
            loss,
            parameters,
            factors,
        }
    }
}

/// Pieces of a flat tensor, one after another.
pub(super) struct Pieces<B: VbLoraBackend> {
    values: Tensor<B, 1>,
    next: usize,
}

impl<B: VbLoraBackend> Pieces<B> {
    pub(super) fn new(values: Tensor<B, 1>) -> Self {
        Self { values, next: 0 }
    }

    pub(super) fn take(&mut self, size: usize) -> Tensor<B, 1> {
        let piece = self.values.clone().narrow(0, self.next, size);
        self.next += size;
        piece
    }

    pub(super) fn matrix(&mut self, [rows, columns]: [usize; 2]) -> Tensor<B, 2> {
        self.take(rows * columns).reshape([rows, columns])
    }
}

/// Checks the number of values in a message.
pub(super) fn check_len(from: usize, expected: usize, values: &[f32]) -> Result<()> {
    match values.len() == expected {
        true => Ok(()),
        false => Err(Error::RankMessage {
            rank: from,
            expected: format!("{expected} values"),
            found: format!("{} values", values.len()),
        }),
    }
}

/// Values on the device.
pub(super) fn upload<B: VbLoraBackend>(values: Vec<f32>, device: &B::Device) -> Tensor<B, 1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Gradients and loss as rank `from` has sent them, on the host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HostFlat {
    layout: Layout,
    values: Vec<f32>,
}

impl HostFlat {
    /// # Errors
    /// There are more or fewer values than the layout has.
    pub(super) fn received(from: usize, layout: Layout, values: Vec<f32>) -> Result<Self> {
        check_len(from, layout.len(), &values)?;
        Ok(Self { layout, values })
    }

    /// The same on the device.
    pub(super) fn upload<B: VbLoraBackend>(self, device: &B::Device) -> Flat<B> {
        Flat {
            layout: self.layout,
            values: upload(self.values, device),
        }
    }
}

/// What a [`Fold`] adds.
pub(super) trait Summand: Sized {
    fn layout(&self) -> &Layout;

    /// Both added, of equal layouts.
    fn added(self, other: Self) -> Self;

    /// Both added. Rank `from` has sent `other`.
    ///
    /// # Errors
    /// They are of different tensors.
    fn plus(self, other: Self, from: usize) -> Result<Self> {
        self.layout().check(other.layout(), from)?;
        Ok(self.added(other))
    }
}

impl<B: VbLoraBackend> Summand for Flat<B> {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn added(self, other: Self) -> Self {
        Self {
            layout: self.layout,
            values: self.values + other.values,
        }
    }
}

impl Summand for HostFlat {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn added(mut self, other: Self) -> Self {
        let pairs = self.values.iter_mut().zip(other.values);
        pairs.for_each(|(sum, value)| *sum += value);
        self
    }
}

/// A sum in the order of numbers, whatever the order in which they come.
#[derive(Debug)]
pub(super) struct Fold<S> {
    sum: Option<S>,
    /// The number to add next.
    next: usize,
    /// What came before its turn.
    waiting: BTreeMap<usize, (usize, S)>,
}

impl<S: Summand> Fold<S> {
    pub(super) fn new() -> Self {
        Self {
            sum: None,
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Adds number `number`, which rank `from` has computed. Calls may come in any order.
    ///
    /// # Errors
    /// The number has come before; the gradients are of other tensors than those before.
    pub(super) fn add(&mut self, number: usize, from: usize, found: S) -> Result<()> {
        if number < self.next || self.waiting.contains_key(&number) {
            return Err(Error::RankMessage {
                rank: from,
                expected: "every micro-batch once".into(),
                found: format!("micro-batch {number} again"),
            });
        }
        self.waiting.insert(number, (from, found));
        while let Some((from, found)) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.sum = Some(match self.sum.take() {
                None => found,
                Some(sum) => sum.plus(found, from)?,
            });
        }
        Ok(())
    }

    /// The numbers below `count` that have not come.
    pub(super) fn missing(&self, count: usize) -> impl Iterator<Item = usize> {
        (self.next..count).filter(|number| !self.waiting.contains_key(number))
    }

    /// The sum, if there is anything in it.
    pub(super) fn into_sum(self) -> Option<S> {
        self.sum
    }
}
