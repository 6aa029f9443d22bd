//! AdamW in plain tensor operations, in torch's order.

use burn::tensor::{Tensor, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::{AdamWStep, CLIP_EPSILON, Clip};
use crate::backend::{float, primitive};

pub(super) fn adamw<B: Backend>(
    value: FloatTensor<B>,
    grad: FloatTensor<B>,
    moments: Option<[FloatTensor<B>; 2]>,
    step: AdamWStep,
    clip: Option<Clip<FloatTensor<B>>>,
) -> (FloatTensor<B>, [FloatTensor<B>; 2]) {
    let shape = value.shape();
    let flat =
        |x: FloatTensor<B>| float::<B, 1>(B::float_reshape(x, [shape.num_elements()].into()));
    let (value, grad) = (flat(value), flat(grad));
    let grad = match clip {
        Some(Clip { norm, limit }) => {
            let norm = float::<B, 1>(norm).add_scalar(CLIP_EPSILON);
            grad * norm.recip().mul_scalar(limit).clamp_max(1.0)
        }
        None => grad,
    };
    let [beta1, beta2] = step.betas;
    let squared = grad.clone().square();
    let [first, second] = match moments {
        Some(moments) => {
            let [first, second] = moments.map(flat);
            [
                first.mul_scalar(beta1) + grad.mul_scalar(1.0 - beta1),
                second.mul_scalar(beta2) + squared.mul_scalar(1.0 - beta2),
            ]
        }
        None => [
            grad.mul_scalar(1.0 - beta1),
            squared.mul_scalar(1.0 - beta2),
        ],
    };
    let root = second.clone().sqrt();
    let divisor = root.div_scalar(step.correction).add_scalar(step.epsilon);
    let change = first.clone().mul_scalar(step.rate) / divisor;
    let value = match step.shrink {
        1.0 => value,
        shrink => value.mul_scalar(shrink),
    };
    let whole = |x: Tensor<B, 1>| B::float_reshape(primitive(x), shape.clone());
    (whole(value - change), [first, second].map(whole))
}
