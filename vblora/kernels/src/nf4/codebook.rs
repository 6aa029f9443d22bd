//! The tables of the format: 16 values of NF4, and 256 values for the second level.

/// The 16 values of NF4 (QLoRA, arXiv 2305.14314, appendix E), ascending.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.6961928,
    -0.52507305,
    -0.3949175,
    -0.28444138,
    -0.18477343,
    -0.091050036,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.33791524,
    0.44070983,
    0.562617,
    0.72295684,
    1.0,
];

/// The code of the value 0, which a block of zeros has everywhere.
pub(super) const ZERO: u8 = 7;

/// The code of the value 0 in the second level.
pub(super) const ZERO_SCALE: u8 = 127;

/// A value above the midpoint of two neighbours takes the upper one.
pub(super) fn midpoints() -> [f32; 15] {
    std::array::from_fn(|i| (NF4[i] + NF4[i + 1]) * 0.5)
}

/// The signed map of the second level, ascending: bitsandbytes' `create_dynamic_map`, with torch's f32 arithmetic.
pub fn scale_map() -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut at = 0;
    for exponent in 0..7 {
        let points = (1usize << exponent) + 1;
        let edge = |i: usize| edge(i, points);
        let power = 10f64.powi(exponent - 6) as f32;
        for i in 0..points - 1 {
            let value = power * ((edge(i) + edge(i + 1)) / 2.0);
            map[at] = value;
            map[at + 1] = -value;
            at += 2;
        }
    }
    // The two places that are left: 0 is there, and the last one is 1.
    map[255] = 1.0;
    map.sort_by(f32::total_cmp);
    map
}

/// One of the points that divide 0.1 to 1, counted from the nearer end and rounded once.
fn edge(i: usize, points: usize) -> f32 {
    let step = (1.0 - 0.1f32) / (points - 1) as f32;
    match i < points / 2 {
        true => step.mul_add(i as f32, 0.1),
        false => (-step).mul_add((points - 1 - i) as f32, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_ascend_and_hold_zero_and_one() {
        let map = scale_map();
        for table in [&NF4[..], &map] {
            assert!(table.is_sorted());
            assert_eq!(table.last(), Some(&1.0));
        }
        assert_eq!(NF4[usize::from(ZERO)], 0.0);
        assert_eq!(map[usize::from(ZERO_SCALE)], 0.0);
    }
}
