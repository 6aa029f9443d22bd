//! A frozen linear map with a place for an adapter.

mod joined;
mod step;
mod weight;

use burn::{
    module::{Module, Param},
    tensor::{FloatDType, Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

pub use joined::JoinedMaps;
pub use step::StepMaps;
pub use weight::FrozenWeight;

use crate::{
    Factors, LowRank, Site,
    backend::{FrozenMap, GeluForm, Update, VbLoraBackend, matmul, primitive},
    nf4::Nf4Host,
};

/// The layout in which a checkpoint stores the weight of a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[d_out, d_in]`, torch's `Linear`.
    OutIn,
    /// `[d_in, d_out]`, GPT-2's `Conv1D` ("fan-in, fan-out").
    InOut,
}

/// `y = x W + b`, plus `s (x A) B` if [`Factors`] hold a pair for this site (paper, Algorithm 1). The update is never formed.
///
/// Weight and bias require no gradient and get none. The weight may be in half precision or in 4 bits; input, bias, adapter and output are
/// in f32.
#[derive(Module, Debug)]
pub struct FrozenLinear<B: Backend> {
    /// `[d_in, d_out]`
    pub weight: FrozenWeight<B>,
    /// `[d_out]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    site: String,
}

impl<B: Backend> FrozenLinear<B> {
    /// Freezes a weight stored as `layout` says, and a bias, under the site's name.
    ///
    /// # Shapes
    /// - weight: `[d_out, d_in]` or `[d_in, d_out]`
    /// - bias: `[d_out]`
    pub fn new(
        site: impl Into<String>,
        weight: Tensor<B, 2>,
        bias: Option<Tensor<B, 1>>,
        layout: WeightLayout,
    ) -> Self {
        let weight = match layout {
            WeightLayout::OutIn => weight.transpose(),
            WeightLayout::InOut => weight,
        };
        Self {
            weight: FrozenWeight::from_dense(weight),
            bias: bias.map(|bias| Param::from_tensor(bias).set_require_grad(false)),
            site: site.into(),
        }
    }

    /// Freezes a weight in 4 bits under the site's name. Products with it are computed in `compute`.
    ///
    /// # Shapes
    /// - weight: `[d_out, d_in]`, as files store it; bias: `[d_out]`
    pub fn from_nf4(
        site: impl Into<String>,
        weight: &Nf4Host,
        bias: Option<Tensor<B, 1>>,
        compute: FloatDType,
        device: &B::Device,
    ) -> Self {
        Self {
            weight: FrozenWeight::from_nf4(weight, compute, device),
            bias: bias.map(|bias| Param::from_tensor(bias).set_require_grad(false)),
            site: site.into(),
        }
    }

    /// This map as a site.
    pub fn site(&self) -> Site {
        let [d_in, d_out] = self.weight.dims();
        Site::new(self.site.clone(), d_in, d_out)
    }
}

impl<B: VbLoraBackend> FrozenLinear<B> {
    /// The map with its update added into a dense weight: one matrix product, without an adapter. This map keeps every bit, so dropping the
    /// merged map undoes the merge.
    ///
    /// The merged weight of one in 4 bits is dense, in its compute dtype: eight times the memory in f32, four times in half precision.
    ///
    /// # Panics
    /// The factors belong to a multi-adapter batch ([`Stack`](crate::Stack)), whose rows have no weight in common.
    #[must_use]
    pub fn merged(&self, factors: &Factors<B>) -> Self {
        let Some(pair) = factors.get(&self.site) else {
            return self.clone();
        };
        assert!(
            !factors.is_multi_adapter(),
            "rows with adapters of their own"
        );
        let held = self.weight.dense();
        let dtype = FloatDType::from(held.dtype());
        // Only the sum is rounded.
        let weight = (held.cast(FloatDType::F32) + pair.delta()).cast(dtype);
        Self {
            weight: FrozenWeight::from_dense(weight),
            ..self.clone()
        }
    }

    /// Applies the map and its site's adapter.
    ///
    /// # Shapes
    /// - input: `[.., d_in]`
    /// - output: `[.., d_out]`
    ///
    /// # Panics
    /// The factors belong to a multi-adapter batch ([`Stack`](crate::Stack)) with another number of rows than the input.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>, factors: &Factors<B>) -> Tensor<B, D> {
        let pair = factors.get(&self.site);
        if let Some(pair) = pair.filter(|_| !factors.drops() && !factors.is_multi_adapter()) {
            return self.adapted(x, None, pair);
        }
        let [d_in, d_out] = self.weight.dims();
        let mut shape = x.dims();
        let batch = if D == 1 { 1 } else { shape[0] };
        let rows = shape.iter().product::<usize>() / d_in;
        shape[D - 1] = d_out;
        // One flat product, because backends treat leading dimensions as a batch of small ones.
        let x = x.reshape([rows, d_in]);
        let y = match pair {
            None => self.frozen(x),
            Some(pair) => match factors.token_scales(&self.site, batch, rows) {
                Some(scales) => self.stacked(x, pair, scales),
                None => {
                    let dropped = factors.drop(x.clone(), factors.dropout(), &self.site);
                    // The scale goes on the narrow side: r columns instead of d_out.
                    let narrow = matmul(dropped, pair.down.clone()).mul_scalar(pair.scale);
                    self.frozen(x) + matmul(narrow, pair.up.clone())
                }
            },
        };
        y.reshape(shape)
    }

    /// [`forward`](Self::forward) of the GELU of its input. With an adapter, the backward pass computes the GELU again and nothing keeps it.
    ///
    /// # Shapes
    /// - as in [`forward`](Self::forward)
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_gelu<const D: usize>(
        &self,
        h: Tensor<B, D>,
        form: GeluForm,
        factors: &Factors<B>,
    ) -> Tensor<B, D> {
        let pair = factors.get(&self.site);
        let Some(pair) = pair.filter(|_| !factors.drops() && !factors.is_multi_adapter()) else {
            let x = form.apply::<B>(primitive(h));
            let x = Tensor::from_primitive(TensorPrimitive::Float(x));
            return self.forward::<D>(x, factors);
        };
        self.adapted(h, Some(form), pair)
    }

    fn map(&self) -> FrozenMap<B> {
        FrozenMap {
            weight: self.weight.held(),
            bias: self.bias.as_ref().map(|bias| primitive(bias.val())),
        }
    }

    fn frozen(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let y = B::frozen_linear(primitive(x), self.map());
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }

    /// Map and update, of x or of its GELU, as one operation with a backward of its own.
    fn adapted<const D: usize>(
        &self,
        x: Tensor<B, D>,
        form: Option<GeluForm>,
        pair: &LowRank<B>,
    ) -> Tensor<B, D> {
        let y = B::adapted_rows(primitive(x), form, self.map(), update(pair));
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }

    /// Map and update of a multi-adapter batch. Each row has the scales of its own adapter, 0 in the columns of others.
    fn stacked(&self, x: Tensor<B, 2>, pair: &LowRank<B>, scales: Tensor<B, 2>) -> Tensor<B, 2> {
        let factors = [&pair.down, &pair.up].map(|factor| primitive(factor.clone()));
        let y = B::stacked_linear(primitive(x), self.map(), factors, primitive(scales));
        Tensor::from_primitive(TensorPrimitive::Float(y))
    }
}

fn update<B: VbLoraBackend>(pair: &LowRank<B>) -> Update<FloatTensor<B>> {
    Update {
        down: primitive(pair.down.clone()),
        up: primitive(pair.up.clone()),
        scale: pair.scale,
    }
}
