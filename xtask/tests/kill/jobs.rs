//! The jobs. They are small enough to run hundreds of times.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
};

use burn::backend::Flex;
use vblora::{
    AnyAdapter, VbLoraConfig,
    storage::{
        HostAdapter, merge,
        peft::{PeftAdapter, PeftDirectory},
    },
};
use vblora_bench::{
    demo,
    recipes::{Recipe, Size},
    report::draw,
    tasks::{Label, SplitName, Task},
    train::{CheckpointSettings, DataSource, Method, Output, Session},
};
use vblora_models::{Encoder, EncoderConfig, SaveDtype, encoder, save_tensors};

/// The job of a child, and its folder.
const JOB: &str = "VBLORA_KILL_JOB";
const PLACE: &str = "VBLORA_KILL_PLACE";

/// Two runs of one epoch of two steps.
const SWEEP: &str = r#"about = "a test"

[base]
recipe = "demo"
task = "demo"
data = "in/data"
epochs = 1
batch = 4
h = 12
max_length = 8

[tables.methods]
title = "Methods"
rows = ["method"]
columns = "task"

[[grid]]
table = "methods"
method = ["head", "vblora"]
seed = 1
"#;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Job {
    /// VB-LoRA and the head alone, with checkpoints and a recording.
    Train,
    /// The same, interrupted at its first checkpoint.
    Resume,
    /// A PEFT directory that replaces another.
    Convert,
    /// A merged model that replaces another.
    Merge,
    /// A sweep by one worker.
    Sweep,
}

impl Job {
    /// True if its output replaces something older in one step.
    pub(crate) fn replaces(self) -> bool {
        matches!(self, Self::Convert | Self::Merge)
    }

    /// Prepares the files that exist before the job.
    pub(crate) fn prepare(self, place: &Path) {
        let inputs = place.join("in");
        match self {
            Self::Train | Self::Sweep => {
                data(&inputs.join("data"));
                std::fs::write(inputs.join("sweep.toml"), SWEEP).unwrap();
            }
            Self::Resume => {
                data(&inputs.join("data"));
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let first = place.join("work/out/checkpoints/vblora-seed1/step-00000001");
                    let stop = &stop;
                    scope.spawn(move || {
                        while !first.exists() {
                            std::thread::yield_now();
                        }
                        stop.store(true, std::sync::atomic::Ordering::Relaxed);
                    });
                    train(place, stop).unwrap();
                });
            }
            Self::Convert | Self::Merge => {
                let base = base(&inputs.join("base"));
                for (seed, name) in [(1, "old"), (2, "new")] {
                    adapter(&base, seed).write(&inputs.join(name)).unwrap();
                }
                self.replace(place, "old").unwrap();
            }
        }
    }

    /// The job as a process.
    pub(crate) fn command(self, place: &Path) -> Command {
        let mut command = match self {
            Self::Sweep => {
                let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
                xtask.args(["sweep", "in/sweep.toml", "--out", "work/out"]);
                xtask
            }
            _ => {
                let mut child = Command::new(std::env::current_exe().unwrap());
                child.args(["--exact", "jobs::child", "--ignored", "--nocapture"]);
                child.env(JOB, format!("{self:?}")).env(PLACE, place);
                child
            }
        };
        command
            .current_dir(place)
            .env("RAYON_NUM_THREADS", "1")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    fn do_it(self, place: &Path) -> Result<(), String> {
        match self {
            Self::Train | Self::Resume => train(place, &AtomicBool::new(false)),
            Self::Convert | Self::Merge => self.replace(place, "new"),
            Self::Sweep => unreachable!("a program of its own"),
        }
    }

    /// Writes an adapter to `work/out`, over the existing files.
    fn replace(self, place: &Path, name: &str) -> Result<(), String> {
        let (inputs, out) = (place.join("in"), place.join("work/out"));
        let sites = encoder::sites(&config());
        let found = PeftDirectory::open(&inputs.join(name)).and_then(|found| found.bind(&sites));
        let adapter = found.map_err(|error| error.to_string())?;
        let done = match self {
            Self::Merge => merge(&inputs.join("base"), &adapter, &out, true).map(drop),
            _ => PeftAdapter {
                adapter: HostAdapter::Lora(adapter.adapter.to_lora()),
                ..adapter
            }
            .write(&out),
        };
        done.map_err(|error| error.to_string())
    }
}

/// The child process. If a call fails, it ends with one line of error.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let (Ok(job), Some(place)) = (std::env::var(JOB), std::env::var_os(PLACE)) else {
        return;
    };
    let all = [Job::Train, Job::Resume, Job::Convert, Job::Merge];
    let job = all.into_iter().find(|known| format!("{known:?}") == job);
    if let Err(error) = job.unwrap().do_it(Path::new(&place)) {
        writeln!(std::io::stderr(), "error: {error}").unwrap();
        std::process::exit(1);
    }
}

/// A few rows of the bundled task in a directory of GLUE's layout.
fn data(dir: &Path) {
    std::fs::create_dir_all(dir.join("demo")).unwrap();
    for (name, rows) in [(SplitName::Train, 8), (SplitName::Dev, 4)] {
        let split = demo::split(name).unwrap();
        let line = |e: &vblora_bench::tasks::Example| match e.label {
            Label::Class(class) => format!("x\t{class}\t\t{}\n", e.a),
            Label::Classes(_) | Label::Value(_) => unreachable!("the task has classes"),
        };
        let text: String = split.examples[..rows].iter().map(line).collect();
        std::fs::write(dir.join(format!("demo/{}.tsv", name.name())), text).unwrap();
    }
}

fn train(place: &Path, interrupted: &AtomicBool) -> Result<(), String> {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    (recipe.epochs, recipe.batch, recipe.max_length) = (1, 4, 8);
    recipe.vblora.bank = 12;
    let session = Session {
        recipe,
        methods: vec![Method::VbLora, Method::Head],
        files: demo::model_files(),
        data: DataSource::Directory(place.join("in/data")),
        out: Some(Output::new(place.join("work/out"), draw)),
        overwrite: false,
        resume: true,
        checkpoints: CheckpointSettings {
            every: Some(1),
            keep: 1,
        },
        record_every: Some(1),
        quiet: true,
        command: "a test".into(),
    };
    let done = session.run::<Flex>(&Default::default(), interrupted);
    done.map(drop).map_err(|error| error.to_string())
}

fn config() -> EncoderConfig {
    EncoderConfig {
        hidden_size: 16,
        num_layers: 1,
        num_heads: 2,
        intermediate_size: 32,
        vocab_size: 40,
        max_positions: 12,
        ..EncoderConfig::roberta_base()
    }
}

/// A RoBERTa of random weights, with a side file.
fn base(dir: &Path) -> Encoder<Flex> {
    let model = Encoder::<Flex>::random(config(), 7, &Default::default()).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config().to_json()).unwrap();
    std::fs::write(dir.join("vocab.json"), "{}").unwrap();
    let tensors = model.tensors().into_iter();
    let tensors: Vec<_> = tensors
        .map(|(name, tensor)| (format!("roberta.{name}"), tensor))
        .collect();
    save_tensors(&dir.join("model.safetensors"), &tensors, SaveDtype::F32).unwrap();
    model
}

fn adapter(base: &Encoder<Flex>, seed: u64) -> PeftAdapter {
    let plan = encoder::targets("qv")
        .unwrap()
        .select(&base.sites())
        .unwrap();
    let config = VbLoraConfig {
        vector_length: 8,
        bank: 6,
        ..Default::default()
    };
    let adapter = config
        .check(&plan)
        .unwrap()
        .init::<Flex>(seed, &Default::default());
    let adapter = HostAdapter::read(&AnyAdapter::VbLora(adapter)).unwrap();
    PeftAdapter {
        prefix: "roberta.".into(),
        ..PeftAdapter::new(adapter)
    }
}
