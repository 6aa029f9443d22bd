//! `generation_config.json`: what a model's makers generate with.

use serde_json::Value;

use super::{
    FILE,
    fields::Fields,
    tokens::{GENERATION, read},
    wrong,
};
use crate::generate::{BeamSearch, Decoding, EarlyStopping, GenerationConfig, Sampling};
use crate::{ModelFiles, Result, TextTokenizer};

/// Transformers draws from so many tokens where nothing is said.
const TOP_K: usize = 50;

/// Fields that are not implemented and change what is generated whatever chooses the tokens, with the value under which they do nothing.
const REFUSED: [(&str, f64); 9] = [
    ("dola_layers", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("exponential_decay_length_penalty", 0.0),
    ("force_words_ids", 0.0),
    ("guidance_scale", 1.0),
    ("max_time", 0.0),
    ("sequence_bias", 0.0),
    ("watermarking_config", 0.0),
];

/// Fields that are not implemented and change only what is drawn, how beams are kept apart, or how many texts there are.
const SAID: [(&str, f64); 8] = [
    ("diversity_penalty", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("min_p", 0.0),
    ("num_beam_groups", 1.0),
    ("num_return_sequences", 1.0),
    ("top_h", 1.0),
    ("typical_p", 1.0),
];

/// How a model's makers generate, and what they would draw with.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationDefaults {
    /// The settings for generation without other wishes.
    pub config: GenerationConfig,
    /// The settings for drawing tokens, also if the makers do not draw.
    pub sampling: Sampling,
    /// The settings for beam search, also if the makers do not search.
    pub search: BeamSearch,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`, or else the same fields of `config.json`, as transformers does. Fields that are not implemented and
    /// would change the draws are reported.
    ///
    /// # Errors
    /// [`Error::Json`](crate::Error::Json) or [`Error::Config`](crate::Error::Config) for a file or field of another form. The same for a
    /// field that is not implemented and would change text that is generated without draws.
    pub fn from_files(files: &ModelFiles, tokenizer: &TextTokenizer) -> Result<Self> {
        let mut defaults = read(files, Self::file(files), |fields| {
            check_others(fields)?;
            Self::read(fields, tokenizer)
        })?;
        defaults.config.stop_tokens = super::stop_tokens(files, tokenizer)?;
        Ok(defaults)
    }

    /// The file that has these settings: `generation_config.json`, or else `config.json`.
    pub fn file(files: &ModelFiles) -> &'static str {
        match files.contains(GENERATION) {
            true => GENERATION,
            false => FILE,
        }
    }

    fn read(fields: &Fields<'_>, tokenizer: &TextTokenizer) -> Result<Self> {
        let plain = GenerationConfig::default();
        let draws = fields.flag_or("do_sample", false)?;
        let sampling = Sampling {
            temperature: fields.number_or("temperature", 1.0)?,
            top_k: fields.count_or("top_k", if draws { TOP_K } else { 0 })?,
            top_p: fields.number_or("top_p", 1.0)?,
            ..Sampling::default()
        };
        let beams = fields.count_or("num_beams", 1)?;
        let search = BeamSearch {
            beams,
            length_penalty: fields.number_or("length_penalty", 1.0)?,
            early_stopping: early_stopping(fields)?,
        };
        let new = fields.count_or_none("max_new_tokens")?;
        let total = fields
            .count_or_none("max_length")?
            .filter(|_| new.is_none());
        let max_new_tokens = match (new, total) {
            (Some(new), _) => new,
            (None, Some(total)) => total,
            (None, None) => plain.max_new_tokens,
        };
        if beams > 1 && draws {
            fields.ignore("do_sample", "beams are searched without draws");
        }
        let config = GenerationConfig {
            max_new_tokens,
            max_total_tokens: total,
            stop_strings: stop_strings(fields)?,
            no_repeat_ngram_size: fields.count_or("no_repeat_ngram_size", 0)?,
            repetition_penalty: fields.number_or("repetition_penalty", 1.0)?,
            suppress_tokens: tokens(fields, "suppress_tokens", tokenizer)?,
            begin_suppress_tokens: tokens(fields, "begin_suppress_tokens", tokenizer)?,
            min_new_tokens: fields.count_or("min_new_tokens", 0)?,
            min_total_tokens: fields.count_or("min_length", 0)?,
            bad_words: bad_words(fields)?,
            forced_first: tokens(fields, "forced_bos_token_id", tokenizer)?
                .first()
                .copied(),
            forced_last: tokens(fields, "forced_eos_token_id", tokenizer)?,
            decoding: match beams {
                0 | 1 if draws => Decoding::Sample(sampling.clone()),
                0 | 1 => Decoding::Greedy,
                _ => Decoding::Beam(search.clone()),
            },
            ..plain
        };
        Ok(Self {
            config,
            sampling,
            search,
        })
    }
}

fn tokens(fields: &Fields<'_>, field: &str, tokenizer: &TextTokenizer) -> Result<Vec<u32>> {
    let mut ids = fields.ids(field)?;
    ids.retain(|&id| tokenizer.has_embedding(id));
    Ok(ids)
}

fn stop_strings(fields: &Fields<'_>) -> Result<Vec<String>> {
    match fields.value("stop_strings") {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        _ => fields.texts("stop_strings"),
    }
}

fn early_stopping(fields: &Fields<'_>) -> Result<EarlyStopping> {
    match fields.value("early_stopping") {
        None | Some(Value::Bool(false)) => Ok(EarlyStopping::Likely),
        Some(Value::Bool(true)) => Ok(EarlyStopping::AtOnce),
        Some(Value::String(never)) if never == "never" => Ok(EarlyStopping::Certain),
        Some(other) => {
            let problem = format!("expected true, false or \"never\", found {other}");
            Err(wrong(fields.file, "early_stopping", problem))
        }
    }
}

/// Sequences of tokens that never come.
fn bad_words(fields: &Fields<'_>) -> Result<Vec<Vec<u32>>> {
    let as_words = |value: &Value| -> Option<Vec<Vec<u32>>> {
        let id = |id: &Value| u32::try_from(id.as_u64()?).ok();
        let word = |word: &Value| word.as_array()?.iter().map(id).collect();
        value.as_array()?.iter().map(word).collect()
    };
    match fields.value("bad_words_ids") {
        None => Ok(Vec::new()),
        Some(value) => as_words(value).ok_or_else(|| {
            let problem = format!("expected lists of token ids, found {value}");
            wrong(fields.file, "bad_words_ids", problem)
        }),
    }
}

/// Refuses or says fields that change what transformers generates, and nothing here.
fn check_others(fields: &Fields<'_>) -> Result<()> {
    let is_used = |(field, nothing): &(&str, f64)| match fields.value(field) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Array(several)) => !several.is_empty(),
        Some(Value::Object(several)) => !several.is_empty(),
        Some(value) => value.as_f64() != Some(*nothing),
    };
    for (field, _) in SAID.iter().filter(|other| is_used(other)) {
        let why = "not implemented, and transformers would generate otherwise";
        fields.ignore(field, why);
    }
    match REFUSED.iter().find(|other| is_used(other)) {
        None => Ok(()),
        Some((field, _)) => {
            let problem = "not implemented, and transformers would generate otherwise; null in its place leaves it out";
            Err(wrong(fields.file, field, problem.to_owned()))
        }
    }
}
