//! The flags of work over several ranks, and this process's part in it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rayon::ThreadPoolBuilder;
use vblora::backend::BackendKind;

use super::device::DeviceArguments;
use crate::{
    group::{Job, Place, is_launched, processors},
    program::say_nothing,
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
            all if place.size == 1 => bail!(
                "--devices: expected one device for one process, found {0}; mpirun -n {0} starts a process for each",
                all.len()
            ),
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

    /// The backend of every rank. `named` is the device of a process by itself.
    pub(super) fn backend(&self, named: &DeviceArguments) -> BackendKind {
        let first = self.devices.first();
        first.map_or(named.backend, |device| device.backend)
    }

    /// Finds this process's device and threads. Ranks other than 0 print nothing but errors from here on.
    pub(super) fn seat<'a>(&self, named: &DeviceArguments, job: &'a Job) -> Result<Seat<'a>> {
        let place = job.group().place();
        let is_gpu = is_gpu(self.backend(named));
        if place.rank > 0 {
            say_nothing();
        }
        let device = match self.device(place)? {
            Some(device) => device,
            None => {
                ensure!(
                    place.local_size == 1 || !is_gpu,
                    "{} ranks share this host: name a device for each with --devices, such as cuda:0,cuda:1",
                    place.local_size
                );
                Device {
                    backend: named.backend,
                    index: named.device,
                }
            }
        };
        match place.local_size {
            _ if is_gpu || std::env::var_os(THREADS).is_some() => {}
            1 => warn_of_binding(place)?,
            _ => share_threads(place)?,
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

/// Divides the processors of this host by its ranks.
fn share_threads(place: Place) -> Result<()> {
    let all = processors()?;
    let threads = place.processors()?;
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

/// Says that a launcher lets the only rank of this host use a part of its processors.
fn warn_of_binding(place: Place) -> Result<()> {
    let (allowed, all) = (place.processors()?, processors()?);
    if place.rank == 0 && is_launched() && allowed < all {
        tracing::warn!(
            "the launcher has bound this process to {allowed} of {all} processors, so it computes on {allowed}: the result has the bits of {THREADS}={allowed} (mpirun --bind-to none binds it to none)"
        );
    }
    Ok(())
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
        let alone = Place {
            rank: 0,
            size: 1,
            ..place(0, 1)
        };
        assert_eq!(device("flex:1", alone).unwrap(), named("flex:1"));
        let error = device("flex:0,flex:1", alone).unwrap_err().to_string();
        assert!(
            error.contains("one device for one process, found 2"),
            "{error}"
        );
        let error = device("flex:0,flex:1", place(2, 3))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("expected 3 devices") && error.contains("found 2"),
            "{error}"
        );
    }
}
