//! `cargo xtask peft-roundtrip`: reads adapters that PEFT wrote, lets PEFT read ours, and compares the logits.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;
use vblora::{
    Factors, Site,
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::{
        HostAdapter, HostTensor, TensorFile,
        peft::{PeftAdapter, PeftDirectory},
        write_atomically,
    },
};
use vblora_bench::program::say;
use vblora_models::{
    ClassificationHead, Encoder, EncoderConfig, EncoderInput, Error, ModelFiles, PaddedBatch,
    SaveDtype,
    decoder::{CausalBatch, CausalInput, CausalLm, Side},
    host_tensor, save_safetensors,
};

const SCRIPT: &str = include_str!("../scripts/peft_roundtrip.py");

/// The largest difference of a logit that counts as rounding.
const TOLERANCE: f64 = 1e-4;

/// Compare with Hugging Face PEFT in both directions: each side reads the other's adapters and must get the same logits
#[derive(Args)]
pub(crate) struct Arguments {
    /// Python interpreter with torch, transformers and peft (pip install torch transformers peft)
    #[arg(long)]
    python: PathBuf,
    /// Folder for models and adapters; its content is replaced
    #[arg(long, default_value = "target/peft-roundtrip")]
    out: PathBuf,
    /// Backend: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = "flex")]
    backend: BackendKind,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    if out.exists() {
        std::fs::remove_dir_all(out).with_context(|| out.display().to_string())?;
    }
    let script = out.join("peft_roundtrip.py");
    write_atomically(&script, SCRIPT.as_bytes())?;
    let python = |verb: &str| -> Result<()> {
        let status = Command::new(&arguments.python)
            .args([script.as_os_str(), verb.as_ref(), out.as_os_str()])
            .env("HF_HUB_OFFLINE", "1")
            .status()
            .with_context(|| format!("cannot run {}", arguments.python.display()))?;
        ensure!(
            status.success(),
            "{} {} {verb} failed ({status}); it needs torch, transformers and peft",
            arguments.python.display(),
            script.display()
        );
        Ok(())
    };
    python("make")?;
    let read = arguments.backend.dispatch(0, Ours { dir: out })??;
    python("check")?;
    let report = out.join("report.json");
    let report: Report = serde_json::from_slice(&std::fs::read(&report)?)
        .with_context(|| report.display().to_string())?;
    let versions: Vec<_> = report
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    say(versions.join(", "));
    let written = report
        .rows
        .into_iter()
        .map(|row| (row.adapter, row.difference));
    let mut wrong = 0;
    for (direction, rows) in [
        ("written by PEFT, read here", read),
        ("written here, read by PEFT", written.collect()),
    ] {
        say(format!("\n{direction}: largest difference of a logit"));
        ensure!(!rows.is_empty(), "{direction}: nothing was compared");
        for (adapter, difference) in rows {
            let is_right = difference <= TOLERANCE;
            wrong += usize::from(!is_right);
            let mark = if is_right { "" } else { "  WRONG" };
            say(format!("  {adapter:<40} {difference:.1e}{mark}"));
        }
    }
    if wrong > 0 {
        bail!("{wrong} adapters give other logits (tolerance {TOLERANCE:e})");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Report {
    versions: BTreeMap<String, String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    adapter: String,
    difference: f64,
}

/// Reads every adapter under `theirs`, writes each in all its forms under `ours`, and adds our logits.
struct Ours<'a> {
    dir: &'a Path,
}

impl BackendJob for Ours<'_> {
    type Output = Result<Vec<(String, f64)>>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        let mut rows = Vec::new();
        for family in folders(self.dir)? {
            let model = Model::<B>::open(&family, device.clone())?;
            for path in folders(&family.join("theirs"))? {
                rows.push(model.both_ways(&family, &path)?);
            }
        }
        Ok(rows)
    }
}

/// The folders in a folder, sorted.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The adapter unchanged, and in every form that it can be converted to.
fn forms(adapter: &HostAdapter) -> Vec<(&'static str, HostAdapter)> {
    let as_lora = HostAdapter::Lora(adapter.to_lora());
    match adapter {
        HostAdapter::VbLora(full) => vec![
            ("full", adapter.clone()),
            ("topk", HostAdapter::TopK(full.store())),
            ("lora", as_lora),
        ],
        HostAdapter::TopK(_) => vec![("topk", adapter.clone()), ("lora", as_lora)],
        HostAdapter::Lora(_) => vec![("lora", as_lora)],
        HostAdapter::Vera(_) => vec![("vera", adapter.clone()), ("lora", as_lora)],
    }
}

struct Model<B: VbLoraBackend> {
    base: Base<B>,
    batch: PaddedBatch,
    device: B::Device,
}

enum Base<B: VbLoraBackend> {
    Encoder(Box<Encoder<B>>),
    Decoder(Box<CausalLm<B>>),
}

impl<B: VbLoraBackend> Model<B> {
    fn open(dir: &Path, device: B::Device) -> Result<Self> {
        let files = ModelFiles::open(&dir.join("base"))?;
        let base = match EncoderConfig::from_files(&files) {
            Ok(config) => Base::Encoder(Box::new(Encoder::load_with(config, &files, &device)?.0)),
            Err(Error::OtherArchitecture { .. }) => {
                Base::Decoder(Box::new(CausalLm::load(&files, &device)?.0))
            }
            Err(error) => return Err(error.into()),
        };
        let inputs = TensorFile::read(&dir.join("inputs.safetensors"))?;
        let whole = |name: &str| -> Result<Vec<i64>> {
            Ok(inputs.integers(name)?.into_iter().map(i64::from).collect())
        };
        let Some(&[rows, columns]) = inputs.shape("input_ids") else {
            bail!("{}: input_ids is no matrix", inputs.path().display());
        };
        let batch = PaddedBatch {
            ids: whole("input_ids")?,
            type_ids: vec![0; rows * columns],
            mask: whole("attention_mask")?,
            rows,
            columns,
        };
        Ok(Self {
            base,
            batch,
            device,
        })
    }

    fn sites(&self) -> Vec<Site> {
        match &self.base {
            Base::Encoder(base) => base.sites(),
            Base::Decoder(base) => base.sites(),
        }
    }

    /// Compares one of their adapters, and writes it in every form.
    fn both_ways(&self, family: &Path, path: &Path) -> Result<(String, f64)> {
        let found = PeftDirectory::open(path)?.bind(&self.sites())?;
        let expected = TensorFile::read(&path.join("logits.safetensors"))?.floats("logits")?;
        let logits = self.logits(&found)?;
        for (form, adapter) in forms(&found.adapter) {
            let adapter = PeftAdapter {
                adapter,
                ..found.clone()
            };
            let dir = family
                .join("ours")
                .join(format!("{}-as-{form}", name(path)));
            adapter.write(&dir)?;
            let logits = self.logits(&adapter)?;
            let logits = ("logits", &*logits.shape, &*logits.values);
            save_safetensors(&dir.join("logits.safetensors"), &[logits], SaveDtype::F32)?;
        }
        let row = format!("{} {}", name(family), name(path));
        Ok((row, difference(&logits.values, &expected)))
    }

    /// The logits. Those of padding are zero.
    fn logits(&self, adapter: &PeftAdapter) -> Result<HostTensor> {
        let factors: Factors<B> = adapter.adapter.factors(&self.device);
        let base = match &self.base {
            Base::Encoder(base) => {
                let (names, form) = (base.config().classifier(), base.config().head_form());
                let saved = adapter.saved.iter();
                let saved = saved.map(|(name, tensor)| (names.read(name), tensor.clone()));
                let head = ClassificationHead::from_tensors(
                    form,
                    "the adapter",
                    &saved.collect::<Vec<_>>(),
                    0.0,
                    &self.device,
                )?;
                let input = EncoderInput::new(&self.batch, base.config(), &self.device);
                return Ok(host_tensor(
                    head.forward(base.for_head(&input, &factors), None),
                ));
            }
            Base::Decoder(base) => base,
        };
        if let Some((name, _)) = adapter.saved.first() {
            anyhow::bail!("saved tensor {name:?}: the base at hand has another in its place");
        }
        let PaddedBatch { rows, columns, .. } = self.batch;
        let texts = self.texts();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let batch = CausalBatch::pad(&texts, 0, Side::Right);
        let input = CausalInput::new(&batch, base.config(), &self.device)?;
        let hidden = base.forward(&input, &factors);
        let d = base.config().hidden_size;
        let scores = base.logits(hidden.reshape([rows * columns, d]));
        let mut scores = host_tensor(scores);
        let vocabulary = base.config().vocab_size;
        let cells = scores.values.chunks_mut(vocabulary).zip(&self.batch.mask);
        cells
            .filter(|(_, mask)| **mask == 0)
            .for_each(|(scores, _)| scores.fill(0.0));
        scores.shape = vec![rows, columns, vocabulary];
        Ok(scores)
    }

    /// The tokens of each row without padding.
    fn texts(&self) -> Vec<Vec<u32>> {
        let PaddedBatch {
            ids, mask, columns, ..
        } = &self.batch;
        let rows = ids.chunks(*columns).zip(mask.chunks(*columns));
        let text = |(ids, mask): (&[i64], &[i64])| {
            let real = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1);
            real.map(|(&id, _)| id as u32).collect()
        };
        rows.map(text).collect()
    }
}

fn difference(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let differences = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    // A maximum must not ignore a difference that is not a number.
    let largest = differences.fold(0.0_f32, |largest, difference| match difference.is_nan() {
        true => f32::INFINITY,
        false => largest.max(difference),
    });
    f64::from(largest)
}
