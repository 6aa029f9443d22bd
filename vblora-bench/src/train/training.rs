//! A run in progress: steps, evaluations and checkpoints.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use burn::module::AutodiffModule;
use vblora::{Factors, backend::VbLoraBackend};

use super::{
    checkpoint::{Progress, RunCheckpoints},
    compact,
    learner::{Learner, Trained},
    length::Length,
    log::StepLog,
    objective::Objective,
    ranks::{Communication, Leader},
    run::{Prepared, Run},
    run_dir::RunDir,
    step::StepSum,
};
use crate::{
    Error, Result,
    recordings::{Header, Recorder},
    results::{EpochResult, EpochScores, RunResult, Stop, best_epoch, since_best},
    schedule::Schedule,
    tasks::Evaluation,
};

/// A step's micro-batches, and the sum of their gradients.
struct Begun<B: VbLoraBackend, O: Objective<B>> {
    batches: Vec<O::Batch>,
    sum: StepSum<B>,
    /// With other ranks, if there are any.
    communication: Option<Communication>,
}

impl<B: VbLoraBackend, O: Objective<B>> Begun<B, O> {
    /// Computes the gradients of step number `step` over these rows.
    fn new(
        learner: &Learner<B, O>,
        leader: Option<&mut Leader<'_, B>>,
        train: &O::Split,
        step: usize,
        rows: &[O::Rows],
    ) -> Result<Self> {
        let base = learner.base();
        let batches = rows.iter().map(|rows| O::batch(train, rows, base));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let (sum, communication) = match leader {
            None => (learner.gradients(step, &batches)?, None),
            Some(leader) => {
                let (sum, communication) = leader.gradients(learner, step, &batches)?;
                (sum, Some(communication))
            }
        };
        Ok(Self {
            batches,
            sum,
            communication,
        })
    }
}

pub(super) struct Training<'a, B: VbLoraBackend, O: Objective<B>> {
    run: Run,
    prepared: &'a Prepared<B, O>,
    learner: Learner<B, O>,
    progress: Progress,
    schedule: Schedule,
    length: Length,
    log: &'a mut StepLog,
    dir: Option<&'a RunDir>,
    checkpoints: Option<RunCheckpoints>,
    recorder: Option<Recorder>,
    /// Deals micro-batches out, if there are other ranks.
    leader: Option<Leader<'a, B>>,
    /// The next step, if a GPU has got it already.
    ahead: Option<Result<Begun<B, O>>>,
    /// The time when this process started the run, and the seconds of earlier processes.
    started: (Instant, f64),
}

impl<'a, B: VbLoraBackend, O: Objective<B>> Training<'a, B, O> {
    /// Starts a run before its first step or, in a resumed directory, at its latest checkpoint.
    pub(super) fn start(
        run: Run,
        prepared: &'a Prepared<B, O>,
        mut learner: Learner<B, O>,
        fresh: RunResult,
        log: &'a mut StepLog,
        dir: Option<&'a RunDir>,
    ) -> Result<Self> {
        let (recipe, length) = (&prepared.recipe, prepared.length);
        if let (Some(reason), Some(_)) = (learner.why_whole(), dir) {
            tracing::warn!("checkpoints will hold all logits: {reason}");
        }
        let schedule = recipe.schedule(length.steps);
        let open = |dir| RunCheckpoints::open(dir, run, &prepared.identity);
        let mut checkpoints = dir.map(open).transpose()?;
        let reached = match &mut checkpoints {
            Some(found) if dir.is_some_and(RunDir::is_resumed) => {
                found.resume(&mut learner, &fresh, length)?
            }
            _ => None,
        };
        let progress = reached.unwrap_or(Progress {
            result: fresh,
            loss_sum: 0.0,
            examples: 0,
        });
        let recorder = match (dir, learner.vblora()) {
            (Some(dir), Some(adapter)) => {
                let header = Header::new(
                    run.label(),
                    recipe.task.to_string(),
                    adapter.settings().clone(),
                    length.steps_per_epoch as u64,
                    length.steps as u64,
                );
                dir.recorder(&run, &header, progress.result.steps, &adapter.valid())?
            }
            _ => None,
        };
        if let (Some(dir), 0) = (dir, progress.result.steps) {
            dir.clear(&run)?;
        }
        log.start(&run, length.steps, &progress.result)?;
        Ok(Self {
            run,
            prepared,
            learner,
            started: (Instant::now(), progress.result.seconds),
            progress,
            schedule,
            length,
            log,
            dir,
            checkpoints,
            recorder,
            leader: None,
            ahead: None,
        })
    }

    /// The same run by other ranks too.
    pub(super) fn with(self, leader: Option<Leader<'a, B>>) -> Self {
        Self { leader, ..self }
    }

    /// Trains to the end, or to an interruption, which writes a checkpoint.
    pub(super) fn run(mut self, interrupted: &AtomicBool) -> Result<RunResult> {
        let first = self.progress.result.steps as usize / self.length.steps_per_epoch + 1;
        for epoch in first..=self.prepared.recipe.epochs {
            if let Some(stop) = self.epoch(epoch, interrupted)? {
                self.progress.result.stop = stop;
                break;
            }
        }
        let is_sound = !self.progress.result.stop.is_failure();
        let recorder = self.recorder.as_mut().filter(|_| is_sound);
        if let (Some(recorder), Some(adapter)) = (recorder, self.learner.vblora()) {
            recorder.end(self.progress.result.steps, &adapter.valid())?;
        }
        self.log.finish(&self.run)?;
        self.count_seconds();
        Ok(self.progress.result)
    }

    /// Trains the rest of an epoch. Returns the reason if the run ends in it.
    fn epoch(&mut self, epoch: usize, interrupted: &AtomicBool) -> Result<Option<Stop>> {
        let Prepared { recipe, train, .. } = self.prepared;
        let done = self.progress.result.steps as usize - (epoch - 1) * self.length.steps_per_epoch;
        let micro_batches = O::epoch(train, recipe, self.run.seed, epoch);
        let mut micro_batches = micro_batches.skip(done * recipe.accumulation);
        let mut next_rows = || -> Option<Vec<O::Rows>> {
            let rows: Vec<_> = micro_batches.by_ref().take(recipe.accumulation).collect();
            (!rows.is_empty()).then_some(rows)
        };
        let mut next = next_rows();
        while let Some(rows) = next {
            next = next_rows();
            if let Some(stop) = self.end() {
                return Ok(Some(stop));
            }
            if interrupted.load(Ordering::Relaxed) || self.is_another_interrupted() {
                return Ok(self.checkpoint()?.or(Some(Stop::Interrupted)));
            }
            let stop = match self.step(&rows, next.as_deref())? {
                None => self.evaluate_and_save()?,
                stop => stop,
            };
            if stop.is_some() {
                return Ok(stop);
            }
        }
        Ok(None)
    }

    /// The end that the recipe sets, once the run has reached it. It is a function of the progress, so a resumed run ends there too.
    fn end(&self) -> Option<Stop> {
        let RunResult { steps, epochs, .. } = &self.progress.result;
        if *steps == self.length.steps as u64 {
            return Some(Stop::Completed);
        }
        let recipe = &self.prepared.recipe;
        let patience = recipe.evaluation.patience?;
        let waited = since_best(epochs, recipe.task.primary_metric);
        (waited >= patience).then_some(Stop::Early { step: *steps })
    }

    /// Evaluates and writes a checkpoint, each if it is due after this step. Returns the reason if a value is not finite, which ends the run.
    fn evaluate_and_save(&mut self) -> Result<Option<Stop>> {
        let step = self.progress.result.steps;
        let is_evaluated = self.length.is_evaluated(step);
        if is_evaluated && let Some(stop) = self.evaluate()? {
            return Ok(Some(stop));
        }
        let is_due = self.checkpoints.as_ref().is_some_and(|c| c.is_due(step));
        match is_evaluated || is_due || self.length.ends_epoch(step) {
            true => self.checkpoint(),
            false => Ok(None),
        }
    }

    /// True if a rank other than 0 was asked to end.
    fn is_another_interrupted(&self) -> bool {
        self.leader.as_ref().is_some_and(Leader::is_interrupted)
    }

    /// Takes a step over these rows. A GPU also begins the step over the next ones.
    fn step(&mut self, rows: &[O::Rows], next: Option<&[O::Rows]>) -> Result<Option<Stop>> {
        let Prepared { recipe, train, .. } = self.prepared;
        let step = self.progress.result.steps as usize;
        let started = Instant::now();
        let (learner, leader) = (&mut self.learner, &mut self.leader);
        let begun = self.ahead.take();
        let begun =
            begun.unwrap_or_else(|| Begun::new(learner, leader.as_mut(), train, step, rows));
        let Begun {
            batches,
            sum,
            communication,
        } = begun?;
        let factor = self.schedule.factor(step);
        let next = next.filter(|_| learner.begins_early());
        let next = |learner: &_| {
            next.map(|rows| Begun::new(learner, leader.as_mut(), train, step + 1, rows))
        };
        let (report, ahead) = learner.finish_then(sum, factor, next)?;
        self.ahead = ahead.flatten();
        if let Some(leader) = leader {
            leader.check()?;
        }
        let has_head = self.prepared.summary.head > 0;
        let rates = self.run.rates(recipe, has_head, factor);
        self.log.step(&self.run, step, report, rates)?;
        if let Some(communication) = communication {
            self.log.communication(&self.run, step, communication)?;
        }
        if !report.is_finite() {
            return Ok(Some(Stop::NonFiniteLoss { step: step as u64 }));
        }
        let examples: usize = batches.iter().map(O::weight).sum();
        self.progress.loss_sum += report.loss * examples as f64;
        self.progress.examples += examples;
        if let Some(tokens) = batches.iter().map(O::tokens).sum::<Option<usize>>() {
            let speed = self.progress.result.speed.get_or_insert_default();
            speed.tokens += tokens as u64;
            speed.seconds += started.elapsed().as_secs_f64();
        }
        self.progress.result.steps += 1;
        self.record()?;
        Ok(None)
    }

    /// Records the selection if it is due. Nothing is read back otherwise.
    fn record(&mut self) -> Result<()> {
        let step = self.progress.result.steps;
        match (&mut self.recorder, self.learner.vblora()) {
            (Some(recorder), Some(adapter)) if recorder.is_due(step) => {
                recorder.record(step, &adapter.valid())
            }
            _ => Ok(()),
        }
    }

    /// The end of a run in which `what` is not finite.
    fn non_finite(&self, what: String) -> Stop {
        let step = self.progress.result.steps;
        Stop::NonFinite { what, step }
    }

    /// Scores the development split with these factors, by all ranks.
    fn examine(&mut self, factors: &Factors<B>) -> Result<Evaluation> {
        let Prepared { recipe, dev, .. } = self.prepared;
        match &mut self.leader {
            None => self.learner.examine_with(factors, dev, recipe),
            Some(leader) => {
                let step = self.progress.result.steps;
                leader.examine(&self.learner, factors, (dev, recipe), step)
            }
        }
    }

    /// Evaluates, and saves the files of the best evaluation. Returns the reason if the run ends because a value is not finite.
    fn evaluate(&mut self) -> Result<Option<Stop>> {
        let Prepared { recipe, .. } = self.prepared;
        if let Some(parameter) = self.learner.non_finite() {
            return Ok(Some(self.non_finite(parameter)));
        }
        let factors = self.learner.factors();
        let Evaluation {
            scores: metrics,
            by_class,
        } = match self.examine(&factors) {
            Err(Error::NonFinite { what }) => return Ok(Some(self.non_finite(what))),
            metrics => metrics?,
        };
        let step = self.progress.result.steps;
        let scores = EpochResult {
            epoch: self.length.epoch(step),
            step: Some(step),
            train_loss: self.progress.loss_sum / self.progress.examples as f64,
            metrics,
        };
        (self.progress.loss_sum, self.progress.examples) = (0.0, 0);
        let ends_epoch = self.length.ends_epoch(step);
        self.log.epoch(&self.run, &scores, ends_epoch)?;
        let result = &mut self.progress.result;
        result.epochs.push(scores);
        result.last = result.epochs.last().map(EpochScores::from);
        let best = best_epoch(&result.epochs, recipe.task.primary_metric);
        if best.is_none_or(|best| best.step != Some(step)) {
            return Ok(None);
        }
        result.best = best.map(EpochScores::from);
        result.by_class = by_class;
        let Some(dir) = self.dir else {
            return Ok(None);
        };
        match self.save(dir) {
            Err(Error::NonFinite { what }) => {
                Ok(Some(self.non_finite(format!("{what} of 8 bits"))))
            }
            saved => saved.map(|()| None),
        }
    }

    /// Writes the adapter of the best evaluation, and measures the loss of the compact file.
    fn save(&mut self, dir: &RunDir) -> Result<()> {
        dir.save_trained(&self.run, &self.learner, self.prepared)?;
        if matches!(self.learner.trained(), Trained::Adapter(_)) {
            dir.save_card(&self.run, self.prepared, &self.progress.result)?;
        }
        let Some(file) = compact::save(dir, &self.run, &self.learner, self.prepared)? else {
            return Ok(());
        };
        let scores = self.examine(&file.factors)?.scores;
        let compact = file.scored(scores);
        match &self.progress.result.last {
            Some(evaluation) => self.log.compact(&self.run, evaluation, &compact),
            None => Ok(()),
        }
    }

    /// Saves the progress. Returns the reason if the state is not finite and cannot be resumed.
    fn checkpoint(&mut self) -> Result<Option<Stop>> {
        self.count_seconds();
        let Some(checkpoints) = &mut self.checkpoints else {
            return Ok(None);
        };
        if let Some(parameter) = self.learner.non_finite() {
            return Ok(Some(self.non_finite(parameter)));
        }
        // The log and the recording of these steps must last as long as the checkpoint.
        self.log.sync()?;
        if let Some(recorder) = &mut self.recorder {
            recorder.sync()?;
        }
        checkpoints.save(&self.learner, &self.progress)?;
        Ok(None)
    }

    fn count_seconds(&mut self) {
        let (start, before) = self.started;
        self.progress.result.seconds = before + start.elapsed().as_secs_f64();
    }
}
