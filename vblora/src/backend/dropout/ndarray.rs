//! Dropout on ndarray. The mask is made on the host.

use burn::{
    backend::ndarray::{NdArray, NdArrayTensor},
    tensor::{
        TensorData, TensorMetadata,
        ops::{FloatTensor, FloatTensorOps},
    },
};

use vblora_kernels::dropout::{Mask, drop_out};

use super::DropoutOps;

impl DropoutOps for NdArray {
    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        let (mask, shape) = (Mask::new(key, p), x.shape());
        let mut values = vec![1.0; shape.num_elements()];
        drop_out(&mask, &mut values);
        Self::float_mul(x, NdArrayTensor::from_data(TensorData::new(values, shape)))
    }
}
