//! `vblora dequantize`: writes a model whose maps are in 4 bits with those maps in floats.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use vblora_bench::commands::models::find;
use vblora_models::{DecodedDtype, dequantize};

/// Write a model whose maps are in 4 bits with those maps in floats
///
/// Reads what transformers and bitsandbytes store (NF4 and FP4). `vblora merge` needs such a base. Values are decoded in f32 and rounded
/// once. All other tensors stay as they are, shards and index are kept, and tokenizer files are copied.
#[derive(Args)]
#[command(before_help = "\
vblora dequantize path/to/llama-nf4 path/to/llama
vblora dequantize path/to/llama-nf4 path/to/llama --dtype f32")]
pub(crate) struct Arguments {
    /// The model: a directory with config.json and model.safetensors, or with shards and their index; or a hub id
    from: String,
    /// Directory to write; it must not exist
    to: PathBuf,
    /// Hub revision: a branch, tag or commit
    #[arg(long)]
    revision: Option<String>,
    /// Number type of the decoded maps: f32, f16 or bf16 [default: the one that they were quantised from]
    #[arg(long)]
    dtype: Option<DecodedDtype>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let files = find(&arguments.from, arguments.revision.as_deref())?;
    let done = dequantize(&files, &arguments.to, arguments.dtype)?;
    Ok(format!(
        "{} maps in floats; {} bytes of tensors became {}\n{} -> {}",
        done.maps,
        done.before,
        done.after,
        arguments.from,
        arguments.to.display()
    ))
}
