//! An encoder's features to `config.json`.

use serde_json::{Value, json};

use super::{
    EncoderConfig, EncoderPositions, HeadActivation, Pooling, Positions, RelativeBuckets,
    RotaryLayers,
};

/// The text of the file, as transformers reads it.
pub(super) fn json(config: &EncoderConfig) -> String {
    let keys = config.family.keys();
    let mut fields = json!({
        "architectures": [config.family.masked_lm()],
        "initializer_range": config.initializer_range,
        "max_position_embeddings": config.max_positions,
        "model_type": config.family.name(),
        "pad_token_id": config.pad_token_id,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": true,
        "vocab_size": config.vocab_size,
    });
    let mut set = |field: &str, value: Value| fields[field] = value;
    set(keys.activation, json!(config.activation.name()));
    set(keys.attention_dropout, json!(config.attention_dropout));
    // Some of transformers' configurations refuse null.
    if let Some(p) = config.classifier_dropout {
        set(keys.classifier_dropout, json!(p));
    }
    set(keys.hidden_dropout, json!(config.hidden_dropout));
    set(keys.hidden_size, json!(config.hidden_size));
    set(keys.intermediate_size, json!(config.intermediate_size));
    set(keys.num_heads, json!(config.num_heads));
    set(keys.num_layers, json!(config.num_layers));
    if let Some(field) = keys.norm_eps {
        set(field, json!(config.layer_norm_eps));
    }
    if config.family.has_types() {
        set("type_vocab_size", json!(config.type_vocab_size));
    }
    if config.family.writes_embedding_size() {
        set("embedding_size", json!(config.embedding_width()));
    }
    match &config.positions {
        EncoderPositions::Learned => {}
        EncoderPositions::Rotary(rotary) => modernbert(config, rotary, &mut fields),
        EncoderPositions::Relative(buckets) => deberta(config, *buckets, &mut fields),
    }
    if config.family.positions() == Positions::Tokens {
        // Positions are counted from it, also where it is -1.
        fields["pad_token_id"] = json!(config.position_offset as i64 - 1);
        // <s> and </s> of RoBERTa's vocabularies; transformers writes them for every RoBERTa.
        fields["bos_token_id"] = json!(0);
        fields["eos_token_id"] = json!(2);
    }
    format!("{fields:#}\n")
}

/// The fields of transformers 4 and those of transformers 5 side by side.
fn modernbert(config: &EncoderConfig, rotary: &RotaryLayers, fields: &mut Value) {
    let kind = |layer| match rotary.local.has(layer) {
        true => "sliding_attention",
        false => "full_attention",
    };
    let theta = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    let own = json!({
        "attention_bias": config.attention_bias,
        "classifier_activation": activation(config.head_activation),
        "classifier_bias": config.head_bias,
        "classifier_pooling": match config.pooling {
            Pooling::First => "cls",
            Pooling::Mean => "mean",
        },
        "embedding_dropout": config.hidden_dropout,
        "global_rope_theta": rotary.theta,
        "layer_types": (0..config.num_layers).map(kind).collect::<Vec<_>>(),
        "local_attention": 2 * rotary.reach,
        "local_rope_theta": rotary.local_theta,
        "mlp_bias": config.mlp_bias,
        "norm_bias": config.norm_bias,
        "rope_parameters": {
            "full_attention": theta(rotary.theta),
            "sliding_attention": theta(rotary.local_theta),
        },
    });
    add(fields, own);
}

fn deberta(config: &EncoderConfig, buckets: RelativeBuckets, fields: &mut Value) {
    let own = json!({
        "max_relative_positions": buckets.reach,
        "norm_rel_ebd": "layer_norm",
        "pooler_dropout": 0,
        "pooler_hidden_act": activation(config.head_activation),
        "pooler_hidden_size": config.hidden_size,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": false,
        "position_buckets": buckets.buckets,
        "relative_attention": true,
        "share_att_key": true,
    });
    add(fields, own);
}

fn activation(of_head: HeadActivation) -> &'static str {
    match of_head {
        HeadActivation::Tanh => "tanh",
        HeadActivation::Of(activation) => activation.name(),
    }
}

fn add(fields: &mut Value, own: Value) {
    if let (Value::Object(fields), Value::Object(own)) = (fields, own) {
        fields.extend(own);
    }
}
