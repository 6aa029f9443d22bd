//! Linear maps: products of our own, which take bias and update along. (Flex's own write to memory that is zeroed and copied first.)

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{DType, Shape, TensorMetadata, ops::FloatTensor},
};

use super::{is_f32, tensor};
use crate::backend::{
    AdaptedGradients, FrozenMap, GeluForm, Update, defaults,
    kernels::{
        Added, Matrix, gelu_both, input_gradient, input_gradient_through, narrow_product,
        output_gradients, product, tanh_gelu_both,
    },
};

/// A matrix's memory as it lies.
fn matrix(x: &FlexTensor) -> Option<Matrix<'_>> {
    let layout = x.layout();
    let shape = layout.shape().dims::<2>();
    let strides = layout.strides();
    Some(Matrix {
        values: &x.storage::<f32>()[layout.start_offset()..],
        shape,
        strides: [strides[0].try_into().ok()?, strides[1].try_into().ok()?],
    })
}

/// `x w + added` for a matrix of any strides.
fn multiplied(x: &[f32], rows: usize, w: &FlexTensor, added: Added<'_>) -> FlexTensor {
    let [_, d_out] = w.shape().dims::<2>();
    let mut out = vec![0.0; rows * d_out];
    match matrix(w) {
        Some(w) => product(x, w, added, &mut out),
        None => {
            let w = w.to_contiguous();
            let [inner, columns] = w.shape().dims::<2>();
            let w = Matrix::rows(w.storage(), [inner, columns]);
            product(x, w, added, &mut out);
        }
    }
    tensor(out, Shape::new([rows, d_out]))
}

pub(super) fn frozen_linear(
    x: FloatTensor<Flex>,
    map: FrozenMap<FloatTensor<Flex>>,
) -> FloatTensor<Flex> {
    if !is_f32(&[&x, &map.weight]) || map.bias.as_ref().is_some_and(|b| b.dtype() != DType::F32) {
        return defaults::frozen_linear::<Flex>(x, map);
    }
    let [rows, _] = x.shape().dims::<2>();
    let (x, bias) = (x.to_contiguous(), map.bias.map(|bias| bias.to_contiguous()));
    let added = Added {
        bias: bias.as_ref().map(|bias| bias.storage::<f32>()),
        narrow: None,
    };
    multiplied(x.storage(), rows, &map.weight, added)
}

/// Whether map and update are all in f32.
fn all_f32(
    x: &FlexTensor,
    map: &FrozenMap<FloatTensor<Flex>>,
    update: &Update<FloatTensor<Flex>>,
) -> bool {
    is_f32(&[x, &map.weight, &update.down, &update.up])
        && map.bias.as_ref().is_none_or(|b| b.dtype() == DType::F32)
}

pub(super) fn adapted_linear(
    x: FloatTensor<Flex>,
    map: FrozenMap<FloatTensor<Flex>>,
    update: Update<FloatTensor<Flex>>,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    if !all_f32(&x, &map, &update) {
        return defaults::adapted_linear::<Flex>(x, map, update);
    }
    let ([rows, d_in], [rank, d_out]) = (x.shape().dims::<2>(), update.up.shape().dims::<2>());
    let (x, up) = (x.to_contiguous(), update.up.to_contiguous());
    let turned = update.down.transpose(0, 1).to_contiguous();
    let bias = map.bias.map(|bias| bias.to_contiguous());
    let mut narrow = vec![0.0; rows * rank];
    let x = x.storage::<f32>();
    narrow_product(x, turned.storage(), d_in, update.scale as f32, &mut narrow);
    let added = Added {
        bias: bias.as_ref().map(|bias| bias.storage::<f32>()),
        narrow: Some((&narrow, Matrix::rows(up.storage(), [rank, d_out]))),
    };
    let y = multiplied(x, rows, &map.weight, added);
    (y, tensor(narrow, Shape::new([rows, rank])))
}

pub(super) fn adapted_linear_backward(
    x: FloatTensor<Flex>,
    weight: FloatTensor<Flex>,
    update: Update<FloatTensor<Flex>>,
    narrow: FloatTensor<Flex>,
    grad: FloatTensor<Flex>,
    needs_x: bool,
) -> AdaptedGradients<FloatTensor<Flex>> {
    if !is_f32(&[&x, &weight, &update.down, &update.up, &grad]) {
        return defaults::adapted_linear_backward::<Flex>(x, weight, update, narrow, grad, needs_x);
    }
    let side = OutputSide::new(&update, narrow, grad);
    let [_, d_in] = x.shape().dims::<2>();
    let x = x.to_contiguous();
    let mut d_narrow = side.d_narrow;
    let d_down = input_gradient(x.storage(), &mut d_narrow, [side.rank, d_in]);
    let x = needs_x.then(|| through(&side.grad, &weight, &update.down, &d_narrow));
    AdaptedGradients {
        x,
        down: tensor(d_down, Shape::new([side.rank, d_in])).transpose(0, 1),
        up: side.d_up,
    }
}

/// What the output's gradient gives by itself.
struct OutputSide {
    grad: FlexTensor,
    rank: usize,
    d_narrow: Vec<f32>,
    d_up: FlexTensor,
}

impl OutputSide {
    fn new(update: &Update<FlexTensor>, narrow: FlexTensor, grad: FlexTensor) -> Self {
        let [rank, d_out] = update.up.shape().dims::<2>();
        let [up, narrow, grad] = [&update.up, &narrow, &grad].map(FlexTensor::to_contiguous);
        let [d_narrow, d_up] = output_gradients(
            grad.storage(),
            up.storage(),
            narrow.storage(),
            [rank, d_out],
            update.scale as f32,
        );
        Self {
            grad,
            rank,
            d_narrow,
            d_up: tensor(d_up, Shape::new([rank, d_out])),
        }
    }
}

/// The gradient of the input, through map and update.
fn through(
    grad: &FlexTensor,
    weight: &FlexTensor,
    down: &FlexTensor,
    d_narrow: &[f32],
) -> FlexTensor {
    let [rows, _] = grad.shape().dims::<2>();
    let turned = down.transpose(0, 1).to_contiguous();
    let shape = turned.shape().dims::<2>();
    let added = Added {
        bias: None,
        narrow: Some((d_narrow, Matrix::rows(turned.storage(), shape))),
    };
    multiplied(grad.storage(), rows, &weight.transpose(0, 1), added)
}

/// [`adapted_linear_backward`] and the gradient through the activation in front of the map, whose output was not kept.
pub(super) fn gelu_linear_backward(
    h: FloatTensor<Flex>,
    form: GeluForm,
    weight: FloatTensor<Flex>,
    update: Update<FloatTensor<Flex>>,
    narrow: FloatTensor<Flex>,
    grad: FloatTensor<Flex>,
    needs_h: bool,
) -> AdaptedGradients<FloatTensor<Flex>> {
    if !needs_h || !is_f32(&[&h, &weight, &update.down, &update.up, &grad]) {
        return defaults::gelu_linear_backward::<Flex>(
            h, form, weight, update, narrow, grad, needs_h,
        );
    }
    let side = OutputSide::new(&update, narrow, grad);
    let ([_, d_in], h) = (h.shape().dims::<2>(), h.to_contiguous());
    let mut dh = through(&side.grad, &weight, &update.down, &side.d_narrow);
    let sizes = [side.rank, d_in];
    let (values, d_narrow) = (h.storage::<f32>(), &side.d_narrow);
    let into = dh.storage_mut::<f32>();
    let d_down = match form {
        GeluForm::Erf => input_gradient_through(gelu_both, values, d_narrow, sizes, into),
        GeluForm::Tanh => input_gradient_through(tanh_gelu_both, values, d_narrow, sizes, into),
    };
    AdaptedGradients {
        x: Some(dh),
        down: tensor(d_down, Shape::new(sizes)).transpose(0, 1),
        up: side.d_up,
    }
}
