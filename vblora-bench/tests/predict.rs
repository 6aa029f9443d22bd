//! `vblora predict` and `vblora evaluate` on a run of the bundled model, as a shell user sees them.
#![allow(missing_docs)]
#![cfg(feature = "flex")]

mod families;
mod shell;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use burn::backend::Flex;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use vblora::storage::peft::{PeftAdapter, PeftDirectory};
use vblora_bench::{
    demo,
    results::Results,
    tasks::{Label, SplitName},
};

use vblora_models::{
    Encoder, EncoderConfig, Family, HostTensor, ModelFiles, SaveDtype, encoder, save_model,
    save_tensors,
};

const SHARED: &str = "--model bundled:roberta --adapter run/vblora-seed1";

/// Exit status, standard output, standard error.
fn vblora(dir: &Path, arguments: &str, input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vblora"))
        .current_dir(dir)
        .args(shlex::split(arguments).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no input may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    shell::seen(child.wait_with_output().unwrap())
}

#[track_caller]
fn succeed(dir: &Path, arguments: &str, input: &str) -> String {
    let (status, out, error) = vblora(dir, arguments, input);
    assert_eq!(status, 0, "{arguments}: {error}");
    out
}

#[track_caller]
fn fail(dir: &Path, arguments: &str, words: &[&str]) {
    let (status, out, error) = vblora(dir, arguments, "");
    assert_eq!((status, out.as_str()), (1, ""), "{arguments}: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} in {error}");
    }
}

/// Rows of the bundled sentences with three classes, and the same rows as JSON lines in the other order.
fn data(dir: &Path) {
    for (name, rows) in [(SplitName::Train, 96), (SplitName::Dev, 40)] {
        let examples = demo::split(name).unwrap().examples;
        let class = |label: &Label, words: usize| match label {
            Label::Class(0) => "wrong",
            _ if words < 6 => "short, right",
            _ => "long, right",
        };
        let rows: Vec<(&str, &str)> = examples[..rows]
            .iter()
            .map(|row| (row.a.as_str(), class(&row.label, row.a.split(' ').count())))
            .collect();
        let mut csv = csv::Writer::from_path(dir.join(format!("{}.csv", name.name()))).unwrap();
        csv.write_record(["stars", "id", "review"]).unwrap();
        let mut lines = String::new();
        for (id, (text, class)) in rows.iter().enumerate() {
            csv.write_record([class, &*id.to_string(), text]).unwrap();
            let line = serde_json::json!({"review": text});
            lines.insert_str(0, &format!("{line}\n"));
        }
        csv.flush().unwrap();
        std::fs::write(dir.join(format!("{}.jsonl", name.name())), lines).unwrap();
    }
}

#[test]
fn a_trained_head_predicts_and_is_evaluated_as_in_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    data(dir);
    succeed(
        dir,
        "train --model bundled:roberta --data train.csv --dev dev.csv --text review --label stars --method vblora --method head --method full \
         --seeds 1 --epochs 2 --class-weights balanced --out run --quiet",
        "",
    );
    evaluation_is_that_of_the_run(dir);
    predictions_keep_the_order_of_their_rows(dir);
    a_whole_model_needs_no_adapter(dir);
    a_cut_names_the_models_positions(dir);
    settings_that_disagree_are_refused(dir);
    what_does_not_fit_is_refused(dir);
}

/// The file of a run's adapter with this text replaced, while `check` runs.
fn replaced(dir: &Path, file: &str, [from, to]: [&str; 2], check: impl FnOnce()) {
    let path = dir.join("run/vblora-seed1").join(file);
    let before = std::fs::read_to_string(&path).unwrap();
    let after = before.replacen(from, to, 1);
    assert_ne!(before, after, "{from}");
    std::fs::write(&path, after).unwrap();
    check();
    std::fs::write(&path, before).unwrap();
}

/// The bundled model has positions for 64 tokens.
fn a_cut_names_the_models_positions(dir: &Path) {
    let text = format!("review\n{}\nShort.\n", "a long row ".repeat(60));
    let line = format!("predict {SHARED} --data - --text review");
    let (status, _, said) = vblora(dir, &line, &text);
    assert_eq!(status, 0, "{said}");
    let settings = std::fs::read_to_string(dir.join("run/vblora-seed1/classifier.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    let trained = settings["max_length"].as_u64().unwrap();
    assert!(trained <= 64, "{trained}");
    let note = format!("note: 1 of 2 rows were cut to {trained} tokens\n");
    assert!(said.contains(&note), "{said}");
    let key = format!("\"max_length\": {trained}");
    replaced(
        dir,
        "classifier.json",
        [&key, "\"max_length\": 500"],
        || {
            let (status, _, said) = vblora(dir, &line, &text);
            assert_eq!(status, 0, "{said}");
            let note = "note: 1 of 2 rows were cut to 64 tokens, for which the model has positions; the head's max_length is 500\n";
            assert!(said.contains(note), "{said}");
        },
    );
}

/// Labels stand in classifier.json and in transformers' config.json.
fn settings_that_disagree_are_refused(dir: &Path) {
    let line = format!("predict {SHARED} --data dev.csv");
    let places = [
        "run/vblora-seed1/config.json",
        "run/vblora-seed1/classifier.json",
    ];
    for (change, words) in [
        (["\"0\": \"", "\"0\": \"not "], ["id2label", "0: "]),
        (
            ["\"0\":", "\"3\": \"more\", \"0\":"],
            ["id2label", "4 labels"],
        ),
        (
            ["single_label_classification", "multi_label_classification"],
            ["problem_type", "single_label_classification"],
        ),
    ] {
        replaced(dir, "config.json", change, || {
            fail(dir, &line, &[&places[..], &words].concat());
        });
    }
    // A file without them says nothing.
    for change in [["\"id2label\"", "\"labels\""], ["problem_type", "problem"]] {
        replaced(dir, "config.json", change, || {
            succeed(dir, &line, "");
        });
    }
    for (to, found) in [
        ("-1", "found -1"),
        ("2", "found 2"),
        ("\"x\"", "found \"x\""),
    ] {
        let path = dir.join("run/vblora-seed1/classifier.json");
        let settings: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let key = format!("\"max_length\": {}", settings["max_length"]);
        let change = [&*key, &format!("\"max_length\": {to}")];
        replaced(dir, "classifier.json", change, || {
            let expected = "setting run/vblora-seed1/classifier.json: max_length: expected a whole number from 4 to";
            fail(dir, &line, &[expected, found]);
        });
    }
}

fn evaluation_is_that_of_the_run(dir: &Path) {
    let results = Results::read(dir.join("run/results.json")).unwrap();
    for run in &results.runs {
        let adapter = format!("run/{}-seed1", run.method);
        let base = match run.method.as_str() {
            "full" => adapter.as_str(),
            _ => "bundled:roberta",
        };
        let line = format!("evaluate --model {base} --adapter {adapter} --data dev.csv --json");
        let found: Value = serde_json::from_str(&succeed(dir, &line, "")).unwrap();
        let best = run.best.as_ref().unwrap();
        assert_eq!(
            found["scores"],
            serde_json::to_value(&best.metrics).unwrap(),
            "{}",
            run.method
        );
        assert_eq!(
            found["by_class"],
            serde_json::to_value(&run.by_class).unwrap()
        );
        assert_eq!(found["rows"], 40);
    }
    let table = succeed(dir, &format!("evaluate {SHARED} --data dev.csv"), "");
    let run = std::fs::read_to_string(dir.join("run/table.md")).unwrap();
    for text in [&table, &run] {
        assert!(text.contains("| short, right"), "{text}");
        assert!(text.contains("label / predicted"), "{text}");
    }
}

fn predictions_keep_the_order_of_their_rows(dir: &Path) {
    let line = format!("predict {SHARED} --data dev.csv --out out.csv");
    assert_eq!(succeed(dir, &line, ""), "");
    let csv = std::fs::read_to_string(dir.join("out.csv")).unwrap();
    assert_eq!(csv.lines().count(), 41);
    let header = csv.lines().next().unwrap();
    assert!(header.starts_with("label,"), "{header}");
    assert!(header.contains("\"probability_long, right\""), "{header}");
    let rows: Vec<Vec<String>> = csv::Reader::from_reader(csv.as_bytes())
        .records()
        .map(|row| row.unwrap().iter().map(ToOwned::to_owned).collect())
        .collect();
    for row in &rows {
        let all: f64 = row[1..].iter().map(|p| p.parse::<f64>().unwrap()).sum();
        assert!((all - 1.0).abs() < 1e-6, "{row:?}");
    }
    // From standard input to standard output.
    let text = std::fs::read_to_string(dir.join("dev.csv")).unwrap();
    let line = format!("predict {SHARED} --data - --text review");
    assert_eq!(succeed(dir, &line, &text), csv);
    // The other order in another form.
    let line = format!("predict {SHARED} --data dev.jsonl --format jsonl");
    let lines = succeed(dir, &line, "");
    let found: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found.len(), rows.len());
    for (found, row) in found.iter().rev().zip(&rows) {
        assert_eq!(found["label"], *row[0]);
        let probability = found["probabilities"]["wrong"].to_string();
        assert!(row[1..].contains(&probability), "{found} {row:?}");
    }
    // A table without rows.
    let empty = succeed(dir, &format!("predict {SHARED} --data -"), "review\n");
    assert_eq!(empty.trim_end(), header);
}

fn what_does_not_fit_is_refused(dir: &Path) {
    let predict = |rest: &str| format!("predict {SHARED} {rest}");
    std::fs::write(dir.join("other.csv"), "stars,review\nwrong,So.\nfine,No.\n").unwrap();
    fail(
        dir,
        &predict("--data dev.csv --text text"),
        &["dev.csv", "\"text\"", "review"],
    );
    fail(
        dir,
        &predict("--data dev.csv --text review --text-pair id"),
        &["--text-pair"],
    );
    fail(dir, &predict("--data none.csv"), &["none.csv"]);
    let swallows = "review\n\"So\nNo.\n\"So.\" he said\n";
    std::fs::write(dir.join("quote.csv"), swallows).unwrap();
    fail(
        dir,
        &predict("--data quote.csv"),
        &["quote.csv, line 2", "line 4"],
    );
    for (flag, found) in [
        ("--hold-out -1", "found -1"),
        ("--dev train.csv", "dev"),
        ("--labels 'wrong, x'", "a label of \"wrong\", \"x\", found"),
    ] {
        let train = "train --model bundled:roberta --data train.csv --text review --label stars";
        fail(dir, &format!("{train} {flag} --plan"), &[found]);
    }
    fail(
        dir,
        "train --model bundled:llama --data train.csv --held-out train.csv --format completion:review",
        &["--held-out", "train.csv"],
    );
    fail(dir, &predict("--data dev.csv --out out.txt"), &["out.txt"]);
    fail(
        dir,
        &predict("--data dev.csv --out out.csv --format jsonl"),
        &["--format"],
    );
    fail(
        dir,
        &format!("evaluate {SHARED} --data dev.csv --format csv"),
        &["--format"],
    );
    fail(
        dir,
        &predict("--data dev.csv --out dev.csv"),
        &["dev.csv", "--data"],
    );
    fail(
        dir,
        "predict --model bundled:roberta --adapter run --data dev.csv",
        &["run", "head"],
    );
    fail(
        dir,
        "predict --model bundled:roberta --adapter run/full-seed1 --data dev.csv",
        &["full-seed1", "was trained"],
    );
    fail(
        dir,
        "predict --model bundled:llama --adapter run/vblora-seed1 --data dev.csv",
        &["llama"],
    );
    fail(
        dir,
        &format!("evaluate {SHARED} --data other.csv"),
        &["other.csv, line 3", "fine"],
    );
    let classifier = dir.join("run/vblora-seed1/classifier.json");
    let text = std::fs::read_to_string(&classifier).unwrap();
    std::fs::write(
        &classifier,
        text.replace("\"wrong\"", "\"wrong\", \"else\""),
    )
    .unwrap();
    fail(
        dir,
        &predict("--data dev.csv"),
        &["4 outputs", "3 outputs", "vblora-seed1"],
    );
    std::fs::remove_file(dir.join("run/vblora-seed1/adapter_config.json")).unwrap();
    fail(dir, &predict("--data dev.csv"), &["adapter_config.json"]);
}

fn a_whole_model_needs_no_adapter(dir: &Path) {
    let full = "predict --model run/full-seed1 --data dev.csv";
    let named = format!("{full} --adapter run/full-seed1");
    assert_eq!(succeed(dir, full, ""), succeed(dir, &named, ""));
    let line = "merge bundled:roberta run/vblora-seed1 merged";
    let said = succeed(dir, line, "");
    assert!(said.contains("RobertaForSequenceClassification"), "{said}");
    let merged = succeed(dir, "predict --model merged --data dev.csv", "");
    let expected = succeed(dir, &format!("predict {SHARED} --data dev.csv"), "");
    // The bundled weights are in half precision, and so are the sums.
    let apart = apart(&merged, &expected);
    assert!(apart < 5e-3, "{apart}");
    // The adapter a second time.
    let line = "predict --model merged --adapter run/vblora-seed1 --data dev.csv";
    let (status, _, warned) = vblora(dir, line, "");
    assert_eq!(status, 0, "{warned}");
    let is_warned = |said: &str| {
        for word in ["run/vblora-seed1", "another base than merged"] {
            assert!(said.contains(word), "{word:?} in {said}");
        }
    };
    is_warned(&warned);
    let base = "merge bundled:roberta run/vblora-seed1 again";
    let (status, _, quiet) = vblora(dir, base, "");
    assert_eq!(status, 0, "{quiet}");
    assert!(!quiet.contains("another base"), "{quiet}");
    for line in [
        "merge merged run/vblora-seed1 twice",
        "merge merged run/vblora-seed1/compact.safetensors thrice --prefix roberta.",
    ] {
        let (status, _, warned) = vblora(dir, line, "");
        assert_eq!(status, 0, "{warned}");
        is_warned(&warned);
    }
    let line = "predict --model bundled:roberta --data dev.csv";
    fail(dir, line, &["--adapter", "bundled:roberta"]);
    fail(
        dir,
        "merge ./absent run/vblora-seed1 none",
        &["no such directory: ./absent"],
    );
}

/// Texts with a single `"`, which GLUE's files do not quote.
#[test]
fn an_adapter_of_a_glue_task_reads_its_form_without_quotes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n";
    let mut csv = "#1 String,#2 String,Quality\n".to_owned();
    let (mut pairs, mut sentences) = (header.to_owned(), String::new());
    for i in 0..12 {
        let class = i % 2;
        pairs += &format!("{class}\t{i}\t{i}\tHe said {i} .\t\" It is {i} .\n");
        sentences += &format!("x\t{class}\t\t\" It is {i} .\n");
        csv += &format!("He said {i} .,\"\"\" It is {i} .\",{class}\n");
    }
    let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    for (task, text) in [("mrpc", &pairs), ("demo", &sentences)] {
        std::fs::create_dir_all(dir.join("glue").join(task)).unwrap();
        put(&format!("glue/{task}/train.tsv"), text);
        put(&format!("glue/{task}/dev.tsv"), text);
        let line = format!(
            "train --model bundled:roberta --data glue --task {task} --method head --seeds 1 --epochs 1 --out {task} --quiet"
        );
        succeed(dir, &line, "");
    }
    put("test.tsv", &pairs.replace("Quality", "index"));
    put("demo-test.tsv", "index\tsentence\n0\t\" It is 1 .\n");
    put("dev.csv", &csv);
    let run = |command: &str, task: &str, data: &str| {
        format!("{command} --model bundled:roberta --adapter {task}/head-seed1 --data {data}")
    };
    let predict = |task: &str, data: &str| succeed(dir, &run("predict", task, data), "");
    let found = predict("mrpc", "glue/mrpc/dev.tsv");
    assert_eq!(found.lines().count(), 13, "{found}");
    assert_eq!(predict("mrpc", "test.tsv"), found);
    let found = predict("demo", "glue/demo/dev.tsv");
    assert_eq!(found.lines().count(), 13, "{found}");
    assert_eq!(predict("demo", "demo-test.tsv").lines().count(), 2);
    // A table of the task's columns has the same scores; one without them needs flags.
    let evaluate = |data: &str| succeed(dir, &run("evaluate", "mrpc", data), "");
    assert_eq!(evaluate("dev.csv"), evaluate("glue/mrpc/dev.tsv"));
    fail(
        dir,
        &run("evaluate", "demo", "dev.csv"),
        &["dev.csv: expected --text and --label", ".tsv", "task demo"],
    );
    let line = run("evaluate", "demo", "dev.csv") + " --text '#2 String' --label Quality";
    assert!(succeed(dir, &line, "").contains("12 rows"));
}

/// The largest difference of the probabilities in two files.
fn apart(one: &str, other: &str) -> f64 {
    let values = |text: &str| -> Vec<f64> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows = reader.records().map(Result::unwrap);
        rows.flat_map(|row| {
            let cells = row.iter().skip(1).map(|cell| cell.parse().unwrap());
            cells.collect::<Vec<f64>>()
        })
        .collect()
    };
    let (one, other) = (values(one), values(other));
    assert_eq!(one.len(), other.len());
    let pairs = one.iter().zip(&other);
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

type Named = Vec<(String, HostTensor)>;

/// The bundled encoder as a BERT, with further tensors.
fn bert(dir: &Path, more: Named) {
    let files = demo::model_files();
    let (base, _) = Encoder::<Flex>::load(&files, &Default::default()).unwrap();
    let tensors = [base.tensors(), more].concat();
    let settings = json!({"model_type": "bert", "architectures": ["BertModel"]});
    let settings = settings.as_object().unwrap().clone();
    std::fs::create_dir(dir).unwrap();
    save_model(dir, &files, settings, &tensors).unwrap();
}

/// The adapter of a run on the BERT `bert`, in the form of older versions, and in PEFT's own with the last map alone. The pooler of `pooled`
/// is then the head's first map.
fn other_forms(dir: &Path) {
    let config = EncoderConfig::from_files(&ModelFiles::open(&dir.join("bert")).unwrap()).unwrap();
    let run = dir.join("run/lora-seed1");
    let found = PeftDirectory::open(&run).unwrap();
    let found = found.bind(&encoder::sites(&config)).unwrap();
    assert_eq!(found.prefix, "bert.");
    let names = Family::Bert.classifier();
    let old = PeftAdapter::new(found.adapter.clone());
    old.write(&dir.join("old")).unwrap();
    let head: Named = found.saved.clone();
    let own = head
        .iter()
        .map(|(name, tensor)| (names.read(name), tensor.clone()));
    let own: Named = own.collect();
    save_tensors(&dir.join("old/head.safetensors"), &own, SaveDtype::F32).unwrap();
    let (pooler, last): (Named, Named) = head
        .into_iter()
        .partition(|(name, _)| name.contains("pooler"));
    let theirs = PeftAdapter {
        saved: last,
        modules_to_save: vec!["classifier".into(), "score".into()],
        ..found
    };
    theirs.write(&dir.join("theirs")).unwrap();
    for form in ["old", "theirs"] {
        for file in ["classifier.json", "config.json"] {
            std::fs::copy(run.join(file), dir.join(form).join(file)).unwrap();
        }
    }
    let bare = |(name, tensor): (String, HostTensor)| (name.replacen("bert.", "", 1), tensor);
    bert(&dir.join("pooled"), pooler.into_iter().map(bare).collect());
}

#[test]
fn a_berts_adapter_is_one_of_peft_and_older_forms_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    data(dir);
    bert(&dir.join("bert"), Vec::new());
    succeed(
        dir,
        "train --model bert --data train.csv --dev dev.csv --text review --label stars --method lora --seeds 1 --epochs 1 --out run --quiet",
        "",
    );
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let names = |name: &str| -> Vec<String> {
        let bytes = read(name);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.names().into_iter().map(Into::into).collect()
    };
    let config: Value =
        serde_json::from_slice(&read("run/lora-seed1/adapter_config.json")).unwrap();
    assert_eq!(config["modules_to_save"], json!(["pooler", "classifier"]));
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert!(!dir.join("run/lora-seed1/head.safetensors").exists());
    let found = names("run/lora-seed1/adapter_model.safetensors");
    for name in [
        "base_model.model.bert.pooler.dense.weight",
        "base_model.model.bert.pooler.dense.bias",
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight",
    ] {
        assert!(
            found.iter().any(|found| found == name),
            "{name} in {found:?}"
        );
    }
    other_forms(dir);
    let predict = |base: &str, adapter: &str| {
        format!("predict --model {base} --adapter {adapter} --data dev.csv")
    };
    let expected = succeed(dir, &predict("bert", "run/lora-seed1"), "");
    for (base, adapter) in [("bert", "old"), ("pooled", "theirs")] {
        assert_eq!(
            succeed(dir, &predict(base, adapter), ""),
            expected,
            "{adapter}"
        );
    }
    let missing = ["theirs", "bert.pooler.dense.weight", "in bert"];
    fail(dir, &predict("bert", "theirs"), &missing);
    for (adapter, place) in [
        ("run/lora-seed1", "modules_to_save"),
        ("old", "head.safetensors"),
    ] {
        let shown = succeed(dir, &format!("inspect {adapter}"), "");
        assert!(shown.contains(": bert.pooler.dense.weight ["), "{shown}");
        assert_eq!(shown.contains(" in head.safetensors: "), adapter == "old");
        let line = format!("convert {adapter} small --form compact");
        fail(dir, &line, &[place, "--without-modules"]);
    }
    for (base, adapter) in [
        ("bert", "run/lora-seed1"),
        ("bert", "old"),
        ("pooled", "theirs"),
    ] {
        let said = succeed(
            dir,
            &format!("merge {base} {adapter} merged --overwrite"),
            "",
        );
        assert!(said.contains("BertForSequenceClassification"), "{said}");
        let found = succeed(dir, "predict --model merged --data dev.csv", "");
        assert!(apart(&found, &expected) < 1e-5, "{adapter}");
        for name in names("merged/model.safetensors") {
            let is_of_model = name.starts_with("bert.") || name.starts_with("classifier.");
            assert!(is_of_model, "{name}");
        }
    }
    let config: Value = serde_json::from_slice(&read("merged/config.json")).unwrap();
    assert_eq!(
        config["architectures"],
        json!(["BertForSequenceClassification"])
    );
    assert_eq!(config["id2label"]["2"], "wrong");
}
