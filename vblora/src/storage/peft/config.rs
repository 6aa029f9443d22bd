//! `adapter_config.json`.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    CONFIG, PeftAdapter,
    fields::{self, Fields, flag, real, size, texts},
    rules::{Order, Patterns, Rules},
};
use crate::{
    Error, LoraConfig, Result, VbLoraConfig, VeraConfig,
    adapter::MethodConfig,
    storage::{
        HostAdapter,
        files::{MAX_CONFIG_BYTES, read_file},
        strict_json,
    },
};

/// The version of PEFT whose layout is written.
const PEFT_VERSION: &str = "0.21.2";

/// The methods that are read and written, with their settings.
#[derive(Debug, Clone, PartialEq)]
pub enum PeftMethod {
    /// VB-LoRA.
    VbLora(VbLoraConfig),
    /// LoRA. `rank_pattern` and `alpha_pattern` may give some modules another rank or alpha: see [`PeftDirectory::patterned`].
    ///
    /// [`PeftDirectory::patterned`]: super::PeftDirectory::patterned
    Lora(LoraConfig),
    /// VeRA.
    Vera(VeraConfig),
}

/// The fields of `adapter_config.json` that change the adapter's results.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// The method and its settings. `vblora_dropout` and `vera_dropout` concern PEFT's training alone and are not read.
    pub method: PeftMethod,
    pub(super) modules_to_save: Vec<String>,
    pub(super) task_type: Option<String>,
    pub(super) base_model: Option<String>,
    pub(super) fan_in_fan_out: bool,
    pub(super) rules: Rules,
    pub(super) patterns: Patterns,
}

impl PeftConfig {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = read_file(&path, MAX_CONFIG_BYTES).map_err(Error::io(&path))?;
        Self::parse(&text).map_err(|reason| Error::Format { path, reason })
    }

    /// Returns whether PEFT puts the adapter on the module of this name. The rules are `target_modules`, `exclude_modules`,
    /// `modules_to_save`, `layers_to_transform` and `layers_pattern`. Returns `None` if PEFT chooses by the model's class, or if a pattern
    /// takes too many steps.
    pub fn picks(&self, module: &str) -> Option<bool> {
        self.rules.compile().ok().flatten()?.picks(module).ok()
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let fields: Fields = strict_json::from_slice(text)?;
        let method = match fields::text(&fields, "peft_type")?.as_deref() {
            Some(method @ ("VBLORA" | "LORA" | "VERA")) => method.to_owned(),
            other => {
                return Err(format!(
                    "peft_type: expected VBLORA, LORA or VERA, found {}",
                    other.unwrap_or("none")
                ));
            }
        };
        fields::check(&method, &fields)?;
        let is_lora = method == "LORA";
        let rules = Rules::of(&fields, is_lora)?;
        rules.compile()?;
        let order = match is_lora {
            true => Order::of(text),
            false => Order::default(),
        };
        Ok(Self {
            method: match method.as_str() {
                "VBLORA" => PeftMethod::VbLora(vblora(&fields)?),
                "LORA" => PeftMethod::Lora(lora(&fields)?),
                _ => PeftMethod::Vera(vera(&fields)?),
            },
            modules_to_save: texts(&fields, "modules_to_save")?.unwrap_or_default(),
            task_type: fields::text(&fields, "task_type")?,
            base_model: fields::text(&fields, "base_model_name_or_path")?,
            fan_in_fan_out: flag(&fields, "fan_in_fan_out")?,
            rules,
            patterns: Patterns::of(&fields, order)?,
        })
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
    // PEFT writes a whole number for alpha, but accepts others too.
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

/// Settings that can work; the error has PEFT's name of the one that cannot.
fn checked<C: MethodConfig>(config: C, names: &[(&str, &str)]) -> Result<C, String> {
    match config.check_values() {
        Ok(()) => Ok(config),
        Err(Error::Setting {
            setting,
            expected,
            found,
        }) => {
            let theirs = names.iter().find(|(own, _)| *own == setting);
            let name = theirs.map_or(setting, |(_, theirs)| theirs);
            Err(format!("{name}: expected {expected}, found {found}"))
        }
        Err(other) => Err(other.to_string()),
    }
}

fn vblora(fields: &Fields) -> Result<VbLoraConfig, String> {
    let default = VbLoraConfig::default();
    let config = VbLoraConfig {
        bank: size(fields, "num_vectors", 256)?,
        vector_length: size(fields, "vector_length", 256)?,
        rank: size(fields, "r", 4)?,
        topk: size(fields, "topk", 2)?,
        bank_bound: real(fields, "init_vector_bank_bound", default.bank_bound)?,
        logits_std: real(fields, "init_logits_std", default.logits_std)?,
        ..default
    };
    let names = [
        ("bank", "num_vectors"),
        ("rank", "r"),
        ("bank_bound", "init_vector_bank_bound"),
        ("logits_std", "init_logits_std"),
    ];
    checked(config, &names)
}

fn lora(fields: &Fields) -> Result<LoraConfig, String> {
    let config = LoraConfig {
        rank: size(fields, "r", 8)?,
        alpha: real(fields, "lora_alpha", 8.0)?,
        dropout: real(fields, "lora_dropout", 0.0)?,
        rslora: flag(fields, "use_rslora")?,
    };
    let names = [
        ("rank", "r"),
        ("alpha", "lora_alpha"),
        ("dropout", "lora_dropout"),
    ];
    checked(config, &names)
}

fn vera(fields: &Fields) -> Result<VeraConfig, String> {
    let default = VeraConfig::default();
    let config = VeraConfig {
        rank: size(fields, "r", 256)?,
        d_init: real(fields, "d_initial", default.d_init)?,
        projection_seed: seed(fields)?,
    };
    checked(config, &[("rank", "r"), ("d_init", "d_initial")])
}

/// The seed of the random matrices. The directory holds the matrices, because torch alone could draw them again. Torch counts a negative
/// seed from the end.
fn seed(fields: &Fields) -> Result<u64, String> {
    let Some(value) = fields.get("projection_prng_key") else {
        return Ok(0);
    };
    let negative = || Some(u64::MAX - value.as_i64()?.unsigned_abs());
    value.as_u64().or_else(negative).ok_or_else(|| {
        format!(
            "projection_prng_key: expected a whole number, found {}",
            fields::shown(value)
        )
    })
}
