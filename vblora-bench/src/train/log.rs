//! The progress of a run: a bar for people, JSON lines for programs.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{StepReport, run::Run};
use crate::{Error, Result, report::EpochResult};

/// Where the steps and epochs of runs are shown and kept.
#[derive(Debug)]
pub struct StepLog {
    file: Option<(PathBuf, BufWriter<File>)>,
    quiet: bool,
    bar: ProgressBar,
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
    Epoch {
        run: &'a str,
        #[serde(flatten)]
        epoch: &'a EpochResult,
    },
}

impl StepLog {
    /// A log that writes JSON lines to `file` and draws a bar unless `quiet`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(file: Option<&Path>, quiet: bool) -> Result<Self> {
        let open = |path: &Path| {
            File::create(path)
                .map(|f| (path.to_owned(), BufWriter::new(f)))
                .map_err(|e| Error::write(path, e))
        };
        Ok(Self {
            file: file.map(open).transpose()?,
            quiet,
            bar: ProgressBar::hidden(),
        })
    }

    pub(super) fn start(&mut self, run: &Run, steps: usize) {
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
            .with_prefix(run.label());
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
        self.bar
            .set_message(format!("loss {:.4}  lr {}", report.loss, rates.join(" ")));
        self.bar.inc(1);
        let label = run.label();
        self.write(&Line::Step {
            run: &label,
            step,
            loss: report.loss,
            gradient_norm: report.norm,
            lr,
        })
    }

    pub(super) fn epoch(&mut self, run: &Run, epoch: &EpochResult) -> Result<()> {
        if !self.quiet {
            let scores: Vec<_> = epoch
                .metrics
                .iter()
                .map(|(m, v)| format!("{m} {}", v.map_or("-".into(), |v| format!("{v:.4}"))))
                .collect();
            let line = format!(
                "{:<18} epoch {:>3}  loss {:.4}  {}",
                run.label(),
                epoch.epoch,
                epoch.train_loss,
                scores.join("  ")
            );
            if self.bar.is_hidden() {
                tracing::info!("{line}")
            } else {
                self.bar.println(line)
            }
        }
        let label = run.label();
        self.write(&Line::Epoch { run: &label, epoch })?;
        self.flush()
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        self.bar.finish_and_clear();
        self.flush()
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
        match &mut self.file {
            Some((path, file)) => file.flush().map_err(|e| Error::write(path, e)),
            None => Ok(()),
        }
    }
}
