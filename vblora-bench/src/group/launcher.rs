//! What the environment says about the launcher that started this process.

use std::env;

use crate::{Error, Result};

/// Variables in which launchers say how many processes they have started: Open MPI, MPICH and Intel MPI, MVAPICH, Slurm's `srun`.
const SIZES: [&str; 4] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
];

/// The number of processes that a launcher has started for this job, and the variable that says so; `None` without a launcher or for one
/// process.
pub(super) fn launched() -> Option<(usize, &'static str)> {
    several(|name| env::var(name).ok())
}

/// Returns true if a launcher has started this process, be it alone.
pub fn is_launched() -> bool {
    SIZES.iter().any(|name| env::var_os(name).is_some())
}

/// Refuses work of which every process of a job would do the whole.
///
/// # Errors
/// A launcher has started several processes.
pub fn require_alone(work: &str) -> Result<()> {
    match launched() {
        None => Ok(()),
        Some((size, name)) => Err(Error::Launched {
            size,
            name,
            reason: format!(
                "each would do the whole work of {work}: start it without mpirun or srun"
            ),
        }),
    }
}

fn several(value: impl Fn(&str) -> Option<String>) -> Option<(usize, &'static str)> {
    let sizes = SIZES.iter().filter_map(|&name| {
        let size = value(name)?.trim().parse().ok()?;
        Some((size, name))
    });
    sizes
        .max_by_key(|(size, _)| *size)
        .filter(|(size, _)| *size > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launcher_says_how_many_there_are() {
        let found = |given: &[(&str, &str)]| {
            let given = given.to_vec();
            several(|name| {
                let found = given.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "1")]), None);
        assert_eq!(found(&[("PMI_SIZE", "many")]), None);
        assert_eq!(found(&[("PMI_SIZE", "4")]), Some((4, "PMI_SIZE")));
        // A batch script of one task may start more with mpirun.
        let both = [("SLURM_STEP_NUM_TASKS", "1"), ("OMPI_COMM_WORLD_SIZE", "3")];
        assert_eq!(found(&both), Some((3, "OMPI_COMM_WORLD_SIZE")));
    }
}
