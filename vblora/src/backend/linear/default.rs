//! Linear maps in plain tensor operations.

use burn::tensor::{DType, Shape, Tensor, TensorMetadata, backend::Backend, ops::FloatTensor};

use super::{AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Update};
use crate::backend::{GeluForm, float, matmul, primitive};

pub(in crate::backend) fn frozen_linear<B: LinearOps>(
    x: FloatTensor<B>,
    map: FrozenMap<B>,
) -> FloatTensor<B> {
    if x.dtype() == map.weight.dtype() {
        return B::linear(x, map.weight.into_dense(), map.bias);
    }
    rounded_linear::<B>(x, map)
}

/// `x W + b` as a product in the weight's dtype between casts.
pub(super) fn rounded_linear<B: LinearOps>(x: FloatTensor<B>, map: FrozenMap<B>) -> FloatTensor<B> {
    let (held, wanted) = (map.weight.dtype(), x.dtype());
    let y = B::frozen_product(cast::<B>(x, held), map);
    cast::<B>(y, wanted)
}

/// Casts only to another dtype: a cast to the same dtype is a copy on some backends.
fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    match x.dtype() == dtype {
        true => x,
        false => B::float_cast(x, dtype.into()),
    }
}

/// The dtype of a frozen product whose operands are in `held`.
pub(super) fn product_dtype(held: DType) -> DType {
    match held {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

pub(super) fn frozen_product<B: LinearOps>(x: FloatTensor<B>, map: FrozenMap<B>) -> FloatTensor<B> {
    let dtype = product_dtype(x.dtype());
    let y = cast::<B>(B::float_matmul(x, map.weight.into_dense()), dtype);
    match map.bias {
        Some(bias) => primitive(float::<B, 2>(y) + float::<B, 1>(bias).unsqueeze()),
        None => y,
    }
}

pub(in crate::backend) fn adapted_linear<B: LinearOps>(
    x: FloatTensor<B>,
    map: FrozenMap<B>,
    update: Update<FloatTensor<B>>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let y = float::<B, 2>(B::frozen_linear(x.clone(), map));
    let x = float::<B, 2>(x);
    // The scale goes on the narrow side: r columns instead of d_out.
    let narrow = scaled(matmul(x, float(update.down)), update.scale);
    let y = y + matmul(narrow.clone(), float(update.up));
    (primitive(y), primitive(narrow))
}

pub(super) fn adapted_rows<B: LinearOps>(
    x: FloatTensor<B>,
    form: Option<GeluForm>,
    map: FrozenMap<B>,
    update: Update<FloatTensor<B>>,
) -> FloatTensor<B> {
    let outer = x.shape();
    let x = flat::<B>(x);
    let (y, _) = match form {
        Some(form) => B::gelu_linear(x, form, map, update),
        None => B::adapted_linear(x, map, update),
    };
    like::<B>(y, &outer)
}

pub(in crate::backend) fn stacked_linear<B: LinearOps>(
    x: FloatTensor<B>,
    map: FrozenMap<B>,
    [down, up]: [FloatTensor<B>; 2],
    scales: FloatTensor<B>,
) -> FloatTensor<B> {
    let y = float::<B, 2>(B::frozen_linear(x.clone(), map));
    let narrow = matmul(float::<B, 2>(x), float(down)) * float(scales);
    primitive(y + matmul(narrow, float(up)))
}

pub(in crate::backend) fn adapted_linear_backward<B: LinearOps>(
    x: FloatTensor<B>,
    weight: HeldWeight<B>,
    update: Update<FloatTensor<B>>,
    narrow: FloatTensor<B>,
    grad: FloatTensor<B>,
    needs_x: bool,
) -> AdaptedGradients<FloatTensor<B>> {
    let (x, grad) = (float::<B, 2>(x), float::<B, 2>(grad));
    let [down, up] = [update.down, update.up].map(float::<B, 2>);
    let d_up = matmul(float::<B, 2>(narrow).transpose(), grad.clone());
    let d_narrow = scaled(matmul(grad.clone(), up.transpose()), update.scale);
    let d_down = matmul(x.transpose(), d_narrow.clone());
    let dx = needs_x.then(|| {
        let through_map = float::<B, 2>(B::frozen_linear_backward(primitive(grad), weight));
        primitive(through_map + matmul(d_narrow, down.transpose()))
    });
    AdaptedGradients {
        x: dx,
        down: primitive(d_down),
        up: primitive(d_up),
    }
}

pub(in crate::backend) fn gelu_linear_backward<B: LinearOps>(
    h: FloatTensor<B>,
    form: GeluForm,
    weight: HeldWeight<B>,
    update: Update<FloatTensor<B>>,
    narrow: FloatTensor<B>,
    grad: FloatTensor<B>,
    needs_h: bool,
) -> AdaptedGradients<FloatTensor<B>> {
    let x = form.apply::<B>(h.clone());
    let found = B::adapted_linear_backward(x, weight, update, narrow, grad, needs_h);
    AdaptedGradients {
        x: found.x.map(|dx| form.backward::<B>(h, dx)),
        ..found
    }
}

/// The gradient of a frozen map's input, `grad W^T`.
pub(super) fn through_map<B: LinearOps>(
    grad: FloatTensor<B>,
    weight: HeldWeight<B>,
) -> FloatTensor<B> {
    let turned = B::float_swap_dims(weight.into_dense(), 0, 1);
    B::frozen_linear(grad, FrozenMap::dense(turned, None))
}

fn scaled<B: Backend>(x: Tensor<B, 2>, scale: f64) -> Tensor<B, 2> {
    if scale == 1.0 { x } else { x.mul_scalar(scale) }
}

/// `[.., d] -> [n, d]`
pub(in crate::backend) fn flat<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let d = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / d.max(1);
    B::float_reshape(x, Shape::new([rows, d]))
}

/// `[n, d] -> [.., d]`, with the other dimensions of `outer`.
pub(in crate::backend) fn like<B: Backend>(x: FloatTensor<B>, outer: &Shape) -> FloatTensor<B> {
    let mut dims: Vec<usize> = outer.iter().copied().collect();
    if let Some(last) = dims.last_mut() {
        *last = x.shape()[1];
    }
    B::float_reshape(x, Shape::from(dims))
}
