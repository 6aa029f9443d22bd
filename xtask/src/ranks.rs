//! `cargo xtask ranks`: times the steps of training by one or several ranks, with random weights and random tokens.
//!
//! The run is a session like any other, so what is measured is the training loop.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde_json::Value;
use vblora::{
    AdapterConfig,
    backend::{BackendJob, BackendKind, VbLoraBackend},
    rng::Key,
};
use vblora_bench::{
    demo,
    group::Job,
    program::{complain, listen, say},
    recipes::{Recipe, Size},
    report::draw,
    results::Stop,
    sweep::Device,
    tasks::{Example, Label, Split, Task},
    train::{
        CheckpointSettings, Classification, DataName, EncodedSplit, Loaded, Method, ModelSummary,
        Output, Ranks, Session, Source, Survey,
        causal::{Causal, EncodedTexts},
    },
};
use vblora_models::{
    ComputeDtype, DecoderConfig, Encoder, EncoderConfig, ModelFiles, TextTokenizer,
    decoder::CausalLm,
};

use crate::compare::{Work, WorkTask, compute_dtype, decoder_config, encoder_config};

/// The part of a recipe's learning rates that random weights bear. With all of them the loss leaves 0.7 for 8 in four steps. Then a
/// difference in the last bit of a sum, which one card alone has from run to run, grows to 1e-3 in 50 steps.
const CALM: f64 = 0.1;

/// Time the steps of training with random weights, by the ranks that mpirun has started or by one
#[derive(Args)]
pub(crate) struct Arguments {
    /// The work, as for compare: roberta-large/vblora-all/32x128 or llama-1.1b/vblora-all/2x512/bf16
    #[arg(value_name = "MODEL/PASS/ROWSxCOLUMNS[/bf16]")]
    work: Work,
    /// Micro-batches of a step, by all ranks together
    #[arg(long, default_value_t = 4)]
    accumulation: usize,
    /// Number of steps
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Comma-separated devices of this host's ranks, in order
    #[arg(long, value_delimiter = ',', default_value = "flex")]
    devices: Vec<Device>,
    /// End the job if a rank does not answer for this many seconds
    #[arg(long, default_value_t = 600)]
    rank_timeout: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let job = Job::open(Duration::from_secs(arguments.rank_timeout))?;
    let outcome = measure(arguments, &job);
    if outcome.is_err() && job.group().place().size > 1 {
        // The error is printed first: this call does not return.
        outcome
            .inspect_err(|error| complain(format!("error: {error:#}")))
            .ok();
        job.abort();
        return Ok(ExitCode::FAILURE);
    }
    outcome?;
    job.close()?;
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments, job: &Job) -> Result<()> {
    let place = job.group().place();
    let devices = &arguments.devices;
    ensure!(
        devices.len() == 1 || place.local_size <= devices.len(),
        "--devices: expected {}, found {}",
        place.local_size,
        devices.len()
    );
    let device = devices[place.local_rank.min(devices.len() - 1)];
    let measured = Measured {
        arguments,
        ranks: Ranks::of(job),
        interrupted: listen()?,
    };
    device.backend.dispatch(device.index, measured)?
}

struct Measured<'a> {
    arguments: &'a Arguments,
    ranks: Ranks<'a>,
    interrupted: &'static AtomicBool,
}

impl BackendJob for Measured<'_> {
    type Output = Result<()>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        match self.arguments.work.task {
            WorkTask::Encoder(..) => self.session::<B, _>(&device, RandomEncoder(self.random())),
            WorkTask::Decoder(..) => self.session::<B, _>(&device, RandomDecoder(self.random())),
            _ => bail!(
                "expected a training step of a model, found {}",
                self.arguments.work
            ),
        }
    }
}

impl Measured<'_> {
    fn random(&self) -> Random {
        let Arguments {
            work,
            accumulation,
            steps,
            ..
        } = self.arguments;
        let (rows, columns) = work.task.sizes();
        Random {
            work: *work,
            compute: compute_dtype(
                self.arguments
                    .devices
                    .iter()
                    .any(|device| device.backend == BackendKind::Cuda),
            ),
            rows: rows * accumulation * steps,
            columns,
        }
    }

    fn recipe(&self) -> Result<(Recipe, Method)> {
        let Arguments {
            work, accumulation, ..
        } = self.arguments;
        let (batch, max_length) = work.task.sizes();
        let (mut recipe, adapter) = match work.task {
            WorkTask::Encoder(encoder, pass, _) => (
                Recipe::builtin(Size::Large, &Task::mrpc())?,
                encoder.adapter(pass),
            ),
            WorkTask::Decoder(decoder, pass, _) => (
                Recipe::builtin(Size::Decoder, &Task::text())?,
                decoder.adapter(pass),
            ),
            _ => bail!("expected a training step of a model, found {work}"),
        };
        let (adapter, targets) = adapter.context("a forward pass trains nothing")?;
        recipe.targets = targets.into();
        let method = match adapter {
            AdapterConfig::VbLora(config) => {
                recipe.vblora = config;
                Method::VbLora
            }
            AdapterConfig::Lora(config) => {
                recipe.lora = config;
                Method::Lora
            }
            other => bail!("expected LoRA or VB-LoRA, found {other}"),
        };
        (recipe.batch, recipe.max_length) = (batch, max_length);
        (recipe.accumulation, recipe.epochs) = (*accumulation, 1);
        (recipe.seeds, recipe.group_by_length) = (vec![1], false);
        (recipe.max_steps, recipe.text.packing) = (None, false);
        (recipe.base_dropout, recipe.head.dropout) = (Some(0.0), 0.0);
        let rates = &mut recipe.lr;
        for rate in [
            &mut rates.bank,
            &mut rates.logits,
            &mut rates.adapter,
            &mut rates.head,
        ] {
            *rate *= CALM;
        }
        Ok((recipe, method))
    }

    fn session<B: VbLoraBackend, S: Source>(&self, device: &B::Device, data: S) -> Result<()> {
        let (recipe, method) = self.recipe()?;
        let place = tempfile::tempdir()?;
        let out = place.path().join("run");
        let session = Session {
            recipe,
            methods: vec![method],
            files: demo::model_files(),
            data,
            out: Some(Output::new(&out, draw)),
            overwrite: false,
            resume: false,
            checkpoints: CheckpointSettings::default(),
            record_every: None,
            quiet: true,
            command: "xtask ranks".into(),
        };
        let steps = Arc::new(AtomicU64::new(0));
        let watch = Watch::start(Arc::clone(&steps));
        let ended = session.run_with::<B>(device, self.interrupted, steps, self.ranks)?;
        let times = watch.end()?;
        let Some(run) = ended.results.runs.first() else {
            return Ok(());
        };
        ensure!(run.stop == Stop::Completed, "{}", run.stop);
        self.say(&std::fs::read_to_string(out.join("log.jsonl"))?, &times)
    }

    /// Prints losses, speed and communication.
    fn say(&self, log: &str, times: &[Duration]) -> Result<()> {
        let Arguments {
            work, accumulation, ..
        } = self.arguments;
        let lines: Vec<Value> = log
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let of = |event: &str, key: &str| -> Vec<f64> {
            let lines = lines.iter().filter(|line| line["event"] == event);
            lines.filter_map(|line| line[key].as_f64()).collect()
        };
        for (step, loss) in of("step", "loss").iter().enumerate() {
            say(format!("step {step} loss {loss}"));
        }
        let size = self.ranks.size();
        // The first steps compile kernels and allocate memory.
        let seconds = median(
            times
                .iter()
                .skip(times.len() / 5)
                .map(Duration::as_secs_f64),
        );
        let (rows, columns) = work.task.sizes();
        let tokens = (rows * columns * accumulation) as f64;
        say(format!(
            "{work}: {size} ranks, {accumulation} micro-batches a step, median step {:.1} ms, {:.0} tokens/s",
            1e3 * seconds,
            tokens / seconds
        ));
        if size > 1 {
            let bytes = median(of("communication", "bytes").into_iter());
            let waited = median(of("communication", "milliseconds").into_iter());
            say(format!(
                "communication a step: {:.2} MB, rank 0 waits {waited:.1} ms",
                bytes / 1e6
            ));
        }
        Ok(())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Takes the time of each step from the count of steps.
struct Watch {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Duration>>,
}

impl Watch {
    fn start(steps: Arc<AtomicU64>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut times, mut seen, mut last) = (Vec::new(), 0, Instant::now());
            while !over.load(Ordering::Relaxed) {
                let now = steps.load(Ordering::Relaxed);
                if now > seen {
                    // Two steps between two looks share their time.
                    let each = last.elapsed() / (now - seen) as u32;
                    times.extend((seen..now).map(|_| each));
                    (seen, last) = (now, Instant::now());
                }
                thread::sleep(Duration::from_micros(200));
            }
            times
        });
        Self { is_over, thread }
    }

    fn end(self) -> Result<Vec<Duration>> {
        self.is_over.store(true, Ordering::Relaxed);
        let times = self.thread.join();
        times.map_err(|_| anyhow!("the thread that takes the time has failed"))
    }
}

/// Random weights, and rows of random tokens.
#[derive(Debug, Clone, Copy)]
struct Random {
    work: Work,
    /// The number type of products with a base in 4 bits.
    compute: ComputeDtype,
    rows: usize,
    columns: usize,
}

impl Random {
    fn survey(&self) -> Survey {
        let (batch, _) = self.work.task.sizes();
        Survey {
            rows: [self.rows, 2],
            batches: self.rows / batch,
            notes: Vec::new(),
        }
    }
}

fn named(unit: &'static str) -> DataName {
    let name = "random".into();
    DataName { name, unit }
}

#[derive(Debug)]
struct RandomEncoder(Random);

impl RandomEncoder {
    fn config(&self) -> vblora_bench::Result<EncoderConfig> {
        match self.0.work.task {
            WorkTask::Encoder(encoder, ..) => {
                Ok(encoder_config(encoder, self.0.work.dtype, self.0.compute))
            }
            _ => unreachable!("the work is an encoder's"),
        }
    }

    /// Texts of more words than a row has tokens, so that every row is cut to the same length.
    fn split(&self, rows: usize, seed: u64) -> Split {
        let key = Key::new(seed);
        let word = |i: usize| WORDS[key.below(i as u64, WORDS.len())];
        let text = |row: usize| {
            let words = (0..self.0.columns).map(|i| word(row * self.0.columns + i));
            words.collect::<Vec<_>>().join(" ")
        };
        let example = |row: usize| Example {
            a: text(row),
            b: None,
            label: Label::Class(row % 2),
        };
        Split {
            examples: (0..rows).map(example).collect(),
            source: "random".into(),
        }
    }
}

const WORDS: [&str; 8] = ["the", "a", "film", "is", "good", "bad", "not", "very"];

impl Source for RandomEncoder {
    type Objective<B: VbLoraBackend> = Classification;

    fn named(&self, _: &Recipe) -> DataName {
        named("row")
    }

    fn survey(&self, _: &Recipe, _: &ModelFiles) -> vblora_bench::Result<Survey> {
        Ok(self.0.survey())
    }

    fn summary(&self, recipe: &Recipe, _: &ModelFiles) -> vblora_bench::Result<ModelSummary> {
        ModelSummary::of_encoder(&self.config()?, recipe)
    }

    fn load<B: VbLoraBackend>(
        &self,
        _: &Recipe,
        files: &ModelFiles,
        device: &B::Device,
    ) -> vblora_bench::Result<Loaded<B, Classification>> {
        let tokenizer = TextTokenizer::from_files(files)?;
        let encode =
            |rows, seed| EncodedSplit::new(&self.split(rows, seed), &tokenizer, self.0.columns);
        Ok(Loaded {
            base: Encoder::random(self.config()?, 1, device)?,
            train: encode(self.0.rows, 1)?,
            dev: encode(2, 2)?,
            notes: Vec::new(),
        })
    }
}

#[derive(Debug)]
struct RandomDecoder(Random);

impl RandomDecoder {
    fn config(&self) -> DecoderConfig {
        match self.0.work.task {
            WorkTask::Decoder(decoder, ..) => {
                decoder_config(decoder, self.0.work.dtype, self.0.compute)
            }
            _ => unreachable!("the work is a decoder's"),
        }
    }

    fn texts(&self, rows: usize, seed: u64) -> EncodedTexts {
        let (key, columns) = (Key::new(seed), self.0.columns);
        let token = |i: usize| 5 + key.below(i as u64, 30_000) as u32;
        let text = |row: usize| (row * columns..(row + 1) * columns).map(token).collect();
        EncodedTexts::from_tokens((0..rows).map(|row| (text(row), 1)), columns)
    }
}

impl Source for RandomDecoder {
    type Objective<B: VbLoraBackend> = Causal;

    fn named(&self, _: &Recipe) -> DataName {
        named("text")
    }

    fn survey(&self, _: &Recipe, _: &ModelFiles) -> vblora_bench::Result<Survey> {
        Ok(self.0.survey())
    }

    fn summary(&self, recipe: &Recipe, _: &ModelFiles) -> vblora_bench::Result<ModelSummary> {
        ModelSummary::of_decoder(&self.config(), recipe)
    }

    fn load<B: VbLoraBackend>(
        &self,
        _: &Recipe,
        _: &ModelFiles,
        device: &B::Device,
    ) -> vblora_bench::Result<Loaded<B, Causal>> {
        Ok(Loaded {
            base: CausalLm::random(self.config(), 1, device)?,
            train: self.texts(self.0.rows, 1),
            dev: self.texts(2, 2),
            notes: Vec::new(),
        })
    }
}
