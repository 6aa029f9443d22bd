//! `vblora evaluate e2e`: scores outputs with the metrics of the E2E NLG challenge.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    evaluate::e2e::{read_outputs, read_references},
    metrics::bleu,
    program::say,
    terminal::visible,
};

/// Score texts against references with the metrics of the E2E NLG challenge
///
/// The scores are those of e2e-metrics.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora evaluate e2e --refs references.txt --outputs outputs.txt
vblora evaluate e2e --refs references.txt --outputs system-a.txt system-b.txt")]
pub(super) struct Arguments {
    /// File of references, with an empty line between instances
    #[arg(long, value_name = "FILE")]
    refs: PathBuf,
    /// File of outputs, one a line
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    outputs: Vec<PathBuf>,
}

/// Prints a table with a line for each file of outputs.
///
/// # Errors
/// A file cannot be read; the numbers of references and outputs differ.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let references = read_references(&arguments.refs)?;
    let mut lines = vec!["File\tBLEU".to_owned()];
    for path in &arguments.outputs {
        let outputs = read_outputs(path)?;
        ensure!(
            outputs.len() == references.len(),
            "{}: {} outputs, expected {}, the number of instances in {}",
            path.display(),
            outputs.len(),
            references.len(),
            arguments.refs.display()
        );
        let corpus = outputs.iter().zip(&references);
        let score = bleu(corpus.map(|(output, of)| (output.as_str(), of.as_slice())));
        let name = path.display().to_string();
        lines.push(format!("{}\t{score:.4}", visible(&name)));
    }
    say(lines.join("\n"));
    Ok(())
}
