//! `vblora plan`: the paper's counts on the paper's models, and settings for a size.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{support::fixtures, vblora};

const ROBERTA_BASE: &str = r#"{"model_type": "roberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}"#;
const ROBERTA_LARGE: &str = r#"{"model_type": "roberta", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}"#;
const GPT2_M: &str = r#"{"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16, "n_inner": null, "n_positions": 1024, "vocab_size": 50257}"#;
const GPT2_L: &str = r#"{"model_type": "gpt2", "n_embd": 1280, "n_layer": 36, "n_head": 20, "n_positions": 1024, "vocab_size": 50257}"#;
const LLAMA2_7B: &str = r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000, "max_position_embeddings": 4096}"#;
const LLAMA2_13B: &str = r#"{"model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 40, "vocab_size": 32000, "max_position_embeddings": 4096}"#;
const MISTRAL_7B: &str = r#"{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768}"#;
const GEMMA_7B: &str = r#"{"model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192}"#;

fn run(dir: &Path, config: &str, arguments: &str) -> (i32, String, String) {
    std::fs::write(dir.join("config.json"), config).unwrap();
    vblora(dir, &format!("plan config.json {arguments}"))
}

fn plan(config: &str, arguments: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (status, out, error) = run(dir.path(), config, &format!("{arguments} --json"));
    assert_eq!(status, 0, "{arguments}: {error}");
    serde_json::from_str(&out).unwrap()
}

/// The worked counts of the paper notes, 1.9: S, and stored parameters with indices at their real width. For banks beyond 256 there is also
/// the paper's count, with each index as a whole float.
#[test]
fn the_papers_models_count_as_published() {
    let (h90, h256, h350, h2048) = ("--bank 90", "--bank 256", "--bank 350", "--bank 2048");
    let cases = [
        (
            ROBERTA_BASE,
            "--targets query,value",
            h90,
            576,
            23_904.0,
            None,
        ),
        (ROBERTA_BASE, "", h90, 2_592, 26_928.0, None),
        (
            ROBERTA_LARGE,
            "--targets query,value",
            h90,
            1_536,
            25_344.0,
            None,
        ),
        (ROBERTA_LARGE, "", h90, 6_912, 33_408.0, None),
        (GPT2_M, "--split-qkv", h256, 6_912, 75_904.0, None),
        (GPT2_M, "", h256, 6_144, 74_752.0, None),
        (
            GPT2_L,
            "--split-qkv",
            h350,
            12_960,
            115_520.0,
            Some(128_480),
        ),
        (LLAMA2_7B, "", h2048, 39_040, 602_368.0, Some(641_408)),
        (
            LLAMA2_13B,
            "--rank 6",
            h2048,
            91_680,
            707_648.0,
            Some(799_328),
        ),
        (
            LLAMA2_13B,
            "",
            "--bank 4096",
            61_120,
            1_170_816.0,
            Some(1_231_936),
        ),
        (MISTRAL_7B, "", h2048, 40_960, 606_208.0, Some(647_168)),
        (GEMMA_7B, "", h2048, 48_832, 621_952.0, Some(670_784)),
    ];
    for (config, arguments, bank, sub_vectors, stored, as_floats) in cases {
        let report = plan(config, &format!("{arguments} {bank}"));
        assert_eq!(report["sub_vectors"], sub_vectors, "{config} {arguments}");
        assert_eq!(report["count"]["stored"], stored, "{config} {arguments}");
        let h = report["settings"]["bank"].as_u64().unwrap();
        let trained = 256 * h + sub_vectors * h;
        assert_eq!(report["count"]["trained"], trained);
        assert_eq!(report["bytes"]["peft-full"], 4 * trained);
        if let Some(published) = as_floats {
            assert_eq!(256 * h + 3 * sub_vectors, published);
        }
    }
    // LoRA of rank 64 on every linear map, and of rank 8 on query and value.
    for (config, arguments, lora) in [
        (LLAMA2_7B, "--rank 64", 159_907_840_u64),
        (LLAMA2_13B, "--rank 64", 250_347_520),
        (ROBERTA_BASE, "--targets query,value --rank 8", 294_912),
        (ROBERTA_LARGE, "--targets query,value --rank 8", 786_432),
        (GPT2_M, "--split-qkv --targets q,v --rank 4", 393_216),
        (GPT2_L, "--split-qkv --targets q,v --rank 4", 737_280),
    ] {
        assert_eq!(plan(config, arguments)["bytes"]["peft-lora"], 4 * lora);
    }
}

/// The paper notes' counts of the baselines that can be reproduced, 1.9.
#[test]
fn the_baselines_count_as_published() {
    let qv = "--targets query,value";
    for (config, arguments, expected) in [
        (ROBERTA_BASE, &*format!("lora {qv} --rank 8"), 294_912),
        (ROBERTA_LARGE, &*format!("lora {qv} --rank 8"), 786_432),
        (LLAMA2_7B, "lora --rank 64", 159_907_840),
        (LLAMA2_13B, "lora --rank 64", 250_347_520),
        (ROBERTA_BASE, &*format!("vera {qv} --rank 1024"), 43_008),
        (ROBERTA_BASE, "vera --rank 1024", 156_672),
        (ROBERTA_LARGE, &*format!("vera {qv} --rank 256"), 61_440),
        (ROBERTA_LARGE, "vera --rank 256", 258_048),
        (
            GPT2_L,
            "vera --split-qkv --targets q,v --rank 1024",
            165_888,
        ),
        (LLAMA2_7B, "vera --rank 1024", 1_589_248),
        (LLAMA2_13B, "vera --rank 1024", 2_416_640),
        (ROBERTA_BASE, &*format!("tied-lora {qv} --rank 8"), 43_200),
        (ROBERTA_LARGE, &*format!("tied-lora {qv} --rank 4"), 65_728),
        (MISTRAL_7B, "lora-xs --rank 64", 917_504),
        (GEMMA_7B, "lora-xs --rank 64", 802_816),
    ] {
        let report = plan(config, &format!("--method {arguments}"));
        assert_eq!(report["count"]["trained"], expected, "{arguments}");
        assert_eq!(report["count"]["bytes"], 4 * expected, "{arguments}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (status, _, error) = run(dir.path(), ROBERTA_BASE, "--method lora-xs --rank 769");
    assert_eq!(status, 1);
    let parts = ["encoder.layer.0.attention.self.query", "769", "rank 768"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    let (status, _, error) = run(dir.path(), ROBERTA_BASE, "--method vera --topk 2");
    assert_eq!(status, 1);
    assert!(
        error.contains("--topk") && error.contains("vera"),
        "{error}"
    );
}

#[test]
fn maps_have_the_names_and_shapes_of_the_checkpoint() {
    let sites = |config: &str, arguments: &str| {
        let report = plan(config, &format!("{arguments} --vector-length 64"));
        let sites = report["sites"].as_array().unwrap().clone();
        let site = |site: &Value| {
            let [d_in, d_out] = ["d_in", "d_out"].map(|key| site[key].as_u64().unwrap());
            (site["name"].as_str().unwrap().to_owned(), d_in, d_out)
        };
        sites.iter().map(site).collect::<Vec<_>>()
    };
    let mistral = sites(MISTRAL_7B, "");
    assert_eq!(mistral.len(), 7 * 32);
    let first = [
        ("self_attn.q_proj", 4096, 4096),
        ("self_attn.k_proj", 4096, 1024),
        ("self_attn.v_proj", 4096, 1024),
        ("self_attn.o_proj", 4096, 4096),
        ("mlp.gate_proj", 4096, 14_336),
        ("mlp.up_proj", 4096, 14_336),
        ("mlp.down_proj", 14_336, 4096),
    ];
    let first = first.map(|(name, d_in, d_out)| (format!("model.layers.31.{name}"), d_in, d_out));
    assert_eq!(mistral[7 * 31..], first);
    let gemma = sites(GEMMA_7B, "--targets q_proj,o_proj");
    assert_eq!(
        gemma[0],
        ("model.layers.0.self_attn.q_proj".into(), 3072, 4096)
    );
    assert_eq!(
        gemma[1],
        ("model.layers.0.self_attn.o_proj".into(), 4096, 3072)
    );
    let gpt2 = sites(GPT2_M, "--targets c_attn,mlp.c_proj");
    assert_eq!(gpt2[0], ("transformer.h.0.attn.c_attn".into(), 1024, 3072));
    assert_eq!(gpt2[1], ("transformer.h.0.mlp.c_proj".into(), 4096, 1024));
    let bert = ROBERTA_BASE.replace("roberta", "bert");
    assert_eq!(sites(&bert, ""), sites(ROBERTA_BASE, ""));
}

/// The modules that PEFT found in models of every architecture, for all linear maps.
#[test]
fn fixture_models_have_the_maps_that_peft_adapts() {
    let Some(folder) = fixtures::folder("models") else {
        return;
    };
    for family in fixtures::entries(&folder, "") {
        let config = std::fs::read_to_string(family.join("base/config.json")).unwrap();
        let report = plan(&config, "--vector-length 16");
        let found = report["sites"].as_array().unwrap().iter();
        let found: BTreeMap<_, _> = found
            .map(|site| {
                (
                    site["name"].as_str().unwrap(),
                    [&site["d_in"], &site["d_out"]],
                )
            })
            .collect();
        let io = fixtures::json(&family.join("all_linear/io.json"));
        let modules = io["modules"].as_object().unwrap();
        // PEFT's root is left out, and for an encoder with a head also the name of the bare model.
        let expected: BTreeMap<_, _> = modules
            .iter()
            .map(|(module, shape)| {
                let name = module.strip_prefix("base_model.model.").unwrap();
                let name = name.strip_prefix("roberta.").unwrap_or(name);
                (name, [&shape[0], &shape[1]])
            })
            .collect();
        assert_eq!(found, expected, "{}", family.display());
    }
}

/// The sizes that the README states, with metadata. The library tests the sizes of the tensors.
#[test]
fn the_text_says_what_each_form_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (status, out, _) = run(dir.path(), ROBERTA_BASE, "--targets query,value");
    assert_eq!(status, 0);
    for part in [
        "roberta: VB-LoRA h = 90, b = 256, r = 4, k = 2 on 24 sites",
        "attention.self.query    768 -> 768    x 12  (layers 0-11)",
        "S = 576 sub-vectors",
        "peft-full               299,520 bytes",
        "peft-topk                95,616 bytes",
        "compact-8bits ",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
}

#[test]
fn settings_are_found_for_a_size() {
    for (form, most) in [
        ("compact-8bits", 30_000_u64),
        ("peft-topk", 100_000),
        ("codes-f16", 10_000),
    ] {
        let arguments = format!("--targets query,value --at-most {most} --form {form}");
        let report = plan(ROBERTA_BASE, &arguments);
        let fits = report["fits"].as_array().unwrap();
        assert!((2..=10).contains(&fits.len()), "{form}: {fits:?}");
        let number = |fit: &Value, key: &str| fit[key].as_u64().unwrap();
        for pair in fits.windows(2) {
            assert!(number(&pair[0], "trained") >= number(&pair[1], "trained"));
        }
        for fit in fits {
            let settings = |more: u64| {
                let [r, h, b, k] =
                    ["rank", "bank", "vector_length", "topk"].map(|key| number(fit, key));
                let bank = h + more;
                let arguments = format!(
                    "--targets query,value --rank {r} --bank {bank} --vector-length {b} --topk {k}"
                );
                plan(ROBERTA_BASE, &arguments)
            };
            // The plan has the promised size, and one more vector would not fit.
            let found = settings(0);
            assert_eq!(found["bytes"][form], fit["bytes"]);
            assert_eq!(found["count"]["trained"], fit["trained"]);
            assert!(number(fit, "bytes") <= most);
            if number(fit, "bank") < 1 << 16 {
                let larger = settings(1)["bytes"][form].as_u64().unwrap();
                assert!(larger > most, "{fit}");
            }
        }
    }
    // Pinned settings stay.
    let pinned = "--targets query,value --at-most 30kB --rank 4 --vector-length 256 --topk 2";
    let report = plan(ROBERTA_BASE, pinned);
    let fits = report["fits"].as_array().unwrap();
    assert_eq!(fits.len(), 1);
    assert_eq!(
        (&fits[0]["rank"], &fits[0]["vector_length"]),
        (&4.into(), &256.into())
    );
    assert!(fits[0]["bank"].as_u64().unwrap() > 90, "{fits:?}");
    let dir = tempfile::tempdir().unwrap();
    let (_, out, _) = run(
        dir.path(),
        ROBERTA_BASE,
        "--targets query,value --at-most 30kB",
    );
    assert!(
        out.contains("at most 30,000 bytes") && out.lines().count() >= 5,
        "{out}"
    );
}

#[test]
fn what_cannot_be_planned_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let other = ROBERTA_BASE.replace("roberta", "t5");
    let without = ROBERTA_BASE.replace("\"hidden_size\": 768, ", "");
    let huge = ROBERTA_BASE.replace("768", "99999999999");
    for (config, arguments, status, reason) in [
        (
            &*other,
            "",
            1,
            "model_type \"t5\" is not supported; supported are roberta, bert, xlm-roberta",
        ),
        ("{}", "", 1, "field \"model_type\": missing"),
        ("{", "", 1, "config.json"),
        (&*without, "", 1, "field \"hidden_size\": missing"),
        (&*huge, "", 1, "field \"hidden_size\": expected 1 to"),
        (ROBERTA_BASE, "--targets q_proj", 1, "attention.self.query"),
        (ROBERTA_BASE, "--vector-length 512", 1, "256, 384, 768"),
        (ROBERTA_BASE, "--topk 91", 1, "topk"),
        (ROBERTA_BASE, "--bank 0", 2, "--bank"),
        (ROBERTA_BASE, "--at-most 30kb", 2, "30kb"),
        (
            ROBERTA_BASE,
            "--at-most 100",
            1,
            "no settings fit into 100 bytes",
        ),
        (
            ROBERTA_BASE,
            "--at-most 1MB --form nonsense",
            2,
            "codes-8bits",
        ),
        (ROBERTA_BASE, "--form codes", 2, "--at-most"),
    ] {
        let (found, _, error) = run(dir.path(), config, arguments);
        assert_eq!(found, status, "{arguments}: {error}");
        assert!(error.contains(reason), "{arguments}: {error}");
        assert!(
            status == 2 || error.trim_end().lines().count() == 1,
            "{error}"
        );
    }
}

/// The names that `vblora train` uses.
#[test]
fn targets_and_models_are_named_as_in_training() {
    for (config, qv, all) in [
        (ROBERTA_BASE, 24, 72),
        (MISTRAL_7B, 64, 224),
        (GPT2_M, 24, 96),
    ] {
        for (targets, count) in [("qv", qv), ("all", all), ("all-linear", all)] {
            let report = plan(config, &format!("--targets {targets}"));
            let sites = report["sites"].as_array().unwrap();
            assert_eq!(sites.len(), count, "{config} {targets}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    for path in ["model/config.json", "other.json"] {
        std::fs::write(dir.path().join(path), ROBERTA_BASE).unwrap();
    }
    for model in [
        "model",
        "--model model",
        "other.json",
        "--model ./other.json",
        "bundled:roberta --vector-length 64",
    ] {
        let (status, out, error) = vblora(dir.path(), &format!("plan {model} --targets qv"));
        assert_eq!(status, 0, "{error}");
        assert!(out.starts_with("roberta: VB-LoRA "), "{out}");
    }
    for (model, status, reason) in [
        ("", 2, "DIR|HUB_ID|FILE"),
        ("model --model model", 2, "--model"),
        ("./absent", 1, "no such directory: ./absent"),
    ] {
        let (found, _, error) = vblora(dir.path(), &format!("plan {model}"));
        assert_eq!(found, status, "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

/// 256 does not divide the widths of every model; the greatest length below it that does is taken.
#[test]
fn a_model_of_any_width_has_a_plan_without_flags() {
    let minilm = ROBERTA_BASE.replace("768", "384").replace("3072", "1536");
    for (config, length) in [(ROBERTA_BASE, 256), (&minilm, 192)] {
        assert_eq!(plan(config, "")["settings"]["vector_length"], length);
    }
    let dir = tempfile::tempdir().unwrap();
    let (status, _, error) = run(dir.path(), &minilm, "--vector-length 256");
    assert_eq!(status, 1, "{error}");
    assert!(error.contains("b = 256 does not divide"), "{error}");
}

/// Whether a DeBERTa's pooler is a site depends on its checkpoint.
#[test]
fn a_plan_says_which_map_only_some_checkpoints_have() {
    let deberta = r#"{"model_type": "deberta-v2", "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 40,
        "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100, "position_buckets": 8, "pos_att_type": "c2p|p2c",
        "norm_rel_ebd": "layer_norm", "relative_attention": true, "share_att_key": true, "position_biased_input": false}"#;
    let dir = tempfile::tempdir().unwrap();
    let (status, out, error) = run(dir.path(), deberta, "");
    assert_eq!(status, 0, "{error}");
    let note = "pooler.dense is trained with the head; in a checkpoint that holds it";
    assert!(out.contains(note), "{out}");
    assert_eq!(
        plan(deberta, "")["sites"].as_array().unwrap().len(),
        2 * 6,
        "JSON has no note"
    );
}
