//! A model from the disk that answers, with an adapter or without one.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use vblora::{
    Factors,
    backend::{BackendJob, VbLoraBackend},
    storage::{HostAdapter, read_file, sha256_hex},
};
use vblora_models::{
    BaseDtype, DecoderConfig, ModelFiles, SavedTensors, TextTokenizer,
    decoder::{AdaptedConfig, CausalLm},
};

use super::{
    answer::Question,
    file::Origin,
    respond::{Asking, KeepAnswers, Responder},
};
use crate::{
    Error, Result,
    limits::MAX_DATA_BYTES,
    train::{Turns, model_hash},
};

/// A causal model and perhaps an adapter, checked against each other and not yet on a device.
#[derive(Debug)]
pub struct AnsweringModel {
    files: ModelFiles,
    config: DecoderConfig,
    adapter: Option<(PathBuf, HostAdapter)>,
    saved: SavedTensors,
    tokenizer: TextTokenizer,
    merge: bool,
}

/// A model on a device.
#[derive(Debug)]
pub(super) struct LoadedModel<B: VbLoraBackend> {
    model: CausalLm<B>,
    factors: Factors<B>,
    tokenizer: TextTokenizer,
}

impl AnsweringModel {
    /// Opens a model's configuration and tokenizer, and an adapter. `dtype` is the form of the base's linear maps, or `None` for that of the
    /// files. With `merge` the adapter is merged into them on the device.
    ///
    /// # Errors
    /// The model is not a causal one; the adapter or the form does not fit it; a file cannot be read.
    pub fn open(
        files: ModelFiles,
        dtype: Option<BaseDtype>,
        adapter: Option<&Path>,
        merge: bool,
    ) -> Result<Self> {
        let mut config = DecoderConfig::from_files(&files)?.held_as(dtype)?;
        let (mut files, mut saved) = (files, SavedTensors::default());
        let adapter = match adapter {
            None => None,
            Some(path) => {
                let found = AdaptedConfig::open(path, config)?;
                (config, saved) = (found.config, found.saved);
                files = files.with_tokenizer_of(path);
                Some((path.to_owned(), found.adapter))
            }
        };
        let tokenizer = TextTokenizer::from_files(&files)?.for_decoder(&config)?;
        Ok(Self {
            files,
            config,
            adapter,
            saved,
            tokenizer,
            merge,
        })
    }

    /// The model's files, with the adapter's tokenizer where it has one.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The model's configuration, with the adapter's changes to it.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Loads the weights onto a device. After a merge there are no factors.
    ///
    /// # Errors
    /// The weights cannot be read or do not fit the configuration.
    pub(super) fn load<B: VbLoraBackend>(self, device: &B::Device) -> Result<LoadedModel<B>> {
        let (mut model, _) =
            CausalLm::<B>::load_adapted(self.config, self.saved, &self.files, device)?;
        let mut factors = match &self.adapter {
            Some((_, adapter)) => adapter.factors(device),
            None => Factors::none(),
        };
        if self.merge {
            model = model.merged(&factors);
            factors = Factors::none();
        }
        Ok(LoadedModel {
            model,
            factors,
            tokenizer: self.tokenizer,
        })
    }

    /// Everything that the answers depend on, beside questions and settings.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn origin(&self) -> Result<Origin> {
        let adapter = match &self.adapter {
            None => "none".into(),
            Some((path, _)) => adapter_hash(path)?,
        };
        Ok(Origin::from([
            ("model".into(), model_hash(&self.files)?),
            ("adapter".into(), adapter),
            ("base_dtype".into(), self.config.base_dtype.to_string()),
            ("merge".into(), self.merge.to_string()),
        ]))
    }
}

impl<B: VbLoraBackend> LoadedModel<B> {
    pub(super) fn responder<'a>(&'a self, device: &'a B::Device) -> Responder<'a, B> {
        Responder {
            model: &self.model,
            factors: self.factors.clone(),
            tokenizer: &self.tokenizer,
            device,
        }
    }
}

/// SHA-256 over the files of an adapter.
pub(super) fn adapter_hash(path: &Path) -> Result<String> {
    let files = match path.is_dir() {
        false => vec![path.to_owned()],
        true => {
            let mut names = crate::directory::names(path)?;
            names.retain(|name| name.starts_with("adapter_"));
            names.sort();
            names.iter().map(|name| path.join(name)).collect()
        }
    };
    let bytes = files
        .iter()
        .map(|file| read_file(file, MAX_DATA_BYTES).map_err(|error| Error::read(file, error)));
    Ok(sha256_hex(bytes.collect::<Result<Vec<_>>>()?))
}

/// Questions for a model, as work for a backend.
#[expect(missing_debug_implementations, reason = "it has a callback")]
pub struct AnswerJob<'a> {
    /// The model.
    pub model: AnsweringModel,
    /// The questions.
    pub questions: &'a [&'a Question],
    /// The settings for answers.
    pub asking: &'a Asking,
    /// The batches of this process.
    pub turns: Turns,
    /// Takes the answers of each batch.
    pub keep: &'a mut KeepAnswers<'a>,
    /// Set when the work must end.
    pub interrupted: &'a AtomicBool,
}

impl BackendJob for AnswerJob<'_> {
    type Output = Result<()>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Result<()> {
        let loaded = self.model.load::<B>(&device)?;
        loaded.responder(&device).answer(
            self.questions,
            self.asking,
            self.turns,
            self.keep,
            self.interrupted,
        )
    }
}
