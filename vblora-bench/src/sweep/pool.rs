//! The parent of workers: it hands out jobs, collects progress, and survives crashes of workers.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::worker::{Device, Job, Reply};
use crate::{
    Error, Result,
    results::{RunResult, Stop},
};

/// The number of bytes at the end of a dead worker's log that are searched for its last message.
const LAST_WORDS: usize = 4096;

/// The message for a run whose worker alone was stopped.
const STOPPED: &str =
    "a signal stopped the worker; start the sweep again to continue the run from its checkpoint";

/// The delay after which a sweep sees a signal that was sent to it and to its worker.
const SIGNALS_APART: Duration = Duration::from_millis(200);

/// The command that starts a worker.
#[derive(Debug, Clone)]
pub(super) struct WorkerStart {
    /// The program.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// Variables of its environment.
    pub(super) environment: Vec<(String, String)>,
    /// The file for its output.
    pub(super) log: PathBuf,
    /// The device that it works on.
    pub(super) device: Device,
}

/// Progress of a pool. A job is identified by its index in the list. An interrupted job has no end.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A job took more steps.
    Steps {
        /// The job's index.
        job: usize,
        /// Optimizer steps taken so far.
        steps: u64,
    },
    /// A job ended or failed.
    Ended {
        /// The job's index.
        job: usize,
        /// The worker's device.
        device: Device,
        /// The backend's own name; empty if the job failed before it was known.
        backend: &'a str,
        /// The result, or the error.
        outcome: std::result::Result<Box<RunResult>, String>,
    },
}

/// Workers for a list of jobs.
pub(super) struct Pool<'a> {
    /// One entry per worker.
    pub(super) workers: Vec<WorkerStart>,
    /// Returns true if one more job may start. It is called before each job.
    pub(super) may_start: &'a (dyn Fn() -> bool + Sync),
    /// Receives every event. An error ends the work.
    pub(super) hear: &'a (dyn Fn(Event<'_>) -> Result<()> + Sync),
    /// Set when running jobs must end with a checkpoint.
    pub(super) interrupted: &'a AtomicBool,
}

impl Pool<'_> {
    /// Runs every job, or as many as may be started.
    ///
    /// # Errors
    /// A worker cannot be started; `hear` returns an error. If a worker dies, its job has failed and the next job gets a new worker.
    pub(super) fn work(&self, jobs: &[Job]) -> Result<()> {
        let queue = Mutex::new((0..jobs.len()).collect::<VecDeque<_>>());
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let goes_on = !self.interrupted.load(Ordering::Relaxed);
            // Checked under the lock, so that two workers do not both take the last run of a budget.
            (goes_on && !queue.is_empty() && (self.may_start)()).then(|| queue.pop_front())?
        };
        let next: &(dyn Fn() -> Option<usize> + Sync) = &next;
        std::thread::scope(|scope| {
            let queue = &queue;
            let drive = |start| {
                scope.spawn(move || {
                    let outcome = self.drive(start, jobs, next);
                    if outcome.is_err() {
                        // A problem such as a full disk would stop the other workers too.
                        queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    }
                    outcome
                })
            };
            let threads: Vec<_> = self.workers.iter().map(drive).collect();
            let outcomes = threads.into_iter().map(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            outcomes.collect()
        })
    }

    fn drive(
        &self,
        start: &WorkerStart,
        jobs: &[Job],
        next: &(dyn Fn() -> Option<usize> + Sync),
    ) -> Result<()> {
        let mut worker = None;
        while let Some(job) = next() {
            let running = match worker.take() {
                Some(running) => running,
                None => Worker::start(start)?,
            };
            worker = self.run(running, job, &jobs[job])?;
        }
        Ok(())
    }

    /// Returns true if the sweep is interrupted too. A signal to all processes may reach a worker first.
    fn is_interrupted_soon(&self) -> bool {
        let is_interrupted = || self.interrupted.load(Ordering::Relaxed);
        if !is_interrupted() {
            std::thread::sleep(SIGNALS_APART);
        }
        is_interrupted()
    }

    /// Runs one job. Returns the worker if it is still alive.
    fn run<'w>(
        &self,
        mut worker: Worker<'w>,
        job: usize,
        what: &Job,
    ) -> Result<Option<Worker<'w>>> {
        let ended = |outcome, backend: &str, device| {
            (self.hear)(Event::Ended {
                job,
                device,
                backend,
                outcome,
            })
        };
        let device = worker.start.device;
        worker.send(what);
        loop {
            match worker.reply() {
                Some(Reply::Steps(steps)) => {
                    (self.hear)(Event::Steps { job, steps })?;
                    if self.interrupted.load(Ordering::Relaxed) {
                        worker.stop();
                    }
                }
                // The run can be resumed, so it has no result yet.
                Some(Reply::Ended { result, .. }) if result.stop == Stop::Interrupted => {
                    if !self.is_interrupted_soon() {
                        ended(Err(STOPPED.into()), "", device)?;
                    }
                    return Ok(None);
                }
                Some(Reply::Ended { backend, result }) => {
                    ended(Ok(result), &backend, device)?;
                    return Ok(Some(worker));
                }
                Some(Reply::Failed(_)) | None if self.interrupted.load(Ordering::Relaxed) => {
                    return Ok(None);
                }
                Some(Reply::Failed(reason)) => {
                    ended(Err(reason), "", device)?;
                    return Ok(Some(worker));
                }
                None => {
                    ended(Err(worker.last_words()), "", device)?;
                    return Ok(None);
                }
            }
        }
    }
}

/// A worker process. Dropping this value stops it and waits for its end.
struct Worker<'a> {
    start: &'a WorkerStart,
    child: Child,
    /// Dropped to stop the worker.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl<'a> Worker<'a> {
    fn start(start: &'a WorkerStart) -> Result<Self> {
        let failed = |cause| Error::Io {
            action: "start",
            path: start.program.clone(),
            cause,
        };
        if let Some(folder) = start.log.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        let log = File::options().append(true).create(true).open(&start.log);
        let log = log.map_err(|e| Error::write(&start.log, e))?;
        let mut child = Command::new(&start.program)
            .args(&start.arguments)
            .envs(start.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(std::io::Error::other("no pipes")));
        };
        Ok(Self {
            start,
            child,
            input: Some(input),
            output: BufReader::new(output),
        })
    }

    /// Sends a job. A dead worker ignores it, and its missing reply shows that.
    fn send(&mut self, job: &Job) {
        let line = serde_json::to_string(job).expect("a job is plain data");
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{line}").and_then(|()| input.flush());
        }
    }

    /// The next reply; `None` from a process that is dead or not a worker.
    fn reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    fn stop(&mut self) {
        self.input = None;
    }

    /// The worker's exit status and its last line of output.
    fn last_words(&mut self) -> String {
        self.stop();
        let status = self.child.wait();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let log = std::fs::read(&self.start.log).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(LAST_WORDS)..]);
        let last = end.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.map_or(String::new(), |line| {
            format!("; last line of {}: {line}", self.start.log.display())
        });
        format!("the worker died: {status}{last}")
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.stop();
        let _ = self.child.wait();
    }
}
