//! The model with an adapter added into its weights.

use vblora::{Factors, backend::VbLoraBackend};

use super::Encoder;

impl<B: VbLoraBackend> Encoder<B> {
    /// The model with every update added into its weight, which runs as fast as the base. This model stays as it is, to the bit. The two
    /// share all weights that were not adapted. To unmerge, drop the merged model.
    ///
    /// # Panics
    /// The factors are those of a multi-adapter batch.
    #[must_use]
    pub fn merged(&self, factors: &Factors<B>) -> Self {
        let mut model = self.clone();
        let layers = model.layers.iter();
        model.layers = layers.map(|layer| layer.merged(factors)).collect();
        let head = model.head.as_mut().map(|head| &mut head.dense);
        for linear in head.into_iter().chain(&mut model.embeddings.project) {
            *linear = linear.merged(factors);
        }
        model
    }
}
