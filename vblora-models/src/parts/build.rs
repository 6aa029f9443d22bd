//! Modules from a source of weights.

use std::marker::PhantomData;

use burn::{
    module::Param,
    tensor::{Tensor, backend::Backend},
};
use vblora::{FrozenLinear, WeightLayout, backend::VbLoraBackend};

use crate::{
    BaseDtype, HostTensor, Result,
    source::WeightSource,
    upload::{transposed, upload, upload_as},
};

/// A source of weights, the device they go to, and what linear maps are held in there.
pub(crate) struct Builder<'a, B: Backend, S> {
    pub(crate) source: &'a mut S,
    pub(crate) device: &'a B::Device,
    dtype: BaseDtype,
    backend: PhantomData<B>,
}

impl<'a, B: VbLoraBackend, S: WeightSource> Builder<'a, B, S> {
    pub(crate) fn new(source: &'a mut S, dtype: BaseDtype, device: &'a B::Device) -> Self {
        Self {
            source,
            device,
            dtype,
            backend: PhantomData,
        }
    }

    /// A parameter that requires no gradient.
    pub(crate) fn frozen<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<B, D>>> {
        let tensor = upload(name, self.source.take(name, shape), self.device)?;
        Ok(Param::from_tensor(tensor).set_require_grad(false))
    }

    /// The weight of a normalisation of a source that holds what is added to `offset`.
    pub(crate) fn norm_weight(
        &mut self,
        name: &str,
        d: usize,
        offset: f32,
    ) -> Result<Param<Tensor<B, 1>>> {
        let mut stored = self.source.take_norm(name, d, 1.0 - offset);
        stored.values.iter_mut().for_each(|value| *value += offset);
        let tensor = upload(name, stored, self.device)?;
        Ok(Param::from_tensor(tensor).set_require_grad(false))
    }

    /// A linear map with a bias, stored as torch stores it, `[d_out, d_in]`, under its site's name.
    pub(crate) fn linear(
        &mut self,
        site: &str,
        d_in: usize,
        d_out: usize,
    ) -> Result<FrozenLinear<B>> {
        self.linear_named(site, site, [d_in, d_out], true)
    }

    /// A linear map stored `[d_out, d_in]`, whose site may have more in front of its name than its tensors have in this source.
    pub(crate) fn linear_named(
        &mut self,
        site: &str,
        stored: &str,
        [d_in, d_out]: [usize; 2],
        has_bias: bool,
    ) -> Result<FrozenLinear<B>> {
        let name = format!("{stored}.weight");
        let weight = transposed(self.source.take(&name, [d_out, d_in]));
        let bias = match has_bias {
            true => Some(self.source.take(&format!("{stored}.bias"), [d_out])),
            false => None,
        };
        self.map(site, weight, bias)
    }

    /// A linear map of values `[d_in, d_out]` that were taken before.
    pub(crate) fn map(
        &self,
        site: &str,
        weight: HostTensor,
        bias: Option<HostTensor>,
    ) -> Result<FrozenLinear<B>> {
        let weight = upload_as(&format!("{site}.weight"), weight, self.dtype, self.device)?;
        let bias = bias.map(|bias| upload(&format!("{site}.bias"), bias, self.device));
        Ok(FrozenLinear::new(
            site,
            weight,
            bias.transpose()?,
            WeightLayout::InOut,
        ))
    }
}
