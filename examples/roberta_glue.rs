//! Fine-tunes a RoBERTa (or BERT) on a GLUE task with VB-LoRA, LoRA, the head alone, or in full, and shows what each bought and cost.
//!
//! ```text
//! cargo run --release --example roberta_glue                       # bundled model and task, no download
//! cargo run --release --example roberta_glue -- --model roberta-base --data glue --task mrpc --method vblora --out runs/mrpc
//! cargo run --release --example roberta_glue --features cuda -- --backend cuda ...
//! ```
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, sync::atomic::AtomicBool};

use anyhow::{Context, Result, bail};
use clap::Parser;
use vblora::{
    Selection,
    backend::{BackendJob, BackendKind, DEFAULT_BACKEND, VbLoraBackend},
};
use vblora_bench::{
    demo,
    program::{arguments as command_line, exit_code, listen, say, start_logging},
    recipes::{Recipe, SharedBank, Size},
    report::{draw, summary_table},
    results::Results,
    tasks::Task,
    train::{CheckpointSettings, DataSource, Method, Output, Session},
};
use vblora_models::{BaseDtype, EncoderConfig, ModelFiles, resolve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Fine-tune a RoBERTa on a GLUE task and compare methods. Without flags: a bundled tiny model and task, two minutes.
#[derive(Debug, Parser)]
#[command(name = "roberta_glue")]
struct Arguments {
    /// A Hugging Face directory (config.json, model.safetensors, tokenizer.json) or hub id [default: the bundled tiny RoBERTa]
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<String>,
    /// The hub revision: a branch, tag or commit
    #[arg(long, requires = "model")]
    revision: Option<String>,
    /// GLUE's directory: <DIR>/<task>/{train,dev}.tsv
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The task [default: demo, or the recipe's]
    #[arg(long, value_enum)]
    task: Option<Task>,
    /// A method; repeat to compare [default: head, lora and vblora]
    #[arg(long = "method", value_enum)]
    methods: Vec<Method>,
    /// Adapted linear maps: qv, all, or suffixes with commas between
    #[arg(long, value_name = "qv|all|SUFFIX,...")]
    targets: Option<String>,
    /// Seeds with commas between; one run each
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    #[arg(long)]
    epochs: Option<usize>,
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens to which an input is cut
    #[arg(long)]
    max_length: Option<usize>,
    #[arg(long, allow_negative_numbers = true)]
    lr_bank: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    lr_logits: Option<f64>,
    /// Learning rate of every adapter but VB-LoRA's [default: the recipe's, by method]
    #[arg(long, allow_negative_numbers = true)]
    lr_adapter: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    lr_head: Option<f64>,
    /// r, of VB-LoRA and LoRA
    #[arg(long)]
    rank: Option<usize>,
    /// h, the number of bank vectors
    #[arg(long, value_name = "H")]
    bank: Option<usize>,
    /// b, the length of a bank vector
    #[arg(long, value_name = "B")]
    vector_length: Option<usize>,
    /// k, the bank vectors mixed per sub-vector
    #[arg(long, value_name = "K")]
    topk: Option<usize>,
    /// How sub-vectors choose bank vectors in training: topk, select-all, noisy-topk, gumbel-softmax or straight-through
    #[arg(long, value_name = "RULE")]
    selection: Option<Selection>,
    /// A compact file, or a PEFT directory, whose bank VB-LoRA starts from, in place of one of its own
    #[arg(long, value_name = "FILE|DIR")]
    bank_file: Option<PathBuf>,
    /// Leave the bank of --bank-file as it is: only logits and head are trained
    #[arg(long, requires = "bank_file")]
    freeze_bank: bool,
    /// A recipe (TOML, as config.toml of a run); other flags override its keys
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// What the frozen linear maps are held and multiplied in: f32, f16 or bf16 [default: the recipe's, f32]
    #[arg(long, value_name = "DTYPE")]
    base_dtype: Option<BaseDtype>,
    /// flex, ndarray, wgpu or cuda
    #[arg(long, default_value = DEFAULT_BACKEND)]
    backend: BackendKind,
    /// The backend's device number
    #[arg(long, value_name = "I", default_value_t = 0)]
    device: usize,
    /// A directory for configuration, log, results, table, picture and adapters
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use --out even if it holds a run
    #[arg(long)]
    overwrite: bool,
    /// Go on with the session in --out where it was interrupted or killed
    #[arg(long, requires = "out", conflicts_with = "overwrite")]
    resume: bool,
    /// Write a checkpoint to --out also every N steps, not only after each epoch
    #[arg(long, value_name = "N", requires = "out")]
    checkpoint_every: Option<usize>,
    /// How many of a run's last checkpoints stay, besides that of its best epoch
    #[arg(long, value_name = "N", default_value_t = CheckpointSettings::default().keep)]
    keep: usize,
    /// Record in --out what VB-LoRA selects every N steps, for cargo xtask figures and view
    #[arg(long, value_name = "N", requires = "out")]
    record_every: Option<usize>,
    /// Print the plan and stop
    #[arg(long)]
    plan: bool,
    /// No progress, only the final table
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    start_logging();
    match run(Arguments::parse()) {
        Ok(code) => exit_code(code),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let session = session(&arguments)?;
    let plan = session.plan()?;
    if arguments.plan || !arguments.quiet {
        say(plan);
    }
    if arguments.plan {
        return Ok(ExitCode::SUCCESS);
    }
    // The run then ends after its step, with a checkpoint, and reports what was reached.
    let interrupted = listen().context("cannot listen for Ctrl-C")?;
    let results = arguments
        .backend
        .dispatch(arguments.device, Job(&session, interrupted))??;
    say(summary_table(&results));
    if let Some(out) = &session.out {
        say(format!("Written to {}.", out.dir.display()));
    }
    Ok(outcome(&results))
}

struct Job<'a>(&'a Session, &'a AtomicBool);

impl BackendJob for Job<'_> {
    type Output = vblora_bench::Result<Results>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        self.0.run::<B>(&device, self.1)
    }
}

/// 1 if a run failed; each that did is named.
fn outcome(results: &Results) -> ExitCode {
    for run in results.failed() {
        tracing::error!("{} seed {}: {}", run.method, run.seed, run.stop);
    }
    match results.failed().next() {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}

fn session(arguments: &Arguments) -> Result<Session> {
    let files = match &arguments.model {
        Some(model) => resolve(model, arguments.revision.as_deref())?,
        None => demo::model_files(),
    };
    let recipe = recipe(arguments, &files)?;
    let data = match &arguments.data {
        Some(dir) => DataSource::Directory(dir.clone()),
        None if recipe.task == Task::demo() => DataSource::Demo,
        None => bail!(
            "task {} needs --data DIR with {}/train.tsv and dev.tsv",
            recipe.task,
            recipe.task
        ),
    };
    let methods = match arguments.methods.as_slice() {
        [] => vec![Method::Head, Method::Lora, Method::VbLora],
        some => some.to_vec(),
    };
    let command = format!("roberta_glue {}", command_line());
    Ok(Session {
        recipe,
        methods,
        files,
        data,
        out: arguments.out.as_ref().map(|dir| Output::new(dir, draw)),
        overwrite: arguments.overwrite,
        resume: arguments.resume,
        checkpoints: CheckpointSettings {
            every: arguments.checkpoint_every,
            keep: arguments.keep,
        },
        record_every: arguments.record_every,
        quiet: arguments.quiet,
        command,
    })
}

/// The recipe file, or the built-in recipe for a model of this width; flags override keys.
fn recipe(arguments: &Arguments, files: &ModelFiles) -> Result<Recipe> {
    let mut recipe = match &arguments.recipe {
        Some(file) => Recipe::from_toml_file(file)?,
        None => built_in(arguments.task.clone().unwrap_or_else(Task::demo), files)?,
    };
    let set = |to: &mut usize, from: Option<usize>| *to = from.unwrap_or(*to);
    set(&mut recipe.epochs, arguments.epochs);
    set(&mut recipe.batch, arguments.batch);
    set(&mut recipe.max_length, arguments.max_length);
    set(&mut recipe.vblora.rank, arguments.rank);
    set(&mut recipe.lora.rank, arguments.rank);
    set(&mut recipe.vblora.bank, arguments.bank);
    set(&mut recipe.vblora.vector_length, arguments.vector_length);
    set(&mut recipe.vblora.topk, arguments.topk);
    let set = |to: &mut f64, from: Option<f64>| *to = from.unwrap_or(*to);
    set(&mut recipe.lr.bank, arguments.lr_bank);
    set(&mut recipe.lr.logits, arguments.lr_logits);
    set(&mut recipe.lr.head, arguments.lr_head);
    if let Some(rate) = arguments.lr_adapter {
        recipe.lr = recipe.lr.with_adapter(rate);
    }
    if let Some(file) = arguments.bank_file.clone() {
        let frozen = arguments.freeze_bank;
        recipe.bank = Some(SharedBank { file, frozen });
    }
    let selection = &mut recipe.vblora.selection;
    *selection = arguments.selection.unwrap_or(*selection);
    recipe.task = arguments.task.clone().unwrap_or(recipe.task);
    recipe.base_dtype = arguments.base_dtype.unwrap_or(recipe.base_dtype);
    if let Some(targets) = &arguments.targets {
        recipe.targets.clone_from(targets);
    }
    if !arguments.seeds.is_empty() {
        recipe.seeds.clone_from(&arguments.seeds);
    }
    recipe.validate()?;
    Ok(recipe)
}

/// The paper's recipe for roberta-base and -large, MiniLM's for its width; the demonstration's for everything else.
fn built_in(task: Task, files: &ModelFiles) -> Result<Recipe> {
    let size = match EncoderConfig::from_files(files)?.hidden_size {
        768 => Size::Base,
        1024 => Size::Large,
        384 => Size::Minilm,
        _ => Size::Demo,
    };
    let exact = Recipe::builtin(size, &task);
    // A model and task that no built-in recipe pairs: the demonstration's settings on that task.
    exact
        .or_else(|_| {
            Recipe::builtin(Size::Demo, &Task::demo()).map(|recipe| Recipe { task, ..recipe })
        })
        .map_err(Into::into)
}
