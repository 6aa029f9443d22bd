//! How text is generated.

use serde::{Deserialize, Serialize};

use crate::Result;

/// The most new tokens of a row. No model here has positions for more.
pub const MAX_NEW_TOKENS: usize = 1 << 24;

/// The most beams of a row: each has a memory of keys of its own.
pub const MAX_BEAMS: usize = 1 << 12;

/// How tokens are chosen, and what ends a row. The words and their meaning are those of transformers' `generate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// The most tokens that a row gets.
    pub max_new_tokens: usize,
    /// The most tokens that a row has, its prompt included (transformers' `max_length`); none is no limit.
    pub max_total_tokens: Option<usize>,
    /// Tokens that end a row; the token itself is the row's last.
    pub stop_tokens: Vec<u32>,
    /// Texts that end a row, wherever tokens part them; they need a tokenizer, so only [`generate_text`](crate::generate::generate_text) takes them.
    pub stop_strings: Vec<String>,
    /// No sequence of so many tokens comes twice in a row, prompt included; 0 allows everything.
    pub no_repeat_ngram_size: usize,
    /// The repetition penalty. Scores of tokens that a row already has, prompt included, are divided by it if above 0, else multiplied. Above
    /// 1 avoids repetition; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Tokens that never come. Ids that the model does not have change nothing.
    pub suppress_tokens: Vec<u32>,
    /// Tokens that are not the first that a row gets.
    pub begin_suppress_tokens: Vec<u32>,
    /// No stop token comes before a row has so many new tokens.
    pub min_new_tokens: usize,
    /// No stop token comes before a row has so many tokens, its prompt included (transformers' `min_length`).
    pub min_total_tokens: usize,
    /// Sequences of tokens that never come.
    pub bad_words: Vec<Vec<u32>>,
    /// The token after a prompt of one token (transformers' `forced_bos_token_id`).
    pub forced_first: Option<u32>,
    /// The tokens of which one is a row's last where its length ends it; none forces none (transformers' `forced_eos_token_id`).
    pub forced_last: Vec<u32>,
    /// How a token is chosen.
    pub decoding: Decoding,
}

/// How a token is chosen from the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoding {
    /// The token with the highest score, the first of equals.
    Greedy,
    /// A draw from the scores' softmax.
    Sample(Sampling),
    /// The sequence with the highest probability that a search of limited width finds.
    Beam(BeamSearch),
}

/// A draw from the softmax of scores. Scores are divided by the temperature, then cut to the k best, then to the likeliest that make up p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// The divisor of scores: below 1 sharpens, above 1 flattens.
    pub temperature: f64,
    /// Only tokens that score at least as high as the k-th best; 0 keeps all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability; 1 keeps all.
    pub top_p: f64,
    /// The key of draws, together with the row's number and the step.
    pub seed: u64,
    /// Number of the first row. Batches of one job that go on counting get the draws of one large batch.
    pub first_row: u64,
}

/// Beam search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeamSearch {
    /// Sequences kept side by side.
    pub beams: usize,
    /// The exponent of length in a finished sequence's score. The score is the log-probability divided by the number of new tokens to this
    /// power: above 0 favours long sequences, below 0 short ones.
    pub length_penalty: f64,
    /// When a row's search ends.
    pub early_stopping: EarlyStopping,
}

/// When a row's beam search ends, once it has as many finished sequences as beams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// At once (transformers' `True`).
    AtOnce,
    /// When the best unfinished one, scored at its length, is no better than the worst finished (transformers' `False`).
    Likely,
    /// When no unfinished one can become better than the worst finished at any length (transformers' `"never"`).
    Certain,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            max_total_tokens: None,
            stop_tokens: Vec::new(),
            stop_strings: Vec::new(),
            no_repeat_ngram_size: 0,
            repetition_penalty: 1.0,
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            min_new_tokens: 0,
            min_total_tokens: 0,
            bad_words: Vec::new(),
            forced_first: None,
            forced_last: Vec::new(),
            decoding: Decoding::Greedy,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            first_row: 0,
        }
    }
}

impl Default for BeamSearch {
    fn default() -> Self {
        Self {
            beams: 4,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Likely,
        }
    }
}

impl GenerationConfig {
    /// Checks the settings for a model of `vocabulary` tokens.
    ///
    /// # Errors
    /// [`vblora::Error::Setting`] naming the setting.
    pub fn check(&self, vocabulary: usize) -> Result<()> {
        size("max_new_tokens", self.max_new_tokens, MAX_NEW_TOKENS)?;
        for &id in &self.stop_tokens {
            let known = (id as usize) < vocabulary;
            require(known, "stop_tokens", &format!("below {vocabulary}"), id)?;
        }
        let empty = self.stop_strings.iter().any(String::is_empty);
        require(!empty, "stop_strings", "not empty", "\"\"")?;
        let penalty = self.repetition_penalty;
        require(
            penalty.is_finite() && penalty > 0.0,
            "repetition_penalty",
            "a finite number above 0",
            penalty,
        )?;
        match &self.decoding {
            Decoding::Greedy => Ok(()),
            Decoding::Sample(sampling) => sampling.check(),
            Decoding::Beam(search) => search.check(),
        }
    }
}

impl GenerationConfig {
    /// Checks that prompts leave room for a token.
    pub(super) fn check_room(&self, prompts: &[&[u32]]) -> Result<()> {
        let Some(most) = self.max_total_tokens else {
            return Ok(());
        };
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let expected = format!(
            "more than the {longest} tokens of a prompt (it is max_length of generation_config.json)"
        );
        require(longest < most, "max_total_tokens", &expected, most)
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let Self {
            temperature, top_p, ..
        } = *self;
        require(
            temperature.is_finite() && temperature > 0.0,
            "temperature",
            "a finite number above 0 (greedy decoding is what 0 would mean)",
            temperature,
        )?;
        require(
            top_p > 0.0 && top_p <= 1.0,
            "top_p",
            "above 0 and at most 1",
            top_p,
        )
    }
}

impl BeamSearch {
    fn check(&self) -> Result<()> {
        size("beams", self.beams, MAX_BEAMS)?;
        require(
            self.length_penalty.is_finite(),
            "length_penalty",
            "a finite number",
            self.length_penalty,
        )
    }
}

/// A number from 1 to `most`.
fn size(setting: &'static str, value: usize, most: usize) -> Result<()> {
    require(value > 0, setting, "at least 1", value)?;
    require(value <= most, setting, &format!("at most {most}"), value)
}

fn require(holds: bool, setting: &'static str, expected: &str, found: impl ToString) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(vblora::Error::Setting {
        setting,
        expected: expected.to_owned(),
        found: found.to_string(),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(change: fn(&mut Sampling)) -> GenerationConfig {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        GenerationConfig {
            decoding: Decoding::Sample(sampling),
            ..GenerationConfig::default()
        }
    }

    fn beams(change: fn(&mut BeamSearch)) -> GenerationConfig {
        let mut search = BeamSearch::default();
        change(&mut search);
        GenerationConfig {
            decoding: Decoding::Beam(search),
            ..GenerationConfig::default()
        }
    }

    fn plain(change: fn(&mut GenerationConfig)) -> GenerationConfig {
        let mut config = GenerationConfig::default();
        change(&mut config);
        config
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_what_is_expected() {
        let cases = [
            (
                plain(|c| c.max_new_tokens = 0),
                "max_new_tokens must be at least 1, found 0",
            ),
            (
                plain(|c| c.stop_tokens = vec![4, 10]),
                "stop_tokens must be below 10, found 10",
            ),
            (
                plain(|c| c.stop_strings = vec!["\n".into(), String::new()]),
                "stop_strings must be not empty, found \"\"",
            ),
            (
                sampling(|s| s.temperature = 0.0),
                "temperature must be a finite number above 0",
            ),
            (sampling(|s| s.temperature = f64::NAN), "found NaN"),
            (
                sampling(|s| s.top_p = 0.0),
                "top_p must be above 0 and at most 1, found 0",
            ),
            (
                sampling(|s| s.top_p = 1.5),
                "top_p must be above 0 and at most 1, found 1.5",
            ),
            (
                sampling(|s| s.top_p = f64::NAN),
                "top_p must be above 0 and at most 1, found NaN",
            ),
            (beams(|b| b.beams = 0), "beams must be at least 1, found 0"),
            (
                plain(|c| c.max_new_tokens = usize::MAX),
                "max_new_tokens must be at most 16777216, found 18446744073709551615",
            ),
            (
                beams(|b| b.beams = 1 << 62),
                "beams must be at most 4096, found 4611686018427387904",
            ),
            (
                beams(|b| b.length_penalty = f64::INFINITY),
                "length_penalty must be a finite number, found inf",
            ),
        ];
        for (config, message) in cases {
            let error = config.check(10).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        for good in [plain(|_| ()), sampling(|_| ()), beams(|_| ())] {
            good.check(10).unwrap();
        }
    }

    #[test]
    fn settings_are_read_as_written_and_unknown_ones_refused() {
        let config = beams(|b| b.early_stopping = EarlyStopping::Certain);
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""early_stopping":"certain""#), "{text}");
        let read: GenerationConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(read, config);
        let short: GenerationConfig =
            serde_json::from_str(r#"{"decoding": {"sample": {"top_k": 3}}}"#).unwrap();
        assert_eq!(short, sampling(|s| s.top_k = 3));
        for unknown in [
            r#"{"max_length": 3}"#,
            r#"{"decoding": {"beam": {"width": 2}}}"#,
        ] {
            let error = serde_json::from_str::<GenerationConfig>(unknown).unwrap_err();
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }
}
