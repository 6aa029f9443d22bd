//! Fast paths of ndarray, the plain CPU backend, by direct access to its memory.

use burn::{
    backend::ndarray::{NdArray, NdArrayTensor},
    tensor::{
        TensorData, TensorMetadata,
        ops::{FloatTensor, FloatTensorOps, IntTensor},
    },
};

use super::{VbLoraBackend, defaults, mask::Mask, select::top_k_rows};

impl VbLoraBackend for NdArray {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        let [s, h] = logits.shape().dims::<2>();
        let NdArrayTensor::F32(storage) = &logits else {
            return defaults::top_k::<Self>(logits, k);
        };
        let view = storage.view();
        let rows = view.as_standard_layout();
        let rows = rows.as_slice().expect("standard layout is one slice");
        // NdArray reads indices as i64.
        let picked: Vec<i64> = top_k_rows(rows, h, k).map(|i| i as i64).collect();
        NdArrayTensor::from_data(TensorData::new(picked, [s, k]))
    }

    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        let (mask, shape) = (Mask::new(key, p), x.shape());
        let values: Vec<f32> = (0..shape.num_elements() as u32)
            .map(|i| mask.value(i))
            .collect();
        Self::float_mul(x, NdArrayTensor::from_data(TensorData::new(values, shape)))
    }
}
