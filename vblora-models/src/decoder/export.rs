//! The model's tensors under their Hugging Face names, for saving one that this project trained.

use burn::tensor::backend::Backend;
use vblora::{FrozenLinear, backend::VbLoraBackend};

use super::{CausalLm, DecoderLayer, FinalNorm, HEAD, embedding_name};
use crate::{DecoderFamily, FrozenLayerNorm, FrozenRmsNorm, HostTensor, upload::host_tensor};

type Named = Vec<(String, HostTensor)>;

impl<B: VbLoraBackend> CausalLm<B> {
    /// Every tensor by its Hugging Face name, as transformers stores it; a tied head is not among them.
    ///
    /// # Panics
    /// Query, key and value of a GPT-2 were split into sites of their own.
    pub fn tensors(&self) -> Named {
        let prefix = match self.config.family {
            DecoderFamily::Gpt2 => "transformer.",
            _ => "model.",
        };
        let words = embedding_name(self.config.family);
        let mut out = vec![(format!("{prefix}{words}"), self.embedding.host())];
        if let Some(positions) = &self.positions {
            out.push((format!("{prefix}wpe.weight"), host_tensor(positions.val())));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            of_layer(layer, index, &mut out);
        }
        match &self.norm {
            FinalNorm::Layer(norm) => layer_norm("transformer.ln_f", norm, &mut out),
            FinalNorm::Rms(norm) => rms_norm("model.norm", norm, &mut out),
        }
        if let Some(head) = &self.head {
            out.push((HEAD.into(), head.host()));
        }
        out
    }
}

fn of_layer<B: VbLoraBackend>(layer: &DecoderLayer<B>, index: usize, out: &mut Named) {
    match layer {
        DecoderLayer::Gpt2(layer) => {
            assert_eq!(
                layer.qkv.len(),
                1,
                "split sites have no tensors of their own"
            );
            layer_norm(
                &format!("transformer.h.{index}.ln_1"),
                &layer.attention_norm,
                out,
            );
            layer_norm(&format!("transformer.h.{index}.ln_2"), &layer.mlp_norm, out);
            layer
                .linears()
                .into_iter()
                .for_each(|map| linear(map, false, out));
        }
        DecoderLayer::Gated(layer) => {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            rms_norm(&name("input_layernorm"), &layer.input_norm, out);
            rms_norm(&name("post_attention_layernorm"), &layer.mlp_norm, out);
            layer
                .linears()
                .into_iter()
                .for_each(|map| linear(map, true, out));
        }
    }
}

fn linear<B: VbLoraBackend>(map: &FrozenLinear<B>, out_in: bool, out: &mut Named) {
    let (site, weight) = (map.site().name, map.weight.dense());
    let weight = if out_in { weight.transpose() } else { weight };
    out.push((format!("{site}.weight"), host_tensor(weight)));
    if let Some(bias) = &map.bias {
        out.push((format!("{site}.bias"), host_tensor(bias.val())));
    }
}

fn layer_norm<B: VbLoraBackend>(name: &str, norm: &FrozenLayerNorm<B>, out: &mut Named) {
    out.push((format!("{name}.weight"), host_tensor(norm.gamma.val())));
    out.push((format!("{name}.bias"), host_tensor(norm.beta.val())));
}

fn rms_norm<B: Backend + VbLoraBackend>(name: &str, norm: &FrozenRmsNorm<B>, out: &mut Named) {
    out.push((format!("{name}.weight"), host_tensor(norm.stored())));
}
