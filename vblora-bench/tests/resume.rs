//! Sessions that are killed, interrupted or damaged end with the same files as an undisturbed session, bit by bit. Two equal sessions in
//! two processes, with different hashes and addresses, also agree.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(any(feature = "flex", feature = "ndarray"))]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use vblora::{StoredVbLora, backend::BackendKind, rng::Key};
use vblora_bench::{
    demo,
    recipes::{Recipe, Size},
    report::draw,
    results::{Results, Stop},
    schedule::ScheduleKind,
    tasks::{Label, SplitName, Task},
    tensorboard::{Event, FILE_NAME as EVENTS, read_events},
    train::{CheckpointSettings, DataSource, Method, Output as RunOutput, Session, run_encoder},
};

/// The session's directory and backend, in the environment of a child process.
const DIR: &str = "VBLORA_TEST_SESSION";
const BACKEND: &str = "VBLORA_TEST_BACKEND";

const STEPS_PER_EPOCH: u64 = 3;

fn backends() -> impl Iterator<Item = BackendKind> {
    [BackendKind::Flex, BackendKind::NdArray]
        .into_iter()
        .filter(|backend| backend.is_compiled())
}

/// Several times slower than the other backend, so it gets fewer cases, of fewer rows.
fn is_slow(backend: BackendKind) -> bool {
    backend == BackendKind::NdArray
}

/// A file in the session's directory: there are few rows, in batches of few.
const FEW: &str = "few";

/// The first rows of the bundled task in a directory of GLUE's layout.
fn data(dir: &Path) {
    let rows = if dir.join(FEW).exists() { 21 } else { 168 };
    let dir = &dir.join("data");
    std::fs::create_dir_all(dir.join("demo")).unwrap();
    for (name, rows) in [(SplitName::Train, rows), (SplitName::Dev, 24)] {
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

/// A file in the session's directory that names a selection other than top-k, with noise logits and a gate.
const SELECTION: &str = "selection";

/// A file in the session's directory that sets evaluations by steps and early stopping.
const STEPWISE: &str = "stepwise";

/// Two epochs of three steps each with VB-LoRA, then with LoRA. Each step has two micro-batches, the last one shorter, and dropout is on
/// everywhere. Selections are recorded at steps of which some are not checkpoints.
fn session(dir: &Path) -> Session {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    (recipe.epochs, recipe.batch, recipe.accumulation) = (2, 32, 2);
    recipe.max_length = 16;
    (recipe.base_dropout, recipe.lora.dropout) = (Some(0.1), 0.1);
    if dir.join(FEW).exists() {
        recipe.batch = 4;
    }
    if let Ok(selection) = std::fs::read_to_string(dir.join(SELECTION)) {
        let selection = selection.parse().unwrap();
        (recipe.vblora.selection, recipe.vblora.gate) = (selection, true);
    }
    if dir.join(STEPWISE).exists() {
        (recipe.epochs, recipe.max_steps) = (6, Some(17));
        (recipe.evaluation.every, recipe.evaluation.patience) = (Some(2), Some(3));
        (recipe.schedule.warmup_ratio, recipe.schedule.warmup_steps) = (0.0, Some(2));
        recipe.schedule.kind = ScheduleKind::InverseSqrt;
    }
    let tensorboard = dir.join(STEPWISE).exists();
    let out = RunOutput {
        tensorboard,
        ..RunOutput::new(dir.join("out"), draw)
    };
    Session {
        recipe,
        methods: vec![Method::VbLora, Method::Lora],
        files: demo::model_files(),
        data: DataSource::Directory(dir.join("data")),
        out: Some(out),
        overwrite: false,
        resume: true,
        checkpoints: CheckpointSettings {
            every: Some(1),
            keep: 100,
        },
        record_every: Some(2),
        quiet: true,
        command: "a test".into(),
    }
}

fn run(
    session: Session,
    backend: BackendKind,
    interrupted: &AtomicBool,
) -> vblora_bench::Result<Results> {
    run_encoder(backend, 0, &session, interrupted)
}

/// The session that the other tests run in a process of its own.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let backend = std::env::var(BACKEND).unwrap().parse().unwrap();
    run(session(Path::new(&dir)), backend, &AtomicBool::new(false)).unwrap();
}

fn child_of(dir: &Path, backend: BackendKind) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored"])
        .env(DIR, dir)
        .env(BACKEND, backend.name())
        .env("RAYON_NUM_THREADS", "2")
        .env("MATMUL_NUM_THREADS", "2")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn finish(dir: &Path, backend: BackendKind) -> Output {
    let output = child_of(dir, backend).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A directory with data, and the files of an uninterrupted session that ran in its own process.
fn uninterrupted(backend: BackendKind) -> (tempfile::TempDir, Outcome) {
    uninterrupted_with(backend, None)
}

/// As [`uninterrupted`], with a file that sets more.
fn uninterrupted_with(backend: BackendKind, file: Option<&str>) -> (tempfile::TempDir, Outcome) {
    uninterrupted_in(directory(backend, file), backend)
}

fn uninterrupted_in(dir: tempfile::TempDir, backend: BackendKind) -> (tempfile::TempDir, Outcome) {
    finish(dir.path(), backend);
    let outcome = outcome(dir.path());
    (dir, outcome)
}

/// A directory with data, few for a slow backend, and an empty file of this name.
fn directory(backend: BackendKind, file: Option<&str>) -> tempfile::TempDir {
    let few = is_slow(backend).then_some(FEW);
    directory_with(few.into_iter().chain(file))
}

/// A directory with data, and empty files of these names.
fn directory_with<'a>(files: impl IntoIterator<Item = &'a str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    data(dir.path());
    dir
}

/// Every file of a session, without the times in it.
type Outcome = BTreeMap<PathBuf, Vec<u8>>;

fn outcome(dir: &Path) -> Outcome {
    let mut found = Outcome::new();
    collect(&dir.join("out"), Path::new(""), &mut found);
    found
}

fn collect(dir: &Path, below: &Path, found: &mut Outcome) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let (path, name) = {
            let entry = entry.unwrap();
            (entry.path(), below.join(entry.file_name()))
        };
        if path.is_dir() {
            collect(&path, &name, found);
            continue;
        }
        // A process killed while it writes a file leaves its temporary file.
        if name
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(".tmp")
        {
            continue;
        }
        let bytes = match name.file_name().unwrap().to_str().unwrap() {
            // They contain times, or hashes of times.
            "table.md" | "manifest.json" => continue,
            "results.json" | "state.json" => without_seconds(&path),
            EVENTS => without_times(&path),
            "session.json" => without_threads(&path),
            _ => std::fs::read(&path).unwrap(),
        };
        found.insert(name, bytes);
    }
}

/// Every event but its time, and a file of whole events.
fn without_times(path: &Path) -> Vec<u8> {
    let events = read_events(path).unwrap().into_iter();
    let event = |event: Event| format!("{:?}\n", (event.step, event.version, event.scalars));
    events.map(event).collect::<String>().into_bytes()
}

/// A session without the environment of its first process. Some sessions begin in the process of the test, and others in a child.
fn without_threads(path: &Path) -> Vec<u8> {
    let mut session: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let made = session["made"].as_object_mut().unwrap();
    assert!(made.remove("threads").is_some() && made.remove("matmul_threads").is_some());
    session.to_string().into_bytes()
}

fn without_seconds(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.contains("\"seconds\""));
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

#[track_caller]
fn assert_same(found: &Outcome, expected: &Outcome, what: &str) {
    let names = |outcome: &Outcome| outcome.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, bytes) in found {
        assert!(
            bytes == &expected[name],
            "{what}: {} differs",
            name.display()
        );
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn checkpoints(dir: &Path, run: &str) -> PathBuf {
    dir.join("out/checkpoints").join(run)
}

fn set(dir: &Path, run: &str, step: u64) -> PathBuf {
    checkpoints(dir, run).join(format!("step-{step:08}"))
}

#[test]
fn two_processes_make_the_same_files_to_the_bit() {
    for backend in backends() {
        // With all rows, so that several threads share the work.
        let [(_first, first), (_second, second)] =
            [(); 2].map(|()| uninterrupted_in(directory_with([]), backend));
        assert_same(&second, &first, backend.name());
        for file in [
            "log.jsonl",
            "results.json",
            "vblora-seed1/adapter_model.safetensors",
            "selections/vblora-seed1.rec",
            "checkpoints/lora-seed1/step-00000006/tensors.safetensors",
        ] {
            assert!(first.contains_key(Path::new(file)), "{file}");
        }
    }
}

/// The state of a session that was killed when its last checkpoint was `step` of `run`. The log has later lines, and one that was cut off.
fn cut_back(dir: &Path, run: &str, step: u64) {
    cut_back_from(dir, run, step, 2 * STEPS_PER_EPOCH);
}

/// As [`cut_back`], of a run that ended with step `last`.
fn cut_back_from(dir: &Path, run: &str, step: u64, last: u64) {
    let out = dir.join("out");
    for file in ["results.json", "table.md", "curves.svg"] {
        std::fs::remove_file(out.join(file)).unwrap();
    }
    for later in step + 1..=last {
        std::fs::remove_dir_all(set(dir, run, later)).unwrap();
    }
    if run.starts_with("vblora") {
        std::fs::remove_dir_all(checkpoints(dir, "lora-seed1")).unwrap();
    }
    let mut log = std::fs::read(out.join("log.jsonl")).unwrap();
    log.extend(br#"{"event":"step","run":"lora se"#);
    std::fs::write(out.join("log.jsonl"), log).unwrap();
}

#[test]
fn a_session_goes_on_from_any_step_and_ends_the_same_to_the_bit() {
    for backend in backends() {
        let (whole, expected) = uninterrupted(backend);
        // The steps are in the middle of an epoch, at its end, at a run's end, and before the first step.
        let cuts = [
            ("vblora-seed1", 1),
            ("vblora-seed1", 3),
            ("vblora-seed1", 5),
            ("lora-seed1", 0),
            ("lora-seed1", 4),
            ("lora-seed1", 6),
        ];
        let skipped = if is_slow(backend) { 4 } else { 0 };
        for (run, step) in cuts.into_iter().skip(skipped) {
            let dir = tempfile::tempdir().unwrap();
            copy(whole.path(), dir.path());
            cut_back(dir.path(), run, step);
            finish(dir.path(), backend);
            let made = outcome(dir.path());
            assert_same(&made, &expected, &format!("{backend} {run} {step}"));
        }
    }
}

/// Each cut is right after, right before or between evaluations, or where patience has just run out.
#[test]
fn a_session_that_stops_early_goes_on_from_any_step_and_ends_the_same_to_the_bit() {
    let backend = backends().next().unwrap();
    let (whole, expected) = uninterrupted_with(backend, Some(STEPWISE));
    let results = Results::read(whole.path().join("out/results.json")).unwrap();
    let stops: Vec<_> = results.runs.iter().map(|run| run.stop.clone()).collect();
    let [Stop::Early { step: vblora }, lora] = stops.as_slice() else {
        panic!("{stops:?}")
    };
    assert!(lora.is_finished() && (6..17).contains(vblora), "{stops:?}");
    for run in &results.runs {
        let steps: Vec<u64> = run.epochs.iter().map(|at| at.step.unwrap()).collect();
        let expected = (1..=run.steps).filter(|step| step % 2 == 0 || *step == 17);
        assert_eq!(steps, expected.collect::<Vec<_>>());
        let epochs: Vec<usize> = run.epochs.iter().map(|at| at.epoch).collect();
        let of = |step: &u64| step.div_ceil(STEPS_PER_EPOCH) as usize;
        assert_eq!(epochs, steps.iter().map(of).collect::<Vec<_>>());
    }
    for run in ["vblora-seed1", "lora-seed1"] {
        let file = Path::new("tensorboard").join(run).join(EVENTS);
        let text = String::from_utf8(expected[&file].clone()).unwrap();
        for tag in [
            "train/loss",
            "train/gradient_norm",
            "lr/head",
            "dev/matthews",
        ] {
            assert!(text.contains(tag), "{tag} in {text}");
        }
    }
    let last = results.runs[1].steps;
    for (run, step, last) in [
        ("vblora-seed1", 1, *vblora),
        ("vblora-seed1", *vblora - 1, *vblora),
        ("vblora-seed1", *vblora, *vblora),
        ("lora-seed1", 3, last),
        ("lora-seed1", last, last),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        cut_back_from(dir.path(), run, step, last);
        finish(dir.path(), backend);
        assert_same(&outcome(dir.path()), &expected, &format!("{run} {step}"));
    }
}

#[test]
fn a_session_whose_selection_draws_goes_on_and_ends_the_same_to_the_bit() {
    let backend = backends().next().unwrap();
    let whole = tempfile::tempdir().unwrap();
    data(whole.path());
    std::fs::write(whole.path().join(SELECTION), "noisy-topk").unwrap();
    finish(whole.path(), backend);
    let expected = outcome(whole.path());
    for step in [2, 5] {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        cut_back(dir.path(), "vblora-seed1", step);
        finish(dir.path(), backend);
        assert_same(&outcome(dir.path()), &expected, &format!("step {step}"));
    }
    // The PEFT directory has the gate in LoRA's factors. The compact file has it as a separate number.
    let run = whole.path().join("out/vblora-seed1");
    let config = std::fs::read_to_string(run.join("adapter_config.json")).unwrap();
    assert!(config.contains("\"LORA\""), "{config}");
    let compact = StoredVbLora::load(&run.join("compact.safetensors")).unwrap();
    assert!(compact.settings().config().gate && compact.gate() != 0.0);
}

#[test]
fn a_session_killed_again_and_again_ends_the_same_to_the_bit() {
    killed_again_and_again(None);
}

/// Evaluations within epochs, a last step within an epoch, and early stopping: all of it follows from the checkpoint.
#[test]
fn a_session_with_evaluations_by_steps_and_patience_is_killed_and_ends_the_same_to_the_bit() {
    killed_again_and_again(Some(STEPWISE));
}

fn killed_again_and_again(file: Option<&str>) {
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    for backend in backends() {
        let start = Instant::now();
        let (_whole, expected) = uninterrupted_with(backend, file);
        let usual = start.elapsed().as_millis() as usize;
        let dir = directory(backend, file);
        let mut killed_on_the_way = 0;
        let attempts = if is_slow(backend) { 3 } else { 6 };
        for attempt in 0..attempts {
            let mut child = child_of(dir.path(), backend).spawn().unwrap();
            // The first signal hits a running session for certain, the others hit at any time.
            let begun = checkpoints(dir.path(), "vblora-seed1");
            while attempt == 0 && !begun.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let wait = Key::new(seed).below(attempt, usual / 2);
            std::thread::sleep(Duration::from_millis(wait as u64));
            // SIGKILL
            child.kill().unwrap();
            let status = child.wait().unwrap();
            let has_begun = dir.path().join("out/checkpoints").exists();
            killed_on_the_way += usize::from(!status.success() && has_begun);
        }
        assert!(killed_on_the_way > 0, "no kill struck a session on its way");
        finish(dir.path(), backend);
        assert_same(&outcome(dir.path()), &expected, backend.name());
        println!("{backend}: killed {killed_on_the_way} times on the way");
    }
}

#[test]
fn an_interrupted_session_leaves_a_checkpoint_and_goes_on() {
    for backend in backends() {
        let (_whole, expected) = uninterrupted(backend);
        let dir = directory(backend, None);
        let interrupted = AtomicBool::new(false);
        let reached = std::thread::scope(|scope| {
            let first = set(dir.path(), "vblora-seed1", 1);
            let flag = &interrupted;
            scope.spawn(move || {
                while !first.exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                flag.store(true, Ordering::Relaxed);
            });
            // It writes no checkpoints of its own, except the first.
            let mut session = session(dir.path());
            session.checkpoints.every = Some(1);
            run(session, backend, &interrupted).unwrap()
        });
        assert_eq!(reached.runs.len(), 1);
        let stopped = &reached.runs[0];
        assert_eq!(stopped.stop, Stop::Interrupted);
        assert!(set(dir.path(), "vblora-seed1", stopped.steps).exists());
        finish(dir.path(), backend);
        assert_same(&outcome(dir.path()), &expected, backend.name());
    }
}

#[test]
fn a_damaged_checkpoint_is_skipped_with_a_warning_that_names_what_is_wrong() {
    let backend = backends().next().unwrap();
    let (whole, expected) = uninterrupted(backend);
    type Damage = fn(&Path);
    let flip: Damage = |set| {
        let path = set.join("tensors.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let cut: Damage = |set| std::fs::write(set.join("state.json"), "{").unwrap();
    let lose: Damage = |set| std::fs::remove_file(set.join("manifest.json")).unwrap();
    for (damage, file, words) in [
        (flip, "tensors.safetensors", "damaged"),
        (cut, "state.json", "truncated"),
        (lose, "manifest.json", "No such file"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        cut_back(dir.path(), "lora-seed1", 5);
        damage(&set(dir.path(), "lora-seed1", 5));
        let output = finish(dir.path(), backend);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let warning = said.lines().find(|line| line.contains("step 5 skipped"));
        let warning = warning.unwrap_or_else(|| panic!("{said}"));
        assert!(
            warning.contains("WARN") && warning.contains(file) && warning.contains(words),
            "{warning}"
        );
        assert!(!said.contains("step 4 skipped"));
        assert_same(&outcome(dir.path()), &expected, words);
    }
}

#[test]
fn what_was_made_otherwise_is_not_gone_on_with() {
    let backend = backends().next().unwrap();
    let (whole, expected) = uninterrupted(backend);
    let refusal = |session: Session| {
        let refused = run(session, backend, &AtomicBool::new(false));
        refused.unwrap_err().to_string()
    };
    let mut other = session(whole.path());
    other.recipe.lr.head = 0.125;
    let message = refusal(other);
    assert!(
        message.contains("config.toml")
            && message.contains("its recipe's lr.head is 0.001, now it is 0.125"),
        "{message}"
    );
    let mut other = session(whole.path());
    other.methods = vec![Method::VbLora];
    let message = refusal(other);
    assert!(
        message.contains("one with lora, now it is vblora"),
        "{message}"
    );
    let mut other = session(whole.path());
    other.resume = false;
    assert!(refusal(other).contains("--resume"));
    // Other data under the same name.
    cut_back(whole.path(), "lora-seed1", 2);
    let path = whole.path().join("data/demo/train.tsv");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\t1\t", "\t0\t", 1)).unwrap();
    let message = refusal(session(whole.path()));
    assert!(
        message.contains("session.json") && message.contains("its data is"),
        "{message}"
    );
    // In a directory of an earlier version only checkpoints have the identity.
    std::fs::remove_file(whole.path().join("out/session.json")).unwrap();
    let message = refusal(session(whole.path()));
    assert!(
        message.contains("step-00000006") && message.contains("its data is"),
        "{message}"
    );
    std::fs::write(&path, text).unwrap();
    finish(whole.path(), backend);
    assert_same(&outcome(whole.path()), &expected, "with the right data");
}

#[test]
fn only_the_last_checkpoints_and_the_best_stay() {
    let backend = backends().next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    data(dir.path());
    let mut session = session(dir.path());
    session.methods = vec![Method::Head];
    session.recipe.epochs = 4;
    session.checkpoints = CheckpointSettings {
        every: Some(2),
        keep: 2,
    };
    let results = run(session, backend, &AtomicBool::new(false)).unwrap();
    let best = results.runs[0].best.as_ref().unwrap().epoch as u64 * STEPS_PER_EPOCH;
    let entries = std::fs::read_dir(checkpoints(dir.path(), "head-seed1")).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut expected = vec![best, 10, 12];
    expected.sort_unstable();
    expected.dedup();
    let expected: Vec<_> = expected
        .iter()
        .map(|step| format!("step-{step:08}"))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_checkpoint_with_all_logits_says_why() {
    let backend = backends().next().unwrap();
    let size = |decay: f64| {
        let dir = tempfile::tempdir().unwrap();
        data(dir.path());
        let mut session = session(dir.path());
        session.methods = vec![Method::VbLora];
        (session.recipe.epochs, session.recipe.weight_decay.logits) = (1, decay);
        run(session, backend, &AtomicBool::new(false)).unwrap();
        let set = set(dir.path(), "vblora-seed1", STEPS_PER_EPOCH);
        let state = std::fs::read_to_string(set.join("state.json")).unwrap();
        let reason = "\"all_logits\": \"weight_decay.logits = 0.5 moves every logit";
        assert_eq!(state.contains(reason), decay > 0.0, "{state}");
        std::fs::metadata(set.join("tensors.safetensors"))
            .unwrap()
            .len()
    };
    assert!(size(0.5) > size(0.0) + 500_000);
}
