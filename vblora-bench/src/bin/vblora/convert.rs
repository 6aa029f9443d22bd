//! `vblora convert`: writes an adapter in another form.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use vblora::{
    Error, StoredVbLora,
    count::thousands,
    limits::check_disk,
    storage::{
        HostAdapter, Loss, MAX_CONFIG_BYTES, MAX_RECIPE_BYTES, Precision, Precisions,
        peft::{self, PeftAdapter},
        read_file, read_text, write_to,
    },
};
use vblora_bench::train::{HEAD_SETTINGS, RUN_FILES};

use crate::adapter::{Opened, Place, wrong};

/// The model's configuration beside an adapter, with the labels for other tools.
const MODEL_CONFIG: &str = "config.json";

/// A file's name and content.
type Named = (String, Vec<u8>);

/// Write an adapter in another form; the original stays
///
/// From directory to directory, a classifier's labels and settings (classifier.json, config.json) come along.
#[derive(Args)]
#[command(before_help = "\
vblora convert run/vblora-seed1 small.safetensors --form compact --prefix roberta. --without-modules
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
    check_prefix(&arguments.place, &found.adapter)?;
    let beside = match arguments.form {
        Form::Compact => Vec::new(),
        _ => {
            let files = files_beside(from)?;
            check_others(to, &files)?;
            files
        }
    };
    let written = write_to(to, arguments.overwrite, |place| {
        write(&found, &beside, arguments, place)
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

/// Refuses a prefix that the names of a compact file have already. The names of a directory have lost it.
fn check_prefix(place: &Place, found: &PeftAdapter) -> vblora::Result<()> {
    let prefix = place.prefix.as_str();
    let mut sites = found.adapter.plan().sites().iter();
    let is_added = !prefix.is_empty() && !place.path.is_dir();
    match is_added && sites.all(|site| site.name.starts_with(prefix)) {
        true => Err(wrong(
            &place.path,
            format!(
                "expected a --prefix that its names of linear maps lack, found {prefix:?}, with which all of them begin"
            ),
        )),
        false => Ok(()),
    }
}

/// The files of an adapter's directory that hold in any form of it. A compact file has none.
fn files_beside(adapter: &Path) -> vblora::Result<Vec<Named>> {
    let mut found = Vec::new();
    for name in [HEAD_SETTINGS, MODEL_CONFIG] {
        let path = adapter.join(name);
        if adapter.is_dir() && path.is_file() {
            let bytes =
                read_file(&path, MAX_CONFIG_BYTES).map_err(|cause| Error::Io { path, cause })?;
            found.push((name.to_owned(), bytes));
        }
    }
    Ok(found)
}

/// Refuses a directory with files that would then lie beside an adapter which they do not describe.
fn check_others(to: &Path, beside: &[Named]) -> vblora::Result<()> {
    let names = beside.iter().map(|(name, _)| name.as_str());
    let written: Vec<&str> = names.chain([peft::CONFIG, peft::TENSORS]).collect();
    let is_other = |name: &&str| !written.contains(name) && to.join(name).exists();
    match RUN_FILES.into_iter().find(is_other) {
        None => Ok(()),
        Some(name) => Err(wrong(
            to,
            format!(
                "expected a directory without files of another adapter or model, found {name}; name a new directory"
            ),
        )),
    }
}

/// Writes the adapter in the form asked for. For a compact file, returns its loss of precision.
fn write(
    opened: &Opened,
    beside: &[Named],
    arguments: &Arguments,
    to: &Path,
) -> vblora::Result<Option<Loss>> {
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
    adapter.write_with(to, beside).map(|()| None)
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
