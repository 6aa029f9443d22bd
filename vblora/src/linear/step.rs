//! Maps of one token a row, for decoding.

use burn::tensor::{Tensor, TensorPrimitive};

use super::{FrozenLinear, update};
use crate::{
    Factors,
    backend::{Gate, GeluForm, StepForm, StepMap, StepNorm, VbLoraBackend, primitive},
};

/// Maps of one input, one token a row, with the updates of their sites, and what comes before and after them as one operation.
#[derive(Debug)]
pub struct StepMaps<B: VbLoraBackend> {
    maps: Vec<StepMap<B>>,
    norm: Option<StepNorm<Tensor<B, 1>>>,
}

impl<B: VbLoraBackend> StepMaps<B> {
    /// Maps of the normalisation of their input, or of the input itself, for `n` rows.
    ///
    /// # Panics
    /// The factors belong to a multi-adapter batch ([`Stack`](crate::Stack)) with another number of rows.
    pub fn new<'a>(
        linears: impl IntoIterator<Item = &'a FrozenLinear<B>>,
        norm: Option<StepNorm<Tensor<B, 1>>>,
        factors: &Factors<B>,
        n: usize,
    ) -> Self {
        let maps = linears.into_iter().map(|linear| {
            let scales = factors.token_scales(&linear.site, n, n);
            StepMap {
                map: linear.map(),
                update: factors.get(&linear.site).map(update),
                scales: scales.map(primitive),
            }
        });
        Self {
            maps: maps.collect(),
            norm,
        }
    }

    /// The outputs side by side.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, sum of d_out]`
    pub fn joined(self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.run(x, StepForm::Joined)
    }

    /// A gated unit of two maps, gate and up.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, d_out]`
    pub fn gated(self, x: Tensor<B, 2>, form: Gate) -> Tensor<B, 2> {
        self.run(x, StepForm::Gated(form))
    }

    /// GELU of one map.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; output: `[n, d_out]`
    pub fn gelu(self, x: Tensor<B, 2>, form: GeluForm) -> Tensor<B, 2> {
        self.run(x, StepForm::Gelu(form))
    }

    /// One map times a factor, added to a tensor.
    ///
    /// # Shapes
    /// - x: `[n, d_in]`; to and output: `[n, d_out]`
    pub fn added(self, x: Tensor<B, 2>, to: Tensor<B, 2>, scale: f64) -> Tensor<B, 2> {
        let to = primitive(to);
        self.run(x, StepForm::Added { to, scale })
    }

    fn run(self, x: Tensor<B, 2>, form: StepForm<B::FloatTensorPrimitive>) -> Tensor<B, 2> {
        let norm = self.norm.map(|norm| StepNorm {
            gamma: primitive(norm.gamma),
            beta: norm.beta.map(primitive),
            is_centred: norm.is_centred,
            epsilon: norm.epsilon,
        });
        let y = B::step_maps(primitive(x), norm, self.maps, form);
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }
}
