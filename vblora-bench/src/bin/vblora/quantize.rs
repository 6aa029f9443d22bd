//! `vblora quantize`: writes a model with its maps in 4 bits.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use vblora_bench::commands::models::find;
use vblora_models::quantize;

/// Write a model with its linear maps in 4 bits (NF4)
///
/// transformers loads the directory with bitsandbytes.
/// Embeddings, norms and heads stay as they are. Shards and index are kept, and tokenizer files are copied. One tensor is in memory at a
/// time. Training and generation quantise by themselves with --base-dtype nf4; a quantised directory is smaller and loads faster.
#[derive(Args)]
#[command(before_help = "\
vblora quantize path/to/llama path/to/llama-nf4
vblora quantize path/to/llama path/to/llama-nf4 --keep down_proj,o_proj")]
pub(crate) struct Arguments {
    /// The model: a directory with config.json and model.safetensors, or with shards and their index; a hub id; or bundled:roberta,
    /// bundled:llama
    from: String,
    /// Directory to write; it must not exist
    to: PathBuf,
    /// Hub revision: a branch, tag or commit
    #[arg(long)]
    revision: Option<String>,
    /// Store the scales in f32 instead of 8 bits: 0.5625 bytes a weight instead of 0.516
    #[arg(long)]
    no_double_quant: bool,
    /// Maps that stay as they are, by the ends of their names
    #[arg(long, value_name = "SUFFIX,..", value_delimiter = ',')]
    keep: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let files = find(&arguments.from, arguments.revision.as_deref())?;
    let double = !arguments.no_double_quant;
    let done = quantize(&files, &arguments.to, double, &arguments.keep)?;
    Ok(format!(
        "{} maps in 4 bits; {} bytes of tensors became {}\n{} -> {}",
        done.maps,
        done.before,
        done.after,
        arguments.from,
        arguments.to.display()
    ))
}
