//! Dropout on flex, in place.

use burn::{
    backend::flex::Flex,
    tensor::{TensorMetadata, ops::FloatTensor},
};

use vblora_kernels::dropout::{Mask, drop_out, drop_rows};

use super::{DropoutOps, default};
use crate::{
    Unpadded,
    backend::flex::{in_place, is_f32, tensor},
};

impl DropoutOps for Flex {
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return default::dropout::<Self>(x, key, p);
        }
        let mask = Mask::new(key, p);
        in_place(x, |values| drop_out(&mask, values))
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
