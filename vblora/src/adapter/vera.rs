//! VeRA (Kopiczko et al. 2024): one pair of random matrices for all sites, and two trained vectors for each.

use std::fmt;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{
    Adapter, BaseWeights, MethodConfig, SiteSpans,
    values::{check_per_site, parameter},
};
use crate::{
    Error, Result, SitePlan,
    admixture::check_values,
    backend::VbLoraBackend,
    count::{self, Count},
    limits::{MAX_RANK, check_rank, check_size},
    rng::Key,
    storage::{HostAdapter, HostVera},
};

/// The settings of VeRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VeraConfig {
    /// r, the rank of the random matrices (the paper's: 1024 for RoBERTa-base, 256 for RoBERTa-large).
    pub rank: usize,
    /// The initial value of every entry of lambda_d; lambda_b starts at zero.
    pub d_init: f64,
    /// The seed of the random matrices. Runs that differ only in their own seed share the matrices.
    pub projection_seed: u64,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            rank: 256,
            d_init: 0.1,
            projection_seed: 0,
        }
    }
}

impl VeraConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// A setting that cannot work.
    pub fn check(&self, plan: &SitePlan) -> Result<ValidVera> {
        check_rank(self.rank, plan)?;
        self.check_values()?;
        Ok(ValidVera {
            config: self.clone(),
            plan: plan.clone(),
        })
    }

    pub(super) fn start<B: VbLoraBackend>(
        &self,
        _base: &dyn BaseWeights,
        plan: &SitePlan,
        _seed: u64,
        device: &B::Device,
    ) -> Result<Vera<B>> {
        Ok(self.check(plan)?.init(device))
    }
}

impl MethodConfig for VeraConfig {
    fn rank(&self) -> usize {
        self.rank
    }

    fn check_values(&self) -> Result<()> {
        check_size("rank", self.rank, MAX_RANK)?;
        if !self.d_init.is_finite() || self.d_init == 0.0 {
            let expected = "finite and not 0 (with lambda_b at 0 nothing gets a gradient)";
            return Err(Error::setting("d_init", expected, self.d_init));
        }
        Ok(())
    }

    fn count(&self, plan: &SitePlan) -> Result<Count> {
        self.check(plan).map(|valid| valid.count())
    }
}

impl fmt::Display for VeraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VeRA r = {}, d = {}", self.rank, self.d_init)
    }
}

/// Settings that fit their sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidVera {
    config: VeraConfig,
    plan: SitePlan,
}

/// The frozen matrices that all sites share, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// `[r, largest d_in]`, PEFT's `vera_A`.
    pub a: Vec<f32>,
    /// `[r, largest d_out]`, PEFT's `vera_B` transposed.
    pub b: Vec<f32>,
}

impl ValidVera {
    /// The settings.
    pub fn config(&self) -> &VeraConfig {
        &self.config
    }

    /// The sites.
    pub fn plan(&self) -> &SitePlan {
        &self.plan
    }

    /// The largest `d_in` and the largest `d_out` of the sites, at which the random matrices are drawn.
    pub fn largest(&self) -> [usize; 2] {
        let sites = self.plan.sites().iter();
        sites.fold([0, 0], |[d_in, d_out], site| {
            [d_in.max(site.d_in), d_out.max(site.d_out)]
        })
    }

    /// Counts the trained and stored parameters, without the random matrices and their seed.
    pub fn count(&self) -> Count {
        count::vera(self.config.rank, self.plan.sites().iter().map(|s| s.d_out))
    }

    /// Draws the random matrices Kaiming-uniform, like PEFT: A within `sqrt(6 / largest d_in)`, B within `sqrt(6 / r)`. The values differ
    /// from PEFT's, which come from torch's generator.
    pub fn projection(&self) -> Projection {
        let rank = self.config.rank;
        let [d_in, d_out] = self.largest();
        let key = Key::new(self.config.projection_seed).name("vera");
        let draw = |name: &str, n: usize, fan_in: usize| {
            let bound = (6.0 / fan_in as f64).sqrt();
            key.name(name).uniform(n, -bound, bound)
        };
        Projection {
            a: draw("a", rank * d_in, d_in),
            b: draw("b", rank * d_out, rank),
        }
    }

    /// Draws the random matrices by the projection's seed. Every lambda_d is `d_init` and every lambda_b is zero, so the update starts at
    /// zero.
    pub fn init<B: VbLoraBackend>(&self, device: &B::Device) -> Vera<B> {
        let VeraConfig { rank, d_init, .. } = self.config;
        let sites = self.plan.sites().iter();
        let lambda_b: Vec<_> = sites.map(|site| vec![0.0; site.d_out]).collect();
        let lambda_d = vec![vec![d_init as f32; rank]; lambda_b.len()];
        self.load(&self.projection(), &lambda_d, &lambda_b, device)
            .expect("made to the shapes of this configuration, finite")
    }

    /// Makes an adapter from given values.
    ///
    /// # Shapes
    /// - lambda_d: per site `[r]`, lambda_b: per site `[d_out]`
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn load<B: VbLoraBackend>(
        &self,
        projection: &Projection,
        lambda_d: &[Vec<f32>],
        lambda_b: &[Vec<f32>],
        device: &B::Device,
    ) -> Result<Vera<B>> {
        self.check_values(projection, lambda_d, lambda_b)?;
        let rank = self.config.rank;
        let parameters = |values: &[Vec<f32>]| {
            let values = values.iter();
            values
                .map(|values| parameter(values.clone(), [values.len()], device))
                .collect()
        };
        let frozen = |values: &[f32]| {
            let shape = [rank, values.len() / rank];
            Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        Ok(Vera {
            lambda_d: parameters(lambda_d),
            lambda_b: parameters(lambda_b),
            a: frozen(&projection.a),
            b: frozen(&projection.b),
            valid: self.clone(),
        })
    }

    /// Refuses a wrong number of vectors or matrices, a wrong size, and values that are not finite.
    pub(crate) fn check_values(
        &self,
        projection: &Projection,
        lambda_d: &[Vec<f32>],
        lambda_b: &[Vec<f32>],
    ) -> Result<()> {
        let (rank, plan) = (self.config.rank, &self.plan);
        let [d_in, d_out] = self.largest();
        check_values("vera_A", [rank, d_in], &projection.a)?;
        check_values("vera_B", [rank, d_out], &projection.b)?;
        check_per_site(plan, "vera_lambda_d", lambda_d, |_| [1, rank])?;
        check_per_site(plan, "vera_lambda_b", lambda_b, |site| [1, site.d_out])
    }
}

/// The VeRA adapter: `W + A diag(lambda_d) B diag(lambda_b)` per site, with the first columns of the shared A and B.
///
/// Made by [`ValidVera::init`].
#[derive(Module, Debug)]
pub struct Vera<B: Backend> {
    /// Per site `[r]`, PEFT's `vera_lambda_d`.
    pub lambda_d: Vec<Param<Tensor<B, 1>>>,
    /// Per site `[d_out]`, PEFT's `vera_lambda_b`.
    pub lambda_b: Vec<Param<Tensor<B, 1>>>,
    /// `[r, largest d_in]`. It is no parameter, so no optimizer sees it.
    a: Tensor<B, 2>,
    /// `[r, largest d_out]`
    b: Tensor<B, 2>,
    #[module(skip)]
    valid: ValidVera,
}

impl<B: Backend> Vera<B> {
    /// The checked settings.
    pub fn settings(&self) -> &ValidVera {
        &self.valid
    }

    /// The frozen matrices that all sites share.
    ///
    /// # Shapes
    /// - output: `[r, largest d_in]`, `[r, largest d_out]`
    pub fn frozen(&self) -> [Tensor<B, 2>; 2] {
        [self.a.clone(), self.b.clone()]
    }
}

impl<B: VbLoraBackend> Adapter<B> for Vera<B> {
    fn plan(&self) -> &SitePlan {
        &self.valid.plan
    }

    /// Down and up factor of each site, one after the other.
    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        let rank = self.valid.config.rank;
        let first = |matrix: &Tensor<B, 2>, d: usize| matrix.clone().slice([0..rank, 0..d]);
        let lambdas = self.lambda_d.iter().zip(&self.lambda_b);
        let sites = self.valid.plan.sites().iter();
        sites
            .zip(lambdas)
            .flat_map(|(site, (d, b))| {
                let down = first(&self.a, site.d_in) * d.val().unsqueeze_dim(1);
                let up = first(&self.b, site.d_out) * b.val().unsqueeze_dim(0);
                [down, up]
            })
            .collect()
    }

    fn to_host(&self) -> Result<HostAdapter> {
        HostVera::read(self).map(HostAdapter::Vera)
    }

    fn spans(&self) -> Vec<SiteSpans> {
        SiteSpans::a_slab_each(&self.valid.plan, self.valid.config.rank)
    }
}
