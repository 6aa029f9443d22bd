//! Saves the progress of a run to the disk, and restores it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vblora::{
    backend::VbLoraBackend,
    storage::{
        checkpoint::{Checkpoints, FileSet, Form, MANIFEST},
        read_file, strict_json,
    },
};

use super::{
    identity::Identity, layout::is_run, learner::Learner, learner_state::LearnerState,
    length::Length, objective::Objective, run::Run, run_dir::RunDir,
};
use crate::{
    Error, Result,
    directory::names,
    limits::MAX_RESULTS_BYTES,
    results::{EpochScores, RunResult, Stop, best_epoch},
    tasks::{Task, check_scores},
};

/// The file of [`State`].
const STATE: &str = "state.json";

/// The file of parameters and moments.
const TENSORS: &str = "tensors.safetensors";

/// The version of [`State`]. Other versions are refused.
const FORMAT: u32 = 1;

/// The checkpoints of a run, in addition to those after every epoch and every evaluation, and the number that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// The number of optimizer steps between checkpoints.
    pub every: Option<usize>,
    /// The number of latest checkpoints to keep, at least 1. The checkpoint of the best evaluation is kept in addition.
    pub keep: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every: None,
            keep: 2,
        }
    }
}

impl CheckpointSettings {
    /// # Errors
    /// A setting is zero.
    pub fn validate(&self) -> Result<()> {
        for (setting, value) in [("checkpoint-every", self.every), ("keep", Some(self.keep))] {
            if value == Some(0) {
                return Err(Error::Setting {
                    setting: setting.into(),
                    expected: "at least 1".into(),
                    found: "0".into(),
                });
            }
        }
        Ok(())
    }
}

/// The progress of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// The result so far: the steps taken and the evaluations, from which early stopping follows.
    pub(super) result: RunResult,
    /// The sum of the losses of the examples or predicted tokens since the last evaluation.
    pub(super) loss_sum: f64,
    /// The number of these examples or tokens.
    pub(super) examples: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    identity: Identity,
    optimizer_steps: i32,
    /// The reason why every logit is stored, if all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all_logits: Option<String>,
    progress: Progress,
}

/// Returns true if the name is that of a checkpoint in a run's folder of checkpoints.
pub(super) fn is_set(name: &str) -> bool {
    Checkpoints::is_set(name)
}

/// Returns true if the name is that of a checkpoint's file.
pub(super) fn is_of_set(name: &str) -> bool {
    [STATE, TENSORS, MANIFEST].contains(&name)
}

/// The identity and the path of the latest checkpoint of a session. Unreadable checkpoints are skipped. `folder` has one subfolder per run.
pub(super) fn latest_identity(folder: &Path) -> Option<(PathBuf, Identity)> {
    #[derive(Deserialize)]
    struct Bound {
        identity: Identity,
    }
    let within = |folder: &Path, is_wanted: fn(&str) -> bool| {
        let names = names(folder).unwrap_or_default();
        let wanted = names.into_iter().filter(|name| is_wanted(name));
        wanted.map(|name| folder.join(name)).collect::<Vec<_>>()
    };
    let runs = within(folder, is_run).into_iter();
    let sets = runs.flat_map(|run| within(&run, is_set));
    let bound = sets.filter_map(|set| {
        let state = read_file(&set.join(STATE), MAX_RESULTS_BYTES).ok()?;
        let Bound { identity } = strict_json::from_slice(&state).ok()?;
        Some((set, identity))
    });
    bound.max_by(|(a, _), (b, _)| a.file_name().cmp(&b.file_name()))
}

/// The checkpoints of one run.
#[derive(Debug)]
pub(super) struct RunCheckpoints {
    store: Checkpoints,
    run: Run,
    settings: CheckpointSettings,
    identity: Identity,
    /// The step of the newest checkpoint, which need not be written again.
    newest: Option<u64>,
}

impl RunCheckpoints {
    pub(super) fn open(dir: &RunDir, run: Run, identity: &Identity) -> Result<Self> {
        Ok(Self {
            store: Checkpoints::open(&dir.checkpoints(&run.file_name()))?,
            run,
            settings: dir.settings(),
            identity: identity.clone(),
            newest: None,
        })
    }

    /// Returns true if a checkpoint is due after this step. Evaluations and ends of epochs are handled elsewhere.
    pub(super) fn is_due(&self, step: u64) -> bool {
        let is_multiple = |every: usize| step.is_multiple_of(every as u64);
        self.settings.every.is_some_and(is_multiple)
    }

    /// Saves the progress of the run, unless it is already saved, and removes old checkpoints.
    ///
    /// # Errors
    /// A file cannot be written; a value is not finite.
    pub(super) fn save<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        learner: &Learner<B, O>,
        progress: &Progress,
    ) -> Result<()> {
        let step = progress.result.steps;
        if self.newest == Some(step) {
            return Ok(());
        }
        let (LearnerState { steps, tensors }, forms) = learner.state()?;
        let state = State {
            format: FORMAT,
            identity: self.identity.clone(),
            optimizer_steps: steps,
            all_logits: learner.why_whole(),
            progress: progress.clone(),
        };
        let state = serde_json::to_vec_pretty(&state).map_err(|cause| Error::Json {
            file: STATE.into(),
            cause,
        })?;
        let mut set = FileSet::default();
        set.insert(STATE, state)?;
        set.insert(TENSORS, tensors)?;
        tracing::debug!(
            "checkpoint at step {step}: {} bytes; {}",
            set.bytes(),
            describe(&forms)
        );
        self.store.save(step, &set)?;
        self.store.keep(self.settings.keep, progress.best_step())?;
        self.newest = Some(step);
        Ok(())
    }

    /// Restores a learner from the latest sound checkpoint and returns its progress, or `None` without a checkpoint. Damaged checkpoints
    /// are skipped with a warning that names the damage. `fresh` is the result of a run before its first step.
    ///
    /// # Errors
    /// The checkpoint belongs to another run, backend, base, recipe or data; the folder cannot be read.
    pub(super) fn resume<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        learner: &mut Learner<B, O>,
        fresh: &RunResult,
        length: Length,
    ) -> Result<Option<Progress>> {
        let steps = self.store.steps()?;
        for &step in steps.iter().rev() {
            match self.load(step, learner, fresh, length) {
                Ok(progress) => {
                    self.newest = Some(step);
                    // A kill may have prevented the removal of older checkpoints. If there are damaged ones, all stay.
                    if steps.last() == Some(&step) {
                        let best = progress.best_step();
                        self.store.keep(self.settings.keep, best)?;
                    }
                    return Ok(Some(progress));
                }
                Err(error @ Error::OtherRun { .. }) => return Err(error),
                Err(error) => tracing::warn!("checkpoint of step {step} skipped: {error}"),
            }
        }
        Ok(None)
    }

    fn load<B: VbLoraBackend, O: Objective<B>>(
        &self,
        step: u64,
        learner: &mut Learner<B, O>,
        fresh: &RunResult,
        length: Length,
    ) -> Result<Progress> {
        let place = self.store.place(step);
        let mut set = self.store.load(step)?;
        let damaged = |file: &str, reason: String| {
            let path = place.join(file);
            Error::Adapter(vblora::Error::Format { path, reason })
        };
        let missing = |file: &str| damaged(file, "not in the set".into());
        let state = set.get(STATE).ok_or_else(|| missing(STATE))?;
        let mut state: State =
            strict_json::from_slice(state).map_err(|reason| damaged(STATE, reason))?;
        if state.format != FORMAT {
            let reason = format!("format {}, but this version reads {FORMAT}", state.format);
            return Err(damaged(STATE, reason));
        }
        self.check_run(&place, &state)?;
        state.progress.add_steps(length);
        state
            .check(step, length, &fresh.task)
            .map_err(|reason| damaged(STATE, reason))?;
        let tensors = set.take(TENSORS).ok_or_else(|| missing(TENSORS))?;
        let steps = state.optimizer_steps;
        learner.restore(&place.join(TENSORS), LearnerState { steps, tensors })?;
        Ok(state.progress.of(fresh))
    }

    /// Refuses a checkpoint of another run, or of the same run with other settings.
    fn check_run(&self, place: &Path, state: &State) -> Result<()> {
        let other = |part: &str, expected: &str, found: &str| Error::OtherRun {
            place: place.to_owned(),
            part: part.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        if let Some((part, there, here)) = self.identity.difference(&state.identity) {
            return Err(other(part, there, here));
        }
        let RunResult { method, seed, .. } = &state.progress.result;
        let (there, here) = (format!("{method} seed {seed}"), self.run.label());
        match there == here {
            true => Ok(()),
            false => Err(other("run", &there, &here)),
        }
    }
}

impl State {
    /// Checks the state after `step` steps of a run.
    fn check(&self, step: u64, length: Length, task: &Task) -> std::result::Result<(), String> {
        let Progress {
            result,
            loss_sum,
            examples,
        } = &self.progress;
        let epochs = result.epochs.len() as u64;
        if result.steps != step || epochs != length.evaluations(step) {
            let steps = result.steps;
            return Err(format!(
                "{steps} steps and {epochs} evaluations do not belong at step {step}"
            ));
        }
        if step > length.steps as u64 {
            return Err(format!(
                "step {step} is beyond the {} steps of the run",
                length.steps
            ));
        }
        // A step that is not finite ends the run without a checkpoint, so both counts are equal.
        if u64::try_from(self.optimizer_steps) != Ok(step) {
            let found = self.optimizer_steps;
            return Err(format!(
                "optimizer_steps: expected {step}, as many as the run has taken, found {found}"
            ));
        }
        let places = result.epochs.iter().map(|at| (at.epoch, at.step));
        let expected = (1..=step).filter(|&at| length.is_evaluated(at));
        if !places.eq(expected.map(|at| (length.epoch(at), Some(at)))) {
            return Err("its evaluations are not where its recipe sets them".into());
        }
        let begins = length.is_evaluated(step);
        if begins && (*examples, *loss_sum) != (0, 0.0) {
            return Err(format!(
                "step {step} was evaluated, but {examples} examples are counted since then"
            ));
        }
        if !begins && *examples == 0 {
            return Err(format!(
                "step {step} comes after an evaluation, but no example is counted since then"
            ));
        }
        self.progress.check_numbers(task)
    }
}

impl Progress {
    /// The step of the best evaluation.
    fn best_step(&self) -> Option<u64> {
        self.result.best.as_ref()?.step
    }

    /// Adds the steps of evaluations that an earlier version has saved without them. It evaluated at the ends of epochs.
    fn add_steps(&mut self, length: Length) {
        for at in &mut self.result.epochs {
            let end = at.epoch.saturating_mul(length.steps_per_epoch) as u64;
            at.step.get_or_insert(end);
        }
    }

    /// Refuses numbers that are impossible for the task.
    fn check_numbers(&self, task: &Task) -> std::result::Result<(), String> {
        let RunResult {
            epochs,
            by_class,
            seconds,
            speed,
            ..
        } = &self.result;
        let speed = speed.map_or(0.0, |speed| speed.seconds);
        let losses = epochs.iter().map(|epoch| ("train_loss", epoch.train_loss));
        let numbers = [
            ("loss_sum", self.loss_sum),
            ("seconds", *seconds),
            ("speed", speed),
        ];
        for (name, number) in losses.chain(numbers) {
            if !(number.is_finite() && number >= 0.0) {
                return Err(format!("{name}: expected a number from 0, found {number}"));
            }
        }
        if let Some(by_class) = by_class {
            by_class.check(task.classes())?;
        }
        epochs
            .iter()
            .try_for_each(|epoch| check_scores(task, &epoch.metrics))
    }

    /// The progress of the run with this fresh result. The fresh result gives the run's identity and parameter counts.
    fn of(self, fresh: &RunResult) -> Self {
        let RunResult {
            epochs,
            by_class,
            steps,
            seconds,
            speed,
            ..
        } = self.result;
        let best = best_epoch(&epochs, fresh.task.primary_metric).map(EpochScores::from);
        Self {
            result: RunResult {
                best,
                last: epochs.last().map(EpochScores::from),
                by_class,
                epochs,
                steps,
                seconds,
                speed,
                stop: Stop::Completed,
                ..fresh.clone()
            },
            ..self
        }
    }
}

/// Lists the parameters that are stored in part.
fn describe(forms: &[(String, Form)]) -> String {
    let touched = |(path, form): &(String, Form)| match form {
        Form::Touched { elements, of } => Some(format!("{path}: {elements} of {of}")),
        Form::Whole => None,
    };
    let touched: Vec<_> = forms.iter().filter_map(touched).collect();
    match touched.as_slice() {
        [] => "every parameter whole".into(),
        some => some.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::{Metric, Scores},
        recipes::{Recipe, Size},
        results::{EpochResult, test_run},
    };

    #[test]
    fn a_state_that_disagrees_with_itself_says_in_what() {
        let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        recipe.epochs = 2;
        let length = Length::new(&recipe, 3).unwrap();
        let state = |edit: &dyn Fn(&mut State)| {
            let mut result = test_run("lora", "all", 1, &[0.5]);
            result.steps = 4;
            let mut state = State {
                format: FORMAT,
                identity: Identity {
                    backend: "b".into(),
                    base: "m".into(),
                    data: "d".into(),
                    recipe: "r".into(),
                    bank: None,
                    same_recipe: None,
                },
                optimizer_steps: 4,
                all_logits: None,
                progress: Progress {
                    result,
                    loss_sum: 1.0,
                    examples: 2,
                },
            };
            edit(&mut state);
            state.progress.add_steps(length);
            let step = state.progress.result.steps;
            let task = state.progress.result.task.clone();
            state.check(step, length, &task).err().unwrap_or_default()
        };
        assert_eq!(state(&|_| ()), "");
        for forged in [-4, 0, 5, i32::MAX] {
            let message = state(&|s| s.optimizer_steps = forged);
            let found = format!("found {forged}");
            assert!(message.contains("optimizer_steps") && message.contains(&found));
        }
        let longer = |epochs: usize, steps: u64| {
            move |s: &mut State| {
                let result = test_run("lora", "all", 1, &vec![0.5; epochs]);
                s.progress.result = RunResult { steps, ..result };
                s.optimizer_steps = steps as i32;
            }
        };
        assert!(state(&longer(2, 7)).contains("beyond the 6 steps"));
        assert!(state(&longer(1, 7)).contains("7 steps and 1 evaluations"));
        assert!(state(&longer(1, 3)).contains("2 examples are counted"));
        for epoch in [7, usize::MAX] {
            let forged = state(&|s| s.progress.result.epochs[0].epoch = epoch);
            assert!(
                forged.contains("not where its recipe sets them"),
                "{forged}"
            );
        }
        let forged = state(&|s| s.progress.result.epochs[0].step = Some(2));
        assert!(
            forged.contains("not where its recipe sets them"),
            "{forged}"
        );
        assert!(state(&|s| s.progress.examples = 0).contains("no example is counted"));
        let first = |s: &mut State, change: &dyn Fn(&mut EpochResult)| {
            change(&mut s.progress.result.epochs[0]);
        };
        let metrics = |metric, value| Scores::from_iter([(metric, value)]);
        for (said, forged) in [
            ("train_loss", state(&|s| first(s, &|e| e.train_loss = -1.0))),
            (
                "train_loss",
                state(&|s| first(s, &|e| e.train_loss = f64::NAN)),
            ),
            (
                "seconds",
                state(&|s| s.progress.result.seconds = f64::INFINITY),
            ),
            ("loss_sum", state(&|s| s.progress.loss_sum = -0.5)),
            (
                "matthews",
                state(&|s| first(s, &|e| e.metrics = metrics(Metric::Matthews, Some(7.0)))),
            ),
            (
                "matthews",
                state(&|s| first(s, &|e| e.metrics = metrics(Metric::Matthews, Some(-1.5)))),
            ),
            (
                "nll",
                state(&|s| first(s, &|e| e.metrics = metrics(Metric::Nll, Some(0.5)))),
            ),
        ] {
            assert!(forged.contains(said), "{said:?} in {forged:?}");
        }
    }
}
