//! Published models: their configurations are read, have as many parameters as published, and can be adapted.
//!
//! `published.json` holds facts of each model: the numbers of its `config.json` and its number of parameters. No file of a model is copied:
//! the divisors of Phi's longrope are as many as there, but ones.

use serde_json::Value;
use vblora::{SitePlan, Targets};
use vblora_models::{DecoderConfig, EncoderConfig, decoder, encoder};

const MODELS: &str = include_str!("published.json");

/// The parameters of the model, of an encoder without a head, and the plan of an adapter on every linear map.
fn read(name: &str, config: &Value) -> (usize, SitePlan) {
    let json = serde_json::to_vec(config).unwrap();
    let (parameters, sites) = match EncoderConfig::from_json(&json, name) {
        Ok(config) => (config.parameters(), encoder::sites(&config)),
        Err(_) => {
            let config = DecoderConfig::from_json(&json, name).unwrap();
            (config.parameters(), decoder::sites(&config))
        }
    };
    (parameters, Targets::all_linear().select(&sites).unwrap())
}

#[test]
fn every_published_model_has_its_parameters_and_a_plan() {
    let models: Vec<Value> = serde_json::from_str(MODELS).unwrap();
    assert!(models.len() > 30);
    for model in models {
        let name = model["name"].as_str().unwrap();
        let (parameters, plan) = read(name, &model["config"]);
        let published = model["parameters"].as_u64().unwrap();
        assert_eq!(parameters as u64, published, "{name}");
        assert!(
            plan.valid_vector_lengths().last() >= Some(&64),
            "{name}: {:?}",
            plan.valid_vector_lengths()
        );
    }
}

#[test]
fn presets_of_encoders_are_the_published_configurations() {
    let models: Vec<Value> = serde_json::from_str(MODELS).unwrap();
    for (name, preset) in [
        ("FacebookAI/roberta-base", EncoderConfig::roberta_base()),
        ("FacebookAI/roberta-large", EncoderConfig::roberta_large()),
        (
            "answerdotai/ModernBERT-base",
            EncoderConfig::modernbert_base(),
        ),
        (
            "microsoft/deberta-v3-base",
            EncoderConfig::deberta_v3_base(),
        ),
    ] {
        let published = models.iter().find(|model| model["name"] == name).unwrap();
        let json = serde_json::to_vec(&published["config"]).unwrap();
        let published = EncoderConfig::from_json(&json, name).unwrap();
        assert_eq!(preset, published, "{name}");
    }
}
