//! The memory for training an adapter on a decoder, from its configuration alone.

use vblora::{Site, SitePlan};

use super::sites::{BlockMaps, qkv_widths};
use crate::{DecoderConfig, config::Mlp};

/// Bytes of an f32.
const F32: usize = 4;

/// Memory of training, in bytes. A backend's allocator, its kernels and a batch of token ids take more on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The frozen base: linear maps and token embeddings in its dtype, the rest in f32.
    pub base: usize,
    /// The adapter's parameters in f32.
    pub parameters: usize,
    /// Their gradients.
    pub gradients: usize,
    /// AdamW's two moments of each.
    pub moments: usize,
    /// Bytes that the forward pass keeps for the backward pass, per token, in sequences of the given length.
    pub kept_per_token: usize,
    /// The same where every block is run once more instead of kept.
    pub recomputed_per_token: usize,
    /// Bytes that one block keeps, once more per token: with recomputation one block at a time.
    pub block_per_token: usize,
    /// Scores and their logarithms, per token with a label.
    pub logits_per_token: usize,
}

impl Footprint {
    /// Training `trained` parameters on the sites of `plan`, whose factors have this rank, in sequences of `length` tokens, without dropout.
    /// Attention is counted with its weights kept, as backends do by default; flex keeps two numbers a row.
    pub fn new(
        config: &DecoderConfig,
        plan: &SitePlan,
        [rank, trained]: [usize; 2],
        length: usize,
    ) -> Self {
        let d = config.hidden_size;
        let block = F32 * kept_by_block(config, plan, rank, length);
        let ends = F32 * 2 * d;
        Self {
            base: base(config),
            parameters: F32 * trained,
            gradients: F32 * trained,
            moments: 2 * F32 * trained,
            kept_per_token: config.num_layers * block + ends,
            recomputed_per_token: F32 * d * (config.num_layers + 1) + ends,
            block_per_token: block,
            // A cap keeps its own values once more.
            logits_per_token: (2 + usize::from(config.logit_cap.is_some()))
                * F32
                * config.vocab_size,
        }
    }

    /// Everything, for a micro-batch of `tokens`, each with a label.
    pub fn total(&self, tokens: usize, recompute: bool) -> usize {
        let fixed = self.base + self.parameters + self.gradients + self.moments;
        let per_token = match recompute {
            true => self.recomputed_per_token + self.block_per_token,
            false => self.kept_per_token,
        };
        fixed + tokens * (per_token + self.logits_per_token)
    }
}

fn base(config: &DecoderConfig) -> usize {
    let held = config.base_dtype;
    let tables = if config.tied { 1 } else { 2 };
    let sites = super::sites(config);
    let values = |site: &Site| site.d_in * site.d_out;
    let maps: usize = sites.iter().map(values).sum();
    let of_maps: usize = sites.iter().map(|site| held.map_bytes(values(site))).sum();
    let of_tables = tables * config.vocab_size * config.hidden_size;
    let rest = config.parameters() - maps - of_tables;
    of_maps + held.bytes() * of_tables + F32 * rest
}

/// Values that the backward pass of one block needs, per token. They are the narrow products and the inputs of normalisations, adapted maps
/// and non-linearities.
fn kept_by_block(config: &DecoderConfig, plan: &SitePlan, rank: usize, length: usize) -> usize {
    let inner = config.intermediate_size;
    let [q, k, v] = qkv_widths(config);
    let attention = q + k + v + config.num_heads * length;
    let qk_norms = if config.qk_norm.is_some() { q + k } else { 0 };
    let norms = config.layout.block_norms().count() * config.hidden_size + qk_norms;
    let mlp = match config.mlp {
        Mlp::Plain(_) => inner,
        Mlp::Gated(_) => 2 * inner,
    };
    let maps = BlockMaps::new(config);
    let adapted = plan.sites().iter().filter(|site| site.layer() == Some(0));
    let narrow = rank * adapted.clone().count();
    // Maps that read the same values keep them once.
    let mut inputs: Vec<_> = adapted
        .map(|site| (maps.input_of(site.role()), site.d_in))
        .collect();
    inputs.dedup();
    let inputs: usize = inputs.iter().map(|(_, values)| values).sum();
    attention + norms + mlp + inputs + narrow
}
