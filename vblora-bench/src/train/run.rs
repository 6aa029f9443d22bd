//! One run: a method with a seed, from fresh parameters to its last epoch.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use vblora::backend::VbLoraBackend;
use vblora_models::{ClassificationHead, EncoderConfig, HeadInit, Roberta};

use super::{
    data::EncodedSplit,
    learner::{Learner, Trained},
    log::StepLog,
    method::Method,
    run_dir::RunDir,
};
use crate::{
    Result,
    metrics::score,
    recipes::{self, Recipe},
    report::{EpochResult, EpochScores, RunResult, Stop, best_epoch},
    tasks::Task,
};

/// What the runs of a session share.
#[derive(Debug)]
pub struct Prepared<B: VbLoraBackend> {
    /// The pretrained encoder.
    pub base: Roberta<B>,
    /// The training split.
    pub train: EncodedSplit,
    /// The development split.
    pub dev: EncodedSplit,
    /// Every hyperparameter.
    pub recipe: Recipe,
    /// Where the model runs.
    pub device: B::Device,
}

/// A method and a seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The method.
    pub method: Method,
    /// Seeds the adapter, the head, the data's order and dropout.
    pub seed: u64,
}

impl Run {
    /// The name in logs: `vblora seed 1`.
    pub fn label(&self) -> String {
        format!("{} seed {}", self.method.name(), self.seed)
    }

    /// Trains and evaluates after each epoch, until the last one, an interruption, or a loss that is not a number.
    ///
    /// # Errors
    /// The adapter's settings do not fit the model; a file cannot be written.
    pub fn train<B: VbLoraBackend>(
        &self,
        prepared: &Prepared<B>,
        log: &mut StepLog,
        dir: Option<&RunDir>,
        interrupted: &AtomicBool,
    ) -> Result<RunResult> {
        let start = Instant::now();
        let Prepared {
            recipe, train, dev, ..
        } = prepared;
        let steps_per_epoch = train.len().div_ceil(recipe.batch * recipe.accumulation);
        let schedule = recipe.schedule(steps_per_epoch * recipe.epochs);
        let mut learner = self.learner(prepared)?;
        let mut result = self.empty_result(prepared)?;
        log.start(self, schedule.total_steps);
        'run: for epoch in 1..=recipe.epochs {
            let (mut sum, mut count) = (0.0, 0);
            let micro_batches = match recipe.group_by_length {
                true => train.grouped(self.seed, epoch, recipe.batch),
                false => train.shuffled(self.seed, epoch, recipe.batch),
            };
            for rows in micro_batches.chunks(recipe.accumulation) {
                if interrupted.load(Ordering::Relaxed) {
                    result.stop = Stop::Interrupted;
                    break 'run;
                }
                let step = result.steps as usize;
                let pad_id = prepared.base.config().pad_token_id;
                let batches = rows
                    .iter()
                    .map(|rows| train.batch(rows, pad_id))
                    .collect::<Result<Vec<_>>>()?;
                let report = learner.step(step, &batches, schedule.factor(step))?;
                log.step(
                    self,
                    step,
                    report,
                    self.rates(recipe, schedule.factor(step)),
                )?;
                if !report.is_finite() {
                    result.stop = Stop::NonFiniteLoss { step: step as u64 };
                    break 'run;
                }
                let examples: usize = batches.iter().map(|b| b.inputs.rows).sum();
                (sum, count) = (sum + report.loss * examples as f64, count + examples);
                result.steps += 1;
            }
            let metrics = score(
                recipe.task,
                &learner.predict(dev, 2 * recipe.batch)?,
                dev.labels(),
            )?;
            let scores = EpochResult {
                epoch,
                train_loss: sum / count as f64,
                metrics,
            };
            log.epoch(self, &scores)?;
            result.epochs.push(scores);
            let best =
                best_epoch(&result.epochs, recipe.task.primary_metric()).map(EpochScores::from);
            if let Some(dir) = dir.filter(|_| best.as_ref().is_some_and(|best| best.epoch == epoch))
            {
                dir.save_trained(self, &learner)?;
            }
            result.best = best;
            result.last = result.epochs.last().map(EpochScores::from);
        }
        log.finish()?;
        result.seconds = start.elapsed().as_secs_f64();
        Ok(result)
    }

    fn learner<B: VbLoraBackend>(&self, prepared: &Prepared<B>) -> Result<Learner<B>> {
        let Prepared {
            base,
            recipe,
            device,
            ..
        } = prepared;
        let trained = match self.method.adapter(recipe) {
            Some(adapter) => {
                let plan = Method::sites(recipe, base.config())?;
                Trained::Adapter(Box::new(adapter.init(&plan, self.seed, device)?))
            }
            None if self.method == Method::Full => Trained::Everything,
            None => Trained::HeadOnly,
        };
        let init = match recipe.head.init {
            recipes::HeadInit::Roberta => HeadInit::Normal(base.config().initializer_range),
            recipes::HeadInit::Torch => HeadInit::Torch,
        };
        let d = base.config().hidden_size;
        let head = ClassificationHead::init(
            d,
            recipe.task.labels(),
            recipe.head.dropout,
            init,
            self.seed,
            device,
        );
        Ok(Learner::new(base, trained, head, recipe, self.seed, device))
    }

    fn empty_result<B: VbLoraBackend>(&self, prepared: &Prepared<B>) -> Result<RunResult> {
        let Prepared {
            base,
            recipe,
            train,
            dev,
            ..
        } = prepared;
        let count = self.method.count(recipe, base.config())?;
        let head = head_parameters(base.config(), recipe.task);
        Ok(RunResult {
            method: self.method.name().into(),
            targets: self
                .method
                .adapter(recipe)
                .map_or("-".into(), |_| recipe.targets.clone()),
            task: recipe.task,
            seed: self.seed,
            epochs: Vec::new(),
            best: None,
            last: None,
            trained_parameters: count.trained as u64,
            stored_parameters: count.stored,
            stored_bytes: count.bytes as u64,
            head_parameters: head as u64,
            head_bytes: 4 * head as u64,
            steps: 0,
            seconds: 0.0,
            truncated: train.truncated() + dev.truncated(),
            stop: Stop::Completed,
        })
    }

    /// The learning rates of the groups that this method trains.
    fn rates(&self, recipe: &Recipe, factor: f64) -> Vec<(&'static str, f64)> {
        let lr = &recipe.lr;
        let own: &[(&str, f64)] = match self.method {
            Method::VbLora => &[("bank", lr.bank), ("logits", lr.logits)],
            Method::Lora => &[("adapter", lr.adapter)],
            Method::Full => &[("base", lr.base)],
            Method::Head => &[],
        };
        own.iter()
            .copied()
            .chain([("head", lr.head)])
            .map(|(group, lr)| (group, lr * factor))
            .collect()
    }
}

/// The number of parameters of the task head.
pub(super) fn head_parameters(model: &EncoderConfig, task: Task) -> usize {
    vblora_models::head_parameters(model.hidden_size, task.labels())
}
