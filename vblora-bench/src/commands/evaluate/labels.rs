//! `vblora evaluate --adapter .. --data ..`: scores a trained head on a file with labels.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde_json::json;

use crate::{
    commands::classifier::{ClassifierArguments, Outputs},
    group::Job,
    predict::{Rows, open, read_glue, read_labelled},
    program::{listen, say},
    report::{by_class_tables, scores_table},
    tasks::{Fields, Kind, Label, Task, evaluate, table::Format},
    train::predictions,
};

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, Args)]
#[group(id = "labels")]
pub(super) struct Arguments {
    #[command(flatten)]
    classifier: ClassifierArguments,
    /// Column of the label [default: the column of training]
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    label: Option<String>,
    /// Print the scores as JSON
    #[arg(long)]
    json: bool,
}

/// The flags of a line without a subcommand. A subcommand has its own, and then these are not required.
#[derive(Debug)]
pub(super) struct Unless(pub(super) Option<Arguments>);

impl Args for Unless {
    fn augment_args(command: Command) -> Command {
        Arguments::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Arguments::augment_args_for_update(command)
    }
}

impl FromArgMatches for Unless {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => Ok(Self(None)),
            None => Arguments::from_arg_matches(matches).map(|found| Self(Some(found))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Prints scores, the scores of each class, and the confusion matrix.
///
/// # Errors
/// Model, adapter and data do not fit together; a label is not one of training's; the device does not work.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let job = arguments.classifier.job()?;
    let outcome = score(arguments, &job);
    job.end(outcome)
}

fn score(arguments: &Arguments, job: &Job) -> Result<ExitCode> {
    let seat = arguments.classifier.seat(job)?;
    listen().context("cannot listen for Ctrl-C")?;
    let Arguments {
        classifier, json, ..
    } = arguments;
    classifier.check_format(false)?;
    let (files, found) = classifier.open()?;
    let task = &found.settings.task;
    let (rows, labels) = arguments.read(classifier, task)?;
    ensure!(
        !rows.is_empty(),
        "{}: expected at least one row, found none",
        classifier.data.display()
    );
    let outputs = match classifier.outputs(&files, &found, &rows, (job, seat))? {
        Outputs::All(outputs) => outputs,
        Outputs::Elsewhere => return Ok(ExitCode::SUCCESS),
        Outputs::Interrupted => return Ok(ExitCode::FAILURE),
    };
    let found = evaluate(task, &predictions(task, &outputs), &labels)?;
    if *json {
        let all = json!({
            "task": task.name(),
            "rows": rows.len(),
            "scores": found.scores,
            "by_class": found.by_class,
        });
        say(serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    say(format!("{} rows of task {task}\n", rows.len()));
    say(scores_table(&found.scores));
    if let Some(by_class) = &found.by_class {
        say(by_class_tables(by_class));
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// The rows and labels: in GLUE's form if training read that, no flag names a column and the file is no other kind of table, and as a
    /// table otherwise.
    fn read(&self, classifier: &ClassifierArguments, task: &Task) -> Result<(Rows, Vec<Label>)> {
        if self.label.is_none() && classifier.is_glue(task, Some(Format::Tsv)) {
            return Ok(read_glue(&classifier.data, task)?);
        }
        ensure!(
            classifier.text.is_some() || task.named().is_ok() || !task.is_known(),
            "{}: expected --text and --label with the columns of this table, or a .tsv file in the form of task {task}",
            classifier.data.display()
        );
        let columns = classifier.columns(task, self.label.as_deref())?;
        let mut task = task.clone();
        if let Kind::Labelled { fields, .. } = &mut task.kind {
            *fields = Fields::Named(columns);
        }
        let table = open(&classifier.data, classifier.stdin())?;
        Ok(read_labelled(&table, &task)?)
    }
}
