//! A session's recording of VB-LoRA's selections: it is correct, continues after damage, and costs almost no time.
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
    recordings::{Header, Picks, Recorder, Recording},
    report::draw,
    tasks::Task,
    train::{CheckpointSettings, DataSource, Method, Output, Session},
};
use vblora_models::{Encoder, EncoderConfig, encoder};

/// An epoch of 21 steps on made-up sentences in the folder. The output goes to its subfolder `out`.
fn session(dir: &Path) -> Session {
    std::fs::create_dir_all(dir.join("demo")).unwrap();
    for (name, rows) in [("train", 168), ("dev", 8)] {
        let row = |i: usize| format!("x\t{}\t\tThe {i}th of all sentences.\n", i % 2);
        let text: String = (0..rows).map(row).collect();
        std::fs::write(dir.join(format!("demo/{name}.tsv")), text).unwrap();
    }
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    (recipe.epochs, recipe.batch) = (1, 8);
    Session {
        recipe,
        methods: vec![Method::Head, Method::VbLora],
        files: demo::model_files(),
        data: DataSource::Directory(dir.to_owned()),
        out: Some(Output::new(dir.join("out"), draw)),
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
    let out = dir.path().join("out");
    let found = Recording::find(&out).unwrap();
    assert_eq!(found, [out.join("selections/vblora-seed1.rec")]);
    let recording = Recording::read(&found[0]).unwrap();
    assert_eq!(recording.damage(), None);
    let total = recording.header().steps;
    let last = recording.last();
    assert_eq!((recording.first().step, last.step), (0, total));
    let every_fourth = (0..total).step_by(4).chain([total]);
    assert_eq!(steps(&recording), every_fourth.collect::<Vec<_>>());

    let settings = &recording.header().settings;
    let config = settings.config();
    let picks = |codes: Codes| {
        Picks::new(&Mixture {
            topk: codes.topk,
            weights: codes.full_weights(),
            indices: codes.indices,
        })
    };
    let logits = settings.initial_logits(1);
    let drawn = Codes::from_logits(&logits, config.bank, config.topk);
    assert_eq!(recording.first().picks, picks(drawn));

    let (base, _) = Encoder::<Flex>::load(&demo::model_files(), &Default::default()).unwrap();
    let stored = PeftDirectory::open(&out.join("vblora-seed1"))
        .and_then(|found| found.bind(&base.sites()))
        .unwrap();
    let stored = stored.adapter.store().unwrap();
    // Training computes the softmax on the device and the file on the host, so a weight may round to either of two 255ths.
    let stored_picks = picks(stored.codes().clone());
    assert_eq!(last.picks.indices(), stored_picks.indices());
    let weights = |picks: &Picks| {
        picks
            .rows()
            .flat_map(|(_, w)| w.to_vec())
            .collect::<Vec<_>>()
    };
    let [ours, theirs] = [&last.picks, &stored_picks].map(weights);
    let apart = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(b)).max();
    assert!(apart <= Some(1), "{apart:?} 255ths");
    assert_ne!(last.picks, recording.first().picks);
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
    let out = dir.path().join("out");
    let path = &Recording::find(&out).unwrap()[0];
    let whole = std::fs::read(path).unwrap();
    let last = Recording::read(path).unwrap().last();
    let end = out.join(format!("checkpoints/vblora-seed1/step-{:08}", last.step));
    // Resumes from the checkpoint of step 14, with a part of the earlier recording or with none.
    for (damage, left) in [(whole.len() * 2 / 3, &[0, 4, 8][..]), (10, &[14][..])] {
        std::fs::write(path, &whole[..damage]).unwrap();
        std::fs::remove_file(out.join("results.json")).unwrap();
        std::fs::remove_dir_all(&end).unwrap();
        run(&session);
        let again = Recording::read(path).unwrap();
        assert_eq!(again.damage(), None);
        assert_eq!(steps(&again), [left, &[16, 20, 21]].concat());
        assert_eq!(again.last(), last);
    }
}

#[test]
fn a_new_session_keeps_no_recording_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path());
    session.methods = vec![Method::Head];
    run(&session);
    let out = dir.path().join("out");
    assert!(Recording::find(&out).is_err(), "there is no adapter");
    let old = out.join("selections/vblora-seed1.rec");
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, "an older session's").unwrap();
    (session.resume, session.overwrite) = (false, true);
    run(&session);
    assert!(!old.exists());
}

#[test]
fn every_zeroth_step_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path());
    session.record_every = Some(0);
    let refused = session.run::<Flex>(&Default::default(), &AtomicBool::new(false));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("record-every"), "{message}");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn recording_costs_under_a_hundredth_of_a_step() {
    // Seconds of a step of 8 x 128 tokens on two cores (docs/performance.md). Tests are not optimized, except for dependencies; a release
    // build records much faster.
    const STEP: f64 = 0.98;
    let sites = encoder::sites(&EncoderConfig::roberta_base());
    let plan = encoder::targets("all").unwrap().select(&sites).unwrap();
    let settings = VbLoraConfig::default().check(&plan).unwrap();
    let adapter = |seed| settings.init::<Flex>(seed, &Default::default());
    let header = Header::new("run".into(), "task".into(), settings.clone(), 1, 1);
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(dir.path(), "run", &header, 10, 0, &adapter(0)).unwrap();
    let others = [adapter(1), adapter(2)];
    const TIMES: u64 = 20;
    let start = Instant::now();
    for step in 1..=TIMES {
        // Every row changes, which is the most expensive case.
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
    // Records every tenth step. The bound allows for a busy machine.
    assert!(seconds / 10.0 < 0.01 * STEP, "{seconds} s");
}
