//! Fast paths of flex by direct access to its memory: one pass each, in place where nothing else holds the tensor, instead of a tensor per
//! step. Each falls back to the default body for element types other than f32.

mod attention;
mod decoder;
mod linear;
mod packed;
#[cfg(test)]
mod tests;

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{
        DType, Shape, TensorData, TensorMetadata,
        ops::{ActivationOps, FloatTensor, IntTensor},
    },
};

use super::{
    AdaptedGradients, AttentionSettings, CausalSettings, FrozenMap, Gate, GeluForm, NormGradients,
    Update, VbLoraBackend, defaults, kernels, kernels::over_rows, mask::Mask, select::top_k_rows,
};
use crate::Packing;

/// Elementwise work is cut into runs of this many elements at least.
const RUN: usize = 1024;

fn is_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The last dimension.
fn width(x: &FlexTensor) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
}

/// The tensor's elements in row-major order, changed by `change`.
fn in_place(x: FlexTensor, change: impl FnOnce(&mut [f32])) -> FlexTensor {
    // Row-major over the whole buffer, so the buffer is the tensor.
    let contiguous = x.to_contiguous();
    // Only now may the contiguous tensor be the last holder of its buffer.
    drop(x);
    let mut x = contiguous;
    change(x.storage_mut::<f32>());
    x
}

/// A tensor of the same shape, whose rows of `d` elements `body(row of x, row of the result)` writes.
fn mapped(x: FlexTensor, d: usize, body: impl Fn(&[f32], &mut [f32]) + Sync) -> FlexTensor {
    let x = x.to_contiguous();
    let from = x.storage::<f32>();
    let mut out = vec![0.0; from.len()];
    over_rows(&mut out, d, |start, run| {
        for (from, to) in from[start..].chunks_exact(d).zip(run.chunks_exact_mut(d)) {
            body(from, to);
        }
    });
    tensor(out, x.shape())
}

/// Each element becomes `change(value)`.
fn each(values: FlexTensor, change: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    in_place(values, |values| {
        over_rows(values, RUN.min(values.len()), |_, run| {
            for value in run {
                *value = change(*value);
            }
        });
    })
}

/// Each element becomes `change(value, other)`.
fn each_with(
    values: FlexTensor,
    other: &FlexTensor,
    change: impl Fn(f32, f32) -> f32 + Sync,
) -> FlexTensor {
    let other = other.to_contiguous();
    let other = other.storage::<f32>();
    in_place(values, |values| {
        over_rows(values, RUN.min(values.len()), |start, run| {
            for (value, &other) in run.iter_mut().zip(&other[start..]) {
                *value = change(*value, other);
            }
        });
    })
}

/// Each row of `d` elements is changed by `change(row, other)`.
fn each_row_with(
    rows: FlexTensor,
    other: &FlexTensor,
    d: usize,
    change: impl Fn(&mut [f32], &[f32]) + Sync,
) -> FlexTensor {
    let other = other.to_contiguous();
    let other = other.storage::<f32>();
    in_place(rows, |rows| {
        over_rows(rows, d, |start, run| {
            for (row, other) in run.chunks_exact_mut(d).zip(other[start..].chunks_exact(d)) {
                change(row, other);
            }
        });
    })
}

impl VbLoraBackend for Flex {
    fn top_k_indices(logits: FloatTensor<Self>, k: usize) -> IntTensor<Self> {
        if !is_f32(&[&logits]) {
            return defaults::top_k::<Self>(logits, k);
        }
        let [s, h] = logits.shape().dims::<2>();
        let logits = logits.to_contiguous();
        // Flex reads indices as i32.
        let picked: Vec<i32> = top_k_rows(logits.storage::<f32>(), h, k)
            .map(|i| i as i32)
            .collect();
        FlexTensor::from_data(TensorData::new(picked, [s, k]))
    }

    fn mix(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if !is_f32(&[&bank, &weights]) || indices.dtype() != DType::I32 {
            return defaults::mix::<Self>(bank, weights, indices);
        }
        let ([s, k], [_, b]) = (weights.shape().dims::<2>(), bank.shape().dims::<2>());
        let [bank, weights, indices] = [bank, weights, indices].map(|x| x.to_contiguous());
        let (bank, weights) = (bank.storage::<f32>(), weights.storage::<f32>());
        let indices = indices.storage::<i32>();
        let mut out = vec![0.0; s * b];
        over_rows(&mut out, b, |start, run| {
            for (row, out) in run.chunks_exact_mut(b).enumerate() {
                let at = (start / b + row) * k;
                kernels::mix_row(bank, &weights[at..][..k], &indices[at..][..k], out);
            }
        });
        tensor(out, Shape::new([s, b]))
    }

    fn mix_backward(
        bank: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        indices: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&bank, &weights, &grad]) || indices.dtype() != DType::I32 {
            return defaults::mix_backward::<Self>(bank, weights, indices, grad);
        }
        let ([s, k], [h, b]) = (weights.shape().dims::<2>(), bank.shape().dims::<2>());
        let [bank, weights, indices, grad] =
            [bank, weights, indices, grad].map(|x| x.to_contiguous());
        let (mut d_bank, mut d_weights) = (vec![0.0; h * b], vec![0.0; s * k]);
        kernels::mix_backward(
            bank.storage(),
            weights.storage(),
            indices.storage(),
            grad.storage(),
            [k, b],
            [&mut d_bank, &mut d_weights],
        );
        (
            tensor(d_bank, Shape::new([h, b])),
            tensor(d_weights, Shape::new([s, k])),
        )
    }

    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<FloatTensor<Self>>) -> FloatTensor<Self> {
        linear::frozen_linear(x, map)
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        linear::adapted_linear(x, map, update)
    }

    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        linear::adapted_linear_backward(x, weight, update, narrow, grad, needs_x)
    }

    fn gelu_linear_backward(
        h: FloatTensor<Self>,
        form: GeluForm,
        weight: FloatTensor<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_h: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        linear::gelu_linear_backward(h, form, weight, update, narrow, grad, needs_h)
    }

    fn erf_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return Self::gelu(x);
        }
        each(x, kernels::gelu)
    }

    fn erf_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x, &grad]) {
            return defaults::erf_gelu_backward::<Self>(x, grad);
        }
        each_with(grad, &x, |grad, x| grad * kernels::gelu_slope(x))
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x]) || d == 0 {
            return defaults::row_softmax::<Self>(x);
        }
        in_place(x, |values| {
            over_rows(values, d, |_, run| {
                run.chunks_exact_mut(d).for_each(kernels::softmax_row);
            });
        })
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let d = width(&output);
        if !is_f32(&[&output, &grad]) || d == 0 {
            return defaults::row_softmax_backward::<Self>(output, grad);
        }
        each_row_with(grad, &output, d, |grad, y| {
            kernels::softmax_row_backward(y, grad);
        })
    }

    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x, &gamma, &beta]) || d == 0 {
            return defaults::row_norm::<Self>(x, gamma, beta, epsilon);
        }
        let [gamma, beta] = [gamma, beta].map(|x| x.to_contiguous());
        let (gamma, beta) = (gamma.storage::<f32>(), beta.storage::<f32>());
        mapped(x, d, |from, to| {
            kernels::norm_row(from, gamma, beta, epsilon as f32, to);
        })
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        let d = width(&x);
        // Trained normalisations are for pretraining and full fine-tuning only.
        if affine || !is_f32(&[&x, &gamma, &grad]) || d == 0 {
            return defaults::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        let grad = each_row_with(grad, &x, d, |grad, x| {
            kernels::norm_row_backward(x, gamma, epsilon as f32, grad);
        });
        (grad, None)
    }

    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let d = width(&x);
        if !is_f32(&[&x]) || d == 0 {
            return defaults::norm_and_deviation::<Self>(x, gamma, beta, epsilon);
        }
        let x = x.to_contiguous();
        let mut found = vec![0.0; x.shape().num_elements() / d];
        kernels::deviations(x.storage(), d, epsilon as f32, &mut found);
        let rows = found.len();
        let deviation = tensor(found, Shape::new([rows]));
        (Self::row_norm(x, gamma, beta, epsilon), deviation)
    }

    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let d = width(&y);
        if !is_f32(&[&y, &gamma, &beta, &deviation, &grad]) || d == 0 {
            return defaults::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad);
        }
        let [y, gamma, beta, deviation] = [y, gamma, beta, deviation].map(|x| x.to_contiguous());
        let weights = [gamma.storage::<f32>(), beta.storage::<f32>()];
        let (y, deviation) = (y.storage::<f32>(), deviation.storage::<f32>());
        in_place(grad, |grad| {
            over_rows(grad, d, |start, run| {
                let rows = y[start..].chunks_exact(d).zip(&deviation[start / d..]);
                for (grad, (y, deviation)) in run.chunks_exact_mut(d).zip(rows) {
                    kernels::invertible_norm_row_backward(y, weights, *deviation, grad);
                }
            });
        })
    }

    fn dropout(x: FloatTensor<Self>, key: u64, p: f64) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return defaults::dropout::<Self>(x, key, p);
        }
        let mask = Mask::new(key, p);
        in_place(x, |values| {
            over_rows(values, RUN.min(values.len()), |start, run| {
                kernels::drop_out(&mask, start, run);
            });
        })
    }

    fn head_attention(
        qkv: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        attention::head_attention(qkv, mask, settings)
    }

    fn head_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        mask: Option<FloatTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        attention::head_attention_backward(qkv, mask, saved, settings, grad)
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        decoder::rms_norm(x, gamma, epsilon)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        decoder::rms_norm_backward(x, gamma, epsilon, grad, affine)
    }

    fn tanh_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        decoder::tanh_gelu(x)
    }

    fn tanh_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        decoder::tanh_gelu_backward(x, grad)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gate) -> FloatTensor<Self> {
        decoder::gated(gate, up, form)
    }

    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        form: Gate,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        decoder::gated_backward(gate, up, form, grad)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        decoder::rotate(x, cos, sin)
    }

    fn skips_padding() -> bool {
        true
    }

    fn packed_dropout(
        x: FloatTensor<Self>,
        packing: &Packing,
        key: u64,
        p: f64,
    ) -> FloatTensor<Self> {
        packed::dropout(x, packing, key, p)
    }

    fn packed_attention(
        qkv: [FloatTensor<Self>; 3],
        packing: &Packing,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        packed::attention(qkv, packing, settings)
    }

    fn packed_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        packing: &Packing,
        saved: FloatTensor<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        packed::attention_backward(qkv, packing, saved, settings, grad)
    }

    fn causal_attention(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        settings: CausalSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        attention::causal_attention(qkv, first, settings)
    }

    fn causal_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        first: Option<IntTensor<Self>>,
        saved: FloatTensor<Self>,
        settings: CausalSettings,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        attention::causal_attention_backward(qkv, first, saved, settings, grad)
    }
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
