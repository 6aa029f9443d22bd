//! `quantization_config`: in which form a model's files hold their maps.

use super::{fields::Fields, wrong};
use crate::{BaseDtype, ComputeDtype, Result};

const FIELD: &str = "quantization_config";

/// The form of the files: floats, or bitsandbytes' 4 bits. The tensors say which of them are so.
pub(super) fn read(fields: &Fields<'_>) -> Result<BaseDtype> {
    let Some(settings) = fields.object(FIELD)? else {
        return Ok(BaseDtype::F32);
    };
    let has = |flag: &str| -> Result<bool> {
        Ok(settings.flag_or(flag, false)? || settings.flag_or(&format!("_{flag}"), false)?)
    };
    let method = settings.text_or_none("quant_method")?;
    let refused = |what: &str, way: &str| {
        let problem = format!("quantised weights of {what} are not read; {way}");
        Err(wrong(fields.file, FIELD, problem))
    };
    let dequantize = "load the model in transformers, call its dequantize() and save it";
    let convert =
        "convert them to bf16 (`amn remember` of anamnesis, or transformers' dequantize())";
    match method.as_deref() {
        Some("bitsandbytes") | None if has("load_in_4bit")? => {
            Ok(BaseDtype::Stored4Bit(ComputeDtype::default()))
        }
        Some("bitsandbytes") | None if has("load_in_8bit")? => {
            refused("LLM.int8() (load_in_8bit)", dequantize)
        }
        Some("bitsandbytes") => refused("bitsandbytes without load_in_4bit", dequantize),
        Some(method @ ("gptq" | "awq" | "gguf")) => refused(method, convert),
        Some(method) => refused(method, dequantize),
        None => refused("an unnamed method", "save the model in f32, f16 or bf16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: &str) -> Result<BaseDtype> {
        let text = format!("{{\"quantization_config\":{settings}}}");
        read(&Fields::parse(text.as_bytes(), "config.json")?)
    }

    #[test]
    fn four_bits_of_bitsandbytes_are_accepted() {
        for settings in [
            r#"{"quant_method":"bitsandbytes","load_in_4bit":true}"#,
            r#"{"quant_method":"bitsandbytes","_load_in_4bit":true,"load_in_8bit":false}"#,
            r#"{"load_in_4bit":true}"#,
        ] {
            let form = found(settings).unwrap();
            assert_eq!(form, BaseDtype::Stored4Bit(ComputeDtype::F32), "{settings}");
        }
        assert_eq!(found("null").unwrap(), BaseDtype::F32);
    }

    #[test]
    fn other_forms_are_refused_by_name_with_the_way_out() {
        for (settings, name, way) in [
            (
                r#"{"quant_method":"bitsandbytes","load_in_8bit":true}"#,
                "int8",
                "dequantize()",
            ),
            (
                r#"{"quant_method":"gptq","bits":4}"#,
                "gptq",
                "amn remember",
            ),
            (r#"{"quant_method":"awq"}"#, "awq", "amn remember"),
            (r#"{"quant_method":"gguf"}"#, "gguf", "amn remember"),
            (r#"{"quant_method":"hqq"}"#, "hqq", "dequantize()"),
            (r#"{"quant_method":"fp8"}"#, "fp8", "dequantize()"),
            (r#"{"bits":4}"#, "unnamed", "bf16"),
        ] {
            let error = found(settings).unwrap_err().to_string();
            for part in ["config.json", FIELD, "quantised", name, way] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }
}
