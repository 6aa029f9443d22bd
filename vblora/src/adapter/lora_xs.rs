//! LoRA-XS (Bałazy et al. 2024): a small trained matrix between frozen factors, the truncated SVD of the frozen weight.

use std::fmt;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vblora_kernels::svd::{Truncated, truncated};

use super::{
    Adapter, MethodConfig, SiteSpans,
    values::{check_per_site, parameter},
};
use crate::{
    Error, Result, Site, SitePlan,
    admixture::check_values,
    backend::{VbLoraBackend, matmul},
    count::{self, Count},
    limits::{MAX_RANK, check_rank, check_size},
    rng::Key,
};

/// Reads the frozen weights of a base, for a method that starts from them.
pub trait BaseWeights {
    /// The weight of a site, `[d_in, d_out]` row-major on the host; `None` if there is none of this name.
    fn weight(&self, site: &str) -> Option<Vec<f32>>;
}

/// No weights, for the methods that need none.
impl BaseWeights for () {
    fn weight(&self, _: &str) -> Option<Vec<f32>> {
        None
    }
}

/// The settings of LoRA-XS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraXsConfig {
    /// r, the side of the trained matrix.
    pub rank: usize,
    /// The trained matrix starts normal with this standard deviation.
    pub std: f64,
}

impl Default for LoraXsConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            std: 1e-5,
        }
    }
}

impl LoraXsConfig {
    /// Checks the settings against the sites they are meant for.
    ///
    /// # Errors
    /// A setting that cannot work, or a rank above a dimension of a site.
    pub fn check(&self, plan: &SitePlan) -> Result<ValidLoraXs> {
        check_rank(self.rank, plan)?;
        self.check_values()?;
        let least = |site: &Site| site.d_in.min(site.d_out);
        let mut sites = plan.sites().iter();
        if let Some(site) = sites.find(|site| least(site) < self.rank) {
            return Err(self.too_high(site, least(site)));
        }
        Ok(ValidLoraXs {
            config: self.clone(),
            plan: plan.clone(),
        })
    }

    pub(super) fn start<B: VbLoraBackend>(
        &self,
        base: &dyn BaseWeights,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<LoraXs<B>> {
        self.check(plan)?.init(base, seed, device)
    }

    fn too_high(&self, site: &Site, limit: usize) -> Error {
        Error::Rank {
            site: site.name.clone(),
            shape: [site.d_in, site.d_out],
            rank: self.rank,
            limit,
        }
    }
}

impl MethodConfig for LoraXsConfig {
    fn rank(&self) -> usize {
        self.rank
    }

    fn check_values(&self) -> Result<()> {
        check_size("rank", self.rank, MAX_RANK)?;
        if !(self.std.is_finite() && self.std >= 0.0) {
            return Err(Error::setting("std", "finite and not negative", self.std));
        }
        Ok(())
    }

    fn count(&self, plan: &SitePlan) -> Result<Count> {
        self.check(plan).map(|valid| valid.count())
    }
}

impl fmt::Display for LoraXsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoRA-XS r = {}", self.rank)
    }
}

/// Settings that fit their sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidLoraXs {
    config: LoraXsConfig,
    plan: SitePlan,
}

/// The values of an adapter on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraXsValues {
    /// Per site `[r, d_in]`, frozen: `S V^T`.
    pub a: Vec<Vec<f32>>,
    /// Per site `[r, d_out]`, frozen: `U^T`.
    pub b: Vec<Vec<f32>>,
    /// Per site `[r, r]`, trained.
    pub r: Vec<Vec<f32>>,
}

impl ValidLoraXs {
    /// The settings.
    pub fn config(&self) -> &LoraXsConfig {
        &self.config
    }

    /// The sites.
    pub fn plan(&self) -> &SitePlan {
        &self.plan
    }

    /// Counts the trained and stored parameters: `rank^2` for each site. The frozen factors are made again from the base's weights.
    pub fn count(&self) -> Count {
        let rank = self.config.rank;
        count::dense(self.plan.sites().len() * rank * rank)
    }

    /// Decomposes the frozen weights and draws R normal with the settings' deviation.
    ///
    /// The weight of a site in torch's layout `[d_out, d_in]` is `U S V^T`. A is `S_r V_r^T` and B is `U_r`. The sign of each component
    /// makes the entry of largest magnitude in B's column positive. The same weights give the same factors on every backend.
    ///
    /// # Errors
    /// A site has no weight, or its weight has a wrong size, a value that is not finite, or too low a rank.
    pub fn init<B: VbLoraBackend>(
        &self,
        weights: &dyn BaseWeights,
        seed: u64,
        device: &B::Device,
    ) -> Result<LoraXs<B>> {
        let LoraXsConfig { rank, std } = self.config;
        let key = Key::new(seed).name("lora-xs");
        let (mut a, mut b) = (Vec::new(), Vec::new());
        // Chunks bound host memory: it holds only the weights that are decomposed at the same time.
        for sites in self.plan.sites().chunks(rayon::current_num_threads()) {
            let found = sites.iter().map(|site| self.weight(weights, site));
            let found = found.collect::<Result<Vec<_>>>()?;
            let factors = found.par_iter().zip(sites).map(|(weight, site)| {
                truncated(weight, [site.d_in, site.d_out], rank)
                    .map_err(|limit| self.config.too_high(site, limit))
            });
            for factors in factors.collect::<Result<Vec<Truncated>>>()? {
                a.push(factors.a);
                b.push(factors.b);
            }
        }
        let sites = self.plan.sites().iter();
        let draw = |site: &Site| key.name(&site.name).normal(rank * rank, std);
        let r = sites.map(draw).collect();
        self.load(&LoraXsValues { a, b, r }, device)
    }

    fn weight(&self, weights: &dyn BaseWeights, site: &Site) -> Result<Vec<f32>> {
        let weight = weights.weight(&site.name).ok_or_else(|| Error::NoWeight {
            site: site.name.clone(),
        })?;
        check_values(&site.name, [site.d_in, site.d_out], &weight)?;
        Ok(weight)
    }

    /// Makes an adapter from given values.
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn load<B: VbLoraBackend>(
        &self,
        values: &LoraXsValues,
        device: &B::Device,
    ) -> Result<LoraXs<B>> {
        let (rank, plan) = (self.config.rank, &self.plan);
        check_per_site(plan, "A", &values.a, |site| [rank, site.d_in])?;
        check_per_site(plan, "B", &values.b, |site| [rank, site.d_out])?;
        check_per_site(plan, "R", &values.r, |_| [rank, rank])?;
        let frozen = |values: &[Vec<f32>]| {
            let tensor = |values: &Vec<f32>| {
                let shape = [rank, values.len() / rank];
                Tensor::from_data(TensorData::new(values.clone(), shape), device)
            };
            values.iter().map(tensor).collect()
        };
        let trained = values.r.iter();
        Ok(LoraXs {
            r: trained
                .map(|values| parameter(values.clone(), [rank, rank], device))
                .collect(),
            a: frozen(&values.a),
            b: frozen(&values.b),
            valid: self.clone(),
        })
    }
}

/// The LoRA-XS adapter: `W + A^T R^T B^T` per site, in torch's layout `B R A`.
///
/// Made by [`ValidLoraXs::init`].
#[derive(Module, Debug)]
pub struct LoraXs<B: Backend> {
    /// Per site `[r, r]`.
    pub r: Vec<Param<Tensor<B, 2>>>,
    /// Per site `[r, d_in]`; no parameters, so that no optimizer sees them.
    a: Vec<Tensor<B, 2>>,
    /// Per site `[r, d_out]`.
    b: Vec<Tensor<B, 2>>,
    #[module(skip)]
    valid: ValidLoraXs,
}

impl<B: Backend> LoraXs<B> {
    /// The checked settings.
    pub fn settings(&self) -> &ValidLoraXs {
        &self.valid
    }
}

impl<B: VbLoraBackend> Adapter<B> for LoraXs<B> {
    fn plan(&self) -> &SitePlan {
        &self.valid.plan
    }

    /// Down and up factor of each site, one after the other.
    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        let frozen = self.a.iter().zip(&self.b);
        frozen
            .zip(&self.r)
            .flat_map(|((a, b), r)| [a.clone(), matmul(r.val().transpose(), b.clone())])
            .collect()
    }

    fn spans(&self) -> Vec<SiteSpans> {
        SiteSpans::a_slab_each(&self.valid.plan, self.valid.config.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Targets;

    /// Seven maps in each layer of Mistral-7B and Gemma-7B.
    #[test]
    fn published_counts_reproduce() {
        let count = |layers: usize| {
            let sites = (0..7 * layers).map(|i| Site::new(format!("site.{i}"), 64, 64));
            let sites: Vec<_> = sites.collect();
            let plan = Targets::all_linear().select(&sites).unwrap();
            let config = LoraXsConfig {
                rank: 64,
                ..Default::default()
            };
            config.check(&plan).unwrap().count().trained
        };
        assert_eq!((count(32), count(28)), (917_504, 802_816));
    }
}
