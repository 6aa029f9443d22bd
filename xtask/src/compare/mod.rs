//! `cargo xtask compare`: compares our steps with PyTorch and PEFT, alternating in one run.

mod ours;
mod reference;
mod report;
mod work;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use clap::Args;
use vblora::{
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::write_atomically,
};
use vblora_bench::commands::progress;
use vblora_bench::program::say;

use self::{ours::Ours, reference::Reference, report::Report, report::Row};
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
    /// Comma-separated works, for example roberta-base/vblora-all/8x128, with /bf16 or /nf4 (bitsandbytes) behind [default: one list for CPUs, one for GPUs]
    #[arg(long, value_delimiter = ',', value_name = "WORK,...")]
    only: Vec<Work>,
    /// Backend: flex, ndarray, wgpu or cuda. With cuda the reference also runs on the GPU, otherwise on the CPU
    #[arg(long, default_value = "flex")]
    backend: BackendKind,
    /// Number of timed pairs of each work
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Repetitions in each half of a pair [default: 1 on a CPU, 10 on a GPU]
    #[arg(long)]
    repetitions: Option<usize>,
    /// Repetitions of both sides before the first pair [default: 1 on a CPU, 3 on a GPU]
    #[arg(long)]
    warm_up: Option<usize>,
    /// Forbid TF32 for f32 products of the reference on a GPU; ours never uses it
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
        let reference =
            Reference::start(&arguments.python, gpu, threads, !arguments.full_precision)?;
        let mut report = Report {
            machine: memory::machine(gpu, threads),
            versions: reference.versions.clone(),
            rows: Vec::new(),
        };
        let own = concat!(env!("CARGO_PKG_VERSION"), " on burn 0.21.0");
        let own = format!("{own}, {}", arguments.backend);
        report.versions.insert("vblora".into(), own);
        let mut sides = Sides::<B> {
            ours: Ours::new(device, compute_dtype(gpu)),
            reference,
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

/// Ours and the reference, and the settings of the measurement.
struct Sides<B: VbLoraBackend> {
    ours: Ours<B>,
    reference: Reference,
    peak: Peak,
    pairs: usize,
    repetitions: usize,
    warm_up: usize,
}

impl<B: VbLoraBackend> Sides<B> {
    fn compare(&mut self, work: Work) -> Result<Row> {
        let processes = [std::process::id(), self.reference.id()];
        let [own, theirs] = processes;
        let start = Instant::now();
        let mut job = self.ours.prepare(work)?;
        self.peak.reset(own);
        self.ours.time(&mut job, 1)?;
        let first = start.elapsed().as_secs_f64() * 1e3;
        self.ours.time(&mut job, self.warm_up)?;
        self.reference.prepare(work)?;
        self.peak.reset(theirs);
        self.reference.time(self.warm_up)?;
        let count = self.repetitions;
        let mut pairs = Vec::with_capacity(self.pairs);
        for _ in 0..self.pairs {
            let ours = self.ours.time(&mut job, count)?;
            let theirs = self.reference.time(count)?;
            pairs.push((ours / count as f64, theirs / count as f64));
        }
        let peaks = processes.map(|process| self.peak.mib(process));
        Ok(Row::new(work, &pairs, first, peaks))
    }
}
