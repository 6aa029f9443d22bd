//! A method chosen at run time.

use std::fmt;

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{
    Adapter, BaseWeights, Lora, LoraConfig, LoraXs, LoraXsConfig, SiteSpans, TiedLora,
    TiedLoraConfig, VbLora, VbLoraConfig, Vera, VeraConfig,
};
use crate::{Result, Selection, SitePlan, backend::VbLoraBackend, count::Count, limits, rng::Key};

/// The settings of one of the methods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterConfig {
    /// VB-LoRA.
    VbLora(VbLoraConfig),
    /// LoRA.
    Lora(LoraConfig),
    /// VeRA.
    Vera(VeraConfig),
    /// Tied-LoRA.
    #[serde(rename = "tied-lora")]
    TiedLora(TiedLoraConfig),
    /// LoRA-XS.
    #[serde(rename = "lora-xs")]
    LoraXs(LoraXsConfig),
}

impl AdapterConfig {
    /// The method's name on the command line and in results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::VbLora(_) => "vblora",
            Self::Lora(_) => "lora",
            Self::Vera(_) => "vera",
            Self::TiedLora(_) => "tied-lora",
            Self::LoraXs(_) => "lora-xs",
        }
    }

    fn rank(&self) -> usize {
        match self {
            Self::VbLora(config) => config.rank,
            Self::Lora(config) => config.rank,
            Self::Vera(config) => config.rank,
            Self::TiedLora(config) => config.rank,
            Self::LoraXs(config) => config.rank,
        }
    }

    /// What would be trained and stored on these sites, before anything is allocated.
    ///
    /// # Errors
    /// The settings do not work on these sites.
    pub fn count(&self, plan: &SitePlan) -> Result<Count> {
        match self {
            Self::VbLora(config) => config.check(plan).map(|valid| valid.count()),
            Self::Lora(config) => config.check(plan).map(|valid| valid.count()),
            Self::Vera(config) => config.check(plan).map(|valid| valid.count()),
            Self::TiedLora(config) => config.check(plan).map(|valid| valid.count()),
            Self::LoraXs(config) => config.check(plan).map(|valid| valid.count()),
        }
    }

    /// The number of sub-vectors, for the method that has them.
    pub fn sub_vectors(&self, plan: &SitePlan) -> Option<usize> {
        match self {
            Self::VbLora(config) => {
                Some(plan.sub_vectors(config.rank, config.vector_length.max(1)))
            }
            _ => None,
        }
    }

    /// Makes the adapter with initial values that depend on `seed` and the sites' names alone. LoRA-XS, which starts from the frozen weights,
    /// needs [`init_on`](Self::init_on).
    ///
    /// # Errors
    /// The settings do not work on these sites.
    pub fn init<B: VbLoraBackend>(
        &self,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<AnyAdapter<B>> {
        self.init_on(&(), plan, seed, device)
    }

    /// [`init`](Self::init) on a base: its weights are read by the methods that start from them.
    ///
    /// # Errors
    /// The settings do not work on these sites, or on these weights; there is no room for so many values.
    pub fn init_on<B: VbLoraBackend>(
        &self,
        base: &dyn BaseWeights,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<AnyAdapter<B>> {
        let trained = self.count(plan)?.trained as u64;
        let values = trained.saturating_add(limits::factor_values(self.rank(), plan));
        limits::check_room(format!("values and factors of {self}"), values)?;
        Ok(match self {
            Self::VbLora(config) => AnyAdapter::VbLora(config.check(plan)?.init(seed, device)),
            Self::Lora(config) => AnyAdapter::Lora(config.check(plan)?.init(seed, device)),
            Self::Vera(config) => AnyAdapter::Vera(config.check(plan)?.init(device)),
            Self::TiedLora(config) => AnyAdapter::TiedLora(config.check(plan)?.init(seed, device)),
            Self::LoraXs(config) => {
                AnyAdapter::LoraXs(config.check(plan)?.init(base, seed, device)?)
            }
        })
    }

    /// The dry run: what would be adapted and what it would cost.
    ///
    /// # Errors
    /// The settings do not work on these sites.
    pub fn describe(&self, plan: &SitePlan) -> Result<String> {
        Ok(self.describe_counted(plan, self.count(plan)?))
    }

    /// [`describe`](Self::describe) with a count of the caller's own, where part of the adapter is shared.
    pub fn describe_counted(&self, plan: &SitePlan, count: Count) -> String {
        let sub_vectors = self
            .sub_vectors(plan)
            .map(|s| format!("  S = {s} sub-vectors\n"))
            .unwrap_or_default();
        format!(
            "{self} on {} sites\n{plan}{sub_vectors}  {count}\n",
            plan.sites().len()
        )
    }
}

impl fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VbLora(VbLoraConfig {
                bank,
                vector_length,
                rank,
                topk,
                selection,
                gate,
                ..
            }) => {
                write!(f, "VB-LoRA h = {bank}, b = {vector_length}, r = {rank}")?;
                match selection {
                    Selection::TopK => write!(f, ", k = {topk}")?,
                    Selection::SelectAll => write!(f, ", {selection}")?,
                    _ => write!(f, ", {selection}, k = {topk}")?,
                }
                f.write_str(if *gate { ", gated" } else { "" })
            }
            Self::Lora(LoraConfig {
                rank,
                alpha,
                rslora,
                ..
            }) => {
                let kind = if *rslora { "rsLoRA" } else { "LoRA" };
                write!(f, "{kind} r = {rank}, alpha = {alpha}")
            }
            Self::Vera(VeraConfig { rank, d_init, .. }) => {
                write!(f, "VeRA r = {rank}, d = {d_init}")
            }
            Self::TiedLora(TiedLoraConfig { rank }) => write!(f, "Tied-LoRA r = {rank}"),
            Self::LoraXs(LoraXsConfig { rank, .. }) => write!(f, "LoRA-XS r = {rank}"),
        }
    }
}

/// An adapter of any method.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one adapter per run, and Burn's modules cannot be boxed"
)]
pub enum AnyAdapter<B: Backend> {
    /// VB-LoRA.
    VbLora(VbLora<B>),
    /// LoRA.
    Lora(Lora<B>),
    /// VeRA.
    Vera(Vera<B>),
    /// Tied-LoRA.
    TiedLora(TiedLora<B>),
    /// LoRA-XS.
    LoraXs(LoraXs<B>),
}

macro_rules! each {
    ($self:ident, $adapter:ident => $body:expr) => {
        match $self {
            AnyAdapter::VbLora($adapter) => $body,
            AnyAdapter::Lora($adapter) => $body,
            AnyAdapter::Vera($adapter) => $body,
            AnyAdapter::TiedLora($adapter) => $body,
            AnyAdapter::LoraXs($adapter) => $body,
        }
    };
}

impl<B: Backend> AnyAdapter<B> {
    /// The method's name, as [`AdapterConfig::name`] has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::VbLora(_) => "vblora",
            Self::Lora(_) => "lora",
            Self::Vera(_) => "vera",
            Self::TiedLora(_) => "tied-lora",
            Self::LoraXs(_) => "lora-xs",
        }
    }
}

impl<B: VbLoraBackend> Adapter<B> for AnyAdapter<B> {
    fn plan(&self) -> &SitePlan {
        each!(self, adapter => adapter.plan())
    }

    fn slabs(&self) -> Vec<Tensor<B, 2>> {
        each!(self, adapter => adapter.slabs())
    }

    fn training_slabs(&self, key: Key) -> Vec<Tensor<B, 2>> {
        each!(self, adapter => adapter.training_slabs(key))
    }

    fn spans(&self) -> Vec<SiteSpans> {
        each!(self, adapter => adapter.spans())
    }

    fn scale(&self) -> f64 {
        each!(self, adapter => adapter.scale())
    }

    fn dropout(&self) -> f64 {
        each!(self, adapter => adapter.dropout())
    }
}
