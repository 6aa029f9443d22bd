//! The model with an adapter added into its weights.

use vblora::{Factors, backend::VbLoraBackend};

use super::{EncoderLayer, Roberta};

impl<B: VbLoraBackend> Roberta<B> {
    /// The model with every update added into its weight, which runs as fast as the base. This model stays as it is, to the bit. The two
    /// share all weights that were not adapted. To unmerge, drop the merged model.
    ///
    /// # Panics
    /// The factors are those of a multi-adapter batch.
    #[must_use]
    pub fn merged(&self, factors: &Factors<B>) -> Self {
        let merged = |layer: &EncoderLayer<B>| {
            let mut layer = layer.clone();
            for linear in [
                &mut layer.query,
                &mut layer.key,
                &mut layer.value,
                &mut layer.attention_output,
                &mut layer.intermediate,
                &mut layer.output,
            ] {
                *linear = linear.merged(factors);
            }
            layer
        };
        Self {
            layers: self.layers.iter().map(merged).collect(),
            ..self.clone()
        }
    }
}
