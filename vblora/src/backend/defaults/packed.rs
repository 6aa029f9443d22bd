//! Batches without their padding: put back into place, computed as ever, and taken out again.

use burn::tensor::{Tensor, TensorData, backend::Backend, ops::FloatTensor};

use super::super::{AttentionSettings, VbLoraBackend, float, primitive};
use crate::{Packing, packing::MASKED};

pub(in crate::backend) fn dropout<B: VbLoraBackend>(
    x: FloatTensor<B>,
    packing: &Packing,
    key: u64,
    p: f64,
) -> FloatTensor<B> {
    packed::<B>(B::dropout(pad::<B>(x, packing), key, p), packing)
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

fn pad<B: Backend>(x: FloatTensor<B>, packing: &Packing) -> FloatTensor<B> {
    primitive(packing.padded(float::<B, 2>(x)))
}

fn packed<B: Backend>(x: FloatTensor<B>, packing: &Packing) -> FloatTensor<B> {
    primitive(packing.packed(float::<B, 3>(x)))
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
