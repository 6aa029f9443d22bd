//! What the base holds of a classification head: how tokens become one vector, and a frozen map.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use vblora::{Factors, FrozenLinear, backend::VbLoraBackend};

use super::{Encoder, EncoderInput};
use crate::{
    EncoderConfig, HeadActivation, Result,
    parts::{Builder, FrozenLayerNorm},
    source::WeightSource,
};

/// The first map of the head, its function, and a norm in families that have one. PEFT does not train it.
#[derive(Module, Debug)]
pub struct HeadMap<B: Backend> {
    /// `pooler.dense` or `head.dense`, `[d, d]`
    pub dense: FrozenLinear<B>,
    /// `head.norm`
    pub norm: Option<FrozenLayerNorm<B>>,
    #[module(skip)]
    activation: HeadActivation,
}

impl<B: VbLoraBackend> HeadMap<B> {
    pub(super) fn build<S: WeightSource>(
        builder: &mut Builder<'_, B, S>,
        config: &EncoderConfig,
    ) -> Result<Option<Self>> {
        let names = config.layout().head.filter(|_| config.head_in_base);
        let Some((dense, norm)) = names else {
            return Ok(None);
        };
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let (dense, norm) = builder.at_root(|builder| {
            let dense = builder
                .as_stored(|builder| builder.linear_named(dense, dense, [d, d], config.head_bias));
            let norm = norm
                .map(|name| FrozenLayerNorm::build_with(builder, name, d, eps, config.norm_bias));
            (dense, norm)
        });
        Ok(Some(Self {
            dense: dense?,
            norm: norm.transpose()?,
            activation: config.head_activation,
        }))
    }

    fn forward(&self, x: Tensor<B, 3>, factors: &Factors<B>) -> Tensor<B, 3> {
        let x = self.activation.apply(self.dense.forward(x, factors));
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }
}

impl<B: VbLoraBackend> Encoder<B> {
    /// # Shapes
    /// - hidden: `[n, t, d]`; output: the same, or `[n, 1, d]`
    pub(super) fn pooled(
        &self,
        hidden: Tensor<B, 3>,
        input: &EncoderInput<B>,
        factors: &Factors<B>,
    ) -> Tensor<B, 3> {
        let pooled = match &input.places.mean {
            Some(shares) => (hidden * shares.clone()).sum_dim(1),
            None => hidden,
        };
        match &self.head {
            Some(head) => head.forward(pooled.narrow(1, 0, 1), factors),
            None => pooled,
        }
    }
}
