//! A head and its adapter from the directory of a run, checked against a base.

use std::path::Path;

use vblora::storage::{
    HostAdapter, HostTensor, TensorFile,
    peft::{PeftAdapter, PeftDirectory},
};
use vblora_models::{EncoderConfig, ModelFiles, roberta};

use crate::{Error, Result, directory::is_same, train::HeadSettings};

/// A trained head with its adapter, if it has one, and the settings of its training.
#[derive(Debug)]
pub struct Classifier {
    /// The directory, for messages.
    pub(super) place: String,
    /// The task and what training made of its texts.
    pub settings: HeadSettings,
    /// The base's configuration.
    pub(super) config: EncoderConfig,
    pub(super) adapter: Option<HostAdapter>,
    /// The head's tensors by their Hugging Face names.
    pub(super) head: Vec<(String, HostTensor)>,
}

impl Classifier {
    /// Opens a directory that training wrote (`METHOD-seedN`), or a PEFT directory of a sequence classifier, for a base.
    ///
    /// # Errors
    /// The directory has no head. A file is missing or broken. Adapter or head do not fit the base, or the head does not fit the task.
    pub fn open(dir: &Path, files: &ModelFiles) -> Result<Self> {
        let place = dir.display().to_string();
        let kind = std::fs::metadata(dir).map_err(|e| Error::read(dir, e))?;
        if kind.is_file() {
            let found = "a file, which has no head".into();
            return Err(no_head(&place, found));
        }
        let mut config = EncoderConfig::from_files(files)?;
        // An adapter without its configuration is an error too. Its head alone would predict something else.
        let adapter_files = ["adapter_config.json", "adapter_model.safetensors"];
        let adapter = match adapter_files.iter().any(|name| dir.join(name).is_file()) {
            true => Some(PeftDirectory::open(dir)?.bind(&roberta::sites(&config))?),
            false => None,
        };
        // The head of a base that was trained as well belongs to that base alone.
        if dir.join("model.safetensors").is_file() && !is_same(dir, Path::new(&files.place())) {
            return Err(Error::Setting {
                setting: "model".into(),
                expected: format!("{place}, whose base was trained with the head"),
                found: files.place(),
            });
        }
        let (adapter, head) = take_head(dir, adapter)?;
        let outputs = outputs(&head);
        let Some((width, outputs)) = outputs else {
            return Err(no_head(&place, "a directory without one".into()));
        };
        let settings = HeadSettings::read(dir, outputs)?;
        let expected = (config.hidden_size, settings.task.outputs());
        if (width, outputs) != expected {
            return Err(Error::Setting {
                setting: place,
                expected: format!("a head of width {} with {} outputs", expected.0, expected.1),
                found: format!("width {width} with {outputs} outputs"),
            });
        }
        config.base_dtype = settings.held_as(config.base_dtype)?;
        Ok(Self {
            place,
            settings,
            config,
            adapter,
            head,
        })
    }

    /// The maximum number of tokens of a text: that of training, if the base has as many positions.
    pub fn max_length(&self) -> usize {
        self.settings.max_length.min(self.config.usable_positions())
    }
}

/// Tensors by their names.
type Named = Vec<(String, HostTensor)>;

/// The adapter, and the tensors of the head beside or inside it.
fn take_head(dir: &Path, adapter: Option<PeftAdapter>) -> Result<(Option<HostAdapter>, Named)> {
    let (adapter, saved) = match adapter {
        Some(found) => (Some(found.adapter), found.saved),
        None => (None, Vec::new()),
    };
    let file = dir.join("head.safetensors");
    if !saved.is_empty() || !file.is_file() {
        return Ok((adapter, saved));
    }
    let tensors = TensorFile::read(&file)?;
    let head = tensors.names().map(|name| {
        let tensor = HostTensor {
            shape: tensors.shape(name).unwrap_or_default().to_vec(),
            values: tensors.floats(name)?,
        };
        Ok((name.to_owned(), tensor))
    });
    Ok((adapter, head.collect::<Result<_>>()?))
}

/// Width and number of outputs of the head, if there is one.
fn outputs(head: &[(String, HostTensor)]) -> Option<(usize, usize)> {
    let bias = |part: &str| {
        let name = format!("classifier.{part}.bias");
        let found = head.iter().find(|(found, _)| *found == name);
        found.map(|(_, tensor)| tensor.values.len())
    };
    Some((bias("dense")?, bias("out_proj")?))
}

fn no_head(place: &str, found: String) -> Error {
    Error::Setting {
        setting: place.to_owned(),
        expected: "a directory with a head of two maps (classifier.dense, classifier.out_proj), as training writes it".into(),
        found,
    }
}
