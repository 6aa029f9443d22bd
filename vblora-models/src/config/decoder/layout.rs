//! The names of a decoder's tensors, and how its linear maps are stored.

/// Tensor names as transformers has them, without `.weight` and `.bias`.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// In front of every name but the head's.
    pub prefix: &'static str,
    /// The token embedding.
    pub embedding: &'static str,
    /// The embedding of positions, in models that learn them.
    pub positions: Option<&'static str>,
    /// In front of a block's index.
    pub blocks: &'static str,
    /// The normalisation after the last block.
    pub final_norm: &'static str,
    /// The normalisation of what the attention reads.
    pub attention_norm: Option<&'static str>,
    /// The normalisation of what the attention adds.
    pub attention_post_norm: Option<&'static str>,
    /// The normalisation of what the MLP reads.
    pub mlp_norm: Option<&'static str>,
    /// The normalisation of what the MLP adds.
    pub mlp_post_norm: Option<&'static str>,
    /// Query, key and value: three maps, or one for all.
    pub qkv: &'static [&'static str],
    /// The map after the attention.
    pub attention_output: &'static str,
    /// The maps that read the MLP's input: gate and up, one map for both, or the one map of a plain MLP.
    pub mlp_input: &'static [&'static str],
    /// The last map of the MLP.
    pub mlp_output: &'static str,
    /// True if linear maps are stored `[d_in, d_out]` (`Conv1D` of transformers).
    pub conv1d: bool,
    /// Tensors of a block in old files that hold no weights.
    pub buffers: &'static [&'static str],
}

/// The norms of queries and keys.
pub(crate) const QK_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// GPT-2.
pub(super) const GPT2: Layout = Layout {
    prefix: "transformer.",
    embedding: "wte",
    positions: Some("wpe"),
    blocks: "h",
    final_norm: "ln_f",
    attention_norm: Some("ln_1"),
    attention_post_norm: None,
    mlp_norm: Some("ln_2"),
    mlp_post_norm: None,
    qkv: &["attn.c_attn"],
    attention_output: "attn.c_proj",
    mlp_input: &["mlp.c_fc"],
    mlp_output: "mlp.c_proj",
    conv1d: true,
    buffers: &["attn.bias", "attn.masked_bias"],
};

/// Llama, and those that took its names.
pub(super) const LLAMA: Layout = Layout {
    prefix: "model.",
    embedding: "embed_tokens",
    positions: None,
    blocks: "layers",
    final_norm: "norm",
    attention_norm: Some("input_layernorm"),
    attention_post_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post_norm: None,
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attention_output: "self_attn.o_proj",
    mlp_input: &["mlp.gate_proj", "mlp.up_proj"],
    mlp_output: "mlp.down_proj",
    conv1d: false,
    buffers: &["self_attn.rotary_emb.inv_freq"],
};

/// OLMo 2: norms after attention and MLP alone.
pub(super) const OLMO2: Layout = Layout {
    attention_norm: None,
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: None,
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..LLAMA
};

/// Gemma 2 and 3: norms before and after attention and MLP.
pub(super) const GEMMA2: Layout = Layout {
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..LLAMA
};

/// Phi-3: one map for query, key and value, and one for gate and up.
pub(super) const PHI3: Layout = Layout {
    qkv: &["self_attn.qkv_proj"],
    mlp_input: &["mlp.gate_up_proj"],
    ..LLAMA
};

impl Layout {
    /// The tensor of the token embedding, without the prefix.
    pub(crate) fn embedding_weight(&self) -> String {
        format!("{}.weight", self.embedding)
    }

    /// A part of a block, without the prefix.
    pub(crate) fn in_block(&self, index: usize, part: &str) -> String {
        format!("{}.{index}.{part}", self.blocks)
    }

    /// The one map that query, key and value share, if they do.
    pub(crate) fn fused_qkv(&self) -> Option<&'static str> {
        match self.qkv {
            [fused] => Some(fused),
            _ => None,
        }
    }

    /// The normalisations of a block.
    pub(crate) fn block_norms(&self) -> impl Iterator<Item = &'static str> {
        let norms = [
            self.attention_norm,
            self.attention_post_norm,
            self.mlp_norm,
            self.mlp_post_norm,
        ];
        norms.into_iter().flatten()
    }
}
