//! Fast paths of the CPU backends by direct access to their memory. Each falls back to the default body for element types other than f32.

use burn::tensor::{
    DType, Shape, TensorData, TensorMetadata,
    ops::{ActivationOps, Device, FloatTensor, IntTensor},
};

use super::{VbLoraBackend, defaults, float, mask::Mask};

/// Partial selection over rows of `h`; an equal later value is inserted after the earlier one, so ties go to the lowest index.
fn top_k_rows(values: &[f32], h: usize, k: usize) -> impl Iterator<Item = usize> {
    values.chunks_exact(h).flat_map(move |row| {
        let mut best: Vec<(f32, usize)> = Vec::with_capacity(k + 1);
        for (i, &value) in row.iter().enumerate() {
            if best.len() < k || value > best[k - 1].0 {
                best.insert(best.partition_point(|&(v, _)| v >= value), (value, i));
                best.truncate(k);
            }
        }
        best.into_iter().map(|(_, i)| i)
    })
}

fn mask_data(shape: Shape, key: u64, p: f64) -> TensorData {
    let mask = Mask::new(key, p);
    let values: Vec<f32> = (0..shape.num_elements() as u32)
        .map(|i| mask.value(i))
        .collect();
    TensorData::new(values, shape)
}

#[cfg(feature = "flex")]
impl VbLoraBackend for burn::backend::Flex {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        use burn::backend::flex::FlexTensor;
        if logits.dtype() != DType::F32 {
            return defaults::top_k(float::<Self, 2>(logits), k).into_primitive();
        }
        let [s, h] = logits.shape().dims::<2>();
        let logits = logits.to_contiguous();
        let (from, to) = logits
            .layout()
            .contiguous_offsets()
            .expect("made contiguous just above");
        // Flex reads indices as i32.
        let picked: Vec<i32> = top_k_rows(&logits.storage::<f32>()[from..to], h, k)
            .map(|i| i as i32)
            .collect();
        FlexTensor::from_data(TensorData::new(picked, [s, k]))
    }

    /// Flex differentiates the error-function form in one pass.
    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        <Self as ActivationOps<Self>>::gelu_backward(x, grad)
    }

    fn dropout_mask(shape: Shape, _device: &Device<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        burn::backend::flex::FlexTensor::from_data(mask_data(shape, key, p))
    }
}

#[cfg(feature = "ndarray")]
impl VbLoraBackend for burn::backend::NdArray {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        use burn::backend::ndarray::NdArrayTensor;
        let [s, h] = logits.shape().dims::<2>();
        let NdArrayTensor::F32(storage) = &logits else {
            return defaults::top_k(float::<Self, 2>(logits), k).into_primitive();
        };
        let view = storage.view();
        let rows = view.as_standard_layout();
        let rows = rows.as_slice().expect("standard layout is one slice");
        // NdArray reads indices as i64.
        let picked: Vec<i64> = top_k_rows(rows, h, k).map(|i| i as i64).collect();
        NdArrayTensor::from_data(TensorData::new(picked, [s, k]))
    }

    fn dropout_mask(shape: Shape, _device: &Device<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        burn::backend::ndarray::NdArrayTensor::from_data(mask_data(shape, key, p))
    }
}
