//! The command line, and the session that it asks for.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use vblora::{
    Selection,
    backend::{BackendKind, DEFAULT_BACKEND},
};
use vblora_bench::{
    demo, program,
    recipes::{Recipe, Size, TooLong},
    report::draw,
    tasks::{
        SplitName, Task,
        causal::{Form, TextTemplate, Texts, read_texts},
    },
    train::{CheckpointSettings, Method, Output, Session, causal::TextSource},
};
use vblora_models::{BaseDtype, ModelFiles, resolve};

/// Of so many prompts one is held out where no file of held-out texts is given.
const HELD_OUT: usize = 20;

/// Fine-tune a causal model on prompts and responses. Without flags: a bundled tiny Llama and bundled data, under two minutes.
#[derive(Debug, Parser)]
#[command(name = "causal_finetune")]
pub(crate) struct Arguments {
    /// A Hugging Face directory or hub id [default: the bundled tiny Llama]
    #[arg(long, value_name = "DIR|HUB_ID", requires = "data")]
    pub(crate) model: Option<String>,
    /// The hub revision: a branch, tag or commit
    #[arg(long, requires = "model")]
    pub(crate) revision: Option<String>,
    /// Texts to learn from: JSON lines, .json (an array or JSON lines) or .csv [default: the bundled ones]
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Texts to score on [default: every 20th prompt of --data]
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(crate) held_out: Option<PathBuf>,
    /// alpaca, e2e, gsm8k, completion[:FIELD] or fields:PROMPT,RESPONSE
    #[arg(long, default_value = "e2e")]
    pub(crate) format: Form,
    /// A Jinja template with the blocks prompt and response, in place of --format
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    pub(crate) template: Option<PathBuf>,
    /// Use so many of the texts, evenly spaced
    #[arg(long, value_name = "N")]
    pub(crate) rows: Option<usize>,
    /// Score on so many of the held-out texts, evenly spaced
    #[arg(long, value_name = "N")]
    pub(crate) held_out_rows: Option<usize>,
    /// vblora, lora or full; repeat to compare [default: lora and vblora]
    #[arg(long = "method", value_enum)]
    pub(crate) methods: Vec<Method>,
    /// Adapted linear maps: qv, all, or suffixes with commas between
    #[arg(long, value_name = "qv|all|SUFFIX,...")]
    pub(crate) targets: Option<String>,
    /// Seeds with commas between; one run each
    #[arg(long, value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Rows of a micro-batch
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Micro-batches of an optimizer step
    #[arg(long)]
    pub(crate) accumulation: Option<usize>,
    /// Tokens that a text, or a packed row, may have
    #[arg(long)]
    pub(crate) max_length: Option<usize>,
    /// What becomes of longer texts
    #[arg(long, value_enum)]
    pub(crate) too_long: Option<TooLong>,
    /// Learn to predict the prompt too
    #[arg(long)]
    pub(crate) on_prompt: bool,
    /// Put several texts into each row
    #[arg(long)]
    pub(crate) packing: bool,
    #[arg(long)]
    pub(crate) label_smoothing: Option<f64>,
    /// Compute activations twice instead of keeping them
    #[arg(long)]
    pub(crate) recompute: bool,
    #[arg(long)]
    pub(crate) lr_bank: Option<f64>,
    #[arg(long)]
    pub(crate) lr_logits: Option<f64>,
    /// Learning rate of every adapter but VB-LoRA's [default: the recipe's, by method]
    #[arg(long)]
    pub(crate) lr_adapter: Option<f64>,
    /// r, of VB-LoRA and LoRA; LoRA's scale stays
    #[arg(long)]
    pub(crate) rank: Option<usize>,
    /// h, the number of bank vectors
    #[arg(long, value_name = "H")]
    pub(crate) bank: Option<usize>,
    /// b, the length of a bank vector
    #[arg(long, value_name = "B")]
    pub(crate) vector_length: Option<usize>,
    /// How sub-vectors choose bank vectors in training: topk, select-all, noisy-topk, gumbel-softmax or straight-through
    #[arg(long, value_name = "RULE")]
    pub(crate) selection: Option<Selection>,
    /// A recipe (TOML, as config.toml of a run); other flags override its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// What the frozen linear maps are held and multiplied in [default: the recipe's, f32]
    #[arg(long, value_name = "DTYPE")]
    pub(crate) base_dtype: Option<BaseDtype>,
    /// flex, ndarray, wgpu or cuda
    #[arg(long, default_value = DEFAULT_BACKEND)]
    pub(crate) backend: BackendKind,
    /// The backend's device number
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub(crate) device: usize,
    /// Held-out prompts to answer before and after
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) generate: usize,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_new_tokens: usize,
    /// Sequences that beam search keeps; 1 is greedy
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) beams: usize,
    /// A directory for configuration, log, results, table, picture, answers and adapters
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Use --out even if it holds a run
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Go on with the session in --out where it was interrupted or killed
    #[arg(long, requires = "out", conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Write a checkpoint to --out also every N steps, not only after each epoch
    #[arg(long, value_name = "N", requires = "out")]
    pub(crate) checkpoint_every: Option<usize>,
    /// Record in --out what VB-LoRA selects every N steps, for cargo xtask figures and view
    #[arg(long, value_name = "N", requires = "out")]
    pub(crate) record_every: Option<usize>,
    /// Print the plan and stop
    #[arg(long)]
    pub(crate) plan: bool,
    /// No progress, only tables and answers
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// The session with what it learns from; all of the held-out texts are for questions.
pub(crate) fn session(
    arguments: &Arguments,
    train: Texts,
    held_out: &Texts,
) -> Result<Session<TextSource>> {
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
    let command = format!("causal_finetune {}", program::arguments());
    Ok(Session {
        recipe,
        methods,
        files,
        data: TextSource {
            train: thinned(train, arguments.rows),
            held_out: thinned(held_out.clone(), arguments.held_out_rows),
        },
        out: arguments.out.as_ref().map(|dir| Output::new(dir, draw)),
        overwrite: arguments.overwrite,
        resume: arguments.resume,
        checkpoints: CheckpointSettings {
            every: arguments.checkpoint_every,
            ..CheckpointSettings::default()
        },
        record_every: arguments.record_every,
        quiet: arguments.quiet,
        command,
    })
}

/// The texts to learn from and those that are held out.
pub(crate) fn texts(arguments: &Arguments) -> Result<(Texts, Texts)> {
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
        (None, Some(_)) => Recipe::builtin(Size::Decoder, &Task::text())?,
        (None, None) => Recipe::builtin(Size::Demo, &Task::text())?,
    };
    let set = |to: &mut usize, from: Option<usize>| *to = from.unwrap_or(*to);
    set(&mut recipe.epochs, arguments.epochs);
    set(&mut recipe.batch, arguments.batch);
    set(&mut recipe.accumulation, arguments.accumulation);
    set(&mut recipe.max_length, arguments.max_length);
    set(&mut recipe.vblora.bank, arguments.bank);
    set(&mut recipe.vblora.vector_length, arguments.vector_length);
    let selection = &mut recipe.vblora.selection;
    *selection = arguments.selection.unwrap_or(*selection);
    if let Some(rank) = arguments.rank {
        let scale = recipe.lora.scale();
        (recipe.vblora.rank, recipe.lora.rank) = (rank, rank);
        recipe.lora.alpha *= scale / recipe.lora.scale();
    }
    let set = |to: &mut f64, from: Option<f64>| *to = from.unwrap_or(*to);
    set(&mut recipe.lr.bank, arguments.lr_bank);
    set(&mut recipe.lr.logits, arguments.lr_logits);
    set(&mut recipe.text.label_smoothing, arguments.label_smoothing);
    if let Some(rate) = arguments.lr_adapter {
        recipe.lr = recipe.lr.with_adapter(rate);
    }
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
