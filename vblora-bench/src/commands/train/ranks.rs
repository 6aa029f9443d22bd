//! The flags of training over several ranks, and this process's part in it.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Context, Error, Result, ensure};
use clap::Args;
use rayon::ThreadPoolBuilder;
use vblora::backend::BackendKind;

use super::arguments::Arguments;
use crate::{
    group::{Job, Place},
    program::{complain, say_nothing},
    sweep::Device,
    train::Ranks,
};

/// The variable that sets the number of threads.
const THREADS: &str = "RAYON_NUM_THREADS";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several ranks (mpirun, srun; docs/machines.md)")]
pub(super) struct RankArguments {
    /// Comma-separated devices of a host's ranks, in order, instead of --backend and --device: cuda:0,cuda:1. One device is every rank's
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', conflicts_with_all = ["backend", "device"])]
    pub(super) devices: Vec<Device>,
    /// End the job if a rank does not answer for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(super) rank_timeout: u64,
}

/// This process's part in a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat<'a> {
    /// All ranks.
    pub(super) ranks: Ranks<'a>,
    /// The device of this one.
    pub(super) device: Device,
}

impl RankArguments {
    /// How long to wait for another rank.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.rank_timeout)
    }

    /// The device of the rank at this place, if devices are listed.
    fn device(&self, place: Place) -> Result<Option<Device>> {
        let Place {
            local_rank,
            local_size,
            ..
        } = place;
        match self.devices.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            all => {
                let found = all.len();
                ensure!(
                    local_size <= found,
                    "--devices: expected {local_size} devices for the ranks of this host, found {found}"
                );
                Ok(Some(all[local_rank]))
            }
        }
    }
}

impl Arguments {
    /// The backend of every rank.
    pub(in crate::commands) fn backend(&self) -> BackendKind {
        let first = self.ranks.devices.first();
        first.map_or(self.device.backend, |device| device.backend)
    }

    /// Finds this process's device and threads. Ranks other than 0 print nothing but errors from here on.
    pub(super) fn seat<'a>(&self, job: &'a Job) -> Result<Seat<'a>> {
        let place = job.group().place();
        let is_gpu = is_gpu(self.backend());
        if place.rank > 0 {
            say_nothing();
        }
        let device = match self.ranks.device(place)? {
            Some(device) => device,
            None => {
                ensure!(
                    place.local_size == 1 || !is_gpu,
                    "{} ranks share this host: name a device for each with --devices, such as cuda:0,cuda:1",
                    place.local_size
                );
                Device {
                    backend: self.device.backend,
                    index: self.device.device,
                }
            }
        };
        if place.local_size > 1 && !is_gpu {
            share_threads(place)?;
        }
        Ok(Seat {
            ranks: Ranks::of(job),
            device,
        })
    }
}

fn is_gpu(backend: BackendKind) -> bool {
    matches!(backend, BackendKind::Cuda | BackendKind::Wgpu)
}

/// Divides the processors of this host by its ranks, unless the user has set the number of threads.
fn share_threads(place: Place) -> Result<()> {
    if std::env::var_os(THREADS).is_some() {
        return Ok(());
    }
    let allowed = thread::available_parallelism()?.get();
    let all = processors().unwrap_or(allowed).max(allowed);
    // A launcher that binds ranks to processors has divided them already.
    let threads = allowed.min((all / place.local_size).max(1));
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start threads")?;
    if place.rank == 0 && threads != all {
        tracing::warn!(
            "{} ranks share {all} processors, so each computes on {threads} of them: the result has the bits of one rank with {THREADS}={threads}",
            place.local_size
        );
    }
    Ok(())
}

/// The number of this host's processors, whichever of them this process may use.
fn processors() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let lines = text.lines().filter(|line| line.starts_with("processor"));
    Some(lines.count()).filter(|count| *count > 0)
}

/// Leaves the job. An error of one rank ends all.
pub(super) fn end(job: Job, outcome: Result<ExitCode>) -> Result<ExitCode> {
    match outcome {
        Ok(code) => {
            job.close()?;
            Ok(code)
        }
        Err(error) if job.group().place().size > 1 => {
            complain(said(&error, job.group().place().rank));
            job.abort();
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// The line of an error, with the rank that it is of.
fn said(error: &Error, rank: usize) -> String {
    let is_named = matches!(
        error.downcast_ref(),
        Some(crate::Error::OfRank { .. } | crate::Error::OtherRank { .. })
    );
    match is_named || rank == 0 {
        true => format!("error: {error:#}"),
        false => format!("error: rank {rank}: {error:#}"),
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn each_rank_of_a_host_has_its_device() {
        let arguments = |devices: &str| RankArguments {
            devices: devices
                .split(',')
                .filter(|device| !device.is_empty())
                .map(|device| device.parse().unwrap())
                .collect(),
            rank_timeout: 600,
        };
        let place = |local_rank, local_size| Place {
            rank: 5,
            size: 8,
            local_rank,
            local_size,
        };
        let device = |devices: &str, place| {
            let found = arguments(devices).device(place);
            found.map(|device| device.map(|device| device.to_string()))
        };
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(device("", place(1, 2)).unwrap(), None);
        assert_eq!(
            device("flex:0,flex:1", place(1, 2)).unwrap(),
            named("flex:1")
        );
        assert_eq!(device("flex:3", place(1, 2)).unwrap(), named("flex:3"));
        let error = device("flex:0,flex:1", place(2, 3))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("expected 3 devices") && error.contains("found 2"),
            "{error}"
        );
    }

    #[test]
    fn an_error_names_its_rank_once() {
        let error = anyhow::anyhow!("a cause");
        assert_eq!(said(&error, 0), "error: a cause");
        assert_eq!(said(&error, 2), "error: rank 2: a cause");
        let named = crate::Error::OtherRank {
            rank: 1,
            part: "data".into(),
            expected: "a".into(),
            found: "b".into(),
        };
        let said = said(&named.into(), 2);
        assert!(
            said.starts_with("error: rank 1 cannot work with rank 0"),
            "{said}"
        );
    }
}
