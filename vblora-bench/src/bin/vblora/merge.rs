//! `vblora merge`: adds an adapter into the weights of its base.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use vblora::{
    Error,
    storage::{merge_as, peft::PeftAdapter},
};
use vblora_bench::{
    commands::models::directory,
    predict::{compare_base, whole},
};
use vblora_models::ModelFiles;

use crate::adapter::{Place, json, wrong};

/// Write a Hugging Face model with the adapter added into its weights
///
/// Base and adapter are not changed. The command reads and writes weights in small blocks, so large models need little memory. Number
/// types, shards and all other files stay the same. Sums are computed in f32 and rounded once. If the adapter has a vocabulary of its own,
/// the model gets it. If it has a classifier's head, the model is transformers' for sequence classification, with the adapter's labels.
/// Weights in other formats (pytorch_model.bin, ...) are not copied.
#[derive(Args)]
#[command(before_help = "\
vblora merge path/to/roberta-base path/to/vblora-seed1 merged
vblora merge path/to/llama path/to/small.safetensors merged --overwrite")]
pub(crate) struct Arguments {
    /// The base model: a directory with model.safetensors, or with shards and their index; a hub id; or bundled:roberta, bundled:llama
    base: String,
    #[command(flatten)]
    place: Place,
    /// Directory to write
    to: PathBuf,
    /// Hub revision of the base: a branch, tag or commit
    #[arg(long)]
    revision: Option<String>,
    /// The base stores its weights as [d_in, d_out]. Used only if the base has no config.json with a model_type
    #[arg(long)]
    fan_in_fan_out: bool,
    /// Leave out the tensors of modules_to_save, such as a classifier's head
    #[arg(long)]
    without_modules: bool,
    /// Replace an existing directory, if this command writes all files in it again
    #[arg(long)]
    overwrite: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The directory of the run that an adapter's directory or file belongs to, if training wrote it.
fn run_of(adapter: &Path) -> &Path {
    match adapter.parent() {
        Some(folder) if adapter.is_file() => folder,
        _ => adapter,
    }
}

/// The error with a bundled model's name in place of the temporary directory of its files.
fn named(error: Error, place: &Path, base: &str) -> Error {
    let name = |path: PathBuf| match path.strip_prefix(place) {
        Ok(rest) if rest.as_os_str().is_empty() => base.into(),
        Ok(rest) => Path::new(base).join(rest),
        Err(_) => path,
    };
    match error {
        Error::Format { path, reason } => Error::Format {
            path: name(path),
            reason,
        },
        Error::Io { path, cause } => Error::Io {
            path: name(path),
            cause,
        },
        other => other,
    }
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
                .unwrap_or(PathBuf::from(&arguments.base)),
        ),
        revision: arguments.revision.clone(),
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
    // The files of a bundled model are there as long as the second value.
    let (dir, bundled) = directory(base, arguments.revision.as_deref())?;
    let files = ModelFiles::open(&dir)?;
    let whole = whole(&arguments.place.path, &adapter, &files)?;
    compare_base(run_of(&arguments.place.path), &files, base)?;
    let (class, whole) = whole.unzip();
    let merged = merge_as(&dir, &adapter, whole.as_ref(), to, arguments.overwrite);
    let merged = merged.map_err(|error| match &bundled {
        Some(place) => named(error, place.path(), base),
        None => error,
    })?;
    if arguments.json {
        return json(&merged);
    }
    let mut text = format!(
        "{} weights updated, {} tensors replaced in {}\n",
        merged.updated,
        merged.replaced,
        merged.weights.join(", ")
    );
    if let Some(class) = class {
        text += &format!("the model is a {class}, with the adapter's head\n");
    }
    for note in &merged.notes {
        text += &format!("note: {note}\n");
    }
    if !merged.left_out.is_empty() {
        text += &format!("left out: {}\n", merged.left_out.join(", "));
    }
    let [adapter, to] = [&arguments.place.path, to].map(|path| path.display());
    Ok(text + &format!("{base} + {adapter} -> {to}"))
}
