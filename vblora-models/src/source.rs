//! Where the values of a model's tensors come from: a checkpoint, or a seed.

use vblora::rng::Key;

use crate::{HostTensor, Loader};

/// Gives a model its tensors by their Hugging Face names. Building a model and naming its tensors is then written once for loading and
/// for fresh weights.
pub trait WeightSource {
    /// The tensor of this name and shape. A source that lacks it remembers that and gives zeros, so that all faults show at once.
    fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor;
}

impl WeightSource for Loader {
    fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        Loader::take(self, name, shape)
    }
}

/// Fresh weights as RoBERTa draws them: normal with one standard deviation, biases 0, layer norms 1 and 0. Keyed by (seed, name).
#[derive(Debug, Clone, Copy)]
pub struct RandomWeights {
    key: Key,
    std: f64,
}

impl RandomWeights {
    /// Weights of this seed and standard deviation (`initializer_range` of the configuration, usually 0.02).
    pub fn new(seed: u64, std: f64) -> Self {
        Self {
            key: Key::new(seed).name("weights"),
            std,
        }
    }
}

impl WeightSource for RandomWeights {
    fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        let n = shape.iter().product();
        let norm = name
            .to_ascii_lowercase()
            .replace('_', "")
            .ends_with("layernorm.weight");
        let values = match name {
            _ if name.ends_with("bias") => vec![0.0; n],
            _ if norm => vec![1.0; n],
            _ => self.key.name(name).normal(n, self.std),
        };
        HostTensor {
            shape: shape.to_vec(),
            values,
        }
    }
}
