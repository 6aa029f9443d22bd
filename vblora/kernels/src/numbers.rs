//! Floats as files hold them, little-endian, to f32 and back.

use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Values that are converted at once, so that they stay in the first-level cache.
const RUN: usize = 512;

/// A type in which files hold floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

/// Widens values to f32, and rounds an f64 to it. Bytes beyond the last whole value are left out.
pub fn to_f32(float: Float, bytes: &[u8]) -> Vec<f32> {
    match float {
        Float::F16 => widened(bytes, f16::from_le_bytes),
        Float::Bf16 => widened(bytes, bf16::from_le_bytes),
        Float::F32 => each(bytes, f32::from_le_bytes),
        Float::F64 => each(bytes, |value| f64::from_le_bytes(value) as f32),
    }
}

/// Bytes of the values in a type, each rounded once, to the nearest even.
///
/// # Errors
/// The place of the first value that is not finite in this type.
pub fn from_f32(float: Float, values: &[f32]) -> Result<Vec<u8>, usize> {
    match float {
        Float::F16 => rounded(values, f16::to_le_bytes),
        Float::Bf16 => rounded(values, bf16::to_le_bytes),
        Float::F32 => bytes(values, f32::to_le_bytes),
        Float::F64 => bytes(values, |value| f64::from(value).to_le_bytes()),
    }
}

/// The place of the first value that is NaN or infinite.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    let is_finite = |run: &[f32]| run.iter().fold(true, |all, value| all & value.is_finite());
    let run = values.chunks(RUN).position(|run| !is_finite(run))? * RUN;
    let place = values[run..].iter().position(|value| !value.is_finite())?;
    Some(run + place)
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|&bytes| value(bytes)).collect()
}

fn bytes<const N: usize>(values: &[f32], of: impl Fn(f32) -> [u8; N]) -> Result<Vec<u8>, usize> {
    if let Some(at) = first_not_finite(values) {
        return Err(at);
    }
    let mut bytes = vec![0; N * values.len()];
    let (places, _) = bytes.as_chunks_mut::<N>();
    for (place, &value) in places.iter_mut().zip(values) {
        *place = of(value);
    }
    Ok(bytes)
}

fn widened<H: Copy + Default>(bytes: &[u8], value: impl Fn([u8; 2]) -> H) -> Vec<f32>
where
    [H]: HalfFloatSliceExt,
{
    let (stored, _) = bytes.as_chunks::<2>();
    let mut values = vec![0.0; stored.len()];
    let mut halves = [H::default(); RUN];
    for (to, stored) in values.chunks_mut(RUN).zip(stored.chunks(RUN)) {
        let halves = &mut halves[..to.len()];
        for (half, &bytes) in halves.iter_mut().zip(stored) {
            *half = value(bytes);
        }
        halves.convert_to_f32_slice(to);
    }
    values
}

fn rounded<H: Copy + Default>(values: &[f32], of: impl Fn(H) -> [u8; 2]) -> Result<Vec<u8>, usize>
where
    [H]: HalfFloatSliceExt,
{
    let mut bytes = vec![0; 2 * values.len()];
    let (places, _) = bytes.as_chunks_mut::<2>();
    let (mut halves, mut widened) = ([H::default(); RUN], [0.0; RUN]);
    for (run, (places, values)) in places.chunks_mut(RUN).zip(values.chunks(RUN)).enumerate() {
        let (halves, widened) = (&mut halves[..values.len()], &mut widened[..values.len()]);
        halves.convert_from_f32_slice(values);
        halves.convert_to_f32_slice(widened);
        if let Some(at) = first_not_finite(widened) {
            return Err(run * RUN + at);
        }
        for (place, &half) in places.iter_mut().zip(&*halves) {
            *place = of(half);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More values than a run, and no whole number of runs.
    fn values() -> Vec<f32> {
        (0..2 * RUN + 77).map(|i| i as f32 / 4.0 - 100.0).collect()
    }

    #[test]
    fn all_halves_are_widened_as_one_by_one() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let (f16s, bf16s) = (to_f32(Float::F16, &all), to_f32(Float::Bf16, &all));
        for bits in 0..=u16::MAX {
            let at = usize::from(bits);
            for (found, expected) in [
                (f16s[at], f16::from_bits(bits).to_f32_const()),
                (bf16s[at], bf16::from_bits(bits).to_f32_const()),
            ] {
                assert!(
                    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                    "{bits:#x}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn values_that_a_type_has_come_back() {
        for float in [Float::F16, Float::Bf16, Float::F32, Float::F64] {
            let values: Vec<f32> = match float {
                Float::Bf16 => to_f32(float, &from_f32(float, &values()).unwrap()),
                _ => values(),
            };
            assert_eq!(to_f32(float, &from_f32(float, &values).unwrap()), values);
        }
    }

    #[test]
    fn values_are_rounded_as_one_by_one() {
        let values: Vec<f32> = values().iter().map(|value| value * 1.001).collect();
        let one_by_one = |of: fn(f32) -> u16| -> Vec<u8> {
            let bits = values.iter().map(|&value| of(value));
            bits.flat_map(u16::to_le_bytes).collect()
        };
        let expected = one_by_one(|value| f16::from_f32_const(value).to_bits());
        assert_eq!(from_f32(Float::F16, &values).unwrap(), expected);
        let expected = one_by_one(|value| bf16::from_f32_const(value).to_bits());
        assert_eq!(from_f32(Float::Bf16, &values).unwrap(), expected);
    }

    #[test]
    fn the_first_bad_value_is_found_in_any_run() {
        assert_eq!(first_not_finite(&values()), None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, RUN - 1, RUN, 2 * RUN + 76] {
                let mut values = values();
                values[at..].fill(bad);
                assert_eq!(first_not_finite(&values), Some(at));
                for float in [Float::F16, Float::Bf16, Float::F32, Float::F64] {
                    assert_eq!(from_f32(float, &values), Err(at));
                }
            }
        }
    }

    #[test]
    fn a_value_that_rounds_to_infinity_is_found() {
        assert_eq!(from_f32(Float::F16, &[65_504.0, 65_520.0]), Err(1));
        assert_eq!(from_f32(Float::Bf16, &[3.38e38, f32::MAX]), Err(1));
        assert!(from_f32(Float::F32, &[f32::MAX]).is_ok());
    }

    #[test]
    fn a_part_of_a_value_is_left_out() {
        assert_eq!(to_f32(Float::F16, &[0, 0x3C, 1]), [1.0]);
        assert_eq!(to_f32(Float::F32, &[0; 7]), [0.0]);
    }
}
