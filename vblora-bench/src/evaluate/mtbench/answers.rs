//! Answers to the questions: `model_answer/ID.jsonl` and `reference_answer/JUDGE.jsonl` of FastChat.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use vblora::storage::{sha256_hex, write_atomically};

use super::{
    Questions,
    lines::{self, Line, wrong},
    python::json_line,
};
use crate::{Error, Result};

/// The ending of files of answers and judgments.
pub(super) const ENDING: &str = "jsonl";

/// The alphabet of the package `shortuuid`, and the length of its names.
const ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const ID_LENGTH: usize = 22;

/// The answers to one question: a line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's number.
    pub question_id: i64,
    /// A name of this answer, of 22 letters and digits.
    pub answer_id: String,
    /// The model's name.
    pub model_id: String,
    /// One choice. FastChat judges the first.
    pub choices: Vec<Choice>,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// The answers of one conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its number, from 0.
    pub index: usize,
    /// An answer to each of the question's turns.
    pub turns: Vec<String>,
}

impl Answer {
    /// The answer of a model to all turns of a question, made now. Its name is a hash of the other fields.
    pub fn new(question_id: i64, model_id: &str, turns: Vec<String>) -> Self {
        let head = [question_id.to_string(), model_id.to_owned()];
        let pieces = head.iter().chain(&turns);
        // Lengths keep texts apart that are cut at different places.
        let pieces = pieces.map(|piece| format!("{}:{piece}", piece.len()));
        Self {
            question_id,
            answer_id: short_name(&sha256_hex(pieces)),
            model_id: model_id.to_owned(),
            choices: vec![Choice { index: 0, turns }],
            tstamp: now(),
        }
    }

    /// The answers that are judged: those of the first choice.
    pub fn turns(&self) -> &[String] {
        self.choices.first().map_or(&[], |choice| &choice.turns)
    }
}

/// The first 128 bits of a hash in the alphabet of `shortuuid`.
fn short_name(hash: &str) -> String {
    let mut rest = u128::from_str_radix(&hash[..32], 16).expect("SHA-256 in hexadecimal digits");
    let mut letter = || {
        let digit = (rest % ALPHABET.len() as u128) as usize;
        rest /= ALPHABET.len() as u128;
        char::from(ALPHABET[digit])
    };
    let letters: Vec<char> = (0..ID_LENGTH).map(|_| letter()).collect();
    letters.into_iter().rev().collect()
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The answers of one model by question, and the file that holds them, sorted by question.
#[derive(Debug)]
pub struct AnswerFile {
    path: PathBuf,
    /// Each answer with its line, which is kept as it is.
    answers: BTreeMap<i64, (Answer, String)>,
}

impl AnswerFile {
    /// An empty file, which appears with the first answer.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            answers: BTreeMap::new(),
        }
    }

    /// Reads a file of answers to these questions. Where a question has several lines the last one counts, as in FastChat.
    ///
    /// # Errors
    /// The file cannot be read; a line does not parse, answers a question that is not there, or has another number of turns.
    pub fn read(path: &Path, questions: &Questions) -> Result<Self> {
        let mut file = Self::new(path.to_owned());
        for line in lines::read::<Answer>(path)? {
            check(path, &line, questions)?;
            let Line { value, text, .. } = line;
            file.answers.insert(value.question_id, (value, text));
        }
        Ok(file)
    }

    /// Reads a file of reference answers. Unlike a model's answers they may be to more questions than are asked.
    ///
    /// # Errors
    /// The file cannot be read; a line does not parse, or has another number of turns than its question.
    pub fn read_references(path: &Path, questions: &Questions) -> Result<Self> {
        let mut file = Self::new(path.to_owned());
        for line in lines::read::<Answer>(path)? {
            if questions.get(line.value.question_id).is_some() {
                check(path, &line, questions)?;
                let Line { value, text, .. } = line;
                file.answers.insert(value.question_id, (value, text));
            }
        }
        Ok(file)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The answer to a question.
    pub fn get(&self, question_id: i64) -> Option<&Answer> {
        self.answers.get(&question_id).map(|(answer, _)| answer)
    }

    /// The number of answered questions.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Returns true if no question is answered.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Adds answers and writes the file as a whole.
    ///
    /// # Errors
    /// The file cannot be written; it then has its older content.
    pub fn add(&mut self, answers: impl IntoIterator<Item = Answer>) -> Result<()> {
        for answer in answers {
            let line = json_line(&answer).map_err(|e| Error::json(&self.path, e))?;
            self.answers.insert(answer.question_id, (answer, line));
        }
        let lines = self.answers.values().map(|(_, line)| format!("{line}\n"));
        let text: String = lines.collect();
        Ok(write_atomically(&self.path, text.as_bytes())?)
    }
}

/// Refuses an answer that does not fit the questions.
fn check(path: &Path, line: &Line<Answer>, questions: &Questions) -> Result<()> {
    let id = line.value.question_id;
    let Some(question) = questions.get(id) else {
        let expected = "an answer to one of the questions";
        let found = format!("question_id {id}, which is not among them");
        return Err(wrong(path, line.number, expected, found));
    };
    let (turns, found) = (question.turns.len(), line.value.turns().len());
    if turns != found {
        let expected = format!("{turns} turns, as question {id} has");
        return Err(wrong(path, line.number, expected, found.to_string()));
    }
    Ok(())
}

/// The file of a model's answers in a folder of the benchmark.
///
/// # Errors
/// The name is not that of a file.
pub fn answer_file(out: &Path, model_id: &str) -> Result<PathBuf> {
    let is_name = !model_id.is_empty() && !model_id.contains(['/', '\\', '\0']);
    match is_name && !model_id.starts_with('.') {
        true => Ok(out
            .join("model_answer")
            .join(format!("{model_id}.{ENDING}"))),
        false => Err(Error::Setting {
            setting: "model-id".into(),
            expected: "a name for the answers, which names a file as well".into(),
            found: format!("{model_id:?}"),
        }),
    }
}

/// The file of reference answers that a judge has in a folder of the benchmark.
pub fn reference_file(out: &Path, judge: &str) -> PathBuf {
    out.join("reference_answer")
        .join(format!("{judge}.{ENDING}"))
}

/// The models with a file of answers in a folder, sorted by name.
///
/// # Errors
/// The folder cannot be read.
pub fn models(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::read(folder, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_one = path.extension().is_some_and(|ending| ending == ENDING);
        if let (true, Some(name)) = (is_one, path.file_stem().and_then(|name| name.to_str())) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(dir: &Path) -> Questions {
        let path = dir.join("question.jsonl");
        let line =
            |id| format!(r#"{{"question_id": {id}, "category": "stem", "turns": ["a", "b"]}}"#);
        std::fs::write(&path, format!("{}\n{}\n", line(7), line(5))).unwrap();
        Questions::read(&path).unwrap()
    }

    fn answer(id: i64) -> Answer {
        Answer::new(id, "m", vec!["é".into(), String::new()])
    }

    #[test]
    fn a_file_is_sorted_and_keeps_lines_that_it_does_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let questions = questions(dir.path());
        let path = dir.path().join("deep/m.jsonl");
        let mut file = AnswerFile::new(path.clone());
        file.add([answer(7)]).unwrap();
        let old = std::fs::read_to_string(&path).unwrap();
        let foreign = old.replace("\"choices\"", "\"more\":1,\"choices\"");
        std::fs::write(&path, &foreign).unwrap();
        let mut file = AnswerFile::read(&path, &questions).unwrap();
        file.add([answer(5)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(r#"{"question_id": 5, "answer_id": ""#),
            "{text}"
        );
        assert!(text.ends_with(&foreign), "{text}");
        assert_eq!((file.len(), file.get(7).unwrap().turns().len()), (2, 2));
    }

    #[test]
    fn names_have_the_form_of_shortuuid_and_depend_on_the_answer() {
        let name = answer(5).answer_id;
        assert!(name.len() == ID_LENGTH && name.bytes().all(|b| ALPHABET.contains(&b)));
        assert_eq!(name, answer(5).answer_id);
        assert_ne!(name, answer(7).answer_id);
        let apart =
            |turns: [&str; 2]| Answer::new(1, "m", turns.map(str::to_owned).into()).answer_id;
        assert_ne!(apart(["ab", "c"]), apart(["a", "bc"]));
    }

    #[test]
    fn what_does_not_fit_the_questions_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let questions = questions(dir.path());
        let path = dir.path().join("m.jsonl");
        let line = |answer: Answer| json_line(&answer).unwrap();
        for (text, message) in [
            (
                line(answer(9)),
                "line 2: expected an answer to one of the questions, found question_id 9",
            ),
            (
                line(Answer::new(5, "m", vec!["one".into()])),
                "line 2: expected 2 turns, as question 5 has, found 1",
            ),
            (
                line(answer(5))[..40].to_owned(),
                "line 2: expected a JSON object",
            ),
        ] {
            std::fs::write(&path, format!("\n{text}\n")).unwrap();
            let error = AnswerFile::read(&path, &questions).unwrap_err().to_string();
            assert!(
                error.contains("m.jsonl") && error.contains(message),
                "{error}"
            );
        }
    }
}
