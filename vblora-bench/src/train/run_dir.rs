//! The directory of a session: its settings, its log and its results.

use std::path::{Path, PathBuf};

use burn::{backend::Autodiff, module::AutodiffModule};
use serde::{Deserialize, Serialize};
use vblora::{
    AnyAdapter, Selection, VbLora,
    backend::VbLoraBackend,
    storage::{
        Bank, HostAdapter, MAX_CONFIG_BYTES, Precision,
        peft::{self, PeftAdapter},
        read_file, sha256_hex, strict_json, write_atomically,
    },
};

use vblora_models::{BaseDtype, ModelFiles};

use super::{
    checkpoint::{self, CheckpointSettings},
    identity::{DATA, Identity, has_fixed_sums},
    layout::{self, CARD, CHECKPOINTS, CONFIG, CURVES, LOG, Layout, RESULTS, TABLE, TENSORBOARD},
    learner::{Learner, Trained},
    made::Made,
    model_hash::model_hash,
    objective::{Objective, Saving},
    output::{Draw, Drawing, Output},
    run::{Prepared, Run},
};
use crate::{
    Error, Result,
    card::{self, Base, Card, Hashes},
    directory::{DirLock, clear_leftovers, is_file},
    recipes::{Difference, Recipe, first_difference},
    recordings::{Header, Recorder},
    results::{Results, RunResult},
    terminal::visible,
};

/// The identity of a session. A directory with this file belongs to a session.
const SESSION: &str = "session.json";

/// The version of [`SESSION`]. Other versions are refused, except [`EARLIER`].
const FORMAT: u32 = 2;

/// The version that does not say what made the session.
const EARLIER: u32 = 1;

/// The lock of the process that uses the directory.
const LOCK: &str = "session.lock";

/// The identity of a session's runs. A resumed session must have the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionIdentity {
    format: u32,
    /// SHA-256 of the model's `config.json`.
    model_config: String,
    /// SHA-256 of all files that the model is read from.
    model: String,
    /// The identity that its checkpoints are bound to.
    identity: Identity,
    /// The program and its command. Earlier versions did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<Made>,
}

impl SessionIdentity {
    /// # Errors
    /// A file of the model cannot be read.
    pub(super) fn new(files: &ModelFiles, identity: Identity, made: Made) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            model_config: sha256_hex([files.read("config.json")?]),
            model: model_hash(files)?,
            identity,
            made: Some(made),
        })
    }

    /// The identity of the session in a directory.
    pub(super) fn of(dir: &Path) -> Result<Self> {
        Self::read(&dir.join(SESSION))
    }

    fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path, MAX_CONFIG_BYTES).map_err(|e| Error::read(path, e))?;
        let found: Self = strict_json::from_slice(&bytes).map_err(|e| Error::json(path, e))?;
        match found.format {
            FORMAT | EARLIER => Ok(found),
            other => Err(Error::Adapter(vblora::Error::Format {
                path: path.to_owned(),
                reason: format!("format {other}, but this version reads {EARLIER} and {FORMAT}"),
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

    /// Refuses to repeat the session in `dir` with another model, other data, another recipe or backend. `splits` are the hashes of the
    /// encoded training and development split.
    pub(super) fn check_repeats(
        &self,
        dir: &Path,
        (recipe, held): (&Recipe, BaseDtype),
        splits: &[String; 2],
    ) -> Result<()> {
        let place = dir.join(SESSION);
        let same = check_recipe(dir, recipe, held);
        let same = same.and_then(|()| self.check(&Self::read(&place)?, &place));
        same.map_err(|error| match error {
            Error::OtherRun {
                place,
                part,
                expected,
                found,
            } => {
                let split = (part == DATA).then(|| other_split(dir, splits)).flatten();
                let (part, expected, found) = split.unwrap_or((part, expected, found));
                Error::OtherRepetition {
                    place,
                    part,
                    expected,
                    found,
                }
            }
            other => other,
        })
    }

    /// Refuses a directory of another session.
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
                part: part.to_owned(),
                expected: there.to_owned(),
                found: here.to_owned(),
            }),
        }
    }
}

/// The permissions of a session on an existing directory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Permissions {
    /// Remove the files of an older session.
    pub(super) overwrite: bool,
    /// Continue an older session.
    pub(super) resume: bool,
}

/// A directory that a session is about to use. It is searched and locked, but nothing in it has changed yet.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    path: &'a Path,
    out: &'a Output,
    recipe: &'a Recipe,
    /// The form that the base is held in.
    held: BaseDtype,
    permissions: Permissions,
    /// `None` if the directory does not exist yet.
    lock: Option<DirLock>,
    /// The existing files that will be removed.
    old: Layout,
    is_resumed: bool,
}

impl<'a> Claim<'a> {
    /// Searches a directory, which need not exist.
    ///
    /// # Errors
    /// Another process uses the directory. It holds a session, and the permissions neither continue nor remove it; its session has another
    /// recipe; a foreign file is in the way.
    pub(super) fn new(
        out: &'a Output,
        recipe: &'a Recipe,
        held: BaseDtype,
        permissions: Permissions,
    ) -> Result<Self> {
        let mut claim = Self {
            path: &out.dir,
            out,
            recipe,
            held,
            permissions,
            lock: None,
            old: Layout::default(),
            is_resumed: false,
        };
        require_room(claim.path)?;
        if claim.path.is_dir() {
            claim.lock = Some(DirLock::take(claim.path, LOCK)?);
            claim.look()?;
        }
        Ok(claim)
    }

    /// The arguments of the session's command.
    pub(super) fn arguments(&self) -> &[String] {
        &self.out.arguments
    }

    fn look(&mut self) -> Result<()> {
        let found = Layout::find(self.path)?;
        // The file is read and replaced.
        is_file(&self.path.join(SESSION))?;
        if self.permissions.resume && RunDir::holds_session(self.path) {
            self.is_resumed = true;
            check_recipe(self.path, self.recipe, self.held)?;
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
                // There is no session to continue.
                false => "give --overwrite",
            },
        }
    }

    /// Returns an error unless a session made the files: it has left its identity or, in earlier versions, a recipe.
    fn check_ours(&self, found: &Path) -> Result<()> {
        if SessionIdentity::read(&self.path.join(SESSION)).is_ok() {
            return Ok(());
        }
        let reason = match RunDir::recipe(self.path) {
            Ok(_) => return Ok(()),
            Err(_) if RunDir::holds_session(self.path) => "config.toml is not a recipe",
            Err(_) => "there is no config.toml",
        };
        Err(Error::in_the_way(
            found,
            format!(
                "no session is known to have made it ({reason}), so --overwrite does not remove it; move it elsewhere"
            ),
        ))
    }

    /// Opens the directory for a session, and creates it if it is missing. A resumed session keeps its files; otherwise the files of older
    /// sessions are removed. `write_config` writes the settings.
    ///
    /// # Errors
    /// As [`new`](Self::new), for a directory that did not exist then. A file cannot be written or removed. The session to resume has
    /// another model, data or backend.
    pub(super) fn enter(
        self,
        identity: &SessionIdentity,
        settings: CheckpointSettings,
        write_config: impl FnOnce(&RunDir) -> Result<()>,
    ) -> Result<RunDir> {
        let Self {
            path,
            out,
            recipe,
            held,
            permissions,
            lock,
            old,
            is_resumed,
        } = self;
        let Some(lock) = lock else {
            std::fs::create_dir_all(path).map_err(|e| Error::write(path, e))?;
            let claim = Claim::new(out, recipe, held, permissions)?;
            return claim.enter(identity, settings, write_config);
        };
        let session = path.join(SESSION);
        let has_identity = session.exists();
        let mut dir = RunDir {
            path: path.to_owned(),
            settings,
            draw: out.draw,
            is_resumed,
            record_every: None,
            has_events: out.tensorboard || is_resumed && path.join(TENSORBOARD).is_dir(),
            identity: identity.clone(),
            lock,
        };
        let is_ours = is_resumed || has_identity || old.first().is_some();
        if is_resumed {
            if let Some(recorded) = dir.check_identity(identity)? {
                dir.identity = recorded;
            }
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

/// Refuses a path at which no directory can be or become.
fn require_room(path: &Path) -> Result<()> {
    let there = path.ancestors().find(|place| place.exists());
    match there.filter(|place| !place.is_dir()) {
        None => Ok(()),
        Some(file) => Err(Error::in_the_way(
            file,
            "expected a directory, found a file",
        )),
    }
}

/// Refuses a recipe that differs from the existing session's. The error names the first key that differs. Earlier versions recorded "f32"
/// where the files are in 4 bits.
fn check_recipe(dir: &Path, recipe: &Recipe, held: BaseDtype) -> Result<()> {
    let (there, here) = (RunDir::recipe(dir)?.settled(held), recipe.settled(held));
    match first_difference(&there, &here)? {
        None => Ok(()),
        Some(Difference { key, first, second }) => Err(Error::OtherRun {
            place: dir.join(CONFIG),
            part: format!("recipe's {key}"),
            expected: first,
            found: second,
        }),
    }
}

/// The split whose hash differs from that on the cards of a session's adapters, with both hashes. `None` if both differ, or no card has them.
fn other_split(dir: &Path, here: &[String; 2]) -> Option<(String, String, String)> {
    let cards = layout::folders(dir).ok()?.into_iter();
    let mut there = cards.filter_map(|folder| card::splits(&folder.join(CARD)));
    let there = there.next()?;
    let names = [card::TRAIN, card::DEV].into_iter();
    let pairs = names.zip(there.into_iter().zip(here));
    let mut others = pairs.filter(|(_, (there, here))| there != *here);
    match (others.next(), others.next()) {
        (Some((name, (there, here))), None) => Some((name.into(), there, here.clone())),
        _ => None,
    }
}

/// A directory that holds one session.
///
/// | file | what |
/// | --- | --- |
/// | `session.json` | the hashes of model, data and recipe, and the backend, shared by all its runs; the program, threads and arguments that made it |
/// | `session.lock` | the process that writes here; removed when it ends |
/// | `config.toml` | the resolved recipe, which `--recipe` takes, under the command as a comment |
/// | `log.jsonl` | every step and epoch |
/// | `tensorboard/METHOD-seedN/` | TensorBoard's event file of a run, if asked for |
/// | `results.json`, `table.md`, `curves.svg` | the results |
/// | `checkpoints/METHOD-seedN/step-N/` | the checkpoints that a run continues from: the last few and the best |
/// | `selections/vblora-seedN.rec` | VB-LoRA's selections during training, if recorded ([`recordings`](crate::recordings)) |
/// | `METHOD-seedN/` | the best evaluation's adapter as a PEFT directory with a model card. VB-LoRA stores bank and codes, with `select-all` all logits, and with a gate LoRA's factors. The head is inside the adapter; a head that was trained alone is in `head.safetensors`. VB-LoRA also writes `compact.safetensors` in 8 bits without the head. On a frozen bank it also writes `codes.safetensors`, bound to that bank. `full` writes a model directory with configuration, tokenizer and side files |
///
/// The directory itself may be a symbolic link. A link under one of these names is an error, because writes through it would land
/// elsewhere.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    settings: CheckpointSettings,
    /// Draws the table and the picture of results.
    draw: Draw,
    is_resumed: bool,
    /// The steps between recorded selections.
    record_every: Option<usize>,
    /// True if there are TensorBoard's event files.
    has_events: bool,
    /// The identity of the session, as its first process recorded it.
    identity: SessionIdentity,
    lock: DirLock,
}

impl RunDir {
    /// The folder of TensorBoard's event files, if the session writes them.
    pub(super) fn tensorboard(&self) -> Option<PathBuf> {
        self.has_events.then(|| self.path.join(TENSORBOARD))
    }

    /// The files of a run's folder that training makes, without the model card, which has the command in it.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn trained_files(folder: &Path) -> Result<Vec<String>> {
        layout::trained_files(folder)
    }

    /// Files and folders in the folders of runs that no session here has made, and folders with the names of runs that none has made.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn foreign(dir: &Path) -> Result<Vec<PathBuf>> {
        Ok(Layout::find(dir)?.into_foreign())
    }

    /// Writes the card of an adapter, with the scores of the last evaluation.
    pub(super) fn save_card<B: VbLoraBackend, O: Objective<B>>(
        &self,
        run: &Run,
        prepared: &Prepared<B, O>,
        result: &RunResult,
    ) -> Result<()> {
        let dir = self.of(run);
        let adapter = dir.join(peft::TENSORS);
        let size = std::fs::metadata(&adapter).map_err(|e| Error::read(&adapter, e))?;
        let SessionIdentity {
            model,
            made,
            identity,
            ..
        } = &self.identity;
        let [train, dev] = &prepared.splits;
        let card = Card {
            data: &prepared.data.name,
            unit: prepared.data.unit,
            rows: [O::rows(&prepared.train), O::rows(&prepared.dev)],
            result,
            recipe: &prepared.recipe,
            base: Base::new(&prepared.files),
            hashes: Hashes { model, train, dev },
            adapter_bytes: size.len(),
            backend: &identity.backend,
            threads: made.as_ref().map(|made| made.threads),
            arguments: made.as_ref().map_or(&[], |made| &made.arguments),
        };
        let text = card.text()?;
        Ok(write_atomically(&dir.join(CARD), text.as_bytes())?)
    }

    /// Refuses to resume a session of another model, other data or another backend, even if all its runs have ended. Returns the session's
    /// identity, if it is recorded.
    fn check_identity(&self, here: &SessionIdentity) -> Result<Option<SessionIdentity>> {
        let session = self.path.join(SESSION);
        if session.exists() {
            let there = SessionIdentity::read(&session)?;
            here.check(&there, &session)?;
            let made = [&there, here].map(|session| session.made.as_ref());
            if let [Some(there), Some(now)] = made
                && has_fixed_sums(&here.identity.backend)
                && let Some(threads) = there.other_threads(now)
            {
                tracing::warn!(
                    "{} was begun with {threads}: its last bits will be others than without the interruption",
                    self.path.display()
                );
            }
            return Ok(Some(there));
        }
        // A directory of an earlier version: its checkpoints, if any are left, have the identity.
        match checkpoint::latest_identity(&self.path.join(CHECKPOINTS)) {
            Some((place, identity)) => {
                let there = SessionIdentity {
                    identity,
                    ..here.clone()
                };
                here.check(&there, &place)?;
            }
            None => {
                let dir = self.path.display();
                tracing::warn!(
                    "{dir} does not say what its runs were trained on: {SESSION} is missing"
                );
            }
        }
        Ok(None)
    }

    /// Draws table and picture again, because a killed process may have left those of earlier results.
    fn renew_drawing(&self) -> Result<()> {
        match self.path.join(RESULTS).exists() {
            true => self.save_drawing(&Results::read(self.path.join(RESULTS))?),
            false => Ok(()),
        }
    }

    /// Returns the lock of the directory, for a caller that writes more files there.
    pub(super) fn into_lock(self) -> DirLock {
        self.lock
    }

    /// The same directory, in which VB-LoRA's selections are recorded at this interval of steps.
    #[must_use]
    pub fn with_recording(self, record_every: Option<usize>) -> Self {
        Self {
            record_every,
            ..self
        }
    }

    /// Starts or continues the recording of a run, if selections are recorded. `adapter` is the run's state after `step` steps.
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

    /// Returns true if the directory holds a session that `--resume` can continue.
    pub fn holds_session(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
    }

    /// SHA-256 of the model's files that the session in a directory was made with; `None` if there is no such record.
    pub fn model(dir: &Path) -> Option<String> {
        SessionIdentity::of(dir).ok().map(|session| session.model)
    }

    /// Reads the recipe of the session in a directory.
    ///
    /// # Errors
    /// There is no recipe, or it cannot be read.
    pub fn recipe(dir: &Path) -> Result<Recipe> {
        Recipe::from_toml_file(dir.join(CONFIG))
    }

    /// Removes the checkpoints of a session that has ended and needs them no longer.
    ///
    /// # Errors
    /// The checkpoints cannot be removed, or their folders hold a foreign file.
    pub fn remove_checkpoints(dir: &Path) -> Result<()> {
        layout::remove_checkpoints(dir)
    }

    /// Returns true if runs continue from their checkpoints.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The settings for checkpoints.
    pub(super) fn settings(&self) -> CheckpointSettings {
        self.settings
    }

    /// The folder of a run's checkpoints.
    pub(super) fn checkpoints(&self, run: &str) -> PathBuf {
        self.path.join(CHECKPOINTS).join(run)
    }

    /// The runs in the session's results, including interrupted ones.
    ///
    /// # Errors
    /// The results cannot be read.
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

    /// Writes the recipe and the command.
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
        // A TOML comment allows no control characters, and a program that shows the file would send them to a terminal.
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

    /// Writes results, table and picture, and replaces older ones.
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

    /// The folder of a run's adapter.
    pub(super) fn of(&self, run: &Run) -> PathBuf {
        self.path.join(run.file_name())
    }

    /// Says that a finished run's files are gone. The best adapter is in no checkpoint, so the run would have to begin again.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn warn_of_loss(&self, run: &Run, past: &RunResult) -> Result<()> {
        let folder = self.of(run);
        let is_lost = !folder.is_dir() || layout::trained_files(&folder)?.is_empty();
        if past.stop.is_finished() && is_lost {
            tracing::warn!(
                "{} has finished, but {} has none of its files; only training in another --out makes them again",
                run.label(),
                folder.display()
            );
        }
        Ok(())
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

    /// Writes the parameters trained so far, in files that other tools load. An adapter becomes a PEFT directory, and a base a model
    /// directory. Everything else has its Hugging Face names.
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

/// The PEFT form in which an adapter is stored: VB-LoRA as bank and codes, other methods unchanged. With `select-all`, the logits are
/// smaller than indices and weights. PEFT's VB-LoRA has no gate, so a gated adapter is stored as LoRA's factors.
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

/// Saves the codes of a VB-LoRA on a shared bank, bound to that bank. Other methods have no codes.
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
