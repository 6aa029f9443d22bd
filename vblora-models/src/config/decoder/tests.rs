use serde_json::{Value, json};
use vblora::ops::Gate;

use super::*;
use crate::Activation;

fn read(value: &Value) -> Result<DecoderConfig> {
    DecoderConfig::from_json(value.to_string().as_bytes(), "dir/config.json")
}

fn problem(mut config: Value, field: &str, value: Value) -> String {
    config[field] = value;
    read(&config).unwrap_err().to_string()
}

/// As transformers 4 wrote it.
fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_theta": 500_000.0, "rope_scaling": null, "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": [2, 3],
    })
}

fn gpt2() -> Value {
    json!({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": null, "vocab_size": 256})
}

#[test]
fn configurations_of_either_age_are_read() {
    let old = read(&llama()).unwrap();
    assert_eq!(
        (old.rotary.clone(), old.head_size, old.num_kv_heads),
        (Some(RotaryConfig::plain(500_000.0)), 16, 2)
    );
    assert_eq!(
        (old.bos_token_id, &old.eos_token_ids[..]),
        (Some(1), &[2, 3][..])
    );
    assert!(!old.tied && old.window.is_none());
    let mut new = llama();
    let fields = new.as_object_mut().unwrap();
    fields.remove("rope_theta");
    fields.remove("rope_scaling");
    fields.remove("torch_dtype");
    fields.insert("dtype".into(), json!("float16"));
    let rope = json!({"rope_theta": 500_000.0, "rope_type": "default"});
    fields.insert("rope_parameters".into(), rope);
    assert_eq!(read(&new).unwrap(), old);
}

#[test]
fn what_is_not_said_has_transformers_defaults() {
    let gpt2 = read(&gpt2()).unwrap();
    assert_eq!((gpt2.intermediate_size, gpt2.tied), (256, true));
    assert_eq!(
        (gpt2.mlp, gpt2.attention_dropout),
        (Mlp::Plain(Activation::GeluTanh), 0.1)
    );
    let mut mistral = llama();
    mistral["model_type"] = json!("mistral");
    assert_eq!(read(&mistral).unwrap().window, Some(4096));
    mistral["sliding_window"] = Value::Null;
    assert_eq!(read(&mistral).unwrap().window, None);
    mistral["sliding_window"] = json!(7);
    assert_eq!(read(&mistral).unwrap().window, Some(7));
    mistral["layer_types"] = json!(["full_attention", "full_attention"]);
    assert_eq!(read(&mistral).unwrap().window, None);
    let mut gemma = llama();
    gemma["model_type"] = json!("gemma");
    gemma["hidden_act"] = json!("gelu");
    let read = read(&gemma).unwrap();
    assert_eq!(
        (read.mlp, read.head_size, read.tied),
        (Mlp::Gated(Gate::GeluTanh), 256, true)
    );
}

#[test]
fn windows_go_by_the_rule_of_their_family() {
    let mut qwen = llama();
    qwen["model_type"] = json!("qwen2");
    qwen["use_sliding_window"] = json!(true);
    qwen["max_window_layers"] = json!(1);
    let config = read(&qwen).unwrap();
    assert_eq!(config.window, Some(4096));
    assert_eq!(
        [0, 1].map(|layer| config.windowed.has(layer)),
        [false, true]
    );
    qwen["sliding_window"] = Value::Null;
    assert_eq!(read(&qwen).unwrap().window, None);

    // SmolLM3 has it where positions do not turn, and none unless a number is there.
    let mut smol = llama();
    smol["model_type"] = json!("smollm3");
    smol["use_sliding_window"] = json!(true);
    smol["no_rope_layers"] = json!([0, 1]);
    assert_eq!(read(&smol).unwrap().window, None);
    smol["sliding_window"] = json!(3);
    let config = read(&smol).unwrap();
    assert_eq!(config.window, Some(3));
    assert_eq!(
        [0, 1].map(|layer| config.windowed.has(layer)),
        [true, false]
    );

    let mut gemma = llama();
    gemma["model_type"] = json!("gemma2");
    let message = problem(gemma, "sliding_window", Value::Null);
    assert!(message.contains("found null"), "{message}");
}

#[test]
fn two_rotary_objects_must_agree() {
    let mut config = llama();
    config["rope_scaling"] = json!({"rope_type": "linear", "factor": 8.0});
    let message = problem(
        config.clone(),
        "rope_parameters",
        json!({"rope_type": "default"}),
    );
    assert!(
        message.contains("expected the settings of rope_parameters"),
        "{message}"
    );
    config["rope_parameters"] = config["rope_scaling"].clone();
    assert_eq!(
        read(&config).unwrap().rotary.unwrap().scaling,
        RopeScaling::Linear { factor: 8.0 }
    );

    // A number outside of the object is the one that transformers takes.
    let mut config = llama();
    config["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    config["original_max_position_embeddings"] = json!(4);
    let RopeScaling::Llama3 { original, .. } = read(&config).unwrap().rotary.unwrap().scaling
    else {
        panic!("not Llama 3's scaling");
    };
    assert_eq!(original, 4.0);

    let mut gemma = llama();
    gemma["model_type"] = json!("gemma3_text");
    let scaled = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 3.0});
    let message = problem(
        gemma,
        "rope_parameters",
        json!({"sliding_attention": scaled}),
    );
    assert!(message.contains("layers with a window"), "{message}");
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let scaled = json!({"rope_type": "dynamic", "factor": 2.0});
    for (field, value, said) in [
        (
            "rope_scaling",
            json!({"type": "longrope", "factor": 2.0}),
            "rope scaling \"longrope\"",
        ),
        ("rope_parameters", scaled, "rope scaling \"dynamic\""),
        (
            "rope_parameters",
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        ("partial_rotary_factor", json!(0.5), "only 1 is implemented"),
        ("hidden_act", json!("gelu"), "found \"gelu\""),
        ("sliding_window", json!(4), "not implemented for llama"),
        (
            "layer_types",
            json!(["sliding_attention"]),
            "not implemented for llama",
        ),
        ("use_bidirectional_attention", json!(true), "only causal"),
        ("quantization_config", json!({"bits": 4}), "quantised"),
        ("num_key_value_heads", json!(3), "does not divide"),
        ("head_dim", json!(15), "odd"),
        ("num_hidden_layers", json!(0), "expected 1 to"),
        ("vocab_size", json!(1_u64 << 40), "expected 1 to"),
        ("rope_theta", json!(0.0), "over 0"),
        ("rope_theta", json!("many"), "expected a number"),
        ("attention_dropout", json!(1.0), "[0, 1)"),
        ("pad_token_id", json!(256), "outside the vocabulary"),
        ("pad_token_id", json!(-257), "outside the vocabulary"),
        ("pad_token_id", json!([3]), "a token id"),
        ("bos_token_id", json!("<s>"), "a token id"),
        ("eos_token_id", json!([2, "x"]), "a token id or a list"),
        ("rms_norm_eps", json!(0), "over 0"),
    ] {
        let message = problem(llama(), field, value);
        assert!(
            message.contains("dir/config.json") && message.contains(said),
            "{message}"
        );
        let named = field == "rope_parameters" || message.contains(field) || said.contains(field);
        assert!(named, "{field}: {message}");
    }
    for (field, value, said) in [
        (
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            "not implemented",
        ),
        ("scale_attn_weights", json!(false), "not implemented"),
        ("add_cross_attention", json!(true), "cross-attention"),
        ("activation_function", json!("swish"), "found \"swish\""),
        ("n_head", json!(5), "not a multiple"),
    ] {
        let message = problem(gpt2(), field, value);
        assert!(message.contains(said), "{message}");
    }
    let message = problem(llama(), "model_type", json!("t5"));
    assert!(
        message.contains("\"t5\"") && message.contains("\"gemma\""),
        "{message}"
    );
    let mut mixed = llama();
    mixed["model_type"] = json!("mistral");
    mixed["layer_types"] = json!(["sliding_attention", "full_attention"]);
    assert!(
        read(&mixed)
            .unwrap_err()
            .to_string()
            .contains("different kinds")
    );
}

#[test]
fn what_is_written_is_read_as_it_was() {
    for config in [llama(), gpt2()] {
        let config = read(&config).unwrap();
        let again = DecoderConfig::from_json(config.to_json().as_bytes(), "x").unwrap();
        assert_eq!(again, config);
    }
}

/// The published numbers of parameters (GPT-2's without its tied head; Gemma's with embeddings, arXiv 2403.08295 table 2).
#[test]
fn presets_have_their_published_parameters() {
    for (config, parameters) in [
        (DecoderConfig::gpt2_medium(), 354_823_168),
        (DecoderConfig::gpt2_large(), 774_030_080),
        (DecoderConfig::llama_2_7b(), 6_738_415_616),
        (DecoderConfig::llama_2_13b(), 13_015_864_320),
        (DecoderConfig::mistral_7b(), 7_241_732_096),
        (DecoderConfig::gemma_7b(), 8_537_680_896),
        (DecoderConfig::smollm2_135m(), 134_515_008),
    ] {
        config.check("preset").unwrap();
        assert_eq!(config.parameters(), parameters, "{config:?}");
    }
}

/// The paper notes' numbers of sub-vectors at b = 256 (1.9).
#[test]
fn presets_have_the_sub_vectors_of_the_paper() {
    let split = |config| DecoderConfig {
        split_qkv: true,
        ..config
    };
    for (config, rank, sub_vectors) in [
        (split(DecoderConfig::gpt2_medium()), 4, 6_912),
        (DecoderConfig::gpt2_medium(), 4, 6_144),
        (split(DecoderConfig::gpt2_large()), 4, 12_960),
        (DecoderConfig::llama_2_7b(), 4, 39_040),
        (DecoderConfig::llama_2_13b(), 6, 91_680),
        (DecoderConfig::mistral_7b(), 4, 40_960),
        (DecoderConfig::gemma_7b(), 4, 48_832),
    ] {
        let plan = vblora::Targets::all_linear().select(&crate::decoder::sites(&config));
        assert_eq!(plan.unwrap().sub_vectors(rank, 256), sub_vectors);
    }
}

/// As in transformers, which loads such files with a warning.
#[test]
fn ids_that_are_no_tokens_are_left_out() {
    let with = |model: Value, field: &str, value: Value| {
        let mut model = model;
        model[field] = value;
        DecoderConfig::from_json(model.to_string().as_bytes(), "dir/config.json").unwrap()
    };
    let ends = |value| with(llama(), "eos_token_id", value).eos_token_ids;
    assert_eq!(ends(json!([2, 256])), [2]);
    assert_eq!(ends(json!(-1)), [0u32; 0]);
    assert_eq!(with(llama(), "bos_token_id", json!(-1)).bos_token_id, None);
    for (value, expected) in [(json!(-1), None), (json!(-256), None), (json!(7), Some(7))] {
        assert_eq!(with(llama(), "pad_token_id", value).pad_token_id, expected);
    }
    let beyond = json!(1_000_000);
    assert_eq!(with(gpt2(), "pad_token_id", beyond).pad_token_id, None);
}

/// Gemma 2 says nothing of its caps where they are 50 and 30. `null` says that there are none.
#[test]
fn gemma_2_has_caps_and_a_window_in_every_second_layer() {
    let mut gemma = llama();
    gemma["model_type"] = json!("gemma2");
    gemma["num_hidden_layers"] = json!(3);
    gemma["query_pre_attn_scalar"] = json!(144);
    let found = read(&gemma).unwrap();
    assert_eq!((found.score_cap, found.logit_cap), (Some(50.0), Some(30.0)));
    assert_eq!(found.attention_scale, AttentionScale::RootOf(144.0));
    let every_second = LayerSet::Listed(vec![true, false, true]);
    assert_eq!((found.window, &found.windowed), (Some(4096), &every_second));
    assert!(found.tied && found.head_size == 256);
    gemma["attn_logit_softcapping"] = Value::Null;
    gemma["final_logit_softcapping"] = json!(7.5);
    let found = read(&gemma).unwrap();
    assert_eq!((found.score_cap, found.logit_cap), (None, Some(7.5)));
    let again = DecoderConfig::from_json(found.to_json().as_bytes(), "x").unwrap();
    assert_eq!(again, found);
    let message = problem(gemma.clone(), "final_logit_softcapping", json!(-1.0));
    assert!(message.contains("final_logit_softcapping") && message.contains("found -1"));
    gemma["model_type"] = json!("gemma3_text");
    let message = read(&gemma).unwrap_err().to_string();
    assert!(message.contains("gemma2 alone"), "{message}");
}

fn scaled(family: &str, field: &str, scaling: Value) -> Value {
    let mut config = llama();
    config["model_type"] = json!(family);
    config[field] = scaling;
    config
}

#[test]
fn long_rope_is_read_in_each_of_its_forms() {
    let factors = |first: f64| (0..8).map(|i| first + f64::from(i)).collect::<Vec<_>>();
    let inner = |kind: &str| json!({"type": kind, "short_factor": factors(1.0), "long_factor": factors(1.5)});
    let mut old = scaled("phi3", "rope_scaling", inner("longrope"));
    old["original_max_position_embeddings"] = json!(10);
    let found = read(&old).unwrap();
    let scaling = RopeScaling::LongRope {
        short: factors(1.0),
        long: factors(1.5),
        original: 10,
        attention: (1.0 + 6.4_f64.ln() / 10_f64.ln()).sqrt(),
    };
    assert_eq!(found.rotary.clone().unwrap().scaling, scaling);
    assert_eq!(found.long_from(), Some(10));
    // The names of earlier files, and the place in those of transformers 5.
    for kind in ["su", "yarn"] {
        let mut other = old.clone();
        other["rope_scaling"] = inner(kind);
        assert_eq!(read(&other).unwrap(), found);
    }
    let mut new = inner("longrope");
    new["original_max_position_embeddings"] = json!(10);
    new["rope_theta"] = json!(500_000.0);
    assert_eq!(
        read(&scaled("phi3", "rope_parameters", new)).unwrap(),
        found
    );
    let written: Value = serde_json::from_str(&found.to_json()).unwrap();
    assert_eq!(read(&written).unwrap(), found);
    assert_eq!(written["rope_scaling"], inner("longrope"));
    let mut set = old.clone();
    set["rope_scaling"]["attention_factor"] = json!(1.1);
    let set = read(&set).unwrap().rotary.unwrap().scaling;
    assert!(matches!(set, RopeScaling::LongRope { attention, .. } if attention == 1.1));
    for (field, value, said) in [
        ("short_factor", json!([1.0, 2.0]), "expected 8 numbers"),
        ("long_factor", Value::Null, "found 0"),
        ("long_factor", json!([1.0, "x"]), "a list of numbers"),
        ("long_factor", json!(vec![0.0; 8]), "over 0"),
    ] {
        let mut wrong = old.clone();
        wrong["rope_scaling"][field] = value;
        let message = read(&wrong).unwrap_err().to_string();
        assert!(
            message.contains(field) && message.contains(said),
            "{message}"
        );
    }
    let message = problem(old, "original_max_position_embeddings", json!(0));
    assert!(
        message.contains("original_max_position_embeddings"),
        "{message}"
    );
}

#[test]
fn yarn_and_linear_scaling_are_read_and_written() {
    let linear = json!({"type": "linear", "factor": 2.0});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    for family in [
        "llama", "qwen2", "qwen3", "mistral", "olmo2", "granite", "smollm3", "gemma", "gemma2",
    ] {
        for scaling in [&linear, &yarn] {
            let [old, new] = ["rope_scaling", "rope_parameters"]
                .map(|field| read(&scaled(family, field, scaling.clone())).unwrap());
            assert_eq!(old, new);
            let again = DecoderConfig::from_json(old.to_json().as_bytes(), "x").unwrap();
            assert_eq!(again, old);
        }
    }
    let found = read(&scaled("qwen2", "rope_scaling", yarn.clone())).unwrap();
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        fast: 32.0,
        slow: 1.0,
        truncate: true,
        original: 16.0,
        attention: 0.1 * 4_f64.ln() + 1.0,
    };
    assert_eq!(found.rotary.unwrap().scaling, scaling);
    let message = problem(
        scaled("llama", "rope_scaling", yarn),
        "rope_theta",
        json!(1.0),
    );
    assert!(
        message.contains("rope_theta") && message.contains("over 1"),
        "{message}"
    );
    let message = read(&scaled("llama", "rope_scaling", json!({"type": "yarn"}))).unwrap_err();
    assert!(message.to_string().contains("factor"), "{message}");
}
