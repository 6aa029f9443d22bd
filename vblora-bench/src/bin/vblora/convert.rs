//! `vblora convert`: writes an adapter in another form.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use vblora::{
    Error, StoredVbLora,
    count::thousands,
    limits::check_disk,
    storage::{
        HostAdapter, Loss, MAX_RECIPE_BYTES, Precision, Precisions, peft::PeftAdapter, read_text,
        write_to,
    },
};

use crate::adapter::{Opened, Place, wrong};

/// Write an adapter in another form; the original stays
#[derive(Args)]
#[command(before_help = "\
vblora convert runs/mrpc/vblora-seed1 small.safetensors --form compact --without-modules
vblora convert small.safetensors lora --form peft-lora --prefix roberta.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Directory or file to write
    to: PathBuf,
    /// Form to write
    #[arg(long, value_enum)]
    form: Form,
    /// Precision of the bank in a compact file
    #[arg(long, value_enum, default_value = "f32")]
    bank_precision: Bits,
    /// Precision of the mixture weights in a compact file
    #[arg(long, value_enum, default_value = "f32")]
    weight_precision: Bits,
    /// Write a compact file even if the adapter has tensors of modules_to_save, which are then left out
    #[arg(long)]
    without_modules: bool,
    /// Text file to store inside the compact file, such as a run's config.toml, to document how the adapter was made
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Overwrite an existing file or directory
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// A PEFT directory with all logits; training can continue from it
    PeftFull,
    /// A PEFT directory, top-k only: bank and codes (save_only_topk_weights)
    PeftTopk,
    /// A PEFT directory of plain LoRA with the same factors
    PeftLora,
    /// A compact file
    Compact,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bits {
    F32,
    F16,
    #[value(name = "8bits")]
    Bits8,
}

impl From<Bits> for Precision {
    fn from(bits: Bits) -> Self {
        match bits {
            Bits::F32 => Self::F32,
            Bits::F16 => Self::F16,
            Bits::Bits8 => Self::Bits8,
        }
    }
}

/// Returns true if `path` exists and is the adapter, or one of the files that the adapter is read from.
fn is_of(path: &Path, adapter: &Path) -> bool {
    let (Ok(path), Ok(adapter)) = (path.canonicalize(), adapter.canonicalize()) else {
        return false;
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path == adapter || path.parent() == Some(&adapter) && name.starts_with("adapter_")
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let (from, to) = (&arguments.place.path, &arguments.to);
    if to.exists() && !arguments.overwrite {
        return Err(wrong(to, "exists already; --overwrite replaces it").into());
    }
    if is_of(to, from) {
        return Err(wrong(to, "is the adapter itself, which stays unchanged").into());
    }
    let found = arguments.place.open()?;
    let written = write_to(to, arguments.overwrite, |place| {
        write(&found, arguments, place)
    })?;
    let lost = written.map_or(String::new(), |loss| {
        format!(
            "largest change of a factor's entry: {:.1e} (largest entry: {:.1e})\n",
            loss.largest_change, loss.largest_entry
        )
    });
    let bytes = thousands(size(to) as usize);
    Ok(format!(
        "{lost}{} -> {}: {bytes} bytes",
        from.display(),
        to.display()
    ))
}

/// Writes the adapter in the form asked for. For a compact file, returns its loss of precision.
fn write(opened: &Opened, arguments: &Arguments, to: &Path) -> vblora::Result<Option<Loss>> {
    let (from, found) = (&arguments.place.path, &opened.adapter);
    let stored = || {
        let stored = found.adapter.store();
        stored.ok_or_else(|| wrong(from, "not VB-LoRA, so it has no bank and no codes"))
    };
    let adapter = match (arguments.form, &found.adapter) {
        (Form::PeftFull, HostAdapter::VbLora(_)) => found.adapter.clone(),
        (Form::PeftFull, _) => {
            let problem = "the adapter has no logits, which this form needs";
            return Err(wrong(from, problem));
        }
        (Form::PeftTopk, _) => HostAdapter::TopK(stored()?),
        (Form::PeftLora, adapter) => {
            adapter.check_lora_room()?;
            check_disk(to, adapter.lora_values().saturating_mul(4))?;
            HostAdapter::Lora(adapter.to_lora())
        }
        (Form::Compact, _) if !found.saved.is_empty() && !arguments.without_modules => {
            return Err(wrong(
                from,
                format!(
                    "{} tensors of {} do not fit into a compact file; --without-modules leaves them out",
                    found.saved.len(),
                    opened.head_file.unwrap_or("modules_to_save")
                ),
            ));
        }
        (Form::Compact, _) => return compact(&stored()?, to, arguments).map(Some),
    };
    let adapter = PeftAdapter {
        adapter,
        ..found.clone()
    };
    adapter.write(to).map(|()| None)
}

fn compact(stored: &StoredVbLora, to: &Path, arguments: &Arguments) -> vblora::Result<Loss> {
    let precisions = Precisions {
        bank: arguments.bank_precision.into(),
        weights: arguments.weight_precision.into(),
    };
    let Some(path) = &arguments.recipe else {
        return stored.save_as(to, precisions);
    };
    let recipe = read_text(path, MAX_RECIPE_BYTES as u64).map_err(|cause| Error::Io {
        path: path.clone(),
        cause,
    })?;
    let described = stored.clone().with_recipe(Some(recipe))?;
    described.save_as(to, precisions)
}

/// The size of a file, or of all files of a directory, in bytes.
fn size(path: &Path) -> u64 {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| bytes(&entry.path())).sum(),
        Err(_) => bytes(path),
    }
}
