//! A session's directory: one process at a time, one session, and no foreign files removed.
#![allow(missing_docs)]
#![cfg(feature = "flex")]

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use burn::backend::Flex;
use vblora::storage::checkpoint::FileSet;
use vblora_bench::{
    demo,
    recipes::{Recipe, Size},
    report::draw,
    results::Results,
    tasks::Task,
    train::{CheckpointSettings, DataSource, DirLock, Method, Output, Session},
};
use vblora_models::ModelFiles;

/// Two epochs of two steps on a few made-up sentences in the folder. The output goes to its subfolder `out`.
fn session(dir: &Path, methods: &[Method]) -> Session {
    write_data(dir, "sentence");
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    (recipe.epochs, recipe.batch) = (2, 8);
    Session {
        recipe,
        methods: methods.to_vec(),
        files: demo::model_files(),
        data: DataSource::Directory(dir.join("data")),
        out: Some(Output::new(dir.join("out"), draw)),
        overwrite: false,
        resume: false,
        checkpoints: CheckpointSettings {
            every: Some(1),
            keep: 9,
        },
        record_every: None,
        quiet: true,
        command: "a test".into(),
    }
}

fn write_data(dir: &Path, word: &str) {
    std::fs::create_dir_all(dir.join("data/demo")).unwrap();
    for name in ["train", "dev"] {
        let row = |i: usize| format!("x\t{}\t\tThe {i}th {word}.\n", i % 2);
        let text: String = (0..16).map(row).collect();
        std::fs::write(dir.join(format!("data/demo/{name}.tsv")), text).unwrap();
    }
}

fn run_locked(session: &Session) -> vblora_bench::Result<(Results, Option<DirLock>)> {
    let ended = session.run_locked::<Flex>(&Default::default(), &AtomicBool::new(false));
    ended.map(|ended| (ended.results, ended.lock))
}

fn run(session: &Session) -> Results {
    run_locked(session).unwrap().0
}

fn refusal(session: &Session) -> String {
    let message = run_locked(session).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

/// Every path below a folder without following links, with the bytes of files.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(tree(&path));
        }
        let bytes = if kind.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        found.push((path, bytes));
    }
    found.sort();
    found
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

fn set(dir: &Path, run: &str, step: u64) -> PathBuf {
    dir.join(format!("out/checkpoints/{run}/step-{step:08}"))
}

/// The files that a kill leaves if the run has one of its four steps left.
fn cut_back(dir: &Path, run: &str) {
    let out = dir.join("out");
    for file in ["results.json", "table.md", "curves.svg"] {
        std::fs::remove_file(out.join(file)).unwrap();
    }
    std::fs::remove_dir_all(set(dir, run, 4)).unwrap();
}

#[test]
fn one_session_at_a_time_has_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Head]);
    let (results, lock) = run_locked(&session).unwrap();
    let before = tree(dir.path());
    let out = dir.path().join("out").display().to_string();
    let process = format!("process {}", std::process::id());
    for (overwrite, resume) in [(false, false), (false, true), (true, false)] {
        (session.overwrite, session.resume) = (overwrite, resume);
        assert_says(&refusal(&session), &[&out, &process, "in use"]);
        assert!(tree(dir.path()) == before, "nothing is touched");
    }
    drop(lock);
    assert!(!dir.path().join("out/session.lock").exists());
    // The file of a killed process is no lock.
    std::fs::write(dir.path().join("out/session.lock"), "process 1 on a host").unwrap();
    (session.overwrite, session.resume) = (false, true);
    assert_eq!(run(&session).runs, results.runs);
    assert!(!dir.path().join("out/session.lock").exists());
}

#[test]
fn runs_that_have_ended_are_not_mixed_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Head]);
    let results = run(&session);
    session.resume = true;
    session.methods = vec![Method::Head, Method::Lora];
    let before = tree(&dir.path().join("out"));
    write_data(dir.path(), "phrase");
    assert_says(&refusal(&session), &["out/session.json", "its data is"]);
    write_data(dir.path(), "sentence");

    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-roberta");
    for name in names(&assets) {
        std::fs::copy(assets.join(&name), model.join(&name)).unwrap();
    }
    let files = std::mem::replace(&mut session.files, ModelFiles::open(&model).unwrap());
    let weights = std::fs::read(model.join("model.safetensors")).unwrap();
    let mut other = weights.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(model.join("model.safetensors"), other).unwrap();
    assert_says(&refusal(&session), &["session.json", "its base model is"]);
    // The middle of a tensor, where no sample is taken.
    let mut other = weights.clone();
    other[weights.len() / 2] ^= 1;
    std::fs::write(model.join("model.safetensors"), other).unwrap();
    assert_says(
        &refusal(&session),
        &["session.json", "its model's files is"],
    );
    std::fs::write(model.join("model.safetensors"), weights).unwrap();
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let other = config.replace("0.00001", "0.01");
    assert_ne!(other, config);
    std::fs::write(model.join("config.json"), other).unwrap();
    assert_says(&refusal(&session), &["its model's config.json is"]);
    std::fs::write(model.join("config.json"), config).unwrap();

    assert!(
        tree(&dir.path().join("out")) == before,
        "nothing is touched"
    );
    // The same model in another place is the same model.
    assert_eq!(run(&session).runs[0], results.runs[0]);
    session.files = files;
    assert_eq!(run(&session).runs.len(), 2);
}

#[test]
fn a_command_with_control_characters_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Head]);
    session.command = "a\u{1b}[2J\r\u{7f}\ntest".into();
    let results = run(&session);
    let config = std::fs::read_to_string(dir.path().join("out/config.toml")).unwrap();
    assert!(config.starts_with("# command: a\\u{1b}[2J"), "{config}");
    session.resume = true;
    assert_eq!(run(&session).runs, results.runs);
}

#[test]
fn results_keep_what_has_ended_when_a_method_is_added_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Lora]);
    run(&session);
    session.methods = vec![Method::Head, Method::Lora];
    session.resume = true;
    let results = run(&session);
    let out = dir.path().join("out");
    let read = || Results::read(out.join("results.json")).unwrap();
    assert_eq!(read(), results);
    let methods: Vec<_> = results.runs.iter().map(|run| run.method.as_str()).collect();
    assert_eq!(methods, ["head", "lora"]);
    let table = std::fs::read_to_string(out.join("table.md")).unwrap();
    assert_says(&table, &["| head", "| lora"]);
    // A process that was killed after results.json has left an older table.
    for file in ["table.md", "curves.svg"] {
        std::fs::write(out.join(file), "stale").unwrap();
    }
    run(&session);
    assert_eq!(
        std::fs::read_to_string(out.join("table.md")).unwrap(),
        table
    );
    assert_ne!(std::fs::read(out.join("curves.svg")).unwrap(), b"stale");
    // A repeated run shows that no session wrote the file.
    let mut forged = read();
    forged.runs.push(forged.runs[0].clone());
    forged.write(out.join("results.json")).unwrap();
    assert_says(&refusal(&session), &["head seed 1 2 times"]);
    forged.runs[2].seed = 9;
    forged.write(out.join("results.json")).unwrap();
    assert_says(&refusal(&session), &["list of seeds", "9"]);
    session.methods = vec![Method::Head, Method::Lora, Method::Head];
    assert_says(&refusal(&session), &["head twice"]);
}

#[test]
fn overwriting_removes_all_of_the_older_session_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut first = session(dir.path(), &[Method::Lora, Method::VbLora]);
    first.record_every = Some(1);
    run(&first);
    let others = [
        "checkpoints/theirs/model.bin",
        "selections/mine.txt",
        "mine/notes.txt",
    ];
    for file in others {
        std::fs::create_dir_all(out.join(file).parent().unwrap()).unwrap();
        std::fs::write(out.join(file), "mine").unwrap();
    }
    std::fs::write(out.join(".tmpAbC123"), "of a killed process").unwrap();
    let mut second = session(dir.path(), &[Method::Head]);
    second.recipe.lr.head = 0.125;
    second.overwrite = true;

    // A user's file in a folder that is removed.
    std::fs::write(out.join("lora-seed1/notes.txt"), "mine").unwrap();
    let before = tree(&out);
    assert_says(
        &refusal(&second),
        &["out/lora-seed1/notes.txt", "in the way"],
    );
    assert!(tree(&out) == before, "nothing is removed");
    std::fs::remove_file(out.join("lora-seed1/notes.txt")).unwrap();

    run(&second);
    let expected = [
        "checkpoints",
        "config.toml",
        "curves.svg",
        "head-seed1",
        "log.jsonl",
        "mine",
        "results.json",
        "selections",
        "session.json",
        "table.md",
    ];
    assert_eq!(names(&out), expected);
    assert_eq!(names(&out.join("checkpoints")), ["head-seed1", "theirs"]);
    assert_eq!(names(&out.join("selections")), ["mine.txt"]);
    assert!(
        others
            .iter()
            .all(|file| std::fs::read(out.join(file)).unwrap() == b"mine")
    );
}

#[test]
fn what_no_session_made_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut session = session(dir.path(), &[Method::Lora]);
    session.overwrite = true;
    for (file, text) in [
        ("config.toml", "other = \"program\""),
        ("lora-seed7/adapter_config.json", "{}"),
        ("log.jsonl", "theirs"),
        ("checkpoints/lora-seed1/step-00000003/state.json", "{}"),
    ] {
        std::fs::create_dir_all(out.join(file).parent().unwrap()).unwrap();
        std::fs::write(out.join(file), text).unwrap();
        std::fs::write(out.join(".tmpAbC123"), "theirs").unwrap();
        let before = tree(&out);
        assert_says(&refusal(&session), &["out/", "in the way", "--overwrite"]);
        assert!(tree(&out) == before, "{file}");
        std::fs::remove_dir_all(&out).unwrap();
    }
    // A directory of an earlier version is known by its recipe.
    run(&session);
    std::fs::remove_file(out.join("session.json")).unwrap();
    run(&session);
}

#[test]
fn what_is_left_of_a_session_without_its_configuration_is_not_mixed_with_another() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut session = session(dir.path(), &[Method::Lora]);
    run(&session);
    for file in [
        "config.toml",
        "results.json",
        "log.jsonl",
        "table.md",
        "curves.svg",
    ] {
        std::fs::remove_file(out.join(file)).unwrap();
    }
    session.recipe.lr.adapter = 0.5;
    let before = tree(&out);
    for resume in [false, true] {
        session.resume = resume;
        assert_says(
            &refusal(&session),
            &["already holds a run", "give --overwrite"],
        );
        assert!(tree(&out) == before);
    }
    (session.overwrite, session.resume) = (true, false);
    let whole = run(&session);
    cut_back(dir.path(), "lora-seed1");
    (session.overwrite, session.resume) = (false, true);
    assert_eq!(run(&session).runs[0].epochs, whole.runs[0].epochs);
}

#[cfg(unix)]
#[test]
fn links_below_the_directory_are_refused_before_anything_is_written() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut session = session(dir.path(), &[Method::Head, Method::VbLora]);
    session.record_every = Some(1);
    std::fs::create_dir_all(at("victim")).unwrap();
    std::fs::write(at("victim/adapter_config.json"), "mine").unwrap();
    for link in [
        "vblora-seed1",
        "selections",
        "checkpoints",
        "log.jsonl",
        "session.lock",
        "session.json",
    ] {
        std::fs::create_dir_all(at("out")).unwrap();
        symlink(at("victim"), at("out").join(link)).unwrap();
        for (overwrite, resume) in [(false, false), (false, true), (true, false)] {
            (session.overwrite, session.resume) = (overwrite, resume);
            assert_says(&refusal(&session), &[link, "symbolic link"]);
        }
        assert_eq!(names(&at("out")), [link]);
        assert_eq!(names(&at("victim")), ["adapter_config.json"]);
        std::fs::remove_dir_all(at("out")).unwrap();
    }
    // The directory itself may be a link.
    std::fs::create_dir(at("elsewhere")).unwrap();
    symlink(at("elsewhere"), at("out")).unwrap();
    (session.overwrite, session.resume) = (false, true);
    let whole = run(&session);
    // A moved and linked checkpoint, or folder of checkpoints, is refused before the first run continues.
    cut_back(dir.path(), "vblora-seed1");
    for place in [set(dir.path(), "vblora-seed1", 3), at("out/checkpoints")] {
        std::fs::rename(&place, at("moved")).unwrap();
        symlink(at("moved"), &place).unwrap();
        let before = (tree(&at("elsewhere")), tree(&at("moved")));
        let name = place.file_name().unwrap().to_str().unwrap();
        assert_says(&refusal(&session), &[name, "symbolic link"]);
        assert!(before == (tree(&at("elsewhere")), tree(&at("moved"))));
        std::fs::remove_file(&place).unwrap();
        std::fs::rename(at("moved"), &place).unwrap();
    }
    for (run, whole) in run(&session).runs.iter().zip(&whole.runs) {
        assert_eq!(run.epochs, whole.epochs);
    }
}

#[test]
fn a_run_goes_on_from_no_other_runs_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Lora]);
    session.recipe.seeds = vec![1, 2];
    let whole = run(&session);
    let out = dir.path().join("out");
    let mut results = Results::read(out.join("results.json")).unwrap();
    results.runs.truncate(1);
    results.write(out.join("results.json")).unwrap();
    let (own, moved) = (set(dir.path(), "lora-seed2", 3), dir.path().join("own"));
    std::fs::remove_dir_all(set(dir.path(), "lora-seed2", 4)).unwrap();
    std::fs::rename(&own, &moved).unwrap();
    FileSet::read(&set(dir.path(), "lora-seed1", 3))
        .unwrap()
        .write(&own)
        .unwrap();
    session.resume = true;
    let message = refusal(&session);
    assert_says(
        &message,
        &["lora-seed2/step-00000003", "lora seed 1", "lora seed 2"],
    );
    std::fs::remove_dir_all(&own).unwrap();
    std::fs::rename(&moved, &own).unwrap();
    for (run, whole) in run(&session).runs.iter().zip(&whole.runs) {
        assert_eq!((run.seed, &run.epochs), (whole.seed, &whole.epochs));
    }
}

/// Only what results, log or checkpoints know is a run's folder; one that is known is cleared where its run begins again.
#[test]
fn a_resumed_session_writes_into_no_folder_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let whole = run(&session(dir.path(), &[Method::Lora]));
    let mut session = session(dir.path(), &[Method::Lora, Method::Head]);
    session.resume = true;
    let out = dir.path().join("out");
    let theirs = out.join("head-seed1");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join("head.safetensors"), "mine").unwrap();
    let before = tree(&out);
    assert_says(&refusal(&session), &["head-seed1", "move it elsewhere"]);
    let unlocked = |tree: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        let is_lock = |path: &Path| path.ends_with("session.lock");
        tree.into_iter()
            .filter(|(path, _)| !is_lock(path))
            .collect()
    };
    assert_eq!(unlocked(tree(&out)), unlocked(before));
    std::fs::remove_dir_all(&theirs).unwrap();
    // Empty, it is as good as none.
    std::fs::create_dir(&theirs).unwrap();
    assert_eq!(run(&session).runs[0].epochs, whole.runs[0].epochs);

    // Killed before its first checkpoint, behind the first save.
    let adapter = out.join("lora-seed1");
    let saved = std::fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    for file in ["results.json", "table.md", "curves.svg"] {
        std::fs::remove_file(out.join(file)).unwrap();
    }
    std::fs::remove_dir_all(out.join("checkpoints/lora-seed1")).unwrap();
    for file in ["notes.txt", "codes.safetensors"] {
        std::fs::write(adapter.join(file), "older").unwrap();
    }
    let again = run(&session);
    assert_eq!(again.runs[0].epochs, whole.runs[0].epochs);
    let found = std::fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    assert!(found == saved && adapter.join("notes.txt").exists());
    assert!(!adapter.join("codes.safetensors").exists());
}

/// Its checkpoints, log and identity do not say at which step an evaluation was, nor what made the session.
#[test]
fn a_session_of_an_earlier_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Lora]);
    let whole = run(&session);
    let out = dir.path().join("out");
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    cut_back(dir.path(), "lora-seed1");
    let place = set(dir.path(), "lora-seed1", 3);
    let mut set = FileSet::read(&place).unwrap();
    let state = String::from_utf8(set.take("state.json").unwrap()).unwrap();
    let lines = state.lines().filter(|line| !line.contains("\"step\": "));
    let earlier = lines.collect::<Vec<_>>().join("\n");
    assert!(earlier.len() < state.len(), "{state}");
    set.insert("state.json", earlier.into_bytes()).unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    set.write(&place).unwrap();
    let is_epoch = |line: &&str| line.starts_with(r#"{"event":"epoch""#);
    let without = |line: &str| match is_epoch(&line) {
        true => line
            .replacen("\"step\":2,", "", 1)
            .replacen("\"step\":4,", "", 1),
        false => line.to_owned(),
    };
    let earlier: Vec<String> = log.lines().map(without).collect();
    std::fs::write(out.join("log.jsonl"), earlier.join("\n") + "\n").unwrap();
    let path = out.join("session.json");
    let identity = std::fs::read_to_string(&path).unwrap();
    let made = identity.find(",\n  \"made\"").unwrap();
    let identity = identity[..made].replacen("\"format\": 2", "\"format\": 1", 1) + "\n}\n";
    std::fs::write(&path, &identity).unwrap();

    session.resume = true;
    let again = run(&session);
    assert_eq!(again.runs[0].epochs, whole.runs[0].epochs);
    assert_eq!(again.runs[0].best, whole.runs[0].best);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        identity,
        "it stays what it was"
    );
    let found = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let losses = |log: &str| -> Vec<String> {
        let losses = log.lines().filter(is_epoch).map(without);
        losses.collect()
    };
    assert_eq!(losses(&found), losses(&log));
    assert_eq!(found.lines().count(), log.lines().count());
    // Another interval is another recipe.
    session.recipe.evaluation.every = Some(1);
    assert_says(&refusal(&session), &["cannot be resumed", "evaluation"]);
}

/// An inconsistent checkpoint is skipped, and replaced when the run reaches its step again.
#[test]
fn forged_states_are_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session(dir.path(), &[Method::Lora]);
    let whole = run(&session);
    session.resume = true;
    let forgeries = [
        ("\"optimizer_steps\": 3", "\"optimizer_steps\": -3"),
        ("\"optimizer_steps\": 3", "\"optimizer_steps\": 2147483647"),
        ("\"optimizer_steps\": 3", "\"optimizer_steps\": 0"),
        ("\"epoch\": 1,", "\"epoch\": 7,"),
    ];
    for (there, forged) in forgeries {
        cut_back(dir.path(), "lora-seed1");
        let place = set(dir.path(), "lora-seed1", 3);
        forge(&place, &place, there, forged);
        assert_eq!(
            run(&session).runs[0].epochs,
            whole.runs[0].epochs,
            "{forged}"
        );
        let state = std::fs::read_to_string(place.join("state.json")).unwrap();
        assert!(!state.contains(forged), "replaced");
    }
    // Beyond the last step.
    cut_back(dir.path(), "lora-seed1");
    let from = set(dir.path(), "lora-seed1", 3);
    let to = set(dir.path(), "lora-seed1", 5);
    forge(&from, &to, "\"steps\": 3", "\"steps\": 5");
    let again = run(&session);
    assert_eq!(
        (again.runs[0].steps, &again.runs[0].epochs),
        (4, &whole.runs[0].epochs)
    );
}

/// Writes a checkpoint with valid checksums and an inconsistent state.
fn forge(from: &Path, to: &Path, there: &str, forged: &str) {
    let mut set = FileSet::read(from).unwrap();
    let state = String::from_utf8(set.take("state.json").unwrap()).unwrap();
    assert!(state.contains(there), "{state}");
    set.insert("state.json", state.replace(there, forged).into_bytes())
        .unwrap();
    if from == to {
        std::fs::remove_dir_all(to).unwrap();
    }
    set.write(to).unwrap();
}
