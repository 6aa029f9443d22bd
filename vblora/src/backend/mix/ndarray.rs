//! Selection on ndarray, in one pass over the rows.

use burn::{
    backend::ndarray::{NdArray, NdArrayTensor},
    tensor::{
        TensorData, TensorMetadata,
        ops::{FloatTensor, IntTensor},
    },
};

use vblora_kernels::mix::top_k_rows;

use super::{MixOps, default};

impl MixOps for NdArray {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        let [s, h] = logits.shape().dims::<2>();
        let NdArrayTensor::F32(storage) = &logits else {
            return default::top_k_indices::<Self>(logits, k);
        };
        let view = storage.view();
        let rows = view.as_standard_layout();
        let rows = rows.as_slice().expect("standard layout is one slice");
        // NdArray reads indices as i64.
        let picked: Vec<i64> = top_k_rows(rows, h, k).map(|i| i as i64).collect();
        NdArrayTensor::from_data(TensorData::new(picked, [s, k]))
    }
}
