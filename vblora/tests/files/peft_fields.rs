//! Each field of `adapter_config.json` is applied, known to change nothing, or refused by its name.

use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use vblora::{
    Site,
    storage::{
        HostAdapter, HostLora,
        peft::{PeftAdapter, PeftDirectory},
    },
};

/// A tensor's name, shape and values.
pub(crate) type Named = (String, Vec<usize>, Vec<f32>);

/// Writes a directory as it is given.
pub(crate) fn directory(dir: &Path, config: &Value, tensors: &[Named]) {
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    tensor_file(&dir.join("adapter_model.safetensors"), tensors);
}

pub(crate) fn tensor_file(path: &Path, tensors: &[Named]) {
    let bytes =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let stored: Vec<_> = tensors
        .iter()
        .map(|(name, shape, values)| (name, shape.clone(), bytes(values)))
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// LoRA's factors `[rank, 3]` and `[2, rank]` of a module.
pub(crate) fn factors(module: &str, rank: usize) -> [Named; 2] {
    let name = |part: &str| format!("base_model.model.{module}.lora_{part}.weight");
    let values = |n: usize| (0..n).map(|i| 0.5 + i as f32).collect();
    [
        (name("A"), vec![rank, 3], values(3 * rank)),
        (name("B"), vec![2, rank], values(2 * rank)),
    ]
}

pub(crate) fn lora_config(target: &str) -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [target]})
}

/// Opens a directory and reads it for its own modules.
pub(crate) fn read(dir: &Path) -> Result<PeftAdapter, String> {
    let read = || {
        let found = PeftDirectory::open(dir)?;
        found.bind(found.sites())
    };
    read().map_err(|error: vblora::Error| error.to_string())
}

/// A LoRA with one field set.
fn with(key: &str, value: Value) -> Result<PeftAdapter, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = lora_config("q");
    config[key] = value;
    directory(dir.path(), &config, &factors("q", 2));
    read(dir.path())
}

fn lora(adapter: &PeftAdapter) -> &HostLora {
    match &adapter.adapter {
        HostAdapter::Lora(lora) => lora,
        other => panic!("LoRA, found {other:?}"),
    }
}

#[test]
fn what_changes_the_result_and_is_not_there_is_refused_by_name() {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("use_dora", json!(1)),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("bias", json!(false)),
        ("alora_invocation_tokens", json!([5])),
        ("layer_replication", json!([[0, 1]])),
        ("megatron_config", json!({"a": 1})),
        ("target_parameters", json!(["experts"])),
        ("trainable_token_indices", json!([1, 2])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        // PEFT takes an empty object for the defaults of the method.
        ("kasa_config", json!({})),
        ("velora_config", json!({})),
        ("arrow_config", json!({})),
        ("monteclora_config", json!({})),
        ("use_bdlora", json!({})),
        ("a_field_of_tomorrow", json!(true)),
        ("a_field_of_tomorrow", json!(0.5)),
        ("save_only_topk_weights", json!(true)),
        ("peft_type", json!("IA3")),
    ] {
        let error = with(key, value.clone()).unwrap_err();
        for part in ["adapter_config.json", key] {
            assert!(error.contains(part), "{part:?} of {value} in {error}");
        }
    }
}

#[test]
fn what_changes_nothing_is_read() {
    let plain = with("r", json!(2)).unwrap();
    for (key, value) in [
        ("a_field_of_tomorrow", json!(null)),
        ("a_field_of_tomorrow", json!(false)),
        ("a_field_of_tomorrow", json!({})),
        ("a_field_of_tomorrow", json!("")),
        (
            "auto_mapping",
            json!({"base_model_class": "X", "unsloth_fixed": true}),
        ),
        ("runtime_config", json!({"ephemeral_gpu_offload": true})),
        ("peft_version", json!("9.9")),
        ("revision", json!("main")),
        ("inference_mode", json!(false)),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("eva_config", json!({"rho": 2.0})),
        ("corda_config", json!({})),
        ("lora_ga_config", json!({})),
        ("megatron_core", json!("megatron.core")),
        ("qalora_group_size", json!(16)),
        ("ensure_weight_tying", json!(true)),
        ("use_dora", json!(false)),
        ("kasa_config", json!(null)),
        ("trainable_token_indices", json!(null)),
        ("bias", json!(null)),
        ("rank_pattern", json!(null)),
        ("lora_alpha", json!(4.0)),
        ("exclude_modules", json!("")),
        ("modules_to_save", json!([])),
    ] {
        assert_eq!(
            with(key, value.clone()).as_ref(),
            Ok(&plain),
            "{key}: {value}"
        );
    }
}

#[test]
fn ways_to_initialise_that_change_the_base_are_refused() {
    for harmless in [
        json!(true),
        json!(false),
        json!(null),
        json!("gaussian"),
        json!("orthogonal"),
        json!("eva"),
        json!("mica"),
    ] {
        assert!(with("init_lora_weights", harmless).is_ok());
    }
    for name in [
        "pissa",
        "pissa_niter_16",
        "olora",
        "OLoRA",
        "corda",
        "loftq",
        "lora_ga",
    ] {
        let error = with("init_lora_weights", json!(name)).unwrap_err();
        for part in [
            "init_lora_weights",
            name,
            "path_initial_model_for_weight_conversion",
        ] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }
    for unknown in [json!("tomorrows"), json!(1), json!(["pissa"])] {
        let error = with("init_lora_weights", unknown).unwrap_err();
        assert!(error.contains("init_lora_weights"), "{error}");
    }
}

#[test]
fn values_of_other_types_are_named_with_what_was_expected() {
    for (key, value, expected) in [
        ("use_rslora", json!(1), "true or false"),
        ("use_rslora", json!("false"), "true or false"),
        ("fan_in_fan_out", json!("true"), "true or false"),
        ("r", json!(2.0), "whole number"),
        ("r", json!("2"), "whole number"),
        ("r", json!(0), "whole number"),
        ("r", json!(-2), "whole number"),
        ("r", json!(null), "whole number"),
        ("lora_alpha", json!("4"), "a number"),
        ("lora_alpha", json!(null), "a number"),
        ("lora_alpha", json!(true), "a number"),
        ("lora_alpha", json!(1e39), "at most 3.4e38"),
        ("lora_alpha", json!(-1e39), "at most 3.4e38"),
        ("lora_dropout", json!("0.1"), "a number"),
        ("lora_dropout", json!(2), "at least 0 and below 1"),
        ("lora_dropout", json!(-0.5), "at least 0 and below 1"),
        ("modules_to_save", json!("score"), "list of texts"),
        ("modules_to_save", json!([1]), "texts"),
        ("target_modules", json!(5), "text or a list"),
        ("target_modules", json!([["q"]]), "texts"),
        ("exclude_modules", json!({}), "text or a list"),
        ("layers_to_transform", json!("1"), "whole numbers"),
        ("layers_to_transform", json!([1.5]), "whole numbers"),
        ("layers_pattern", json!(3), "text or a list"),
        ("rank_pattern", json!(["q"]), "an object"),
        ("rank_pattern", json!({"q": 2.0}), "whole number"),
        ("alpha_pattern", json!({"q": "2"}), "a number"),
        ("alpha_pattern", json!({"q": 1e39}), "at most 3.4e38"),
        ("base_model_name_or_path", json!(7), "a text"),
        ("task_type", json!(["CAUSAL_LM"]), "a text"),
        ("peft_type", json!(null), "VBLORA, LORA or VERA"),
    ] {
        let error = with(key, value.clone()).unwrap_err();
        for part in ["adapter_config.json", key, expected, "found"] {
            assert!(error.contains(part), "{part:?} of {value} in {error}");
        }
    }
}

#[test]
fn absent_fields_have_pefts_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"peft_type": "LORA", "target_modules": ["q"]});
    directory(dir.path(), &config, &factors("q", 8));
    let adapter = read(dir.path()).unwrap();
    let config = lora(&adapter).settings().config();
    assert_eq!((config.rank, config.alpha, config.rslora), (8, 8.0, false));
}

#[test]
fn a_key_twice_and_a_byte_order_mark() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path(), &lora_config("q"), &factors("q", 2));
    let path = dir.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
    assert!(read(dir.path()).is_ok());
    std::fs::write(&path, text.replacen('{', "{\"r\": 4, ", 1)).unwrap();
    let error = read(dir.path()).unwrap_err();
    assert!(error.contains("\"r\" is given twice"), "{error}");
}

/// The update of a site in the order `[d_in, d_out]`, without its settings' help.
fn update(adapter: &PeftAdapter, site: usize) -> Vec<f64> {
    let lora = lora(adapter);
    let config = lora.settings().config();
    let (a, b) = (&lora.a()[site], &lora.b()[site]);
    let [d_in, d_out] = [a.len() / config.rank, b.len() / config.rank];
    let entry = |i: usize, o: usize| {
        let terms =
            (0..config.rank).map(|r| f64::from(a[r * d_in + i]) * f64::from(b[r * d_out + o]));
        terms.sum::<f64>() * config.scale()
    };
    (0..d_in)
        .flat_map(|i| (0..d_out).map(move |o| (i, o)))
        .map(|(i, o)| entry(i, o))
        .collect()
}

#[test]
fn patterns_give_modules_their_own_rank_and_scale() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["m.0.q", "m.1.q", "m.1.v"];
    let ranks = [2, 5, 3];
    let tensors: Vec<_> = names
        .iter()
        .zip(ranks)
        .flat_map(|(name, rank)| factors(name, rank))
        .collect();
    for (rslora, scales) in [
        (false, [4.0 / 2.0, 20.0 / 5.0, 1.5 / 3.0]),
        (
            true,
            [
                4.0 / 2.0_f64.sqrt(),
                20.0 / 5.0_f64.sqrt(),
                1.5 / 3.0_f64.sqrt(),
            ],
        ),
    ] {
        // The first pattern that matches counts, here against the order of the alphabet.
        let text = format!(
            r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v"], "use_rslora": {rslora},
            "rank_pattern": {{"v": 3, "1\\..*": 5}}, "alpha_pattern": {{"v": 1.5, "m.1.[qv]": 20}}}}"#
        );
        directory(dir.path(), &json!({}), &tensors);
        std::fs::write(dir.path().join("adapter_config.json"), text).unwrap();
        let found = PeftDirectory::open(dir.path()).unwrap();
        let patterned = found.patterned().unwrap();
        let adapter = read(dir.path()).unwrap();
        let again = tempfile::tempdir().unwrap();
        adapter.write(again.path()).unwrap();
        assert_eq!(read(again.path()).unwrap().adapter, adapter.adapter);
        for (site, (rank, scale)) in ranks.into_iter().zip(scales).enumerate() {
            assert_eq!(patterned[site].0, rank);
            assert!((patterned[site].1 - scale).abs() < 1e-12);
            // By hand: A is `0.5 + i`, row-major `[rank, 3]`, and B `[2, rank]`.
            let entry = |i: usize, o: usize| {
                let terms =
                    (0..rank).map(|r| (0.5 + (r * 3 + i) as f64) * (0.5 + (o * rank + r) as f64));
                scale * terms.sum::<f64>()
            };
            let expected = (0..3).flat_map(|i| (0..2).map(move |o| (i, o)));
            for (found, (i, o)) in update(&adapter, site).iter().zip(expected) {
                let expected = entry(i, o);
                assert!(
                    (found - expected).abs() < 1e-5 * expected,
                    "{found} {expected}"
                );
            }
        }
    }
    // One rank for all, by a pattern, needs nothing padded.
    let mut config = lora_config("q");
    config["rank_pattern"] = json!({"q": 7});
    directory(dir.path(), &config, &factors("q", 7));
    assert!(
        PeftDirectory::open(dir.path())
            .unwrap()
            .patterned()
            .is_none()
    );
    assert_eq!(lora(&read(dir.path()).unwrap()).settings().config().rank, 7);
    // What cannot be followed is not guessed.
    config["rank_pattern"] = json!({"q{": 7, "(": 2});
    directory(dir.path(), &config, &factors("q", 7));
    let error = read(dir.path()).unwrap_err();
    assert!(
        error.contains("rank_pattern") && error.contains("adapter_config.json"),
        "{error}"
    );
}

#[test]
fn values_that_a_reader_refuses_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path(), &lora_config("q"), &factors("q", 2));
    let whole = read(dir.path()).unwrap();
    let broken = PeftAdapter {
        modules_to_save: vec!["score".into()],
        saved: vec![(
            "score.weight".into(),
            vblora::storage::HostTensor {
                shape: vec![2],
                values: vec![1.0, f32::INFINITY],
            },
        )],
        ..whole.clone()
    };
    let error = broken.write(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("score.weight") && error.contains("inf"),
        "{error}"
    );
    let listed = PeftAdapter {
        saved: Vec::new(),
        ..broken
    };
    let error = listed.write(dir.path()).unwrap_err().to_string();
    assert!(error.contains("\"score\""), "{error}");
    assert_eq!(read(dir.path()).unwrap(), whole);
    assert_eq!(whole.adapter.plan().sites(), [Site::new("q", 3, 2)]);
}
