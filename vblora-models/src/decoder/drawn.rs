//! Models whose weights the device draws, to measure with.

use burn::{
    module::Param,
    tensor::{Distribution, FloatDType, Tensor},
};
use vblora::{
    FrozenWeight,
    backend::{Nf4Weight, VbLoraBackend},
};

use super::{CausalLm, DecoderLayer, sites};
use crate::{
    BaseDtype, DecoderConfig, HostTensor, Result, parts::TokenEmbedding, source::WeightSource,
};

/// Gives every matrix as one zero, for the device to replace.
struct Hollow;

impl WeightSource for Hollow {
    fn take<const D: usize>(&mut self, _: &str, shape: [usize; D]) -> HostTensor {
        let shape = if D > 1 { [1; D] } else { shape };
        HostTensor {
            values: vec![0.0; shape.iter().product()],
            shape: shape.to_vec(),
        }
    }

    fn take_norm(&mut self, _: &str, d: usize, neutral: f32) -> HostTensor {
        HostTensor {
            shape: vec![d],
            values: vec![neutral; d],
        }
    }
}

impl<B: VbLoraBackend> CausalLm<B> {
    /// [`random`](Self::random) with matrices that the device draws from its own generator. Making those of a model of 7 billion weights on
    /// the host, and quantising them, takes minutes. Measurements need no particular values.
    ///
    /// # Errors
    /// The backend does not compute in the base's dtype.
    pub fn drawn(config: DecoderConfig, device: &B::Device) -> Result<Self> {
        let mut model = Self::build(config, &mut Hollow, device)?;
        let config = &model.config;
        let std = config.initializer_range;
        let dense = config.base_dtype.dtype();
        let draw = |[rows, columns]: [usize; 2], dtype: FloatDType| {
            let normal = Distribution::Normal(0.0, std);
            let values = Tensor::<B, 2>::random([rows, columns], normal, device);
            match dtype {
                FloatDType::F32 => values,
                other => values.cast(other),
            }
        };
        let frozen = |values| Param::from_tensor(values).set_require_grad(false);
        let d = config.hidden_size;
        let table = || {
            let most = B::max_tensor_bytes(device).map_or(config.vocab_size, |limit| {
                // Values are drawn in f32.
                (limit / (size_of::<f32>() * d)).max(1)
            });
            let starts = (0..config.vocab_size).step_by(most);
            let rows = starts.map(|start| most.min(config.vocab_size - start));
            TokenEmbedding {
                pieces: rows.map(|rows| frozen(draw([rows, d], dense))).collect(),
            }
        };
        model.embedding = table();
        model.head = model.head.map(|_| table());
        let positions = [config.max_positions, d];
        model.positions = model
            .positions
            .map(|_| frozen(draw(positions, FloatDType::F32)));
        let mut sites = sites(config).into_iter();
        let linears = model.layers.iter_mut().flat_map(DecoderLayer::linears_mut);
        for (linear, site) in linears.zip(&mut sites) {
            let dims = [site.d_in, site.d_out];
            let four_bits = |is_double| Nf4Weight::random(dims, std, is_double, dense, device);
            linear.weight = match config.base_dtype {
                BaseDtype::F32 | BaseDtype::F16 | BaseDtype::Bf16 => {
                    FrozenWeight::from_dense(draw(dims, dense))
                }
                BaseDtype::Nf4(settings) => FrozenWeight::Nf4(four_bits(settings.double_quant)),
                BaseDtype::Stored4Bit(_) => FrozenWeight::Nf4(four_bits(true)),
            };
        }
        Ok(model)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::backend::Flex;
    use vblora::Factors;

    use super::*;
    use crate::{
        Nf4Settings,
        decoder::{CausalBatch, CausalInput, Side},
    };

    /// A drawn model has the shapes of one from the host, and it runs.
    #[test]
    fn a_drawn_model_runs() {
        let small = |config| DecoderConfig {
            vocab_size: 50,
            hidden_size: 32,
            num_layers: 2,
            num_heads: 2,
            num_kv_heads: 2,
            head_size: 16,
            intermediate_size: 64,
            ..config
        };
        let device = Default::default();
        for config in [DecoderConfig::llama_2_7b(), DecoderConfig::gpt2_medium()] {
            for base_dtype in [BaseDtype::F32, BaseDtype::Nf4(Nf4Settings::default())] {
                let config = DecoderConfig {
                    base_dtype,
                    ..small(config.clone())
                };
                let model = CausalLm::<Flex>::drawn(config.clone(), &device).unwrap();
                let like = CausalLm::<Flex>::random(config, 1, &device).unwrap();
                assert_eq!(model.sites(), like.sites());
                let is_four_bit = matches!(model.layers[1].mlp_output.weight, FrozenWeight::Nf4(_));
                assert_eq!(is_four_bit, base_dtype != BaseDtype::F32);
                let texts: [&[u32]; 1] = [&[3, 4, 5]];
                let batch = CausalBatch::pad(&texts, 0, Side::Right);
                let input = CausalInput::new(&batch, model.config(), &device).unwrap();
                let hidden = model.forward(&input, &Factors::none());
                let logits = model.logits(hidden.reshape([3, 32])).into_data();
                let logits = logits.into_vec::<f32>().unwrap();
                assert_eq!(logits.len(), 150);
                assert!(
                    logits
                        .iter()
                        .all(|logit| logit.is_finite() && *logit != 0.0)
                );
            }
        }
    }
}
