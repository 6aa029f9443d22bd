//! The directory of a session: what was asked for, what happened, what came out.

use std::{
    io,
    path::{Path, PathBuf},
};

use burn::{backend::Autodiff, module::AutodiffModule};
use vblora::{
    AnyAdapter, Selection, VbLora,
    backend::VbLoraBackend,
    storage::{Bank, HostAdapter, Precision, peft::PeftAdapter, write_atomically},
};

use super::{
    checkpoint::CheckpointSettings,
    learner::{Learner, Trained},
    objective::{Objective, Saving},
    run::{Prepared, Run},
};
use crate::{
    Error, Result,
    recipes::Recipe,
    record::{Header, Recorder},
    report::{Results, RunResult, Stop, curves_svg, summary_table},
};

const RESULTS: &str = "results.json";
const CONFIG: &str = "config.toml";
const LOG: &str = "log.jsonl";
const CHECKPOINTS: &str = "checkpoints";

/// A directory that holds one session.
///
/// | file | what |
/// | --- | --- |
/// | `config.toml` | the resolved recipe, which `--recipe` takes, under the command as a comment |
/// | `log.jsonl` | every step and epoch |
/// | `results.json`, `table.md`, `curves.svg` | the outcome |
/// | `checkpoints/METHOD-seedN/step-N/` | what a run goes on from; the last few and the best |
/// | `selections/vblora-seedN.rec` | what VB-LoRA selected while it trained, if that was recorded ([`record`](crate::record)) |
/// | `METHOD-seedN/` | the best epoch's adapter as a PEFT directory (VB-LoRA: bank and codes; all logits of `select-all`; LoRA's factors of one with a gate), with the head in it on a RoBERTa; else `head.safetensors`; of `full` a model's directory with configuration, tokenizer and side files; VB-LoRA's also as `compact.safetensors` of 8 bits, without the head; on a frozen bank also `codes.safetensors`, bound to it |
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    settings: CheckpointSettings,
    is_resumed: bool,
    /// The steps between recorded selections.
    record_every: Option<usize>,
}

impl RunDir {
    /// Takes a directory for a new session; it is made if absent.
    ///
    /// # Errors
    /// It holds a run already and `overwrite` is not given; it cannot be made.
    pub fn create(dir: &Path, overwrite: bool, settings: CheckpointSettings) -> Result<Self> {
        for found in [RESULTS, CONFIG] {
            if !overwrite && dir.join(found).exists() {
                return Err(Error::RunExists {
                    dir: dir.to_owned(),
                    found,
                });
            }
        }
        std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, e))?;
        // Of a folder without a session the checkpoints may be anything.
        if Self::holds_session(dir) {
            Self::remove_checkpoints(dir)?;
            unless_absent(Recorder::remove_all(dir)).map_err(|e| Error::write(dir, e))?;
        }
        // What an older run left must not stand beside, or be taken for, the new one's.
        for stale in [RESULTS, "table.md", "curves.svg", LOG] {
            let path = dir.join(stale);
            unless_absent(std::fs::remove_file(&path)).map_err(|e| Error::write(&path, e))?;
        }
        Ok(Self {
            path: dir.to_owned(),
            settings,
            is_resumed: false,
            record_every: None,
        })
    }

    /// Takes the directory of a session that was interrupted or killed, to go on with it.
    ///
    /// # Errors
    /// Its configuration cannot be read, or is not `recipe`: the first line that differs is named.
    pub fn reopen(dir: &Path, recipe: &Recipe, settings: CheckpointSettings) -> Result<Self> {
        let (there, here) = (Self::recipe(dir)?.to_toml()?, recipe.to_toml()?);
        if let Some((there, here)) = first_difference(&there, &here) {
            return Err(Error::OtherRun {
                place: dir.join(CONFIG),
                part: "recipe",
                expected: there,
                found: here,
            });
        }
        Ok(Self {
            path: dir.to_owned(),
            settings,
            is_resumed: true,
            record_every: None,
        })
    }

    /// The same directory, in which what VB-LoRA selects is recorded every so many steps.
    #[must_use]
    pub fn with_recording(self, record_every: Option<usize>) -> Self {
        Self {
            record_every,
            ..self
        }
    }

    /// The recording of a run that has come to `adapter` after `step` steps, if selections are recorded.
    pub(super) fn recorder<B: VbLoraBackend>(
        &self,
        run: &Run,
        header: &Header,
        step: u64,
        adapter: &VbLora<B>,
    ) -> Result<Option<Recorder>> {
        let start =
            |every| Recorder::start(&self.path, &run.file_name(), header, every, step, adapter);
        self.record_every.map(start).transpose()
    }

    /// Whether a directory holds a session that [`reopen`](Self::reopen) can go on with.
    pub fn holds_session(dir: &Path) -> bool {
        dir.join(CONFIG).exists()
    }

    /// The recipe of the session in a directory.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn recipe(dir: &Path) -> Result<Recipe> {
        Recipe::from_toml_file(dir.join(CONFIG))
    }

    /// Removes the checkpoints of a session that has ended, from which nothing will go on.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn remove_checkpoints(dir: &Path) -> Result<()> {
        let path = dir.join(CHECKPOINTS);
        unless_absent(std::fs::remove_dir_all(&path)).map_err(|e| Error::write(&path, e))
    }

    /// Whether runs go on from their checkpoints.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// When checkpoints are written.
    pub(super) fn settings(&self) -> CheckpointSettings {
        self.settings
    }

    /// Where the checkpoints of a run lie.
    pub(super) fn checkpoints(&self, run: &str) -> PathBuf {
        self.path.join(CHECKPOINTS).join(run)
    }

    /// The runs that the session has ended, in order; one that was interrupted has not.
    ///
    /// # Errors
    /// There are results that cannot be read.
    pub fn ended_runs(&self) -> Result<Vec<RunResult>> {
        let path = self.path.join(RESULTS);
        if !self.is_resumed || !path.exists() {
            return Ok(Vec::new());
        }
        let mut runs = Results::read(&path)?.runs;
        runs.retain(|run| run.stop != Stop::Interrupted);
        Ok(runs)
    }

    /// The file of JSON lines.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Writes down what was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_config(
        &self,
        command: &str,
        model: &str,
        backend: &str,
        recipe: &Recipe,
    ) -> Result<()> {
        let comment = |key: &str, text: &str| format!("# {key}: {}\n", text.replace('\n', " "));
        let head = [
            comment("command", command),
            comment("model", model),
            comment("backend", backend),
        ]
        .concat();
        Ok(write_atomically(
            &self.path.join(CONFIG),
            (head + &recipe.to_toml()?).as_bytes(),
        )?)
    }

    /// Writes results, table and picture, replacing older ones.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_results(&self, results: &Results) -> Result<()> {
        results.write(self.path.join(RESULTS))?;
        write_atomically(
            &self.path.join("table.md"),
            summary_table(results).as_bytes(),
        )?;
        Ok(write_atomically(
            &self.path.join("curves.svg"),
            curves_svg(results)?.as_bytes(),
        )?)
    }

    /// Where a run's adapter goes.
    pub(super) fn of(&self, run: &Run) -> PathBuf {
        self.path.join(run.file_name())
    }

    /// Writes what the run has trained so far, in files that other tools load: an adapter as a PEFT directory, a base as a model's directory,
    /// everything else under its Hugging Face names.
    pub(super) fn save_trained<B: VbLoraBackend, O: Objective<B>>(
        &self,
        run: &Run,
        learner: &Learner<B, O>,
        prepared: &Prepared<B, O>,
    ) -> Result<()> {
        let dir = self.of(run);
        std::fs::create_dir_all(&dir).map_err(|e| Error::write(&dir, e))?;
        let adapter = match learner.trained() {
            Trained::Adapter(adapter) => Some(adapter),
            Trained::Everything | Trained::HeadOnly => None,
        };
        if let (Some(adapter), Some(bank)) = (adapter, prepared.frozen_bank()) {
            save_codes(&dir.join("codes.safetensors"), adapter, bank)?;
        }
        let adapter = adapter.map(|adapter| stored(adapter)).transpose()?;
        let saving = Saving {
            dir: &dir,
            adapter,
            files: &prepared.files,
            recipe: &prepared.recipe,
        };
        O::save(learner, saving)
    }
}

/// The first line in which two texts differ.
fn first_difference(a: &str, b: &str) -> Option<(String, String)> {
    let line = |text: &str, i: usize| text.lines().nth(i).unwrap_or("no more lines").to_owned();
    let lines = a.lines().count().max(b.lines().count());
    (0..lines)
        .map(|i| (line(a, i), line(b, i)))
        .find(|(a, b)| a != b)
}

fn unless_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The form worth keeping of those that PEFT has: VB-LoRA's bank and codes, other methods as they are. Where all vectors are selected the
/// logits are smaller than indices and weights; a gate, which PEFT's VB-LoRA has not, goes into LoRA's factors.
fn stored<B: VbLoraBackend>(adapter: &AnyAdapter<Autodiff<B>>) -> Result<PeftAdapter> {
    let adapter = HostAdapter::read(&adapter.valid())?;
    Ok(PeftAdapter::new(match &adapter {
        HostAdapter::VbLora(vblora) => {
            let config = vblora.settings().config();
            match config.selection {
                _ if config.gate => HostAdapter::Lora(adapter.to_lora()),
                Selection::SelectAll => adapter,
                _ => HostAdapter::TopK(vblora.store()),
            }
        }
        _ => adapter,
    }))
}

/// The codes of an adapter on a shared bank, which the file is bound to; nothing of other methods, which have neither.
fn save_codes<B: VbLoraBackend>(
    path: &Path,
    adapter: &AnyAdapter<Autodiff<B>>,
    bank: &Bank,
) -> Result<()> {
    match HostAdapter::read(&adapter.valid())?.store() {
        Some(stored) => Ok(stored.save_codes(path, bank, Precision::F32).map(|_| ())?),
        None => Ok(()),
    }
}
