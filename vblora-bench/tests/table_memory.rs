//! The memory of a large table, alone in its process so that nothing else moves it.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

#[path = "../../vblora/tests/support/process.rs"]
mod process;

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use vblora_bench::{
    demo,
    tasks::{
        Columns, Task,
        own::{Dev, Given, Labelling, OwnData, scan},
    },
    train::{EncodedSplit, order},
};
use vblora_models::TextTokenizer;

/// The programs' allocator, which keeps what is freed: growing lists count as they do there.
#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

/// A table of rows of a hundred bytes.
fn table(dir: &Path, rows: usize) -> PathBuf {
    let words = ["great", "dull", "story", "actor", "music", "scene", "plot"];
    let path = dir.join(format!("{rows}.csv"));
    let mut text = BufWriter::new(File::create(&path).unwrap());
    writeln!(text, "review,stars").unwrap();
    for row in 0..rows {
        for place in 0..16 {
            let word = words[(row * 31 + place * (row % 13 + 1)) % words.len()];
            write!(text, "{word} ").unwrap();
        }
        writeln!(text, "end {row},{}", row % 5).unwrap();
    }
    text.flush().unwrap();
    path
}

/// Reads a table as training does, up to the batches of its first epoch. Returns their number.
fn batches(table: &Path, tokenizer: &TextTokenizer) -> usize {
    let (text, label) = ("review".to_owned(), "stars".to_owned());
    let given = Given {
        column: label.clone(),
        texts: vec![text.clone()],
        labelling: Labelling::Class,
        names: None,
    };
    let train = vec![table.to_owned()];
    let columns = Columns {
        first: text,
        second: None,
        label,
    };
    let task = Task::own("own", columns, scan(&train, &given).unwrap());
    let dev = Dev::HeldOut {
        share: 0.01,
        seed: 0,
    };
    let splits = OwnData { train, dev }.read(&task).unwrap();
    let split = EncodedSplit::of_stored(splits.train, tokenizer, 32).unwrap();
    let batches = order::grouped(split.len(), |row| split.length(row), 1, 1, 8);
    split.batch(&batches.iter().next().unwrap(), 1).unwrap();
    batches.len()
}

/// The variable that names the table which a process of this test reads.
const TABLE: &str = "VBLORA_TEST_TABLE";

/// The peak of a process that reads a table: this test, started once more.
fn peak(table: &Path) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .env(TABLE, table)
        .env("RAYON_NUM_THREADS", "1")
        .args(["--nocapture"]);
    let output = child.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let peak = said.lines().find_map(|line| line.strip_prefix("peak "));
    peak.unwrap().parse().unwrap()
}

/// The texts are most of it. Each row has some bytes more: the end of its text, its label, and its place in the epoch.
#[test]
#[expect(
    clippy::print_stdout,
    reason = "the process that reads a table says its peak"
)]
fn a_large_table_takes_at_most_a_fifth_more_memory_than_its_file() {
    if let Some(table) = std::env::var_os(TABLE) {
        let tokenizer = TextTokenizer::from_files(&demo::model_files()).unwrap();
        let count = batches(Path::new(&table), &tokenizer);
        println!("\nbatches {count}\npeak {}", process::peak());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [small, large] = [5_000, 400_000].map(|rows| {
        let table = table(dir.path(), rows);
        (
            peak(&table),
            std::fs::metadata(&table).unwrap().len() as usize,
        )
    });
    let (grown, more) = (large.0 - small.0, large.1 - small.1);
    assert!(
        grown * 10 <= more * 12,
        "{grown} bytes more for {more} bytes more of a table"
    );
}
