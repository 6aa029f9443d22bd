//! The reference: a Python process with torch, transformers and peft that runs one work after the other on request.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vblora::{AdapterConfig, VbLoraConfig};
use vblora_models::DecoderConfig;

use super::work::{ADDED, Dtype, Encoder, Pass, Shapes, Task, Work, prompts};

/// How the reference's steps are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Form {
    /// As users of PEFT and transformers write them.
    Eager,
    /// The same under torch.compile; generation has a static cache.
    Compile,
    /// As an expert writes them: one composition a step, the whole step as a CUDA graph; generation has a static cache.
    Graph,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Compile => "compile",
            Self::Graph => "graph",
        }
    }
}

/// The time that the process has to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

const SCRIPT: &str = include_str!("../../scripts/compare.py");

/// The process. Dropping this value ends it.
pub(super) struct Reference {
    process: Child,
    /// Closed before the process is waited for.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The number type of products with a base in 4 bits.
    compute: Dtype,
    /// Packages and their versions.
    pub(super) versions: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "do")]
enum Request {
    Prepare { work: Value },
    Run { repetitions: usize },
    Allocated,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Versions(BTreeMap<String, String>),
    Milliseconds(f64),
    Mib(Option<f64>),
    Error(String),
}

impl Reference {
    /// Starts the script in this interpreter.
    pub(super) fn start(
        python: &Path,
        gpu: bool,
        threads: usize,
        tf32: bool,
        form: Form,
    ) -> Result<Self> {
        let mut process = Command::new(python)
            .arg("-c")
            .arg(SCRIPT)
            .arg(if gpu { "cuda" } else { "cpu" })
            .arg(threads.to_string())
            .arg(if tf32 { "tf32" } else { "f32" })
            .arg(form.name())
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", python.display()))?;
        let (Some(requests), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("{}: no pipes to the process", python.display());
        };
        let mut reference = Self {
            process,
            requests: Some(requests),
            answers: BufReader::new(stdout),
            compute: if gpu { Dtype::Bf16 } else { Dtype::F32 },
            versions: BTreeMap::new(),
        };
        match reference.answer()? {
            Answer::Versions(versions) => reference.versions = versions,
            _ => bail!("{}: the script did not give its versions", python.display()),
        }
        Ok(reference)
    }

    /// The process id, used to read its memory.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Prepares a work.
    pub(super) fn prepare(&mut self, work: Work) -> Result<()> {
        let work = describe(work, self.compute)?;
        self.ask(&Request::Prepare { work }).map(|_| ())
    }

    /// The most MiB that torch's tensors took on the device since the work was prepared; `None` on a CPU.
    pub(super) fn allocated(&mut self) -> Result<Option<f64>> {
        match self.answer_to(&Request::Allocated)? {
            Answer::Mib(mib) => Ok(mib),
            _ => bail!("the Python process did not give its memory"),
        }
    }

    /// Milliseconds for the repetitions, until the device has finished.
    pub(super) fn time(&mut self, repetitions: usize) -> Result<f64> {
        self.ask(&Request::Run { repetitions })
    }

    fn ask(&mut self, request: &Request) -> Result<f64> {
        match self.answer_to(request)? {
            Answer::Milliseconds(ms) => Ok(ms),
            _ => bail!("the Python process did not give its time"),
        }
    }

    fn answer_to(&mut self, request: &Request) -> Result<Answer> {
        let line = serde_json::to_string(request)?;
        let requests = self.requests.as_mut();
        let requests = requests.context("the Python process was asked to end")?;
        writeln!(requests, "{line}").context("the Python process has ended")?;
        match self.answer()? {
            Answer::Versions(_) => bail!("the Python process started again"),
            Answer::Error(message) => bail!("in Python: {message}"),
            answer => Ok(answer),
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let status = self.process.wait()?;
            bail!("the Python process ended ({status}); it needs torch, transformers and peft");
        }
        serde_json::from_str(&line).with_context(|| format!("no answer of the script: {line:?}"))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // The script ends with its input, and a profiler in its process then writes what it holds.
        self.requests = None;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(self.process.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A work with every size that the script needs, so that sizes are defined only here.
fn describe(work: Work, compute: Dtype) -> Result<Value> {
    let mut task = match work.task {
        Task::Encoder(encoder, pass, shape) => {
            let config = encoder.config();
            let batch = shape.batch(config.pad_token_id);
            json!({
                "task": "encoder",
                "config": serde_json::from_str::<Value>(&config.to_json())?,
                "rows": batch.rows,
                "ids": batch.ids,
                "mask": batch.mask.contains(&0).then_some(batch.mask),
                "adapter": encoder_adapter(encoder, pass),
                "head": config.classifier().modules,
            })
        }
        Task::Decoder(decoder, pass, shape) => {
            let (config, batch) = (decoder.config(), shape.batch(0));
            let ids: Vec<_> = batch.ids.iter().map(|id| id % 30_000).collect();
            json!({
                "task": "decoder",
                "family": config.family.name(),
                "config": serde_json::from_str::<Value>(&config.to_json())?,
                "rows": batch.rows,
                "ids": ids,
                "recompute": shape.is_recomputed(),
                "adapter": decoder.adapter(pass).map(|adapter| causal_adapter(&config, adapter)),
            })
        }
        Task::Decode(decoder, rows) => {
            let config = decoder.config();
            json!({
                "task": "decode",
                "family": config.family.name(),
                "config": serde_json::from_str::<Value>(&config.to_json())?,
                "prompts": prompts(rows),
                "added": ADDED,
            })
        }
        Task::Compose(shapes) => compose(shapes)?,
        Task::Product(n) => json!({"task": "product", "size": n}),
    };
    if work.dtype == Dtype::Nf4 {
        task["compute"] = json!(compute);
    }
    Ok(json!({"dtype": work.dtype, "what": task}))
}

fn causal_adapter(config: &DecoderConfig, adapter: (AdapterConfig, &str)) -> Value {
    let layout = config.layout;
    let last = |name: &&'static str| -> &'static str { name.rsplit('.').next().unwrap_or(name) };
    let modules: Vec<&str> = match adapter.1 {
        "qv" => match layout.qkv {
            [fused] => vec![last(fused)],
            maps => [maps[0], maps[2]].iter().map(last).collect(),
        },
        "all" => {
            let maps = layout.qkv.iter().chain([&layout.attention_output]);
            let maps = maps.chain(layout.mlp_input).chain([&layout.mlp_output]);
            let mut names: Vec<_> = maps.map(last).collect();
            // GPT-2 has two maps with the same name in a block.
            let mut seen = BTreeSet::new();
            names.retain(|name| seen.insert(*name));
            names
        }
        several => several.split(',').collect(),
    };
    settings(adapter.0, modules)
}

fn encoder_adapter(encoder: Encoder, pass: Pass) -> Option<Value> {
    let (adapter, targets) = encoder.adapter(pass)?;
    let modules = match (targets, encoder) {
        ("qv", Encoder::ModernBertBase) => vec!["Wqkv"],
        ("qv", Encoder::DebertaV3Base) => vec!["query_proj", "value_proj"],
        ("qv", _) => vec!["query", "value"],
        ("all", Encoder::ModernBertBase) => vec!["Wqkv", "Wo", "Wi", "head.dense"],
        ("all", Encoder::DebertaV3Base) => {
            [["query_proj", "key_proj", "value_proj"], BERT_OUTPUTS].concat()
        }
        ("all", _) => [["query", "key", "value"], BERT_OUTPUTS].concat(),
        (several, _) => several.split(',').collect(),
    };
    Some(settings(adapter, modules))
}

/// The maps of BERT's layers after query, key and value.
const BERT_OUTPUTS: [&str; 3] = [
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

fn settings(adapter: AdapterConfig, modules: Vec<&str>) -> Value {
    match adapter {
        AdapterConfig::Lora(config) => json!({
            "method": "lora", "rank": config.rank, "alpha": config.alpha, "modules": modules,
        }),
        AdapterConfig::VbLora(config) => vblora(&config, json!(modules)),
        other => unreachable!("no pass measures {}", other.name()),
    }
}

fn vblora(config: &VbLoraConfig, modules: Value) -> Value {
    json!({
        "method": "vblora", "rank": config.rank, "bank": config.bank, "vector_length": config.vector_length,
        "topk": config.topk, "modules": modules,
    })
}

fn compose(shapes: Shapes) -> Result<Value> {
    let (plan, config) = shapes.vblora()?;
    let sites = plan
        .sites()
        .iter()
        .map(|site| json!([site.d_in, site.d_out]));
    Ok(json!({
        "task": "compose",
        "sites": sites.collect::<Vec<_>>(),
        "adapter": vblora(&config, json!(".*site.*")),
    }))
}
