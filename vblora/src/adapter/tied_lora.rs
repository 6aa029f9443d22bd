//! Tied-LoRA (Renduchintala et al. 2024). Each role has one pair of trained factors, tied over the layers; each site has two trained
//! vectors.

use std::{collections::HashSet, fmt};

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{
    Adapter, BaseWeights, MethodConfig, SiteSpans,
    values::{check_number, check_per_site, parameter},
};
use crate::{
    Result, Site, SitePlan,
    admixture::check_values,
    backend::VbLoraBackend,
    count::{self, Count},
    limits::{MAX_RANK, check_rank, check_size},
    rng::Key,
};

/// The settings of Tied-LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TiedLoraConfig {
    /// r, the rank of the factors.
    pub rank: usize,
}

impl Default for TiedLoraConfig {
    /// Rank 8 gives the published count of RoBERTa-base.
    fn default() -> Self {
        Self { rank: 8 }
    }
}

impl TiedLoraConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// A rank of zero, or one that no adapter of these sites can have.
    pub fn check(&self, plan: &SitePlan) -> Result<ValidTiedLora> {
        check_rank(self.rank, plan)?;
        let mut seen = HashSet::new();
        let sites = plan.sites().iter();
        let ties = sites.filter(|site| seen.insert((site.role(), site.d_in, site.d_out)));
        let ties = ties.map(|site| Site::new(site.role(), site.d_in, site.d_out));
        let ties = ties.collect();
        Ok(ValidTiedLora {
            config: self.clone(),
            plan: plan.clone(),
            ties,
        })
    }

    pub(super) fn start<B: VbLoraBackend>(
        &self,
        _base: &dyn BaseWeights,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<TiedLora<B>> {
        Ok(self.check(plan)?.init(seed, device))
    }
}

impl MethodConfig for TiedLoraConfig {
    fn rank(&self) -> usize {
        self.rank
    }

    fn check_values(&self) -> Result<()> {
        check_size("rank", self.rank, MAX_RANK)
    }

    fn count(&self, plan: &SitePlan) -> Result<Count> {
        self.check(plan).map(|valid| valid.count())
    }
}

impl fmt::Display for TiedLoraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tied-LoRA r = {}", self.rank)
    }
}

fn is_tied(tie: &Site, site: &Site) -> bool {
    (tie.name.as_str(), tie.d_in, tie.d_out) == (site.role(), site.d_in, site.d_out)
}

/// Settings that fit their sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidTiedLora {
    config: TiedLoraConfig,
    plan: SitePlan,
    ties: Vec<Site>,
}

/// The values of an adapter on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct TiedValues {
    /// Per tie `[r, d_in]`.
    pub a: Vec<Vec<f32>>,
    /// Per tie `[r, d_out]`.
    pub b: Vec<Vec<f32>>,
    /// Per site `[r]`.
    pub u: Vec<Vec<f32>>,
    /// Per site `[d_out]`.
    pub v: Vec<Vec<f32>>,
}

impl ValidTiedLora {
    /// The settings.
    pub fn config(&self) -> &TiedLoraConfig {
        &self.config
    }

    /// The sites.
    pub fn plan(&self) -> &SitePlan {
        &self.plan
    }

    /// The ties: one for each role (name and dimensions) whose sites share a pair of factors, in the order of the sites.
    pub fn ties(&self) -> &[Site] {
        &self.ties
    }

    /// Counts the trained and stored parameters: `rank (d_in + d_out)` for each role, `rank + d_out` for each site.
    pub fn count(&self) -> Count {
        let (rank, ties, sites) = (self.config.rank, self.ties.iter(), self.plan.sites().iter());
        let factors: usize = ties.map(|tie| rank * (tie.d_in + tie.d_out)).sum();
        let vectors: usize = sites.map(|site| rank + site.d_out).sum();
        count::dense(factors + vectors)
    }

    /// Draws A uniform in `1 / sqrt(d_in)` and B in `1 / sqrt(r)`, as torch draws linear maps of these shapes. Every u is one and every v
    /// is zero, so the update starts at zero. (The paper does not say how it starts.)
    pub fn init<B: VbLoraBackend>(&self, seed: u64, device: &B::Device) -> TiedLora<B> {
        let rank = self.config.rank;
        let key = Key::new(seed).name("tied-lora");
        let draw = |tie: &Site, part: &str, d: usize, fan_in: usize| {
            let bound = 1.0 / (fan_in as f64).sqrt();
            let key = key.name(&tie.name).index(tie.d_in as u64).name(part);
            key.index(tie.d_out as u64).uniform(rank * d, -bound, bound)
        };
        let (ties, sites) = (self.ties.iter(), self.plan.sites().iter());
        let values = TiedValues {
            a: ties
                .clone()
                .map(|tie| draw(tie, "a", tie.d_in, tie.d_in))
                .collect(),
            b: ties.map(|tie| draw(tie, "b", tie.d_out, rank)).collect(),
            u: vec![vec![1.0; rank]; sites.len()],
            v: sites.map(|site| vec![0.0; site.d_out]).collect(),
        };
        self.load(&values, device)
            .expect("drawn to the shapes of this configuration, finite")
    }

    /// Makes an adapter from given values.
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn load<B: VbLoraBackend>(
        &self,
        values: &TiedValues,
        device: &B::Device,
    ) -> Result<TiedLora<B>> {
        self.check_values(values)?;
        let rank = self.config.rank;
        let matrices = |values: &[Vec<f32>]| {
            let shape = |n: usize| [rank, n / rank];
            let values = values.iter();
            values
                .map(|values| parameter(values.clone(), shape(values.len()), device))
                .collect()
        };
        let vectors = |values: &[Vec<f32>]| {
            let values = values.iter();
            values
                .map(|values| parameter(values.clone(), [values.len()], device))
                .collect()
        };
        Ok(TiedLora {
            a: matrices(&values.a),
            b: matrices(&values.b),
            u: vectors(&values.u),
            v: vectors(&values.v),
            valid: self.clone(),
        })
    }

    fn check_values(&self, values: &TiedValues) -> Result<()> {
        let rank = self.config.rank;
        check_number("A", &values.a, self.ties.len())?;
        check_number("B", &values.b, self.ties.len())?;
        for (tie, (a, b)) in self.ties.iter().zip(values.a.iter().zip(&values.b)) {
            check_values(&format!("{}.A", tie.name), [rank, tie.d_in], a)?;
            check_values(&format!("{}.B", tie.name), [rank, tie.d_out], b)?;
        }
        check_per_site(&self.plan, "u", &values.u, |_| [1, rank])?;
        check_per_site(&self.plan, "v", &values.v, |site| [1, site.d_out])
    }
}

/// The Tied-LoRA adapter: `W + A diag(u) B diag(v)` per site, with the A and B of the site's role.
///
/// Made by [`ValidTiedLora::init`].
#[derive(Module, Debug)]
pub struct TiedLora<B: Backend> {
    /// Per tie `[r, d_in]`.
    pub a: Vec<Param<Tensor<B, 2>>>,
    /// Per tie `[r, d_out]`.
    pub b: Vec<Param<Tensor<B, 2>>>,
    /// Per site `[r]`.
    pub u: Vec<Param<Tensor<B, 1>>>,
    /// Per site `[d_out]`.
    pub v: Vec<Param<Tensor<B, 1>>>,
    #[module(skip)]
    valid: ValidTiedLora,
}

impl<B: Backend> TiedLora<B> {
    /// The checked settings.
    pub fn settings(&self) -> &ValidTiedLora {
        &self.valid
    }
}

impl<B: VbLoraBackend> Adapter<B> for TiedLora<B> {
    fn plan(&self) -> &SitePlan {
        &self.valid.plan
    }

    /// Down and up factor of each site, one after the other.
    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        let tie_of = |site: &Site| {
            let mut ties = self.valid.ties.iter();
            let tie = ties.position(|tie| is_tied(tie, site));
            tie.expect("every site went into the ties")
        };
        let vectors = self.u.iter().zip(&self.v);
        let sites = self.valid.plan.sites().iter();
        sites
            .zip(vectors)
            .flat_map(|(site, (u, v))| {
                let tie = tie_of(site);
                let down = self.a[tie].val() * u.val().unsqueeze_dim(1);
                let up = self.b[tie].val() * v.val().unsqueeze_dim(0);
                [down, up]
            })
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

    #[test]
    fn published_counts_reproduce() {
        let tied = |layers: usize, d, rank| {
            let layers = (0..layers).flat_map(|layer| {
                ["query", "value"].map(|role| Site::new(format!("layer.{layer}.{role}"), d, d))
            });
            let sites: Vec<_> = layers.collect();
            let plan = Targets::all_linear().select(&sites).unwrap();
            let valid = TiedLoraConfig { rank }.check(&plan).unwrap();
            valid.count().trained
        };
        assert_eq!((tied(12, 768, 8), tied(24, 1024, 4)), (43_200, 65_728));
    }
}
