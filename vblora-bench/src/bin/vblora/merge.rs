//! `vblora merge`: an adapter added into its base.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use vblora::storage::{merge, peft::PeftAdapter};

use crate::adapter::{Place, json, wrong};

/// Write a Hugging Face model with the adapter added into its weights
///
/// Base and adapter stay as they are. Weights go through memory in small blocks; types, shards and all other files stay as they are. Sums are computed in f32 and rounded
/// once. An adapter's vocabulary becomes the model's. Weights in other forms (pytorch_model.bin, ...) are left out.
#[derive(Args)]
#[command(before_help = "\
vblora merge roberta-base runs/mrpc/vblora-seed1 merged
vblora merge path/to/llama small.safetensors merged --overwrite")]
pub(crate) struct Arguments {
    /// The base: a directory with model.safetensors, or with shards and their index
    base: PathBuf,
    #[command(flatten)]
    place: Place,
    /// The directory to write
    to: PathBuf,
    /// The base stores its weights [d_in, d_out]; counts only where it has no config.json with a model_type
    #[arg(long)]
    fan_in_fan_out: bool,
    /// Leave out the tensors of modules_to_save, for a base that has no such modules
    #[arg(long)]
    without_modules: bool,
    /// Replace a directory that is there already, if it holds only files that are written again
    #[arg(long)]
    overwrite: bool,
    /// Print one JSON object in place of a text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let real = |path: &PathBuf| path.canonicalize().ok();
    if real(&arguments.to).is_some() && real(&arguments.to) == real(&arguments.place.path) {
        return Err(wrong(&arguments.to, "the adapter itself").into());
    }
    let place = Place {
        model: Some(
            arguments
                .place
                .model
                .clone()
                .unwrap_or(arguments.base.clone()),
        ),
        ..arguments.place.clone()
    };
    let found = place.open()?.adapter;
    let adapter = PeftAdapter {
        fan_in_fan_out: found.fan_in_fan_out || arguments.fan_in_fan_out,
        saved: match arguments.without_modules {
            true => Vec::new(),
            false => found.saved,
        },
        ..found
    };
    let (base, to) = (&arguments.base, &arguments.to);
    let merged = merge(base, &adapter, to, arguments.overwrite)?;
    if arguments.json {
        return json(&merged);
    }
    let mut text = format!(
        "{} weights updated, {} tensors replaced in {}\n",
        merged.updated,
        merged.replaced,
        merged.weights.join(", ")
    );
    for note in &merged.notes {
        text += &format!("note: {note}\n");
    }
    if !merged.left_out.is_empty() {
        text += &format!("left out: {}\n", merged.left_out.join(", "));
    }
    let [base, adapter, to] = [base, &arguments.place.path, to].map(|path| path.display());
    Ok(text + &format!("{base} + {adapter} -> {to}"))
}
