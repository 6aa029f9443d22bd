//! `cargo xtask compare`: compares our steps with PyTorch and PEFT, alternating in one run.

mod ours;
mod reference;
mod report;
mod work;

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use vblora::{
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::write_atomically,
};
use vblora_bench::commands::progress;
use vblora_bench::program::say;

use self::{
    ours::Ours,
    reference::{Form, Reference},
    report::{Peaks, Report, Row},
};
pub(crate) use self::{
    ours::{compute_dtype, decoder_config, encoder_config, encoder_step},
    work::{Pass, Shape, Task as WorkTask, Work},
};
use crate::memory::{self, Peak};

/// Time works against PyTorch with PEFT: same shapes, threads and number type, alternating, with random weights
#[derive(Args)]
pub(crate) struct Arguments {
    /// Python interpreter with torch, transformers and peft (pip install torch transformers peft)
    #[arg(long)]
    python: PathBuf,
    /// Comma-separated works, for example roberta-base/vblora-all/8x128 or llama-2-7b/lora-all/4x528-recompute, with /bf16 or /nf4 (bitsandbytes) behind [default: one list for CPUs, one for GPUs]
    #[arg(long, value_delimiter = ',', value_name = "WORK,...")]
    only: Vec<Work>,
    /// Backend: flex, ndarray, wgpu or cuda. With cuda the reference also runs on the GPU, otherwise on the CPU
    #[arg(long, default_value = "flex")]
    backend: BackendKind,
    /// Forms of the reference, each timed beside ours; the first is `reference` in the table [default: eager, and graph with --backend cuda]
    #[arg(long, value_delimiter = ',', value_name = "FORM,...")]
    beside: Vec<Form>,
    /// Number of timed pairs of each work
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Repetitions in each half of a pair [default: 1 on a CPU, 10 on a GPU]
    #[arg(long)]
    repetitions: Option<usize>,
    /// Repetitions of both sides before the first pair [default: 1 on a CPU, 3 on a GPU]
    #[arg(long)]
    warm_up: Option<usize>,
    /// Forbid TF32 for f32 products of the reference on a GPU; ours use it there
    #[arg(long)]
    full_precision: bool,
    /// File for the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report = arguments.backend.dispatch(0, Comparison(arguments))??;
    say(report.table());
    Ok(())
}

struct Comparison<'a>(&'a Arguments);

impl BackendJob for Comparison<'_> {
    type Output = Result<Report>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        let arguments = self.0;
        let gpu = arguments.backend == BackendKind::Cuda;
        let threads = std::thread::available_parallelism()?.get();
        let works = match arguments.only.as_slice() {
            [] => Work::defaults(gpu),
            some => some.to_vec(),
        };
        let forms = forms(&arguments.beside, gpu)?;
        let references = forms
            .iter()
            .map(|&form| {
                let tf32 = !arguments.full_precision;
                let reference = Reference::start(&arguments.python, gpu, threads, tf32, form)?;
                Ok((form, reference))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut report = Report {
            machine: memory::machine(gpu, threads),
            versions: references[0].1.versions.clone(),
            rows: Vec::new(),
        };
        let own = concat!(env!("CARGO_PKG_VERSION"), " on burn 0.21.0");
        let own = format!("{own}, {}", arguments.backend);
        report.versions.insert("vblora".into(), own);
        let mut sides = Sides::<B> {
            ours: Ours::new(device, compute_dtype(gpu)),
            references,
            peak: if gpu { Peak::Device } else { Peak::Resident },
            pairs: arguments.pairs.max(1),
            repetitions: arguments
                .repetitions
                .unwrap_or(if gpu { 10 } else { 1 })
                .max(1),
            warm_up: arguments.warm_up.unwrap_or(if gpu { 3 } else { 1 }).max(1),
        };
        let bar = progress::bar(works.len() as u64, "comparing");
        for work in works {
            bar.set_message(work.to_string());
            let row = sides
                .compare(work)
                .with_context(|| format!("comparing {work}"))?;
            report.rows.push(row);
            // Results so far are kept even if a later work fails.
            if let Some(file) = &arguments.json {
                write_atomically(file, &serde_json::to_vec_pretty(&report)?)?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(report)
    }
}

/// The forms to run, each once. The first is the reference of the table's ratio.
fn forms(asked: &[Form], gpu: bool) -> Result<Vec<Form>> {
    let mut forms = match asked {
        [] if gpu => vec![Form::Eager, Form::Graph],
        [] => vec![Form::Eager],
        some => some.to_vec(),
    };
    let mut seen = BTreeSet::new();
    forms.retain(|form| seen.insert(*form));
    ensure!(
        gpu || !seen.contains(&Form::Graph),
        "--beside graph records a CUDA graph, so it needs --backend cuda"
    );
    Ok(forms)
}

/// Ours and the references, and the settings of the measurement.
struct Sides<B: VbLoraBackend> {
    ours: Ours<B>,
    /// At least one.
    references: Vec<(Form, Reference)>,
    peak: Peak,
    pairs: usize,
    repetitions: usize,
    warm_up: usize,
}

impl<B: VbLoraBackend> Sides<B> {
    fn compare(&mut self, work: Work) -> Result<Row> {
        let own = std::process::id();
        let start = Instant::now();
        let mut job = self.ours.prepare(work)?;
        self.peak.reset(own);
        self.ours.time(&mut job, 1)?;
        let first = start.elapsed().as_secs_f64() * 1e3;
        self.ours.time(&mut job, self.warm_up)?;
        let ours_allocated = self.ours.allocated(&mut job, self.warm_up)?;
        let mut others = Vec::new();
        for (index, (form, reference)) in self.references.iter_mut().enumerate() {
            let ready = reference.prepare(work).and_then(|()| {
                self.peak.reset(reference.id());
                reference.time(self.warm_up)
            });
            match ready {
                Ok(_) if index > 0 => others.push((index, *form, Vec::new())),
                Ok(_) => {}
                // The other forms are not made for every work: a graph's memory has fixed places, for example.
                Err(error) if index > 0 => say(format!("{work}, {}: {error:#}", form.name())),
                Err(error) => return Err(error),
            }
        }
        let count = self.repetitions;
        let mut pairs = Vec::with_capacity(self.pairs);
        for _ in 0..self.pairs {
            let ours = self.ours.time(&mut job, count)?;
            let theirs = self.references[0].1.time(count)?;
            pairs.push((ours / count as f64, theirs / count as f64));
            for (index, _, times) in &mut others {
                times.push(self.references[*index].1.time(count)? / count as f64);
            }
        }
        let peaks = Peaks {
            of_process: [own, self.references[0].1.id()].map(|process| self.peak.mib(process)),
            allocated: [ours_allocated, self.references[0].1.allocated()?],
        };
        let others = others
            .into_iter()
            .map(|(_, form, times)| (form.name(), times))
            .collect();
        Ok(Row::new(work, &pairs, others, first, peaks))
    }
}
