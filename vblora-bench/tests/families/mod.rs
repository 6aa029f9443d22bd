//! Every family of encoders through the program: planned, trained, saved for PEFT, predicted with and merged.

use std::path::Path;

use burn::backend::Flex;
use safetensors::SafeTensors;
use serde_json::Value;
use vblora::Factors;
use vblora_bench::demo;
use vblora_models::{
    Activation, BaseDtype, Encoder, EncoderConfig, EncoderInput, EncoderPositions, Family,
    HeadActivation, LayerSet, ModelFiles, Nf4Settings, PaddedBatch, Pooling, RelativeBuckets,
    RotaryLayers, encoder, host_tensor, quantize, save_model,
};

use super::{apart, data, fail, succeed};

/// A small model of a family for the bundled tokenizer.
fn config(family: Family) -> EncoderConfig {
    let bundled = EncoderConfig::from_files(&demo::model_files()).unwrap();
    let config = EncoderConfig {
        family,
        hidden_size: 32,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: 48,
        initializer_range: 0.2,
        position_offset: family.position_offset(bundled.pad_token_id),
        ..bundled
    };
    let gelu = HeadActivation::Of(Activation::Gelu);
    match family {
        Family::Roberta | Family::Bert | Family::XlmRoberta => config,
        Family::DistilBert => EncoderConfig {
            type_vocab_size: 0,
            head_activation: HeadActivation::Of(Activation::Relu),
            layer_norm_eps: 1e-12,
            ..config
        },
        Family::Electra => EncoderConfig {
            embedding_size: Some(16),
            head_activation: gelu,
            ..config
        },
        Family::ModernBert => EncoderConfig {
            type_vocab_size: 0,
            positions: EncoderPositions::Rotary(RotaryLayers {
                theta: 1000.0,
                local_theta: 100.0,
                reach: 2,
                local: LayerSet::Listed(vec![false, true]),
            }),
            attention_bias: false,
            mlp_bias: false,
            norm_bias: false,
            pooling: Pooling::Mean,
            head_activation: gelu,
            head_bias: false,
            head_in_base: true,
            ..config
        },
        Family::DebertaV2 => EncoderConfig {
            type_vocab_size: 0,
            positions: EncoderPositions::Relative(RelativeBuckets {
                buckets: 8,
                reach: config.max_positions,
            }),
            head_activation: gelu,
            ..config
        },
    }
}

/// Writes a random model, under the names of a classifier's checkpoint.
fn write(dir: &Path, name: &str, config: EncoderConfig) {
    let files = demo::model_files();
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    let prefix = config.classifier().prefix;
    let model = Encoder::<Flex>::random(config, 5, &Default::default()).unwrap();
    let tensors = model.tensors().into_iter();
    let tensors: Vec<_> = tensors
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect();
    let settings = json.as_object().unwrap().clone();
    std::fs::create_dir(dir.join(name)).unwrap();
    save_model(&dir.join(name), &files, settings, &tensors).unwrap();
    std::fs::write(dir.join(name).join("config.json"), json.to_string()).unwrap();
}

fn names(file: &Path) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.names().into_iter().map(Into::into).collect()
}

/// Trains a head with VB-LoRA on `model` and merges it; returns `modules_to_save`.
fn through(dir: &Path, model: &str, targets: &str, sites: usize, class: &str) -> Value {
    let plan = succeed(
        dir,
        &format!("plan {model} --targets {targets} --vector-length 16"),
        "",
    );
    assert!(plan.contains(&format!("{sites} ")), "{model}: {plan}");
    let run = format!("{model}-{targets}");
    let line = format!(
        "train --model {model} --data train.csv --dev dev.csv --text review --label stars --method vblora --targets {targets} --rank 2 \
         --vector-length 16 --bank 12 --seeds 1 --epochs 1 --out {run} --quiet"
    );
    succeed(dir, &line, "");
    let adapter = format!("{run}/vblora-seed1");
    let settings = std::fs::read(dir.join(&adapter).join("adapter_config.json")).unwrap();
    let settings: Value = serde_json::from_slice(&settings).unwrap();
    assert_eq!(settings["target_modules"].as_array().unwrap().len(), sites);
    let line = format!("predict --model {model} --adapter {adapter} --data dev.csv");
    let expected = succeed(dir, &line, "");
    assert_eq!(expected.lines().count(), 41);
    let said = succeed(
        dir,
        &format!("merge {model} {adapter} merged --overwrite"),
        "",
    );
    assert!(said.contains(class), "{said}");
    let found = succeed(dir, "predict --model merged --data dev.csv", "");
    assert!(apart(&found, &expected) < 1e-5, "{run}");
    settings["modules_to_save"].clone()
}

#[test]
fn every_family_is_trained_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    data(dir);
    for (family, qv, all) in [
        (Family::XlmRoberta, 4, 12),
        (Family::DistilBert, 4, 12),
        (Family::Electra, 4, 13),
        (Family::ModernBert, 2, 9),
        (Family::DebertaV2, 4, 12),
    ] {
        let (model, config) = (family.name(), config(family));
        let names = config.classifier();
        write(dir, model, config);
        for (targets, sites) in [("qv", qv), ("all", all)] {
            let saved = through(dir, model, targets, sites, names.class);
            assert_eq!(saved, serde_json::json!(names.modules), "{model}");
        }
    }
}

/// A checkpoint of DeBERTa with the head's first map keeps it as it is. One without it trains and saves it.
#[test]
fn a_head_map_of_the_base_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    data(dir);
    let pooled = EncoderConfig {
        head_in_base: true,
        ..config(Family::DebertaV2)
    };
    write(dir, "pooled", pooled);
    write(dir, "bare", config(Family::DebertaV2));
    let class = "DebertaV2ForSequenceClassification";
    assert_eq!(
        through(dir, "pooled", "all", 13, class),
        serde_json::json!(["classifier"])
    );
    let file = "pooled-all/vblora-seed1/adapter_model.safetensors";
    let found = names(&dir.join(file));
    assert!(
        found.contains(&"base_model.model.pooler.dense.vblora_logits_A_topk_indices".to_owned()),
        "{found:?}"
    );
    assert!(!found.contains(&"base_model.model.pooler.dense.weight".to_owned()));
    // An adapter on the map has no place in a base without it, nor has a head without its map.
    let line = "predict --model bare --adapter pooled-all/vblora-seed1 --data dev.csv";
    fail(dir, line, &["pooler.dense"]);
    through(dir, "bare", "qv", 4, class);
    let line = "predict --model pooled --adapter bare-qv/vblora-seed1 --data dev.csv";
    let own = succeed(dir, &line.replace("pooled", "bare"), "");
    // The adapter's own map takes the place of the base's.
    assert!(apart(&succeed(dir, line, ""), &own) < 1e-5);
}

/// What a head reads of two texts.
fn read_by_head(files: &ModelFiles, dtype: Option<BaseDtype>) -> Vec<f32> {
    let mut config = EncoderConfig::from_files(files).unwrap();
    config.base_dtype = dtype.unwrap_or(config.base_dtype);
    let device = Default::default();
    let (model, _) = Encoder::<Flex>::load_with(config, files, &device).unwrap();
    let batch = PaddedBatch {
        ids: vec![0, 5, 9, 4, 7, 2],
        type_ids: vec![0; 6],
        mask: vec![1; 6],
        rows: 2,
        columns: 3,
    };
    let input = EncoderInput::new(&batch, model.config(), &device);
    host_tensor(model.for_head(&input, &Factors::none())).values
}

/// A family's model whose maps beside the blocks are all there.
fn whole(family: Family) -> EncoderConfig {
    let config = config(family);
    EncoderConfig {
        head_in_base: config.head_in_base || family == Family::DebertaV2,
        ..config
    }
}

/// Loading what `vblora quantize` wrote gives the model that is quantised while it is loaded.
#[test]
fn both_ways_to_4_bits_give_one_model() {
    let dir = tempfile::tempdir().unwrap();
    for family in Family::ALL {
        write(dir.path(), family.name(), whole(family));
        let files = ModelFiles::open(&dir.path().join(family.name())).unwrap();
        let written = dir.path().join(format!("{}-nf4", family.name()));
        quantize(&files, &written, true, &[]).unwrap();
        let found = read_by_head(&ModelFiles::open(&written).unwrap(), None);
        let loading = BaseDtype::Nf4(Nf4Settings::default());
        assert_eq!(found, read_by_head(&files, Some(loading)), "{family:?}");
        assert_ne!(found, read_by_head(&files, None), "{family:?}");
    }
}

/// The maps that transformers leaves dense by these names: modules whose name they begin or end, as `should_convert_module` compares.
fn is_skipped(map: &str, names: &[String]) -> bool {
    let mut names = names.iter();
    names.any(|name| map.ends_with(name.as_str()) || map.starts_with(&format!("{name}.")))
}

/// transformers leaves dense what is dense in the file, and nothing else: in a classifier, and in the model inside.
#[test]
fn transformers_finds_the_maps_that_stay_dense() {
    let dir = tempfile::tempdir().unwrap();
    for family in Family::ALL {
        let config = whole(family);
        let sites = encoder::sites(&config);
        let prefix = match config.classifier().prefix {
            "" if family == Family::ModernBert => "model.",
            "" => "deberta.",
            prefix => prefix,
        };
        write(dir.path(), family.name(), config);
        let files = ModelFiles::open(&dir.path().join(family.name())).unwrap();
        let written = dir.path().join(format!("{}-nf4", family.name()));
        let is_of_block = |name: &str| name.contains("layer");
        let of_blocks: Vec<_> = sites.into_iter().map(|site| site.name).collect();
        let (of_blocks, others): (Vec<_>, Vec<_>) =
            of_blocks.into_iter().partition(|name| is_of_block(name));
        quantize(&files, &written, true, &of_blocks[..1]).unwrap();
        let settings = std::fs::read(written.join("config.json")).unwrap();
        let settings: Value = serde_json::from_slice(&settings).unwrap();
        let skipped = settings["quantization_config"]["llm_int8_skip_modules"].clone();
        let skipped: Vec<String> = serde_json::from_value(skipped).unwrap();
        for (i, name) in of_blocks.iter().enumerate() {
            let bare = name.strip_prefix(prefix).unwrap_or(name);
            for map in [bare.to_owned(), format!("{prefix}{bare}")] {
                assert_eq!(is_skipped(&map, &skipped), i == 0, "{map}: {skipped:?}");
            }
        }
        let heads = match family {
            Family::Roberta | Family::XlmRoberta | Family::Electra => {
                vec!["classifier.dense", "classifier.out_proj"]
            }
            Family::Bert => vec!["classifier"],
            Family::DistilBert => vec!["pre_classifier", "classifier"],
            Family::ModernBert | Family::DebertaV2 => vec!["classifier"],
        };
        let pooler = match family {
            Family::Roberta | Family::XlmRoberta | Family::Bert => {
                vec!["pooler.dense".to_owned(), format!("{prefix}pooler.dense")]
            }
            _ => Vec::new(),
        };
        let beside = others
            .iter()
            .flat_map(|name| [name.clone(), format!("{prefix}{name}")]);
        let heads = heads.into_iter().map(str::to_owned);
        for map in beside.chain(heads).chain(pooler) {
            assert!(is_skipped(&map, &skipped), "{map}: {skipped:?}");
        }
        let has_project = skipped.iter().any(|name| name == "embeddings_project");
        assert_eq!(has_project, family == Family::Electra, "{skipped:?}");
    }
}
