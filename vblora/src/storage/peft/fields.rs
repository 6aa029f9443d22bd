//! The fields of `adapter_config.json`: the values that each may have, and those that this library refuses.
//!
//! The lists hold every field of PEFT 0.21's configurations. A field of no list must be empty: what it would change is unknown.

use serde_json::{Map, Value};

/// The fields by name.
pub(super) type Fields = Map<String, Value>;

/// A message shows at most this much of a value's text.
const SHOWN: usize = 100;

/// The meaning of a field for an adapter that is stored already.
#[derive(Clone, Copy)]
enum Use {
    /// A field that `config.rs` or `rules.rs` applies or compares with the tensors.
    Read,
    /// It changes nothing, whatever its value: it is about training, starting values or provenance.
    Harmless,
    /// It changes nothing while it is null, false or empty.
    Off,
    /// It changes nothing while it is null. PEFT takes `{}` for the settings' defaults, not for none.
    Null,
}

/// Fields of all methods.
const COMMON: &[(&str, Use)] = &[
    ("auto_mapping", Use::Harmless),
    ("base_model_name_or_path", Use::Read),
    ("bias", Use::Read),
    ("fan_in_fan_out", Use::Read),
    ("inference_mode", Use::Harmless),
    ("layers_pattern", Use::Read),
    ("layers_to_transform", Use::Read),
    ("modules_to_save", Use::Read),
    ("peft_type", Use::Read),
    ("peft_version", Use::Harmless),
    ("r", Use::Read),
    ("revision", Use::Harmless),
    // PEFT leaves it out when it writes and ignores it when it reads.
    ("runtime_config", Use::Harmless),
    ("target_modules", Use::Read),
    ("task_type", Use::Read),
];

const LORA: &[(&str, Use)] = &[
    ("alora_invocation_tokens", Use::Off),
    ("alpha_pattern", Use::Read),
    ("arrow_config", Use::Null),
    // Settings of initialisation methods. They count only if init_lora_weights names the method; `initialisation` refuses those that
    // matter.
    ("corda_config", Use::Harmless),
    // The tied module's tensors are in the file too.
    ("ensure_weight_tying", Use::Harmless),
    ("eva_config", Use::Harmless),
    ("exclude_modules", Use::Read),
    ("init_lora_weights", Use::Read),
    ("kasa_config", Use::Null),
    ("layer_replication", Use::Off),
    ("loftq_config", Use::Harmless),
    ("lora_alpha", Use::Read),
    ("lora_bias", Use::Off),
    ("lora_dropout", Use::Read),
    ("lora_ga_config", Use::Harmless),
    ("megatron_config", Use::Off),
    // The name of a package, without effect unless megatron_config is set.
    ("megatron_core", Use::Harmless),
    ("monteclora_config", Use::Null),
    // Without effect unless use_qalora is set.
    ("qalora_group_size", Use::Harmless),
    ("rank_pattern", Use::Read),
    ("target_parameters", Use::Off),
    ("trainable_token_indices", Use::Off),
    ("use_bdlora", Use::Null),
    ("use_dora", Use::Off),
    ("use_qalora", Use::Off),
    ("use_rslora", Use::Read),
    ("velora_config", Use::Null),
];

const VBLORA: &[(&str, Use)] = &[
    ("exclude_modules", Use::Read),
    ("init_logits_std", Use::Read),
    ("init_vector_bank_bound", Use::Read),
    ("num_vectors", Use::Read),
    // The tensors show it.
    ("save_only_topk_weights", Use::Harmless),
    ("topk", Use::Read),
    ("vblora_dropout", Use::Harmless),
    ("vector_length", Use::Read),
];

const VERA: &[(&str, Use)] = &[
    ("d_initial", Use::Read),
    ("init_weights", Use::Harmless),
    ("projection_prng_key", Use::Read),
    // The tensors show it.
    ("save_projection", Use::Harmless),
    ("vera_dropout", Use::Harmless),
];

/// Refuses a field of this method that would change the result and is not read, or that PEFT does not have. The error names the field.
pub(super) fn check(method: &str, fields: &Fields) -> Result<(), String> {
    let own = match method {
        "LORA" => LORA,
        "VBLORA" => VBLORA,
        _ => VERA,
    };
    for (key, value) in fields {
        let mut known = COMMON.iter().chain(own);
        let meant = known.find(|(name, _)| name == key).map(|(_, meant)| *meant);
        let is_off = match meant {
            Some(Use::Read | Use::Harmless) => true,
            Some(Use::Off) | None => is_empty(value),
            Some(Use::Null) => matches!(value, Value::Null | Value::Bool(false)),
        };
        if !is_off {
            let shown = shown(value);
            return Err(match meant {
                None => format!(
                    "{key:?} is {shown}, and {method} has no such field in PEFT 0.21: what it changes is unknown"
                ),
                Some(_) => {
                    format!(
                        "{key}: expected null or false, found {shown}, which this library does not support"
                    )
                }
            });
        }
    }
    bias(fields)?;
    match method {
        "LORA" => initialisation(fields),
        _ => Ok(()),
    }
}

fn bias(fields: &Fields) -> Result<(), String> {
    match fields.get("bias") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) if text == "none" => Ok(()),
        Some(other) => Err(format!(
            "bias: expected \"none\", found {}: trained biases are not read",
            shown(other)
        )),
    }
}

/// Some initialisations of LoRA subtract its first value from the base's weights. PEFT does so again when it loads the adapter. The update
/// then belongs to another base than the one on the disk.
fn initialisation(fields: &Fields) -> Result<(), String> {
    let text = match fields.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => return Ok(()),
        Some(Value::String(text)) => text.as_str(),
        Some(other) => {
            return Err(format!(
                "init_lora_weights: expected true, false or a text, found {}",
                shown(other)
            ));
        }
    };
    match text.to_lowercase().as_str() {
        "" | "eva" | "gaussian" | "mica" | "orthogonal" => Ok(()),
        "corda" | "loftq" | "lora_ga" | "olora" | "pissa" => Err(changes_base(text)),
        other if other.starts_with("pissa_niter_") => Err(changes_base(text)),
        _ => Err(format!(
            "init_lora_weights: expected true, false, eva, gaussian, mica or orthogonal, found {:?}",
            shown_text(text)
        )),
    }
}

fn changes_base(name: &str) -> String {
    format!(
        "init_lora_weights is {:?}, which changes the weights of the base; this library leaves them as they are. Save the adapter with \
         PEFT's save_pretrained(.., path_initial_model_for_weight_conversion=..), which makes it plain LoRA, or merge it with PEFT",
        shown_text(name)
    )
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The text of a value for a message, cut if it is long.
pub(super) fn shown(value: &Value) -> String {
    shown_text(&value.to_string())
}

pub(super) fn shown_text(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// A whole number of at least one, or PEFT's default if the field is absent.
pub(super) fn size(fields: &Fields, key: &str, default: usize) -> Result<usize, String> {
    let Some(value) = fields.get(key) else {
        return Ok(default);
    };
    size_of(value).ok_or_else(|| {
        format!(
            "{key}: expected a whole number from 1, found {}",
            shown(value)
        )
    })
}

/// The value as a whole number of at least one.
pub(super) fn size_of(value: &Value) -> Option<usize> {
    let number = usize::try_from(value.as_u64()?).ok()?;
    (number > 0).then_some(number)
}

/// A number, or PEFT's default if the field is absent.
pub(super) fn real(fields: &Fields, key: &str, default: f64) -> Result<f64, String> {
    match fields.get(key) {
        None => Ok(default),
        Some(value) => real_of(value)
            .map_err(|expected| format!("{key}: expected {expected}, found {}", shown(value))),
    }
}

/// The value as a number that f32 has, or what was expected.
pub(super) fn real_of(value: &Value) -> Result<f64, &'static str> {
    let number = value.as_f64().ok_or("a number")?;
    match (number as f32).is_finite() {
        true => Ok(number),
        false => Err("a number of at most 3.4e38"),
    }
}

/// True or false; null and an absent field are false.
pub(super) fn flag(fields: &Fields, key: &str) -> Result<bool, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!(
            "{key}: expected true or false, found {}",
            shown(other)
        )),
    }
}

/// A text, if there is one.
pub(super) fn text(fields: &Fields, key: &str) -> Result<Option<String>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("{key}: expected a text, found {}", shown(other))),
    }
}

/// A list of texts, if there is one. PEFT would read a single text as the list of its letters.
pub(super) fn texts(fields: &Fields, key: &str) -> Result<Option<Vec<String>>, String> {
    let list = match fields.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(format!(
                "{key}: expected a list of texts, found {}",
                shown(other)
            ));
        }
    };
    let text = |item: &Value| {
        let text = item.as_str().map(str::to_owned);
        text.ok_or_else(|| format!("{key}: expected texts, found {}", shown(item)))
    };
    list.iter().map(text).collect::<Result<_, _>>().map(Some)
}
