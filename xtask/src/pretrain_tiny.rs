//! `cargo xtask pretrain-tiny`: pretrains the bundled RoBERTa with this project's own code.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use vblora::{
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::write_atomically,
};
use vblora_bench::{
    pretrain::{PretrainSettings, Pretrainer, SpecialIds},
    program::say,
};
use vblora_models::{Encoded, EncoderConfig, ModelFiles, SaveDtype, TextTokenizer, save_tensors};

use vblora_bench::commands::progress;

/// Pretrain the bundled tiny RoBERTa by masked-language modelling
#[derive(Args)]
pub(crate) struct Arguments {
    /// Text, one sentence per line (made by `cargo xtask make-tiny-corpus`)
    #[arg(long)]
    corpus: PathBuf,
    /// Folder with `tokenizer.json`; the model is written to it
    #[arg(long, default_value = "vblora-bench/assets/tiny-roberta")]
    out: PathBuf,
    /// Backend: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = "flex")]
    backend: BackendKind,
    /// Index of the backend's device
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Number of optimizer steps
    #[arg(long, default_value_t = 12_000)]
    steps: usize,
    /// Sentences per step
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 1.5e-3)]
    lr: f64,
    /// Seed of weights, order, masks and dropout
    #[arg(long, default_value_t = 20_26)]
    seed: u64,
    /// Number of transformer blocks
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Hidden size
    #[arg(long, default_value_t = 256)]
    width: usize,
    /// Inner size of the MLP
    #[arg(long, default_value_t = 768)]
    inner: usize,
    /// Stop after this many seconds. The learning rate decays as in a full run, so the model is worse than it could be
    #[arg(long)]
    max_seconds: Option<u64>,
}

/// One of so many sentences is held out to measure the loss.
const HELD_OUT: usize = 100;

/// The maximum length of a sentence, in tokens.
const MAX_LENGTH: usize = 64;

/// The record written next to the model.
#[derive(Serialize)]
struct Record {
    command: String,
    backend: String,
    settings: PretrainSettings,
    sentences: usize,
    held_out: usize,
    parameters: usize,
    seconds: f64,
    steps: usize,
    /// (step, mean training loss since the previous entry, held-out loss)
    log: Vec<(usize, f64, f64)>,
    final_held_out_loss: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments
        .backend
        .dispatch(arguments.device, Job(arguments))?
}

struct Job<'a>(&'a Arguments);

impl BackendJob for Job<'_> {
    type Output = Result<()>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Result<()> {
        pretrain::<B>(self.0, &device)
    }
}

fn pretrain<B: VbLoraBackend>(arguments: &Arguments, device: &B::Device) -> Result<()> {
    let tokenizer = TextTokenizer::from_files(&ModelFiles::open(&arguments.out)?)?;
    let (train, held_out) = sentences(&arguments.corpus, &tokenizer)?;
    let config = config(arguments, &tokenizer);
    config.check("the command line")?;
    let settings = PretrainSettings {
        seed: arguments.seed,
        steps: arguments.steps,
        batch: arguments.batch,
        lr: arguments.lr,
        warmup: arguments.steps / 20,
        weight_decay: 0.01,
        mask_share: 0.15,
        clip_norm: 1.0,
    };
    let special = SpecialIds {
        mask: tokenizer
            .token_id("<mask>")
            .context("the tokenizer has no <mask>")?,
        first_ordinary: 5,
    };
    let start = Instant::now();
    let mut trainer = Pretrainer::<B>::new(config.clone(), special, settings.clone(), device)?;
    let bar = progress::bar(arguments.steps as u64, "pretraining");
    let (mut log, mut losses) = (Vec::new(), Vec::new());
    let mut done = 0;
    for step in 0..arguments.steps {
        losses.extend(trainer.step(step, &train, step % 20 == 19));
        done = step + 1;
        bar.inc(1);
        let late = arguments
            .max_seconds
            .is_some_and(|most| start.elapsed().as_secs() >= most);
        if done % 1000 == 0 || done == arguments.steps || late {
            let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            let loss = trainer.evaluate(&held_out);
            bar.println(format!(
                "step {done}: train {mean:.4}, held out {loss:.4}, {:.0} s",
                start.elapsed().as_secs_f64()
            ));
            ensure!(loss.is_finite(), "the loss is not finite at step {done}");
            log.push((done, mean, loss));
            losses.clear();
        }
        if late {
            break;
        }
    }
    bar.finish();
    let tensors = trainer.tensors();
    let record = Record {
        command: vblora_bench::program::arguments(),
        backend: B::name(device),
        settings,
        sentences: train.len(),
        held_out: held_out.len(),
        parameters: tensors.iter().map(|(_, t)| t.values.len()).sum(),
        seconds: start.elapsed().as_secs_f64(),
        steps: done,
        final_held_out_loss: log.last().map_or(f64::NAN, |line| line.2),
        log,
    };
    save(&arguments.out, &config, &tensors, &record)
}

fn sentences(corpus: &Path, tokenizer: &TextTokenizer) -> Result<(Vec<Encoded>, Vec<Encoded>)> {
    let text =
        std::fs::read_to_string(corpus).with_context(|| format!("reading {}", corpus.display()))?;
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| (line, None))
        .collect();
    ensure!(
        lines.len() > HELD_OUT,
        "{}: {} sentences, too few to train on",
        corpus.display(),
        lines.len()
    );
    let encoded = tokenizer.encode_batch(&lines, MAX_LENGTH)?;
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (i, sentence) in encoded.into_iter().enumerate() {
        if i % HELD_OUT == 0 {
            held_out.push(sentence)
        } else {
            train.push(sentence)
        }
    }
    Ok((train, held_out))
}

fn config(arguments: &Arguments, tokenizer: &TextTokenizer) -> EncoderConfig {
    let base = EncoderConfig::roberta_base();
    EncoderConfig {
        hidden_size: arguments.width,
        num_layers: arguments.layers,
        num_heads: arguments.width / 64,
        intermediate_size: arguments.inner,
        vocab_size: tokenizer.largest_id() as usize + 1,
        max_positions: MAX_LENGTH + base.position_offset,
        ..base
    }
}

fn save(
    out: &Path,
    config: &EncoderConfig,
    tensors: &[(String, vblora_models::HostTensor)],
    record: &Record,
) -> Result<()> {
    save_tensors(&out.join("model.safetensors"), tensors, SaveDtype::F16)?;
    write_atomically(&out.join("config.json"), config.to_json().as_bytes())?;
    write_atomically(
        &out.join("pretraining.json"),
        serde_json::to_string_pretty(record)?.as_bytes(),
    )?;
    say(format!(
        "{}: {} parameters, held-out loss {:.4}",
        out.display(),
        record.parameters,
        record.final_held_out_loss
    ));
    Ok(())
}
