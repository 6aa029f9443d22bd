//! The directory of a session: what was asked for, what happened, what came out.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use burn::{backend::Autodiff, module::AutodiffModule};
use serde::{Deserialize, Serialize};
use vblora::{
    AnyAdapter, Selection, VbLora,
    backend::VbLoraBackend,
    storage::{
        Bank, HostAdapter, MAX_CONFIG_BYTES, Precision, peft::PeftAdapter, read_file, sha256_hex,
        strict_json, write_atomically,
    },
};

use vblora_models::ModelFiles;

use super::{
    checkpoint::{self, CheckpointSettings},
    identity::Identity,
    layout::{self, CHECKPOINTS, CONFIG, CURVES, LOG, Layout, RESULTS, TABLE},
    learner::{Learner, Trained},
    model_hash::model_hash,
    objective::{Objective, Saving},
    output::{Draw, Drawing, Output},
    run::{Prepared, Run},
};
use crate::{
    Error, Result,
    directory::{DirLock, clear_leftovers, is_file},
    recipes::Recipe,
    recordings::{Header, Recorder},
    results::{Results, RunResult},
    terminal::visible,
};

/// What a session is bound to; of a directory that has it the session's names are its own.
const SESSION: &str = "session.json";

/// The version of [`SESSION`]; others are refused.
const FORMAT: u32 = 1;

/// Which process has the directory.
const LOCK: &str = "session.lock";

/// How often a directory that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the runs of a session are of; a resumed session must be of the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionIdentity {
    format: u32,
    /// SHA-256 of the model's `config.json`.
    model_config: String,
    /// SHA-256 of all files that the model is read from.
    model: String,
    /// What its checkpoints are bound to as well.
    identity: Identity,
}

impl SessionIdentity {
    /// # Errors
    /// A file of the model cannot be read.
    pub(super) fn new(files: &ModelFiles, identity: Identity) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            model_config: sha256_hex([files.read("config.json")?]),
            model: model_hash(files)?,
            identity,
        })
    }

    fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path, MAX_CONFIG_BYTES).map_err(|e| Error::read(path, e))?;
        let found: Self = strict_json::from_slice(&bytes).map_err(|e| Error::json(path, e))?;
        match found.format {
            FORMAT => Ok(found),
            other => Err(Error::Adapter(vblora::Error::Format {
                path: path.to_owned(),
                reason: format!("format {other}, but this version reads {FORMAT}"),
            })),
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|cause| Error::Json {
            file: path.display().to_string(),
            cause,
        })?;
        text.push(b'\n');
        Ok(write_atomically(path, &text)?)
    }

    /// Refuses another session's directory.
    fn check(&self, there: &Self, place: &Path) -> Result<()> {
        let files = [
            (
                "model's config.json",
                &*there.model_config,
                &*self.model_config,
            ),
            ("model's files", &*there.model, &*self.model),
        ];
        let files = files.into_iter().find(|(_, there, here)| there != here);
        match self.identity.difference(&there.identity).or(files) {
            None => Ok(()),
            Some((part, there, here)) => Err(Error::OtherRun {
                place: place.to_owned(),
                part,
                expected: there.to_owned(),
                found: here.to_owned(),
            }),
        }
    }
}

/// What a session may do with what is in its directory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Permissions {
    /// Remove what an older one has left.
    pub(super) overwrite: bool,
    /// Go on with an older one.
    pub(super) resume: bool,
}

/// A directory that a session is about to take: looked through and locked, nothing changed in it yet.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    path: &'a Path,
    draw: Draw,
    recipe: &'a Recipe,
    permissions: Permissions,
    /// None where the directory is not there yet.
    lock: Option<DirLock>,
    /// What is there and goes.
    old: Layout,
    is_resumed: bool,
}

impl<'a> Claim<'a> {
    /// Looks through a directory, which need not be there.
    ///
    /// # Errors
    /// Another process has it; it holds a session and may neither go on with it nor remove it; the session there has another recipe;
    /// something is in the way that no session made.
    pub(super) fn new(
        out: &'a Output,
        recipe: &'a Recipe,
        permissions: Permissions,
    ) -> Result<Self> {
        let mut claim = Self {
            path: &out.dir,
            draw: out.draw,
            recipe,
            permissions,
            lock: None,
            old: Layout::default(),
            is_resumed: false,
        };
        if claim.path.is_dir() {
            claim.lock = Some(DirLock::take(claim.path, LOCK)?);
            claim.look()?;
        }
        Ok(claim)
    }

    fn look(&mut self) -> Result<()> {
        let found = Layout::find(self.path)?;
        // It is read and replaced.
        is_file(&self.path.join(SESSION))?;
        if self.permissions.resume && RunDir::holds_session(self.path) {
            self.is_resumed = true;
            check_recipe(self.path, self.recipe)?;
            return found.require_no_strangers();
        }
        let Some(first) = found.first() else {
            return Ok(());
        };
        if !self.permissions.overwrite {
            return Err(self.occupied(first));
        }
        self.check_ours(first)?;
        found.require_ours()?;
        self.old = found;
        Ok(())
    }

    fn occupied(&self, found: &Path) -> Error {
        let name = found.strip_prefix(self.path).unwrap_or(found);
        Error::RunExists {
            dir: self.path.to_owned(),
            found: name.display().to_string(),
            way: match RunDir::holds_session(self.path) {
                true => "give --resume or --overwrite",
                // There is nothing to go on with.
                false => "give --overwrite",
            },
        }
    }

    /// Whether a session has made what is under its names: it has left its identity or, an earlier version's, a recipe.
    fn check_ours(&self, found: &Path) -> Result<()> {
        if SessionIdentity::read(&self.path.join(SESSION)).is_ok() {
            return Ok(());
        }
        let reason = match RunDir::recipe(self.path) {
            Ok(_) => return Ok(()),
            Err(_) if RunDir::holds_session(self.path) => "config.toml is no recipe",
            Err(_) => "there is no config.toml",
        };
        Err(Error::in_the_way(
            found,
            format!(
                "it is not known to be a session's ({reason}), and --overwrite does not remove it; move it elsewhere"
            ),
        ))
    }

    /// Takes the directory for a session, which is made if absent: as it is to go on with it, or empty of what older ones have made.
    /// `write_config` writes down what was asked for.
    ///
    /// # Errors
    /// As [`new`](Self::new), for a directory that was not there then; a file cannot be written or removed; what is to be resumed is of
    /// another model, other data or another backend.
    pub(super) fn enter(
        self,
        identity: &SessionIdentity,
        settings: CheckpointSettings,
        write_config: impl FnOnce(&RunDir) -> Result<()>,
    ) -> Result<RunDir> {
        let Self {
            path,
            draw,
            recipe,
            permissions,
            lock,
            old,
            is_resumed,
        } = self;
        let Some(lock) = lock else {
            std::fs::create_dir_all(path).map_err(|e| Error::write(path, e))?;
            let out = Output::new(path, draw);
            let claim = Claim::new(&out, recipe, permissions)?;
            return claim.enter(identity, settings, write_config);
        };
        let dir = RunDir {
            path: path.to_owned(),
            settings,
            draw,
            is_resumed,
            record_every: None,
            lock,
        };
        let session = path.join(SESSION);
        let has_identity = session.exists();
        let is_ours = is_resumed || has_identity || old.first().is_some();
        if is_resumed {
            dir.check_identity(identity)?;
        } else {
            old.remove()?;
        }
        if !has_identity || !is_resumed {
            identity.write(&session)?;
        }
        if is_ours {
            for folder in layout::folders(path)?.iter().chain([&dir.path]) {
                clear_leftovers(folder)?;
            }
        }
        match is_resumed {
            true => dir.renew_drawing()?,
            false => write_config(&dir)?,
        }
        Ok(dir)
    }
}

/// Refuses another recipe than the session there has; the first line that differs is named.
fn check_recipe(dir: &Path, recipe: &Recipe) -> Result<()> {
    let (there, here) = (RunDir::recipe(dir)?.to_toml()?, recipe.to_toml()?);
    match first_difference(&there, &here) {
        None => Ok(()),
        Some((there, here)) => Err(Error::OtherRun {
            place: dir.join(CONFIG),
            part: "recipe",
            expected: there,
            found: here,
        }),
    }
}

/// A directory that holds one session.
///
/// | file | what |
/// | --- | --- |
/// | `session.json` | the model, data, recipe and backend that all its runs are of, by hashes |
/// | `session.lock` | which process writes here; it goes when that ends |
/// | `config.toml` | the resolved recipe, which `--recipe` takes, under the command as a comment |
/// | `log.jsonl` | every step and epoch |
/// | `results.json`, `table.md`, `curves.svg` | the outcome |
/// | `checkpoints/METHOD-seedN/step-N/` | what a run goes on from; the last few and the best |
/// | `selections/vblora-seedN.rec` | what VB-LoRA selected while it trained, if that was recorded ([`recordings`](crate::recordings)) |
/// | `METHOD-seedN/` | the best epoch's adapter as a PEFT directory (VB-LoRA: bank and codes; all logits of `select-all`; LoRA's factors of one with a gate), with the head in it on a RoBERTa; else `head.safetensors`; of `full` a model's directory with configuration, tokenizer and side files; VB-LoRA's also as `compact.safetensors` of 8 bits, without the head; on a frozen bank also `codes.safetensors`, bound to it |
///
/// The directory itself may be a symbolic link. Under these names in it a link is an error: what is written there would land elsewhere.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    settings: CheckpointSettings,
    /// Makes table and picture of results.
    draw: Draw,
    is_resumed: bool,
    /// The steps between recorded selections.
    record_every: Option<usize>,
    lock: DirLock,
}

impl RunDir {
    /// Waits until no process writes to a directory, or `interrupted` is set.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    pub(crate) fn wait_until_free(dir: &Path, interrupted: &AtomicBool) -> Result<()> {
        let mut is_told = false;
        while dir.is_dir() && !interrupted.load(Ordering::Relaxed) {
            match DirLock::take(dir, LOCK) {
                Ok(_) => break,
                Err(Error::InUse { holder, .. }) if !is_told => {
                    tracing::warn!("waiting for {holder}, which writes to {}", dir.display());
                    is_told = true;
                }
                Err(Error::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Refuses to go on with a session of another model, other data or another backend, also where all its runs have ended.
    fn check_identity(&self, here: &SessionIdentity) -> Result<()> {
        let session = self.path.join(SESSION);
        if session.exists() {
            return here.check(&SessionIdentity::read(&session)?, &session);
        }
        // An earlier version's directory: its checkpoints, if it has any left, know too.
        match checkpoint::latest_identity(&self.path.join(CHECKPOINTS)) {
            Some((place, identity)) => {
                let there = SessionIdentity {
                    identity,
                    ..here.clone()
                };
                here.check(&there, &place)
            }
            None => {
                let dir = self.path.display();
                tracing::warn!(
                    "{dir} does not say what its runs were trained on: {SESSION} is missing"
                );
                Ok(())
            }
        }
    }

    /// Makes table and picture again, which a process that was killed may have left as they were before its last results.
    fn renew_drawing(&self) -> Result<()> {
        match self.path.join(RESULTS).exists() {
            true => self.save_drawing(&Results::read(self.path.join(RESULTS))?),
            false => Ok(()),
        }
    }

    /// Gives the lock of the directory away, for whoever has more to write there.
    pub(super) fn into_lock(self) -> DirLock {
        self.lock
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

    /// Whether a directory holds a session that `--resume` can go on with.
    pub fn holds_session(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
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
    /// They cannot be removed, or hold something that no session made.
    pub fn remove_checkpoints(dir: &Path) -> Result<()> {
        layout::remove_checkpoints(dir)
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

    /// The runs in the session's results, those that were interrupted among them.
    ///
    /// # Errors
    /// There are results that cannot be read.
    pub fn past_runs(&self) -> Result<Vec<RunResult>> {
        let path = self.path.join(RESULTS);
        match self.is_resumed && path.exists() {
            true => Ok(Results::read(&path)?.runs),
            false => Ok(Vec::new()),
        }
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
        // A comment of TOML takes no control characters, and whoever shows the file sends them to a terminal.
        let comment = |key: &str, text: &str| {
            let text = visible(text).replace('\n', " ");
            format!("# {key}: {text}\n")
        };
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
        self.save_drawing(results)
    }

    fn save_drawing(&self, results: &Results) -> Result<()> {
        let Drawing { table, curves } = (self.draw)(results)?;
        write_atomically(&self.path.join(TABLE), table.as_bytes())?;
        Ok(write_atomically(
            &self.path.join(CURVES),
            curves.as_bytes(),
        )?)
    }

    /// Where a run's adapter goes.
    pub(super) fn of(&self, run: &Run) -> PathBuf {
        self.path.join(run.file_name())
    }

    /// Removes what an earlier process has saved of a run that starts from its first step again.
    ///
    /// # Errors
    /// A file cannot be removed, or a symbolic link is in the way.
    pub(super) fn clear(&self, run: &Run) -> Result<()> {
        match self.is_resumed {
            true => layout::clear_run(&self.of(run)),
            false => Ok(()),
        }
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
