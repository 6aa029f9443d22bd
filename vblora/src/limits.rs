//! What settings are held to, so that no size overflows and no typing error is allocated.
//!
//! Files have limits of their own, which stand with their readers. `docs/limits.md` lists all of them.

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

/// A setting from 1 to `most`.
pub(crate) fn check_size(setting: &'static str, value: usize, most: usize) -> Result<()> {
    match value {
        0 => Err(Error::setting(setting, "at least 1", value)),
        _ if value > most => Err(Error::setting(setting, format!("at most {most}"), value)),
        _ => Ok(()),
    }
}

/// A rank of factors `[d_in, r]` and `[r, d_out]` for every site, [`MAX_VALUES`] together.
pub(crate) fn check_rank(rank: usize, plan: &SitePlan) -> Result<()> {
    check_size("rank", rank, MAX_RANK)?;
    let what = "values in all factors of these sites";
    check_product("rank", rank, factor_values(1, plan), what)
}

/// The values of all factors of these sites: each has `[d_in, r]` and `[r, d_out]`.
pub(crate) fn factor_values(rank: usize, plan: &SitePlan) -> u64 {
    let dims = plan.sites().iter().flat_map(|site| [site.d_in, site.d_out]);
    let width = dims.fold(0_u64, |sum, dim| sum.saturating_add(dim as u64));
    width.saturating_mul(rank as u64)
}

/// A setting of which there are `each` values for every unit, [`MAX_VALUES`] together.
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

/// Refuses what cannot be allocated, which would end the process: so many values in f32. Nothing is kept.
///
/// # Errors
/// [`Error::NoRoom`], naming what it is for.
pub fn check_room(what: impl Into<String>, values: u64) -> Result<()> {
    let bytes = values.saturating_mul(4);
    let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
    // Systems promise more than they have, and end a process that takes them at their word.
    let is_there = machine_bytes().is_none_or(|all| bytes <= all);
    match is_there && Vec::<u8>::new().try_reserve_exact(wanted).is_ok() {
        true => Ok(()),
        false => Err(Error::NoRoom {
            what: what.into(),
            bytes,
        }),
    }
}

/// The machine's memory and swap space, where the system says.
fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let all = kilobytes("MemTotal:")?.checked_add(kilobytes("SwapTotal:")?)?;
    all.checked_mul(1024)
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
}
