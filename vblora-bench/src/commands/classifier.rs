//! The flags and steps that `vblora predict` and `vblora evaluate` share: a model, a trained head, and a file of texts.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use vblora_models::ModelFiles;

use super::{
    adapter,
    device::DeviceArguments,
    models, progress,
    ranks::{RankArguments, Seat},
};
use crate::{
    group::{Job, agree},
    predict::{Classifier, Form, Rows, join, run, terms},
    program::{complain, is_interrupted},
    tasks::{Columns, Task, table::Format},
    train::Turns,
};

const MODEL: &str = "Model and adapter";
const DATA: &str = "Data";

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, clap::Args)]
pub(super) struct ClassifierArguments {
    /// Base model: Hugging Face directory, hub id, or bundled:roberta
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = MODEL)]
    pub(super) model: String,
    /// Hub revision: a branch, tag or commit
    #[arg(long, help_heading = MODEL)]
    pub(super) revision: Option<String>,
    /// Directory with the trained head: METHOD-seedN of a run, or a PEFT directory [default: the model's directory]
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub(super) adapter: Option<PathBuf>,
    /// File of rows: .csv, .tsv, .jsonl, .json or .parquet; - for standard input
    #[arg(long, value_name = "FILE", help_heading = DATA)]
    pub(super) data: PathBuf,
    /// Column of the text [default: the column of training]
    #[arg(long, value_name = "COLUMN", help_heading = DATA)]
    pub(super) text: Option<String>,
    /// Column of the second text of a pair [default: the column of training]
    #[arg(long, value_name = "COLUMN", help_heading = DATA)]
    pub(super) text_pair: Option<String>,
    /// Format of standard input and standard output: csv, tsv or jsonl [default: csv]
    #[arg(long, value_enum, value_name = "FORMAT", hide_possible_values = true, help_heading = DATA)]
    format: Option<Form>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    ranks: RankArguments,
}

/// The outputs of a head for rows, as this process has them.
pub(super) enum Outputs {
    /// Those for every row.
    All(Vec<Vec<f32>>),
    /// Rank 0 has them.
    Elsewhere,
    /// A signal ended the work.
    Interrupted,
}

impl ClassifierArguments {
    /// The processes that share the work.
    ///
    /// # Errors
    /// Those that a launcher has started do not find each other.
    pub(super) fn job(&self) -> Result<Job> {
        Ok(Job::open(self.ranks.patience())?)
    }

    /// This process's part in the work.
    ///
    /// # Errors
    /// Devices and ranks do not fit together; several ranks are to read standard input.
    pub(super) fn seat<'a>(&self, job: &'a Job) -> Result<Seat<'a>> {
        ensure!(
            job.group().place().size == 1 || self.data != Path::new("-"),
            "--data: expected a file that every rank can read, found - (standard input)"
        );
        self.ranks.seat(&self.device, job)
    }

    /// The base's files and the trained head.
    pub(super) fn open(&self) -> Result<(ModelFiles, Classifier)> {
        if let Some(adapter) = &self.adapter {
            adapter::check_run(adapter)?;
        }
        let files = models::find(&self.model, self.revision.as_deref())?;
        let dir = self.dir();
        ensure!(
            self.adapter.is_some() || dir.is_dir(),
            "--adapter: expected the directory of a trained head, since {} is no directory that could hold one",
            self.model
        );
        let classifier = Classifier::open(dir, &files)?;
        Ok((files, classifier))
    }

    /// The directory of the trained head.
    fn dir(&self) -> &Path {
        let model = Path::new(&self.model);
        self.adapter.as_deref().unwrap_or(model)
    }

    /// The format of standard input and standard output.
    pub(super) fn form(&self) -> Form {
        self.format.unwrap_or(Form::Csv)
    }

    /// Refuses --format where no standard stream is read or written.
    pub(super) fn check_format(&self, to_stdout: bool) -> Result<()> {
        ensure!(
            self.format.is_none() || to_stdout || self.data == Path::new("-"),
            "--format: expected none, since files are read and written by their extensions"
        );
        Ok(())
    }

    /// The format of standard input.
    pub(super) fn stdin(&self) -> Format {
        match self.form() {
            Form::Csv => Format::Csv,
            Form::Tsv => Format::Tsv,
            Form::Jsonl => Format::JsonLines,
        }
    }

    /// The format of the data, if --format or the file's extension tells it.
    fn known_format(&self) -> Option<Format> {
        match self.data == Path::new("-") {
            true => self.format.map(|_| self.stdin()),
            false => Format::of(&self.data.extension()?.to_string_lossy()),
        }
    }

    /// Returns true for a GLUE task's TSV, which has no quotes. A flag with a column asks for a table. Data whose format nothing tells are
    /// of the kind `unknown`.
    pub(super) fn is_glue(&self, task: &Task, unknown: Option<Format>) -> bool {
        let has_columns = self.text.is_some() || self.text_pair.is_some();
        let is_tsv = matches!(self.known_format().or(unknown), Some(Format::Tsv));
        task.is_known() && is_tsv && !has_columns
    }

    /// The columns: the flags, and those of training for flags that are not given.
    pub(super) fn columns(&self, task: &Task, label: Option<&str>) -> Result<Columns<String>> {
        let trained = task.named().ok().map(|(columns, _)| columns);
        let first = self.text.clone();
        let first = first.or_else(|| trained.map(|columns| columns.first.clone()));
        let Some(first) = first else {
            anyhow::bail!("--text: expected the column of the text, since task {task} names none");
        };
        // With --text, the columns of training do not apply.
        let second = match (&self.text_pair, &self.text) {
            (Some(pair), _) => Some(pair.clone()),
            (None, Some(_)) => None,
            (None, None) => trained.and_then(|columns| columns.second.clone()),
        };
        let is_pair = trained.map(|columns| columns.second.is_some());
        ensure!(
            is_pair.is_none_or(|is_pair| is_pair == second.is_some()),
            match second.is_some() {
                true => "--text-pair: expected none, since training had one text a row",
                false =>
                    "--text-pair: expected the column of the second text, since training had pairs",
            }
        );
        let label = label.map(ToOwned::to_owned);
        let label = label.or_else(|| trained.map(|columns| columns.label.clone()));
        Ok(Columns {
            first,
            second,
            label: label.unwrap_or_else(|| "label".into()),
        })
    }

    /// The head's outputs for every row, with progress on standard error.
    ///
    /// # Errors
    /// As [`run`]; a rank differs from rank 0 or does not answer.
    pub(super) fn outputs(
        &self,
        files: &ModelFiles,
        classifier: &Classifier,
        rows: &Rows,
        (job, seat): (&Job, Seat<'_>),
    ) -> Result<Outputs> {
        let (device, texts) = (seat.device, rows.texts());
        let (group, patience) = (job.group(), job.patience());
        let turns = Turns {
            rank: seat.ranks.rank(),
            size: seat.ranks.size(),
        };
        if turns.size > 1 {
            agree(
                group,
                &terms(device.backend, files, self.dir(), &texts)?,
                patience,
            )?;
        }
        let bar = progress::bar(rows.len().div_ceil(turns.size) as u64, "predict");
        let mut go_on = |rows: usize| {
            bar.inc(rows as u64);
            !is_interrupted()
        };
        let done = run(
            device.backend,
            device.index,
            classifier,
            files,
            &texts,
            turns,
            &mut go_on,
        );
        bar.finish_and_clear();
        let Some((outputs, cut)) = done? else {
            complain("interrupted: nothing is written");
            return Ok(Outputs::Interrupted);
        };
        let Some(outputs) = join(group, outputs, patience)? else {
            return Ok(Outputs::Elsewhere);
        };
        let (most, recorded) = (classifier.max_length(), classifier.settings.max_length);
        let why = match most < recorded {
            true => {
                format!(", for which the model has positions; the head's max_length is {recorded}")
            }
            false => String::new(),
        };
        for (count, what) in [
            (cut, format!("were cut to {most} tokens{why}")),
            (rows.empty as u64, "have an empty text".into()),
        ] {
            if count > 0 {
                complain(format!("note: {count} of {} rows {what}", rows.len()));
            }
        }
        Ok(Outputs::All(outputs))
    }
}
