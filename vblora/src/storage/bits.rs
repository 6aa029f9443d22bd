//! Numbers in fewer bits: indices in as many as their bank needs, values in 8 or 16.

use bitstream_io::{BitRead, BitReader, BitWrite, BitWriter, LittleEndian};
use half::f16;

use crate::count::packed_bytes;

/// Numbers below `2^bits` in `bits` bits each, the lowest bit first. Zeros fill up the last byte.
pub(super) fn pack(numbers: &[u32], bits: usize) -> Vec<u8> {
    let bytes = Vec::with_capacity(packed_bytes(numbers.len(), bits));
    let mut stream = BitWriter::endian(bytes, LittleEndian);
    let mut numbers = numbers.iter();
    numbers
        .try_for_each(|&number| stream.write_unsigned_var(bits as u32, number))
        .and_then(|()| stream.byte_align())
        .expect("memory takes every byte, and no number is above its bits");
    stream.into_writer()
}

/// The `n` numbers that [`pack`] wrote. The number of bytes must be [`packed_bytes`].
pub(super) fn unpack(bytes: &[u8], bits: usize, n: usize) -> Vec<u32> {
    let mut stream = BitReader::endian(bytes, LittleEndian);
    // A collected `Result` would grow by doubling, and take half as much again.
    let mut numbers = Vec::with_capacity(n);
    for _ in 0..n {
        let number = stream.read_unsigned_var(bits as u32);
        numbers.push(number.expect("the caller has checked the number of bytes"));
    }
    numbers
}

/// Rows of length `columns` in 8 signed bits, with one scale a row: its largest magnitude over 127.
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

/// The values that [`to_8_bits`] rounded.
pub(super) fn from_8_bits(small: &[i8], scales: &[f32], columns: usize) -> Vec<f32> {
    let rows = small.chunks(columns.max(1)).zip(scales);
    rows.flat_map(|(row, scale)| row.iter().map(move |&v| f32::from(v) * scale))
        .collect()
}

/// A weight from 0 to 1 in 8 bits.
pub(super) fn weight_to_8_bits(weight: f32) -> u8 {
    (weight * 255.0).round() as u8
}

/// The weight that [`weight_to_8_bits`] rounded.
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

    #[test]
    fn the_lowest_bit_comes_first() {
        assert_eq!(pack(&[0b101, 0b011, 0b110], 3), [0b1001_1101, 0b1]);
        assert_eq!(pack(&[0x1234, 0x5], 16), [0x34, 0x12, 0x05, 0x00]);
    }

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
