//! Adapters: small modules that own trained parameters and compose them into [`Factors`].
//!
//! A method stands in a file of its own. To add one, write its file and name it in the three lists that follow here. They hold its module,
//! its types, and its line in [`for_each_method`](crate::for_each_method). A recipe then needs its table of settings.

mod composition;
mod config;
mod groups;
mod mixture;
mod slab;
mod values;

mod lora;
mod lora_xs;
mod tied_lora;
mod vblora;
mod vera;

/// The settings and modules of all methods.
pub(crate) mod methods {
    pub use super::{
        lora::{Lora, LoraConfig, ValidLora},
        lora_xs::{LoraXs, LoraXsConfig, ValidLoraXs},
        tied_lora::{TiedLora, TiedLoraConfig, ValidTiedLora},
        vblora::{ValidVbLora, VbLora, VbLoraConfig},
        vera::{ValidVera, Vera, VeraConfig},
    };
}

/// Calls a macro with one line for each method. A line names the method's module and variant, its settings, and its name on the command
/// line and in results. Its table in recipes and its name in texts follow.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_method {
    ($macro:ident) => {
        $macro! {
            VbLora VbLoraConfig "vblora" vblora "VB-LoRA";
            Lora LoraConfig "lora" lora "LoRA";
            Vera VeraConfig "vera" vera "VeRA";
            TiedLora TiedLoraConfig "tied-lora" tied_lora "Tied-LoRA";
            LoraXs LoraXsConfig "lora-xs" lora_xs "LoRA-XS";
        }
    };
}

use std::{collections::BTreeMap, fmt};

use burn::{
    module::{Module, ParamId},
    tensor::Tensor,
};

pub use composition::{Composition, FactorGradients, leaf_factors, slab_gradients};
pub use config::{AdapterConfig, AnyAdapter};
pub use groups::ParameterGroup;
pub use lora_xs::{BaseWeights, LoraXsValues};
pub use methods::*;
pub use mixture::Mixture;
pub use slab::{SiteSpans, Span};
pub use tied_lora::TiedValues;
pub use vera::Projection;

use crate::{
    Factors, LowRank, Result, SitePlan,
    backend::VbLoraBackend,
    count::Count,
    rng::Key,
    storage::{HostAdapter, HostLora},
};

/// The settings of a method, as [`AdapterConfig`] needs them. The type also needs a function `start` that makes the adapter.
pub trait MethodConfig: fmt::Display {
    /// r, the rank of the factors.
    fn rank(&self) -> usize;

    /// Checks the settings without the sites that they are meant for.
    ///
    /// # Errors
    /// The first setting that cannot work.
    fn check_values(&self) -> Result<()>;

    /// Counts the trained and stored parameters on these sites.
    ///
    /// # Errors
    /// The settings do not work on these sites.
    fn count(&self, plan: &SitePlan) -> Result<Count>;

    /// The number of sub-vectors, for the method that has them.
    fn sub_vectors(&self, _plan: &SitePlan) -> Option<usize> {
        None
    }

    /// The method's parameter groups that have their own learning rate.
    fn groups(&self) -> &'static [ParameterGroup] {
        &[ParameterGroup::Factors]
    }
}

/// A method of composing low-rank factors from trained parameters.
///
/// The factors of all sites lie in a few *slabs*, tensors that the method composes in one go. [`SiteSpans`] map each site to its rows of
/// the slabs. [`factors`](Self::factors) hands out plain slices of them. In training use [`Composition`], which cuts the slices from the
/// graph: the backward of a slice would make a slab-sized zero tensor per site.
pub trait Adapter<B: VbLoraBackend>: Module<B> {
    /// The adapted sites.
    fn plan(&self) -> &SitePlan;

    /// The composed slabs, differentiable in the adapter's parameters. Every row of a slab belongs to exactly one span.
    fn slabs(&self) -> Vec<Tensor<B, 2>>;

    /// The slabs of one optimizer step. A method that draws random values in training draws them as a function of `key`. Other methods
    /// return [`slabs`](Self::slabs).
    fn training_slabs(&self, _key: Key) -> Vec<Tensor<B, 2>> {
        self.slabs()
    }

    /// The places of the sites' factors in the slabs: one entry per site of the plan, slab by slab in ascending rows.
    fn spans(&self) -> Vec<SiteSpans>;

    /// The factor on `down up`.
    fn scale(&self) -> f64 {
        1.0
    }

    /// The probability of dropping an element of the adapter's input in training.
    fn dropout(&self) -> f64 {
        0.0
    }

    /// The group of a trained parameter. Most methods have one.
    fn group(&self, _parameter: ParamId) -> ParameterGroup {
        ParameterGroup::Factors
    }

    /// The path of every parameter, as Burn's visitors name it, with its group.
    fn groups(&self) -> BTreeMap<String, ParameterGroup> {
        groups::groups(self, |parameter| self.group(parameter))
    }

    /// The present values in the form that files hold. Methods that PEFT has no form for become a LoRA with the same factors.
    ///
    /// # Errors
    /// A value is not finite.
    fn to_host(&self) -> Result<HostAdapter> {
        HostLora::composed(self).map(HostAdapter::Lora)
    }

    /// The factors of all sites, for evaluation, merging and export.
    fn factors(&self) -> Factors<B> {
        let slabs = self.slabs();
        let pairs = self
            .plan()
            .sites()
            .iter()
            .zip(self.spans())
            .map(|(site, spans)| {
                let down = spans.down.read(&slabs).transpose();
                let up = spans.up.read(&slabs);
                (
                    site.name.clone(),
                    LowRank {
                        down,
                        up,
                        scale: self.scale(),
                    },
                )
            });
        Factors::new(pairs.collect::<BTreeMap<_, _>>(), self.dropout())
    }
}
