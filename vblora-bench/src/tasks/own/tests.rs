//! From files to examples: labels, their order, and what is refused.

use std::path::{Path, PathBuf};

use super::*;
use crate::tasks::{Columns, Label, Target, Task, Written, table::Table};
use crate::{Error, Result};

fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn given(labelling: Labelling) -> Given {
    Given {
        column: "y".into(),
        texts: vec!["x".into()],
        labelling,
        names: None,
    }
}

fn columns(second: Option<&str>) -> Columns<String> {
    Columns {
        first: "x".into(),
        second: second.map(Into::into),
        label: "y".into(),
    }
}

/// The labels and texts of a file, and the notes.
fn read(file: &Path, given: &Given) -> Result<(Task, Splits)> {
    let target = scan(&[file.to_owned()], given)?;
    let task = Task::own("t", columns(None), target);
    let name = file.file_name().unwrap().to_string_lossy();
    let dev = file.with_file_name(format!("dev-{name}"));
    std::fs::copy(file, &dev).unwrap();
    let own = OwnData {
        train: vec![file.to_owned()],
        dev: Dev::Files(vec![dev]),
    };
    let splits = own.read(&task)?;
    Ok((task, splits))
}

fn message(name: &str, text: &str, labelling: Labelling) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), name, text);
    let error = read(&file, &given(labelling)).unwrap_err().to_string();
    error.replace(&format!("{}/", dir.path().display()), "")
}

fn names(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "a.csv", text);
    let (task, _) = read(&file, &given(Labelling::Class)).unwrap();
    task.classes().to_vec()
}

#[test]
fn names_are_sorted_and_numbers_are_in_numeric_order() {
    assert_eq!(names("x,y\na,b\na,a\na,B\n"), ["B", "a", "b"]);
    assert_eq!(
        names("x,y\na,10\na,9\na,-1\na,2.5\n"),
        ["-1", "2.5", "9", "10"]
    );
    assert_eq!(names("x,y\na,10\na,9\na,nine\n"), ["10", "9", "nine"]);
    // Blanks at the ends are not part of a name.
    assert_eq!(names("x,y\na, b\na, b\na,c \n"), ["b", "c"]);
}

#[test]
fn labels_of_every_type_are_the_same_classes() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        put(dir.path(), "a.csv", "x,y\na,2\nb,1\nc,2\n"),
        put(
            dir.path(),
            "a.jsonl",
            "{\"x\":\"a\",\"y\":2}\n{\"x\":\"b\",\"y\":1}\n{\"x\":\"c\",\"y\":\"2\"}\n",
        ),
        put(
            dir.path(),
            "a.json",
            "[{\"x\":\"a\",\"y\":2},{\"x\":\"b\",\"y\":1},{\"y\":2,\"x\":\"c\"}]",
        ),
    ];
    let found = files.map(|file| read(&file, &given(Labelling::Class)).unwrap());
    for (task, splits) in &found {
        assert_eq!(task.classes(), ["1", "2"]);
        assert_eq!(splits.train.labels(), [1, 0, 1].map(Label::Class));
        assert_eq!(splits.train.sha256(), found[0].1.train.sha256());
        assert_eq!(splits.train.counts(2), [1, 2]);
    }
}

#[test]
fn listed_labels_keep_their_order_and_refuse_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "a.csv", "x,y\na,low\nb,high\n");
    let listed = |names: &[&str]| Given {
        names: Some(names.iter().map(ToString::to_string).collect()),
        ..given(Labelling::Class)
    };
    let (task, splits) = read(&file, &listed(&["low", "middle", "high"])).unwrap();
    assert_eq!(task.classes(), ["low", "middle", "high"]);
    assert_eq!(splits.train.labels(), [0, 2].map(Label::Class));
    assert_eq!(splits.notes[0], "class middle has no training row");
    assert!(
        splits.notes[1].ends_with(
            "dev-a.csv: 2 of 2 rows have a text that a training row has too, so scores on them say little"
        ),
        "{:?}",
        splits.notes
    );
    let error = read(&file, &listed(&["low", "middle"]))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("a.csv, line 3: expected a label of \"low\", \"middle\", found \"high\""),
        "{error}"
    );
}

#[test]
fn sets_are_lists_or_separated_text() {
    let dir = tempfile::tempdir().unwrap();
    let set = |separator: Option<&str>| Labelling::Set {
        separator: separator.map(Into::into),
    };
    let lists = put(
        dir.path(),
        "a.jsonl",
        "{\"x\":\"a\",\"y\":[\"p\",\"o\"]}\n{\"x\":\"b\",\"y\":[]}\n{\"x\":\"c\",\"y\":null}\n{\"x\":\"d\",\"y\":[\"q\",\"q\"]}\n",
    );
    let texts = put(dir.path(), "a.csv", "x,y\na,p;o\nb,\nc, ;\nd,q ; q\n");
    for (file, separator) in [(lists, None), (texts, Some(";"))] {
        let (task, splits) = read(&file, &given(set(separator))).unwrap();
        assert_eq!(task.classes(), ["o", "p", "q"]);
        let expected: [&[usize]; 4] = [&[0, 1], &[], &[], &[2]];
        assert_eq!(
            splits.train.labels(),
            expected.map(|set| Label::Classes(set.to_vec()))
        );
        assert!(splits.notes[0].ends_with("2 rows have no label; they count as rows of no class"));
    }
    let error = message("a.csv", "x,y\na,p;o\n", set(None));
    assert_eq!(
        error,
        "a.csv, line 2: expected a list of labels, or text and --label-separator, found \"p;o\""
    );
    let error = message("a.jsonl", "{\"x\":\"a\",\"y\":[[\"p\"]]}\n", set(None));
    assert!(error.contains("line 1: expected one label"), "{error}");
}

#[test]
fn wrong_labels_are_named_with_their_row() {
    for (labelling, text, expected) in [
        (
            Labelling::Class,
            "x,y\na,1\nb,\n",
            "a.csv, line 3: expected a label, found an empty text",
        ),
        (
            Labelling::Class,
            "x,y\na,1\nb,1\n",
            "a.csv, column \"y\": expected at least two different labels, found \"1\" in all 2 rows",
        ),
        (
            Labelling::Number,
            "x,y\na,1\nb,nan\n",
            "a.csv, line 3: expected a finite number, found \"nan\"",
        ),
        (
            Labelling::Number,
            "x,y\na,1e39\n",
            "a.csv, line 2: expected a number within \u{b1}3.4e38, found \"1e39\"",
        ),
        (
            Labelling::Number,
            "x,y\na,one\n",
            "a.csv, line 2: expected a finite number, found \"one\"",
        ),
        (
            Labelling::Number,
            "x,y\na,2\nb,2.0\n",
            "a.csv, column \"y\": expected at least two different labels, found 2 in all 2 rows",
        ),
        (
            Labelling::Class,
            "x,y\na,1\nb,NaN\n",
            "a.csv, line 3: expected a label, or --labels with one of this name, found \"NaN\"",
        ),
        (
            Labelling::Set {
                separator: Some(";".into()),
            },
            "x,y\na,p;q\nb,q ;p\n",
            "a.csv, column \"y\": expected at least two different labels, found \"p\", \"q\" in all 2 rows",
        ),
        (
            Labelling::Set {
                separator: Some(";".into()),
            },
            "x,y\na,\nb,\n",
            "a.csv, column \"y\": expected at least two different labels, found no label in all 2 rows",
        ),
        (
            Labelling::Number,
            "x,y\na,1700000000\nb,1700000059\n",
            "a.csv, line 3: expected numbers that single precision tells apart (subtract their mean, or scale them), \
             found 1700000059, which is 1700000000 there",
        ),
        (
            Labelling::Class,
            "x,y\n",
            "a.csv: the split is empty, expected at least one example",
        ),
        (
            Labelling::Class,
            "x,z\na,1\n",
            "a.csv: no column \"y\", found \"x\", \"z\"",
        ),
    ] {
        assert_eq!(message("a.csv", text, labelling), expected);
    }
    for null in ["nan", "None", "null", "NULL", "-inf"] {
        let text = format!("x,y\na,1\nb,{null}\n");
        let found = message("a.csv", &text, Labelling::Class);
        assert!(found.ends_with(&format!("found {null:?}")), "{found}");
    }
    let error = message("a.jsonl", "{\"x\":\"a\",\"y\":[1]}\n", Labelling::Class);
    assert!(error.contains("--multi-label"), "{error}");
    let error = message(
        "a.jsonl",
        "{\"x\":[1],\"y\":1}\n{\"x\":\"a\",\"y\":2}\n",
        Labelling::Class,
    );
    assert_eq!(
        error,
        "a.jsonl, line 1: expected a text, found the list [1]"
    );
}

#[test]
fn json_numbers_beyond_64_bits_are_refused_as_labels_and_texts_and_taken_as_numbers() {
    let rows = |x: &str, y: [&str; 2]| {
        format!(
            "{{\"x\":\"a\",\"y\":{}}}\n{{\"x\":{x},\"y\":{}}}\n",
            y[0], y[1]
        )
    };
    let large = "123456789012345678901";
    let found =
        "found a number of more than 64 bits, about 1.2345678901234568e20; quotes keep its digits";
    let labels = rows("1", ["1", large]);
    assert_eq!(
        message("a.jsonl", &labels, Labelling::Class),
        format!("a.jsonl, line 2: expected a label, {found}")
    );
    let lists = rows("1", ["[1]", &format!("[{large}]")]);
    let set = Labelling::Set { separator: None };
    assert_eq!(
        message("a.jsonl", &lists, set),
        format!("a.jsonl, line 2: expected a label, {found}")
    );
    let texts = rows(large, ["1", "2"]);
    assert_eq!(
        message("a.jsonl", &texts, Labelling::Class),
        format!("a.jsonl, line 2: expected a text, {found}")
    );
    let texts = rows("-9223372036854775809", ["1", "2"]);
    let error = message("a.jsonl", &texts, Labelling::Class);
    assert!(
        error.contains("line 2: expected a text, found a number"),
        "{error}"
    );
    let dir = tempfile::tempdir().unwrap();
    let largest = [u64::MAX.to_string(), i64::MIN.to_string()];
    let file = put(
        dir.path(),
        "a.jsonl",
        &rows(&largest[0], [&largest[0], &largest[1]]),
    );
    let (task, splits) = read(&file, &given(Labelling::Class)).unwrap();
    assert_eq!(task.classes(), [largest[1].as_str(), &largest[0]]);
    assert_eq!(splits.train.texts(1).0, largest[0]);
    let file = put(dir.path(), "b.jsonl", &rows("1", ["0.5", large]));
    let (_, splits) = read(&file, &given(Labelling::Number)).unwrap();
    assert_eq!(
        splits.train.labels()[1],
        Label::Value(large.parse::<f64>().unwrap() as f32)
    );
}

#[test]
fn labels_that_differ_by_blanks_at_their_ends_are_refused() {
    for (name, text, expected) in [
        (
            "a.csv",
            "x,y\na,b\na, b\na,c\n",
            "a.csv, line 3: expected one spelling of the label \"b\", found \" b\" after \"b\"",
        ),
        (
            "a.csv",
            "x,y\na, b\na,b \na,c\n",
            "a.csv, line 3: expected one spelling of the label \"b\", found \"b \" after \" b\"",
        ),
        (
            "a.jsonl",
            "{\"x\":\"a\",\"y\":\"b\"}\n{\"x\":\"a\",\"y\":\"b\\n\"}\n",
            "a.jsonl, line 2: expected one spelling of the label \"b\", found \"b\\n\" after \"b\"",
        ),
    ] {
        assert_eq!(message(name, text, Labelling::Class), expected);
    }
    let lists = "{\"x\":\"a\",\"y\":[\"b\",\"c\"]}\n{\"x\":\"a\",\"y\":[\" c\"]}\n";
    let set = Labelling::Set { separator: None };
    let error = message("a.jsonl", lists, set);
    assert!(error.ends_with("found \" c\" after \"c\""), "{error}");
}

#[test]
fn an_unknown_label_in_dev_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let train = put(dir.path(), "train.csv", "x,y\na,p\nb,q\n");
    let dev = put(dir.path(), "dev.csv", "x,y\na,p\nb,r\n");
    let target = scan(std::slice::from_ref(&train), &given(Labelling::Class)).unwrap();
    let task = Task::own("t", columns(None), target);
    let own = OwnData {
        train: vec![train],
        dev: Dev::Files(vec![dev]),
    };
    let error = own.read(&task).unwrap_err().to_string();
    assert!(
        error.ends_with("dev.csv, line 3: expected a label of \"p\", \"q\", found \"r\""),
        "{error}"
    );
}

#[test]
fn a_training_file_is_no_dev_file_and_two_rows_are_needed_to_hold_one_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "train.csv", "x,y\na,1\nb,2\n");
    let again = dir.path().join(".").join("train.csv");
    let error = |labelling, file: &PathBuf, dev| {
        let target = scan(std::slice::from_ref(file), &given(labelling)).unwrap();
        let task = Task::own("t", columns(None), target);
        let train = vec![file.clone()];
        let error = OwnData { train, dev }.read(&task).unwrap_err().to_string();
        error.replace(&format!("{}/", dir.path().display()), "")
    };
    let found = error(Labelling::Class, &file, Dev::Files(vec![again]));
    assert!(
        found.contains("dev: expected another file than the training file"),
        "{found}"
    );
    let held_out = || Dev::HeldOut {
        share: 0.5,
        seed: 0,
    };
    let found = error(Labelling::Class, &file, held_out());
    assert_eq!(
        found,
        "setting hold-out: expected a class with two rows, found one row of each class of train.csv"
    );
}

#[test]
fn labels_named_as_nothing_are_classes_where_they_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "a.csv", "x,y\na,None\nb,some\n");
    let given = Given {
        names: Some(["some", "None"].map(String::from).to_vec()),
        ..given(Labelling::Class)
    };
    let (_, splits) = read(&file, &given).unwrap();
    assert_eq!(splits.train.labels(), [1, 0].map(Label::Class));
}

#[test]
fn numbers_that_rounding_moves_by_little_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["x,y\na,1700000000\nb,1800000059\n", "x,y\na,0.1\nb,1e-60\n"] {
        let file = put(dir.path(), "a.csv", text);
        read(&file, &given(Labelling::Number)).unwrap();
    }
}

#[test]
fn empty_texts_are_kept_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(
        dir.path(),
        "a.jsonl",
        "{\"x\":\" a \",\"y\":1}\n{\"x\":null,\"y\":2}\n{\"x\":\" \",\"y\":2}\n",
    );
    let (_, splits) = read(&file, &given(Labelling::Class)).unwrap();
    let texts: Vec<_> = (0..3).map(|i| splits.train.texts(i).0.to_owned()).collect();
    assert_eq!(texts, [" a ", "", " "]);
    assert!(
        splits.notes[0].ends_with("2 rows have an empty text, the first at line 2; they are kept")
    );
}

#[test]
fn one_row_is_told_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "a.csv", "x,y\n,p\nb,\n");
    let separator = Some(";".into());
    let (_, splits) = read(&file, &given(Labelling::Set { separator })).unwrap();
    for (note, end) in splits.notes.iter().zip([
        "1 row has an empty text, at line 2; it is kept",
        "1 row has no label; it counts as a row of no class",
    ]) {
        assert!(note.ends_with(end), "{note}");
    }
}

#[test]
fn pairs_have_two_texts() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "a.csv", "x,z,y\na,b,1\nc,d,2\n");
    let target = scan(std::slice::from_ref(&file), &given(Labelling::Number)).unwrap();
    assert!(matches!(target, Target::Number { .. }));
    let task = Task::own("t", columns(Some("z")), target);
    let own = OwnData {
        train: vec![file],
        dev: Dev::HeldOut {
            share: 0.5,
            seed: 0,
        },
    };
    let Splits { train, dev, .. } = own.read(&task).unwrap();
    let mut all = [train.example(0), dev.example(0)];
    all.sort_by(|a, b| a.a.cmp(&b.a));
    assert_eq!(all[1].b.as_deref(), Some("d"));
    assert_eq!(
        all.map(|example| example.label),
        [1.0, 2.0].map(Label::Value)
    );
}

#[test]
fn a_directory_has_splits_or_shards() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let found = |dir: &Path| {
        let Files { train, dev, test } = find(dir).unwrap();
        [train, dev, test].map(|files| {
            let names = files
                .iter()
                .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned());
            names.collect::<Vec<_>>().join(" ")
        })
    };
    put(dir, "a/train.csv", "");
    put(dir, "a/validation.jsonl", "");
    put(dir, "a/notes.txt", "");
    assert_eq!(found(&dir.join("a")), ["train.csv", "validation.jsonl", ""]);
    for shard in [
        "train-00001-of-00002",
        "train-00000-of-00002",
        "test-00000-of-00001",
    ] {
        put(dir, &format!("hub/data/{shard}.parquet"), "");
    }
    put(dir, "hub/README.md", "");
    let trains = "train-00000-of-00002.parquet train-00001-of-00002.parquet";
    assert_eq!(
        found(&dir.join("hub")),
        [trains, "", "test-00000-of-00001.parquet"]
    );
    let error = |dir: &Path| find(dir).unwrap_err().to_string();
    put(dir, "b/train.csv", "");
    put(dir, "b/train.tsv", "");
    assert!(error(&dir.join("b")).contains("train.csv, train.tsv are all the train split"));
    for (folder, shards, expected) in [
        ("gap", ["0-of-3", "2-of-3"], "no train-00001-of-3"),
        (
            "other",
            ["0-of-1", "extra"],
            "train-extra beside train-00000-of-1",
        ),
        ("sizes", ["0-of-2", "1-of-3"], "train-00001-of-3 beside"),
        ("end", ["0-of-3", "1-of-3"], "no train-00002-of-3"),
    ] {
        for shard in shards {
            let number = if shard == "extra" { "" } else { "0000" };
            put(dir, &format!("{folder}/train-{number}{shard}.csv"), "");
        }
        let error = error(&dir.join(folder));
        assert!(error.contains(expected), "{error}\n{expected}");
    }
    put(dir, "names/train-a.csv", "");
    put(dir, "names/train-b.csv", "");
    assert_eq!(found(&dir.join("names"))[0], "train-a.csv train-b.csv");
    put(dir, "c/train.csv", "");
    put(dir, "c/dev.csv", "");
    put(dir, "c/val.csv", "");
    assert!(error(&dir.join("c")).contains("two development splits"));
    put(dir, "d/texts.csv", "");
    let none = error(&dir.join("d"));
    assert!(
        none.contains("expected train.EXT") && none.contains("texts.csv"),
        "{none}"
    );
    assert!(
        matches!(find(&dir.join("none")), Ok(Files { train, .. }) if train.len() == 1),
        "reading says it"
    );
    assert!(matches!(
        scan(&[dir.join("none.csv")], &given(Labelling::Class)),
        Err(Error::Io { .. })
    ));
}

#[test]
fn classes_that_files_write_as_ids_are_read_so_and_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "a.csv", "x,y\na,0\nb,1\nc,no\n");
    let labels = |names: [&str; 2]| {
        let target = Target::Classes {
            names: names.map(Into::into).into(),
            written: Written::Id,
        };
        let (reader, table) = (Reader::new(&target), Table::open(&file)?);
        let mut labels = Vec::new();
        table.read(&["x", "y"], &mut |row| {
            labels.push(reader.row(&table, &row)?.1);
            Ok(())
        })?;
        Ok::<_, Error>(labels)
    };
    assert_eq!(labels(["no", "yes"]).unwrap(), [0, 1, 0].map(Label::Class));
    let error = labels(["1", "0"]).unwrap_err().to_string();
    assert!(
        error.ends_with("line 4: expected a label of \"1\", \"0\", found \"no\""),
        "{error}"
    );
}
