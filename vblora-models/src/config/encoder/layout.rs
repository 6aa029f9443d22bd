//! The names of an encoder's tensors in a checkpoint.

/// The names of a family's tensors. Those of a block stand behind `blocks.N.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EncoderLayout {
    /// In front of the encoder's tensors in the checkpoint of a model with a head.
    pub(crate) prefix: &'static str,
    /// All prefixes that files have in front of them.
    pub(crate) prefixes: &'static [&'static str],
    /// True if sites are named with the prefix. A map of the head beside the encoder is a site as well then.
    pub(crate) full_sites: bool,
    pub(crate) word: &'static str,
    pub(crate) embedding_norm: &'static str,
    pub(crate) blocks: &'static str,
    /// Query, key and value, or one map for all.
    pub(crate) qkv: &'static [&'static str],
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) mlp_input: &'static str,
    pub(crate) mlp_output: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// True if norms stand before attention and MLP. The first block then has none before its attention, and a last norm follows the
    /// blocks.
    pub(crate) pre_norm: bool,
    /// True if dropout follows the output map of the attention.
    pub(crate) drops_attention: bool,
    /// True if the first map of the MLP gives the values and the gate (GeGLU).
    pub(crate) gated: bool,
    /// The head's first map and norm where they may be parts of the base, without the encoder's prefix.
    pub(crate) head: Option<(&'static str, Option<&'static str>)>,
    /// Tensors of a checkpoint that the encoder does not use: buffers, heads. A name that ends in `*` stands for all that begin so.
    pub(crate) not_used: &'static [&'static str],
}

/// The table of positions.
pub(crate) const POSITION: &str = "embeddings.position_embeddings.weight";
/// The table of token types.
pub(crate) const TOKEN_TYPE: &str = "embeddings.token_type_embeddings.weight";
/// The map from the width of the embeddings to that of the blocks.
pub(crate) const PROJECT: &str = "embeddings_project";
/// The norm after pre-norm blocks.
pub(crate) const FINAL_NORM: &str = "final_norm";
/// The table of relative positions, and the norm of its rows.
pub(crate) const RELATIVE: [&str; 2] = ["encoder.rel_embeddings.weight", "encoder.LayerNorm"];

impl EncoderLayout {
    /// The name of a part of a block.
    pub(crate) fn in_block(&self, index: usize, part: &str) -> String {
        format!("{}.{index}.{part}", self.blocks)
    }

    /// The prefix in front of a site's name.
    pub(crate) fn site_prefix(&self) -> &'static str {
        match self.full_sites {
            true => self.prefix,
            false => "",
        }
    }
}

pub(super) const ROBERTA: EncoderLayout = EncoderLayout {
    prefix: "roberta.",
    prefixes: &["roberta.", "bert.", ""],
    full_sites: false,
    word: "embeddings.word_embeddings.weight",
    embedding_norm: "embeddings.LayerNorm",
    blocks: "encoder.layer",
    qkv: &[
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    mlp_input: "intermediate.dense",
    mlp_output: "output.dense",
    mlp_norm: "output.LayerNorm",
    pre_norm: false,
    drops_attention: true,
    gated: false,
    head: None,
    not_used: &[
        "embeddings.position_ids",
        "embeddings.token_type_ids",
        "pooler.*",
        "lm_head.*",
        "classifier.*",
        "cls.*",
    ],
};

pub(super) const BERT: EncoderLayout = EncoderLayout {
    prefix: "bert.",
    prefixes: &["bert.", "roberta.", ""],
    ..ROBERTA
};

pub(super) const ELECTRA: EncoderLayout = EncoderLayout {
    prefix: "electra.",
    prefixes: &["electra.", ""],
    not_used: &[
        "embeddings.position_ids",
        "embeddings.token_type_ids",
        "discriminator_predictions.*",
        "generator_predictions.*",
        "generator_lm_head.*",
        "classifier.*",
    ],
    ..ROBERTA
};

pub(super) const DISTILBERT: EncoderLayout = EncoderLayout {
    prefix: "distilbert.",
    prefixes: &["distilbert.", ""],
    blocks: "transformer.layer",
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    mlp_input: "ffn.lin1",
    mlp_output: "ffn.lin2",
    mlp_norm: "output_layer_norm",
    drops_attention: false,
    not_used: &[
        "embeddings.position_ids",
        "vocab_transform.*",
        "vocab_layer_norm.*",
        "vocab_projector.*",
        "pre_classifier.*",
        "classifier.*",
    ],
    ..ROBERTA
};

pub(super) const DEBERTA: EncoderLayout = EncoderLayout {
    prefix: "deberta.",
    prefixes: &["deberta.", ""],
    full_sites: true,
    qkv: &[
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ],
    head: Some(("pooler.dense", None)),
    not_used: &[
        "embeddings.position_ids",
        "embeddings.position_embeddings.*",
        "lm_predictions.*",
        "mask_predictions.*",
        "lm_head.*",
        "cls.*",
        "classifier.*",
        "pooler.*",
    ],
    ..ROBERTA
};

pub(super) const MODERNBERT: EncoderLayout = EncoderLayout {
    prefix: "model.",
    prefixes: &["model.", ""],
    full_sites: true,
    word: "embeddings.tok_embeddings.weight",
    embedding_norm: "embeddings.norm",
    blocks: "layers",
    qkv: &["attn.Wqkv"],
    attention_output: "attn.Wo",
    attention_norm: "attn_norm",
    mlp_input: "mlp.Wi",
    mlp_output: "mlp.Wo",
    mlp_norm: "mlp_norm",
    pre_norm: true,
    drops_attention: true,
    gated: true,
    head: Some(("head.dense", Some("head.norm"))),
    not_used: &["decoder.*", "classifier.*"],
};
