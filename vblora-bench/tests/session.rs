//! Whole sessions on the bundled model with little data: results, files, refusals, interruption, repetition, constant memory.
#![allow(missing_docs)]
#![cfg(feature = "flex")]

use std::{path::Path, sync::atomic::AtomicBool};

use burn::backend::Flex;
use clap::ValueEnum;
use vblora::{
    Factors, StoredVbLora,
    storage::{Precision, peft::PeftDirectory},
};
use vblora_bench::{
    demo,
    metrics::Scores,
    recipes::{Recipe, SharedBank, Size},
    report::draw,
    results::{Results, Stop},
    tasks::{Label, Predictions, SplitName, Task, read_split, score},
    train::{CheckpointSettings, DataSource, EncodedSplit, Method, Output, Session},
};
use vblora_models::{
    Checkpoint, ClassificationHead, Encoder, EncoderConfig, EncoderInput, HeadForm, ModelFiles,
    TextTokenizer, encoder,
};

/// The first rows of the bundled task in a directory of GLUE's layout.
fn data(dir: &Path, train: usize, dev: usize) {
    std::fs::create_dir_all(dir.join("demo")).unwrap();
    for (name, rows) in [(SplitName::Train, train), (SplitName::Dev, dev)] {
        let split = demo::split(name).unwrap();
        let line = |e: &vblora_bench::tasks::Example| {
            let Label::Class(class) = e.label else {
                panic!("classes")
            };
            format!("x\t{class}\t\t{}\n", e.a)
        };
        let text: String = split.examples[..rows].iter().map(line).collect();
        std::fs::write(dir.join(format!("demo/{}.tsv", name.name())), text).unwrap();
    }
}

fn session(dir: &Path, methods: &[Method], edit: impl Fn(&mut Recipe)) -> Session {
    data(dir, 96, 40);
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    (recipe.epochs, recipe.batch, recipe.seeds) = (2, 32, vec![3]);
    edit(&mut recipe);
    Session {
        recipe,
        methods: methods.to_vec(),
        files: demo::model_files(),
        data: DataSource::Directory(dir.to_owned()),
        out: Some(Output::new(dir.join("run"), draw)),
        overwrite: false,
        resume: false,
        checkpoints: CheckpointSettings::default(),
        record_every: None,
        quiet: true,
        command: "a test".into(),
    }
}

fn run(session: &Session) -> vblora_bench::Result<Results> {
    session.run::<Flex>(&Default::default(), &AtomicBool::new(false))
}

/// The dev scores of an adapter, from its files alone: the PEFT directory, or its compact file with the directory's head.
fn scores_of_files(adapter: &Path, data: &Path, compact: bool) -> Scores {
    let (files, device) = (demo::model_files(), Default::default());
    let (base, _) = Encoder::<Flex>::load(&files, &device).unwrap();
    let found = PeftDirectory::open(adapter)
        .and_then(|found| found.bind(&base.sites()))
        .unwrap();
    assert_eq!(found.prefix, "roberta.");
    let head = ClassificationHead::<Flex>::from_tensors(
        HeadForm::ROBERTA,
        "the adapter",
        &found.saved,
        0.1,
        &device,
    );
    let factors = match compact {
        false => found.adapter.factors(&device),
        true => {
            let stored = StoredVbLora::load(&adapter.join("compact.safetensors")).unwrap();
            stored.bind(&base.sites()).unwrap().factors(&device)
        }
    };
    scores(&files, &base, &head.unwrap(), &factors, data)
}

/// The dev scores of a model and a head.
fn scores(
    files: &ModelFiles,
    base: &Encoder<Flex>,
    head: &ClassificationHead<Flex>,
    factors: &Factors<Flex>,
    data: &Path,
) -> Scores {
    let split = read_split(data, &Task::demo(), SplitName::Dev).unwrap();
    let split = EncodedSplit::new(&split, &TextTokenizer::from_files(files).unwrap(), 64).unwrap();
    let rows: Vec<usize> = (0..split.len()).collect();
    let batch = split.batch(&rows, base.config().pad_token_id).unwrap();
    let input = EncoderInput::new(&batch.inputs, base.config(), &Default::default());
    let hidden = base.forward(&input, factors);
    let outputs = head.forward(hidden, None);
    let classes: Vec<i32> = outputs.argmax(1).into_data().into_vec().unwrap();
    let classes = classes.into_iter().map(|class| class as usize).collect();
    score(
        &Task::demo(),
        &Predictions::Classes(classes),
        &split.labels(),
    )
    .unwrap()
}

#[test]
fn every_method_runs_and_leaves_what_it_promises() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), Method::value_variants(), |_| ());
    let results = run(&session).unwrap();
    assert_eq!(results.runs.len(), 7);
    for run in &results.runs {
        assert_eq!(
            (&run.stop, run.epochs.len(), run.steps),
            (&Stop::Completed, 2, 6),
            "{}",
            run.method
        );
        assert!(
            run.epochs.iter().all(|e| e.train_loss.is_finite()
                && e.metrics.get(Task::demo().primary_metric).is_some())
        );
    }
    let stored = |method: &str| {
        results
            .runs
            .iter()
            .find(|r| r.method == method)
            .unwrap()
            .stored_bytes
    };
    assert_eq!(stored("head"), 0);
    assert!(stored("vblora") < stored("lora") && stored("lora") < stored("full"));
    let out = dir.path().join("run");
    assert_eq!(Results::read(out.join("results.json")).unwrap(), results);
    for method in ["vblora", "lora", "vera", "tied-lora", "lora-xs"] {
        let run = results.runs.iter().find(|r| r.method == method).unwrap();
        let scores = scores_of_files(&out.join(format!("{method}-seed3")), dir.path(), false);
        assert_eq!(scores, run.best.as_ref().unwrap().metrics, "{method}");
    }
    let found = PeftDirectory::open(&out.join("vblora-seed3")).unwrap();
    assert!(found.is_topk());
    for file in [
        "table.md",
        "curves.svg",
        "log.jsonl",
        "lora-seed3/adapter_model.safetensors",
        "full-seed3/model.safetensors",
        "head-seed3/head.safetensors",
    ] {
        assert!(
            std::fs::metadata(out.join(file)).unwrap().len() > 100,
            "{file}"
        );
    }
    let recipe = Recipe::from_toml_file(out.join("config.toml")).unwrap();
    assert_eq!(recipe, session.recipe);
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    assert_eq!(
        log.lines()
            .filter(|l| l.contains("\"event\":\"step\""))
            .count(),
        42
    );
    assert!(
        log.lines()
            .all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok())
    );
}

/// The bank and the codes in a session's output.
fn stored(adapter: &Path) -> StoredVbLora {
    let found = PeftDirectory::open(adapter).unwrap();
    let found = found.bind(&encoder::sites(
        &EncoderConfig::from_files(&demo::model_files()).unwrap(),
    ));
    found.unwrap().adapter.store().unwrap()
}

#[test]
fn a_new_task_is_trained_on_a_frozen_bank_and_on_a_shared_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = session(dir.path(), &[Method::VbLora], |r| r.epochs = 1);
    run(&first).unwrap();
    let own = stored(&dir.path().join("run/vblora-seed3"));
    let file = dir.path().join("bank.safetensors");
    let bank = own.own_bank().save(&file, Precision::Bits8).unwrap();
    let second = |name: &str, frozen: bool, lr: f64, edit: &dyn Fn(&mut Recipe)| {
        let file = file.clone();
        let mut session = session(dir.path(), &[Method::VbLora], |r| {
            (r.seeds, r.lr.bank) = (vec![5], lr);
            r.bank = Some(SharedBank {
                file: file.clone(),
                frozen,
            });
            edit(r);
        });
        session.out = Some(Output::new(dir.path().join(name), draw));
        let results = run(&session)?;
        let adapter = dir.path().join(name).join("vblora-seed5");
        Ok::<_, vblora_bench::Error>((session, results, adapter))
    };
    let (session, results, adapter) = second("frozen", true, 0.1, &|_| ()).unwrap();
    let trained = stored(&adapter);
    assert_eq!(trained.own_bank(), bank, "to the bit");
    assert_ne!(
        trained.codes().indices,
        own.codes().indices,
        "drawn with another seed"
    );
    let codes = StoredVbLora::load_codes(&adapter.join("codes.safetensors"), &bank).unwrap();
    assert_eq!(codes, trained);
    assert!(StoredVbLora::load_codes(&adapter.join("codes.safetensors"), &own.own_bank()).is_err());
    let first_count = run_count(&first);
    let count = &results.runs[0];
    assert_eq!(count.trained_parameters + 48 * 64, first_count.0);
    assert_eq!(count.stored_bytes + 4 * 48 * 64, first_count.1);
    let plan = session.plan().unwrap();
    assert!(plan.contains("bank.safetensors, frozen"), "{plan}");
    let scores = scores_of_files(&adapter, dir.path(), false);
    assert_eq!(scores, count.best.as_ref().unwrap().metrics);
    // Shared and trained: the bank starts with the file's values and changes.
    let (_, _, adapter) = second("still", false, 0.0, &|_| ()).unwrap();
    assert_eq!(stored(&adapter).own_bank(), bank);
    assert!(!adapter.join("codes.safetensors").exists());
    let (_, _, adapter) = second("moving", false, 1e-2, &|_| ()).unwrap();
    assert_ne!(stored(&adapter).own_bank(), bank);
    // A PEFT directory has a bank too.
    let peft = dir.path().join("run/vblora-seed3");
    let (_, _, adapter) = second("peft", false, 0.0, &|r| {
        r.bank.as_mut().unwrap().file.clone_from(&peft);
    })
    .unwrap();
    assert_eq!(stored(&adapter).own_bank(), own.own_bank());
    let error = second("misfit", true, 0.1, &|r| r.vblora.bank = 24).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bank.safetensors: bank: expected shape [24, 64], found [48, 64]"),
        "{error}"
    );
    assert!(!dir.path().join("misfit").exists(), "nothing half-written");
}

/// Trained parameters and stored bytes.
fn run_count(session: &Session) -> (u64, u64) {
    let count = Method::VbLora.count(&session.recipe, &session.summary().unwrap());
    let count = count.unwrap();
    (count.trained as u64, count.bytes as u64)
}

#[test]
fn a_directory_that_holds_a_run_is_refused_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Head], |r| r.epochs = 1);
    let checkpoints = dir.path().join("run/checkpoints");
    std::fs::create_dir_all(checkpoints.join("of something else")).unwrap();
    run(&session).unwrap();
    assert!(checkpoints.join("of something else").exists());
    let before = std::fs::read(dir.path().join("run/results.json")).unwrap();
    let message = run(&session).unwrap_err().to_string();
    assert!(
        message.contains("already holds a run") && message.contains("--overwrite"),
        "{message}"
    );
    assert_eq!(
        std::fs::read(dir.path().join("run/results.json")).unwrap(),
        before
    );
    session.overwrite = true;
    session.methods = vec![Method::Lora];
    run(&session).unwrap();
    let left = std::fs::read_dir(checkpoints).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["lora-seed3", "of something else"],
        "the older run's are gone, and nothing else"
    );
}

#[test]
fn runs_repeat_and_seeds_differ() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::VbLora], |r| {
        (r.epochs, r.seeds) = (1, vec![3, 4])
    });
    session.out = None;
    let (first, second) = (run(&session).unwrap(), run(&session).unwrap());
    for (a, b) in first.runs.iter().zip(&second.runs) {
        assert_eq!(a.epochs, b.epochs, "to the bit");
    }
    assert_ne!(
        first.runs[0].epochs[0].train_loss,
        first.runs[1].epochs[0].train_loss
    );
}

/// Encoder, head, configuration and tokenizer. The loaded model has the scores that training reported, and can be trained further.
#[test]
fn a_model_trained_in_full_is_a_directory_that_loads() {
    let dir = tempfile::tempdir().unwrap();
    let first = session(dir.path(), &[Method::Full], |_| ());
    let results = run(&first).unwrap();
    let folder = dir.path().join("run/full-seed3");
    let (files, device) = (ModelFiles::open(&folder).unwrap(), Default::default());
    let (base, report) = Encoder::<Flex>::load(&files, &device).unwrap();
    assert_eq!(report.prefix, "roberta.");
    let mut checkpoint = Checkpoint::open(&files).unwrap();
    let parts = [
        "dense.weight",
        "dense.bias",
        "out_proj.weight",
        "out_proj.bias",
    ];
    let tensors = parts.map(|part| {
        let name = format!("classifier.{part}");
        let tensor = checkpoint.tensor(&name).unwrap();
        (name, tensor)
    });
    let head =
        ClassificationHead::from_tensors(HeadForm::ROBERTA, "the model", &tensors, 0.1, &device)
            .unwrap();
    let found = scores(&files, &base, &head, &Factors::none(), dir.path());
    assert_eq!(found, results.runs[0].best.as_ref().unwrap().metrics);

    let config: serde_json::Value =
        serde_json::from_slice(&files.read("config.json").unwrap()).unwrap();
    assert_eq!(
        config["architectures"],
        serde_json::json!(["RobertaForSequenceClassification"])
    );
    assert_eq!(
        config["id2label"],
        serde_json::json!({"0": "unacceptable", "1": "acceptable"})
    );
    assert_eq!(config["dtype"], "float32");
    let tokenizer = |files: &ModelFiles| files.read("tokenizer.json").unwrap();
    assert_eq!(tokenizer(&files), tokenizer(&demo::model_files()));

    let mut again = session(dir.path(), &[Method::Lora], |_| ());
    (again.files, again.out) = (files, None);
    assert_eq!(run(&again).unwrap().runs[0].stop, Stop::Completed);
}

#[test]
fn an_interruption_ends_cleanly_with_what_was_reached() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), &[Method::Head, Method::Lora], |_| ());
    let interrupted = AtomicBool::new(true);
    assert!(
        session
            .run::<Flex>(&Default::default(), &interrupted)
            .unwrap()
            .runs
            .is_empty()
    );
    assert!(!dir.path().join("run/results.json").exists());
}

#[test]
fn a_loss_that_leaves_the_numbers_stops_the_run_and_names_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), &[Method::Head], |r| {
        (r.lr.head, r.schedule.warmup_ratio) = (1e38, 0.0)
    });
    let results = run(&session).unwrap();
    let Stop::NonFiniteLoss { step } = results.runs[0].stop else {
        panic!("{:?}", results.runs[0].stop)
    };
    assert!((1..6).contains(&step), "{step}");
}

/// The last step before the evaluation leaves parameters or outputs that are not finite. The run fails with their name and has no score,
/// with or without an output directory. The other runs continue.
#[test]
fn what_is_no_number_after_training_is_a_failed_run_without_a_score() {
    let dir = tempfile::tempdir().unwrap();
    let ends = |rate: f64, out: Option<&str>, every: Option<usize>| {
        let methods = [Method::Full, Method::Head, Method::Lora, Method::VbLora];
        let mut session = session(dir.path(), &methods, |r| {
            (r.epochs, r.batch, r.schedule.warmup_ratio) = (1, 96, 0.0);
            r.lr.base = rate;
            r.lr.bank = rate;
            r.lr = r.lr.with_adapter(rate);
        });
        session.out = out.map(|name| Output::new(dir.path().join(name), draw));
        session.checkpoints.every = every.filter(|_| out.is_some());
        let results = run(&session).unwrap();
        let runs = results.runs.iter();
        runs.map(|run| (run.stop.to_string(), run.best.is_some()))
            .collect::<Vec<_>>()
    };
    for (out, every) in [(None, None), (Some("a"), None), (Some("b"), Some(1))] {
        let found = ends(1e300, out, every);
        let failed = |run: &(String, bool)| run.0.starts_with("non-finite ") && !run.1;
        let parts = ["base.", "completed", "adapter.", "adapter."];
        for (at, part) in parts.into_iter().enumerate() {
            assert!(found[at].0.contains(part), "{found:?}");
            assert_eq!(failed(&found[at]), at != 1, "{found:?}");
        }
    }
    let read = Results::read(dir.path().join("a/results.json")).unwrap();
    assert_eq!(read.failed().count(), 3);
    for folder in ["full-seed3", "lora-seed3", "vblora-seed3"] {
        assert!(!dir.path().join("a").join(folder).exists(), "{folder}");
    }
    // The parameters are finite, but the model's outputs are not.
    let found = ends(1e30, Some("c"), None);
    assert!(
        found[0]
            .0
            .starts_with("non-finite model output for example "),
        "{found:?}"
    );
}

#[test]
fn bad_settings_are_errors_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let error = |edit: &dyn Fn(&mut Recipe)| {
        let session = session(dir.path(), &[Method::VbLora], edit);
        let message = run(&session).unwrap_err().to_string();
        assert!(
            !dir.path().join("run").exists(),
            "nothing half-written: {message}"
        );
        message
    };
    assert!(error(&|r| r.vblora.vector_length = 100).contains("attention.self.query"));
    assert!(error(&|r| r.targets = "q_proj".into()).contains("q_proj"));
    assert!(error(&|r| r.vblora.topk = 1000).contains("topk"));
    assert!(error(&|r| r.vblora.vector_length = 0).contains("vector_length"));
    assert!(error(&|r| r.vblora.rank = 0).contains("rank"));
    let high = session(dir.path(), &[Method::LoraXs], |r| r.lora_xs.rank = 257);
    let error = run(&high).unwrap_err().to_string();
    let parts = ["encoder.layer.0.attention.self.query", "257", "rank 256"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    assert!(!dir.path().join("run").exists());
    let mut missing = session(dir.path(), &[Method::Head], |_| ());
    missing.data = DataSource::Directory(dir.path().join("nowhere"));
    assert!(run(&missing).unwrap_err().to_string().contains("nowhere"));
}

/// Eight bits cost the amount in the log, on the dev set too, and the file contains the recipe.
#[test]
fn the_compact_file_gives_the_scores_that_the_log_says() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), &[Method::VbLora, Method::Lora], |_| ());
    run(&session).unwrap();
    let out = dir.path().join("run");
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let said: Vec<_> = lines.filter(|line| line["event"] == "compact").collect();
    let last = said.last().expect("VB-LoRA's best epochs have one each");
    assert!(said.iter().all(|line| line["run"] == "vblora seed 3"));
    let adapter = out.join("vblora-seed3");
    let scores = scores_of_files(&adapter, dir.path(), true);
    assert_eq!(last["metrics"], serde_json::to_value(&scores).unwrap());
    let bytes = std::fs::metadata(adapter.join("compact.safetensors")).unwrap();
    assert_eq!(last["bytes"], bytes.len());
    let (change, entry) = (&last["largest_change"], &last["largest_entry"]);
    assert!(0.0 < change.as_f64().unwrap() && change.as_f64() < entry.as_f64());
    let stored = StoredVbLora::load(&adapter.join("compact.safetensors")).unwrap();
    assert_eq!(stored.recipe(), Some(&*session.recipe.to_toml().unwrap()));
    assert!(!out.join("lora-seed3/compact.safetensors").exists());
}
