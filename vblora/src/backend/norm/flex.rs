//! Normalisations on flex.

use burn::{
    backend::flex::Flex,
    tensor::{Shape, TensorMetadata, ops::FloatTensor},
};
use vblora_kernels::norm;

use super::{NormGradients, NormOps, default};
use crate::backend::flex::{in_place, in_place_with, is_f32, mapped, tensor, width};

impl NormOps for Flex {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x, &gamma, &beta]) || d == 0 {
            return default::row_norm::<Self>(x, gamma, beta, epsilon);
        }
        let [gamma, beta] = [gamma, beta].map(|x| x.to_contiguous());
        let (gamma, beta) = (gamma.storage::<f32>(), beta.storage::<f32>());
        mapped(x, |from, to| {
            norm::layer_norm(from, gamma, beta, epsilon as f32, to);
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
            return default::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        let grad = in_place_with(grad, &x, |grad, x| {
            norm::layer_norm_backward(x, gamma, epsilon as f32, grad);
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
            return default::norm_and_deviation::<Self>(x, gamma, beta, epsilon);
        }
        let x = x.to_contiguous();
        let mut found = vec![0.0; x.shape().num_elements() / d];
        norm::deviations(x.storage(), d, epsilon as f32, &mut found);
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
            return default::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad);
        }
        let [y, gamma, beta, deviation] = [y, gamma, beta, deviation].map(|x| x.to_contiguous());
        let weights = [gamma.storage::<f32>(), beta.storage::<f32>()];
        let (y, deviation) = (y.storage::<f32>(), deviation.storage::<f32>());
        in_place(grad, |grad| {
            norm::invertible_norm_backward(y, weights, deviation, grad);
        })
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let d = width(&x);
        if !is_f32(&[&x, &gamma]) || d == 0 {
            return default::rms_norm::<Self>(x, gamma, epsilon);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        mapped(x, |from, to| {
            norm::rms_norm(from, gamma, epsilon as f32, to);
        })
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let d = width(&x);
        // Trained normalisations are for full fine-tuning only.
        if affine || !is_f32(&[&x, &gamma, &grad]) || d == 0 {
            return default::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let gamma = gamma.to_contiguous();
        let gamma = gamma.storage::<f32>();
        let grad = in_place_with(grad, &x, |grad, x| {
            norm::rms_norm_backward(x, gamma, epsilon as f32, grad);
        });
        (grad, None)
    }
}
