//! Several ranks leave the files of one, to the bit. The ranks are threads here; `tests/ranks.rs` has processes of MPI.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use vblora::backend::BackendKind;
use vblora_models::{BaseDtype, ModelFiles};

use super::{Ranks, hub::Hub, shared};
use crate::{
    Error, Result, demo,
    group::{Group, Message, Place, Threads},
    recipes::{Recipe, Size},
    results::{Results, Stop},
    tasks::{SplitName, Task},
    train::{
        CheckpointSettings, DataSource, Drawing, Method, Output, Session, causal::TextSource,
        entry::run_with, source::Source,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The methods that several ranks can train.
fn methods() -> Vec<Method> {
    let all = Method::ALL.iter().copied();
    all.filter(|method| *method != Method::Full).collect()
}

/// The first rows of the bundled task in a directory of GLUE's layout.
fn data(dir: &Path, rows: usize) {
    fs::create_dir_all(dir.join("demo")).unwrap();
    for (name, rows) in [(SplitName::Train, rows), (SplitName::Dev, 8)] {
        let split = demo::split(name).unwrap();
        let line = |e: &crate::tasks::Example| {
            let crate::tasks::Label::Class(class) = e.label else {
                panic!("classes")
            };
            format!("x\t{class}\t\t{}\n", e.a)
        };
        let text: String = split.examples[..rows].iter().map(line).collect();
        fs::write(dir.join(format!("demo/{}.tsv", name.name())), text).unwrap();
    }
}

/// Three steps of four, four and one micro-batches, the last one shorter, with dropout everywhere.
fn encoder(dir: &Path, out: &str, methods: &[Method]) -> Session {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    (recipe.epochs, recipe.batch, recipe.accumulation) = (1, 3, 4);
    recipe.max_length = 16;
    (recipe.base_dropout, recipe.lora.dropout) = (Some(0.1), 0.1);
    Session {
        recipe,
        methods: methods.to_vec(),
        files: demo::model_files(),
        data: DataSource::Directory(dir.to_owned()),
        out: Some(Output::new(dir.join(out), |_| {
            let (table, curves) = (String::new(), String::new());
            Ok(Drawing { table, curves })
        })),
        overwrite: false,
        resume: false,
        checkpoints: CheckpointSettings {
            every: Some(1),
            keep: 100,
        },
        record_every: Some(2),
        quiet: true,
        command: "a test".into(),
    }
}

fn causal(
    dir: &Path,
    out: &str,
    method: Method,
    edit: impl Fn(&mut Recipe),
) -> Session<TextSource> {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::text()).unwrap();
    (recipe.epochs, recipe.batch, recipe.accumulation) = (1, 2, 3);
    edit(&mut recipe);
    let Session {
        out,
        checkpoints,
        command,
        ..
    } = encoder(dir, out, &[]);
    Session {
        recipe,
        methods: vec![method],
        files: demo::decoder_files(),
        data: TextSource {
            train: demo::texts(SplitName::Train).unwrap().thinned(16),
            held_out: demo::texts(SplitName::Dev).unwrap().thinned(2),
        },
        out,
        overwrite: false,
        resume: false,
        checkpoints,
        record_every: None,
        quiet: true,
        command,
    }
}

/// One rank: its session, its place among the others, and whether it is asked to end.
type Seat<'a, S> = (&'a Session<S>, &'a dyn Group, bool);

fn run<S: Source + Sync>(seats: &[Seat<'_, S>], patience: Duration) -> Vec<Result<Results>> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for &(session, group, is_interrupted) in seats {
            threads.push(scope.spawn(move || {
                let interrupted = AtomicBool::new(is_interrupted);
                let ranks = Ranks::new(group, patience);
                run_with(BackendKind::Flex, 0, session, &interrupted, ranks)
            }));
        }
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.collect()
    })
}

/// The results of rank 0 of `size` ranks. The others have none.
fn together<S: Source + Sync>(session: &Session<S>, size: usize) -> Results {
    let group = Threads::group(size);
    let seats = group
        .iter()
        .map(|rank| (session, rank as &dyn Group, false));
    let all = run(&seats.collect::<Vec<_>>(), PATIENCE);
    let mut all = all.into_iter().map(Result::unwrap);
    let results = all.next().unwrap();
    assert!(all.all(|other| other.runs.is_empty()));
    results
}

/// The errors of two ranks with these sessions.
fn refused<S: Source + Sync>(first: &Session<S>, second: &Session<S>) -> Vec<Option<Error>> {
    let group = Threads::group(2);
    let seats = [
        (first, &group[0] as &dyn Group, false),
        (second, &group[1], false),
    ];
    let all = run(&seats, Duration::from_millis(1500));
    all.into_iter().map(Result::err).collect()
}

/// Every file, without the times and the lines about communication in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            let inner = files(&path).into_iter();
            found.extend(inner.map(|(inner, bytes)| (name.join(inner), bytes)));
            continue;
        }
        let without = |part: &str| {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| !line.contains(part));
            lines.collect::<Vec<_>>().join("\n").into_bytes()
        };
        let bytes = match name.to_str().unwrap() {
            // They contain times, or hashes of times.
            "table.md" | "manifest.json" => continue,
            "results.json" | "state.json" => without("second"),
            "log.jsonl" => without("\"event\":\"communication\""),
            _ => fs::read(&path).unwrap(),
        };
        found.insert(name, bytes);
    }
    found
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (files(found), files(expected));
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for (name, bytes) in &found {
        let lines = [bytes, &expected[name]].map(|bytes| String::from_utf8_lossy(bytes));
        let mut lines = lines[0].lines().zip(lines[1].lines());
        let other = lines.find(|(found, expected)| found != expected);
        assert!(bytes == &expected[name], "{}: {other:?}", name.display());
    }
}

#[test]
fn every_method_leaves_the_same_files_by_one_to_four_ranks() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let few = [Method::VbLora, Method::Head];
    let others: Vec<Method> = methods().into_iter().filter(|m| !few.contains(m)).collect();
    // To make a LoRA-XS takes longest, and each rank makes its own.
    for (methods, sizes) in [(&few[..], 1..=4), (&others, 1..=2)] {
        for size in sizes {
            let out = format!("{}-{size}", methods.len());
            let results = together(&encoder(dir.path(), &out, methods), size);
            assert!(results.runs.iter().all(|run| run.steps == 3));
            let out = dir.path().join(out);
            assert_same(&out, &dir.path().join(format!("{}-1", methods.len())));
            let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
            let lines = log.lines().filter(|line| line.contains("communication"));
            let expected = if size == 1 { 0 } else { 3 * methods.len() };
            assert_eq!(lines.count(), expected);
        }
    }
}

/// A causal model, and what changes its backward pass: recomputed activations, several texts in a row, a base in 4 bits.
#[test]
fn causal_models_leave_the_same_files_by_one_and_three_ranks() {
    type Edit = (&'static str, fn(&mut Recipe));
    let edits: [Edit; 3] = [
        ("recompute", |recipe| recipe.text.recompute = true),
        ("packing", |recipe| {
            (recipe.text.packing, recipe.group_by_length) = (true, false);
            recipe.batch = 1;
        }),
        ("nf4", |recipe| {
            recipe.base_dtype = BaseDtype::Nf4(Default::default())
        }),
    ];
    for (name, edit) in edits {
        let dir = tempfile::tempdir().unwrap();
        for (out, size) in [("1", 1), ("3", 3)] {
            let session = causal(dir.path(), out, Method::VbLora, edit);
            let results = together(&session, size);
            assert_eq!(results.runs[0].stop, Stop::Completed, "{name}");
        }
        assert_same(&dir.path().join("3"), &dir.path().join("1"));
    }
}

/// The results of rank 0 of three, each of which adds its micro-batches before it sends them: through the hub, or in messages.
fn adding_early(session: &Session, uses_hub: bool) -> Results {
    let (group, hub) = (Threads::group(3), Hub::group(3));
    thread::scope(|scope| {
        let seats = group.iter().zip(&hub).map(|(seat, hub)| {
            scope.spawn(move || {
                let ranks = Ranks {
                    hub: uses_hub.then_some(hub),
                    ..Ranks::new(seat, PATIENCE).adding_early()
                };
                let here = AtomicBool::new(false);
                run_with(BackendKind::Flex, 0, session, &here, ranks)
            })
        });
        let seats: Vec<_> = seats.collect();
        let mut all = seats.into_iter().map(|seat| seat.join().unwrap().unwrap());
        all.next().unwrap()
    })
}

/// Values that go from device to device are those of messages. The last step has fewer micro-batches than ranks, and goes in messages.
#[test]
fn an_exchange_leaves_the_files_of_messages() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let methods = [Method::VbLora, Method::Head, Method::Lora];
    for (out, uses_hub) in [("messages", false), ("exchange", true)] {
        let results = adding_early(&encoder(dir.path(), out, &methods), uses_hub);
        assert_eq!(results.runs.len(), methods.len());
        assert!(results.runs.iter().all(|run| run.stop == Stop::Completed));
    }
    let [exchange, messages] = ["exchange", "messages"].map(|out| dir.path().join(out));
    assert_same(&exchange, &messages);
    let bytes = |out: &Path| -> u64 {
        let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
        let lines = log.lines().filter(|line| line.contains("communication"));
        let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values.map(|line| line["bytes"].as_u64().unwrap()).sum()
    };
    let [through, carried] = [bytes(&exchange), bytes(&messages)];
    assert!(
        through.abs_diff(carried) < carried / 100,
        "{through} {carried}"
    );
}

/// The sums of ranks, as GPUs send them, are those of one rank up to rounding.
#[test]
fn ranks_that_add_early_train_as_one_does() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let methods = [Method::VbLora];
    let alone = together(&encoder(dir.path(), "1", &methods), 1);
    let results = adding_early(&encoder(dir.path(), "3", &methods), false);
    let losses = |results: &Results| -> Vec<f64> {
        let epochs = results.runs[0].epochs.iter();
        epochs.map(|epoch| epoch.train_loss).collect()
    };
    let (found, expected) = (losses(&results), losses(&alone));
    assert!(!expected.is_empty() && found.len() == expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    let log = |name: &str| fs::read_to_string(dir.path().join(name).join("log.jsonl")).unwrap();
    let (early, whole) = (log("3"), log("1"));
    let lines = |log: &str| -> Vec<serde_json::Value> {
        let lines = log
            .lines()
            .filter(|line| line.contains("\"event\":\"step\""));
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let pairs = lines(&early).into_iter().zip(lines(&whole));
    for (found, expected) in pairs {
        for name in ["loss", "gradient_norm"] {
            let [found, expected] = [&found, &expected].map(|line| line[name].as_f64().unwrap());
            assert!(
                (found - expected).abs() < 1e-4 * expected.abs(),
                "{name}: {found} {expected}"
            );
        }
    }
}

/// A signal to any rank ends the run after its step. Another number of ranks goes on.
#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let methods = [Method::VbLora, Method::Head];
    together(&encoder(dir.path(), "whole", &methods), 1);
    let session = encoder(dir.path(), "parts", &methods);
    let group = Threads::group(2);
    let seats = [
        (&session, &group[0] as &dyn Group, false),
        (&session, &group[1], true),
    ];
    let first = run(&seats, PATIENCE).remove(0).unwrap();
    assert_eq!(
        (&first.runs[0].stop, first.runs[0].steps),
        (&Stop::Interrupted, 1)
    );
    assert_eq!(first.runs.len(), 1, "no other run starts");
    let session = Session {
        resume: true,
        ..session
    };
    assert_eq!(together(&session, 3).runs[0].stop, Stop::Completed);
    assert_same(&dir.path().join("parts"), &dir.path().join("whole"));
}

#[test]
fn a_signal_to_a_rank_without_work_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let session = encoder(dir.path(), "out", &[Method::Head]);
    let group = Threads::group(session.recipe.accumulation + 1);
    let last = group.len() - 1;
    let seats = group.iter().enumerate();
    let seats = seats.map(|(rank, seat)| (&session, seat as &dyn Group, rank == last));
    let results = run(&seats.collect::<Vec<_>>(), PATIENCE).remove(0).unwrap();
    assert_eq!(results.runs[0].stop, Stop::Interrupted);
}

#[test]
fn a_rank_that_was_given_something_else_is_named() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let ours = encoder(dir.path(), "out", &[Method::Lora]);
    let other = |edit: &dyn Fn(&mut Session)| {
        let mut other = encoder(dir.path(), "out", &[Method::Lora]);
        edit(&mut other);
        other
    };
    let elsewhere = tempfile::tempdir().unwrap();
    data(elsewhere.path(), 25);
    let cases = [
        (
            other(&|other| other.recipe.lr.head *= 2.0),
            "setting lr.head",
        ),
        (
            other(&|other| other.data = DataSource::Directory(elsewhere.path().to_owned())),
            "training data",
        ),
        (
            other(&|other| other.methods = vec![Method::Vera]),
            "list of methods",
        ),
    ];
    for (theirs, part) in cases {
        let mut errors = refused(&ours, &theirs).into_iter();
        match errors.next().unwrap() {
            Some(Error::OtherRank {
                rank,
                part: found,
                expected,
                found: value,
            }) => {
                assert_eq!((rank, found.as_str()), (1, part));
                assert_ne!(expected, value);
            }
            other => panic!("{part}: {other:?}"),
        }
        assert!(matches!(
            errors.next().unwrap(),
            Some(Error::OfRank { rank: 1, .. })
        ));
        assert!(!dir.path().join("out").join("config.toml").exists());
    }
}

#[test]
fn full_fine_tuning_is_of_one_rank() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let session = encoder(dir.path(), "out", &[Method::Full]);
    for error in refused(&session, &session) {
        let error = error.unwrap().to_string();
        assert!(
            error.contains("method") && error.contains("full with 2 ranks"),
            "{error}"
        );
    }
}

/// A rank that agrees and then says nothing.
#[derive(Debug)]
struct Silent<'a>(&'a Threads, AtomicBool);

impl Group for Silent<'_> {
    fn place(&self) -> Place {
        self.0.place()
    }

    fn broadcast(&self, message: Message) {
        self.0.broadcast(message);
    }

    fn report(&self, message: Message) {
        if !self.1.swap(true, Ordering::Relaxed) {
            self.0.report(message);
        }
    }

    fn receive(&self, patience: Duration) -> Option<(usize, Arc<Message>)> {
        self.0.receive(patience)
    }

    fn lifeless(&self, ranks: &[usize], patience: Duration) -> Vec<usize> {
        self.0.lifeless(ranks, patience)
    }
}

/// Rank 0 of a job in which rank 1 hangs, from which rank 2 gets its messages.
#[derive(Debug)]
struct AboveOneThatHangs<'a>(&'a Threads);

impl Group for AboveOneThatHangs<'_> {
    fn place(&self) -> Place {
        self.0.place()
    }

    fn broadcast(&self, message: Message) {
        self.0.broadcast(message);
    }

    fn report(&self, message: Message) {
        self.0.report(message);
    }

    fn receive(&self, patience: Duration) -> Option<(usize, Arc<Message>)> {
        self.0.receive(patience)
    }

    fn lifeless(&self, ranks: &[usize], _: Duration) -> Vec<usize> {
        assert_eq!(ranks, [1, 2]);
        vec![1]
    }
}

#[test]
fn a_rank_that_does_not_answer_is_named_with_its_step() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let session = encoder(dir.path(), "out", &[Method::Head]);
    let group = Threads::group(3);
    let silent = Silent(&group[2], AtomicBool::new(false));
    let seats = [
        (&session, &group[0] as &dyn Group, false),
        (&session, &group[1], false),
        (&session, &silent, false),
    ];
    let error = run(&seats, Duration::from_millis(1500))
        .remove(0)
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("no answer from rank 2 in step 0 for 1 s"),
        "{said}"
    );
}

#[test]
fn of_several_silent_ranks_the_one_that_hangs_is_named() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let session = encoder(dir.path(), "out", &[Method::Head]);
    let group = Threads::group(3);
    let first = AboveOneThatHangs(&group[0]);
    let others = [&group[1], &group[2]].map(|rank| Silent(rank, AtomicBool::new(false)));
    let seats = [
        (&session, &first as &dyn Group, false),
        (&session, &others[0], false),
        (&session, &others[1], false),
    ];
    let error = run(&seats, Duration::from_millis(1500)).remove(0);
    let said = error.unwrap_err().to_string();
    assert!(
        said.starts_with("no answer from rank 1 in step 0 for 1 s"),
        "{said}"
    );
}

/// A change between the values that a checkpoint's identity samples.
#[test]
fn a_base_that_differs_in_a_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 26);
    let (ours, elsewhere) = (demo::model_files(), tempfile::tempdir().unwrap());
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let mut bytes = ours.read(name).unwrap().into_owned();
        if name == "model.safetensors" {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        fs::write(elsewhere.path().join(name), bytes).unwrap();
    }
    let [first, mut second] = ["out", "out"].map(|out| encoder(dir.path(), out, &[Method::Head]));
    second.files = ModelFiles::open(elsewhere.path()).unwrap();
    match refused(&first, &second).remove(0) {
        Some(Error::OtherRank { rank: 1, part, .. }) => assert_eq!(part, "set of model files"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ranks_without_work_are_told_how_to_have_some() {
    assert_eq!(shared(1, 32, 1), None);
    let line = |size, batch, accumulation| shared(size, batch, accumulation).unwrap();
    assert_eq!(
        line(2, 4, 3),
        "2 ranks share the 3 micro-batches of each step"
    );
    assert_eq!(
        line(4, 32, 1),
        "3 ranks have no work, because a step has 1 micro-batch; --batch 8 --accumulation 4 would use all 4"
    );
    assert_eq!(
        line(4, 1, 3),
        "1 rank has no work, because a step has 3 micro-batches"
    );
}
