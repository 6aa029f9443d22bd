//! Writing safetensors, all or nothing.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use vblora::storage::write_atomically;

use super::HostTensor;
use crate::{Error, Result};

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveDtype {
    /// Four bytes a value, exact.
    F32,
    /// Two bytes a value, rounded to nearest even; a value over 65,504 is an error.
    F16,
}

/// Writes tensors, given as (name, shape, row-major values), to a safetensors file that Hugging Face reads.
///
/// The file appears under its name only when it is whole and on the disk: it is written beside it, synced
/// and renamed.
///
/// # Errors
/// [`Error::Tensor`] for a name given twice, a shape that does not fit its values, or a value that is not
/// finite in `dtype`. [`Error::Adapter`] where the system refuses.
pub fn save_safetensors(
    path: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    dtype: SaveDtype,
) -> Result<()> {
    let file = path.display().to_string();
    let stored = check_and_convert(tensors, dtype).map_err(|(tensor, problem)| Error::Tensor {
        file: file.clone(),
        tensor: tensor.to_owned(),
        problem,
    })?;
    let views = tensors
        .iter()
        .zip(&stored)
        .map(|((name, shape, _), bytes)| {
            Ok((
                *name,
                TensorView::new(dtype.stored(), shape.to_vec(), bytes)?,
            ))
        })
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
    // transformers refuses a file without this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let whole = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|error| Error::Safetensors {
            file: file.clone(),
            problem: error.to_string(),
        })?;
    Ok(write_atomically(path, &whole)?)
}

/// [`save_safetensors`] of tensors by name.
///
/// # Errors
/// As [`save_safetensors`].
pub fn save_tensors(path: &Path, tensors: &[(String, HostTensor)], dtype: SaveDtype) -> Result<()> {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.values.as_slice()))
        .collect();
    save_safetensors(path, &views, dtype)
}

impl SaveDtype {
    fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
        }
    }

    /// Little-endian bytes of a value, or nothing if it is not finite when stored so.
    fn append(self, value: f32, bytes: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::F32 => {
                bytes.extend(value.to_le_bytes());
                value.is_finite().then_some(())
            }
            Self::F16 => {
                let half = f16::from_f32(value);
                bytes.extend(half.to_le_bytes());
                half.is_finite().then_some(())
            }
        }
    }
}

fn check_and_convert<'a>(
    tensors: &[(&'a str, &[usize], &[f32])],
    dtype: SaveDtype,
) -> std::result::Result<Vec<Vec<u8>>, (&'a str, String)> {
    let mut names = BTreeSet::new();
    tensors
        .iter()
        .map(|&(name, shape, values)| {
            if !names.insert(name) {
                return Err((name, "is given twice".to_owned()));
            }
            let size = shape
                .iter()
                .try_fold(1usize, |n, &side| n.checked_mul(side));
            if size != Some(values.len()) {
                let problem = format!("shape {shape:?} does not fit {} values", values.len());
                return Err((name, problem));
            }
            convert(values, dtype).map_err(|problem| (name, problem))
        })
        .collect()
}

fn convert(values: &[f32], dtype: SaveDtype) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for (at, &value) in values.iter().enumerate() {
        dtype
            .append(value, &mut bytes)
            .ok_or_else(|| format!("value {at} is not finite as {dtype:?}: {value}"))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, ModelFiles};

    type Given<'a> = (&'a str, &'a [usize], &'a [f32]);

    fn round_trip(dtype: SaveDtype, values: &[f32]) -> Vec<f32> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let shape = [values.len() / 3, 3];
        save_safetensors(&path, &[("w", &shape, values), ("b", &[1], &[0.5])], dtype).unwrap();
        let mut checkpoint = Checkpoint::open(&ModelFiles::open(dir.path()).unwrap()).unwrap();
        assert_eq!(checkpoint.tensor("b").unwrap().values, [0.5]);
        let tensor = checkpoint.tensor("w").unwrap();
        assert_eq!(tensor.shape, shape);
        tensor.values
    }

    #[test]
    fn f32_comes_back_bit_for_bit() {
        let values = [0.1, -1e-38, 3.4e38, 7.0, -0.0, 1.0 / 3.0];
        let back = round_trip(SaveDtype::F32, &values);
        assert!(
            back.iter()
                .zip(values)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }

    #[test]
    fn f16_comes_back_rounded_to_nearest() {
        let back = round_trip(SaveDtype::F16, &[0.1, 65504.0, -2.0, 2049.0, 2051.0, 6e-8]);
        assert_eq!(
            back,
            [0.099_975_586, 65504.0, -2.0, 2048.0, 2052.0, 5.960_464_5e-8]
        );
    }

    #[test]
    fn values_that_cannot_be_stored_are_named_and_leave_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, b"old").unwrap();
        let attempts: [(&[Given<'_>], SaveDtype, &str); 4] = [
            (
                &[("big", &[1], &[65520.0])],
                SaveDtype::F16,
                "\"big\": value 0",
            ),
            (
                &[("nan", &[2], &[0.0, f32::NAN])],
                SaveDtype::F32,
                "\"nan\": value 1",
            ),
            (
                &[("s", &[2, 2], &[1.0])],
                SaveDtype::F32,
                "\"s\": shape [2, 2] does not fit 1 values",
            ),
            (
                &[("d", &[1], &[1.0]), ("d", &[1], &[1.0])],
                SaveDtype::F32,
                "\"d\": is given twice",
            ),
        ];
        for (tensors, dtype, expected) in attempts {
            let error = save_safetensors(&path, tensors, dtype)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        // A file where a folder would have to be; an absent folder is made.
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let save = |path: &Path| save_safetensors(path, &[("a", &[1], &[1.0])], SaveDtype::F32);
        let error = save(&dir.path().join("file/model.safetensors")).unwrap_err();
        assert!(
            error.to_string().contains("file/model.safetensors"),
            "{error}"
        );
        save(&dir.path().join("absent/model.safetensors")).unwrap();
        assert!(dir.path().join("absent/model.safetensors").is_file());
    }
}
