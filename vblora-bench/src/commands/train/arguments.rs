//! The flags of `vblora train`.

use std::path::PathBuf;

use clap::Args;
use vblora::Selection;
use vblora_models::BaseDtype;

use super::{schedule::ScheduleArguments, table::TableArguments};
use crate::{
    commands::{device::DeviceArguments, ranks::RankArguments},
    recipes::TooLong,
    tasks::{Task, causal::Format},
    train::{CheckpointSettings, Method},
};

const EXAMPLES: &str = "\
vblora train --method head --method vblora
vblora train --model bundled:llama --out runs/texts";

const LONG: &str = "\
Fine-tune an encoder or a causal model, and compare methods

The model's config.json determines the kind of model. An encoder (RoBERTa, BERT) learns a task with labels. A causal model (Llama, \
Qwen, Mistral, Gemma, GPT-2 and others; docs/models.md) learns to answer prompts. Flags that only the other kind has are refused. Without flags the bundled RoBERTa \
learns the bundled task in about a minute.

vblora train --model roberta-base --data reviews.csv --text review --label stars --method vblora --out runs/reviews
vblora train --model roberta-base --data glue --task mrpc --method vblora --out runs/mrpc
vblora train --model path/to/llama --data alpaca.json --format alpaca --packing --method vblora --out runs/alpaca";

/// Fine-tune an encoder or a causal model, and compare methods
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, long_about = LONG)]
pub struct Arguments {
    #[command(flatten)]
    pub(super) model: ModelArguments,
    #[command(flatten)]
    pub(super) encoder: EncoderArguments,
    #[command(flatten)]
    pub(super) table: TableArguments,
    #[command(flatten)]
    pub(super) causal: CausalArguments,
    #[command(flatten)]
    pub(super) method: MethodArguments,
    #[command(flatten)]
    pub(super) optimisation: OptimisationArguments,
    #[command(flatten)]
    pub(super) schedule: ScheduleArguments,
    #[command(flatten)]
    pub(super) output: OutputArguments,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
    #[command(flatten)]
    pub(super) ranks: RankArguments,
}

// Plain comments from here on: a doc comment on flattened flags would become the command's description.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model and data")]
pub(super) struct ModelArguments {
    /// Hugging Face directory (config.json, model.safetensors, tokenizer.json), hub id, bundled:roberta or bundled:llama [default:
    /// bundled:roberta]
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub(super) model: Option<String>,
    /// Hub revision: a branch, tag or commit
    #[arg(long, requires = "model")]
    pub(super) revision: Option<String>,
    /// Training data. Encoders: a table with --text and --label, or the GLUE directory, <DIR>/<task>/{train,dev}.tsv. Causal models: texts
    /// or conversations as JSON lines, .json (an array or JSON lines) or .csv, or a .txt document [default: the bundled data, for bundled
    /// models]
    #[arg(long, value_name = "DIR|FILE")]
    pub(super) data: Option<PathBuf>,
    /// Maximum number of tokens. Encoders cut longer inputs; for causal models it limits a text or a packed row [default: the recipe's]
    #[arg(long)]
    pub(super) max_length: Option<usize>,
    /// Form of the frozen linear maps: f32, f16, bf16 or nf4 (4 bits) [default: the recipe's, f32; nf4 if the files are in 4 bits]
    #[arg(long, value_name = "DTYPE")]
    pub(super) base_dtype: Option<BaseDtype>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Encoders only")]
pub(super) struct EncoderArguments {
    /// Task to learn [default: demo, or the recipe's]
    #[arg(long, value_enum, conflicts_with = "text")]
    pub(super) task: Option<Task>,
    /// Learning rate of the task head [default: the recipe's]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) lr_head: Option<f64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Causal models only")]
pub(super) struct CausalArguments {
    /// File of held-out texts to evaluate on [default: every 20th prompt of --data]
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(super) held_out: Option<PathBuf>,
    /// Format of --data: chat (messages, or ShareGPT's conversations), text[:FIELD] (documents, .txt or rows), alpaca, e2e, gsm8k, metamath,
    /// gsm8k-metamath, completion[:FIELD] or fields:PROMPT,RESPONSE [default: by the fields of the first row]
    #[arg(long)]
    pub(super) format: Option<Format>,
    /// Jinja template with the blocks prompt and response, instead of --format
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    pub(super) template: Option<PathBuf>,
    /// Train on N of the texts, evenly spaced
    #[arg(long, value_name = "N")]
    pub(super) rows: Option<usize>,
    /// Evaluate on N of the held-out texts, evenly spaced
    #[arg(long, value_name = "N")]
    pub(super) held_out_rows: Option<usize>,
    /// Treatment of texts longer than --max-length [default: the recipe's]
    #[arg(long, value_enum)]
    pub(super) too_long: Option<TooLong>,
    /// Compute the loss on the prompt too
    #[arg(long)]
    pub(super) on_prompt: bool,
    /// Pack several texts into each row
    #[arg(long)]
    pub(super) packing: bool,
    /// Probability taken from the target token and spread over the vocabulary, 0 to 1 [default: the recipe's]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) label_smoothing: Option<f64>,
    /// Recompute activations in the backward pass to save memory
    #[arg(long)]
    pub(super) recompute: bool,
    /// Number of held-out prompts to answer before and after training [default: 20]
    #[arg(long, value_name = "N")]
    pub(super) generate: Option<usize>,
    /// Maximum number of tokens of an answer [default: 64]
    #[arg(long, value_name = "N")]
    pub(super) max_new_tokens: Option<usize>,
    /// Number of beams of beam search; 1 is greedy [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) beams: Option<usize>,
    /// Power of the length that beam search divides scores by; above 0 favours long answers [default: 1]
    #[arg(
        long,
        value_name = "X",
        requires = "beams",
        allow_negative_numbers = true,
        value_parser = finite
    )]
    pub(super) length_penalty: Option<f64>,
    /// Never repeat a sequence of N tokens in an answer [default: 0, which allows repeats]
    #[arg(long, value_name = "N")]
    pub(super) no_repeat_ngram_size: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub(super) struct MethodArguments {
    /// Method to train; repeat to compare several [default: lora and vblora, and for encoders also head]
    #[arg(long = "method", value_enum)]
    pub(super) methods: Vec<Method>,
    /// Linear maps to adapt: qv, all, or a comma-separated list of suffixes [default: the recipe's]
    #[arg(long, value_name = "qv|all|SUFFIX,...")]
    pub(super) targets: Option<String>,
    /// Rank, r, of every method that has one. With another rank, encoders keep LoRA's alpha, 16; causal models keep alpha / r
    #[arg(long)]
    pub(super) rank: Option<usize>,
    /// Number of bank vectors, h [default: the recipe's]
    #[arg(long, value_name = "H")]
    pub(super) bank: Option<usize>,
    /// Length of a bank vector, b [default: the recipe's]
    #[arg(long, value_name = "B")]
    pub(super) vector_length: Option<usize>,
    /// Bank vectors mixed per sub-vector, k [default: the recipe's]
    #[arg(long, value_name = "K")]
    pub(super) topk: Option<usize>,
    /// Rule by which sub-vectors select bank vectors in training: topk, select-all, noisy-topk, gumbel-softmax or straight-through
    #[arg(long, value_name = "RULE")]
    pub(super) selection: Option<Selection>,
    /// Compact file or PEFT directory whose bank VB-LoRA starts from, instead of a new one
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) bank_file: Option<PathBuf>,
    /// Freeze the bank of --bank-file: only logits and head are trained
    #[arg(long, requires = "bank_file")]
    pub(super) freeze_bank: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Optimisation")]
pub(super) struct OptimisationArguments {
    /// Recipe file (TOML, such as config.toml of a run); other flags override its keys
    #[arg(long, value_name = "FILE")]
    pub(super) recipe: Option<PathBuf>,
    /// Comma-separated seeds; each gives one run [default: the recipe's]
    #[arg(long, value_delimiter = ',')]
    pub(super) seeds: Vec<u64>,
    /// Number of passes over the training data [default: the recipe's]
    #[arg(long)]
    pub(super) epochs: Option<usize>,
    /// Number of rows in a micro-batch [default: the recipe's]
    #[arg(long)]
    pub(super) batch: Option<usize>,
    /// Number of micro-batches per optimizer step [default: the recipe's]
    #[arg(long)]
    pub(super) accumulation: Option<usize>,
    /// Learning rate of VB-LoRA's bank [default: the recipe's]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) lr_bank: Option<f64>,
    /// Learning rate of VB-LoRA's logits [default: the recipe's]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) lr_logits: Option<f64>,
    /// Learning rate of every adapter except VB-LoRA's [default: the recipe's, by method]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) lr_adapter: Option<f64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArguments {
    /// Directory for configuration, log, results, table, picture, answers and adapters
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Use --out even if it holds a run
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Continue the interrupted session in --out. Without flags but these two, those of its first command apply
    #[arg(long, requires = "out", conflicts_with = "overwrite")]
    pub(super) resume: bool,
    /// Write a checkpoint to --out every N steps, in addition to one after each epoch and each evaluation
    #[arg(long, value_name = "N", requires = "out")]
    pub(super) checkpoint_every: Option<usize>,
    /// Number of latest checkpoints to keep per run, in addition to that of the best evaluation
    #[arg(long, value_name = "N", default_value_t = CheckpointSettings::default().keep)]
    pub(super) keep: usize,
    /// Record VB-LoRA's selections in --out every N steps, for vblora figures and vblora view
    #[arg(long, value_name = "N", requires = "out")]
    pub(super) record_every: Option<usize>,
    /// Write TensorBoard's event files to --out, next to the log
    #[arg(long, requires = "out")]
    pub(super) tensorboard: bool,
    // The directory of the session to repeat, for `vblora verify`.
    #[arg(skip)]
    pub(super) repeats: Option<PathBuf>,
    /// Print the plan and stop
    #[arg(long)]
    pub(super) plan: bool,
    /// Print no progress, only tables and answers
    #[arg(long)]
    pub(super) quiet: bool,
}

impl EncoderArguments {
    /// The flags of this group that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let Self { task, lr_head } = self;
        given([("--task", task.is_some()), ("--lr-head", lr_head.is_some())])
    }
}

impl CausalArguments {
    /// The flags of this group that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let Self {
            held_out,
            format,
            template,
            rows,
            held_out_rows,
            too_long,
            on_prompt,
            packing,
            label_smoothing,
            recompute,
            generate,
            max_new_tokens,
            beams,
            length_penalty,
            no_repeat_ngram_size,
        } = self;
        given([
            ("--held-out", held_out.is_some()),
            ("--format", format.is_some()),
            ("--template", template.is_some()),
            ("--rows", rows.is_some()),
            ("--held-out-rows", held_out_rows.is_some()),
            ("--too-long", too_long.is_some()),
            ("--on-prompt", *on_prompt),
            ("--packing", *packing),
            ("--label-smoothing", label_smoothing.is_some()),
            ("--recompute", *recompute),
            ("--generate", generate.is_some()),
            ("--max-new-tokens", max_new_tokens.is_some()),
            ("--beams", beams.is_some()),
            ("--length-penalty", length_penalty.is_some()),
            ("--no-repeat-ngram-size", no_repeat_ngram_size.is_some()),
        ])
    }
}

impl OutputArguments {
    /// Returns true if the plan and its notes are printed.
    pub(super) fn says_plan(&self) -> bool {
        self.plan || !self.quiet
    }
}

/// Refuses a number before training that would be refused after it.
fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "expected a finite number".to_owned())
}

pub(super) fn given<const N: usize>(flags: [(&'static str, bool); N]) -> Vec<&'static str> {
    let given = flags.into_iter().filter(|(_, given)| *given);
    given.map(|(flag, _)| flag).collect()
}
