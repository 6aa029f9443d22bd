//! The questions of GSM8K and MATH, and the prompts that ask them.

use std::{fmt, path::Path};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vblora_models::{ChatTemplate, Message};

use super::last_box;
use crate::{
    Error, Result,
    evaluate::{Question, answer::whole_texts},
    tasks::causal::Form,
};

/// The form in which a problem is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PromptForm {
    /// The authors' prompt, which is MetaMath's: Alpaca's text that ends "### Response: Let's think step by step."
    #[default]
    Metamath,
    /// The prompt of `--format gsm8k`: "Question: .. Answer:"
    Question,
    /// A user message of the model's chat template that asks for the answer in \boxed{}
    Chat,
}

impl fmt::Display for PromptForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Metamath => "metamath",
            Self::Question => "question",
            Self::Chat => "chat",
        })
    }
}

/// MetaMath's text around a problem, as the authors ask it.
const METAMATH: [&str; 2] = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n",
    "\n\n### Response: Let's think step by step.",
];

/// The request after a problem in a chat.
const REQUEST: &str = "\nPlease reason step by step, and put your final answer within \\boxed{}.";

impl PromptForm {
    /// The texts that end an answer. The authors' list also cuts a solution that has the word "Response".
    pub fn stops(self) -> &'static [&'static str] {
        match self {
            Self::Metamath => &["Instruction:", "Instruction", "Response:", "Response"],
            Self::Question => &["Question:"],
            Self::Chat => &[],
        }
    }

    fn prompt(self, problem: &str, template: Option<&ChatTemplate>) -> Result<String> {
        let [before, after] = METAMATH;
        match self {
            Self::Metamath => Ok(format!("{before}{problem}{after}")),
            Self::Question => Ok(format!("Question: {problem}\nAnswer:")),
            Self::Chat => {
                let template = template.ok_or_else(|| Error::Setting {
                    setting: "prompt".into(),
                    expected: "metamath or question for a model without a chat template".into(),
                    found: self.to_string(),
                })?;
                let message = Message::new("user", format!("{problem}{REQUEST}"));
                Ok(template.apply(&[message], true)?)
            }
        }
    }
}

/// The questions of a GSM8K file (`question`, `answer` with "#### N"). The expected answer is N without commas.
///
/// # Errors
/// The file cannot be read; a row has no "#### N"; the model has no chat template where the prompts need one.
pub fn gsm8k_questions(
    path: &Path,
    form: PromptForm,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Question>> {
    let number = |answer: &str| {
        let number = answer.split("#### ").nth(1)?.trim().replace(',', "");
        number.parse::<i64>().is_ok().then_some(number)
    };
    let expected = "an answer with \"#### \" and a whole number";
    questions(path, ["question", "answer"], "gsm8k", |problem, answer| {
        let number = number(answer).ok_or(expected)?;
        Ok((form.prompt(problem, template)?, number))
    })
}

/// The questions of a MATH file (`problem`, `solution`). The expected answer is the content of the solution's last box.
///
/// # Errors
/// As [`gsm8k_questions`], for a solution without a box.
pub fn math_questions(
    path: &Path,
    form: PromptForm,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Question>> {
    let expected = "a solution with a \\boxed{}";
    questions(
        path,
        ["problem", "solution"],
        "math",
        |problem, solution| {
            let content = last_box(solution).content.ok_or(expected)?;
            Ok((form.prompt(problem, template)?, content.to_owned()))
        },
    )
}

/// Why a row gives no question.
enum Refused {
    /// The text that the row lacks.
    Row(&'static str),
    Other(Error),
}

impl From<&'static str> for Refused {
    fn from(expected: &'static str) -> Self {
        Self::Row(expected)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn questions(
    path: &Path,
    [prompt, response]: [&str; 2],
    name: &str,
    make: impl Fn(&str, &str) -> std::result::Result<(String, String), Refused>,
) -> Result<Vec<Question>> {
    let form = Form::Fields {
        prompt: prompt.into(),
        response: response.into(),
    };
    let file = path.display().to_string();
    let texts = whole_texts(path, &form, response)?;
    let question = |(row, text): (usize, &crate::tasks::causal::Text)| {
        let (prompt, reference) = make(&text.prompt, &text.response).map_err(|why| match why {
            Refused::Other(error) => error,
            Refused::Row(expected) => Error::Entry {
                file: file.clone(),
                place: format!("row {}", row + 1),
                expected: expected.into(),
                found: format!("{:?}", text.response.chars().take(60).collect::<String>()),
            },
        })?;
        Ok(Question {
            id: format!("{name}-{row}"),
            prompt,
            references: vec![reference],
        })
    };
    texts.texts.iter().enumerate().map(question).collect()
}
