//! `make-demo-task`: makes an acceptability task in CoLA's TSV form from BLiMP's minimal pairs.
//!
//! Every paradigm gives the same number of pairs. Both sentences of a pair go to the same split, and no sentence occurs twice. The
//! selection and the order of rows depend only on the seed and on each pair's own name.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use vblora_bench::program::say;

use crate::blimp::{self, Pair};
use crate::keyed_hash::{keyed_hash, shuffle_by};

/// Maximum bytes of BLiMP to bundle. The repository stays small and the task stays a sample.
const MAX_BYTES: usize = 1_000_000;

/// Make the bundled acceptability task (train.tsv, dev.tsv, README.md) from BLiMP
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// BLiMP as one table (tab-separated, gzipped or plain)
    #[arg(long)]
    blimp: PathBuf,
    /// Folder to write to
    #[arg(long, default_value = "vblora-bench/assets/demo")]
    out: PathBuf,
    /// Pairs of each paradigm in train.tsv
    #[arg(long, default_value_t = 50)]
    train_pairs: usize,
    /// Pairs of each paradigm in dev.tsv
    #[arg(long, default_value_t = 9)]
    dev_pairs: usize,
    /// Seed of the selection and of the order of rows
    #[arg(long, default_value_t = 20_240_515)]
    seed: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let pairs = blimp::read(&arguments.blimp)?;
    let splits = select(&pairs, arguments)?;
    let train = tsv(&splits.train, arguments.seed);
    let dev = tsv(&splits.dev, arguments.seed);
    ensure!(
        train.len() + dev.len() <= MAX_BYTES,
        "train.tsv and dev.tsv would take {} bytes together, at most {MAX_BYTES} are allowed: \
         ask for fewer pairs",
        train.len() + dev.len()
    );
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let source = sha256(blimp::text(&arguments.blimp)?.as_bytes());
    let readme = readme(arguments, &splits, &train, &dev, &source);
    for (name, text) in [
        ("train.tsv", &train),
        ("dev.tsv", &dev),
        ("README.md", &readme),
    ] {
        write(&arguments.out.join(name), text)?;
    }
    Ok(())
}

struct Splits<'a> {
    train: Vec<&'a Pair>,
    dev: Vec<&'a Pair>,
    /// Number of pairs that were skipped because one of their sentences was already used.
    dropped: usize,
}

/// Selects dev first, so that no choice made for train can change it.
fn select<'a>(pairs: &'a [Pair], arguments: &Arguments) -> Result<Splits<'a>> {
    let mut pool = Pool {
        seen: HashSet::new(),
        dropped: 0,
    };
    let mut queues: Vec<(&str, std::vec::IntoIter<&Pair>)> = blimp::by_paradigm(pairs)
        .into_iter()
        .map(|(paradigm, group)| (paradigm, drawn_order(group, arguments.seed)))
        .collect();
    let mut draw = |wanted: usize| -> Result<Vec<&'a Pair>> {
        let mut split = Vec::new();
        for (paradigm, queue) in &mut queues {
            let taken = pool.take(queue, wanted);
            ensure!(
                taken.len() == wanted,
                "paradigm {paradigm}: expected {wanted} pairs with new sentences, found {}",
                taken.len()
            );
            split.extend(taken);
        }
        Ok(split)
    };
    let dev = draw(arguments.dev_pairs)?;
    let train = draw(arguments.train_pairs)?;
    Ok(Splits {
        train,
        dev,
        dropped: pool.dropped,
    })
}

fn drawn_order(mut group: Vec<&Pair>, seed: u64) -> std::vec::IntoIter<&Pair> {
    group.sort_by_key(|pair| {
        let draw = keyed_hash(seed, &pair.paradigm, pair.number.into());
        (draw, pair.number)
    });
    group.into_iter()
}

/// The sentences already used, in lower case.
struct Pool {
    seen: HashSet<String>,
    dropped: usize,
}

impl Pool {
    fn take<'a>(
        &mut self,
        queue: &mut impl Iterator<Item = &'a Pair>,
        wanted: usize,
    ) -> Vec<&'a Pair> {
        let mut taken = Vec::with_capacity(wanted);
        while taken.len() < wanted {
            let Some(pair) = queue.next() else { break };
            if self.admits(pair) {
                taken.push(pair);
            } else {
                self.dropped += 1;
            }
        }
        taken
    }

    fn admits(&mut self, pair: &Pair) -> bool {
        let (good, bad) = (pair.good.to_lowercase(), pair.bad.to_lowercase());
        let new = good != bad && !self.seen.contains(&good) && !self.seen.contains(&bad);
        if new {
            self.seen.extend([good, bad]);
        }
        new
    }
}

/// CoLA's form: source, label, author's mark, sentence; without header and quotes.
fn tsv(pairs: &[&Pair], seed: u64) -> String {
    let mut rows: Vec<(&Pair, u64)> = pairs
        .iter()
        .flat_map(|&pair| [(pair, 1), (pair, 0)])
        .collect();
    shuffle_by(&mut rows, seed, |(pair, label)| {
        (&pair.paradigm, 2 * u64::from(pair.number) + label)
    });
    rows.iter().fold(String::new(), |mut text, (pair, label)| {
        let (mark, sentence) = match label {
            1 => ("", &pair.good),
            _ => ("*", &pair.bad),
        };
        writeln!(text, "{}\t{label}\t{mark}\t{sentence}", pair.paradigm)
            .expect("writing to a String cannot fail");
        text
    })
}

/// The sentences of a file in CoLA's form, in the file's order.
pub(crate) fn sentences(path: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            let sentence = line.split('\t').nth(3).with_context(|| {
                format!("{}, line {}: expected 4 columns", path.display(), index + 1)
            })?;
            Ok(sentence.to_owned())
        })
        .collect()
}

fn readme(
    arguments: &Arguments,
    splits: &Splits<'_>,
    train: &str,
    dev: &str,
    source: &str,
) -> String {
    let row = |name: &str, pairs: &[&Pair], text: &str| {
        let (sentences, bytes) = (2 * pairs.len(), text.len());
        format!(
            "| {name} | {} | {sentences} | {0} | {0} | {bytes} | `{1}` |",
            pairs.len(),
            sha256(text.as_bytes())
        )
    };
    let paradigms = blimp::by_paradigm(splits.dev.iter().copied()).len();
    README
        .replace("{train}", &row("train.tsv", &splits.train, train))
        .replace("{dev}", &row("dev.tsv", &splits.dev, dev))
        .replace("{paradigms}", &paradigms.to_string())
        .replace("{train_pairs}", &arguments.train_pairs.to_string())
        .replace("{dev_pairs}", &arguments.dev_pairs.to_string())
        .replace("{dropped}", &splits.dropped.to_string())
        .replace("{seed}", &arguments.seed.to_string())
        .replace("{source}", source)
}

const README: &str = include_str!("make_demo_task.md");

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    say(format!("{} bytes  {}", text.len(), path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn pair(paradigm: &str, number: u32, good: &str, bad: &str) -> Pair {
        Pair {
            paradigm: paradigm.into(),
            number,
            good: good.into(),
            bad: bad.into(),
        }
    }

    fn two_paradigms() -> Vec<Pair> {
        ["islands", "binding"]
            .iter()
            .flat_map(|name| {
                (0..20).map(move |n| {
                    pair(
                        name,
                        n,
                        &format!("{name} {n} good."),
                        &format!("{name} {n} bad."),
                    )
                })
            })
            .collect()
    }

    fn arguments(train_pairs: usize, dev_pairs: usize) -> Arguments {
        Arguments {
            blimp: PathBuf::new(),
            out: PathBuf::new(),
            train_pairs,
            dev_pairs,
            seed: 3,
        }
    }

    fn names(pairs: &[&Pair]) -> BTreeSet<(String, u32)> {
        pairs
            .iter()
            .map(|p| (p.paradigm.clone(), p.number))
            .collect()
    }

    #[test]
    fn splits_are_balanced_and_do_not_share_pairs() {
        let pairs = two_paradigms();
        let splits = select(&pairs, &arguments(12, 5)).unwrap();
        assert_eq!((splits.train.len(), splits.dev.len()), (24, 10));
        assert!(names(&splits.train).is_disjoint(&names(&splits.dev)));
        for group in blimp::by_paradigm(splits.dev.iter().copied()).values() {
            assert_eq!(group.len(), 5);
        }
    }

    #[test]
    fn selection_does_not_depend_on_the_order_of_the_file() {
        let pairs = two_paradigms();
        let reversed: Vec<Pair> = pairs.iter().rev().cloned().collect();
        let ask = arguments(6, 3);
        let (a, b) = (
            select(&pairs, &ask).unwrap(),
            select(&reversed, &ask).unwrap(),
        );
        assert_eq!(tsv(&a.train, 3), tsv(&b.train, 3));
        assert_eq!(tsv(&a.dev, 3), tsv(&b.dev, 3));
    }

    #[test]
    fn more_train_pairs_leave_dev_as_it_was() {
        let pairs = two_paradigms();
        let few = select(&pairs, &arguments(2, 3)).unwrap();
        let many = select(&pairs, &arguments(15, 3)).unwrap();
        assert_eq!(names(&few.dev), names(&many.dev));
    }

    #[test]
    fn a_pair_with_a_taken_sentence_is_dropped() {
        let pairs = [
            pair("a", 0, "The cat sleeps.", "The cat sleep."),
            pair("a", 1, "the cat sleeps.", "The cat slept it."),
            pair("a", 2, "The dog sleeps.", "The dog sleep."),
        ];
        let splits = select(&pairs, &arguments(1, 1)).unwrap();
        let taken: Vec<u32> = splits
            .train
            .iter()
            .chain(&splits.dev)
            .map(|p| p.number)
            .collect();
        assert!(!(taken.contains(&0) && taken.contains(&1)), "{taken:?}");
        let error = select(&pairs, &arguments(2, 1)).err().unwrap().to_string();
        assert_eq!(
            error,
            "paradigm a: expected 2 pairs with new sentences, found 1"
        );
    }

    #[test]
    fn rows_are_in_colas_form() {
        let only = pair("wh_island", 4, "Who left?", "Who did left?");
        let text = tsv(&[&only], 1);
        let rows: BTreeSet<&str> = text.lines().collect();
        let expected = [
            "wh_island\t1\t\tWho left?",
            "wh_island\t0\t*\tWho did left?",
        ];
        assert_eq!(rows, BTreeSet::from(expected));
    }

    #[test]
    fn a_row_without_a_sentence_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.tsv");
        fs::write(&path, "a\t1\t\tA sentence.\nonly\tthree\tcolumns\n").unwrap();
        let error = sentences(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("dev.tsv, line 2: expected 4 columns"),
            "{error}"
        );
    }

    #[test]
    fn the_bundled_task_keeps_its_promises() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vblora-bench/assets/demo");
        let read = |name| fs::read_to_string(folder.join(name)).unwrap();
        let (train, dev, readme) = (read("train.tsv"), read("dev.tsv"), read("README.md"));
        assert!(train.len() + dev.len() <= MAX_BYTES);
        let sentences = |text: &str| -> BTreeSet<String> {
            text.lines()
                .map(|l| l.split('\t').nth(3).unwrap().to_lowercase())
                .collect()
        };
        assert!(sentences(&train).is_disjoint(&sentences(&dev)));
        for text in [&train, &dev] {
            assert_eq!(
                sentences(text).len(),
                text.lines().count(),
                "a sentence occurs twice"
            );
            assert!(
                readme.contains(&sha256(text.as_bytes())),
                "README.md has another checksum"
            );
            let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for line in text.lines() {
                let fields: Vec<&str> = line.split('\t').collect();
                *counts.entry((fields[0], fields[1])).or_default() += 1;
            }
            assert_eq!(counts.len(), 2 * 67);
            assert_eq!(
                counts.values().collect::<BTreeSet<_>>().len(),
                1,
                "not balanced"
            );
        }
    }
}
