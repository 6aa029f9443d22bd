//! The progress of a run on disk: what is saved, and how it is found again.

use serde::{Deserialize, Serialize};
use vblora::{
    backend::VbLoraBackend,
    storage::checkpoint::{Checkpoints, FileSet, Form},
};

use super::{
    identity::Identity, learner::Learner, learner_state::LearnerState, objective::Objective,
    run_dir::RunDir,
};
use crate::{Error, Result, report::RunResult};

/// The file of [`State`].
const STATE: &str = "state.json";

/// The file of parameters and moments.
const TENSORS: &str = "tensors.safetensors";

/// The version of [`State`]; others are refused.
const FORMAT: u32 = 1;

/// When checkpoints are written besides after every epoch, and how many stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// Also after every so many optimizer steps.
    pub every: Option<usize>,
    /// How many of the last ones stay, at least 1; that of the best epoch stays besides.
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
    /// A setting of zero.
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

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// The outcome so far: the steps taken and the epochs evaluated.
    pub(super) result: RunResult,
    /// The sum of the losses of the present epoch's examples, or predicted tokens.
    pub(super) loss_sum: f64,
    /// How many that were.
    pub(super) examples: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    identity: Identity,
    optimizer_steps: i32,
    /// Why every logit is stored, where all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all_logits: Option<String>,
    progress: Progress,
}

/// The checkpoints of one run.
#[derive(Debug)]
pub(super) struct RunCheckpoints {
    store: Checkpoints,
    settings: CheckpointSettings,
    identity: Identity,
    /// The step of the newest set, which need not be written again.
    newest: Option<u64>,
}

impl RunCheckpoints {
    pub(super) fn open(dir: &RunDir, run: &str, identity: &Identity) -> Result<Self> {
        Ok(Self {
            store: Checkpoints::open(&dir.checkpoints(run))?,
            settings: dir.settings(),
            identity: identity.clone(),
            newest: None,
        })
    }

    /// Whether one is due after this step, epochs apart.
    pub(super) fn is_due(&self, step: u64) -> bool {
        let is_multiple = |every: usize| step.is_multiple_of(every as u64);
        self.settings.every.is_some_and(is_multiple)
    }

    /// Saves how far the run has come, unless that is saved already, and removes what need not stay; `best` is the step at the end of the
    /// best epoch.
    ///
    /// # Errors
    /// A file cannot be written; a value is not finite.
    pub(super) fn save<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        learner: &Learner<B, O>,
        progress: &Progress,
        best: Option<u64>,
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
        self.store.keep(self.settings.keep, best)?;
        self.newest = Some(step);
        Ok(())
    }

    /// Brings a learner to the latest sound checkpoint and says how far that was; `None` where there is none. Damaged ones are skipped with
    /// a warning that names what is wrong.
    ///
    /// # Errors
    /// The checkpoint is of another backend, base, recipe or data; the folder cannot be read.
    pub(super) fn resume<B: VbLoraBackend, O: Objective<B>>(
        &mut self,
        learner: &mut Learner<B, O>,
        steps_per_epoch: usize,
    ) -> Result<Option<Progress>> {
        let steps = self.store.steps()?;
        for &step in steps.iter().rev() {
            match self.load(step, learner, steps_per_epoch) {
                Ok(progress) => {
                    self.newest = Some(step);
                    // A kill may have come before the older ones were removed. Beside damaged ones all stay.
                    if steps.last() == Some(&step) {
                        let best = progress.result.best.as_ref();
                        let best = best.map(|best| (best.epoch * steps_per_epoch) as u64);
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
        steps_per_epoch: usize,
    ) -> Result<Progress> {
        let place = self.store.place(step);
        let mut set = self.store.load(step)?;
        let damaged = |file: &str, reason: String| {
            let path = place.join(file);
            Error::Adapter(vblora::Error::Format { path, reason })
        };
        let missing = |file: &str| damaged(file, "not in the set".into());
        let state = set.get(STATE).ok_or_else(|| missing(STATE))?;
        let state: State =
            serde_json::from_slice(state).map_err(|error| damaged(STATE, error.to_string()))?;
        if state.format != FORMAT {
            let reason = format!("format {}, but this version reads {FORMAT}", state.format);
            return Err(damaged(STATE, reason));
        }
        if let Some((part, there, here)) = self.identity.difference(&state.identity) {
            return Err(Error::OtherRun {
                place,
                part,
                expected: there.to_owned(),
                found: here.to_owned(),
            });
        }
        let result = &state.progress.result;
        let epochs = result.epochs.len() as u64;
        if result.steps != step || epochs != step / steps_per_epoch as u64 {
            let (steps, place) = (result.steps, format!("step {step}"));
            let reason = format!("{steps} steps and {epochs} epochs do not belong at {place}");
            return Err(damaged(STATE, reason));
        }
        let tensors = set.take(TENSORS).ok_or_else(|| missing(TENSORS))?;
        let steps = state.optimizer_steps;
        learner.restore(&place.join(TENSORS), LearnerState { steps, tensors })?;
        Ok(state.progress)
    }
}

/// Which parameters are stored in part.
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
