//! The flags for the user's own data with labels.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use vblora::storage::{read_text, strict_json};

use super::arguments::given;
use crate::{
    Error,
    limits::MAX_TEXT_BYTES,
    metrics::Metric,
    recipes::{ClassWeights, WeightRule},
    tasks::{
        Columns, Target, Task,
        causal::CONVERSATIONS,
        counted,
        own::{Dev, Files, Given, Labelling, OwnData, find, scan},
        table::Table,
    },
};

/// The share of the rows that is held out if the user names no development split.
const HELD_OUT: f64 = 0.1;

/// The maximum number of labels that a plan lists.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(next_help_heading = "Encoders only")]
pub(super) struct TableArguments {
    /// Column of the text in --data: CSV, TSV, JSON lines, a JSON array or Parquet, or a directory with train and dev files
    #[arg(long, value_name = "COLUMN", requires = "data")]
    pub(super) text: Option<String>,
    /// Column of the second text of a pair
    #[arg(long, value_name = "COLUMN", requires = "text")]
    pub(super) text_pair: Option<String>,
    /// Column of the label
    #[arg(long, value_name = "COLUMN", requires = "text")]
    pub(super) label: Option<String>,
    /// Classes in the order of their ids [default: those in the training file, sorted; numbers in numeric order]
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        requires = "label"
    )]
    pub(super) labels: Vec<String>,
    /// Labels are numbers to predict
    #[arg(long, requires = "label", conflicts_with_all = ["labels", "multi_label"])]
    pub(super) regression: bool,
    /// A row has any number of labels: a list, or text with --label-separator
    #[arg(long, requires = "label")]
    pub(super) multi_label: bool,
    /// Text between two labels of a row
    #[arg(
        long,
        value_name = "TEXT",
        requires = "multi_label",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(super) label_separator: Option<String>,
    /// File to evaluate on [default: dev or validation in the directory --data, or --hold-out]
    #[arg(long, value_name = "FILE", requires = "text")]
    pub(super) dev: Option<PathBuf>,
    /// Share of the rows to evaluate on instead of training; without --multi-label the same in each class [default: 0.1 without a dev file]
    #[arg(
        long,
        value_name = "SHARE",
        requires = "text",
        conflicts_with = "dev",
        allow_negative_numbers = true
    )]
    pub(super) hold_out: Option<f64>,
    /// Seed of the rows that are held out [default: 0]
    #[arg(long, value_name = "SEED", requires = "text", conflicts_with = "dev")]
    pub(super) hold_out_seed: Option<u64>,
    /// Weights of classes in the loss: balanced, or a TOML or JSON file with a weight by class
    #[arg(long, value_name = "balanced|FILE")]
    pub(super) class_weights: Option<String>,
    /// Metric that chooses the best evaluation, one of the task's [default: the task's first]
    #[arg(long, value_name = "NAME")]
    pub(super) metric: Option<Metric>,
}

impl TableArguments {
    /// The flags of this group that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let Self {
            text,
            text_pair,
            label,
            labels,
            regression,
            multi_label,
            label_separator,
            dev,
            hold_out,
            hold_out_seed,
            class_weights,
            metric,
        } = self;
        given([
            ("--text", text.is_some()),
            ("--text-pair", text_pair.is_some()),
            ("--label", label.is_some()),
            ("--labels", !labels.is_empty()),
            ("--regression", *regression),
            ("--multi-label", *multi_label),
            ("--label-separator", label_separator.is_some()),
            ("--dev", dev.is_some()),
            ("--hold-out", hold_out.is_some()),
            ("--hold-out-seed", hold_out_seed.is_some()),
            ("--class-weights", class_weights.is_some()),
            ("--metric", metric.is_some()),
        ])
    }

    /// The task and the files that the flags describe, and notes for the user; `None` if they describe no data.
    pub(super) fn task(&self, data: Option<&Path>) -> Result<Option<(Task, OwnData, Vec<String>)>> {
        let (Some(first), Some(data)) = (&self.text, data) else {
            return Ok(None);
        };
        let Some(label) = &self.label else {
            bail!("--text {first} needs --label COLUMN");
        };
        ensure!(
            label != first && self.text_pair.as_ref() != Some(label),
            "--label: expected another column than the text's, found {label}"
        );
        let names: Vec<String> = self.labels.iter().map(|name| name.trim().into()).collect();
        check_names(&names)?;
        let (own, mut notes) = self.files(data)?;
        let given = Given {
            column: label.clone(),
            texts: std::iter::once(first)
                .chain(&self.text_pair)
                .cloned()
                .collect(),
            labelling: self.labelling(),
            names: Some(names).filter(|names| !names.is_empty()),
        };
        let target = scan(&own.train, &given)?;
        notes.extend(many_numbers(&target));
        let columns = Columns {
            first: first.clone(),
            second: self.text_pair.clone(),
            label: label.clone(),
        };
        let name = data.file_stem().unwrap_or(data.as_os_str());
        let task = Task::own(name.to_string_lossy(), columns, target);
        Ok(Some((task, own, notes)))
    }

    /// The files for a task of a recipe with columns of its own.
    pub(super) fn data_of(
        &self,
        task: &Task,
        data: &Path,
    ) -> Result<Option<(OwnData, Vec<String>)>> {
        let is_own = task.named().is_ok() && !task.is_known();
        match is_own && !data.join(task.name()).is_dir() {
            true => self.files(data).map(Some),
            false => Ok(None),
        }
    }

    fn files(&self, data: &Path) -> Result<(OwnData, Vec<String>)> {
        let Files { train, dev, test } = find(data)?;
        let mut notes = Vec::new();
        if !test.is_empty() {
            notes.push(format!(
                "{} is not read: training needs no test split",
                test[0].display()
            ));
        }
        let is_asked = self.hold_out.is_some() || self.hold_out_seed.is_some();
        let dev = match (&self.dev, dev.is_empty() || is_asked) {
            (Some(file), _) => Dev::Files(vec![file.clone()]),
            (None, false) => Dev::Files(dev),
            (None, true) => {
                if !dev.is_empty() {
                    notes.push(format!(
                        "{} is not read, because of --hold-out",
                        dev[0].display()
                    ));
                }
                let share = self.hold_out.unwrap_or(HELD_OUT);
                ensure!(
                    share > 0.0 && share < 1.0,
                    "--hold-out: expected a share above 0 and below 1, found {share}"
                );
                if !is_asked {
                    notes.push(format!(
                        "{}: no dev file, so {:.0} % of the rows are held out to evaluate on (--dev or --hold-out choose otherwise)",
                        data.display(),
                        100.0 * share
                    ));
                }
                let seed = self.hold_out_seed.unwrap_or(0);
                Dev::HeldOut { share, seed }
            }
        };
        let own = OwnData { train, dev };
        own.check()?;
        Ok((own, notes))
    }

    fn labelling(&self) -> Labelling {
        match (self.regression, self.multi_label) {
            (true, _) => Labelling::Number,
            (false, true) => Labelling::Set {
                separator: self.label_separator.clone(),
            },
            (false, false) => Labelling::Class,
        }
    }

    /// The weights of classes, if the user gives some.
    pub(super) fn weights(&self) -> Result<Option<ClassWeights>> {
        match self.class_weights.as_deref() {
            None => Ok(None),
            Some("balanced") => Ok(Some(ClassWeights::Rule(WeightRule::Balanced))),
            Some(file) => read_weights(Path::new(file)).map(Some),
        }
    }
}

/// Says that numbers with fractions are taken as classes, if they are many.
fn many_numbers(target: &Target) -> Option<String> {
    let Target::Classes { names, .. } = target else {
        return None;
    };
    let are_numbers = names.iter().all(|name| name.parse::<f64>().is_ok());
    let has_fraction = names.iter().any(|name| name.contains('.'));
    (are_numbers && has_fraction && names.len() > SHOWN).then(|| {
        format!(
            "each of {} numbers is a class of its own; --regression learns them as numbers",
            names.len()
        )
    })
}

/// The task in a line: its labels in the order of their ids.
pub(super) fn describe(task: &Task) -> String {
    let names = task.classes();
    let some = names.iter().take(SHOWN).map(String::as_str);
    let some = some.collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match task.target() {
        Some(Target::Classes { .. }) => format!("{task}: {} classes: {some}{more}", names.len()),
        Some(Target::Sets { .. }) => {
            let labels = counted(names.len(), "label", "labels");
            format!("{task}: any of {labels}: {some}{more}")
        }
        Some(Target::Number { .. }) => format!("{task}: a number"),
        None => format!("{task}: texts"),
    }
}

fn check_names(names: &[String]) -> Result<()> {
    let twice = (1..names.len()).find(|&i| names[..i].contains(&names[i]));
    if let Some(i) = twice {
        bail!("--labels: {:?} is listed twice", names[i]);
    }
    ensure!(
        !names.iter().any(String::is_empty),
        "--labels: expected names, found an empty one"
    );
    Ok(())
}

/// The first training file of a directory of tables, if it is one.
pub(super) fn first_in(dir: &Path) -> Option<PathBuf> {
    find(dir).ok()?.train.into_iter().next()
}

/// The error for a file of data without the flags that say what is in it.
pub(super) fn without_columns(file: &Path) -> anyhow::Error {
    let place = file.display();
    let causal = "--model with a causal model, for example bundled:llama";
    // No column has this name, so that the error lists those that there are.
    let absent = |table: Table| table.read(&["\0"], &mut |_| Ok(()));
    match Table::open(file).and_then(absent) {
        Err(Error::NoColumn { found, .. }) => {
            let is_there =
                |field: &&str| found.split(", ").any(|name| name == format!("{field:?}"));
            match CONVERSATIONS.iter().any(is_there) {
                true => anyhow!("{place}: conversations need {causal}"),
                false => anyhow!(
                    "{place}: a table needs --text COLUMN and --label COLUMN; its columns are {}",
                    found.replace('"', "")
                ),
            }
        }
        Err(error) => anyhow!("{error}; documents need {causal}"),
        Ok(()) => anyhow!("{place}: a table needs --text COLUMN and --label COLUMN"),
    }
}

/// A weight by class name, from a TOML or JSON file.
fn read_weights(file: &Path) -> Result<ClassWeights> {
    let place = file.display();
    let text = read_text(file, MAX_TEXT_BYTES).map_err(|cause| {
        anyhow::anyhow!(
            "--class-weights: expected balanced or a file, but cannot read {place}: {cause}"
        )
    })?;
    let is_json = file
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let weights = match is_json {
        true => strict_json::from_slice(text.as_bytes()),
        false => toml::from_str(&text).map_err(|e| e.to_string()),
    };
    match weights {
        Ok(weights) => Ok(ClassWeights::ByName(weights)),
        Err(cause) => bail!("{place}: expected a weight by class name: {cause}"),
    }
}
