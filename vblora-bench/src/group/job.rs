//! The job that this process is part of.

use std::time::Duration;

use super::{Group, Solo, launcher::launched};
use crate::{Error, Result};

/// The job that this process is part of: of one process, unless MPI's launcher has started several.
#[derive(Debug)]
pub struct Job {
    #[cfg(feature = "mpi")]
    world: Option<super::world::World>,
    patience: Duration,
}

impl Job {
    /// Finds the other processes of this job. `patience` is how long to wait for one of them.
    ///
    /// # Errors
    /// A launcher has started several processes, and they cannot find each other. The program was built without MPI, or the launcher does
    /// not work with this MPI.
    pub fn open(patience: Duration) -> Result<Self> {
        match launched() {
            None => Ok(Self::alone(patience)),
            Some((size, name)) => Self::of(size, name, patience),
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn alone(patience: Duration) -> Self {
        Self { patience }
    }

    #[cfg(feature = "mpi")]
    fn alone(patience: Duration) -> Self {
        Self {
            world: None,
            patience,
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn of(size: usize, name: &'static str, _: Duration) -> Result<Self> {
        let reason = "this program was built without the feature mpi, so each would do all of the work: start one process, or build it with --features mpi";
        Err(apart(size, name, reason.into()))
    }

    #[cfg(feature = "mpi")]
    fn of(size: usize, name: &'static str, patience: Duration) -> Result<Self> {
        let world = super::world::World::open(patience)?;
        let found = world.place().size;
        if found != size {
            let reason = format!("MPI finds {found} (with srun, --mpi=pmix may be missing)");
            world.close(patience)?;
            return Err(apart(size, name, reason));
        }
        let world = Some(world);
        Ok(Self { world, patience })
    }

    /// The processes of the job.
    pub fn group(&self) -> &dyn Group {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            return world;
        }
        &Solo
    }

    /// How long to wait for another process.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Leaves the job, once all its processes do.
    ///
    /// # Errors
    /// Another process does not leave.
    pub fn close(self) -> Result<()> {
        #[cfg(feature = "mpi")]
        if let Some(world) = self.world {
            return world.close(self.patience);
        }
        Ok(())
    }

    /// Ends all processes of a job of several, this one included, with exit code 1. A job of one goes on.
    pub fn abort(&self) {
        #[cfg(feature = "mpi")]
        if let Some(world) = &self.world {
            world.abort();
        }
    }
}

/// The error of processes that do not know each other.
fn apart(size: usize, name: &'static str, reason: String) -> Error {
    Error::Launched { size, name, reason }
}
