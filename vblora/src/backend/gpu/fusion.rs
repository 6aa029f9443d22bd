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

use super::super::{AdaptedGradients, FrozenMap, HeadProduct, Update, VbLoraBackend, defaults};

impl<B: FusionBackend + VbLoraBackend> VbLoraBackend for Fusion<B> {
    fn max_tensor_bytes(device: &Device<Self>) -> Option<usize> {
        B::max_tensor_bytes(device)
    }

    fn frozen_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (shape, dtype) = ([x.shape[0], weight.shape[1]], weight.dtype);
        let [out] = register::<B, _>(Call::Product, vec![x, weight], [shape], dtype);
        out
    }

    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        heads: usize,
        form: HeadProduct,
    ) -> FloatTensor<Self> {
        let shape = form.shape(&a.shape, &b.shape, heads);
        let [out] = register::<B, _>(Call::Heads { heads, form }, vec![a, b], [shape], DType::F32);
        out
    }

    /// Casts and bias outside the product, where they are fused with what comes before and after.
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
    /// x and weight, in the dtype of the output.
    Product,
    /// Both operands.
    Heads { heads: usize, form: HeadProduct },
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
        let (x, weight) = (next(), next());
        let outputs = match self.call {
            Call::Product => vec![B::frozen_product(x, weight)],
            Call::Heads { heads, form } => vec![B::head_product(x, weight, heads, form)],
            Call::Forward { has_bias, scale } => {
                let [down, up] = [next(), next()];
                let bias = has_bias.then(next);
                let update = Update { down, up, scale };
                let (out, narrow) = B::adapted_linear(x, FrozenMap { weight, bias }, update);
                vec![out, narrow]
            }
            Call::Mixed { has_bias } => {
                let (factors, scales) = ([next(), next()], next());
                let bias = has_bias.then(next);
                let map = FrozenMap { weight, bias };
                vec![B::mixed_linear(x, map, factors, scales)]
            }
            Call::Backward { scale } | Call::BackwardToFactors { scale } => {
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
