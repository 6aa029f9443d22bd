//! LoRA (Hu et al. 2022), the baseline that every other method is measured against.

use std::fmt;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{
    Adapter, BaseWeights, MethodConfig, SiteSpans,
    values::{check_per_site, parameter},
};
use crate::{
    Error, Result, Site, SitePlan,
    backend::VbLoraBackend,
    count::{self, Count},
    limits::{MAX_RANK, check_rank, check_size},
    rng::Key,
    storage::{HostAdapter, HostLora},
};

/// The settings of LoRA; the defaults are those of the paper's GLUE rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r, the rank of the factors.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`, or by `alpha / sqrt(rank)` with `rslora`.
    pub alpha: f64,
    /// The probability of dropping an element of the adapter's input in training.
    pub dropout: f64,
    /// Rank-stabilised LoRA (Kalajdzievski 2023): the scale falls with the root of the rank, PEFT's `use_rslora`.
    pub rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            rslora: false,
        }
    }
}

impl LoraConfig {
    /// The factor on the update.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// A setting that cannot work.
    pub fn check(&self, plan: &SitePlan) -> Result<ValidLora> {
        check_rank(self.rank, plan)?;
        self.check_values()?;
        Ok(ValidLora {
            config: self.clone(),
            plan: plan.clone(),
        })
    }

    pub(super) fn start<B: VbLoraBackend>(
        &self,
        _base: &dyn BaseWeights,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<Lora<B>> {
        Ok(self.check(plan)?.init(seed, device))
    }
}

impl MethodConfig for LoraConfig {
    fn rank(&self) -> usize {
        self.rank
    }

    fn check_values(&self) -> Result<()> {
        check_size("rank", self.rank, MAX_RANK)?;
        if !self.alpha.is_finite() {
            return Err(Error::setting("alpha", "finite", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting(
                "dropout",
                "at least 0 and below 1",
                self.dropout,
            ));
        }
        Ok(())
    }

    fn count(&self, plan: &SitePlan) -> Result<Count> {
        self.check(plan).map(|valid| valid.count())
    }
}

impl fmt::Display for LoraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.rslora { "rsLoRA" } else { "LoRA" };
        write!(f, "{kind} r = {}, alpha = {}", self.rank, self.alpha)
    }
}

/// Settings that fit their sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidLora {
    config: LoraConfig,
    plan: SitePlan,
}

impl ValidLora {
    /// The settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The sites.
    pub fn plan(&self) -> &SitePlan {
        &self.plan
    }

    /// Counts the trained and stored parameters.
    pub fn count(&self) -> Count {
        count::lora(
            self.config.rank,
            self.plan.sites().iter().map(|s| (s.d_in, s.d_out)),
        )
    }

    /// Draws A Kaiming-uniform with a = sqrt(5), which is uniform in `1 / sqrt(d_in)`. B is zero, so the update starts at zero.
    pub fn init<B: VbLoraBackend>(&self, seed: u64, device: &B::Device) -> Lora<B> {
        let (rank, sites) = (self.config.rank, self.plan.sites());
        let key = Key::new(seed).name("lora");
        let draw = |site: &Site| {
            let bound = 1.0 / (site.d_in as f64).sqrt();
            let key = key.name(&site.name).name("a");
            key.uniform(rank * site.d_in, -bound, bound)
        };
        let a: Vec<_> = sites.iter().map(draw).collect();
        let b: Vec<_> = sites.iter().map(|s| vec![0.0; rank * s.d_out]).collect();
        self.load(&a, &b, device)
            .expect("drawn to the shapes of this configuration, finite")
    }

    /// Makes an adapter from given values.
    ///
    /// # Shapes
    /// - a: per site `[r, d_in]`, b: per site `[r, d_out]`, row-major
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn load<B: VbLoraBackend>(
        &self,
        a: &[Vec<f32>],
        b: &[Vec<f32>],
        device: &B::Device,
    ) -> Result<Lora<B>> {
        self.check_values(a, b)?;
        let parameters = |factors: &[Vec<f32>]| {
            let shape = |n: usize| [self.config.rank, n / self.config.rank];
            let factors = factors.iter();
            factors
                .map(|values| parameter(values.clone(), shape(values.len()), device))
                .collect()
        };
        Ok(Lora {
            a: parameters(a),
            b: parameters(b),
            valid: self.clone(),
        })
    }

    /// Refuses a wrong number of factors, factors of a wrong size, and values that are not finite.
    pub(crate) fn check_values(&self, a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<()> {
        let (rank, plan) = (self.config.rank, &self.plan);
        check_per_site(plan, "lora_A", a, |site| [rank, site.d_in])?;
        check_per_site(plan, "lora_B", b, |site| [rank, site.d_out])
    }
}

/// The LoRA adapter: `W + s A B` per site, with [`LoraConfig::scale`] s.
///
/// Made by [`ValidLora::init`].
#[derive(Module, Debug)]
pub struct Lora<B: Backend> {
    /// Per site `[r, d_in]`, PEFT's `lora_A`.
    pub a: Vec<Param<Tensor<B, 2>>>,
    /// Per site `[r, d_out]`, PEFT's `lora_B` transposed.
    pub b: Vec<Param<Tensor<B, 2>>>,
    #[module(skip)]
    valid: ValidLora,
}

impl<B: Backend> Lora<B> {
    /// The checked settings.
    pub fn settings(&self) -> &ValidLora {
        &self.valid
    }
}

impl<B: VbLoraBackend> Adapter<B> for Lora<B> {
    fn plan(&self) -> &SitePlan {
        &self.valid.plan
    }

    /// A and B of each site, one after the other.
    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        self.a
            .iter()
            .zip(&self.b)
            .flat_map(|(a, b)| [a.val(), b.val()])
            .collect()
    }

    fn spans(&self) -> Vec<SiteSpans> {
        SiteSpans::a_slab_each(&self.valid.plan, self.valid.config.rank)
    }

    fn scale(&self) -> f64 {
        self.valid.config.scale()
    }

    fn dropout(&self) -> f64 {
        self.valid.config.dropout
    }

    fn to_host(&self) -> Result<HostAdapter> {
        HostLora::read(self).map(HostAdapter::Lora)
    }
}
