//! `adapter_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{CONFIG, PeftAdapter};
use crate::{
    Error, LoraConfig, Result, Site, Targets, VbLoraConfig, VeraConfig,
    storage::{
        HostAdapter,
        files::{MAX_CONFIG_BYTES, read_file},
        strict_json,
    },
};

/// The version of PEFT whose layout is written.
const PEFT_VERSION: &str = "0.21.2";

/// Settings that change what an adapter computes and that this library does not have; they must be null, false, empty or `none`.
const UNSUPPORTED: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "bias",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// The methods that are read and written, with their settings.
#[derive(Debug, Clone, PartialEq)]
pub enum PeftMethod {
    /// VB-LoRA.
    VbLora(VbLoraConfig),
    /// LoRA.
    Lora(LoraConfig),
    /// VeRA.
    Vera(VeraConfig),
}

/// What `adapter_config.json` says, as far as it changes what the adapter computes.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// The method and its settings. `vblora_dropout` and `vera_dropout`, of PEFT's training alone, are not taken over.
    pub method: PeftMethod,
    pub(super) modules_to_save: Vec<String>,
    pub(super) task_type: Option<String>,
    pub(super) base_model: Option<String>,
    pub(super) fan_in_fan_out: bool,
    fields: Map<String, Value>,
}

impl PeftConfig {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let format = |reason: String| Error::Format {
            path: path.clone(),
            reason,
        };
        let text = read_file(&path, MAX_CONFIG_BYTES).map_err(|cause| Error::Io {
            path: path.clone(),
            cause,
        })?;
        let fields = strict_json::from_slice(&text).map_err(format)?;
        Self::from_fields(fields).map_err(format)
    }

    fn from_fields(fields: Map<String, Value>) -> Result<Self, String> {
        if let Some(key) = UNSUPPORTED
            .iter()
            .find(|key| !is_inactive(fields.get(**key)))
        {
            return Err(format!(
                "{key} is {}, which this library does not have",
                fields[*key]
            ));
        }
        let method = match text(&fields, "peft_type")?.as_deref() {
            Some("VBLORA") => PeftMethod::VbLora(vblora(&fields)?),
            Some("LORA") => PeftMethod::Lora(lora(&fields)?),
            Some("VERA") => PeftMethod::Vera(vera(&fields)?),
            other => {
                return Err(format!(
                    "peft_type: expected VBLORA, LORA or VERA, found {}",
                    other.unwrap_or("none")
                ));
            }
        };
        Ok(Self {
            method,
            modules_to_save: texts(&fields, "modules_to_save")?,
            task_type: text(&fields, "task_type")?,
            base_model: text(&fields, "base_model_name_or_path")?,
            fan_in_fan_out: fields.get("fan_in_fan_out") == Some(&Value::Bool(true)),
            fields,
        })
    }

    /// The sites, named as in the wrapped model, that PEFT's targeting rules pick; `None` for rules that this library cannot follow
    /// (Python's regular expressions know more).
    pub(super) fn targeted(&self, named: &[Site]) -> Option<Vec<Site>> {
        let rule = match self.fields.get("target_modules")? {
            Value::String(all) if all == "all-linear" => Targets::all_linear(),
            Value::String(pattern) => Targets::regex(pattern).ok()?,
            _ => Targets::suffixes(texts(&self.fields, "target_modules").ok()?),
        };
        let rule = rule.exclude(texts(&self.fields, "exclude_modules").ok()?);
        if !is_inactive(self.fields.get("layers_pattern")) {
            return None;
        }
        let layers = match self.fields.get("layers_to_transform") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(layers)) => layers.clone(),
            Some(layer) => vec![layer.clone()],
        };
        let layers = layers
            .iter()
            .map(|layer| layer.as_u64().map(|layer| layer as usize))
            .collect::<Option<Vec<_>>>()?;
        let rule = layers
            .into_iter()
            .fold(rule, |rule, layer| rule.layers(layer..=layer));
        Some(
            rule.select(named)
                .map_or(Vec::new(), |plan| plan.sites().to_vec()),
        )
    }
}

/// The configuration that PEFT would have written for this adapter, with every module named in full.
pub(super) fn to_json(adapter: &PeftAdapter) -> Value {
    let mut modules: Vec<_> = adapter.adapter.plan().sites().iter().collect();
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    let targets: Vec<_> = modules
        .iter()
        .map(|site| format!("{}{}", adapter.prefix, site.name))
        .collect();
    let saved = match adapter.modules_to_save.as_slice() {
        [] => Value::Null,
        names => json!(names),
    };
    let common = json!({
        "auto_mapping": null,
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": adapter.fan_in_fan_out,
        "inference_mode": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "modules_to_save": saved,
        "peft_version": PEFT_VERSION,
        "revision": null,
        "target_modules": targets,
        "task_type": adapter.task_type,
    });
    let own = match &adapter.adapter {
        HostAdapter::VbLora(adapter) => vblora_json(adapter.settings().config(), false),
        HostAdapter::TopK(adapter) => vblora_json(adapter.settings().config(), true),
        HostAdapter::Lora(adapter) => lora_json(adapter.settings().config()),
        HostAdapter::Vera(adapter) => vera_json(adapter.settings().config()),
    };
    let (Value::Object(mut fields), Value::Object(own)) = (common, own) else {
        unreachable!("both are written as objects just above")
    };
    fields.extend(own);
    Value::Object(fields)
}

fn vblora_json(config: &VbLoraConfig, topk_only: bool) -> Value {
    json!({
        "init_logits_std": config.logits_std,
        "init_vector_bank_bound": config.bank_bound,
        "num_vectors": config.bank,
        "peft_type": "VBLORA",
        "r": config.rank,
        "save_only_topk_weights": topk_only,
        "topk": config.topk,
        "vblora_dropout": 0.0,
        "vector_length": config.vector_length,
    })
}

fn lora_json(config: &LoraConfig) -> Value {
    // PEFT's alpha is a whole number, and it takes others too.
    let alpha = match config.alpha {
        whole if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
        other => json!(other),
    };
    json!({
        "alpha_pattern": {},
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_bias": false,
        "lora_dropout": config.dropout,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "use_dora": false,
        "use_rslora": config.rslora,
    })
}

fn vera_json(config: &VeraConfig) -> Value {
    json!({
        "d_initial": config.d_init,
        "init_weights": true,
        "peft_type": "VERA",
        "projection_prng_key": config.projection_seed,
        "r": config.rank,
        "save_projection": true,
        "vera_dropout": 0.0,
    })
}

fn vblora(fields: &Map<String, Value>) -> Result<VbLoraConfig, String> {
    let default = VbLoraConfig::default();
    Ok(VbLoraConfig {
        bank: whole(fields, "num_vectors")?,
        vector_length: whole(fields, "vector_length")?,
        rank: whole(fields, "r")?,
        topk: whole(fields, "topk")?,
        bank_bound: real(fields, "init_vector_bank_bound")?.unwrap_or(default.bank_bound),
        logits_std: real(fields, "init_logits_std")?.unwrap_or(default.logits_std),
        ..default
    })
}

fn lora(fields: &Map<String, Value>) -> Result<LoraConfig, String> {
    Ok(LoraConfig {
        rank: whole(fields, "r")?,
        alpha: real(fields, "lora_alpha")?.ok_or("no lora_alpha")?,
        dropout: real(fields, "lora_dropout")?.unwrap_or(0.0),
        rslora: fields.get("use_rslora") == Some(&Value::Bool(true)),
    })
}

fn vera(fields: &Map<String, Value>) -> Result<VeraConfig, String> {
    let default = VeraConfig::default();
    Ok(VeraConfig {
        rank: whole(fields, "r")?,
        d_init: real(fields, "d_initial")?.unwrap_or(default.d_init),
        // Of the random matrices as the directory holds them; torch alone could draw them again.
        projection_seed: fields
            .get("projection_prng_key")
            .and_then(Value::as_u64)
            .unwrap_or(default.projection_seed),
    })
}

fn is_inactive(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(text)) => text.is_empty() || text == "none",
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

fn whole(fields: &Map<String, Value>, key: &str) -> Result<usize, String> {
    let value = fields.get(key).ok_or_else(|| format!("no {key}"))?;
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| format!("{key}: expected a whole number, found {value}"))
}

fn real(fields: &Map<String, Value>, key: &str) -> Result<Option<f64>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| format!("{key}: expected a number, found {value}")),
    }
}

fn text(fields: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("{key}: expected a text, found {other}")),
    }
}

/// A list of texts; a single one counts as a list of one.
fn texts(fields: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    match fields.get(key) {
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| {
                let item_text = item.as_str().map(str::to_owned);
                item_text.ok_or_else(|| format!("{key}: expected texts, found {item}"))
            })
            .collect(),
        _ => Ok(text(fields, key)?.into_iter().collect()),
    }
}
