//! A sweep in progress: workers run the remaining runs of a plan, and results are recorded.

use std::{
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use derive_new::new;
use vblora::backend::BackendKind;

use super::{
    plan::{Plan, PlannedRun},
    pool::{Event, Pool, WorkerStart},
    record::{Provenance, Record},
    spec::Budget,
    store::Store,
    worker::{Device, Job},
};
use crate::{Result, train::RunDir};

/// The runs of a sweep, their devices and their limits.
#[derive(Debug)]
pub struct Campaign<'a> {
    /// Every run of the sweep.
    pub plan: &'a Plan,
    /// Limits that end the campaign before all runs are done.
    pub budget: Budget,
    /// The device of each worker.
    pub devices: Vec<Device>,
    /// The number of processors that workers on the CPU share.
    pub processors: usize,
    /// A program that calls [`serve`](super::serve) when started with `worker` and a device as arguments.
    pub program: PathBuf,
    /// The first argument of `program` for a worker.
    pub worker: String,
    /// The commit that the program was built from, if known.
    pub commit: Option<String>,
}

/// Progress of a campaign.
#[derive(Debug)]
pub enum News<'a> {
    /// The number of optimizer steps taken, out of all that will be run.
    Steps(u64),
    /// A run ended and was recorded.
    Ended(&'a Record),
}

/// How a campaign ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Completed runs, including those of earlier campaigns.
    pub done: usize,
    /// Runs that failed, with their errors.
    pub failed: Vec<(String, String)>,
    /// Runs that were never started, or were interrupted.
    pub left: usize,
}

impl Campaign<'_> {
    /// Optimizer steps of all remaining runs.
    pub fn steps(&self, store: &Store) -> u64 {
        self.plan.left(store).iter().map(|run| run.steps).sum()
    }

    /// Runs all remaining runs and records each one when it ends. Only processes with other shares may write to the directory meanwhile.
    ///
    /// # Errors
    /// The budget's hours are invalid; another process uses the directory; a worker cannot be started; a result cannot be written. A failed
    /// run is part of the outcome.
    pub fn run(
        &self,
        store: Store,
        hear: &(dyn Fn(News<'_>) + Sync),
        interrupted: &AtomicBool,
    ) -> Result<Outcome> {
        self.budget.check()?;
        let store = store.lock()?;
        store.save_plan(self.plan)?;
        self.tidy(&store)?;
        let left: Vec<PlannedRun> = self.plan.left(&store).into_iter().cloned().collect();
        let jobs: Vec<Job> = left.iter().map(|run| self.job(run, &store)).collect();
        let workers = self.workers(&store);
        let progress = Progress {
            campaign: self,
            runs: &left,
            state: Mutex::new((store, vec![0; left.len()])),
            hear,
        };
        let limit = Limit::new(self.budget);
        let pool = Pool {
            workers,
            may_start: &|| limit.may_start(),
            hear: &|event| progress.hear(event),
            interrupted,
        };
        pool.work(&jobs)?;
        let (store, _) = progress
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(self.outcome(&store))
    }

    /// Completes work that a kill may have cut off after a result was added: the CSV table, and the removal of checkpoints.
    fn tidy(&self, store: &Store) -> Result<()> {
        store.write_csv()?;
        let own = self.plan.share(store).into_iter();
        for run in own.filter(|run| store.is_done(&run.id)) {
            RunDir::remove_checkpoints(&store.run_dir(&run.id))?;
        }
        Ok(())
    }

    fn job(&self, run: &PlannedRun, store: &Store) -> Job {
        Job {
            config: run.config.clone(),
            dir: store.run_dir(&run.id),
            answers: store.answers_dir(&run.id),
            command: format!("sweep {}: {}", self.plan.sweep, run.name),
        }
    }

    /// The workers to start. Workers on the CPU share its cores.
    fn workers(&self, store: &Store) -> Vec<WorkerStart> {
        let all = available();
        let environment = match (self.on_cpu(), self.processors < all) {
            (0, _) | (1, false) => Vec::new(),
            _ => vec![("RAYON_NUM_THREADS".into(), self.threads().to_string())],
        };
        let start = |(number, device): (usize, &Device)| WorkerStart {
            program: self.program.clone(),
            arguments: vec![self.worker.clone(), device.to_string()],
            environment: environment.clone(),
            log: store.worker_log(number),
            device: *device,
        };
        self.devices.iter().enumerate().map(start).collect()
    }

    fn on_cpu(&self) -> usize {
        let is_cpu = |d: &&Device| matches!(d.backend, BackendKind::Flex | BackendKind::NdArray);
        self.devices.iter().filter(is_cpu).count()
    }

    /// The number of threads of each worker on the CPU.
    fn threads(&self) -> usize {
        (self.processors / self.on_cpu().max(1)).max(1)
    }

    fn outcome(&self, store: &Store) -> Outcome {
        let mut outcome = Outcome {
            done: 0,
            failed: Vec::new(),
            left: 0,
        };
        for run in self.plan.share(store) {
            match store.get(&run.id).map(|record| &record.error) {
                Some(None) => outcome.done += 1,
                Some(Some(error)) => outcome.failed.push((run.name.clone(), error.clone())),
                None => outcome.left += 1,
            }
        }
        outcome
    }
}

/// The number of processors that this process may use.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The progress so far: the results, and the steps of each job.
struct Progress<'a> {
    campaign: &'a Campaign<'a>,
    runs: &'a [PlannedRun],
    state: Mutex<(Store, Vec<u64>)>,
    hear: &'a (dyn Fn(News<'_>) + Sync),
}

impl Progress<'_> {
    fn state(&self) -> MutexGuard<'_, (Store, Vec<u64>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Steps { job, steps } => self.advance(job, steps),
            Event::Ended {
                job,
                device,
                backend,
                outcome,
            } => {
                let run = &self.runs[job];
                let (threads, commit) = (self.campaign.threads(), self.campaign.commit.clone());
                let made = Provenance::now(device.to_string(), backend.into(), threads, commit);
                let key = (&*run.id, &*self.campaign.plan.sweep, &*run.name);
                let outcome = outcome.map(|result| *result);
                self.record(Record::new(key, &run.config, outcome, made))?;
                self.advance(job, run.steps);
            }
        }
        Ok(())
    }

    fn record(&self, record: Record) -> Result<()> {
        let mut state = self.state();
        let dir = state.0.run_dir(&record.id);
        state.0.add(record.clone())?;
        if record.completed().is_some() {
            RunDir::remove_checkpoints(&dir)?;
        }
        drop(state);
        (self.hear)(News::Ended(&record));
        Ok(())
    }

    fn advance(&self, job: usize, steps: u64) {
        let taken = {
            let mut state = self.state();
            state.1[job] = steps;
            state.1.iter().sum()
        };
        (self.hear)(News::Steps(taken));
    }
}

#[derive(new)]
struct Limit {
    budget: Budget,
    #[new(default)]
    started: AtomicUsize,
    #[new(value = "Instant::now()")]
    start: Instant,
}

impl Limit {
    /// Returns true if one more run may be started, and counts it.
    fn may_start(&self) -> bool {
        let hours = self.start.elapsed().as_secs_f64() / 3600.0;
        let in_time = self.budget.hours.is_none_or(|limit| hours < limit);
        in_time && {
            let before = self.started.fetch_add(1, Ordering::Relaxed);
            self.budget.runs.is_none_or(|limit| before < limit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_by_runs_or_by_hours() {
        for hours in [f64::NAN, -1.0] {
            let runs = None;
            let hours = Some(hours);
            let error = Budget { runs, hours }.check().unwrap_err();
            assert!(error.to_string().contains("hours"), "{error}");
        }
        let may = |runs, hours| {
            let limit = Limit::new(Budget { runs, hours });
            (0..3).filter(|_| limit.may_start()).count()
        };
        assert_eq!(may(None, None), 3);
        assert_eq!(may(Some(2), None), 2);
        assert_eq!(may(None, Some(0.0)), 0);
        assert_eq!(may(Some(9), Some(1.0)), 3);
    }
}
