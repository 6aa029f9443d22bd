//! The values that VB-LoRA starts with: drawn, or given.

use burn::{module::Param, tensor::Tensor};

use super::{ValidVbLora, VbLora, VbLoraConfig};
use crate::{
    Result, Selection, Site, SitePlan,
    adapter::{BaseWeights, values::parameter},
    backend::VbLoraBackend,
    rng::Key,
    storage::Bank,
};

impl VbLoraConfig {
    pub(in crate::adapter) fn start<B: VbLoraBackend>(
        &self,
        _base: &dyn BaseWeights,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<VbLora<B>> {
        Ok(self.check(plan)?.init(seed, device))
    }
}

impl ValidVbLora {
    /// Draws bank, logits and noise logits on the host. They depend on `seed` and on the sites' names alone, not on the backend or on the
    /// order or number of sites.
    pub fn init<B: VbLoraBackend>(&self, seed: u64, device: &B::Device) -> VbLora<B> {
        let VbLoraConfig {
            bank: h,
            vector_length: b,
            bank_bound,
            ..
        } = *self.config();
        let key = initial_key(seed).name("bank");
        let bank = key.uniform(h * b, -bank_bound, bank_bound);
        self.start(bank, seed, device)
            .expect("drawn to the shapes of this configuration, finite")
    }

    /// As [`init`](Self::init), on a bank that exists already and may be shared.
    ///
    /// # Errors
    /// The bank has another shape than `[h, b]`.
    pub fn init_on<B: VbLoraBackend>(
        &self,
        bank: &Bank,
        seed: u64,
        device: &B::Device,
    ) -> Result<VbLora<B>> {
        self.check_bank(bank)?;
        self.start(bank.values().to_vec(), seed, device)
    }

    fn start<B: VbLoraBackend>(
        &self,
        bank: Vec<f32>,
        seed: u64,
        device: &B::Device,
    ) -> Result<VbLora<B>> {
        let adapter = self.load(bank, self.initial_logits(seed), device)?;
        let noise_logits = adapter.noise_logits.as_ref().map(|_| {
            let shape = [self.sub_vectors(), self.config().bank];
            parameter(self.initial_noise_logits(seed), shape, device)
        });
        Ok(VbLora {
            noise_logits,
            ..adapter
        })
    }

    /// The logits that [`init`](Self::init) draws.
    ///
    /// # Shapes
    /// - output: `[S, h]`, row-major
    pub fn initial_logits(&self, seed: u64) -> Vec<f32> {
        self.draw(initial_key(seed), self.config().logits_std)
    }

    /// The noise logits that [`init`](Self::init) draws for `noisy-topk`.
    ///
    /// # Shapes
    /// - output: `[S, h]`, row-major
    pub fn initial_noise_logits(&self, seed: u64) -> Vec<f32> {
        self.draw(initial_key(seed).name("noise"), self.config().noise_std)
    }

    /// A normal value for every logit, by its site's name.
    fn draw(&self, key: Key, std: f64) -> Vec<f32> {
        let VbLoraConfig {
            bank: h,
            vector_length: b,
            rank,
            ..
        } = *self.config();
        let draw = |site: &Site, side: &str, dim: usize| {
            key.name(&site.name)
                .name(side)
                .normal(rank * (dim / b) * h, std)
        };
        let logits = self.plan().sites().iter().flat_map(|site| {
            [draw(site, "down", site.d_in), draw(site, "up", site.d_out)]
                .into_iter()
                .flatten()
        });
        logits.collect()
    }

    /// Makes an adapter from given values.
    ///
    /// # Shapes
    /// - bank: `[h, b]`, logits: `[S, h]`, row-major. A site has the rows of its down factor, then those of its up factor. Both are
    ///   rank-major: sub-vector t of component rho is row `rho * d / b + t`.
    ///
    /// Noise logits and gate are zero, if the settings have them.
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn load<B: VbLoraBackend>(
        &self,
        bank: Vec<f32>,
        logits: Vec<f32>,
        device: &B::Device,
    ) -> Result<VbLora<B>> {
        self.check_values(&bank, &logits)?;
        let VbLoraConfig {
            bank: h,
            vector_length: b,
            selection,
            gate,
            ..
        } = *self.config();
        let shape = [self.sub_vectors(), h];
        let is_noisy = selection == Selection::NoisyTopK;
        Ok(VbLora {
            bank: parameter(bank, [h, b], device),
            logits: parameter(logits, shape, device),
            noise_logits: is_noisy.then(|| Param::from_tensor(Tensor::zeros(shape, device))),
            gate: gate.then(|| Param::from_tensor(Tensor::zeros([1], device))),
            valid: self.clone(),
        })
    }
}

/// The key of initial values.
fn initial_key(seed: u64) -> Key {
    Key::new(seed).name("vblora")
}
