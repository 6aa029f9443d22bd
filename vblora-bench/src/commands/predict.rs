//! `vblora predict`: labels and probabilities for the rows of a file.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use vblora::storage::write_atomically;

use super::{
    apart::check_apart,
    classifier::{ClassifierArguments, Outputs},
};
use crate::{
    group::Job,
    predict::{Form, Rows, check, encode, open, outcomes, read},
    program::{complain, is_closed_pipe, listen},
    tasks::Task,
};

const EXAMPLES: &str = "\
vblora predict --model bundled:roberta --adapter run/vblora-seed1 --data new.csv --out labels.csv
vblora predict --model roberta-base --adapter run/vblora-seed1 --data new.jsonl > labels.csv";

const LONG: &str = "\
Predict labels and probabilities for the rows of a file

The rows keep their order. The file of predictions has a row for each of them: the label, and the probability of each class. A regression has the value.

mpirun -n 4 vblora predict shares the rows among four processes.

cat new.csv | vblora predict --model roberta-base --adapter run/vblora-seed1 --data - --text review > predictions.csv";

/// Predict labels and probabilities for the rows of a file
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, long_about = LONG)]
pub struct Arguments {
    #[command(flatten)]
    classifier: ClassifierArguments,
    /// File of predictions: .csv, .tsv or .jsonl; - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
}

/// Predicts, and writes the file as a whole or not at all. A signal ends the work without a file.
///
/// # Errors
/// Model, adapter and data do not fit together; a file cannot be read or written; the device does not work.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let job = arguments.classifier.job()?;
    let outcome = predict(arguments, &job);
    job.end(outcome)
}

fn predict(arguments: &Arguments, job: &Job) -> Result<ExitCode> {
    let Arguments { classifier, out } = arguments;
    let seat = classifier.seat(job)?;
    listen().context("cannot listen for Ctrl-C")?;
    let to_stdout = out == Path::new("-");
    classifier.check_format(to_stdout)?;
    let form = match to_stdout {
        true => classifier.form(),
        false => Form::of(out)?,
    };
    if !to_stdout {
        check_apart(&[("--out", out)], &[("--data", &classifier.data)])?;
    }
    let (files, found) = classifier.open()?;
    let task = &found.settings.task;
    check(task, form)?;
    let rows = read_rows(classifier, task)?;
    let outputs = match classifier.outputs(&files, &found, &rows, (job, seat))? {
        Outputs::All(outputs) => outputs,
        Outputs::Elsewhere => return Ok(ExitCode::SUCCESS),
        Outputs::Interrupted => return Ok(ExitCode::FAILURE),
    };
    let bytes = encode(task, &outcomes(task, &outputs), form)?;
    match to_stdout {
        true => print(&bytes)?,
        false => {
            write_atomically(out, &bytes)?;
            complain(format!("{} rows written to {}", rows.len(), out.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows: a GLUE task's TSV without quotes, if no flag names a column, and any other file as a table.
fn read_rows(classifier: &ClassifierArguments, task: &Task) -> Result<Rows> {
    if classifier.is_glue(task, None) {
        return Ok(Rows::of_glue(&classifier.data, task)?);
    }
    let columns = classifier.columns(task, None)?;
    let table = open(&classifier.data, classifier.stdin())?;
    Ok(read(&table, &columns.first, columns.second.as_deref())?)
}

/// A closed pipe is no error: `vblora predict .. | head`.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        done => done.context("cannot write standard output"),
    }
}
