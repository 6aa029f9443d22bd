//! A counter-based hash. A draw is a function of its purpose, not of earlier draws.
//!
//! Selections and shuffles do not change when other rows are added or removed, and they need no generator state. The mixing step is
//! SplitMix64's (Steele, Lea and Flood 2014).

/// The hash of `(seed, name, index)`, uniform over 64 bits.
pub(crate) fn keyed_hash(seed: u64, name: &str, index: u64) -> u64 {
    let key = name
        .bytes()
        .fold(mix(seed), |state, byte| mix(state ^ u64::from(byte)));
    mix(key ^ mix(index))
}

/// Sorts `rows` into an order that depends only on the seed, the text of `name` and the rows' own keys.
pub(crate) fn shuffle_by<T>(rows: &mut [T], seed: u64, key: impl Fn(&T) -> (&str, u64)) {
    rows.sort_by_cached_key(|row| {
        let (name, index) = key(row);
        // The key breaks ties of hashes, so that the order never depends on the input's order.
        (keyed_hash(seed, name, index), name.to_owned(), index)
    });
}

fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_splitmix64_reference_stream() {
        // First outputs of SplitMix64 for seed 1234567 (the value Rosetta Code lists).
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = keyed_hash(1, "wh_island", 2);
        assert_ne!(base, keyed_hash(2, "wh_island", 2));
        assert_ne!(base, keyed_hash(1, "wh_islane", 2));
        assert_ne!(base, keyed_hash(1, "wh_island", 3));
    }

    #[test]
    fn shuffle_forgets_the_order_of_its_input() {
        let mut forward: Vec<u64> = (0..100).collect();
        let mut backward: Vec<u64> = (0..100).rev().collect();
        shuffle_by(&mut forward, 7, |&row| ("row", row));
        shuffle_by(&mut backward, 7, |&row| ("row", row));
        assert_eq!(forward, backward);
        assert_ne!(forward, (0..100).collect::<Vec<_>>());
    }
}
