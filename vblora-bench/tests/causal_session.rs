//! Sessions on the bundled decoder and texts: reports, stored files, refused settings, and resumed runs.
#![allow(missing_docs)]

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use burn::backend::Flex;
use vblora::{Factors, storage::peft::PeftDirectory};
use vblora_bench::{
    demo,
    metrics::Metric,
    recipes::{Recipe, Size, TooLong},
    report::draw,
    results::{Results, Stop},
    tasks::{SplitName, Task},
    train::{
        CheckpointSettings, Method, Output, Session,
        causal::{TextSource, answer, answerable, answers_bleu, encoding},
    },
};
use vblora_models::{
    DecoderConfig, ModelFiles, TextTokenizer, decoder::CausalLm, generate::GenerationConfig,
};

fn session(dir: &Path, methods: &[Method], edit: impl Fn(&mut Recipe)) -> Session<TextSource> {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::text()).unwrap();
    edit(&mut recipe);
    Session {
        recipe,
        methods: methods.to_vec(),
        files: demo::decoder_files(),
        data: TextSource {
            train: demo::texts(SplitName::Train).unwrap().thinned(64),
            held_out: demo::texts(SplitName::Dev).unwrap().thinned(16),
        },
        out: Some(Output::new(dir.join("run"), draw)),
        overwrite: false,
        resume: false,
        checkpoints: CheckpointSettings::default(),
        record_every: None,
        quiet: true,
        command: "test".into(),
    }
}

fn run(session: &Session<TextSource>) -> vblora_bench::Result<Results> {
    session.run::<Flex>(&Default::default(), &AtomicBool::new(false))
}

fn refusal(session: &Session<TextSource>) -> String {
    run(session).unwrap_err().to_string()
}

#[test]
fn a_session_reports_likelihoods_and_speed_and_stores_what_answers_as_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path(), &[Method::Lora, Method::VbLora], |r| {
        (r.lr.adapter, r.lr.bank) = (3e-3, 1e-2);
    });
    let results = run(&session).unwrap();
    let (device, files) = (Default::default(), &session.files);
    let (model, _) = CausalLm::<Flex>::load(files, &device).unwrap();
    let tokenizer = TextTokenizer::from_files(files).unwrap();
    let config = DecoderConfig::from_files(files).unwrap();
    let encoding = encoding(&session.recipe, &config, &tokenizer).unwrap();
    let questions = answerable(session.data.held_out.questions(), &encoding, 40).unwrap();
    let settings = GenerationConfig {
        max_new_tokens: 40,
        stop_tokens: config.eos_token_ids.clone(),
        ..GenerationConfig::default()
    };
    let bleu = |factors: &Factors<Flex>| {
        let answers = answer(&model, factors, &encoding, &questions, &settings, &device);
        answers_bleu(&answers.unwrap())
    };
    let base = bleu(&Factors::none());
    for run in &results.runs {
        let nll = |scores: &vblora_bench::metrics::Scores| scores.get(Metric::Nll).unwrap();
        let before = nll(run.before.as_ref().unwrap());
        let epochs: Vec<f64> = run.epochs.iter().map(|e| nll(&e.metrics)).collect();
        let best = nll(&run.best.as_ref().unwrap().metrics);
        assert!(best < before - 0.3, "{before} to {best}");
        assert_eq!(best, epochs.iter().copied().fold(f64::INFINITY, f64::min));
        let tokens: usize = encoding
            .encode(&session.data.train)
            .unwrap()
            .lengths()
            .iter()
            .sum();
        assert_eq!(run.speed.unwrap().tokens as usize, tokens * epochs.len());
        assert_eq!((&run.stop, run.head_bytes), (&Stop::Completed, 0));
        let stored = dir.path().join(format!("run/{}-seed1", run.method));
        let found = PeftDirectory::open(&stored)
            .unwrap()
            .bind(&model.sites())
            .unwrap();
        assert!(
            bleu(&found.adapter.factors(&device)) > base,
            "{}",
            run.method
        );
        let config = std::fs::read_to_string(stored.join("adapter_config.json")).unwrap();
        assert!(config.contains("CAUSAL_LM"), "{config}");
    }
    assert!(
        dir.path()
            .join("run/vblora-seed1/compact.safetensors")
            .is_file()
    );
    let table = std::fs::read_to_string(dir.path().join("run/table.md")).unwrap();
    assert!(
        table.contains("text nll before") && table.contains("tokens/s"),
        "{table}"
    );
}

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let session = |name: &str| session(&dir.path().join(name), &[Method::VbLora], |r| r.epochs = 6);
    let whole = run(&session("whole")).unwrap();
    let mut parts = session("parts");
    let (interrupted, checkpoint) = (
        AtomicBool::new(false),
        "parts/run/checkpoints/vblora-seed1/step-00000008",
    );
    let stopped = std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(300);
            while !dir.path().join(checkpoint).exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            interrupted.store(true, Ordering::Relaxed);
        });
        parts.run::<Flex>(&Default::default(), &interrupted)
    });
    assert_eq!(stopped.unwrap().runs[0].stop, Stop::Interrupted);
    parts.resume = true;
    let mut results = run(&parts).unwrap();
    let tokens = |results: &Results| results.runs[0].speed.unwrap().tokens;
    assert_eq!(tokens(&results), tokens(&whole));
    for (run, same) in results.runs.iter_mut().zip(&whole.runs) {
        (run.seconds, run.speed) = (same.seconds, same.speed);
    }
    assert_eq!(results.runs, whole.runs);
}

#[test]
fn packing_takes_fewer_steps_and_learns_too() {
    let dir = tempfile::tempdir().unwrap();
    let run = |packing: bool| {
        let dir = dir.path().join(format!("{packing}"));
        let session = session(&dir, &[Method::Lora], |r| {
            (r.epochs, r.text.packing, r.group_by_length) = (1, packing, !packing);
            r.batch = 4;
        });
        run(&session).unwrap().runs.remove(0)
    };
    let (plain, packed) = (run(false), run(true));
    assert!(
        packed.steps < plain.steps,
        "{} and {}",
        packed.steps,
        plain.steps
    );
    assert_eq!(packed.speed.unwrap().tokens, plain.speed.unwrap().tokens);
    let nll = |scores: &vblora_bench::metrics::Scores| scores.get(Metric::Nll).unwrap();
    let (before, last) = (packed.before.unwrap(), packed.last.unwrap());
    assert_eq!(Some(&before), plain.before.as_ref());
    assert!(nll(&last.metrics) < nll(&before) - 0.1);
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let head = session(dir.path(), &[Method::Head], |_| ());
    assert!(refusal(&head).contains("found head"), "{}", refusal(&head));
    let full = session(dir.path(), &[Method::Full], |r| r.text.recompute = true);
    assert!(
        refusal(&full).contains("text.recompute"),
        "{}",
        refusal(&full)
    );
    let vector = session(dir.path(), &[Method::VbLora], |r| {
        r.vblora.vector_length = 48
    });
    let error = refusal(&vector);
    assert!(error.contains("48") && error.contains("64"), "{error}");
    let long = session(dir.path(), &[Method::Lora], |r| {
        (r.max_length, r.text.too_long) = (16, TooLong::Refuse);
    });
    assert!(
        refusal(&long).contains("expected at most 16 tokens"),
        "{}",
        refusal(&long)
    );
    let none = session(dir.path(), &[Method::Lora], |r| {
        (r.max_length, r.text.too_long) = (16, TooLong::Drop);
    });
    assert!(
        refusal(&none).contains("leaves all 64 out"),
        "{}",
        refusal(&none)
    );
    let mut encoder = session(dir.path(), &[Method::Lora], |_| ());
    encoder.files = demo::model_files();
    assert!(
        refusal(&encoder).contains("roberta"),
        "{}",
        refusal(&encoder)
    );
    assert!(!dir.path().join("run").exists());
}

/// A copy of the bundled model with another `config.json`.
fn with_config(dir: &Path, edit: impl Fn(String) -> String) -> ModelFiles {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-llama");
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(assets.join(name), dir.join(name)).unwrap();
    }
    let config = std::fs::read_to_string(assets.join("config.json")).unwrap();
    std::fs::write(dir.join("config.json"), edit(config)).unwrap();
    ModelFiles::open(dir).unwrap()
}

#[test]
fn a_model_without_an_end_or_with_another_vocabulary_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Lora], |_| ());
    session.files = with_config(dir.path(), |c| c.replace("\"eos_token_id\": 2,", ""));
    assert!(
        refusal(&session).contains("eos_token_id"),
        "{}",
        refusal(&session)
    );
    session.files = with_config(dir.path(), |c| {
        c.replace("\"vocab_size\": 2000", "\"vocab_size\": 1999")
    });
    assert!(refusal(&session).contains("1999"), "{}", refusal(&session));
}

/// Its weights, configuration and tokenizer. A session that starts from it finds the likelihood at which training ended.
#[test]
fn a_model_trained_in_full_is_a_directory_that_loads() {
    let dir = tempfile::tempdir().unwrap();
    let first = session(dir.path(), &[Method::Full], |r| r.epochs = 1);
    let results = run(&first).unwrap();
    let folder = dir.path().join("run/full-seed1");
    let mut again = session(dir.path(), &[Method::Lora], |r| r.epochs = 1);
    (again.files, again.out) = (ModelFiles::open(&folder).unwrap(), None);
    let found = run(&again).unwrap();
    let best = &results.runs[0].best.as_ref().unwrap().metrics;
    assert_eq!(found.runs[0].before.as_ref(), Some(best));
    let config = |files: &ModelFiles| DecoderConfig::from_files(files).unwrap();
    assert_eq!(config(&again.files), config(&first.files));
}
