//! The linear maps of a decoder by their Hugging Face names.

use vblora::{Site, Targets};

use crate::{DecoderConfig, Result, config::Mlp};

/// A linear map of a block.
#[derive(Debug, Clone)]
pub(super) struct Map {
    /// Its name in the block.
    pub(super) role: String,
    pub(super) d_in: usize,
    pub(super) d_out: usize,
    pub(super) has_bias: bool,
}

/// The linear maps of a block.
#[derive(Debug)]
pub(super) struct BlockMaps {
    /// Query, key and value, or one map for all.
    pub(super) qkv: Vec<Map>,
    pub(super) attention_output: Map,
    /// Gate and up, one map for both, or the one map of a plain MLP.
    pub(super) mlp_input: Vec<Map>,
    pub(super) mlp_output: Map,
}

impl BlockMaps {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        let (layout, d, inner) = (config.layout, config.hidden_size, config.intermediate_size);
        let map = |role: &str, [d_in, d_out]: [usize; 2], has_bias| Map {
            role: role.to_owned(),
            d_in,
            d_out,
            has_bias,
        };
        let [q, k, v] = qkv_widths(config);
        let qkv = match layout.fused_qkv() {
            Some(fused) if !config.split_qkv => vec![map(fused, [d, q + k + v], config.qkv_bias)],
            fused => {
                let names = match fused {
                    Some(fused) => ["q", "k", "v"].map(|part| format!("{fused}.{part}")),
                    None => std::array::from_fn(|i| layout.qkv[i].to_owned()),
                };
                let parts = names.iter().zip([q, k, v]);
                let parts = parts.map(|(name, width)| map(name, [d, width], config.qkv_bias));
                parts.collect()
            }
        };
        let widths = match config.mlp {
            Mlp::Plain(_) => inner,
            Mlp::Gated(_) => 2 * inner,
        };
        let mlp_input = layout.mlp_input.iter();
        let each = widths / layout.mlp_input.len();
        Self {
            qkv,
            attention_output: map(layout.attention_output, [q, d], config.output_bias),
            mlp_input: mlp_input
                .map(|role| map(role, [d, each], config.mlp_bias))
                .collect(),
            mlp_output: map(layout.mlp_output, [inner, d], config.mlp_bias),
        }
    }

    /// All of them, in the order of a forward pass.
    pub(super) fn all(&self) -> impl Iterator<Item = &Map> {
        let attention = self.qkv.iter().chain([&self.attention_output]);
        attention.chain(&self.mlp_input).chain([&self.mlp_output])
    }
}

/// The values that a map of a block reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Attention,
    Attended,
    Mlp,
    Inner,
}

impl BlockMaps {
    /// The input of the map with this role.
    pub(super) fn input_of(&self, role: &str) -> Input {
        let has = |maps: &[Map]| maps.iter().any(|map| map.role == role);
        if has(&self.qkv) {
            Input::Attention
        } else if role == self.attention_output.role {
            Input::Attended
        } else if has(&self.mlp_input) {
            Input::Mlp
        } else {
            Input::Inner
        }
    }
}

/// The widths of query, key and value.
pub(super) fn qkv_widths(config: &DecoderConfig) -> [usize; 3] {
    let heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads];
    heads.map(|heads| heads * config.head_size)
}

/// The sites of a configuration, without a model: what a dry run needs. The head is not among them.
pub fn sites(config: &DecoderConfig) -> Vec<Site> {
    let maps = BlockMaps::new(config);
    let layers = 0..config.num_layers;
    layers
        .flat_map(|layer| {
            let site =
                move |map: &Map| Site::new(name(config, layer, &map.role), map.d_in, map.d_out);
            maps.all().map(site).collect::<Vec<_>>()
        })
        .collect()
}

/// The full name of a part of a block.
pub(super) fn name(config: &DecoderConfig, layer: usize, part: &str) -> String {
    format!(
        "{}{}",
        config.layout.prefix,
        config.layout.in_block(layer, part)
    )
}

/// Values in the linear maps of one block, biases among them.
pub(crate) fn map_values(config: &DecoderConfig) -> usize {
    let maps = BlockMaps::new(config);
    let values = |map: &Map| map.d_out * (map.d_in + usize::from(map.has_bias));
    maps.all().map(values).sum()
}

/// The paper's names for targets, or any other rule: `qv` is query and value, or the map that they share, and `all` is every linear map
/// but the head.
///
/// # Errors
/// The text is no rule.
pub fn targets(text: &str) -> Result<Targets> {
    Ok(match text {
        "qv" => Targets::suffixes(QV),
        "all" => Targets::all_linear(),
        other => other.parse()?,
    })
}

/// Query and value by the names that decoders give them.
const QV: [&str; 8] = [
    "q_proj",
    "v_proj",
    "c_attn",
    "c_attn.q",
    "c_attn.v",
    "qkv_proj",
    "qkv_proj.q",
    "qkv_proj.v",
];
