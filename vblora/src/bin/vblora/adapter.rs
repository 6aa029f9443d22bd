//! An adapter out of whatever the user points at.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vblora::{
    AdapterConfig, Error, Result, Site, StoredVbLora,
    storage::{
        Bank, HostAdapter,
        peft::{PeftAdapter, PeftDirectory, PeftMethod},
    },
};

use crate::architectures::Model;

/// Where an adapter is.
#[derive(Args, Clone)]
pub(crate) struct Place {
    /// A PEFT directory or a compact file
    pub(crate) path: PathBuf,
    /// The file with the bank, for a compact file that holds codes alone
    #[arg(long)]
    pub(crate) bank: Option<PathBuf>,
    /// What stands in front of the sites' names in a PEFT directory, such as "roberta."; it is left out of compact files
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    /// The model's config.json, or a directory with one: VeRA's files do not say how wide the inputs of its maps are
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
}

/// An adapter and how it lay on the disk.
pub(crate) struct Opened {
    pub(crate) form: &'static str,
    pub(crate) adapter: PeftAdapter,
    /// Rank and scale of each site of a LoRA where they differ; the adapter has them all at the largest rank.
    pub(crate) patterned: Option<Vec<(usize, f64)>>,
}

impl Place {
    pub(crate) fn open(&self) -> Result<Opened> {
        if self.path.is_dir() {
            return self.open_directory();
        }
        let (form, adapter) = match &self.bank {
            Some(bank) => (
                "compact file, codes alone",
                StoredVbLora::load_codes(&self.path, &Bank::load(bank)?)?,
            ),
            None => ("compact file", StoredVbLora::load(&self.path)?),
        };
        let adapter = PeftAdapter {
            prefix: self.prefix.clone(),
            ..PeftAdapter::new(HostAdapter::TopK(adapter))
        };
        Ok(Opened {
            form,
            adapter,
            patterned: None,
        })
    }

    fn open_directory(&self) -> Result<Opened> {
        let found = PeftDirectory::open(&self.path)?;
        let adapter = match (&found.config().method, &self.model) {
            (PeftMethod::Vera(_), Some(model)) => found.bind(&Model::read(model, false)?.sites)?,
            (PeftMethod::Vera(_), None) => {
                let reason = "VeRA, whose files do not say how wide the inputs of its maps are; --model does";
                return Err(wrong(&self.path, reason));
            }
            _ => PeftAdapter {
                prefix: self.prefix.clone(),
                ..found.bind(&self.named(found.sites())?)?
            },
        };
        let form = match &adapter.adapter {
            HostAdapter::VbLora(_) => "PEFT directory, all logits",
            HostAdapter::TopK(_) => "PEFT directory, codes only",
            HostAdapter::Lora(_) | HostAdapter::Vera(_) => "PEFT directory",
        };
        Ok(Opened {
            form,
            adapter,
            patterned: found.patterned(),
        })
    }

    /// A directory's modules without the prefix.
    fn named(&self, modules: &[Site]) -> Result<Vec<Site>> {
        let modules = modules.iter();
        modules
            .map(|site| match site.name.strip_prefix(&self.prefix) {
                Some(name) if !name.is_empty() => Ok(Site::new(name, site.d_in, site.d_out)),
                _ => Err(wrong(
                    &self.path,
                    format!(
                        "module {:?} does not begin with --prefix {:?}",
                        site.name, self.prefix
                    ),
                )),
            })
            .collect()
    }
}

/// The adapter's method and settings.
pub(crate) fn config(adapter: &HostAdapter) -> AdapterConfig {
    match adapter {
        HostAdapter::VbLora(adapter) => AdapterConfig::VbLora(adapter.settings().config().clone()),
        HostAdapter::TopK(adapter) => AdapterConfig::VbLora(adapter.settings().config().clone()),
        HostAdapter::Lora(adapter) => AdapterConfig::Lora(adapter.settings().config().clone()),
        HostAdapter::Vera(adapter) => AdapterConfig::Vera(adapter.settings().config().clone()),
    }
}

/// A report as JSON.
pub(crate) fn json(report: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(report);
    text.map(|text| text + "\n")
        .map_err(|e| wrong(Path::new("the report"), e.to_string()))
}

/// Something wrong with a file or directory.
pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format {
        path: path.to_owned(),
        reason: reason.into(),
    }
}
