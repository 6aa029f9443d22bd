//! The model's tensors under their Hugging Face names, for saving one that this project trained.

use vblora::{FrozenLinear, backend::VbLoraBackend};

use super::{CausalLm, DecoderLayer, HEAD, sites::name};
use crate::{DecoderConfig, HostTensor, config::QK_NORMS, upload::host_tensor};

type Named = Vec<(String, HostTensor)>;

impl<B: VbLoraBackend> CausalLm<B> {
    /// Every tensor by its Hugging Face name, as transformers stores it. A tied head is not among them.
    ///
    /// # Panics
    /// Query, key and value, which one map holds, were split into sites of their own.
    pub fn tensors(&self) -> Named {
        let layout = self.config.layout;
        let named = |part: &str| format!("{}{part}", layout.prefix);
        let mut out = vec![(named(&layout.embedding_weight()), self.embedding.host())];
        if let (Some(table), Some(part)) = (&self.positions, layout.positions) {
            let name = named(&format!("{part}.weight"));
            out.push((name, host_tensor(table.val())));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            of_layer(layer, &self.config, index, &mut out);
        }
        out.extend(self.norm.tensors(&named(layout.final_norm)));
        if let Some(head) = &self.head {
            out.push((HEAD.into(), head.host()));
        }
        out
    }
}

fn of_layer<B: VbLoraBackend>(
    layer: &DecoderLayer<B>,
    config: &DecoderConfig,
    index: usize,
    out: &mut Named,
) {
    let layout = config.layout;
    assert!(
        layout.fused_qkv().is_none() || layer.attention.qkv.len() == 1,
        "split sites have no tensors of their own"
    );
    for (part, norm) in [
        (layout.attention_norm, &layer.attention_norm),
        (layout.attention_post_norm, &layer.attention_post_norm),
        (layout.mlp_norm, &layer.mlp_norm),
        (layout.mlp_post_norm, &layer.mlp_post_norm),
    ] {
        if let (Some(part), Some(norm)) = (part, norm) {
            out.extend(norm.tensors(&name(config, index, part)));
        }
    }
    for (part, norm) in QK_NORMS
        .iter()
        .zip(layer.attention.qk_norms.iter().flatten())
    {
        let name = format!("{}.weight", name(config, index, part));
        out.push((name, host_tensor(norm.stored())));
    }
    for map in layer.linears() {
        linear(map, !layout.conv1d, out);
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
