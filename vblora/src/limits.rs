//! Limits on settings, so that no size overflows and no typing error leads to a huge allocation.
//!
//! The readers of files define further limits. `docs/limits.md` lists all of them.

use std::path::Path;

use crate::{Error, Result, SitePlan};

pub use crate::storage::{
    MAX_CONFIG_BYTES, MAX_DIMENSION, MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_INDEX_BYTES,
    MAX_NAME_BYTES, MAX_RECIPE_BYTES, MAX_STORED_FACTORS, MAX_SUB_VECTORS,
    checkpoint::{MAX_MANIFEST_BYTES, MAX_SET_BYTES, MAX_SET_FILES},
};

/// The largest rank. VeRA's largest published one is 1,024.
pub const MAX_RANK: usize = 1 << 20;

/// The most vectors of a bank. The paper's largest bank has 2,048.
pub const MAX_BANK: usize = 1 << 24;

/// The most values of a bank, of all logits, and of all factors of an adapter: 16 GiB in f32. VeRA on Llama-2-7B has factors of 2.6e9.
pub const MAX_VALUES: u64 = 1 << 32;

/// Checks a setting that must lie between 1 and `most`.
pub(crate) fn check_size(setting: &'static str, value: usize, most: usize) -> Result<()> {
    match value {
        0 => Err(Error::setting(setting, "at least 1", value)),
        _ if value > most => Err(Error::setting(setting, format!("at most {most}"), value)),
        _ => Ok(()),
    }
}

/// Checks a rank: the factors `[d_in, r]` and `[r, d_out]` of all sites have at most [`MAX_VALUES`] values together.
pub(crate) fn check_rank(rank: usize, plan: &SitePlan) -> Result<()> {
    check_size("rank", rank, MAX_RANK)?;
    let what = "values in all factors of these sites";
    check_product("rank", rank, factor_values(1, plan), what)
}

/// The number of values in all factors of these sites: each has `[d_in, r]` and `[r, d_out]`.
pub(crate) fn factor_values(rank: usize, plan: &SitePlan) -> u64 {
    let dims = plan.sites().iter().flat_map(|site| [site.d_in, site.d_out]);
    let width = dims.fold(0_u64, |sum, dim| sum.saturating_add(dim as u64));
    width.saturating_mul(rank as u64)
}

/// Checks a setting with `each` values per unit: at most [`MAX_VALUES`] together.
pub(crate) fn check_product(
    setting: &'static str,
    value: usize,
    each: u64,
    what: &str,
) -> Result<()> {
    let most = MAX_VALUES / each.max(1);
    match value as u64 > most {
        true => Err(Error::setting(
            setting,
            format!("at most {most}, with {MAX_VALUES} {what}"),
            value,
        )),
        false => Ok(()),
    }
}

/// Checks that `values` f32 values can be allocated, because a failed allocation would end the process. Keeps no memory.
///
/// # Errors
/// [`Error::NoRoom`], which names the purpose `what`.
pub fn check_room(what: impl Into<String>, values: u64) -> Result<()> {
    let bytes = values.saturating_mul(4);
    let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
    // Operating systems promise more memory than they have, and kill a process that uses it.
    let is_there = memory_bytes().is_none_or(|all| bytes <= all);
    match is_there && Vec::<u8>::new().try_reserve_exact(wanted).is_ok() {
        true => Ok(()),
        false => Err(Error::NoRoom {
            what: what.into(),
            bytes,
        }),
    }
}

/// Checks that the disk has room for `bytes` bytes before writing begins. `path` need not exist yet.
///
/// # Errors
/// [`Error::NoDisk`], naming the path and both numbers.
pub fn check_disk(path: &Path, bytes: u64) -> Result<()> {
    match disk_bytes(path) {
        Some(left) if left < bytes => Err(Error::NoDisk {
            path: path.to_owned(),
            bytes,
            left,
        }),
        _ => Ok(()),
    }
}

/// The bytes left on the disk of the nearest existing folder above a path, if the system tells.
#[cfg(unix)]
fn disk_bytes(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let above = path.ancestors().find(|above| above.exists())?;
    let found = rustix::fs::statvfs(above).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(unix))]
fn disk_bytes(_: &Path) -> Option<u64> {
    None
}

/// The memory that this process may use, if the system tells: the machine's with its swap space, or less by its control groups.
fn memory_bytes() -> Option<u64> {
    let groups = group_bytes(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"));
    machine_bytes().into_iter().chain(groups).min()
}

/// The machine's memory and swap space.
fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let all = kilobytes("MemTotal:")?.checked_add(kilobytes("SwapTotal:")?)?;
    all.checked_mul(1024)
}

/// The smallest limit of the control groups of this process, of either version. In a container the root has the container's limit.
fn group_bytes(root: &Path, own: &Path) -> Option<u64> {
    let own = std::fs::read_to_string(own).unwrap_or_default();
    // ID:CONTROLLERS:PATH, without controllers in version 2.
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some((controllers, path))
    };
    let limit = |folder: &Path, name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let groups = own.lines().filter_map(of);
    let limits = groups.flat_map(|(controllers, path)| {
        let is_memory = controllers.split(',').any(|one| one == "memory");
        let (base, name) = match is_memory {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => (root.to_owned(), "memory.max"),
        };
        let place = base.join(path.trim_start_matches('/'));
        let above = place.ancestors().take_while(|at| at.starts_with(&base));
        let found: Vec<u64> = above.filter_map(|folder| limit(folder, name)).collect();
        found
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Site, Targets};

    fn plan(dims: [usize; 2]) -> SitePlan {
        let site = Site::new("one", dims[0], dims[1]);
        Targets::all_linear().select(&[site]).unwrap()
    }

    #[test]
    fn the_edges_hold_and_what_is_beyond_is_named_with_its_bound() {
        check_rank(MAX_RANK, &plan([2048, 2048])).unwrap();
        let message = |rank, dims| check_rank(rank, &plan(dims)).unwrap_err().to_string();
        assert_eq!(message(0, [1, 1]), "rank must be at least 1, found 0");
        assert_eq!(
            message(usize::MAX, [1, 1]),
            format!("rank must be at most {MAX_RANK}, found {}", usize::MAX)
        );
        assert_eq!(
            message(MAX_RANK, [2048, 2049]),
            format!(
                "rank must be at most 1048320, with {MAX_VALUES} values in all factors of these sites, found {MAX_RANK}"
            )
        );
        assert!(message(1, [usize::MAX; 2]).contains("at most 0"));
    }

    #[test]
    fn what_cannot_be_allocated_is_named_with_its_size() {
        check_room("nothing", 1 << 10).unwrap();
        for (values, bytes) in [(1 << 60, 1_u64 << 62), (u64::MAX, u64::MAX)] {
            let message = check_room("factors", values).unwrap_err().to_string();
            let expected = format!("factors: {bytes} bytes, which cannot be allocated here");
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn control_groups_of_both_versions_bound_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("root/memory.max", "max\n");
        put("root/job/memory.max", "4096\n");
        put("root/job/part/memory.max", "8192\n");
        put("root/memory/old/memory.limit_in_bytes", "2048\n");
        let limit = |own: &str| {
            put("own", own);
            group_bytes(&dir.path().join("root"), &dir.path().join("own"))
        };
        assert_eq!(limit("0::/job/part\n"), Some(4096));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("4:cpu,memory:/old\n0::/job/part\n"), Some(2048));
        assert_eq!(limit("nonsense"), None);
        // A container's view of its own group.
        put("root/memory.max", "1024\n");
        assert_eq!(limit("0::/not/seen/here\n"), Some(1024));
    }

    #[test]
    fn a_disk_without_room_is_named_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/there/yet");
        check_disk(&path, 1).unwrap();
        if cfg!(unix) {
            let message = check_disk(&path, u64::MAX).unwrap_err().to_string();
            assert!(
                message.contains("yet") && message.contains(&u64::MAX.to_string()),
                "{message}"
            );
        }
    }
}
