//! The progress of a run: a progress bar for people, a line for each evaluation where there is no terminal, JSON lines for programs.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use vblora::storage::{read_file, write_atomically};

use super::{StepReport, compact::Compact, ranks::Communication, run::Run};
use crate::{
    Error, Result,
    limits::MAX_LOG_BYTES,
    metrics::{Metric, Scores},
    program::complain,
    results::{EpochResult, EpochScores, RunResult},
    tensorboard::EventFile,
};

/// Shows and stores the steps and epochs of runs.
#[derive(Debug)]
pub struct StepLog {
    file: Option<(PathBuf, BufWriter<File>)>,
    quiet: bool,
    bar: ProgressBar,
    /// The folder of TensorBoard's event files, if they are wanted.
    events_folder: Option<PathBuf>,
    /// The event file of the current run.
    events: Option<EventFile>,
    /// Optimizer steps taken by the current run.
    steps: Arc<AtomicU64>,
    /// Bytes and seconds of communication, for each step of the current run in this process.
    communication: Vec<(u64, f64)>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "event")]
enum Line<'a> {
    Step {
        run: &'a str,
        step: usize,
        loss: f64,
        gradient_norm: f64,
        lr: Vec<(&'a str, f64)>,
    },
    /// What the ranks of a step said to each other.
    Communication {
        run: &'a str,
        step: usize,
        bytes: u64,
        milliseconds: f64,
    },
    Epoch {
        run: &'a str,
        #[serde(flatten)]
        epoch: &'a EpochResult,
    },
    Compact {
        run: &'a str,
        epoch: usize,
        step: Option<u64>,
        #[serde(flatten)]
        compact: &'a Compact,
    },
}

/// The keys that place a line of an earlier process in its run.
#[derive(Deserialize)]
struct Past {
    event: String,
    run: String,
    step: Option<u64>,
    epoch: Option<u64>,
}

impl Past {
    /// Returns true if the line is of the part of the run that was reached. Lines of a step have the number of steps before it. Other lines
    /// have the number of steps taken, or in earlier versions only the epoch.
    fn is_of(&self, reached: &RunResult) -> bool {
        match (self.event.as_str(), self.step, self.epoch) {
            ("step" | "communication", Some(step), _) => step < reached.steps,
            (_, Some(step), _) => step <= reached.steps,
            (_, None, Some(epoch)) => epoch <= reached.epochs.len() as u64,
            (_, None, None) => false,
        }
    }
}

/// Metrics by name, with four decimals each.
fn text(scores: &Scores) -> String {
    let one = |(metric, value): (Metric, Option<f64>)| {
        format!(
            "{metric} {}",
            value.map_or("-".into(), |v| format!("{v:.4}"))
        )
    };
    scores.iter().map(one).collect::<Vec<_>>().join("  ")
}

fn append(path: &Path) -> Result<BufWriter<File>> {
    let file = File::options().append(true).create(true).open(path);
    file.map(BufWriter::new).map_err(|e| Error::write(path, e))
}

impl StepLog {
    /// A log that adds JSON lines to `file` and draws a bar unless `quiet`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn new(file: Option<&Path>, quiet: bool) -> Result<Self> {
        let open = |path: &Path| append(path).map(|file| (path.to_owned(), file));
        Ok(Self {
            file: file.map(open).transpose()?,
            quiet,
            bar: ProgressBar::hidden(),
            events_folder: None,
            events: None,
            steps: Arc::default(),
            communication: Vec::new(),
        })
    }

    /// The same log, which also counts the current run's steps in `steps`.
    #[must_use]
    pub fn counting(self, steps: Arc<AtomicU64>) -> Self {
        Self { steps, ..self }
    }

    /// The same log, which also writes TensorBoard's event files in this folder.
    #[must_use]
    pub(super) fn with_events(self, events_folder: Option<PathBuf>) -> Self {
        Self {
            events_folder,
            ..self
        }
    }

    /// Starts or resumes a run of `steps` steps. Removes lines of later steps, which the run will repeat, and a last line that was cut off.
    pub(super) fn start(&mut self, run: &Run, steps: usize, reached: &RunResult) -> Result<()> {
        self.rewind(&run.label(), reached)?;
        self.communication.clear();
        let folder = self.events_folder.as_ref();
        let open = |folder: &PathBuf| EventFile::open(&folder.join(run.file_name()), reached.steps);
        self.events = folder.map(open).transpose()?;
        self.steps.store(reached.steps, Ordering::Relaxed);
        let target = if self.quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = ProgressStyle::with_template(
            "{prefix:<18} {bar:24} {pos}/{len} {elapsed} ({eta} left)  {msg}",
        )
        .expect("the template is a constant");
        self.bar = ProgressBar::with_draw_target(Some(steps as u64), target)
            .with_style(style)
            .with_prefix(run.label())
            .with_position(reached.steps);
        Ok(())
    }

    fn rewind(&mut self, run: &str, reached: &RunResult) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let text = read_file(path, MAX_LOG_BYTES).map_err(|e| Error::read(path, e))?;
        let stays = |line: &&[u8]| match serde_json::from_slice::<Past>(line) {
            Ok(line) => line.run != run || line.is_of(reached),
            Err(_) => false,
        };
        let kept: Vec<u8> = text
            .split_inclusive(|&byte| byte == b'\n')
            .filter(stays)
            .flatten()
            .copied()
            .collect();
        if kept.len() < text.len() {
            write_atomically(path, &kept)?;
            *file = append(path)?;
        }
        Ok(())
    }

    pub(super) fn step(
        &mut self,
        run: &Run,
        step: usize,
        report: StepReport,
        lr: Vec<(&str, f64)>,
    ) -> Result<()> {
        let rates: Vec<_> = lr
            .iter()
            .map(|(group, lr)| format!("{group} {lr:.1e}"))
            .collect();
        let StepReport { loss, norm } = report;
        let rates = rates.join(" ");
        self.bar
            .set_message(format!("loss {loss:.4}  norm {norm:.2}  lr {rates}"));
        self.bar.inc(1);
        self.steps.fetch_add(1, Ordering::Relaxed);
        if let Some(events) = &mut self.events {
            let curves = [("train/loss", loss), ("train/gradient_norm", norm)];
            let curves = curves.map(|(tag, value)| (tag.to_owned(), value));
            let rates = lr
                .iter()
                .map(|(group, rate)| (format!("lr/{group}"), *rate));
            events.add(step as u64 + 1, curves.into_iter().chain(rates))?;
        }
        let label = run.label();
        self.write(&Line::Step {
            run: &label,
            step,
            loss,
            gradient_norm: norm,
            lr,
        })
    }

    /// The communication of step `step`.
    pub(super) fn communication(
        &mut self,
        run: &Run,
        step: usize,
        communication: Communication,
    ) -> Result<()> {
        let Communication { bytes, seconds } = communication;
        self.communication.push((bytes, seconds));
        let label = run.label();
        self.write(&Line::Communication {
            run: &label,
            step,
            bytes,
            milliseconds: 1e3 * seconds,
        })
    }

    /// An evaluation. `ends_epoch` is true if the epoch ended with it.
    pub(super) fn epoch(&mut self, run: &Run, epoch: &EpochResult, ends_epoch: bool) -> Result<()> {
        let line = || {
            let within = match epoch.step {
                Some(step) if !ends_epoch => format!("  step {step:>6}"),
                Some(_) | None => String::new(),
            };
            format!(
                "{:<18} epoch {:>3}{within}  loss {:.4}  {}",
                run.label(),
                epoch.epoch,
                epoch.train_loss,
                text(&epoch.metrics)
            )
        };
        self.show(line, complain);
        if let (Some(events), Some(step)) = (&mut self.events, epoch.step) {
            let metric =
                |(metric, value): (Metric, Option<f64>)| Some((format!("dev/{metric}"), value?));
            let loss = ("train/mean_loss".to_owned(), epoch.train_loss);
            let metrics = epoch.metrics.iter().filter_map(metric);
            events.add(step, metrics.chain([loss]))?;
        }
        let label = run.label();
        self.write(&Line::Epoch { run: &label, epoch })?;
        self.flush()
    }

    pub(super) fn compact(
        &mut self,
        run: &Run,
        evaluation: &EpochScores,
        compact: &Compact,
    ) -> Result<()> {
        let line = || {
            format!(
                "{:<18} as a compact file of 8 bits: {} bytes, factors off by {:.1e} of {:.1e} at most, {}",
                run.label(),
                compact.bytes,
                compact.largest_change,
                compact.largest_entry,
                text(&compact.metrics)
            )
        };
        self.show(line, |line| tracing::info!("{line}"));
        let label = run.label();
        self.write(&Line::Compact {
            run: &label,
            epoch: evaluation.epoch,
            step: evaluation.step,
            compact,
        })?;
        self.flush()
    }

    /// Prints a line above the progress bar. Without a terminal, for which there is no bar, `otherwise` prints it.
    fn show(&self, line: impl FnOnce() -> String, otherwise: impl FnOnce(String)) {
        match (self.quiet, self.bar.is_hidden()) {
            (true, _) => {}
            (false, true) => otherwise(line()),
            (false, false) => self.bar.println(line()),
        }
    }

    pub(super) fn finish(&mut self, run: &Run) -> Result<()> {
        self.bar.finish_and_clear();
        if !self.communication.is_empty() {
            self.show(|| self.spent(run), complain);
        }
        self.flush()
    }

    /// The mean communication of a step, in a line.
    fn spent(&self, run: &Run) -> String {
        let steps = self.communication.len() as f64;
        let bytes: u64 = self.communication.iter().map(|(bytes, _)| bytes).sum();
        let seconds: f64 = self.communication.iter().map(|(_, seconds)| seconds).sum();
        format!(
            "{:<18} between ranks: {:.2} MB and {:.1} ms a step",
            run.label(),
            bytes as f64 / steps / 1e6,
            1e3 * seconds / steps
        )
    }

    /// Flushes the file to the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        if let Some(events) = &mut self.events {
            events.sync()?;
        }
        match &mut self.file {
            Some((path, file)) => {
                let synced = file.get_ref().sync_data();
                synced.map_err(|e| Error::write(path, e))
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, line: &Line<'_>) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let mut text = serde_json::to_string(line).map_err(|cause| Error::Json {
            file: path.display().to_string(),
            cause,
        })?;
        text.push('\n');
        file.write_all(text.as_bytes())
            .map_err(|e| Error::write(path, e))
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.flush()?;
        }
        match &mut self.file {
            Some((path, file)) => file.flush().map_err(|e| Error::write(path, e)),
            None => Ok(()),
        }
    }
}
