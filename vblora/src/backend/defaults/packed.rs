//! Batches without their padding: put back into place, computed as ever, and taken out again.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, backend::Backend, ops::FloatTensor};

use super::super::{AttentionSettings, VbLoraBackend, float, primitive};
use crate::Packing;

/// What is added to the scores of padding: far below every real score, and still finite in f16.
const MASKED: f32 = -1e4;

pub(in crate::backend) fn dropout<B: VbLoraBackend>(
    x: FloatTensor<B>,
    packing: &Packing,
    key: u64,
    p: f64,
) -> FloatTensor<B> {
    let padded = float::<B, 3>(pad::<B>(x, packing));
    packed::<B>(B::dropout(primitive(padded), key, p), packing)
}

pub(in crate::backend) fn attention<B: VbLoraBackend>(
    qkv: [FloatTensor<B>; 3],
    packing: &Packing,
    settings: AttentionSettings,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = B::float_device(&qkv[0]);
    let qkv = qkv.map(|x| pad::<B>(x, packing));
    let mask = primitive(mask::<B>(packing, &device));
    let (output, saved) = B::head_attention(qkv, Some(mask), settings);
    (packed::<B>(output, packing), saved)
}

pub(in crate::backend) fn attention_backward<B: VbLoraBackend>(
    qkv: [FloatTensor<B>; 3],
    packing: &Packing,
    saved: FloatTensor<B>,
    settings: AttentionSettings,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let device = B::float_device(&grad);
    let qkv = qkv.map(|x| pad::<B>(x, packing));
    let grad = pad::<B>(grad, packing);
    let mask = primitive(mask::<B>(packing, &device));
    let found = B::head_attention_backward(qkv, Some(mask), saved, settings, grad);
    found.map(|grad| packed::<B>(grad, packing))
}

/// # Shapes
/// - x: `[N, d]`; output: `[n, columns, d]`, zeros at padding
fn pad<B: VbLoraBackend>(x: FloatTensor<B>, packing: &Packing) -> FloatTensor<B> {
    let x = float::<B, 2>(x);
    let ([_, d], [n, t]) = (x.dims(), packing.shape());
    let places = places(packing, &x.device());
    let zeros = Tensor::<B, 2>::zeros([n * t, d], &x.device());
    let padded = zeros.select_assign(0, places, x, IndexingUpdateOp::Add);
    primitive(padded.reshape([n, t, d]))
}

/// The reverse of [`pad`].
fn packed<B: VbLoraBackend>(x: FloatTensor<B>, packing: &Packing) -> FloatTensor<B> {
    let x = float::<B, 3>(x);
    let [n, t, d] = x.dims();
    let places = places(packing, &x.device());
    primitive(x.reshape([n * t, d]).select(0, places))
}

fn places<B: Backend>(packing: &Packing, device: &B::Device) -> Tensor<B, 1, Int> {
    let places: Vec<i32> = packing.places().map(|place| place as i32).collect();
    Tensor::from_data(TensorData::new(places, [packing.tokens()]), device)
}

/// `[n, columns]`
fn mask<B: Backend>(packing: &Packing, device: &B::Device) -> Tensor<B, 2> {
    let [n, t] = packing.shape();
    let lengths = packing.lengths().iter();
    let values = lengths
        .flat_map(|&length| (0..t).map(move |column| if column < length { 0.0 } else { MASKED }));
    let values: Vec<f32> = values.collect();
    Tensor::from_data(TensorData::new(values, [n, t]), device)
}
