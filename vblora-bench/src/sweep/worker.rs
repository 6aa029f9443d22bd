//! A worker is a process that makes runs one after another. Kernels are compiled once, and a crash costs one run.
//!
//! It reads jobs from standard input and writes replies to standard output, one JSON object per line. The end of the input tells it to
//! stop. The current run then ends with a checkpoint, also if the parent died.

use std::{
    fmt,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use vblora::backend::{BackendJob, BackendKind, VbLoraBackend};

use super::{
    config::{AnySession, RunConfig},
    text::Evaluated,
};
use crate::{
    Error, Result,
    results::RunResult,
    train::{Draw, Output},
};

/// The interval between progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// The interval between two looks at a directory that another process uses.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A backend and the index of its device: `flex`, `cuda:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The backend.
    pub backend: BackendKind,
    /// The device's index.
    pub index: usize,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => f.pad(self.backend.name()),
            index => write!(f, "{}:{index}", self.backend.name()),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// # Errors
    /// There is no such backend, or it is not compiled in; the index is not a number.
    fn from_str(text: &str) -> Result<Self> {
        let (backend, index) = text.split_once(':').unwrap_or((text, "0"));
        Ok(Self {
            backend: backend.parse()?,
            index: index.parse().map_err(|_| Error::Setting {
                setting: "devices".into(),
                expected: "BACKEND or BACKEND:NUMBER".into(),
                found: text.into(),
            })?,
        })
    }
}

/// One run and its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    /// The configuration of the run.
    pub(super) config: RunConfig,
    /// The run's directory.
    pub(super) dir: PathBuf,
    /// The directory of the run's answers.
    pub(super) answers: PathBuf,
    /// The command, for the record.
    pub(super) command: String,
}

/// A message of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reply {
    /// Optimizer steps of the job taken so far.
    Steps(u64),
    /// The run ended or was interrupted.
    Ended {
        /// The backend's own name.
        backend: String,
        /// The result.
        result: Box<RunResult>,
    },
    /// The run failed with this error.
    Failed(String),
}

/// Runs the jobs from the input until it ends or `interrupted` is set. `draw` draws the pictures in their directories.
///
/// # Errors
/// The output cannot be written because the parent has ended.
pub fn serve<W: Write + Send>(
    input: impl BufRead + Send + 'static,
    output: W,
    device: Device,
    draw: Draw,
    interrupted: &'static AtomicBool,
) -> std::io::Result<()> {
    let (sender, jobs) = mpsc::channel();
    std::thread::spawn(move || {
        for line in input.lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        interrupted.store(true, Ordering::Relaxed);
    });
    let output = Mutex::new(output);
    for line in jobs {
        let reply = match serde_json::from_str::<Job>(&line) {
            Ok(job) => watched(&job, device, draw, interrupted, &output),
            Err(error) => Reply::Failed(format!("the job cannot be read: {error}")),
        };
        say(&output, &reply)?;
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// Runs a job and reports progress meanwhile.
fn watched<W: Write + Send>(
    job: &Job,
    device: Device,
    draw: Draw,
    interrupted: &AtomicBool,
    output: &Mutex<W>,
) -> Reply {
    let steps = Arc::new(AtomicU64::new(0));
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let counted = Arc::clone(&steps);
        scope.spawn(move || {
            while is_done.recv_timeout(REPORT_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                let reply = Reply::Steps(counted.load(Ordering::Relaxed));
                if say(output, &reply).is_err() {
                    return;
                }
            }
        });
        let reply = run(job, device, draw, interrupted, steps);
        drop(done);
        reply
    })
}

fn say<W: Write>(output: &Mutex<W>, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(line.as_bytes())?;
    output.flush()
}

fn run(
    job: &Job,
    device: Device,
    draw: Draw,
    interrupted: &AtomicBool,
    steps: Arc<AtomicU64>,
) -> Reply {
    let outcome = once_free(interrupted, || {
        let out = Output::new(&job.dir, draw);
        let session = job.config.session(Some(out), &job.command)?;
        let work = Work {
            session: &session,
            answers: &job.answers,
            interrupted,
            steps: Arc::clone(&steps),
        };
        device.backend.dispatch(device.index, work)?
    });
    outcome.unwrap_or_else(|error| Reply::Failed(error.to_string()))
}

/// Repeats `work` while another process uses the run's directory, until `interrupted` is set. The worker of a killed sweep may still be
/// writing the run's last checkpoint, and several workers may wait for it. Only the lock itself tells whose turn it is.
fn once_free<T>(interrupted: &AtomicBool, work: impl Fn() -> Result<T>) -> Result<T> {
    let mut is_told = false;
    loop {
        match work() {
            Err(Error::InUse { dir, holder }) if !interrupted.load(Ordering::Relaxed) => {
                if !is_told {
                    tracing::warn!("waiting for {holder}, which writes to {}", dir.display());
                    is_told = true;
                }
                std::thread::sleep(LOOK_EVERY);
            }
            outcome => return outcome,
        }
    }
}

struct Work<'a> {
    session: &'a AnySession,
    answers: &'a Path,
    interrupted: &'a AtomicBool,
    steps: Arc<AtomicU64>,
}

impl BackendJob for Work<'_> {
    type Output = Result<Reply>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        let results = match self.session {
            AnySession::Labels(session) => {
                session.run_counted::<B>(&device, self.interrupted, self.steps)?
            }
            AnySession::Texts(session, text) => {
                let evaluated = Evaluated {
                    session,
                    text,
                    answers: self.answers,
                    interrupted: self.interrupted,
                };
                evaluated.run::<B>(&device, self.steps)?
            }
        };
        let result = results.runs.into_iter().next();
        Ok(match result {
            Some(result) => Reply::Ended {
                backend: results.backend,
                result: Box::new(result),
            },
            None => Reply::Failed("interrupted before the first step".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_go_round() {
        let device: Device = "flex".parse().unwrap();
        assert_eq!((device.index, device.to_string().as_str()), (0, "flex"));
        assert_eq!("flex:1".parse::<Device>().unwrap().to_string(), "flex:1");
        for wrong in ["flex:x", "abacus", ""] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_directory_in_use_is_waited_for_until_the_worker_is_to_stop() {
        let in_use = || Error::InUse {
            dir: "d".into(),
            holder: "process 1".into(),
        };
        let (stop, tries) = (AtomicBool::new(false), AtomicU64::new(0));
        let done = once_free(&stop, || match tries.fetch_add(1, Ordering::Relaxed) {
            2 => Ok(7),
            _ => Err(in_use()),
        });
        assert_eq!(done.unwrap(), 7);
        assert_eq!(tries.load(Ordering::Relaxed), 3);
        let stopped = once_free::<()>(&stop, || {
            stop.store(true, Ordering::Relaxed);
            Err(in_use())
        });
        assert!(matches!(stopped, Err(Error::InUse { .. })));
    }

    #[test]
    fn a_job_that_cannot_be_read_is_answered_and_the_end_of_the_input_stops() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let mut output = Vec::new();
        let device = "flex".parse().unwrap();
        serve(
            &b"nonsense\n"[..],
            &mut output,
            device,
            |_| unreachable!("no job, no results"),
            &STOP,
        )
        .unwrap();
        let reply: Reply = serde_json::from_slice(&output).unwrap();
        assert!(matches!(reply, Reply::Failed(reason) if reason.contains("cannot be read")));
    }
}
