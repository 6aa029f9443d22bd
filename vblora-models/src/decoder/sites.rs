//! The linear maps of a decoder by their Hugging Face names.

use vblora::{Site, Targets};

use crate::{DecoderConfig, DecoderFamily, Result};

/// A map of one layer: its role and its dimensions.
type Map = (&'static str, usize, usize);

/// The sites of a configuration, without a model: what a dry run needs. The head is none of them.
pub fn sites(config: &DecoderConfig) -> Vec<Site> {
    (0..config.num_layers)
        .flat_map(|layer| layer_sites(config, layer))
        .collect()
}

/// The sites of one layer.
pub(super) fn layer_sites(config: &DecoderConfig, layer: usize) -> Vec<Site> {
    let prefix = match config.family {
        DecoderFamily::Gpt2 => "transformer.h",
        _ => "model.layers",
    };
    let site =
        |(role, d_in, d_out): Map| Site::new(format!("{prefix}.{layer}.{role}"), d_in, d_out);
    maps(config).into_iter().map(site).collect()
}

fn maps(config: &DecoderConfig) -> Vec<Map> {
    let (d, inner) = (config.hidden_size, config.intermediate_size);
    if config.family == DecoderFamily::Gpt2 {
        let mut maps = match config.split_qkv {
            true => vec![
                ("attn.c_attn.q", d, d),
                ("attn.c_attn.k", d, d),
                ("attn.c_attn.v", d, d),
            ],
            false => vec![("attn.c_attn", d, 3 * d)],
        };
        maps.extend([
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, inner),
            ("mlp.c_proj", inner, d),
        ]);
        return maps;
    }
    let [q, kv] = [config.num_heads, config.num_kv_heads].map(|heads| heads * config.head_size);
    vec![
        ("self_attn.q_proj", d, q),
        ("self_attn.k_proj", d, kv),
        ("self_attn.v_proj", d, kv),
        ("self_attn.o_proj", q, d),
        ("mlp.gate_proj", d, inner),
        ("mlp.up_proj", d, inner),
        ("mlp.down_proj", inner, d),
    ]
}

/// The paper's names for targets, `qv` (query and value; of GPT-2 with a fused map, that map) and `all` (every linear map but the head), or
/// any other rule.
///
/// # Errors
/// The text is no rule.
pub fn targets(text: &str) -> Result<Targets> {
    Ok(match text {
        "qv" => Targets::suffixes(["q_proj", "v_proj", "c_attn", "c_attn.q", "c_attn.v"]),
        "all" => Targets::all_linear(),
        other => other.parse()?,
    })
}
