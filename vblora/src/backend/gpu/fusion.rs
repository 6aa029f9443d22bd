//! The kernels behind Burn's operation fusion: registered as operations of their own between streams of fused ones. Everything else stays
//! plain tensor operations, which fusion turns into fewer kernels.

use std::{fmt, marker::PhantomData};

use burn::tensor::{
    DType, Shape,
    ops::{Device, FloatTensor},
};
use burn_fusion::{
    Fusion, FusionBackend, FusionRuntime,
    stream::{Operation, OperationStreams},
};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};

use super::{
    super::{
        AdaptedGradients, FrozenMap, HeadProduct, NormGradients, Update, VbLoraBackend, defaults,
    },
    HasPlanes,
};

/// Whether the backend has the tensors' operation as one kernel; else its parts are fused with what is around them.
fn has_kernel<B: FusionBackend + HasPlanes>(tensors: &[&FloatTensor<Fusion<B>>]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype == DType::F32)
        && B::has_planes(tensors[0].client.device())
}

impl<B: FusionBackend + VbLoraBackend + HasPlanes> VbLoraBackend for Fusion<B> {
    fn max_tensor_bytes(device: &Device<Self>) -> Option<usize> {
        B::max_tensor_bytes(device)
    }

    fn frozen_product(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
    ) -> FloatTensor<Self> {
        let shape = [x.shape[0], map.weight.shape[1]];
        let has_bias = map.bias.is_some();
        let dtype = defaults::product_dtype(x.dtype);
        let inputs = [x, map.weight].into_iter().chain(map.bias).collect();
        let [out] = register::<B, _>(Call::Product { has_bias }, inputs, [shape], dtype);
        out
    }

    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        let (shape, dtype) = (product.shape(&a.shape, &b.shape), a.dtype);
        let has_mask = mask.is_some();
        let inputs = [a, b].into_iter().chain(mask).collect();
        let call = Call::Heads { product, has_mask };
        let [out] = register::<B, _>(call, inputs, [shape], dtype);
        out
    }

    fn row_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&x]) {
            return defaults::row_softmax::<Self>(x);
        }
        register_like::<B>(Call::Softmax, vec![x])
    }

    fn row_softmax_backward(
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&output, &grad]) {
            return defaults::row_softmax_backward::<Self>(output, grad);
        }
        register_like::<B>(Call::SoftmaxBackward, vec![output, grad])
    }

    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&x, &gamma, &beta]) {
            return defaults::row_norm::<Self>(x, gamma, beta, epsilon);
        }
        register_like::<B>(Call::Norm { epsilon }, vec![x, gamma, beta])
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> NormGradients<Self> {
        if affine || !has_kernel::<B>(&[&x, &gamma, &grad]) {
            return defaults::row_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let call = Call::NormBackward { epsilon };
        (register_like::<B>(call, vec![x, gamma, grad]), None)
    }

    fn norm_and_deviation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !has_kernel::<B>(&[&x, &gamma, &beta]) {
            return defaults::norm_and_deviation::<Self>(x, gamma, beta, epsilon);
        }
        let shape = x.shape.clone();
        let rows = shape.num_elements() / gamma.shape[0].max(1);
        let call = Call::NormAndDeviation { epsilon };
        let inputs = vec![x, gamma, beta];
        let [y, deviation] =
            register::<B, _>(call, inputs, [shape, Shape::new([rows])], DType::F32);
        (y, deviation)
    }

    fn invertible_norm_backward(
        y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        deviation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&y, &gamma, &beta, &deviation, &grad]) {
            return defaults::invertible_norm_backward::<Self>(y, [gamma, beta], deviation, grad);
        }
        let inputs = vec![y, gamma, beta, deviation, grad];
        register_like::<B>(Call::InvertibleNormBackward, inputs)
    }

    fn join_rows(pieces: Vec<FloatTensor<Self>>) -> FloatTensor<Self> {
        let rows = pieces.iter().map(|piece| piece.shape[0]).sum();
        let (shape, dtype) = ([rows, pieces[0].shape[1]], pieces[0].dtype);
        let [out] = register::<B, _>(Call::JoinRows, pieces, [shape], dtype);
        out
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        if !has_kernel::<B>(&[&x, &gamma]) {
            return defaults::decoder::rms_norm::<Self>(x, gamma, epsilon);
        }
        register_like::<B>(Call::RmsNorm { epsilon }, vec![x, gamma])
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
        affine: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        if affine || !has_kernel::<B>(&[&x, &gamma, &grad]) {
            return defaults::decoder::rms_norm_backward::<Self>(x, gamma, epsilon, grad, affine);
        }
        let call = Call::RmsNormBackward { epsilon };
        (register_like::<B>(call, vec![x, gamma, grad]), None)
    }

    /// Casts outside the product, where they are fused with what comes before and after.
    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<FloatTensor<Self>>) -> FloatTensor<Self> {
        defaults::rounded_linear::<Self>(x, map)
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (n, rank, m) = (x.shape[0], update.down.shape[1], update.up.shape[1]);
        let call = Call::Forward {
            has_bias: map.bias.is_some(),
            scale: update.scale,
        };
        let inputs = [x, map.weight, update.down, update.up]
            .into_iter()
            .chain(map.bias);
        let [out, narrow] =
            register::<B, _>(call, inputs.collect(), [[n, m], [n, rank]], DType::F32);
        (out, narrow)
    }

    fn mixed_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<FloatTensor<Self>>,
        [down, up]: [FloatTensor<Self>; 2],
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = [x.shape[0], up.shape[1]];
        let has_bias = map.bias.is_some();
        let inputs = [x, map.weight, down, up, scales].into_iter();
        let inputs = inputs.chain(map.bias).collect();
        let [out] = register::<B, _>(Call::Mixed { has_bias }, inputs, [shape], DType::F32);
        out
    }

    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        let (n, d) = (x.shape[0], x.shape[1]);
        let (rank, m) = (update.up.shape[0], update.up.shape[1]);
        let scale = update.scale;
        let inputs = vec![x, weight, update.down, update.up, narrow, grad];
        let factors = [[d, rank], [rank, m]];
        if needs_x {
            let call = Call::Backward { scale };
            let [down, up, x] =
                register::<B, _>(call, inputs, [factors[0], factors[1], [n, d]], DType::F32);
            return AdaptedGradients {
                x: Some(x),
                down,
                up,
            };
        }
        let call = Call::BackwardToFactors { scale };
        let [down, up] = register::<B, _>(call, inputs, factors, DType::F32);
        AdaptedGradients { x: None, down, up }
    }
}

/// Which of the operations, with what is no tensor of it.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// x, weight and perhaps a bias.
    Product { has_bias: bool },
    /// Both operands and perhaps a mask.
    Heads {
        product: HeadProduct,
        has_mask: bool,
    },
    /// x.
    Softmax,
    /// The output and its gradient.
    SoftmaxBackward,
    /// x, gamma and beta.
    Norm { epsilon: f64 },
    /// x, gamma and the output's gradient.
    NormBackward { epsilon: f64 },
    /// x, gamma and beta, to the output and what rows were divided by.
    NormAndDeviation { epsilon: f64 },
    /// The output, gamma, beta, what rows were divided by and the output's gradient.
    InvertibleNormBackward,
    /// All of them.
    JoinRows,
    /// x and gamma.
    RmsNorm { epsilon: f64 },
    /// x, gamma and the output's gradient.
    RmsNormBackward { epsilon: f64 },
    /// x, weight, down, up and perhaps a bias.
    Forward { has_bias: bool, scale: f64 },
    /// x, weight, down, up, scales and perhaps a bias.
    Mixed { has_bias: bool },
    /// x, weight, down, up, narrow and gradient, to the gradients of down, up and x.
    Backward { scale: f64 },
    /// The same without x.
    BackwardToFactors { scale: f64 },
}

struct Registered<B> {
    call: Call,
    desc: CustomOpIr,
    backend: PhantomData<fn() -> B>,
}

impl<B> fmt::Debug for Registered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.call, self.desc)
    }
}

/// An operation with one output, of the shape of its first input and in f32.
fn register_like<B: FusionBackend + VbLoraBackend>(
    call: Call,
    inputs: Vec<FloatTensor<Fusion<B>>>,
) -> FloatTensor<Fusion<B>> {
    let shape = inputs[0].shape.clone();
    let [out] = register::<B, _>(call, inputs, [shape], DType::F32);
    out
}

fn register<B: FusionBackend + VbLoraBackend, const N: usize>(
    call: Call,
    inputs: Vec<FloatTensor<Fusion<B>>>,
    shapes: [impl Into<Shape>; N],
    dtype: DType,
) -> [FloatTensor<Fusion<B>>; N] {
    let client = inputs[0].client.clone();
    let streams = OperationStreams::with_inputs(&inputs);
    let outputs =
        shapes.map(|shape| TensorIr::uninit(client.create_empty_handle(), shape.into(), dtype));
    let inputs: Vec<_> = inputs.into_iter().map(|tensor| tensor.into_ir()).collect();
    let desc = CustomOpIr::new("vblora", &inputs, &outputs);
    let operation = Registered::<B> {
        call,
        desc: desc.clone(),
        backend: PhantomData,
    };
    let outputs = client.register(streams, OperationIr::Custom(desc), operation);
    match outputs.try_into() {
        Ok(outputs) => outputs,
        Err(_) => unreachable!("as many outputs as were described"),
    }
}

impl<B: FusionBackend + VbLoraBackend> Operation<B::FusionRuntime> for Registered<B> {
    fn execute(
        &self,
        handles: &mut HandleContainer<<B::FusionRuntime as FusionRuntime>::FusionHandle>,
    ) {
        let mut inputs = self.desc.inputs.iter();
        let mut next = || {
            let input = inputs.next().expect("every input was described");
            handles.get_float_tensor::<B>(input)
        };
        let outputs = match self.call {
            Call::Product { has_bias } => {
                let (x, weight) = (next(), next());
                let bias = has_bias.then(next);
                vec![B::frozen_product(x, FrozenMap { weight, bias })]
            }
            Call::Heads { product, has_mask } => {
                let (a, b) = (next(), next());
                vec![B::head_product(a, b, has_mask.then(next), product)]
            }
            Call::Softmax => vec![B::row_softmax(next())],
            Call::SoftmaxBackward => vec![B::row_softmax_backward(next(), next())],
            Call::Norm { epsilon } => vec![B::row_norm(next(), next(), next(), epsilon)],
            Call::NormBackward { epsilon } => {
                vec![B::row_norm_backward(next(), next(), epsilon, next(), false).0]
            }
            Call::NormAndDeviation { epsilon } => {
                let (y, deviation) = B::norm_and_deviation(next(), next(), next(), epsilon);
                vec![y, deviation]
            }
            Call::InvertibleNormBackward => {
                let y = next();
                let [gamma, beta, deviation, grad] = [next(), next(), next(), next()];
                vec![B::invertible_norm_backward(y, gamma, beta, deviation, grad)]
            }
            Call::JoinRows => {
                vec![B::join_rows(
                    self.desc.inputs.iter().map(|_| next()).collect(),
                )]
            }
            Call::RmsNorm { epsilon } => vec![B::rms_norm(next(), next(), epsilon)],
            Call::RmsNormBackward { epsilon } => {
                vec![B::rms_norm_backward(next(), next(), epsilon, next(), false).0]
            }
            Call::Forward { has_bias, scale } => {
                let (x, weight) = (next(), next());
                let [down, up] = [next(), next()];
                let bias = has_bias.then(next);
                let update = Update { down, up, scale };
                let (out, narrow) = B::adapted_linear(x, FrozenMap { weight, bias }, update);
                vec![out, narrow]
            }
            Call::Mixed { has_bias } => {
                let (x, weight) = (next(), next());
                let (factors, scales) = ([next(), next()], next());
                let bias = has_bias.then(next);
                let map = FrozenMap { weight, bias };
                vec![B::mixed_linear(x, map, factors, scales)]
            }
            Call::Backward { scale } | Call::BackwardToFactors { scale } => {
                let (x, weight) = (next(), next());
                let [down, up] = [next(), next()];
                let [narrow, grad] = [next(), next()];
                let needs_x = matches!(self.call, Call::Backward { .. });
                let update = Update { down, up, scale };
                let found = B::adapted_linear_backward(x, weight, update, narrow, grad, needs_x);
                [found.down, found.up].into_iter().chain(found.x).collect()
            }
        };
        for (described, output) in self.desc.outputs.iter().zip(outputs) {
            handles.register_float_tensor::<B>(&described.id, output);
        }
    }
}
