//! The benchmarks with generated answers: their questions, their settings and their scores.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};
use vblora_models::{
    ChatTemplate, ModelFiles, TextTokenizer,
    generate::{BeamSearch, Decoding, GenerationConfig},
    stop_tokens,
};

use super::{
    Answer, Asking, Origin, Question,
    answer::whole_texts,
    e2e::JavaMetrics,
    file::BENCHMARK,
    generated::score_answers,
    math::{GSM8K, MATH, PromptForm, gsm8k_questions, math_questions},
    tally::{Score, tallies},
};
use crate::{
    Error, Result,
    tasks::causal::{Form, is_kept},
};

/// A benchmark of generated answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Benchmark {
    /// Texts for meaning representations of the E2E challenge.
    E2e,
    /// Grade-school mathematics.
    Gsm8k,
    /// Competition mathematics.
    Math,
}

impl Benchmark {
    /// Every benchmark.
    pub const ALL: [Self; 3] = [Self::E2e, Self::Gsm8k, Self::Math];

    /// The name in commands, sweep files and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::E2e => "e2e",
            Self::Gsm8k => "gsm8k",
            Self::Math => "math",
        }
    }

    /// The maximum number of new tokens that the authors allow. LoRA's code allows 64 for E2E.
    fn max_new_tokens(self) -> usize {
        match self {
            Self::E2e => 64,
            Self::Gsm8k => 1024,
            Self::Math => 2048,
        }
    }
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Benchmark {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| Error::UnknownName {
            what: "benchmark",
            name: name.into(),
            expected: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// The data and the settings of an evaluation. Absent settings have the benchmark's defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The file of questions.
    pub data: String,
    /// The number of questions, evenly spaced over the file; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The form of a problem's prompt; only for mathematics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptForm>,
    /// The maximum number of new tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// The maximum number of prompts in a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The width of beam search; 1 is greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beams: Option<usize>,
    /// The length penalty of beam search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f64>,
    /// The size of word groups that never come twice in an answer; 0 allows all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    /// The folder of METEOR's program, which needs Java; only for E2E. METEOR has no score without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub java_metrics: Option<String>,
}

/// The default number of prompts in a batch.
const BATCH: usize = 16;

/// LoRA's decoding for E2E: beams, length penalty, and the size of word groups that never come twice.
const LORA_DECODING: (usize, f64, usize) = (10, 0.9, 4);

impl Evaluation {
    /// Refuses settings that the benchmark does not have, and values that no answer can be made with.
    ///
    /// # Errors
    /// The error names the setting.
    pub fn check(&self, benchmark: Benchmark) -> Result<()> {
        let refused = |setting: &str, expected: &str, found: String| {
            Err(Error::Setting {
                setting: format!("{benchmark}.{setting}"),
                expected: expected.into(),
                found,
            })
        };
        if let (Benchmark::E2e, Some(prompt)) = (benchmark, self.prompt) {
            return refused(
                "prompt",
                "none, which E2E does not have",
                prompt.to_string(),
            );
        }
        if let (Benchmark::Gsm8k | Benchmark::Math, Some(dir)) = (benchmark, &self.java_metrics) {
            return refused("java_metrics", "none, which only E2E has", dir.clone());
        }
        // METEOR's program is looked for before a model works for hours.
        if let Some(dir) = &self.java_metrics {
            JavaMetrics::open(Path::new(dir))?;
        }
        if self.limit == Some(0) {
            return refused("limit", "at least 1", "0".into());
        }
        if self.batch == Some(0) {
            return refused("batch", "at least 1", "0".into());
        }
        let generation = self.generation(benchmark);
        if let (Decoding::Greedy, Some(penalty)) = (&generation.decoding, self.length_penalty) {
            let found = format!("{penalty} for greedy answers");
            return refused("length_penalty", "none unless beams is above 1", found);
        }
        // There is no stop token yet, so the size of the vocabulary does not matter.
        Ok(generation.check(0)?)
    }

    /// Scores answers by every metric or scorer of the benchmark. The first is the headline.
    ///
    /// # Errors
    /// An answer has no reference, or several where the benchmark has one; METEOR's program fails.
    pub fn score(&self, benchmark: Benchmark, answers: &[Answer]) -> Result<Vec<Score>> {
        if let Some(answer) = answers.iter().find(|answer| answer.references.is_empty()) {
            return Err(Error::Score {
                task: benchmark.to_string(),
                expected: "references in every answer".into(),
                found: format!("none for {}", answer.id),
            });
        }
        if benchmark != Benchmark::E2e
            && let Some(answer) = answers.iter().find(|a| a.references.len() > 1)
        {
            return Err(Error::Score {
                task: benchmark.to_string(),
                expected: "one reference in every answer".into(),
                found: format!("{} for {}", answer.references.len(), answer.id),
            });
        }
        match benchmark {
            Benchmark::E2e => score_answers(answers, self.java_metrics.as_deref().map(Path::new)),
            Benchmark::Gsm8k => Ok(tallies(&GSM8K, answers)),
            Benchmark::Math => Ok(tallies(&MATH, answers)),
        }
    }

    /// The questions, evenly spaced where there is a limit, and the number of all questions of the file.
    ///
    /// # Errors
    /// The file cannot be read or has a wrong row; the model has no chat template where the prompts need one.
    pub fn questions(
        &self,
        benchmark: Benchmark,
        files: &ModelFiles,
    ) -> Result<(Vec<Question>, usize)> {
        let (path, form) = (Path::new(&self.data), self.prompt.unwrap_or_default());
        let template = match form {
            PromptForm::Chat => ChatTemplate::from_files(files)?,
            PromptForm::Metamath | PromptForm::Question => None,
        };
        let all = match benchmark {
            Benchmark::E2e => e2e_questions(path)?,
            Benchmark::Gsm8k => gsm8k_questions(path, form, template.as_ref())?,
            Benchmark::Math => math_questions(path, form, template.as_ref())?,
        };
        let count = all.len();
        Ok((thinned(all, self.limit.unwrap_or(count)), count))
    }

    /// The settings for answers.
    ///
    /// # Errors
    /// The model's files name tokens that do not exist.
    pub fn asking(
        &self,
        benchmark: Benchmark,
        files: &ModelFiles,
        tokenizer: &TextTokenizer,
    ) -> Result<Asking> {
        Ok(Asking {
            generation: GenerationConfig {
                stop_tokens: stop_tokens(files, tokenizer)?,
                ..self.generation(benchmark)
            },
            batch: self.batch.unwrap_or(BATCH),
        })
    }

    /// The choice of tokens, maximum length and stop texts, without the model's stop tokens.
    fn generation(&self, benchmark: Benchmark) -> GenerationConfig {
        let (beams, length_penalty, no_repeat) = match benchmark {
            Benchmark::E2e => LORA_DECODING,
            Benchmark::Gsm8k | Benchmark::Math => (1, 1.0, 0),
        };
        let stops = match benchmark {
            Benchmark::E2e => &[],
            Benchmark::Gsm8k | Benchmark::Math => self.prompt.unwrap_or_default().stops(),
        };
        let decoding = match self.beams.unwrap_or(beams) {
            1 => Decoding::Greedy,
            beams => Decoding::Beam(BeamSearch {
                beams,
                length_penalty: self.length_penalty.unwrap_or(length_penalty),
                ..BeamSearch::default()
            }),
        };
        GenerationConfig {
            max_new_tokens: self.max_new_tokens.unwrap_or(benchmark.max_new_tokens()),
            stop_strings: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            no_repeat_ngram_size: self.no_repeat_ngram_size.unwrap_or(no_repeat),
            decoding,
            ..GenerationConfig::default()
        }
    }
}

/// The settings that answers depend on. The size of batches is none of them.
///
/// # Errors
/// A setting cannot be written as JSON.
pub fn asked(benchmark: Benchmark, asking: &Asking) -> Result<Origin> {
    let settings = serde_json::to_string(&asking.generation);
    let settings = settings.map_err(|e| Error::json(Path::new("settings"), e))?;
    Ok(Origin::from([
        (BENCHMARK.into(), benchmark.to_string()),
        ("settings".into(), settings),
    ]))
}

/// Each meaning representation of a file once, with all its references.
fn e2e_questions(path: &Path) -> Result<Vec<Question>> {
    let texts = whole_texts(path, &Form::E2e, "ref")?;
    let question = |(row, (prompt, references)): (usize, (&str, Vec<&str>))| Question {
        id: format!("e2e-{row}"),
        prompt: prompt.to_owned(),
        references: references.iter().map(|text| text.trim().into()).collect(),
    };
    Ok(texts
        .by_prompt()
        .into_iter()
        .enumerate()
        .map(question)
        .collect())
}

/// At most `most` questions, evenly spaced.
fn thinned(questions: Vec<Question>, most: usize) -> Vec<Question> {
    let count = questions.len();
    let rows = questions.into_iter().enumerate();
    rows.filter(|(row, _)| is_kept(*row, count, most))
        .map(|(_, question)| question)
        .collect()
}
