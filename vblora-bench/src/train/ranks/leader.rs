//! Rank 0 of a run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use vblora::{Factors, Noise, backend::VbLoraBackend};
use vblora_models::host_tensor;

use super::{
    Ranks, evaluation,
    fold::Flat,
    message::{Order, Report, head, message},
    names,
    sums::Sums,
};
use crate::{
    Error, Result,
    group::Message,
    recipes::Recipe,
    tasks::Evaluation,
    train::{
        learner::Learner,
        objective::Objective,
        parameters::join,
        step::{StepReport, StepSum, shares},
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
    /// The time in which rank 0 could not go on: it packed, sent and waited for others.
    pub(in crate::train) seconds: f64,
}

/// Deals the micro-batches of a run's steps out to the ranks.
#[derive(Debug)]
pub(in crate::train) struct Leader<'a> {
    ranks: Ranks<'a>,
    /// Set when this process is asked to end.
    here: &'a AtomicBool,
    /// True once a rank was asked to end.
    interrupted: bool,
    communication: Communication,
}

impl<'a> Leader<'a> {
    /// Tells the other ranks that run number `index` starts.
    pub(in crate::train) fn start(
        ranks: Ranks<'a>,
        index: usize,
        here: &'a AtomicBool,
    ) -> Result<Self> {
        ranks.order(&Order::Run(index))?;
        Ok(Self {
            ranks,
            here,
            interrupted: false,
            communication: Communication::default(),
        })
    }

    /// True once a rank other than 0 was asked to end.
    pub(in crate::train) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// The communication since the last call.
    pub(in crate::train) fn take_communication(&mut self) -> Communication {
        std::mem::take(&mut self.communication)
    }

    /// [`Learner::step`] by all ranks.
    ///
    /// # Errors
    /// As [`Learner::step`]; a rank does not answer, or sends what was not asked for.
    pub(in crate::train) fn step<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        learner: &mut Learner<B, O>,
        step: usize,
        batches: &[O::Batch],
        factor: f64,
    ) -> Result<StepReport> {
        let shares = shares::<B, O>(batches);
        let mut watch = Watch::new();
        let mut sum = learner.compose(step);
        synced::<B>(&learner.device)?;
        let composed = watch.lap();
        self.send(learner, &sum, step, &shares)?;
        let sent = watch.lap();
        let factors = sum.factors();
        let mut sums = Sums::new(self.ranks.sending);
        for number in (0..batches.len()).step_by(self.ranks.size()) {
            let noise = Noise::new(learner.seed, step as u64, number as u64);
            let micro = learner.micro_batch(&factors, &batches[number], noise, shares[number])?;
            sums.add_own(number, Flat::of(micro))?;
            while let Some((from, found)) = self.ranks.group.receive(Duration::ZERO) {
                self.take(&mut sums, step, (from, found), learner)?;
            }
        }
        synced::<B>(&learner.device)?;
        let computed = watch.lap();
        loop {
            let missing = sums.missing(batches.len(), self.ranks.size());
            if missing.is_empty() {
                break;
            }
            let (from, found) = self.wait(&missing, &format!("in step {step}"))?;
            self.take(&mut sums, step, (from, found), learner)?;
        }
        let waited = watch.lap();
        self.communication.seconds += (sent + waited).as_secs_f64();
        if let Some(all) = sums.into_sum(&learner.device)? {
            sum.add(0, all.into_micro());
        }
        let report = learner.finish(sum, factor);
        let finished = watch.lap();
        tracing::debug!(
            "step {step}: {composed:.1?} to compose, {sent:.1?} to send, {computed:.1?} for its own work, {waited:.1?} to wait, {finished:.1?} to finish"
        );
        report
    }

    /// Sends the step's factors, the head's values and the shares of the micro-batches.
    fn send<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        learner: &Learner<B, O>,
        sum: &StepSum<B>,
        step: usize,
        shares: &[f64],
    ) -> Result<()> {
        let slabs = sum.slabs();
        let shapes = slabs.iter().map(|slab| slab.dims()).collect();
        let flat = slabs.into_iter().map(|slab| {
            let size = slab.shape().num_elements();
            slab.reshape([size])
        });
        let flat: Vec<_> = flat.collect();
        let mut values = match flat.is_empty() {
            true => Vec::new(),
            false => host_tensor(join(flat)).values,
        };
        values.extend(learner.head_values());
        let order = Order::Step {
            step,
            shares: shares.to_vec(),
            slabs: shapes,
        };
        let message = message(&order, values)?;
        self.communication.bytes += message.bytes();
        self.ranks.group.broadcast(message);
        Ok(())
    }

    /// Takes in the gradients of a micro-batch.
    fn take<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        sums: &mut Sums<B>,
        step: usize,
        (from, message): Arrival,
        learner: &Learner<B, O>,
    ) -> Result<()> {
        self.communication.bytes += message.bytes();
        let part = match head(from, &message)? {
            Report::Gradients(part) => part,
            Report::Interrupted => {
                self.interrupted = true;
                return Ok(());
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
        let values = Arc::unwrap_or_clone(message).values;
        sums.add_received(from, part, values, &learner.device)
    }

    /// Scores a split with these factors, by all ranks. `step` is the number of steps taken.
    ///
    /// # Errors
    /// As [`Objective::evaluate`]; a rank does not answer, or sends what was not asked for.
    pub(in crate::train) fn examine<B: VbLoraBackend, O: Objective<B>>(
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
                return Err(self.ranks.silent(missing, during.to_owned()));
            }
            // A launcher sends this signal when a rank has died. The user then learns which, and in which step.
            if !was_interrupted && self.here.load(Ordering::Relaxed) {
                was_interrupted = true;
                tracing::warn!("a signal came {during}, which waits for {}", names(missing));
            }
        }
    }
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
