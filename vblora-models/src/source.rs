//! The source of a model's tensors: a checkpoint, or a seed.

use vblora::rng::Key;

use crate::{HostTensor, Loader, MapWeight};

/// Gives a model its tensors by their Hugging Face names. Building a model and naming its tensors is then written once for loading and
/// for fresh weights.
pub trait WeightSource {
    /// The tensor of this name and shape. A source that lacks it remembers the fault and gives a single zero of as many dimensions. So all
    /// faults show at once, and nothing is allocated for a model that cannot be built.
    fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor;

    /// [`take`](Self::take) for a tensor that stands beside the model, without its prefix: a head.
    fn take_at_root<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        self.take(name, shape)
    }

    /// Decides whether the names of what is taken from now on stand beside the model, without its prefix.
    fn set_at_root(&mut self, _at_root: bool) {}

    /// [`take`](Self::take) for the weight of a linear map, which may be in 4 bits. `shape` is that of a dense tensor, and `out_in` is
    /// `[d_out, d_in]`.
    fn take_map(&mut self, name: &str, shape: [usize; 2], out_in: [usize; 2]) -> MapWeight {
        let _ = out_in;
        MapWeight::Dense(self.take(name, shape))
    }

    /// Returns true if a map's weight stays dense when others are quantised, because an adapter trained and saved it.
    fn is_kept_dense(&self, _name: &str) -> bool {
        false
    }

    /// [`take`](Self::take) for the weight of a normalisation, which is `neutral` when fresh.
    fn take_norm(&mut self, name: &str, d: usize, _neutral: f32) -> HostTensor {
        self.take(name, [d])
    }
}

impl WeightSource for Loader {
    fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        Loader::take(self, name, shape)
    }

    fn take_at_root<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        Loader::take_at_root(self, name, shape)
    }

    fn set_at_root(&mut self, at_root: bool) {
        Loader::set_at_root(self, at_root);
    }

    fn take_map(&mut self, name: &str, shape: [usize; 2], out_in: [usize; 2]) -> MapWeight {
        Loader::take_map(self, name, shape, out_in)
    }

    fn is_kept_dense(&self, name: &str) -> bool {
        self.is_saved(name)
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
        let values = match name.ends_with("bias") {
            true => vec![0.0; n],
            false => self.key.name(name).normal(n, self.std),
        };
        HostTensor {
            shape: shape.to_vec(),
            values,
        }
    }

    fn take_norm(&mut self, _: &str, d: usize, neutral: f32) -> HostTensor {
        HostTensor {
            shape: vec![d],
            values: vec![neutral; d],
        }
    }
}
