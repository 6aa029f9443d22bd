//! `vblora evaluate e2e`: scores outputs with the metrics of the E2E NLG challenge.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Map, Value, json};
use vblora::storage::write_atomically;

use super::{
    answers::{Found, WITH_MODEL},
    generated::GeneratedArguments,
};
use crate::{
    commands::apart::check_apart,
    evaluate::e2e::{Corpus, E2eScores, HOW_TO_GET_METEOR, JavaMetrics, References, Scored},
    program::{complain, say},
    terminal::visible,
};

const EXAMPLES: &str = "\
vblora evaluate e2e --refs references.txt --outputs outputs.txt
vblora evaluate e2e --refs testset_w_refs.csv --outputs a.txt b.tsv --java-metrics pycocoevalcap";

/// Score texts by BLEU, NIST, METEOR, ROUGE-L and CIDEr, as for the E2E NLG challenge
///
/// The scores are those of e2e-metrics (measure_scores.py). Text files hold one output a line, and an empty line between the references of
/// different instances. CSV and TSV files hold a meaning representation and a text in each row.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub(super) struct Arguments {
    /// File of references: text, .csv or .tsv
    #[arg(long, value_name = "FILE", requires = "outputs")]
    refs: Option<PathBuf>,
    /// Files of outputs, each the outputs of one system: text, .csv or .tsv
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        requires = "refs",
        required_unless_present_any = ["model", "score"],
        conflicts_with = "score",
        conflicts_with_all = WITH_MODEL
    )]
    outputs: Vec<PathBuf>,
    /// Folder with meteor-1.5.jar and data/paraphrase-en.gz for METEOR, such as that of the Python package pycocoevalcap
    ///
    /// With stanford-corenlp-3.4.1.jar in the folder, that program makes the tokens. METEOR needs Java.
    #[arg(long, value_name = "DIR")]
    java_metrics: Option<PathBuf>,
    /// Write the scores of each output to a TSV file; for one file of outputs
    #[arg(long, value_name = "FILE", requires = "outputs")]
    segments: Option<PathBuf>,
    /// Print one JSON object instead of the table, with all digits
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    generated: GeneratedArguments,
}

impl Arguments {
    /// Returns true if several processes share the work.
    pub(super) fn is_shared(&self) -> bool {
        self.generated.is_shared()
    }
}

/// The names of the scores in tables and JSON.
const COLUMNS: [&str; 5] = ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"];

/// Prints the scores of each file of outputs.
///
/// # Errors
/// A file cannot be read, or does not fit the references. A Java program fails. The file of segments cannot be written.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(refs) = &arguments.refs else {
        return generated(arguments);
    };
    ensure!(
        arguments.segments.is_none() || arguments.outputs.len() == 1,
        "--segments is for one file of outputs, found {}",
        arguments.outputs.len()
    );
    if let Some(segments) = &arguments.segments {
        let outputs = arguments.outputs.iter();
        let outputs = outputs.map(|path| ("--outputs", path.as_path()));
        let read: Vec<_> = outputs.chain([("--refs", refs.as_path())]).collect();
        check_apart(&[("--segments", segments)], &read)?;
    }
    let java = arguments
        .java_metrics
        .as_deref()
        .map(JavaMetrics::open)
        .transpose()?;
    let references = References::read(refs)?;
    // All files are read before the first is scored, so that a wrong one costs no time.
    let corpora = arguments
        .outputs
        .iter()
        .map(|path| references.with_outputs(path));
    let corpora: Vec<_> = corpora.collect::<Result<_, _>>()?;
    let mut scores = Vec::new();
    for corpus in &corpora {
        let scored = Scored::new(&corpus.outputs, &corpus.references, java.as_ref())?;
        scores.push(scored.scores());
        if let Some(path) = &arguments.segments {
            write_atomically(path, segments(corpus, &scored).as_bytes())?;
        }
    }
    if arguments.json {
        let systems = arguments.outputs.iter().zip(&corpora).zip(&scores);
        let systems = systems.map(|((path, corpus), scores)| system(path, corpus, scores));
        let all = json!({ "references": refs, "systems": systems.collect::<Vec<_>>() });
        say(serde_json::to_string_pretty(&all)?);
    } else {
        say(table(&arguments.outputs, &scores));
        if java.is_none() {
            complain(HOW_TO_GET_METEOR);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the scores of a model's texts, or of a file of answers.
fn generated(arguments: &Arguments) -> Result<ExitCode> {
    let java = arguments.java_metrics.as_deref();
    let found = match arguments.generated.run(java)? {
        Found::Scored(found) => found,
        Found::Elsewhere => return Ok(ExitCode::SUCCESS),
        Found::Interrupted => return Ok(ExitCode::FAILURE),
    };
    let file = arguments.generated.file();
    let values = found.scores.iter().map(|score| score.value);
    if arguments.json {
        let mut all = by_column(values);
        all.insert("file".into(), json!(file));
        all.insert("outputs".into(), found.answers.len().into());
        all.insert("subset".into(), json!(found.subset));
        say(serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    say([header(), row(file, values)].join("\n"));
    if let Some(subset) = &found.subset {
        say(format!("{subset}."));
    }
    if java.is_none() {
        complain(HOW_TO_GET_METEOR);
    }
    Ok(ExitCode::SUCCESS)
}

/// The table of `measure_scores.py -t -H`.
fn table(files: &[PathBuf], scores: &[E2eScores]) -> String {
    let rows = files.iter().zip(scores).map(|(file, scores)| {
        let values = scores.named().into_iter();
        row(file, values.map(|(_, value)| value))
    });
    let lines: Vec<String> = [header()].into_iter().chain(rows).collect();
    lines.join("\n")
}

fn header() -> String {
    format!("File\t{}", COLUMNS.join("\t"))
}

fn row(file: &Path, scores: impl Iterator<Item = Option<f64>>) -> String {
    let file = visible(&file.display().to_string()).into_owned();
    let cells: Vec<String> = [file].into_iter().chain(scores.map(digits)).collect();
    cells.join("\t")
}

fn by_column(scores: impl Iterator<Item = Option<f64>>) -> Map<String, Value> {
    let named = COLUMNS.iter().zip(scores);
    named
        .map(|(name, score)| ((*name).to_owned(), json!(score)))
        .collect()
}

/// Four digits after the point, or `-` for a metric without a score.
fn digits(score: Option<f64>) -> String {
    score.map_or_else(|| "-".to_owned(), |score| format!("{score:.4}"))
}

fn system(file: &Path, corpus: &Corpus, scores: &E2eScores) -> Value {
    let empty = corpus.outputs.iter().filter(|output| output.is_empty());
    json!({
        "file": file,
        "outputs": corpus.outputs.len(),
        "empty_outputs": empty.count(),
        "references": corpus.references.iter().map(Vec::len).sum::<usize>(),
        "BLEU": scores.text.bleu,
        "NIST": scores.text.nist,
        "METEOR": scores.meteor,
        "ROUGE_L": scores.text.rouge_l,
        "CIDEr": scores.text.cider,
    })
}

/// The file of `measure_scores.py -l`: a row for each output.
fn segments(corpus: &Corpus, scored: &Scored<'_>) -> String {
    let mut lines = vec!["src\tsys_out\tBLEU\tsentBLEU\tNIST\tMETEOR\tROUGE_L\tCIDEr".to_owned()];
    let texts = corpus.sources.iter().zip(&corpus.outputs);
    for ((source, output), scores) in texts.zip(scored.segments()) {
        let columns = [
            source.replace('\t', " "),
            output.replace('\t', " "),
            digits(Some(scores.bleu)),
            digits(Some(scores.smoothed_bleu)),
            digits(scores.nist),
            digits(scores.meteor),
            digits(Some(scores.rouge_l)),
            digits(Some(scores.cider)),
        ];
        lines.push(columns.join("\t"));
    }
    lines.push(String::new());
    lines.join("\n")
}
