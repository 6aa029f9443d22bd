//! Numbers in fewer bytes: indices in as many bits as their bank needs, values in 8 or 16 bits.

use half::f16;

use crate::count::packed_bytes;

/// Numbers below `2^bits` one after another, the lowest bit first, the last byte filled up with zeros.
pub(super) fn pack(numbers: &[u32], bits: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packed_bytes(numbers.len(), bits));
    let (mut held, mut filled) = (0_u64, 0);
    for &number in numbers {
        held |= u64::from(number) << filled;
        filled += bits;
        while filled >= 8 {
            bytes.push(held as u8);
            held >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        bytes.push(held as u8);
    }
    bytes
}

/// The `n` numbers that [`pack`] packed; the bytes must be as many as [`packed_bytes`] says.
pub(super) fn unpack(bytes: &[u8], bits: usize, n: usize) -> Vec<u32> {
    let mask = (1_u64 << bits) - 1;
    let mut bytes = bytes.iter();
    let (mut held, mut filled) = (0_u64, 0);
    let next = |_| {
        while filled < bits {
            held |= u64::from(*bytes.next().unwrap_or(&0)) << filled;
            filled += 8;
        }
        let number = (held & mask) as u32;
        held >>= bits;
        filled -= bits;
        number
    };
    (0..n).map(next).collect()
}

/// Rows of length `columns` in 8 signed bits and one scale each, the row's largest magnitude over 127.
pub(super) fn to_8_bits(values: &[f32], columns: usize) -> (Vec<i8>, Vec<f32>) {
    let (mut small, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for row in values.chunks(columns.max(1)) {
        let scale = row.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / 127.0;
        scales.push(scale);
        // A row of zeros has no scale to divide by.
        let divisor = if scale > 0.0 { scale } else { 1.0 };
        small.extend(row.iter().map(|v| (v / divisor).round() as i8));
    }
    (small, scales)
}

/// What [`to_8_bits`] kept.
pub(super) fn from_8_bits(small: &[i8], scales: &[f32], columns: usize) -> Vec<f32> {
    let rows = small.chunks(columns.max(1)).zip(scales);
    rows.flat_map(|(row, scale)| row.iter().map(move |&v| f32::from(v) * scale))
        .collect()
}

/// A weight from 0 to 1 in 8 bits.
pub(super) fn weight_to_8_bits(weight: f32) -> u8 {
    (weight * 255.0).round() as u8
}

/// What [`weight_to_8_bits`] kept.
pub(super) fn weight_from_8_bits(small: u8) -> f32 {
    f32::from(small) / 255.0
}

/// Rounded to half precision.
pub(super) fn to_16_bits(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_numbers_come_back(bits in 0_usize..=32, numbers in prop::collection::vec(any::<u32>(), 0..70)) {
            let numbers: Vec<u32> = numbers.iter().map(|n| (u64::from(*n) & ((1 << bits) - 1)) as u32).collect();
            let bytes = pack(&numbers, bits);
            prop_assert_eq!(bytes.len(), packed_bytes(numbers.len(), bits));
            prop_assert_eq!(unpack(&bytes, bits, numbers.len()), numbers);
        }

        #[test]
        fn eight_bits_are_off_by_half_a_step_at_most(rows in prop::collection::vec(-3.0_f32..3.0, 0..40), zeros in any::<bool>()) {
            let rows: Vec<f32> = rows.iter().map(|v| if zeros { 0.0 } else { *v }).collect();
            let (small, scales) = to_8_bits(&rows, 4);
            for ((found, expected), scale) in from_8_bits(&small, &scales, 4).iter().zip(&rows).zip(scales.iter().flat_map(|s| [s; 4])) {
                prop_assert!((found - expected).abs() <= 0.5001 * scale);
            }
        }
    }
}
