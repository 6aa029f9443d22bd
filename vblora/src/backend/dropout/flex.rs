//! Dropout on flex, in place.

use burn::{
    backend::flex::Flex,
    tensor::{TensorMetadata, ops::FloatTensor},
};

use super::{DropoutOps, default, mask::Mask};
use crate::{
    Unpadded,
    backend::{
        flex::{RUN, in_place, is_f32, tensor},
        kernels::over_rows,
    },
};

impl DropoutOps for Flex {
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::dropout::<Self>(x, key, p);
        }
        let mask = Mask::new(key, p);
        in_place(x, |values| {
            over_rows(values, RUN.min(values.len()), |start, run| {
                drop_out(&mask, start, run);
            });
        })
    }

    fn unpadded_dropout(
        x: FloatTensor<Self>,
        unpadded: &Unpadded,
        key: u64,
        p: f64,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::unpadded_dropout::<Self>(x, unpadded, key, p);
        }
        let (shape, mask) = (x.shape(), Mask::new(key, p));
        let places: Vec<usize> = unpadded.places().collect();
        let mut values = x.to_contiguous().storage::<f32>().to_vec();
        drop_rows(&mask, &places, &mut values);
        tensor(values, shape)
    }
}

/// Multiplies elements `start..` by their values of the mask.
#[inline(always)]
pub(in crate::backend) fn drop_out(mask: &Mask, start: usize, values: &mut [f32]) {
    for (i, value) in values.iter_mut().enumerate() {
        *value *= mask.value((start + i) as u32);
    }
}

/// Multiplies rows by the mask's values of the rows at these places.
fn drop_rows(mask: &Mask, places: &[usize], values: &mut [f32]) {
    let d = values.len() / places.len().max(1);
    over_rows(values, d, |start, run| {
        let rows = run.chunks_exact_mut(d.max(1));
        for (row, place) in rows.zip(&places[start / d.max(1)..]) {
            drop_out(mask, place * d, row);
        }
    });
}
