//! Modules from a source of weights.

use std::marker::PhantomData;

use burn::{
    module::Param,
    tensor::{Tensor, backend::Backend},
};
use vblora::{FrozenLinear, WeightLayout, backend::VbLoraBackend};

use crate::{
    BaseDtype, Result,
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

    /// A linear map stored as torch stores it, `[d_out, d_in]`, under its site's name.
    pub(crate) fn linear(
        &mut self,
        site: &str,
        d_in: usize,
        d_out: usize,
    ) -> Result<FrozenLinear<B>> {
        let name = format!("{site}.weight");
        let weight = transposed(self.source.take(&name, [d_out, d_in]));
        let weight = upload_as(&name, weight, self.dtype, self.device)?;
        let name = format!("{site}.bias");
        let bias = upload(&name, self.source.take(&name, [d_out]), self.device)?;
        Ok(FrozenLinear::new(
            site,
            weight,
            Some(bias),
            WeightLayout::InOut,
        ))
    }
}
