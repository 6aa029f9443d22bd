//! The linear maps of an encoder by their Hugging Face names.

use vblora::{FrozenLinear, Site, Targets, backend::VbLoraBackend};

use crate::{
    EncoderConfig, Result,
    config::{EncoderLayout, PROJECT},
    parts::Builder,
    source::WeightSource,
};

/// A linear map of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    /// Its name in the block.
    pub(super) role: &'static str,
    pub(super) dims: [usize; 2],
    pub(super) has_bias: bool,
}

/// The linear maps of a block, in the order of a forward pass.
#[derive(Debug)]
pub(super) struct BlockMaps {
    /// Query, key and value, or one map for all.
    pub(super) qkv: Vec<Map>,
    pub(super) attention_output: Map,
    pub(super) mlp_input: Map,
    pub(super) mlp_output: Map,
}

impl BlockMaps {
    pub(super) fn new(config: &EncoderConfig) -> Self {
        let EncoderLayout {
            qkv,
            attention_output,
            mlp_input,
            mlp_output,
            gated,
            ..
        } = config.layout();
        let (d, inner) = (config.hidden_size, config.intermediate_size);
        let of_attention = |role, d_out| Map {
            role,
            dims: [d, d_out],
            has_bias: config.attention_bias,
        };
        let of_mlp = |role, dims| Map {
            role,
            dims,
            has_bias: config.mlp_bias,
        };
        let each = 3 * d / qkv.len();
        let units = if gated { 2 * inner } else { inner };
        Self {
            qkv: qkv.iter().map(|role| of_attention(role, each)).collect(),
            attention_output: of_attention(attention_output, d),
            mlp_input: of_mlp(mlp_input, [d, units]),
            mlp_output: of_mlp(mlp_output, [inner, d]),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Map> {
        let rest = [&self.attention_output, &self.mlp_input, &self.mlp_output];
        self.qkv.iter().chain(rest)
    }
}

/// A map of a block from a source of weights.
pub(super) fn build<B: VbLoraBackend, S: WeightSource>(
    builder: &mut Builder<'_, B, S>,
    config: &EncoderConfig,
    index: usize,
    map: &Map,
) -> Result<FrozenLinear<B>> {
    let layout = config.layout();
    let stored = layout.in_block(index, map.role);
    let site = format!("{}{stored}", layout.site_prefix());
    builder.linear_named(&site, &stored, map.dims, map.has_bias)
}

/// The sites of a configuration, without a model: what a dry run needs.
pub fn sites(config: &EncoderConfig) -> Vec<Site> {
    let (layout, d) = (config.layout(), config.hidden_size);
    let project = config
        .embedding_size
        .map(|e| Site::new(format!("{}{PROJECT}", layout.site_prefix()), e, d));
    let maps = BlockMaps::new(config);
    let blocks = (0..config.num_layers).flat_map(|index| {
        let site = move |map: &Map| {
            let name = layout.in_block(index, map.role);
            let [d_in, d_out] = map.dims;
            Site::new(format!("{}{name}", layout.site_prefix()), d_in, d_out)
        };
        maps.all().map(site).collect::<Vec<_>>()
    });
    let head = layout.head.filter(|_| config.head_in_base);
    let head = head.map(|(name, _)| Site::new(name, d, d));
    project.into_iter().chain(blocks).chain(head).collect()
}

/// One of the paper's names for targets, or any other rule. `qv` is query and value, or the map that they share. `all` is every linear map of
/// the encoder.
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

/// Query and value by the names that encoders give them.
const QV: [&str; 7] = [
    "query",
    "value",
    "q_lin",
    "v_lin",
    "query_proj",
    "value_proj",
    "Wqkv",
];
