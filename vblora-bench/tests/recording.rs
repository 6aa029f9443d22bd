//! What a session records of VB-LoRA's selections is what was selected, goes on where it was damaged, and costs next to nothing.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(feature = "flex")]

use std::{path::Path, sync::atomic::AtomicBool, time::Instant};

use burn::backend::Flex;
use vblora::{
    VbLoraConfig,
    adapter::Mixture,
    storage::{Codes, peft::PeftDirectory},
};
use vblora_bench::{
    demo,
    recipes::{Recipe, Size},
    record::{Header, Recorder, Recording, Selection},
    tasks::Task,
    train::{CheckpointSettings, DataSource, Method, Session},
};
use vblora_models::{EncoderConfig, Roberta, roberta};

/// An epoch of 20 steps on the bundled task.
fn session(dir: &Path) -> Session {
    let mut recipe = Recipe::builtin(Size::Demo, Task::Demo).unwrap();
    (recipe.epochs, recipe.batch, recipe.max_length) = (1, 400, 8);
    Session {
        recipe,
        methods: vec![Method::Head, Method::VbLora],
        files: demo::model_files(),
        data: DataSource::Demo,
        out: Some(dir.to_owned()),
        overwrite: false,
        resume: true,
        checkpoints: CheckpointSettings {
            every: Some(7),
            keep: 9,
        },
        record_every: Some(4),
        quiet: true,
        command: "a test".into(),
    }
}

fn run(session: &Session) {
    let results = session.run::<Flex>(&Default::default(), &AtomicBool::new(false));
    results.unwrap();
}

fn steps(recording: &Recording) -> Vec<u64> {
    recording.frames().map(|frame| frame.step).collect()
}

#[test]
fn a_recording_has_what_was_drawn_first_and_what_was_stored_last() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path());
    run(&session);
    let found = Recording::find(dir.path()).unwrap();
    assert_eq!(found, [dir.path().join("selections/vblora-seed1.rec")]);
    let recording = Recording::read(&found[0]).unwrap();
    assert_eq!(recording.damage(), None);
    let total = recording.header().steps;
    let last = recording.last();
    assert_eq!((recording.first().step, last.step), (0, total));
    let every_fourth = (0..total).step_by(4).chain([total]);
    assert_eq!(steps(&recording), every_fourth.collect::<Vec<_>>());

    let settings = &recording.header().settings;
    let config = settings.config();
    let selection = |codes: Codes| {
        Selection::new(&Mixture {
            topk: codes.topk,
            weights: codes.full_weights(),
            indices: codes.indices,
        })
    };
    let logits = settings.initial_logits(1);
    let drawn = Codes::from_logits(&logits, config.bank, config.topk);
    assert_eq!(recording.first().selection, selection(drawn));

    let (base, _) = Roberta::<Flex>::load(&demo::model_files(), &Default::default()).unwrap();
    let stored = PeftDirectory::open(&dir.path().join("vblora-seed1"))
        .and_then(|found| found.bind(&base.sites()))
        .unwrap();
    let stored = stored.adapter.store().unwrap();
    assert_eq!(last.selection, selection(stored.codes().clone()));
    assert_ne!(last.selection, recording.first().selection);
    let banks = recording.banks();
    let [(0, _), (at, end)] = &banks[..] else {
        panic!("{} banks", banks.len())
    };
    assert_eq!((*at, &end[..]), (total, stored.bank()));
}

#[test]
fn a_resumed_run_goes_on_from_a_recording_that_is_damaged_or_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path());
    session.methods = vec![Method::VbLora];
    run(&session);
    let path = &Recording::find(dir.path()).unwrap()[0];
    let whole = std::fs::read(path).unwrap();
    let last = Recording::read(path).unwrap().last();
    let checkpoints = dir.path().join("checkpoints/vblora-seed1");
    std::fs::remove_dir_all(checkpoints.join(format!("step-{:08}", last.step))).unwrap();
    for (damage, first) in [(whole.len() * 2 / 3, 0), (10, 14)] {
        std::fs::write(path, &whole[..damage]).unwrap();
        let results = dir.path().join("results.json");
        std::fs::remove_file(results).unwrap();
        // The latest checkpoint but that of the end.
        for late in [21, last.step] {
            let set = checkpoints.join(format!("step-{late:08}"));
            let _absent = std::fs::remove_dir_all(set);
        }
        run(&session);
        let again = Recording::read(path).unwrap();
        let steps = steps(&again);
        assert_eq!((again.damage(), steps[0]), (None, first), "{steps:?}");
        assert!(steps.ends_with(&[16, last.step]), "{steps:?}");
        assert_eq!(again.last(), last);
    }
}

#[test]
fn recording_costs_under_a_hundredth_of_a_step() {
    // Dependencies apart, tests are not optimised: a release build takes a fraction of this.
    const STEP: f64 = 1.2;
    let sites = roberta::sites(&EncoderConfig::roberta_base());
    let plan = roberta::targets("all").unwrap().select(&sites).unwrap();
    let settings = VbLoraConfig::default().check(&plan).unwrap();
    let adapter = |seed| settings.init::<Flex>(seed, &Default::default());
    let header = Header::new("run".into(), "task".into(), settings.clone(), 1, 1);
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path(), "run", &header, 10, 0, &adapter(0)).unwrap();
    let others = [adapter(1), adapter(2)];
    const TIMES: u64 = 20;
    let start = Instant::now();
    for step in 1..=TIMES {
        // Every row moves: the dearest case.
        let adapter = &others[step as usize % 2];
        recorder.record(10 * step, adapter).unwrap();
    }
    let seconds = start.elapsed().as_secs_f64() / TIMES as f64;
    let bytes = std::fs::metadata(dir.path().join("selections/run.rec")).unwrap();
    println!(
        "RoBERTa-base, all, S = {}: {:.2} ms and at most {} bytes a selection",
        settings.sub_vectors(),
        1e3 * seconds,
        bytes.len() / (TIMES + 1)
    );
    // Every tenth step; the bound leaves room for a busy machine.
    assert!(seconds / 10.0 < 0.01 * STEP, "{seconds} s");
}
