//! A head and its adapter from the directory of a run, checked against a base.

use std::path::Path;

use vblora::storage::{
    HostAdapter, HostTensor,
    peft::{self, PeftDirectory},
};
use vblora_models::{EncoderConfig, ModelFiles, encoder};

use super::head::{self, no_head};
use crate::{
    Error, Result,
    directory::is_same,
    train::{HeadSettings, RunDir, model_hash},
};

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
    /// Opens a directory that training wrote (`METHOD-seedN`), or a PEFT directory of a sequence classifier, for a base. The base's own
    /// directory stands for a whole model with its head.
    ///
    /// # Errors
    /// The directory has no head. A file is missing or broken. Adapter or head do not fit the base, or the head does not fit the task.
    pub fn open(dir: &Path, files: &ModelFiles) -> Result<Self> {
        let place = dir.display().to_string();
        let kind = std::fs::metadata(dir).map_err(|e| Error::read(dir, e))?;
        let mut config = EncoderConfig::from_files(files)?;
        if kind.is_file() {
            let found = "a file, which has no head".into();
            return Err(no_head(&place, &config.classifier(), found));
        }
        // An adapter without its configuration is an error too. Its head alone would predict something else.
        let adapter_files = [peft::CONFIG, peft::TENSORS];
        let adapter = match adapter_files.iter().any(|name| dir.join(name).is_file()) {
            true => Some(PeftDirectory::open(dir)?.bind(&encoder::sites(&config))?),
            false => None,
        };
        // The head of a base that was trained as well belongs to that base alone.
        let is_whole = is_same(dir, Path::new(&files.place()));
        if dir.join("model.safetensors").is_file() && !is_whole {
            return Err(Error::Setting {
                setting: "model".into(),
                expected: format!("{place}, whose base was trained with the head"),
                found: files.place(),
            });
        }
        let (adapter, saved) = match adapter {
            Some(found) => (Some(found.adapter), found.saved),
            None => (None, Vec::new()),
        };
        // A first map that the adapter saved takes the place of the base's.
        let dense = format!("{}bias", config.family.classifier().dense);
        config.head_in_base &= !saved.iter().any(|(name, _)| *name == dense);
        let names = config.classifier();
        let head = head::find(dir, saved, &names, (files, is_whole))?;
        let Some((width, outputs)) = outputs(&head) else {
            return Err(no_head(&place, &names, "a directory without one".into()));
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
        if !is_whole {
            compare_base(dir, files, &files.place())?;
        }
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

/// Warns of a base with other files than the run was trained on, if the run's session says which. Such a base may hold the adapter already.
/// `dir` is the run's, and `base` is the name of the base in the warning.
///
/// # Errors
/// A file of the base cannot be read.
pub fn compare_base(dir: &Path, files: &ModelFiles, base: &str) -> Result<()> {
    let Some(recorded) = dir.parent().and_then(RunDir::model) else {
        return Ok(());
    };
    let found = model_hash(files)?;
    if found != recorded {
        tracing::warn!(
            "{} was trained on another base than {base}: SHA-256 of the model's files {recorded}, found {found}",
            dir.display()
        );
    }
    Ok(())
}

/// Width and number of outputs of the head, if there is one.
fn outputs(head: &[(String, HostTensor)]) -> Option<(usize, usize)> {
    let weight = |(name, _): &&(String, HostTensor)| name == "classifier.out_proj.weight";
    match *head.iter().find(weight)?.1.shape.as_slice() {
        [outputs, width] => Some((width, outputs)),
        _ => None,
    }
}
