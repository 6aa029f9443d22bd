//! Opens an adapter from the path that the user gives.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use vblora::{
    AdapterConfig, Error, Site, StoredVbLora,
    storage::{
        Bank, HostAdapter,
        peft::{PeftAdapter, PeftDirectory, PeftMethod},
    },
};

use vblora_bench::{
    commands::{adapter::why_none, config::ModelConfig},
    predict::with_head_beside,
    train::HEAD_FILE,
};

/// The place of an adapter.
#[derive(Args, Clone)]
pub(crate) struct Place {
    /// A PEFT directory or a compact file
    pub(crate) path: PathBuf,
    /// File with the bank, for a compact file that holds only codes
    #[arg(long, alias = "bank", value_name = "FILE")]
    pub(crate) bank_file: Option<PathBuf>,
    /// Prefix of the site names in a PEFT directory, such as "roberta."; compact files store names without it
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) prefix: String,
    /// The base model. Only VeRA needs it: its files do not store the input dimensions of the linear maps
    #[arg(long, value_name = "DIR|HUB_ID|FILE")]
    pub(crate) model: Option<PathBuf>,
    /// The revision of a base from the hub.
    #[arg(skip)]
    pub(crate) revision: Option<String>,
}

/// An adapter and the form in which it was stored.
pub(crate) struct Opened {
    pub(crate) form: &'static str,
    pub(crate) adapter: PeftAdapter,
    /// The file beside the adapter that its saved tensors are in; `None` if they are in the adapter's own.
    pub(crate) head_file: Option<&'static str>,
    /// Rank and scale of each site of a LoRA if they differ between sites. The adapter then has the largest rank at every site.
    pub(crate) patterned: Option<Vec<(usize, f64)>>,
}

impl Place {
    pub(crate) fn open(&self) -> Result<Opened> {
        if self.path.is_dir() {
            return self.open_directory();
        }
        let (form, adapter) = match &self.bank_file {
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
            head_file: None,
            patterned: None,
        })
    }

    fn open_directory(&self) -> Result<Opened> {
        if let Some(reason) = why_none(&self.path) {
            return Err(wrong(&self.path, reason).into());
        }
        let found = PeftDirectory::open(&self.path)?;
        let adapter = match (&found.config().method, &self.model) {
            (PeftMethod::Vera(_), Some(model)) => {
                let config = ModelConfig::find(model, self.revision.as_deref())?;
                found.bind(&config.sites())?
            }
            (PeftMethod::Vera(_), None) => {
                let reason = "the method is VeRA, whose files lack the input dimensions of the linear maps; give --model";
                return Err(wrong(&self.path, reason).into());
            }
            _ => PeftAdapter {
                prefix: self.prefix.clone(),
                ..found.bind(&self.named(found.sites())?)?
            },
        };
        let form = match &adapter.adapter {
            HostAdapter::VbLora(_) => "PEFT directory, all logits",
            HostAdapter::TopK(_) => "PEFT directory, top-k only",
            HostAdapter::Lora(_) | HostAdapter::Vera(_) => "PEFT directory",
        };
        let old = with_head_beside(&self.path, &adapter)?;
        Ok(Opened {
            form,
            head_file: old.is_some().then_some(HEAD_FILE),
            adapter: old.unwrap_or(adapter),
            patterned: found.patterned(),
        })
    }

    /// The modules of a directory, with names without the prefix.
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
                )
                .into()),
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
    Ok(text?)
}

/// The error for a file or directory that cannot be used.
pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Format {
        path: path.to_owned(),
        reason: reason.into(),
    }
}
