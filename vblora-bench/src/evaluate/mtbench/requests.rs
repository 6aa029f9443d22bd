//! Requests to the judge: FastChat's judge prompts, filled with questions, answers and references.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    Answer, AnswerFile, Question, Questions,
    lines::{self, wrong},
    python::format,
};
use crate::{Error, Result};

/// The prompts by what they judge: general questions and those with a reference, at the first turn and at the second.
const NAMES: [[&str; 2]; 2] = [
    ["single-v1", "single-math-v1"],
    ["single-v1-multi-turn", "single-math-v1-multi-turn"],
];

/// How a judgment gives its rating, as the file of prompts says it.
const RATING: &str = "[[rating]]";

/// A prompt of `judge_prompts.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct JudgePrompt {
    name: String,
    system_prompt: String,
    prompt_template: String,
    output_format: String,
}

/// The four prompts that judge single answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgePrompts {
    path: String,
    prompts: BTreeMap<String, JudgePrompt>,
}

impl JudgePrompts {
    /// Reads `judge_prompts.jsonl` of FastChat. Prompts that compare two models are skipped.
    ///
    /// # Errors
    /// The file cannot be read. A line does not parse. One of the four prompts is missing, or asks for something else than a rating.
    pub fn read(path: &Path) -> Result<Self> {
        let mut prompts = BTreeMap::new();
        for line in lines::read::<JudgePrompt>(path)? {
            let prompt = line.value;
            if !NAMES.as_flattened().contains(&prompt.name.as_str()) {
                continue;
            }
            if prompt.output_format != RATING {
                let expected = format!("output_format \"{RATING}\" of prompt {}", prompt.name);
                return Err(wrong(path, line.number, expected, prompt.output_format));
            }
            prompts.insert(prompt.name.clone(), prompt);
        }
        let path = path.display().to_string();
        let is_missing = |name: &&&str| !prompts.contains_key(**name);
        match NAMES.as_flattened().iter().find(is_missing) {
            None => Ok(Self { path, prompts }),
            Some(name) => Err(Error::UnknownName {
                what: "judge prompt",
                name: (*name).to_owned(),
                expected: format!("those of {path}"),
            }),
        }
    }
}

/// The question, model, judge and turn of a judgment. A file of judgments has each at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The question's number.
    pub question_id: i64,
    /// The judged model.
    pub model: String,
    /// The judge's model and the name of its prompt.
    pub judge: [String; 2],
    /// The judged turn, from 1.
    pub turn: usize,
}

/// One judgment to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The judged answer, and its judge.
    pub key: Key,
    /// The system message; empty for none.
    pub system: String,
    /// The user message.
    pub user: String,
}

/// The body of a request, in the form of OpenAI's chat completions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Body<'a> {
    /// The judge's model.
    pub model: &'a str,
    /// The system message, if there is one, and the user message.
    pub messages: Vec<Message<'a>>,
    /// 0: the most likely judgment.
    pub temperature: u32,
    /// The maximum length of a judgment.
    pub max_tokens: u32,
}

/// A message of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// `system` or `user`.
    pub role: &'static str,
    /// The text.
    pub content: &'a str,
}

impl Request {
    /// The body to send. Temperature and length are FastChat's.
    pub fn body(&self) -> Body<'_> {
        let system = ("system", self.system.as_str());
        let messages = [system, ("user", &self.user)].into_iter();
        let given = messages.filter(|(role, text)| *role == "user" || !text.is_empty());
        Body {
            model: &self.key.judge[0],
            messages: given
                .map(|(role, content)| Message { role, content })
                .collect(),
            temperature: 0,
            max_tokens: 2048,
        }
    }
}

/// The files that requests are made from.
#[derive(Debug, Clone, Copy)]
pub struct Material<'a> {
    /// The questions.
    pub questions: &'a Questions,
    /// Answers by model.
    pub answers: &'a BTreeMap<String, AnswerFile>,
    /// The answers that the judge compares with.
    pub references: Option<&'a AnswerFile>,
    /// The judge's prompts.
    pub prompts: &'a JudgePrompts,
}

impl Material<'_> {
    /// The requests in FastChat's order: by turn, with general questions before those with a reference, then by question and by model.
    /// Questions that a model has not answered, and second turns that a question does not have, are left out.
    ///
    /// # Errors
    /// A question needs a reference that is not there; a prompt has a field that is not known.
    pub fn requests(&self, judge: &str, turns: usize) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for (turn, names) in (1..).zip(NAMES).take(turns) {
            for (with_reference, name) in [false, true].into_iter().zip(names) {
                let prompt = &self.prompts.prompts[name];
                for question in &self.questions.all {
                    let is_judged = turn == 1 || question.turns.len() == NAMES.len();
                    if question.has_reference() == with_reference && is_judged {
                        self.ask(judge, question, turn, prompt, &mut requests)?;
                    }
                }
            }
        }
        Ok(requests)
    }

    /// Adds a request for each model that has answered the question.
    fn ask(
        &self,
        judge: &str,
        question: &Question,
        turn: usize,
        prompt: &JudgePrompt,
        requests: &mut Vec<Request>,
    ) -> Result<()> {
        let id = question.question_id;
        for (model, answers) in self.answers {
            let Some(answer) = answers.get(id) else {
                continue;
            };
            let reference = match question.has_reference() {
                true => Some(self.reference(question)?),
                false => None,
            };
            let values = values(question, answer, reference, turn);
            let user = format(&prompt.prompt_template, &values).map_err(|found| Error::Entry {
                file: self.prompts.path.clone(),
                place: format!("prompt {}", prompt.name),
                expected: "fields in braces that have values".into(),
                found,
            })?;
            let judge = [judge, &prompt.name].map(str::to_owned);
            requests.push(Request {
                key: Key {
                    question_id: id,
                    model: model.clone(),
                    judge,
                    turn,
                },
                system: prompt.system_prompt.clone(),
                user,
            });
        }
        Ok(())
    }

    fn reference(&self, question: &Question) -> Result<&Answer> {
        let Question {
            question_id,
            category,
            ..
        } = question;
        let found = self
            .references
            .and_then(|references| references.get(*question_id));
        found.ok_or_else(|| Error::Setting {
            setting: "references".into(),
            expected: format!("a reference answer to question {question_id} ({category})"),
            found: match self.references {
                Some(references) => format!("none in {}", references.path().display()),
                None => "none; --references names a file of them".into(),
            },
        })
    }
}

/// The values of a prompt's fields, as FastChat passes them.
fn values<'a>(
    question: &'a Question,
    answer: &'a Answer,
    reference: Option<&'a Answer>,
    turn: usize,
) -> Vec<(&'static str, &'a str)> {
    let names: [&[&str]; 3] = match turn {
        1 => [&["question"], &["answer"], &["ref_answer_1"]],
        _ => [
            &["question_1", "question_2"],
            &["answer_1", "answer_2"],
            &["ref_answer_1", "ref_answer_2"],
        ],
    };
    let texts = [
        question.turns.as_slice(),
        answer.turns(),
        reference.map_or(&[], Answer::turns),
    ];
    let fields = names.into_iter().zip(texts).flat_map(|(names, texts)| {
        let texts = texts.iter().map(String::as_str);
        names.iter().copied().zip(texts)
    });
    fields.collect()
}
