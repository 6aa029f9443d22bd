//! The flags of a causal model that answers questions.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use vblora_models::BaseDtype;

use crate::{
    commands::{adapter, models},
    evaluate::AnsweringModel,
};

/// The heading of the help.
pub(super) const MODEL: &str = "Model and adapter";

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, Args)]
pub(super) struct ModelArguments {
    /// Hub revision: a branch, tag or commit
    #[arg(long, requires = "model", help_heading = MODEL)]
    revision: Option<String>,
    /// Adapter: a PEFT directory or a compact file; without one the base answers
    #[arg(long, value_name = "DIR|FILE", requires = "model", help_heading = MODEL)]
    pub(super) adapter: Option<PathBuf>,
    /// Merge the adapter into the weights in memory before answering
    #[arg(long, requires = "adapter", help_heading = MODEL)]
    merge: bool,
    /// Form of the linear maps: f32, f16, bf16 or nf4 (4 bits) [default: f32; nf4 if the files are in 4 bits]
    #[arg(long, value_name = "DTYPE", requires = "model", help_heading = MODEL)]
    base_dtype: Option<BaseDtype>,
}

impl ModelArguments {
    /// Opens a model by its directory, hub id or bundled name, with the adapter.
    pub(super) fn open(&self, model: &str) -> Result<AnsweringModel> {
        let files = models::find(model, self.revision.as_deref())?;
        let adapter = self.adapter.as_deref();
        adapter.map_or(Ok(()), adapter::check)?;
        Ok(AnsweringModel::open(
            files,
            self.base_dtype,
            adapter,
            self.merge,
        )?)
    }
}
