//! The memory for training an adapter on a decoder, from its configuration alone.

use vblora::{Site, SitePlan};

use super::{
    recompute::{INNER_BYTES, logits_at_once},
    sites::{BlockMaps, Input, qkv_widths},
};
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
    /// With recomputation: the inputs of all blocks, per token.
    pub recomputed_per_token: usize,
    /// Bytes that the attention of one block keeps, per token. With recomputation one block has them at a time.
    pub attention_per_token: usize,
    /// Bytes that the MLP of one block keeps, per token.
    pub mlp_per_token: usize,
    /// With recomputation: the number of tokens whose MLP is computed at once.
    pub mlp_at_once: usize,
    /// Logits and their logarithms, per token with a label.
    pub logits_per_token: usize,
    /// With recomputation: the number of tokens whose logits are computed at once.
    pub logits_at_once: usize,
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
        let [attention, mlp] = kept_by_block(config, plan, rank, length).map(|values| F32 * values);
        let ends = F32 * 2 * d;
        Self {
            base: base(config),
            parameters: F32 * trained,
            gradients: F32 * trained,
            moments: 2 * F32 * trained,
            kept_per_token: config.num_layers * (attention + mlp) + ends,
            recomputed_per_token: F32 * d * (config.num_layers + 1) + ends,
            attention_per_token: attention,
            mlp_per_token: mlp,
            mlp_at_once: (INNER_BYTES / (F32 * config.intermediate_size)).max(1),
            // A cap keeps its own values once more.
            logits_per_token: (2 + usize::from(config.logit_cap.is_some()))
                * F32
                * config.vocab_size,
            logits_at_once: logits_at_once(config.vocab_size),
        }
    }

    /// Activations of a micro-batch of `tokens`, without logits.
    pub fn activations(&self, tokens: usize, recompute: bool) -> usize {
        if !recompute {
            return tokens * self.kept_per_token;
        }
        tokens * (self.recomputed_per_token + self.attention_per_token)
            + tokens.min(self.mlp_at_once) * self.mlp_per_token
    }

    /// Everything, for a micro-batch of `tokens`, each with a label.
    pub fn total(&self, tokens: usize, recompute: bool) -> usize {
        let fixed = self.base + self.parameters + self.gradients + self.moments;
        let labels = match recompute {
            true => tokens.min(self.logits_at_once),
            false => tokens,
        };
        fixed + self.activations(tokens, recompute) + labels * self.logits_per_token
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

/// Values that the backward passes of a block's attention and of its MLP need, per token. They are the narrow products and the inputs of
/// normalisations, adapted maps and non-linearities.
fn kept_by_block(
    config: &DecoderConfig,
    plan: &SitePlan,
    rank: usize,
    length: usize,
) -> [usize; 2] {
    let inner = config.intermediate_size;
    let [q, k, v] = qkv_widths(config);
    let qk_norms = if config.qk_norm.is_some() { q + k } else { 0 };
    let norms = config.layout.block_norms().count() * config.hidden_size + qk_norms;
    let attention = norms + q + k + v + config.num_heads * length;
    let mlp = match config.mlp {
        Mlp::Plain(_) => inner,
        Mlp::Gated(_) => 2 * inner,
    };
    let maps = BlockMaps::new(config);
    let adapted = plan.sites().iter().filter(|site| site.layer() == Some(0));
    let adapted = adapted.map(|site| (maps.input_of(site.role()), site.d_in));
    let kept_by = |parts: [Input; 2]| {
        let mut inputs: Vec<_> = adapted
            .clone()
            .filter(|(input, _)| parts.contains(input))
            .collect();
        let narrow = rank * inputs.len();
        // Maps that read the same values keep them once.
        inputs.dedup();
        narrow + inputs.iter().map(|(_, values)| values).sum::<usize>()
    };
    [
        attention + kept_by([Input::Attention, Input::Attended]),
        mlp + kept_by([Input::Mlp, Input::Inner]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::{sites, targets};

    /// Large batches recompute MLPs and logits in pieces: beyond a piece a token adds the inputs of all blocks and one attention.
    #[test]
    fn recomputed_pieces_do_not_grow_with_the_batch() {
        let config = DecoderConfig::llama_2_7b();
        let plan = targets("all").unwrap().select(&sites(&config)).unwrap();
        let memory = Footprint::new(&config, &plan, [4, 0], 528);
        assert_eq!([memory.mlp_at_once, memory.logits_at_once], [762, 524]);
        let beyond = memory.total(2_112, true) - memory.total(1_056, true);
        let each = memory.recomputed_per_token + memory.attention_per_token;
        assert_eq!(beyond, 1_056 * each);
        let below = memory.total(500, true) - memory.total(250, true);
        assert_eq!(
            below,
            250 * (each + memory.mlp_per_token + memory.logits_per_token)
        );
        let kept = memory.total(500, false) - memory.total(250, false);
        assert_eq!(
            kept,
            250 * (memory.kept_per_token + memory.logits_per_token)
        );
    }
}
