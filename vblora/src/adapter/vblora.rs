//! VB-LoRA: every factor of every site is tiled from one shared vector bank.

mod init;
mod settings;

use burn::{
    module::{Module, Param, ParamId},
    tensor::{Tensor, TensorData, backend::Backend},
};

use super::{Adapter, ParameterGroup, SiteSpans};
use crate::{
    Result, Selection, SitePlan,
    admixture::admixture_unchecked,
    backend::VbLoraBackend,
    rng::Key,
    selection::{gumbel_softmax, noisy_top_k, straight_through},
    storage::{HostAdapter, HostVbLora, StoredVbLora},
};

pub use settings::{ValidVbLora, VbLoraConfig};

/// The VB-LoRA adapter: one bank with one owner, all logits in one slab (paper, section 3).
///
/// Made by [`ValidVbLora::init`].
#[derive(Module, Debug)]
pub struct VbLora<B: Backend> {
    /// `[h, b]`, shared by every sub-vector of every factor of every site.
    pub bank: Param<Tensor<B, 2>>,
    /// `[S, h]`, one row per sub-vector; [`ValidVbLora::load`] says in which order.
    pub logits: Param<Tensor<B, 2>>,
    /// `[S, h]`, nu of `noisy-topk`. Only checkpoints store it.
    pub noise_logits: Option<Param<Tensor<B, 2>>>,
    /// `[1]`, multiplies every update; present if the settings ask for a gate.
    pub gate: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    valid: ValidVbLora,
}

impl<B: VbLoraBackend> VbLora<B> {
    /// The checked settings.
    pub fn settings(&self) -> &ValidVbLora {
        &self.valid
    }

    /// The same adapter with a bank that gets no gradient: only the logits are trained.
    #[must_use]
    pub fn with_frozen_bank(self) -> Self {
        Self {
            bank: self.bank.set_require_grad(false),
            ..self
        }
    }

    /// The same adapter with its gate, if it has one, at this value.
    #[must_use]
    pub fn with_gate(self, value: f32) -> Self {
        let device = self.bank.val().device();
        let gate = |_| Param::from_tensor(Tensor::full([1], value, &device));
        Self {
            gate: self.gate.map(gate),
            ..self
        }
    }

    /// The slab with every up factor multiplied by the gate, if there is one.
    fn gated(&self, slab: Tensor<B, 2>) -> Tensor<B, 2> {
        let Some(gate) = &self.gate else {
            return slab;
        };
        let ([s, _], device) = (slab.dims(), slab.device());
        let mut up = vec![0.0_f32; s];
        for site in self.valid.spans() {
            up[site.up.rows].fill(1.0);
        }
        let up = Tensor::<B, 2>::from_data(TensorData::new(up, [s, 1]), &device);
        let down = up.clone().neg().add_scalar(1.0);
        slab * (up * gate.val().reshape([1, 1]) + down)
    }

    /// The stored form: the bank, the top-k indices and k - 1 weights per sub-vector (paper 3.4), and the gate's value.
    ///
    /// # Errors
    /// A bank entry or a logit is not finite.
    pub fn store(&self) -> Result<StoredVbLora> {
        HostVbLora::read(self).map(|adapter| adapter.store())
    }
}

impl<B: VbLoraBackend> Adapter<B> for VbLora<B> {
    fn plan(&self) -> &SitePlan {
        self.valid.plan()
    }

    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        let topk = self.valid.config().topk_at_inference();
        let mixed = admixture_unchecked(self.logits.val(), self.bank.val(), topk);
        vec![self.gated(mixed)]
    }

    fn training_slabs(&self, key: Key) -> Vec<Tensor<B, 2>> {
        let config = self.valid.config();
        let (logits, bank) = (self.logits.val(), self.bank.val());
        let shape = logits.dims();
        let Some(draws) = config.selection.draws(key, shape[0] * shape[1]) else {
            return self.slabs();
        };
        let draws = Tensor::from_data(TensorData::new(draws, shape), &logits.device());
        // Only one of the rules with random draws has noise logits.
        let mixed = match (&self.noise_logits, config.selection) {
            (Some(noise_logits), _) => {
                noisy_top_k(logits, noise_logits.val(), draws, bank, config.topk)
            }
            (None, Selection::StraightThrough) => straight_through(logits, draws, bank, config.tau),
            (None, _) => gumbel_softmax(logits, draws, bank, config.tau),
        };
        vec![self.gated(mixed)]
    }

    fn spans(&self) -> Vec<SiteSpans> {
        self.valid.spans()
    }

    fn to_host(&self) -> Result<HostAdapter> {
        HostVbLora::read(self).map(HostAdapter::VbLora)
    }

    fn group(&self, parameter: ParamId) -> ParameterGroup {
        let noise_logits = self.noise_logits.as_ref().map(|found| found.id);
        if parameter == self.bank.id {
            ParameterGroup::Bank
        } else if parameter == self.logits.id {
            ParameterGroup::Logits
        } else if Some(parameter) == noise_logits {
            ParameterGroup::NoiseLogits
        } else {
            ParameterGroup::Gate
        }
    }
}
