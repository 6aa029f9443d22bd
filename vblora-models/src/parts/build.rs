//! Modules from a source of weights.

use std::marker::PhantomData;

use burn::{
    module::Param,
    tensor::{Tensor, backend::Backend},
};
use vblora::{FrozenLinear, WeightLayout, backend::VbLoraBackend, nf4::Nf4Host};

use crate::{
    BaseDtype, HostTensor, Result,
    source::WeightSource,
    upload::{transposed, upload, upload_as, upload_nf4},
    weights::MapWeight,
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

    /// What `build` builds of tensors that stand beside the model, without its prefix.
    pub(crate) fn at_root<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        self.source.set_at_root(true);
        let built = build(self);
        self.source.set_at_root(false);
        built
    }

    /// What `build` builds of maps beside the blocks, which are not quantised here. Those that a file has in 4 bits stay so.
    pub(crate) fn as_stored<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let dtype = self.dtype;
        self.dtype = dtype.as_stored();
        let built = build(self);
        self.dtype = dtype;
        built
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
        let weight = self.take_map(&name, [d_in, d_out], false);
        let bias = match has_bias {
            true => Some(self.source.take(&format!("{stored}.bias"), [d_out])),
            false => None,
        };
        self.map(site, weight, bias)
    }

    /// The weight of a linear map: floats `[d_in, d_out]`, or 4 bits, quantised here if the base is to be. A `Conv1D` is stored
    /// `[d_in, d_out]`.
    pub(crate) fn take_map(
        &mut self,
        name: &str,
        [d_in, d_out]: [usize; 2],
        is_conv1d: bool,
    ) -> MapWeight {
        let out_in = [d_out, d_in];
        let shape = if is_conv1d { [d_in, d_out] } else { out_in };
        let is_kept = self.source.is_kept_dense(name);
        let values = match self.source.take_map(name, shape, out_in) {
            MapWeight::Dense(values) => values,
            quantised @ MapWeight::Nf4(_) => return quantised,
        };
        // Dense maps are held as `[d_in, d_out]`, and quantised by the rows of `[d_out, d_in]`.
        let turned = |is_turned| {
            if is_turned {
                transposed(values)
            } else {
                values
            }
        };
        match self.dtype {
            BaseDtype::F32 | BaseDtype::F16 | BaseDtype::Bf16 | BaseDtype::Stored4Bit(_) => {
                MapWeight::Dense(turned(!is_conv1d))
            }
            BaseDtype::Nf4(_) if is_kept => MapWeight::Dense(turned(!is_conv1d)),
            BaseDtype::Nf4(settings) => {
                let HostTensor { shape, values } = turned(is_conv1d);
                let shape = [shape[0], shape[1]];
                MapWeight::Nf4(Nf4Host::quantise(&values, shape, settings.double_quant))
            }
        }
    }

    /// A linear map of a weight that was taken before.
    pub(crate) fn map(
        &self,
        site: &str,
        weight: MapWeight,
        bias: Option<HostTensor>,
    ) -> Result<FrozenLinear<B>> {
        let name = format!("{site}.weight");
        let bias = bias.map(|bias| upload(&format!("{site}.bias"), bias, self.device));
        let bias = bias.transpose()?;
        match weight {
            MapWeight::Dense(weight) => {
                let weight = upload_as(&name, weight, self.dtype, self.device)?;
                Ok(FrozenLinear::new(site, weight, bias, WeightLayout::InOut))
            }
            MapWeight::Nf4(weight) => {
                upload_nf4(site, &name, &weight, bias, self.dtype, self.device)
            }
        }
    }
}
