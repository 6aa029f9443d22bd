//! VB-LoRA: every factor of every site is tiled from one shared vector bank.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{Adapter, SiteSpans, Span};
use crate::{
    Error, Result, Site, SitePlan,
    admixture::{admixture_unchecked, check_values},
    backend::VbLoraBackend,
    count::{self, Count},
    rng::Key,
    storage::{Bank, HostVbLora, StoredVbLora},
};

/// The settings of VB-LoRA; the defaults are the paper's for RoBERTa (Table 7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VbLoraConfig {
    /// h, the number of bank vectors.
    pub bank: usize,
    /// b, the length of a bank vector; must divide every adapted dimension.
    pub vector_length: usize,
    /// r, the rank of the factors.
    pub rank: usize,
    /// k, how many bank vectors a sub-vector mixes.
    pub topk: usize,
    /// The bank starts uniform in plus or minus this.
    pub bank_bound: f64,
    /// The logits start normal with this standard deviation (the paper's code: 0.01; PEFT's default: 0.1).
    pub logits_std: f64,
}

impl Default for VbLoraConfig {
    fn default() -> Self {
        Self {
            bank: 90,
            vector_length: 256,
            rank: 4,
            topk: 2,
            bank_bound: 0.02,
            logits_std: 0.01,
        }
    }
}

impl VbLoraConfig {
    /// Checks the settings against the sites they are meant for.
    ///
    /// # Errors
    /// A setting that cannot work, or a dimension that `vector_length` does not divide.
    pub fn check(&self, plan: &SitePlan) -> Result<ValidVbLora> {
        for (setting, value) in [
            ("bank", self.bank),
            ("vector_length", self.vector_length),
            ("rank", self.rank),
        ] {
            if value == 0 {
                return Err(Error::setting(setting, "at least 1", value));
            }
        }
        if !(1..=self.bank).contains(&self.topk) {
            return Err(Error::setting(
                "topk",
                format!("from 1 to the bank size {}", self.bank),
                self.topk,
            ));
        }
        if !(self.bank_bound.is_finite() && self.bank_bound > 0.0) {
            let expected = "finite and above 0 (a bank of zeros gets no gradient)";
            return Err(Error::setting("bank_bound", expected, self.bank_bound));
        }
        if !(self.logits_std.is_finite() && self.logits_std >= 0.0) {
            return Err(Error::setting(
                "logits_std",
                "finite and not negative",
                self.logits_std,
            ));
        }
        plan.check_vector_length(self.vector_length)?;
        Ok(ValidVbLora {
            config: self.clone(),
            plan: plan.clone(),
        })
    }
}

/// Settings that fit their sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidVbLora {
    config: VbLoraConfig,
    plan: SitePlan,
}

impl ValidVbLora {
    /// The settings.
    pub fn config(&self) -> &VbLoraConfig {
        &self.config
    }

    /// The sites.
    pub fn plan(&self) -> &SitePlan {
        &self.plan
    }

    /// S, the number of sub-vectors.
    pub fn sub_vectors(&self) -> usize {
        self.plan
            .sub_vectors(self.config.rank, self.config.vector_length)
    }

    /// What would be trained and stored.
    pub fn count(&self) -> Count {
        let VbLoraConfig {
            bank,
            vector_length,
            topk,
            ..
        } = self.config;
        count::vblora(bank, vector_length, self.sub_vectors(), topk)
    }

    /// Draws bank and logits on the host: a function of `seed` and of the sites' names, the same on every backend, whatever the order or
    /// number of the sites.
    pub fn init<B: VbLoraBackend>(&self, seed: u64, device: &B::Device) -> VbLora<B> {
        let VbLoraConfig {
            bank: h,
            vector_length: b,
            bank_bound,
            ..
        } = self.config;
        let key = initial_key(seed).name("bank");
        let bank = key.uniform(h * b, -bank_bound, bank_bound);
        self.load(bank, self.initial_logits(seed), device)
            .expect("drawn to the shapes of this configuration, finite")
    }

    /// As [`init`](Self::init), on a bank that is there already: a shared one.
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
        self.load(bank.values().to_vec(), self.initial_logits(seed), device)
    }

    /// Refuses a bank of another shape than `[h, b]`.
    ///
    /// # Errors
    /// The shape expected and the one found.
    pub fn check_bank(&self, bank: &Bank) -> Result<()> {
        let expected = [self.config.bank, self.config.vector_length];
        match bank.shape() == expected {
            true => Ok(()),
            false => Err(Error::Shape {
                tensor: "bank".into(),
                expected: expected.into(),
                found: bank.shape().into(),
            }),
        }
    }

    /// The logits that [`init`](Self::init) draws.
    ///
    /// # Shapes
    /// - output: `[S, h]`, row-major
    pub fn initial_logits(&self, seed: u64) -> Vec<f32> {
        let VbLoraConfig {
            bank: h,
            vector_length: b,
            rank,
            logits_std,
            ..
        } = self.config;
        let key = initial_key(seed);
        let draw = |site: &Site, side: &str, dim: usize| {
            key.name(&site.name)
                .name(side)
                .normal(rank * (dim / b) * h, logits_std)
        };
        let logits = self.plan.sites().iter().flat_map(|site| {
            [draw(site, "down", site.d_in), draw(site, "up", site.d_out)]
                .into_iter()
                .flatten()
        });
        logits.collect()
    }

    /// An adapter from given values.
    ///
    /// # Shapes
    /// - bank: `[h, b]`, logits: `[S, h]`, row-major. The rows of a site are those of its down factor, then those of its up factor, each
    ///   rank-major: sub-vector t of component rho is row `rho * d / b + t`.
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
        let (h, b) = (self.config.bank, self.config.vector_length);
        let parameter = |values: Vec<f32>, shape: [usize; 2]| {
            let data = TensorData::new(values, shape);
            Param::from_tensor(Tensor::<B, 2>::from_data(data, device))
        };
        Ok(VbLora {
            bank: parameter(bank, [h, b]),
            logits: parameter(logits, [self.sub_vectors(), h]),
            valid: self.clone(),
        })
    }

    /// Refuses a bank or logits of another size, or with values that are not finite.
    pub(crate) fn check_values(&self, bank: &[f32], logits: &[f32]) -> Result<()> {
        let (h, b) = (self.config.bank, self.config.vector_length);
        check_values("bank", [h, b], bank)?;
        check_values("logits", [self.sub_vectors(), h], logits)
    }
}

/// What initial values are drawn from.
fn initial_key(seed: u64) -> Key {
    Key::new(seed).name("vblora")
}

/// The VB-LoRA adapter: one bank with one owner, all logits in one slab (paper, section 3).
///
/// Made by [`ValidVbLora::init`].
#[derive(Module, Debug)]
pub struct VbLora<B: Backend> {
    /// `[h, b]`, shared by every sub-vector of every factor of every site.
    pub bank: Param<Tensor<B, 2>>,
    /// `[S, h]`, one row per sub-vector; [`ValidVbLora::load`] says in which order.
    pub logits: Param<Tensor<B, 2>>,
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

    /// What is worth storing: the bank, the top-k indices and k - 1 weights per sub-vector (paper 3.4).
    ///
    /// # Errors
    /// A bank entry or a logit is not finite.
    pub fn store(&self) -> Result<StoredVbLora> {
        HostVbLora::read(self).map(|adapter| adapter.store())
    }
}

impl<B: VbLoraBackend> Adapter<B> for VbLora<B> {
    fn plan(&self) -> &SitePlan {
        &self.valid.plan
    }

    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        vec![admixture_unchecked(
            self.logits.val(),
            self.bank.val(),
            self.valid.config.topk,
        )]
    }

    fn spans(&self) -> Vec<SiteSpans> {
        self.valid.spans()
    }
}

impl ValidVbLora {
    /// Where the sites' sub-vectors lie among the S rows, one entry per site of the plan.
    pub fn spans(&self) -> Vec<SiteSpans> {
        let VbLoraConfig {
            vector_length,
            rank,
            ..
        } = self.config;
        let mut row = 0;
        let mut next = |dim: usize| {
            let start = row;
            row += rank * dim / vector_length;
            Span {
                slab: 0,
                rows: start..row,
                rank,
                dim,
            }
        };
        self.plan
            .sites()
            .iter()
            .map(|site| SiteSpans {
                down: next(site.d_in),
                up: next(site.d_out),
            })
            .collect()
    }
}
