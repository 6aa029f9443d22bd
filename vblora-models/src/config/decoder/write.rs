//! A decoder's features to `config.json`, as transformers and [`read`](super::read) understand it.

use serde_json::{Value, json};
use vblora::ops::Gate;

use super::{
    family::{DecoderFamily, Keys},
    features::{AttentionScale, EmbeddingScale, Mlp},
    read::{LOGIT_CAP, SCORE_CAP},
    rope, windows,
};
use crate::DecoderConfig;

pub(super) fn json(config: &DecoderConfig) -> String {
    let mut fields = match config.family.keys() {
        Keys::Gpt2 => gpt2(config),
        Keys::Llama => gated(config),
    };
    fields["model_type"] = json!(config.family.name());
    fields["architectures"] = json!([config.family.class()]);
    fields["vocab_size"] = json!(config.vocab_size);
    fields["initializer_range"] = json!(config.initializer_range);
    fields["tie_word_embeddings"] = json!(config.tied);
    fields["bos_token_id"] = json!(config.bos_token_id);
    fields["pad_token_id"] = json!(config.pad_token_id);
    fields["eos_token_id"] = match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    format!("{fields:#}\n")
}

fn gpt2(config: &DecoderConfig) -> Value {
    let mut fields = json!({
        "attn_pdrop": config.attention_dropout,
        "embd_pdrop": config.embedding_dropout,
        "resid_pdrop": config.residual_dropout,
        "layer_norm_epsilon": config.norm_eps,
        "n_embd": config.hidden_size,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_positions": config.max_positions,
    });
    if let Mlp::Plain(activation) = config.mlp {
        fields["activation_function"] = json!(activation.name());
    }
    fields
}

fn gated(config: &DecoderConfig) -> Value {
    let mut fields = json!({
        "attention_bias": config.output_bias,
        "attention_dropout": config.attention_dropout,
        "head_dim": config.head_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "mlp_bias": config.mlp_bias,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
    });
    if let Mlp::Gated(gate) = config.mlp {
        let name = match gate {
            Gate::Silu => "silu",
            Gate::GeluTanh => "gelu_pytorch_tanh",
        };
        fields["hidden_act"] = json!(name);
        if matches!(config.family, DecoderFamily::Gemma2 | DecoderFamily::Gemma3) {
            fields["hidden_activation"] = json!(name);
        }
    }
    if let Some(rotary) = &config.rotary {
        rope::write(config, rotary, &mut fields);
    }
    windows::write(config, &mut fields);
    own_settings(config, &mut fields);
    fields
}

/// The settings that one family alone has.
fn own_settings(config: &DecoderConfig, fields: &mut Value) {
    match config.family {
        DecoderFamily::Granite => {
            if let EmbeddingScale::By(factor) = config.embedding_scale {
                fields["embedding_multiplier"] = json!(factor);
            }
            if let AttentionScale::By(factor) = config.attention_scale {
                fields["attention_multiplier"] = json!(factor);
            }
            fields["residual_multiplier"] = json!(config.residual_scale);
            fields["logits_scaling"] = json!(config.logits_divisor);
        }
        DecoderFamily::Gemma2 => {
            fields[SCORE_CAP] = json!(config.score_cap);
            fields[LOGIT_CAP] = json!(config.logit_cap);
            query_scalar(config, fields);
        }
        DecoderFamily::Gemma3 => query_scalar(config, fields),
        DecoderFamily::SmolLm3 => {
            let layers = 0..config.num_layers;
            let listed = layers.map(|layer| u8::from(config.rotated.has(layer)));
            fields["no_rope_layers"] = json!(listed.collect::<Vec<_>>());
        }
        DecoderFamily::Phi3 => {
            fields["embd_pdrop"] = json!(config.embedding_dropout);
            fields["resid_pdrop"] = json!(config.residual_dropout);
        }
        DecoderFamily::Gpt2
        | DecoderFamily::Llama
        | DecoderFamily::Mistral
        | DecoderFamily::Gemma
        | DecoderFamily::Qwen2
        | DecoderFamily::Qwen3
        | DecoderFamily::Olmo2 => {}
    }
}

fn query_scalar(config: &DecoderConfig, fields: &mut Value) {
    if let AttentionScale::RootOf(value) = config.attention_scale {
        fields["query_pre_attn_scalar"] = json!(value);
    }
}
