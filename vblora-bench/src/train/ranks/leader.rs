//! Rank 0 of a run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use burn::tensor::Tensor;
use vblora::{
    Factors, Noise,
    backend::{Exchange, VbLoraBackend},
};
use vblora_models::host_tensor;

use super::{
    Ranks, evaluation,
    exchange::{self, Values},
    fold::Flat,
    message::{Layout, Order, Part, Report},
    sums::Sums,
};
use crate::{
    Error, Result,
    group::{Message, head, message, names, silent},
    recipes::Recipe,
    tasks::Evaluation,
    train::{
        learner::Learner,
        objective::Objective,
        parameters::join,
        step::{SlabGradients, StepSum, shares},
    },
};

/// How often a signal is looked for while rank 0 waits.
const GLANCE: Duration = Duration::from_millis(100);

/// A message, and the rank that it is from.
type Arrival = (usize, Arc<Message>);

/// The communication of steps.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::train) struct Communication {
    /// Bytes that rank 0 has sent once, to be passed on to all, and received.
    pub(in crate::train) bytes: u64,
    /// The time in which rank 0 could not go on: it packed, sent and waited for others. Values that go from device to device take none.
    pub(in crate::train) seconds: f64,
}

/// Deals the micro-batches of a run's steps out to the ranks.
#[derive(Debug)]
pub(in crate::train) struct Leader<'a, B: VbLoraBackend> {
    ranks: Ranks<'a>,
    /// The way from device to device, if there is one.
    exchange: Option<&'a dyn Exchange<B>>,
    /// Set when this process is asked to end.
    here: &'a AtomicBool,
    /// True once a rank was asked to end.
    interrupted: bool,
}

impl<'a, B: VbLoraBackend> Leader<'a, B> {
    /// Tells the other ranks that run number `index` starts.
    pub(in crate::train) fn start(
        ranks: Ranks<'a>,
        exchange: Option<&'a dyn Exchange<B>>,
        index: usize,
        here: &'a AtomicBool,
    ) -> Result<Self> {
        ranks.order(&Order::Run(index))?;
        Ok(Self {
            ranks,
            exchange,
            here,
            interrupted: false,
        })
    }

    /// True once a rank other than 0 was asked to end.
    pub(in crate::train) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Fails if the devices could not exchange what the last report follows from.
    ///
    /// # Errors
    /// The reason.
    pub(in crate::train) fn check(&self) -> Result<()> {
        self.exchange.map_or(Ok(()), exchange::check)
    }

    /// [`Learner::gradients`] by all ranks. When it returns, no message of the step is on its way.
    ///
    /// # Errors
    /// As [`Learner::gradients`]; a rank does not answer, or sends what was not asked for.
    pub(in crate::train) fn gradients<O: Objective<B>>(
        &mut self,
        learner: &Learner<B, O>,
        step: usize,
        batches: &[O::Batch],
    ) -> Result<(StepSum<B>, Communication)> {
        let mut sum = learner.compose(step);
        let communication = match self.exchange {
            // A rank without a micro-batch has nothing to add.
            Some(exchange) if batches.len() >= self.ranks.size() => {
                let (all, communication) =
                    self.by_exchange(exchange, learner, &sum, step, batches)?;
                if let Some(all) = all {
                    sum.set(all);
                }
                communication
            }
            _ => {
                let (all, communication) = self.by_messages(learner, &sum, step, batches)?;
                if let Some(all) = all {
                    sum.add(0, all.into_micro());
                }
                communication
            }
        };
        Ok((sum, communication))
    }

    /// The gradients of all ranks, which messages carry.
    fn by_messages<O: Objective<B>>(
        &mut self,
        learner: &Learner<B, O>,
        sum: &StepSum<B>,
        step: usize,
        batches: &[O::Batch],
    ) -> Result<(Option<Flat<B>>, Communication)> {
        let shares = shares::<B, O>(batches);
        let mut watch = Watch::new();
        synced::<B>(&learner.device)?;
        let composed = watch.lap();
        let mut values = match joined(sum.slabs()) {
            Some(slabs) => host_tensor(slabs).values,
            None => Vec::new(),
        };
        values.extend(learner.head_values());
        let mut bytes = self.send(sum, step, &shares, values)?;
        let sent = watch.lap();
        let factors = sum.factors();
        let mut sums = Sums::new(self.ranks.sending);
        for number in (0..batches.len()).step_by(self.ranks.size()) {
            let noise = Noise::new(learner.seed, step as u64, number as u64);
            let micro = learner.micro_batch(&factors, &batches[number], noise, shares[number])?;
            sums.add_own(number, Flat::of(micro))?;
            while let Some(arrival) = self.ranks.group.receive(Duration::ZERO) {
                bytes += self.take(&mut sums, step, arrival, learner)?;
            }
        }
        synced::<B>(&learner.device)?;
        let computed = watch.lap();
        loop {
            let missing = sums.missing(batches.len(), self.ranks.size());
            if missing.is_empty() {
                break;
            }
            let arrival = self.wait(&missing, &format!("in step {step}"))?;
            bytes += self.take(&mut sums, step, arrival, learner)?;
        }
        let waited = watch.lap();
        tracing::debug!(
            "step {step}: {composed:.1?} to compose, {sent:.1?} to send, {computed:.1?} for its own work, {waited:.1?} to wait"
        );
        let seconds = (sent + waited).as_secs_f64();
        let all = sums.into_sum(&learner.device)?;
        Ok((all, Communication { bytes, seconds }))
    }

    /// The gradients of all ranks, which devices exchange. Rank 0 does not wait for its device, so it can begin a step while that computes
    /// the one before.
    fn by_exchange<O: Objective<B>>(
        &mut self,
        exchange: &dyn Exchange<B>,
        learner: &Learner<B, O>,
        sum: &StepSum<B>,
        step: usize,
        batches: &[O::Batch],
    ) -> Result<(Option<SlabGradients<B>>, Communication)> {
        let shares = shares::<B, O>(batches);
        let mut watch = Watch::new();
        let mut bytes = self.send(sum, step, &shares, Vec::new())?;
        let values = Values {
            slabs: sum.slabs(),
            flat: learner.head_tensors(),
        };
        bytes += 4 * values.broadcast(exchange).len() as u64;
        let sent = watch.lap();
        let factors = sum.factors();
        let mut own: Option<(Layout, SlabGradients<B>)> = None;
        for number in (0..batches.len()).step_by(self.ranks.size()) {
            let noise = Noise::new(learner.seed, step as u64, number as u64);
            let micro = learner.micro_batch(&factors, &batches[number], noise, shares[number])?;
            let layout = Layout::of(&micro);
            let micro = learner.in_slabs(micro)?;
            match &mut own {
                None => own = Some((layout, micro)),
                Some((_, sum)) => sum.add(micro),
            }
        }
        let own = own.map(|(layout, own)| (layout, exchange::sum(exchange, own)));
        let launched = watch.lap();
        let mut missing: Vec<usize> = (1..self.ranks.size()).collect();
        while !missing.is_empty() {
            let (from, found) = self.wait(&missing, &format!("in step {step}"))?;
            let Some(part) = self.part(step, from, &found)? else {
                continue;
            };
            if let Some((layout, _)) = &own {
                layout.check(&part.layout, from)?;
                bytes += found.bytes() + 4 * layout.len() as u64;
            }
            missing.retain(|&rank| rank != from);
        }
        exchange::check(exchange)?;
        let waited = watch.lap();
        tracing::debug!(
            "step {step}: {sent:.1?} to send, {launched:.1?} to launch its own work, {waited:.1?} to wait for the hosts of others"
        );
        let seconds = (sent + waited).as_secs_f64();
        let all = own.map(|(_, all)| all);
        Ok((all, Communication { bytes, seconds }))
    }

    /// Sends the shapes of the step's factors, the shares of the micro-batches and these values. Returns the bytes.
    fn send(&self, sum: &StepSum<B>, step: usize, shares: &[f64], values: Vec<f32>) -> Result<u64> {
        let order = Order::Step {
            step,
            shares: shares.to_vec(),
            slabs: sum.slabs().iter().map(Tensor::dims).collect(),
        };
        let message = message(&order, values)?;
        let bytes = message.bytes();
        self.ranks.group.broadcast(message);
        Ok(bytes)
    }

    /// Takes in the gradients of a micro-batch. Returns the bytes.
    fn take<O: Objective<B>>(
        &mut self,
        sums: &mut Sums<B>,
        step: usize,
        (from, message): Arrival,
        learner: &Learner<B, O>,
    ) -> Result<u64> {
        let bytes = message.bytes();
        if let Some(part) = self.part(step, from, &message)? {
            let values = Arc::unwrap_or_clone(message).values;
            sums.add_received(from, part, values, &learner.device)?;
        }
        Ok(bytes)
    }

    /// What a rank says of its micro-batches of this step; `None` if it only says that it was asked to end.
    fn part(&mut self, step: usize, from: usize, message: &Message) -> Result<Option<Part>> {
        let part = match head(from, message)? {
            Report::Gradients(part) => part,
            Report::Interrupted => {
                self.interrupted = true;
                return Ok(None);
            }
            Report::Outputs(_) => return Err(unasked(from, "gradients", "outputs")),
        };
        if part.step != step || part.number % self.ranks.size() != from {
            return Err(Error::RankMessage {
                rank: from,
                expected: format!("its micro-batches of step {step}"),
                found: format!("micro-batch {} of step {}", part.number, part.step),
            });
        }
        self.interrupted |= part.interrupted;
        Ok(Some(part))
    }

    /// Scores a split with these factors, by all ranks. `step` is the number of steps taken.
    ///
    /// # Errors
    /// As [`Objective::evaluate`]; a rank does not answer, or sends what was not asked for.
    pub(in crate::train) fn examine<O: Objective<B>>(
        &mut self,
        learner: &Learner<B, O>,
        factors: &Factors<B>,
        (split, recipe): (&O::Split, &Recipe),
        step: u64,
    ) -> Result<Evaluation> {
        let order = evaluation::order(factors, learner.head_values())?;
        self.ranks.group.broadcast(order);
        let own = learner.outputs(factors, split, recipe, self.ranks.turns())?;
        let mut parts = BTreeMap::from([(0, own)]);
        let during = format!("in the evaluation after {step} steps");
        while parts.len() < self.ranks.size() {
            let others = 1..self.ranks.size();
            let missing: Vec<_> = others.filter(|rank| !parts.contains_key(rank)).collect();
            let (from, found) = self.wait(&missing, &during)?;
            match head(from, &found)? {
                Report::Outputs(batches) => {
                    let own = evaluation::reported(from, batches, &found.values)?;
                    parts.insert(from, own);
                }
                Report::Interrupted => self.interrupted = true,
                Report::Gradients(_) => return Err(unasked(from, "outputs", "gradients")),
            }
        }
        O::score(split, recipe, evaluation::joined(parts)?)
    }

    /// The next message of a rank, while those of the ranks in `missing` have not come.
    fn wait(&self, missing: &[usize], during: &str) -> Result<Arrival> {
        let started = Instant::now();
        let mut was_interrupted = self.here.load(Ordering::Relaxed);
        loop {
            let left = self.ranks.patience.saturating_sub(started.elapsed());
            if let Some(found) = self.ranks.group.receive(left.min(GLANCE)) {
                return Ok(found);
            }
            if left.is_zero() {
                let Ranks {
                    group, patience, ..
                } = self.ranks;
                return Err(silent(group, missing, patience, during.to_owned()));
            }
            // A launcher sends this signal when a rank has died. The user then learns which, and in which step.
            if !was_interrupted && self.here.load(Ordering::Relaxed) {
                was_interrupted = true;
                tracing::warn!("a signal came {during}, which waits for {}", names(missing));
            }
        }
    }
}

/// Slabs one after another, if there are any.
fn joined<B: VbLoraBackend>(slabs: Vec<Tensor<B, 2>>) -> Option<Tensor<B, 1>> {
    let flat = slabs.into_iter().map(|slab| {
        let size = slab.shape().num_elements();
        slab.reshape([size])
    });
    let flat: Vec<_> = flat.collect();
    (!flat.is_empty()).then(|| join(flat))
}

/// The error of a rank that sent something else than it was asked for.
fn unasked(rank: usize, expected: &str, found: &str) -> Error {
    Error::RankMessage {
        rank,
        expected: expected.into(),
        found: found.into(),
    }
}

/// Measures one stretch of time after the other.
struct Watch(Instant);

impl Watch {
    fn new() -> Self {
        Self(Instant::now())
    }

    /// The time since the last call.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// Waits for a GPU, so that its work does not count as communication.
fn synced<B: VbLoraBackend>(device: &B::Device) -> Result<()> {
    B::sync(device).map_err(|cause| Error::Program {
        program: "the device",
        reason: format!("{cause:?}"),
    })
}

impl Ranks<'_> {
    /// Tells the other ranks that all runs have ended.
    pub(in crate::train) fn end(&self) -> Result<()> {
        self.order(&Order::End)
    }

    fn order(&self, order: &Order) -> Result<()> {
        self.group.broadcast(message(order, Vec::new())?);
        Ok(())
    }
}
