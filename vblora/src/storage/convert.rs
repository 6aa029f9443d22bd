//! Stored values to f32, and back.

use safetensors::Dtype;
use vblora_kernels::numbers::{self, Float, first_not_finite};

/// Little-endian values of a tensor as f32.
///
/// # Errors
/// The cause alone. A value that is not finite (or an f64 too large for f32) is an error. Such a weight would turn every output into NaN,
/// far from the cause.
pub fn to_f32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let Some(float) = float(dtype) else {
        return Err(format!(
            "type {dtype} cannot be a weight here; expected F32, F16, BF16 or F64"
        ));
    };
    let values = numbers::to_f32(float, bytes);
    match first_not_finite(&values) {
        None => Ok(values),
        Some(at) => Err(format!("value {at} is not finite: {}", values[at])),
    }
}

/// Values as the little-endian bytes of a float type, each rounded once, to the nearest even.
///
/// # Errors
/// The cause alone: another type, a value that is not finite in this one.
pub fn from_f32(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, String> {
    let float = match float(dtype) {
        Some(float) if float != Float::F64 => float,
        _ => return Err(format!("type {dtype}; expected F32, F16 or BF16")),
    };
    numbers::from_f32(float, values)
        .map_err(|at| format!("{} is not finite as {dtype}", values[at]))
}

/// Little-endian integers of a tensor, none negative, as u32: the types in which top-k indices are found.
///
/// # Errors
/// The cause alone: another type, a negative value, a value beyond u32.
pub(super) fn to_u32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<u32>, String> {
    let values: Vec<i64> = match dtype {
        Dtype::U8 => map(bytes, |value| i64::from(u8::from_le_bytes(value))),
        Dtype::I8 => map(bytes, |value| i64::from(i8::from_le_bytes(value))),
        Dtype::U16 => map(bytes, |value| i64::from(u16::from_le_bytes(value))),
        Dtype::I16 => map(bytes, |value| i64::from(i16::from_le_bytes(value))),
        Dtype::U32 => map(bytes, |value| i64::from(u32::from_le_bytes(value))),
        Dtype::I32 => map(bytes, |value| i64::from(i32::from_le_bytes(value))),
        Dtype::I64 => map(bytes, i64::from_le_bytes),
        other => {
            return Err(format!(
                "type {other} cannot be an index here; expected U8 to U32 or I8 to I64"
            ));
        }
    };
    values
        .into_iter()
        .map(|value| u32::try_from(value).map_err(|_| format!("{value} is no index")))
        .collect()
}

fn map<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| value(chunk)).collect()
}

fn float(dtype: Dtype) -> Option<Float> {
    match dtype {
        Dtype::F16 => Some(Float::F16),
        Dtype::BF16 => Some(Float::Bf16),
        Dtype::F32 => Some(Float::F32),
        Dtype::F64 => Some(Float::F64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_becomes_f32() {
        let values = [1.5f32, -0.25, 1024.0, 0.0];
        let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16s: Vec<u8> = [0x3E00u16, 0xB400, 0x6400, 0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let bf16s: Vec<u8> = [0x3FC0u16, 0xBE80, 0x4480, 0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let f64s: Vec<u8> = values
            .iter()
            .flat_map(|&v| f64::from(v).to_le_bytes())
            .collect();
        assert_eq!(to_f32(Dtype::F32, &f32s).unwrap(), values);
        assert_eq!(to_f32(Dtype::F16, &f16s).unwrap(), values);
        assert_eq!(to_f32(Dtype::BF16, &bf16s).unwrap(), values);
        assert_eq!(to_f32(Dtype::F64, &f64s).unwrap(), values);
    }

    #[test]
    fn values_that_are_not_finite_are_errors_with_their_place() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bytes: Vec<u8> = [1.0, bad].iter().flat_map(|v| v.to_le_bytes()).collect();
            assert!(to_f32(Dtype::F32, &bytes).unwrap_err().contains("value 1"));
        }
        let too_large = 1e300f64.to_le_bytes();
        assert!(to_f32(Dtype::F64, &too_large).is_err());
        assert!(to_f32(Dtype::F16, &0x7E00u16.to_le_bytes()).is_err());
    }

    #[test]
    fn integers_are_no_weights() {
        let error = to_f32(Dtype::I64, &[0; 8]).unwrap_err();
        assert!(error.contains("I64") && error.contains("BF16"), "{error}");
    }

    #[test]
    fn values_are_rounded_once_to_the_nearest_even() {
        // 1 + 2^-8 lies halfway between two bf16 values, 1 + 2^-11 between two f16 values; both go to the even one, 1.
        let halfway = [1.0 + 1.0 / 256.0, 1.0 + 1.0 / 2048.0];
        assert_eq!(
            from_f32(Dtype::BF16, &halfway[..1]).unwrap(),
            0x3F80u16.to_le_bytes()
        );
        assert_eq!(
            from_f32(Dtype::F16, &halfway[1..]).unwrap(),
            0x3C00u16.to_le_bytes()
        );
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let bytes = from_f32(dtype, &[1.5, -0.25]).unwrap();
            assert_eq!(to_f32(dtype, &bytes).unwrap(), [1.5, -0.25]);
            assert!(from_f32(dtype, &[f32::INFINITY]).is_err());
        }
        assert!(
            from_f32(Dtype::F16, &[70_000.0])
                .unwrap_err()
                .contains("70000")
        );
        assert!(from_f32(Dtype::I8, &[0.0]).is_err());
    }
}
