//! The other ranks.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use vblora::{
    Noise,
    backend::{Exchange, VbLoraBackend},
};
use vblora_models::host_tensor;

use super::{
    Ranks, Sending, evaluation,
    exchange::{self, Values},
    fold::{Flat, Pieces, Summand, check_len, upload},
    message::{Layout, Order, Part, Report, SiteShape},
};
use crate::{
    Error, Result,
    group::{Message, head, message},
    train::{
        learner::Learner,
        objective::Objective,
        run::{Prepared, Run},
        step::SlabGradients,
    },
};

/// Computes micro-batches of these runs until rank 0 ends the work.
///
/// # Errors
/// Rank 0 is silent or sends what cannot be used; a micro-batch cannot be computed.
pub(in crate::train) fn serve<B: VbLoraBackend, O: Objective<B>>(
    prepared: &Prepared<B, O>,
    runs: &[Run],
    ranks: Ranks<'_>,
    exchange: Option<&dyn Exchange<B>>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let mut worker = Worker {
        prepared,
        ranks,
        exchange,
        interrupted,
        current: None,
    };
    let mut during = "before the first step".to_owned();
    loop {
        let outcome = worker.work(runs, &mut during);
        match outcome {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(cause) => {
                return Err(Error::OfRank {
                    rank: ranks.rank(),
                    during,
                    cause: Box::new(cause),
                });
            }
        }
    }
}

struct Worker<'a, B: VbLoraBackend, O: Objective<B>> {
    prepared: &'a Prepared<B, O>,
    ranks: Ranks<'a>,
    /// The way from device to device, if there is one.
    exchange: Option<&'a dyn Exchange<B>>,
    interrupted: &'a AtomicBool,
    current: Option<Current<'a, B, O>>,
}

/// The run at hand.
struct Current<'a, B: VbLoraBackend, O: Objective<B>> {
    seed: u64,
    learner: Learner<B, O>,
    /// The number of values of each of the head's parameters.
    head: Vec<usize>,
    epoch: Option<Epoch<'a, O::Rows>>,
}

/// The rest of an epoch.
struct Epoch<'a, R> {
    number: usize,
    /// The step of the epoch that the next micro-batches are of.
    next: usize,
    micro_batches: Box<dyn ExactSizeIterator<Item = R> + 'a>,
}

impl<'a, B: VbLoraBackend, O: Objective<B>> Current<'a, B, O> {
    /// The micro-batches of a step. Steps rise, except where rank 0 starts anew.
    fn rows(&mut self, prepared: &'a Prepared<B, O>, step: usize) -> Vec<O::Rows> {
        let Prepared { train, recipe, .. } = prepared;
        let of_epoch = prepared.length.steps_per_epoch;
        let (number, place) = (step / of_epoch + 1, step % of_epoch);
        let known = self.epoch.take();
        let known = known.filter(|epoch| epoch.number == number && epoch.next <= place);
        let mut epoch = known.unwrap_or_else(|| Epoch {
            number,
            next: 0,
            micro_batches: Box::new(O::epoch(train, recipe, self.seed, number)),
        });
        let skipped = (place - epoch.next) * recipe.accumulation;
        let rest = epoch.micro_batches.by_ref().skip(skipped);
        let rows = rest.take(recipe.accumulation).collect();
        epoch.next = place + 1;
        self.epoch = Some(epoch);
        rows
    }
}

impl<'a, B: VbLoraBackend, O: Objective<B>> Worker<'a, B, O> {
    /// Does what rank 0 asks for next. Returns false at the end.
    fn work(&mut self, runs: &[Run], during: &mut String) -> Result<bool> {
        // Rank 0 may itself wait for a rank that hangs. It gives up first, because it knows which one.
        let patience = 2 * self.ranks.patience;
        let Some((_, found)) = self.ranks.group.receive(patience) else {
            return Err(Error::SilentRank {
                ranks: "rank 0".into(),
                during: during.clone(),
                seconds: patience.as_secs(),
            });
        };
        match head(0, &found)? {
            Order::End => return Ok(false),
            Order::Run(index) => {
                let run = runs.get(index).ok_or_else(|| Error::RankMessage {
                    rank: 0,
                    expected: format!("one of {} runs", runs.len()),
                    found: format!("run {index}"),
                })?;
                let learner = run.learner(self.prepared)?;
                self.current = Some(Current {
                    seed: run.seed,
                    head: learner.head_tensors().iter().map(|t| t.dims()[0]).collect(),
                    learner,
                    epoch: None,
                });
            }
            Order::Evaluate(shapes) => {
                during.replace_range(.., "in an evaluation");
                self.evaluate(shapes, &found)?;
            }
            Order::Step {
                step,
                shares,
                slabs,
            } => {
                *during = format!("in step {step}");
                self.step(step, &shares, &slabs, &found)?;
                *during = format!("after step {step}");
            }
        }
        Ok(true)
    }

    /// Computes and sends the outputs for this rank's batches of an evaluation.
    fn evaluate(&mut self, shapes: Vec<SiteShape>, order: &Message) -> Result<()> {
        let Self {
            prepared, ranks, ..
        } = *self;
        let Prepared { dev, recipe, .. } = prepared;
        let current = self.current("an evaluation")?;
        let count = current.head.iter().sum();
        let learner = &mut current.learner;
        let device = learner.device.clone();
        let (factors, of_head) = evaluation::ordered(shapes, count, &order.values, &device)?;
        set_head(learner, of_head);
        let outputs = learner.outputs(&factors, dev, recipe, ranks.turns())?;
        ranks.group.report(evaluation::report(outputs)?);
        Ok(())
    }

    /// The run at hand.
    fn current(&mut self, asked: &str) -> Result<&mut Current<'a, B, O>> {
        self.current.as_mut().ok_or_else(|| Error::RankMessage {
            rank: 0,
            expected: "a run before its work".into(),
            found: asked.to_owned(),
        })
    }

    /// Computes and sends this rank's micro-batches of a step.
    fn step(
        &mut self,
        step: usize,
        shares: &[f64],
        slabs: &[[usize; 2]],
        order: &Message,
    ) -> Result<()> {
        let Self {
            prepared,
            ranks,
            exchange,
            interrupted,
            ..
        } = *self;
        // As rank 0 decides.
        let exchange = exchange.filter(|_| shares.len() >= ranks.size());
        let current = self.current(&format!("step {step}"))?;
        let rows = current.rows(prepared, step);
        if rows.len() != shares.len() {
            return Err(Error::RankMessage {
                rank: 0,
                expected: "a step of this rank's data".into(),
                found: format!("step {step} of {} micro-batches", shares.len()),
            });
        }
        let learner = &mut current.learner;
        let composed: usize = slabs.iter().map(|[rows, columns]| rows * columns).sum();
        let factors = match exchange {
            Some(exchange) => {
                let device = &learner.device;
                let slabs = slabs.iter().map(|&shape| Tensor::empty(shape, device));
                let head = current
                    .head
                    .iter()
                    .map(|&size| Tensor::empty([size], device));
                let values = Values {
                    slabs: slabs.collect(),
                    flat: head.collect(),
                };
                let Values { slabs, flat } = values.broadcast(exchange);
                let mut of_head = flat.into_iter();
                learner.set_head(|_| of_head.next().expect("one for each parameter"));
                learner.factors_of(&slabs)
            }
            None => {
                check_len(
                    0,
                    composed + current.head.iter().sum::<usize>(),
                    &order.values,
                )?;
                let (of_slabs, of_head) = order.values.split_at(composed);
                set_head(learner, of_head);
                let mut pieces = Pieces::new(upload(of_slabs.to_vec(), &learner.device));
                let slabs = slabs.iter().map(|&shape| pieces.matrix(shape));
                learner.factors_of(&slabs.collect::<Vec<_>>())
            }
        };
        let (rank, size) = (ranks.rank(), ranks.size());
        let mut sums = match exchange {
            Some(_) => Sums::InSlabs(None),
            None => Sums::Flat(None),
        };
        for number in (rank..rows.len()).step_by(size) {
            let batch = O::batch(&prepared.train, &rows[number], learner.base())?;
            let noise = Noise::new(current.seed, step as u64, number as u64);
            let micro = learner.micro_batch(&factors, &batch, noise, shares[number])?;
            match &mut sums {
                Sums::InSlabs(sum) => {
                    let layout = Layout::of(&micro);
                    let micro = learner.in_slabs(micro)?;
                    match sum {
                        None => *sum = Some((number, layout, micro)),
                        Some((.., sum)) => sum.add(micro),
                    }
                }
                Sums::Flat(sum) => {
                    let flat = Flat::of(micro);
                    match (ranks.sending, sum.take()) {
                        (Sending::EachMicroBatch, _) => {
                            let values = host_tensor(flat.values).values;
                            report(ranks, step, (number, flat.layout), values, interrupted)?;
                        }
                        (Sending::OneSum, None) => *sum = Some((number, flat)),
                        (Sending::OneSum, Some((first, earlier))) => {
                            *sum = Some((first, earlier.plus(flat, rank)?));
                        }
                    }
                }
            }
        }
        match (sums, exchange) {
            (Sums::Flat(Some((first, Flat { layout, values }))), _) => {
                let values = host_tensor(values).values;
                report(ranks, step, (first, layout), values, interrupted)?;
            }
            (Sums::InSlabs(Some((first, layout, sum))), Some(exchange)) => {
                exchange::sum(exchange, sum);
                exchange::check(exchange)?;
                report(ranks, step, (first, layout), Vec::new(), interrupted)?;
            }
            _ => {}
        }
        // The reports of a rank with work say so as well.
        if rank >= rows.len() && interrupted.load(Ordering::Relaxed) {
            let report = message(&Report::Interrupted, Vec::new())?;
            ranks.group.report(report);
        }
        Ok(())
    }
}

/// The sum of this rank's micro-batches, and the number of the first.
enum Sums<B: VbLoraBackend> {
    /// For messages.
    Flat(Option<(usize, Flat<B>)>),
    /// For an exchange.
    InSlabs(Option<(usize, Layout, SlabGradients<B>)>),
}

/// Gives the head these values, a buffer for each parameter.
fn set_head<B: VbLoraBackend, O: Objective<B>>(learner: &mut Learner<B, O>, values: &[f32]) {
    let (mut rest, device) = (values, learner.device.clone());
    learner.set_head(|size| {
        let (own, later) = rest.split_at(size);
        rest = later;
        upload(own.to_vec(), &device)
    });
}

/// Sends gradients of micro-batch `number`, or of that one and later ones, with their layout.
fn report(
    ranks: Ranks<'_>,
    step: usize,
    (number, layout): (usize, Layout),
    values: Vec<f32>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let part = Part {
        step,
        number,
        interrupted: interrupted.load(Ordering::Relaxed),
        layout,
    };
    let report = Report::Gradients(part);
    ranks.group.report(message(&report, values)?);
    Ok(())
}
