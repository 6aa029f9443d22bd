//! `make-tiny-corpus`: makes the pretraining text of the bundled tiny RoBERTa.
//!
//! The sources have licences that allow shipping a derived model. They are BLiMP's acceptable sentences (CC BY 4.0) without the demo task's
//! dev split, and GSM8K's train split (MIT). GSM8K's test split stays unseen.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use vblora_bench::program::say;

use crate::blimp::{self, Pair};
use crate::keyed_hash::shuffle_by;
use crate::make_demo_task;
use vblora_bench::commands::progress::with_spinner;

/// The number of words of a line. Shorter lines are fragments such as bare sums, and longer ones do not fit the tiny model.
const WORDS: std::ops::RangeInclusive<usize> = 3..=40;

/// Words that end in a full stop without ending a sentence.
const ABBREVIATIONS: [&str; 14] = [
    "Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Jr.", "Sr.", "Prof.", "vs.", "No.", "a.m.", "p.m.",
    "A.M.", "P.M.",
];

/// Make the pretraining text of the tiny RoBERTa: one sentence per line, shuffled
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// BLiMP as one table (tab-separated, gzipped or plain)
    #[arg(long)]
    blimp: PathBuf,
    /// Folder that holds gsm8k/train.jsonl
    #[arg(long)]
    data: PathBuf,
    /// The demo task, whose dev sentences must not occur in the text
    #[arg(long, default_value = "vblora-bench/assets/demo")]
    demo: PathBuf,
    /// File to write
    #[arg(long)]
    out: PathBuf,
    /// Seed of the order of lines
    #[arg(long, default_value_t = 20_240_515)]
    seed: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dev = make_demo_task::sentences(&arguments.demo.join("dev.tsv"))?;
    let dev: HashSet<String> = dev.into_iter().collect();
    let corpus = with_spinner("reading and splitting", || -> Result<Corpus> {
        let pairs = blimp::read(&arguments.blimp)?;
        let problems = read_gsm8k(&arguments.data.join("gsm8k/train.jsonl"))?;
        let mut corpus = Corpus::new(&dev);
        corpus.add(
            "BLiMP, acceptable sentences",
            blimp_lines(&pairs, &corpus.held_out),
        );
        corpus.add(
            "GSM8K train, questions",
            split_all(problems.iter().map(|p| &p.question)),
        );
        corpus.add(
            "GSM8K train, answers",
            split_all(problems.iter().map(|p| &p.answer)),
        );
        Ok(corpus)
    })?;
    corpus.report();
    let shared = corpus
        .lines
        .iter()
        .filter(|line| dev.contains(*line))
        .count();
    say(format!(
        "{shared} lines equal to one of the {} dev sentences",
        dev.len()
    ));
    ensure!(shared == 0, "the text holds {shared} dev sentences");
    corpus.write(&arguments.out, arguments.seed)
}

/// The distinct lines so far, and the number from each source.
struct Corpus {
    held_out: HashSet<String>,
    seen: HashSet<String>,
    lines: Vec<String>,
    counts: Vec<Count>,
}

struct Count {
    source: &'static str,
    offered: usize,
    kept: usize,
}

impl Corpus {
    fn new(dev: &HashSet<String>) -> Self {
        Self {
            held_out: dev.iter().map(|sentence| sentence.to_lowercase()).collect(),
            seen: HashSet::new(),
            lines: Vec::new(),
            counts: Vec::new(),
        }
    }

    fn add(&mut self, source: &'static str, lines: Vec<String>) {
        let (offered, before) = (lines.len(), self.lines.len());
        for line in lines {
            let fits = has_words(&line) && WORDS.contains(&line.split(' ').count());
            let held_out = self.held_out.contains(&line.to_lowercase());
            if fits && !held_out && self.seen.insert(line.clone()) {
                self.lines.push(line);
            }
        }
        let kept = self.lines.len() - before;
        self.counts.push(Count {
            source,
            offered,
            kept,
        });
    }

    fn report(&self) {
        for Count {
            source,
            offered,
            kept,
        } in &self.counts
        {
            say(format!("{source}: {kept} lines kept of {offered}"));
        }
        let words: usize = self.lines.iter().map(|line| line.split(' ').count()).sum();
        say(format!("total: {} lines, {words} words", self.lines.len()));
    }

    fn write(mut self, out: &Path, seed: u64) -> Result<()> {
        shuffle_by(&mut self.lines, seed, |line| (line, 0));
        if let Some(folder) = out.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let text = self.lines.join("\n") + "\n";
        fs::write(out, &text).with_context(|| format!("cannot write {}", out.display()))?;
        say(format!("{} bytes  {}", text.len(), out.display()));
        Ok(())
    }
}

/// Leaves out a pair if its good *or* bad sentence is held out, because the counterpart of a dev sentence reveals its label.
fn blimp_lines(pairs: &[Pair], held_out: &HashSet<String>) -> Vec<String> {
    let is_held_out = |sentence: &str| held_out.contains(&sentence.to_lowercase());
    pairs
        .iter()
        .filter(|pair| !is_held_out(&pair.good) && !is_held_out(&pair.bad))
        .map(|pair| single_spaced(&pair.good))
        .collect()
}

#[derive(Deserialize)]
struct Problem {
    question: String,
    answer: String,
}

fn read_gsm8k(path: &Path) -> Result<Vec<Problem>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}, line {}", path.display(), index + 1))
        })
        .collect()
}

fn split_all<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<String> {
    texts.flat_map(|text| split_sentences(text)).collect()
}

/// The sentences of a text, without GSM8K's calculator annotations and final answer.
fn split_sentences(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("####"))
        .flat_map(|line| split_line(&single_spaced(&without_annotations(line))))
        .collect()
}

/// Splits a line after each word that ends a sentence, if the next word can begin one.
fn split_line(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    words
        .chunk_by(|word, next| !(ends_sentence(word) && may_begin_sentence(next)))
        .map(|sentence| sentence.join(" "))
        .collect()
}

fn ends_sentence(word: &str) -> bool {
    let bare = word.trim_end_matches(['"', '\'', ')', '”', '’']);
    let initial = bare.len() == 2 && bare.starts_with(char::is_uppercase);
    bare.ends_with(['.', '?', '!']) && !ABBREVIATIONS.contains(&bare) && !initial
}

fn may_begin_sentence(word: &str) -> bool {
    let bare = word.trim_start_matches(['"', '\'', '(', '$', '“', '‘']);
    bare.starts_with(|first: char| first.is_uppercase() || first.is_ascii_digit())
}

/// Removes every `<<48/2=24>>`. An annotation without an end reaches to the end of the line.
fn without_annotations(line: &str) -> String {
    let mut parts = line.split("<<");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once(">>").map_or("", |(_, after)| after));
    }
    text
}

/// Returns true if the line has enough words, without bare numbers and signs.
fn has_words(line: &str) -> bool {
    let word = |part: &&str| part.contains(char::is_alphabetic);
    line.split(' ').filter(word).count() >= *WORDS.start()
}

fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_and_final_answers_are_dropped() {
        let answer = "Natalia sold 48/2 = <<48/2=24>>24 clips.\nShe paid $<<1+1=2>>2.\n#### 72";
        assert_eq!(
            split_sentences(answer),
            ["Natalia sold 48/2 = 24 clips.", "She paid $2."]
        );
        assert_eq!(without_annotations("open <<1+1"), "open ");
    }

    #[test]
    fn sentences_are_cut_where_they_end() {
        let text = "Mr. Smith paid $1.50 at 5 p.m. on Monday. He left!  \"Why?\" asked J. Doe.";
        assert_eq!(
            split_sentences(text),
            [
                "Mr. Smith paid $1.50 at 5 p.m. on Monday.",
                "He left!",
                "\"Why?\" asked J. Doe."
            ]
        );
    }

    #[test]
    fn lines_too_short_too_long_known_or_held_out_are_left_out() {
        let dev = HashSet::from(["The cat has slept.".to_owned()]);
        let mut corpus = Corpus::new(&dev);
        let long = "word ".repeat(41).trim().to_owned();
        let lines = [
            "Too short.",
            "The CAT has slept.",
            "This one stays.",
            "This one stays.",
        ];
        let mut lines: Vec<String> = lines.map(str::to_owned).into();
        lines.extend([long, "20 - 5 = 15 books".to_owned()]);
        corpus.add("test", lines);
        assert_eq!(corpus.lines, ["This one stays."]);
        assert_eq!((corpus.counts[0].offered, corpus.counts[0].kept), (6, 1));
    }

    #[test]
    fn the_counterpart_of_a_dev_sentence_is_left_out() {
        let pair = |number: u32, good: &str, bad: &str| Pair {
            paradigm: "a".into(),
            number,
            good: good.into(),
            bad: bad.into(),
        };
        let pairs = [
            pair(0, "The cat sleeps.", "The cat sleep."),
            pair(1, "The dog sleeps.", "The dog sleep."),
        ];
        let held_out = HashSet::from(["the cat sleep.".to_owned()]);
        assert_eq!(blimp_lines(&pairs, &held_out), ["The dog sleeps."]);
    }

    #[test]
    fn a_broken_source_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        fs::write(
            &path,
            "{\"question\": \"Q?\", \"answer\": \"A.\"}\n{\"question\": 3}\n",
        )
        .unwrap();
        let error = format!("{:#}", read_gsm8k(&path).err().unwrap());
        assert!(error.contains("train.jsonl, line 2"), "{error}");
    }
}
