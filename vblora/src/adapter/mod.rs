//! Adapters: small modules that own trained parameters and compose them into [`Factors`].

mod composition;
mod config;
mod lora;
mod lora_xs;
mod mixture;
mod slab;
mod svd;
mod tied_lora;
mod values;
mod vblora;
mod vera;

use std::collections::BTreeMap;

use burn::{module::Module, tensor::Tensor};

pub use composition::Composition;
pub use config::{AdapterConfig, AnyAdapter};
pub use lora::{Lora, LoraConfig, ValidLora};
pub use lora_xs::{BaseWeights, LoraXs, LoraXsConfig, LoraXsValues, ValidLoraXs};
pub use mixture::Mixture;
pub use slab::{SiteSpans, Span};
pub use tied_lora::{TiedLora, TiedLoraConfig, TiedValues, ValidTiedLora};
pub use vblora::{ValidVbLora, VbLora, VbLoraConfig};
pub use vera::{Projection, ValidVera, Vera, VeraConfig};

use crate::{Factors, LowRank, SitePlan, backend::VbLoraBackend, rng::Key};

/// A method of composing low-rank factors from trained parameters.
///
/// The factors of all sites lie in a few *slabs*, tensors that the method composes in one go; [`SiteSpans`] say which rows of which slab
/// are whose. [`factors`](Self::factors) hands out plain slices of them. In training use [`Composition`], which cuts the slices from the
/// graph: the backward of a slice would make a slab-sized zero tensor per site.
pub trait Adapter<B: VbLoraBackend>: Module<B> {
    /// The adapted sites.
    fn plan(&self) -> &SitePlan;

    /// The composed slabs, differentiable in the adapter's parameters. Every row of a slab belongs to exactly one span.
    fn slabs(&self) -> Vec<Tensor<B, 2>>;

    /// The slabs of one optimizer step, for methods that draw something in training, as a function of `key`; otherwise
    /// [`slabs`](Self::slabs).
    fn training_slabs(&self, _key: Key) -> Vec<Tensor<B, 2>> {
        self.slabs()
    }

    /// Where the sites' factors lie in the slabs, one entry per site of the plan, slab by slab in ascending rows.
    fn spans(&self) -> Vec<SiteSpans>;

    /// The factor on `down up`.
    fn scale(&self) -> f64 {
        1.0
    }

    /// The probability of dropping an element of the adapter's input in training.
    fn dropout(&self) -> f64 {
        0.0
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
