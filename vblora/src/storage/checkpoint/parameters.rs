//! Trained parameters with their optimizer moments, without loss. If most elements still have their drawn values to the bit and moments of
//! zero, only the others are stored. Without weight decay, logits that were never selected need no storage.
//!
//! | tensor | dtype and shape | what |
//! | --- | --- | --- |
//! | `NAME/value` | f32 `[n]`, or `[m]` of the touched elements alone | the values |
//! | `NAME/first`, `NAME/second` | f32, as `value` | AdamW's moments; absent before the first step |
//! | `NAME/touched` | u8 | the gap before each of the m elements, 7 bits to a byte, low bits first; absent if all are stored |
//! | `NAME/drawn` | u8 `[32]` | SHA-256 of the values that the others were drawn with: a machine may compute logarithms otherwise |

use std::path::Path;

use safetensors::Dtype;

use crate::{
    Error, Result,
    admixture::check_finite,
    storage::{
        hash::sha256_floats,
        tensors::{StoredTensor, TensorFile, tensor_bytes},
    },
};

/// One parameter in training.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ParameterState {
    /// The values, flat.
    pub value: Vec<f32>,
    /// The optimizer's first and second moment, as many; `None` before its first step.
    pub moments: Option<[Vec<f32>; 2]>,
}

/// The stored part of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Every element.
    Whole,
    /// The elements that training has changed.
    Touched {
        /// The number of elements stored.
        elements: usize,
        /// The number of all elements.
        of: usize,
    },
}

/// The stored part of each parameter, by name.
pub type Forms = Vec<(String, Form)>;

/// Writes parameters as the bytes of a safetensors file, and returns the stored part of each. `initial(name)` gives a parameter's initial
/// values, if a reader can draw them again. The smaller form is taken.
///
/// # Errors
/// A value or moment is not finite.
pub fn parameters_to_bytes<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a ParameterState)>,
    mut initial: impl FnMut(&str) -> Option<Vec<f32>>,
) -> Result<(Vec<u8>, Forms)> {
    let (mut tensors, mut forms) = (Vec::new(), Vec::new());
    for (name, state) in parameters {
        state.check(name)?;
        let form = state.store(name, initial(name), &mut tensors);
        forms.push((name.to_owned(), form));
    }
    let bytes = tensor_bytes(&tensors, None)
        .map_err(|reason| Error::setting("parameters", "writable", reason))?;
    Ok((bytes, forms))
}

/// Reads the parameters of a file that [`parameters_to_bytes`] made, in the order of `expected`: names and numbers of elements. `file`
/// names the source of the bytes in messages; `initial` must be the same as in writing.
///
/// # Errors
/// The bytes are no such file. A parameter is missing, unexpected, or of another size. Positions lie outside it. A value is not finite, or
/// a second moment is below zero.
pub fn parameters_from_bytes(
    file: &Path,
    bytes: Vec<u8>,
    expected: &[(String, usize)],
    mut initial: impl FnMut(&str) -> Option<Vec<f32>>,
) -> Result<Vec<ParameterState>> {
    let file = TensorFile::from_bytes(file, bytes)?;
    let is_expected = |tensor: &str| {
        let name = tensor.rsplit_once('/').map_or(tensor, |(name, _)| name);
        expected.iter().any(|(expected, _)| expected == name)
    };
    if let Some(stray) = file.names().find(|tensor| !is_expected(tensor)) {
        return Err(file.error(format!("tensor {stray:?} is of no parameter in training")));
    }
    expected
        .iter()
        .map(|(name, n)| read(&file, name, *n, || initial(name)))
        .collect()
}

impl ParameterState {
    fn check(&self, name: &str) -> Result<()> {
        check_finite(name, 1, &self.value)?;
        for moment in self.moments.iter().flatten() {
            assert_eq!(moment.len(), self.value.len(), "{name}: moments");
            check_finite(name, 1, moment)?;
        }
        Ok(())
    }

    /// True if element `i` differs in a bit from `initial` without moments.
    fn is_touched(&self, i: usize, initial: f32) -> bool {
        self.value[i].to_bits() != initial.to_bits()
            || self.moments.iter().flatten().any(|m| m[i].to_bits() != 0)
    }

    fn store(
        &self,
        name: &str,
        initial: Option<Vec<f32>>,
        tensors: &mut Vec<(String, StoredTensor)>,
    ) -> Form {
        let n = self.value.len();
        let initial = initial.filter(|initial| initial.len() == n);
        let touched: Option<Vec<usize>> = initial
            .as_ref()
            .map(|initial| (0..n).filter(|&i| self.is_touched(i, initial[i])).collect());
        let per_element = 4 * (1 + self.moments.iter().flatten().count());
        let packed = touched.map(|at| (pack_gaps(&at), at));
        let smaller =
            packed.filter(|(gaps, at)| gaps.len() + per_element * at.len() < per_element * n);
        let mut push = |part: &str, values: &[f32]| {
            let tensor = StoredTensor::floats(&[values.len()], values);
            tensors.push((format!("{name}/{part}"), tensor));
        };
        let parts = [("first", 0), ("second", 1)];
        let (Some((gaps, at)), Some(initial)) = (smaller, initial) else {
            push("value", &self.value);
            for (part, moment) in parts {
                self.moments.iter().for_each(|m| push(part, &m[moment]));
            }
            return Form::Whole;
        };
        let pick = |values: &[f32]| at.iter().map(|&i| values[i]).collect::<Vec<_>>();
        push("value", &pick(&self.value));
        for (part, moment) in parts {
            self.moments
                .iter()
                .for_each(|m| push(part, &pick(&m[moment])));
        }
        let gaps = StoredTensor::bytes(Dtype::U8, &[gaps.len()], gaps);
        tensors.push((format!("{name}/touched"), gaps));
        let drawn = StoredTensor::bytes(Dtype::U8, &[32], sha256_floats(&initial).to_vec());
        tensors.push((format!("{name}/drawn"), drawn));
        Form::Touched {
            elements: at.len(),
            of: n,
        }
    }
}

fn read(
    file: &TensorFile,
    name: &str,
    n: usize,
    initial: impl FnOnce() -> Option<Vec<f32>>,
) -> Result<ParameterState> {
    let part = |part: &str| format!("{name}/{part}");
    let has_moments = file.shape(&part("first")).is_some() || file.shape(&part("second")).is_some();
    let touched = part("touched");
    let at = match file.shape(&touched) {
        None => None,
        Some(_) => {
            let at = unpack_gaps(&file.bytes(&touched)?, n)
                .map_err(|reason| file.error(format!("tensor {touched:?}: {reason}")))?;
            let initial = initial().filter(|initial| initial.len() == n);
            let initial = initial.ok_or_else(|| {
                file.error(format!(
                    "tensor {touched:?}: the {n} initial values of {name} are not known here"
                ))
            })?;
            if *file.bytes(&part("drawn"))? != sha256_floats(&initial) {
                let reason = "the initial values are others here";
                return Err(file.error(format!("tensor {touched:?}: {reason}")));
            }
            Some((at, initial))
        }
    };
    let stored = at.as_ref().map_or(n, |(at, _)| at.len());
    let floats = |part: String| {
        let values = file.floats(&part)?;
        if values.len() == stored {
            return Ok(values);
        }
        Err(file.error(format!(
            "tensor {part:?}: expected {stored} values, found {}",
            values.len()
        )))
    };
    let value = floats(part("value"))?;
    let moments = match has_moments {
        true => Some([floats(part("first"))?, floats(part("second"))?]),
        false => None,
    };
    if let Some([_, second]) = &moments
        && let Some(i) = second.iter().position(|v| *v < 0.0)
    {
        let (tensor, found) = (part("second"), second[i]);
        return Err(file.error(format!(
            "tensor {tensor:?}: expected means of squares, found {found} at {i}"
        )));
    }
    let Some((at, initial)) = at else {
        return Ok(ParameterState { value, moments });
    };
    let scatter = |mut to: Vec<f32>, values: Vec<f32>| {
        at.iter().zip(values).for_each(|(&i, value)| to[i] = value);
        to
    };
    Ok(ParameterState {
        value: scatter(initial, value),
        moments: moments.map(|moments| moments.map(|moment| scatter(vec![0.0; n], moment))),
    })
}

/// Ascending positions as the gaps between them.
fn pack_gaps(at: &[usize]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut next = 0;
    for &i in at {
        let mut gap = i - next;
        while gap >= 0x80 {
            packed.push(gap as u8 | 0x80);
            gap >>= 7;
        }
        packed.push(gap as u8);
        next = i + 1;
    }
    packed
}

/// The positions below `n` of [`pack_gaps`].
fn unpack_gaps(packed: &[u8], n: usize) -> Result<Vec<usize>, String> {
    let (mut at, mut next) = (Vec::new(), 0_usize);
    let (mut gap, mut shift) = (0_usize, 0);
    for &byte in packed {
        let low = usize::from(byte & 0x7f);
        if shift >= usize::BITS || low << shift >> shift != low {
            return Err("a gap beyond every position".into());
        }
        gap |= low << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let i = next.checked_add(gap).filter(|&i| i < n);
            let i = i.ok_or_else(|| format!("a position outside the {n} elements"))?;
            at.push(i);
            (next, gap, shift) = (i + 1, 0, 0);
        }
    }
    match shift {
        0 => Ok(at),
        _ => Err("the last gap has no end".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "state.safetensors";

    fn round_trip(
        state: &ParameterState,
        initial: &[f32],
    ) -> Result<(ParameterState, Form, usize)> {
        let initial = |_: &str| Some(initial.to_vec());
        let (bytes, forms) = parameters_to_bytes([("x", state)], initial)?;
        let size = bytes.len();
        let expected = [("x".to_owned(), state.value.len())];
        let mut found = parameters_from_bytes(Path::new(FILE), bytes, &expected, initial)?;
        Ok((found.remove(0), forms[0].1, size))
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    /// n elements. Some are touched in the value, some in one moment.
    fn state(n: usize, touched: &[(usize, u8)], moments: bool) -> (ParameterState, Vec<f32>) {
        let initial: Vec<f32> = (0..n).map(|i| (i as f32 - 3.0) * 0.5).collect();
        let mut state = ParameterState {
            value: initial.clone(),
            moments: moments.then(|| [vec![0.0; n], vec![0.0; n]]),
        };
        for &(i, which) in touched {
            match (which % 3, &mut state.moments) {
                // The sign of a zero counts as well.
                (0, Some([first, _])) => first[i % n] = -0.0,
                (1, Some([_, second])) => second[i % n] = 1e-30,
                _ => state.value[i % n] = -state.value[i % n],
            }
        }
        (state, initial)
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(
            n in 1_usize..3000,
            touched in prop::collection::vec((0_usize..3000, 0_u8..3), 0..40),
            moments: bool,
        ) {
            let (state, initial) = state(n, &touched, moments);
            let (found, _, _) = round_trip(&state, &initial).unwrap();
            prop_assert_eq!(bits(&found.value), bits(&state.value));
            prop_assert_eq!(found.moments.is_some(), moments);
            for (found, expected) in found.moments.iter().flatten().zip(state.moments.iter().flatten()) {
                prop_assert_eq!(bits(found), bits(expected));
            }
        }

        #[test]
        fn gaps_give_back_positions(mut at in prop::collection::btree_set(0_usize..1 << 40, 0..50)) {
            at.insert(0);
            let at: Vec<usize> = at.into_iter().collect();
            prop_assert_eq!(unpack_gaps(&pack_gaps(&at), 1 << 40).unwrap(), at);
        }
    }

    #[test]
    fn only_what_was_touched_is_stored_unless_all_was() {
        let (few, initial) = state(1000, &[(7, 0), (8, 1), (900, 2)], true);
        let (_, form, size) = round_trip(&few, &initial).unwrap();
        let (elements, of) = (3, 1000);
        assert_eq!(form, Form::Touched { elements, of });
        assert!(size < 800, "{size}");
        let decayed = ParameterState {
            value: initial.iter().map(|v| v * 0.99 + 1.0).collect(),
            ..few
        };
        assert_eq!(round_trip(&decayed, &initial).unwrap().1, Form::Whole);
        // Values that a reader could not draw again are stored.
        let (_, forms) = parameters_to_bytes([("x", &decayed)], |_| None).unwrap();
        assert_eq!(forms[0].1, Form::Whole);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_names_file_and_tensor() {
        let (state, initial) = state(1000, &[(7, 0), (900, 2)], true);
        let (bytes, _) = parameters_to_bytes([("x", &state)], |_| Some(initial.clone())).unwrap();
        let error = |name: &str, n: usize, initial: Option<Vec<f32>>| {
            let expected = [(name.to_owned(), n)];
            let file = Path::new(FILE);
            let found = parameters_from_bytes(file, bytes.clone(), &expected, |_| initial.clone());
            let message = found.unwrap_err().to_string();
            assert!(message.starts_with(FILE), "{message}");
            message
        };
        assert!(error("x", 900, Some(initial.clone())).contains("outside the 900"));
        assert!(error("x", 1001, Some(initial.clone())).contains("not known here"));
        assert!(error("x", 1000, None).contains("not known here"));
        let mut other = initial.clone();
        other[500] = f32::from_bits(other[500].to_bits() + 1);
        assert!(error("x", 1000, Some(other)).contains("others here"));
        assert!(error("y", 1000, None).contains("of no parameter"));
        let forged = ParameterState {
            value: vec![1.0, 2.0],
            moments: Some([vec![0.5, -0.5], vec![0.25, -0.25]]),
        };
        let message = round_trip(&forged, &[0.0; 2]).unwrap_err().to_string();
        assert!(
            message.contains("x/second") && message.contains("-0.25 at 1"),
            "{message}"
        );
        let bad = ParameterState {
            value: vec![f32::NAN],
            moments: None,
        };
        let message = parameters_to_bytes([("bad", &bad)], |_| None).unwrap_err();
        assert!(message.to_string().contains("bad"), "{message}");
    }

    #[test]
    fn broken_gaps_are_errors() {
        assert!(unpack_gaps(&[0x80], 9).unwrap_err().contains("no end"));
        assert!(unpack_gaps(&[0xff; 12], 9).unwrap_err().contains("beyond"));
        assert!(unpack_gaps(&[3, 5], 9).unwrap_err().contains("outside"));
        assert_eq!(unpack_gaps(&[3, 4], 9).unwrap(), [3, 8]);
    }
}
