//! The kernels of linear maps under operation fusion.

use burn::tensor::{DType, ops::FloatTensor};
use burn_fusion::{Fusion, FusionBackend};

use super::super::{AdaptedGradients, FrozenMap, HeldWeight, LinearOps, Update, default};
use crate::backend::gpu::{
    HasPlanes,
    fusion::{Call, next, register},
};

impl<B: FusionBackend + LinearOps + HasPlanes> LinearOps for Fusion<B> {
    fn frozen_product(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        let weight = map.weight.into_dense();
        let shape = [x.shape[0], weight.shape[1]];
        let has_bias = map.bias.is_some();
        let dtype = default::product_dtype(x.dtype);
        let inputs = [x, weight].into_iter().chain(map.bias).collect();
        let [out] = register::<B, _, _>(Kernel::Product { has_bias }, inputs, [shape], dtype);
        out
    }

    /// Casts stay outside the product, where they are fused with the operations around them.
    fn frozen_linear(x: FloatTensor<Self>, map: FrozenMap<Self>) -> FloatTensor<Self> {
        default::rounded_linear::<Self>(x, map)
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        update: Update<FloatTensor<Self>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (n, rank, m) = (x.shape[0], update.down.shape[1], update.up.shape[1]);
        let call = Kernel::Forward {
            has_bias: map.bias.is_some(),
            scale: update.scale,
        };
        let inputs = [x, map.weight.into_dense(), update.down, update.up]
            .into_iter()
            .chain(map.bias);
        let [out, narrow] =
            register::<B, _, _>(call, inputs.collect(), [[n, m], [n, rank]], DType::F32);
        (out, narrow)
    }

    fn adapted_linear_backward(
        x: FloatTensor<Self>,
        weight: HeldWeight<Self>,
        update: Update<FloatTensor<Self>>,
        narrow: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs_x: bool,
    ) -> AdaptedGradients<FloatTensor<Self>> {
        let (n, d) = (x.shape[0], x.shape[1]);
        let (rank, m) = (update.up.shape[0], update.up.shape[1]);
        let scale = update.scale;
        let inputs = vec![x, weight.into_dense(), update.down, update.up, narrow, grad];
        let factors = [[d, rank], [rank, m]];
        if needs_x {
            let call = Kernel::Backward { scale };
            let [down, up, x] =
                register::<B, _, _>(call, inputs, [factors[0], factors[1], [n, d]], DType::F32);
            return AdaptedGradients {
                x: Some(x),
                down,
                up,
            };
        }
        let call = Kernel::BackwardToFactors { scale };
        let [down, up] = register::<B, _, _>(call, inputs, factors, DType::F32);
        AdaptedGradients { x: None, down, up }
    }

    fn stacked_linear(
        x: FloatTensor<Self>,
        map: FrozenMap<Self>,
        [down, up]: [FloatTensor<Self>; 2],
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = [x.shape[0], up.shape[1]];
        let has_bias = map.bias.is_some();
        let inputs = [x, map.weight.into_dense(), down, up, scales].into_iter();
        let inputs = inputs.chain(map.bias).collect();
        let [out] = register::<B, _, _>(Kernel::Stacked { has_bias }, inputs, [shape], DType::F32);
        out
    }
}

/// The operations that have a kernel. Each variant lists its inputs.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    /// x, weight and perhaps a bias.
    Product { has_bias: bool },
    /// x, weight, down, up and perhaps a bias.
    Forward { has_bias: bool, scale: f64 },
    /// x, weight, down, up, narrow and gradient, to the gradients of down, up and x.
    Backward { scale: f64 },
    /// The same without x.
    BackwardToFactors { scale: f64 },
    /// x, weight, down, up, scales and perhaps a bias.
    Stacked { has_bias: bool },
}

impl<B: LinearOps> Call<B> for Kernel {
    fn run(self, mut inputs: impl Iterator<Item = FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        let mut next = || next(&mut inputs);
        let (x, weight) = (next(), next());
        match self {
            Self::Product { has_bias } => {
                let bias = has_bias.then(next);
                vec![B::frozen_product(x, FrozenMap::dense(weight, bias))]
            }
            Self::Forward { has_bias, scale } => {
                let [down, up] = [next(), next()];
                let map = FrozenMap::dense(weight, has_bias.then(next));
                let (out, narrow) = B::adapted_linear(x, map, Update { down, up, scale });
                vec![out, narrow]
            }
            Self::Backward { scale } | Self::BackwardToFactors { scale } => {
                let [down, up] = [next(), next()];
                let [narrow, grad] = [next(), next()];
                let needs_x = matches!(self, Self::Backward { .. });
                let update = Update { down, up, scale };
                let weight = HeldWeight::Dense(weight);
                let found = B::adapted_linear_backward(x, weight, update, narrow, grad, needs_x);
                [found.down, found.up].into_iter().chain(found.x).collect()
            }
            Self::Stacked { has_bias } => {
                let (factors, scales) = ([next(), next()], next());
                let map = FrozenMap::dense(weight, has_bias.then(next));
                vec![B::stacked_linear(x, map, factors, scales)]
            }
        }
    }
}
