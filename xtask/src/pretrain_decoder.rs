//! `cargo xtask pretrain-decoder`: pretrains the bundled Llama with this project's own code.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use vblora::{
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::write_atomically,
};
use vblora_bench::{
    metrics::Metric,
    program::say,
    recipes::{Recipe, ScheduleSettings, Size, TooLong},
    schedule::ScheduleKind,
    tasks::{
        Task,
        causal::{Text, Texts},
    },
    train::{
        Learner, Objective, Trained,
        causal::{Causal, EncodedTexts, Encoding},
    },
};
use vblora_models::{
    DecoderConfig, ModelFiles, SaveDtype, TextTokenizer, decoder::CausalLm, save_tensors,
};

use vblora_bench::commands::progress;

/// Pretrain all weights of the bundled tiny Llama on text
#[derive(Args)]
pub(crate) struct Arguments {
    /// Text, one short story per line (made by `cargo xtask make-text-task`)
    #[arg(long)]
    corpus: PathBuf,
    /// Folder with `tokenizer.json` and `config.json`; the model is written to it
    #[arg(long, default_value = "vblora-bench/assets/tiny-llama")]
    out: PathBuf,
    /// Backend: flex, ndarray, wgpu or cuda
    #[arg(long, default_value = "flex")]
    backend: BackendKind,
    /// Index of the backend's device
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Number of optimizer steps
    #[arg(long, default_value_t = 1_500)]
    steps: usize,
    /// Rows of `length` tokens per step; each packs several stories
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Tokens per row
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// Seed of weights and order
    #[arg(long, default_value_t = 20_26)]
    seed: u64,
}

/// One of so many stories is held out to measure the loss.
const HELD_OUT: usize = 200;

/// The record written next to the model.
#[derive(Serialize)]
struct Record {
    command: String,
    backend: String,
    recipe: Recipe,
    stories: usize,
    held_out: usize,
    parameters: usize,
    seconds: f64,
    steps: usize,
    /// (step, training loss, held-out loss)
    log: Vec<(usize, f64, f64)>,
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
    let files = ModelFiles::open(&arguments.out)?;
    let config = DecoderConfig::from_files(&files)?;
    let tokenizer = TextTokenizer::from_files(&files)?.for_decoder(&config)?;
    let (train, held_out) = stories(arguments, &config, &tokenizer)?;
    let recipe = recipe(arguments)?;
    let base = CausalLm::<B>::random(config, arguments.seed, device)?;
    let head = <Causal as Objective<B>>::head(&base, &recipe, arguments.seed, device);
    let mut learner: Learner<B, Causal> = Learner::new(
        &base,
        Trained::Everything,
        head,
        &recipe,
        arguments.seed,
        device,
    );
    let start = Instant::now();
    let bar = progress::bar(arguments.steps as u64, "pretraining");
    let schedule = recipe.schedule(arguments.steps);
    let epoch = |n| -> Vec<_> {
        <Causal as Objective<B>>::epoch(&train, &recipe, arguments.seed, n).collect()
    };
    let mut log = Vec::new();
    let mut batches = (1..).flat_map(epoch);
    for step in 0..arguments.steps {
        let rows = batches.next().context("no text to train on")?;
        let batch = <Causal as Objective<B>>::batch(&train, &rows, learner.base())?;
        let report = learner.step(step, &[batch], schedule.factor(step))?;
        ensure!(report.is_finite(), "the loss is not finite at step {step}");
        bar.inc(1);
        let done = step + 1;
        if done % 250 == 0 || done == arguments.steps {
            let loss = learner.evaluate(&held_out, &recipe)?.get(Metric::Nll);
            let loss = loss.context("no held-out loss")?;
            let seconds = start.elapsed().as_secs_f64();
            let train = report.loss;
            bar.suspend(|| {
                say(format!(
                    "step {done}: train {train:.4}, held out {loss:.4}, {seconds:.0} s"
                ))
            });
            log.push((done, train, loss));
        }
    }
    bar.finish();
    let tensors = learner.plain_base().tensors();
    let record = Record {
        command: vblora_bench::program::arguments(),
        backend: B::name(device),
        recipe,
        stories: train.len(),
        held_out: held_out.len(),
        parameters: tensors.iter().map(|(_, t)| t.values.len()).sum(),
        seconds: start.elapsed().as_secs_f64(),
        steps: arguments.steps,
        log,
    };
    let model = arguments.out.join("model.safetensors");
    save_tensors(&model, &tensors, SaveDtype::F16)?;
    let record = serde_json::to_string_pretty(&record)?;
    write_atomically(&arguments.out.join("pretraining.json"), record.as_bytes())?;
    Ok(())
}

/// The recipe for full training.
fn recipe(arguments: &Arguments) -> Result<Recipe> {
    let mut recipe = Recipe {
        batch: arguments.batch,
        group_by_length: false,
        max_length: arguments.length,
        schedule: ScheduleSettings {
            kind: ScheduleKind::Cosine,
            warmup_ratio: 0.05,
            warmup_steps: None,
        },
        ..Recipe::builtin(Size::Demo, &Task::text())?
    };
    recipe.text.packing = true;
    recipe.lr.base = arguments.lr;
    recipe.weight_decay.base = 0.01;
    recipe.validate()?;
    Ok(recipe)
}

fn stories(
    arguments: &Arguments,
    config: &DecoderConfig,
    tokenizer: &TextTokenizer,
) -> Result<(EncodedTexts, EncodedTexts)> {
    let path = &arguments.corpus;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let story = |line: &str| Text {
        prompt: String::new(),
        response: line.to_owned(),
        ..Text::default()
    };
    let texts = Texts {
        texts: text.lines().map(story).collect(),
        source: path.clone(),
        ..Texts::default()
    };
    let (train, held_out) = texts.hold_out(HELD_OUT)?;
    let encoding = Encoding {
        tokenizer,
        end: *config.eos_token_ids.first().context("no eos_token_id")?,
        max_length: arguments.length,
        too_long: TooLong::Drop,
        on_prompt: false,
    };
    Ok((encoding.encode(&train)?, encoding.encode(&held_out)?))
}
