//! Fine-tunes a causal model (GPT-2, Llama, Mistral, Gemma) on prompts and responses with VB-LoRA, LoRA, or in full, and shows what each
//! bought and cost: held-out likelihood, answers and BLEU before and after.
//!
//! ```text
//! cargo run --release --example causal_finetune                    # bundled model and data, no download
//! cargo run --release --example causal_finetune -- --model DIR --data train.csv --held-out dev.csv --format e2e --method vblora --out runs/e2e
//! cargo run --release --example causal_finetune -- --model DIR --data alpaca.json --format alpaca --packing --plan
//! ```
#![allow(
    clippy::print_stdout,
    reason = "tables and samples on the terminal are the program's output"
)]

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vblora::{
    Factors,
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::{peft::PeftDirectory, write_atomically},
};
use vblora_bench::{
    demo,
    recipes::{Recipe, Size, TooLong},
    report::{Results, Stop, summary_table},
    tasks::{
        SplitName, Task,
        causal::{Form, TextTemplate, Texts, read_texts},
    },
    train::{
        CheckpointSettings, Method, Session,
        causal::{self, Sample, TextSource},
    },
};
use vblora_models::{
    BaseDtype, DecoderConfig, ModelFiles, TextTokenizer,
    decoder::CausalLm,
    generate::{BeamSearch, Decoding, GenerationConfig},
    resolve, stop_tokens,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Set by Ctrl-C; the run then ends after its step and reports what was reached.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Every so manieth prompt is held out where no file of held-out texts is given.
const HELD_OUT: usize = 20;

/// Answers that are shown in full.
const SHOWN: usize = 3;

/// Fine-tune a causal model on prompts and responses. Without flags: a bundled tiny Llama and bundled data, under two minutes.
#[derive(Debug, Parser)]
#[command(name = "causal_finetune")]
struct Arguments {
    /// A Hugging Face directory or hub id [default: the bundled tiny Llama]
    #[arg(long, value_name = "DIR|HUB_ID", requires = "data")]
    model: Option<String>,
    /// The hub revision: a branch, tag or commit
    #[arg(long, requires = "model")]
    revision: Option<String>,
    /// Texts to learn from: JSON lines, .json (an array) or .csv [default: the bundled ones]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Texts to score on [default: every 20th prompt of --data]
    #[arg(long, value_name = "FILE", requires = "data")]
    held_out: Option<PathBuf>,
    /// alpaca, e2e, gsm8k, completion[:FIELD] or fields:PROMPT,RESPONSE
    #[arg(long, default_value = "e2e")]
    format: Form,
    /// A Jinja template with the blocks prompt and response, in place of --format
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    template: Option<PathBuf>,
    /// Use so many of the texts, evenly spaced
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Score on so many of the held-out texts, evenly spaced
    #[arg(long, value_name = "N")]
    held_out_rows: Option<usize>,
    /// vblora, lora or full; repeat to compare [default: lora and vblora]
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
    /// Rows of a micro-batch
    #[arg(long)]
    batch: Option<usize>,
    /// Micro-batches of an optimizer step
    #[arg(long)]
    accumulation: Option<usize>,
    /// Tokens that a text, or a packed row, may have
    #[arg(long)]
    max_length: Option<usize>,
    /// What becomes of longer texts
    #[arg(long, value_enum)]
    too_long: Option<TooLong>,
    /// Learn to predict the prompt too
    #[arg(long)]
    on_prompt: bool,
    /// Put several texts into each row
    #[arg(long)]
    packing: bool,
    #[arg(long)]
    label_smoothing: Option<f64>,
    /// Compute activations twice instead of keeping them
    #[arg(long)]
    recompute: bool,
    #[arg(long)]
    lr_bank: Option<f64>,
    #[arg(long)]
    lr_logits: Option<f64>,
    /// LoRA's learning rate
    #[arg(long)]
    lr_adapter: Option<f64>,
    /// r, of VB-LoRA and LoRA; LoRA's scale stays
    #[arg(long)]
    rank: Option<usize>,
    /// h, the number of bank vectors
    #[arg(long, value_name = "H")]
    bank: Option<usize>,
    /// b, the length of a bank vector
    #[arg(long, value_name = "B")]
    vector_length: Option<usize>,
    /// A recipe (TOML, as config.toml of a run); other flags override its keys
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// What the frozen linear maps are held and multiplied in [default: the recipe's, f32]
    #[arg(long, value_name = "DTYPE")]
    base_dtype: Option<BaseDtype>,
    /// flex, ndarray, wgpu or cuda
    #[arg(long, default_value = DEFAULT_BACKEND)]
    backend: BackendKind,
    /// The backend's device number
    #[arg(long, value_name = "I", default_value_t = 0)]
    device: usize,
    /// Held-out prompts to answer before and after
    #[arg(long, value_name = "N", default_value_t = 20)]
    generate: usize,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// Sequences that beam search keeps; 1 is greedy
    #[arg(long, value_name = "N", default_value_t = 1)]
    beams: usize,
    /// A directory for configuration, log, results, table, picture, answers and adapters
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
    /// Print the plan and stop
    #[arg(long)]
    plan: bool,
    /// No progress, only tables and answers
    #[arg(long)]
    quiet: bool,
}

const DEFAULT_BACKEND: &str = if cfg!(feature = "flex") {
    "flex"
} else if cfg!(feature = "ndarray") {
    "ndarray"
} else if cfg!(feature = "cuda") {
    "cuda"
} else {
    "wgpu"
};

fn main() -> ExitCode {
    let level = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,cubecl=error,wgpu=error".into());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (train, held_out) = texts(arguments)?;
    let mut session = session(arguments, train, &held_out)?;
    let plan = session.plan()?;
    if arguments.plan || !arguments.quiet {
        println!("{plan}");
    }
    if arguments.plan {
        return Ok(ExitCode::SUCCESS);
    }
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("cannot listen for Ctrl-C")?;
    // Answers come from the adapters as they are stored, so there must be a place for them.
    let place = tempfile::tempdir()?;
    let out = session.out.get_or_insert_with(|| place.path().join("run"));
    let out = out.clone();
    let work = Work {
        session: &session,
        arguments,
        held_out: &held_out,
        out: &out,
    };
    let results = arguments.backend.dispatch(arguments.device, work)??;
    if arguments.out.is_some() {
        println!("Written to {}.", out.display());
    }
    Ok(exit_code(&results))
}

struct Work<'a> {
    session: &'a Session<TextSource>,
    arguments: &'a Arguments,
    /// All of them: a prompt is asked once and has all its references.
    held_out: &'a Texts,
    out: &'a Path,
}

impl BackendJob for Work<'_> {
    type Output = Result<Results>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        let results = self.session.run::<B>(&device, &INTERRUPTED)?;
        println!("{}", summary_table(&results));
        if self.arguments.generate > 0 && !INTERRUPTED.load(Ordering::Relaxed) {
            self.answers::<B>(&results, &device)?;
        }
        Ok(results)
    }
}

impl Work<'_> {
    /// Answers held-out prompts with the base and with every adapter that was stored, shows some and writes all down.
    fn answers<B: VbLoraBackend>(&self, results: &Results, device: &B::Device) -> Result<()> {
        let Session { recipe, files, .. } = self.session;
        let tokenizer = TextTokenizer::from_files(files)?;
        let config = DecoderConfig::from_files(files)?;
        let settings = self.settings(stop_tokens(files, &tokenizer)?);
        let encoding = causal::encoding(recipe, &config, &tokenizer)?;
        let questions = self.held_out.by_prompt();
        let mut questions = causal::answerable(questions, &encoding, settings.max_new_tokens)?;
        questions.truncate(self.arguments.generate);
        let (model, _) = CausalLm::<B>::load(files, device)?;
        let answer = |factors: &Factors<B>| {
            causal::answer(&model, factors, &encoding, &questions, &settings, device)
        };
        let mut all = vec![("base".to_owned(), answer(&Factors::none())?)];
        for run in &results.runs {
            let name = format!("{}-seed{}", run.method, run.seed);
            let dir = self.out.join(&name);
            // A model that was trained itself is no adapter.
            if dir.join("adapter_config.json").is_file() {
                let adapter = PeftDirectory::open(&dir)?.bind(&model.sites())?.adapter;
                all.push((name, answer(&adapter.factors(device))?));
            }
        }
        show(&all);
        let json = serde_json::to_vec_pretty(&all)?;
        Ok(write_atomically(&self.out.join("answers.json"), &json)?)
    }

    fn settings(&self, stop_tokens: Vec<u32>) -> GenerationConfig {
        let beams = self.arguments.beams;
        GenerationConfig {
            max_new_tokens: self.arguments.max_new_tokens,
            stop_tokens,
            decoding: match beams {
                0 | 1 => Decoding::Greedy,
                beams => Decoding::Beam(BeamSearch {
                    beams,
                    ..BeamSearch::default()
                }),
            },
            ..GenerationConfig::default()
        }
    }
}

fn show(all: &[(String, Vec<Sample>)]) {
    let Some((_, first)) = all.first().filter(|(_, samples)| !samples.is_empty()) else {
        return;
    };
    println!("BLEU-4 of {} held-out prompts:", first.len());
    for (name, samples) in all {
        println!("  {name:<16} {:.4}", causal::answers_bleu(samples));
    }
    for (i, sample) in first.iter().take(SHOWN).enumerate() {
        println!("\n{}", sample.prompt);
        println!("  {:<16} {}", "reference", sample.references.join(" / "));
        for (name, samples) in all {
            println!("  {name:<16} {}", samples[i].answer.replace('\n', " "));
        }
    }
}

/// 130 after Ctrl-C, as shells have it; 1 if a run's loss left the numbers.
fn exit_code(results: &Results) -> ExitCode {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return ExitCode::from(130);
    }
    let failed = |stop: &Stop| matches!(stop, Stop::NonFiniteLoss { .. });
    match results.runs.iter().find(|run| failed(&run.stop)) {
        Some(run) => {
            tracing::error!("{} seed {}: {}", run.method, run.seed, run.stop);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn session(arguments: &Arguments, train: Texts, held_out: &Texts) -> Result<Session<TextSource>> {
    let thinned = |texts: Texts, rows: Option<usize>| match rows {
        Some(rows) => texts.thinned(rows),
        None => texts,
    };
    let files = match &arguments.model {
        Some(model) => resolve(model, arguments.revision.as_deref())?,
        None => demo::decoder_files(),
    };
    let recipe = recipe(arguments, &files)?;
    let methods = match arguments.methods.as_slice() {
        [] => vec![Method::Lora, Method::VbLora],
        some => some.to_vec(),
    };
    let command = std::env::args()
        .skip(1)
        .fold("causal_finetune".to_owned(), |command, word| {
            command + " " + &word
        });
    Ok(Session {
        recipe,
        methods,
        files,
        data: TextSource {
            train: thinned(train, arguments.rows),
            held_out: thinned(held_out.clone(), arguments.held_out_rows),
        },
        out: arguments.out.clone(),
        overwrite: arguments.overwrite,
        resume: arguments.resume,
        checkpoints: CheckpointSettings {
            every: arguments.checkpoint_every,
            ..CheckpointSettings::default()
        },
        quiet: arguments.quiet,
        command,
    })
}

/// The texts to learn from and those that are held out.
fn texts(arguments: &Arguments) -> Result<(Texts, Texts)> {
    let form = match &arguments.template {
        Some(file) => Form::Template(TextTemplate::read(file)?),
        None => arguments.format.clone(),
    };
    let is_empty = arguments.rows == Some(0) || arguments.held_out_rows == Some(0);
    ensure!(!is_empty, "0 rows leave nothing to train or score on");
    Ok(match (&arguments.data, &arguments.held_out) {
        (None, _) => (demo::texts(SplitName::Train)?, demo::texts(SplitName::Dev)?),
        (Some(data), Some(held_out)) => (read_texts(data, &form)?, read_texts(held_out, &form)?),
        (Some(data), None) => read_texts(data, &form)?.hold_out(HELD_OUT)?,
    })
}

/// The recipe file, or the built-in recipe; flags override keys.
fn recipe(arguments: &Arguments, files: &ModelFiles) -> Result<Recipe> {
    let mut recipe = match (&arguments.recipe, &arguments.model) {
        (Some(file), _) => Recipe::from_toml_file(file)?,
        (None, Some(_)) => Recipe::builtin(Size::Decoder, Task::Text)?,
        (None, None) => Recipe::builtin(Size::Demo, Task::Text)?,
    };
    let set = |to: &mut usize, from: Option<usize>| *to = from.unwrap_or(*to);
    set(&mut recipe.epochs, arguments.epochs);
    set(&mut recipe.batch, arguments.batch);
    set(&mut recipe.accumulation, arguments.accumulation);
    set(&mut recipe.max_length, arguments.max_length);
    set(&mut recipe.vblora.bank, arguments.bank);
    set(&mut recipe.vblora.vector_length, arguments.vector_length);
    if let Some(rank) = arguments.rank {
        recipe.lora.alpha *= rank as f64 / recipe.lora.rank as f64;
        (recipe.vblora.rank, recipe.lora.rank) = (rank, rank);
    }
    let set = |to: &mut f64, from: Option<f64>| *to = from.unwrap_or(*to);
    set(&mut recipe.lr.bank, arguments.lr_bank);
    set(&mut recipe.lr.logits, arguments.lr_logits);
    set(&mut recipe.lr.adapter, arguments.lr_adapter);
    set(&mut recipe.text.label_smoothing, arguments.label_smoothing);
    recipe.text.too_long = arguments.too_long.unwrap_or(recipe.text.too_long);
    recipe.text.on_prompt |= arguments.on_prompt;
    recipe.text.recompute |= arguments.recompute;
    recipe.text.packing |= arguments.packing;
    // Packed rows are all of one length.
    recipe.group_by_length &= !recipe.text.packing;
    recipe.base_dtype = arguments.base_dtype.unwrap_or(recipe.base_dtype);
    if let Some(targets) = &arguments.targets {
        recipe.targets.clone_from(targets);
    }
    if !arguments.seeds.is_empty() {
        recipe.seeds.clone_from(&arguments.seeds);
    }
    recipe.model = files.place();
    recipe.validate()?;
    Ok(recipe)
}
