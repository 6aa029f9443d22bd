//! Linear maps on flex. Our own products add bias and update in the same pass. Flex's products write to memory that is zeroed and copied
//! first.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{DType, Shape, TensorMetadata, ops::FloatTensor},
};

use vblora_kernels::{
    linear::{
        Added, Matrix, Quantised, input_gradient, input_gradient_through, narrow_product,
        output_gradients, product, quantised_product,
    },
    zeros,
};

use super::{AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Update, default};
use crate::backend::{
    GeluForm,
    flex::{is_f32, tensor},
};

impl LinearOps for Flex {
    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        let Some((weight, bias)) = in_f32(&map).filter(|_| is_f32(&[&x])) else {
            return default::frozen_linear::<Self>(x, map);
        };
        let [rows, _] = x.shape().dims::<2>();
        let (x, bias) = (x.to_contiguous(), bias.map(FlexTensor::to_contiguous));
        let added = Added {
            bias: bias.as_ref().map(|bias| bias.storage::<f32>()),
            narrow: None,
        };
        multiplied(x.storage(), rows, &weight, added)
    }

    fn frozen_linear_backward(
        grad: FloatTensor<Self>,
        weight: HeldWeight<Self>,
    ) -> FloatTensor<Self> {
        let Some(held) = weight_in_f32(&weight).filter(|_| is_f32(&[&grad])) else {
            return default::through_map::<Self>(grad, weight);
        };
        let [rows, _] = grad.shape().dims::<2>();
        let grad = grad.to_contiguous();
        multiplied(grad.storage(), rows, &held.turned(), Added::default())
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let others = [&x, &update.down, &update.up];
        let Some((weight, bias)) = in_f32(&map).filter(|_| is_f32(&others)) else {
            return default::adapted_linear::<Self>(x, map, update);
        };
        let ([rows, d_in], [rank, d_out]) = (x.shape().dims::<2>(), update.up.shape().dims::<2>());
        let (x, up) = (x.to_contiguous(), update.up.to_contiguous());
        let turned = update.down.transpose(0, 1).to_contiguous();
        let bias = bias.map(FlexTensor::to_contiguous);
        let mut narrow = vec![0.0; rows * rank];
        let x = x.storage::<f32>();
        narrow_product(x, turned.storage(), d_in, update.scale as f32, &mut narrow);
        let added = Added {
            bias: bias.as_ref().map(|bias| bias.storage::<f32>()),
            narrow: Some((&narrow, Matrix::rows(up.storage(), [rank, d_out]))),
        };
        let y = multiplied(x, rows, &weight, added);
        (y, tensor(narrow, Shape::new([rows, rank])))
    }

    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: HeldWeight<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        let others = [&x, &update.down, &update.up, &grad];
        let Some(held) = weight_in_f32(&weight).filter(|_| is_f32(&others)) else {
            return default::adapted_linear_backward::<Self>(
                x, weight, update, narrow, grad, needs_x,
            );
        };
        let side = OutputSide::new(&update, narrow, grad);
        let [_, d_in] = x.shape().dims::<2>();
        let x = x.to_contiguous();
        let mut d_narrow = side.d_narrow;
        let d_down = input_gradient(x.storage(), &mut d_narrow, [side.rank, d_in]);
        let x = needs_x.then(|| through(&side.grad, &held, &update.down, &d_narrow));
        AdaptedGradients {
            x,
            down: tensor(d_down, Shape::new([side.rank, d_in])).transpose(0, 1),
            up: side.d_up,
        }
    }

    /// The step through GELU and the gradient of the down factor are one pass, in which GELU's output is computed again.
    fn gelu_linear_backward(
        h: FloatTensor<Self>,
        form: GeluForm,
        weight: HeldWeight<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_h: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        let others = [&h, &update.down, &update.up, &grad];
        let held = weight_in_f32(&weight).filter(|_| needs_h && is_f32(&others));
        let Some(held) = held else {
            return default::gelu_linear_backward::<Self>(
                h, form, weight, update, narrow, grad, needs_h,
            );
        };
        let side = OutputSide::new(&update, narrow, grad);
        let ([_, d_in], h) = (h.shape().dims::<2>(), h.to_contiguous());
        let mut dh = through(&side.grad, &held, &update.down, &side.d_narrow);
        let sizes = [side.rank, d_in];
        let (values, d_narrow) = (h.storage::<f32>(), &side.d_narrow);
        let into = dh.storage_mut::<f32>();
        let d_down = input_gradient_through(form.curve(), values, d_narrow, sizes, into);
        AdaptedGradients {
            x: Some(dh),
            down: tensor(d_down, Shape::new(sizes)).transpose(0, 1),
            up: side.d_up,
        }
    }
}

/// A view of a matrix's memory, without a copy.
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

/// `x w + added`.
fn multiplied(x: &[f32], rows: usize, w: &Weight<'_>, added: Added<'_>) -> FlexTensor {
    let [_, d_out] = w.dims();
    let mut out = zeros(rows * d_out);
    match w {
        Weight::Dense(w) => dense(x, w, added, &mut out),
        Weight::Turned(w) => dense(x, &w.transpose(0, 1), added, &mut out),
        Weight::Nf4(w) => quantised_product(x, *w, added, &mut out),
    }
    tensor(out, Shape::new([rows, d_out]))
}

/// [`multiplied`] by a matrix of any strides.
fn dense(x: &[f32], w: &FlexTensor, added: Added<'_>, out: &mut [f32]) {
    match matrix(w) {
        Some(w) => product(x, w, added, out),
        None => {
            let w = w.to_contiguous();
            let shape = w.shape().dims::<2>();
            product(x, Matrix::rows(w.storage(), shape), added, out);
        }
    }
}

/// A weight whose products are computed in f32 here.
enum Weight<'a> {
    Dense(&'a FlexTensor),
    /// The transpose of one.
    Turned(&'a FlexTensor),
    Nf4(Quantised<'a>),
}

impl Weight<'_> {
    /// The number of rows and columns.
    fn dims(&self) -> [usize; 2] {
        let (dims, is_turned) = match self {
            Self::Dense(weight) => (weight.shape().dims(), false),
            Self::Turned(weight) => (weight.shape().dims(), true),
            Self::Nf4(w) => (w.shape, !w.is_turned),
        };
        match (dims, is_turned) {
            ([rows, columns], true) => [columns, rows],
            (dims, false) => dims,
        }
    }

    fn turned(&self) -> Self {
        match self {
            Self::Dense(weight) => Self::Turned(weight),
            Self::Turned(weight) => Self::Dense(weight),
            Self::Nf4(w) => Self::Nf4(Quantised {
                is_turned: !w.is_turned,
                ..*w
            }),
        }
    }
}

/// The tensors of a map, if all of them are f32.
fn in_f32(map: &FrozenMap<Flex>) -> Option<(Weight<'_>, Option<&FlexTensor>)> {
    let weight = weight_in_f32(&map.weight)?;
    let bias = map.bias.as_ref();
    bias.is_none_or(|bias| is_f32(&[bias]))
        .then_some((weight, bias))
}

/// The weight, if products with it are computed in f32.
fn weight_in_f32(weight: &HeldWeight<Flex>) -> Option<Weight<'_>> {
    if weight.dtype() != DType::F32 {
        return None;
    }
    Some(match weight {
        HeldWeight::Dense(weight) => Weight::Dense(weight),
        HeldWeight::Nf4(weight) => Weight::Nf4(weight.view()),
    })
}

/// The gradients that need the output's gradient, but neither the map nor its input.
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
    weight: &Weight<'_>,
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
    multiplied(grad.storage(), rows, &weight.turned(), added)
}
