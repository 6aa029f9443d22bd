//! Loads directories of `--method full` with transformers. `VBLORA_PYTHON` names an interpreter that has it. Without one the tests are
//! skipped.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(feature = "flex")]

use std::{path::Path, process::Command, sync::atomic::AtomicBool};

use burn::backend::Flex;
use vblora_bench::{
    demo,
    metrics::Metric,
    recipes::{Recipe, Size},
    report::draw,
    results::RunResult,
    tasks::{Label, SplitName, Task, causal::Texts},
    train::{CheckpointSettings, DataSource, Method, Output, Session, Source, causal::TextSource},
};
use vblora_models::ModelFiles;

/// Loads a model and checks that no tensor is missing or unused. An encoder also predicts the rows of a TSV file.
const SCRIPT: &str = r#"
import sys, torch, transformers
kind, folder, rows = sys.argv[1:]
model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
wrong = {key: found for key, found in info.items() if found}
assert not wrong, wrong
assert model.dtype == torch.float32, model.dtype
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
if kind == "AutoModelForCausalLM":
    print(model.generate(**tokenizer("A place", return_tensors="pt"), max_new_tokens=4).shape[1])
else:
    assert model.config.num_labels == 2
    rows = [line.rstrip("\n").split("\t") for line in open(rows, encoding="utf-8")]
    scores = lambda text: model.eval()(**tokenizer(text, return_tensors="pt", truncation=True, max_length=64)).logits
    right = sum(int(scores(text).argmax()) == int(label) for _, label, _, text in rows)
    print(right / len(rows))
"#;

fn python() -> Option<String> {
    let python = std::env::var("VBLORA_PYTHON").ok();
    if python.is_none() {
        println!("skipped: VBLORA_PYTHON names no interpreter");
    }
    python
}

fn load(python: &str, kind: &str, model: &Path, rows: &Path) -> f64 {
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, kind]).args([model, rows]);
    let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn full<S: Source>(dir: &Path, task: Task, files: ModelFiles, data: S) -> RunResult {
    let mut recipe = Recipe::builtin(Size::Demo, &task).unwrap();
    (recipe.epochs, recipe.batch) = (1, 16);
    let session = Session {
        recipe,
        methods: vec![Method::Full],
        files,
        data,
        out: Some(Output::new(dir.join("run"), draw)),
        overwrite: false,
        resume: false,
        checkpoints: CheckpointSettings::default(),
        record_every: None,
        quiet: true,
        command: "a test".into(),
    };
    let results = session.run::<Flex>(&Default::default(), &AtomicBool::new(false));
    results.unwrap().runs.remove(0)
}

#[test]
fn transformers_loads_an_encoder_and_its_head() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("demo")).unwrap();
    let file = |name: SplitName| dir.path().join(format!("demo/{}.tsv", name.name()));
    for (name, rows) in [(SplitName::Train, 96), (SplitName::Dev, 40)] {
        let split = demo::split(name).unwrap();
        let line = |e: &vblora_bench::tasks::Example| match e.label {
            Label::Class(class) => format!("x\t{class}\t\t{}\n", e.a),
            Label::Classes(_) | Label::Value(_) => unreachable!("the task has classes"),
        };
        let text: String = split.examples[..rows].iter().map(line).collect();
        std::fs::write(file(name), text).unwrap();
    }
    let data = DataSource::Directory(dir.path().to_owned());
    let run = full(dir.path(), Task::demo(), demo::model_files(), data);
    let kind = "AutoModelForSequenceClassification";
    let model = dir.path().join("run/full-seed1");
    let found = load(&python, kind, &model, &file(SplitName::Dev));
    let expected = run.best.unwrap().metrics.get(Metric::Accuracy);
    assert!((found - expected.unwrap()).abs() < 1e-6, "{found}");
}

#[test]
fn transformers_loads_a_decoder() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let texts = |name| -> Texts { demo::texts(name).unwrap().thinned(16) };
    let data = TextSource {
        train: texts(SplitName::Train),
        held_out: texts(SplitName::Dev),
    };
    full(dir.path(), Task::text(), demo::decoder_files(), data);
    let model = dir.path().join("run/full-seed1");
    let tokens = load(&python, "AutoModelForCausalLM", &model, Path::new(""));
    assert!(tokens > 4.0, "{tokens}");
}
