//! Judgments as lines of a file: `model_judgment/JUDGE_single.jsonl` of FastChat.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Number;
use vblora::storage::{read_text, write_atomically};

use super::{Key, lines, python::json_line, rating::NO_RATING};
use crate::{Error, Result, limits::MAX_RESULTS_BYTES};

/// The text of a judgment that the endpoint did not give (`API_ERROR_OUTPUT` of FastChat).
pub const FAILED: &str = "$ERROR$";

/// One line. The fields up to `tstamp` are FastChat's; its readers ignore the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgment {
    /// The question's number.
    pub question_id: i64,
    /// The judged model.
    pub model: String,
    /// The judge's model and the name of its prompt.
    pub judge: [String; 2],
    /// The user message that the judge got.
    pub user_prompt: String,
    /// The judge's text, or [`FAILED`].
    pub judgment: String,
    /// The rating; -1 if there is none.
    pub score: Number,
    /// The judged turn, from 1.
    pub turn: usize,
    /// Seconds since 1970.
    pub tstamp: f64,
    /// Why the endpoint gave no judgment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The number of this judgment among those of the same answer, from 1, in a file of single runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<usize>,
    /// The scores of all runs, of which `score` is the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Vec<Number>>,
}

impl Judgment {
    /// The question, model, judge and turn.
    pub fn key(&self) -> Key {
        Key {
            question_id: self.question_id,
            model: self.model.clone(),
            judge: self.judge.clone(),
            turn: self.turn,
        }
    }

    /// The rating, if there is one.
    pub fn rated(&self) -> Option<f64> {
        let score = self.score.as_f64()?;
        (score != NO_RATING as f64).then_some(score)
    }
}

/// A file of judgments that grows by a line at a time.
#[derive(Debug)]
pub struct JudgmentFile {
    path: PathBuf,
    /// The judgments in the file's order.
    judgments: Vec<Judgment>,
    /// Open for appending. A file that does not exist yet is made with its first judgment.
    file: Option<File>,
}

impl JudgmentFile {
    /// Opens a file to append to it. The first judgment makes a file that does not exist. A last line that a killed process left unfinished is dropped.
    ///
    /// # Errors
    /// The file cannot be read or written; a line that is not the last does not parse.
    pub fn open(path: &Path) -> Result<Self> {
        let text = match path.exists() {
            true => read_text(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?,
            false => String::new(),
        };
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut judgments = parse(path, &text[..whole])?;
        let rest = &text[whole..];
        if !rest.is_empty() {
            // Other writers may end their file without a line feed.
            match lines::parse::<Judgment>(path, 1, rest) {
                Ok(line) => judgments.push(line.value),
                Err(_) => tracing::warn!(
                    "{}: the last line is cut off and is dropped",
                    path.display()
                ),
            }
        }
        if !rest.is_empty() {
            write(path, &judgments)?;
        }
        let is_there = path.exists();
        Ok(Self {
            path: path.to_owned(),
            judgments,
            file: is_there.then(|| growing(path)).transpose()?,
        })
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// The file cannot be read; a line does not parse.
    pub fn read(path: &Path) -> Result<Vec<Judgment>> {
        let text = read_text(path, MAX_RESULTS_BYTES).map_err(|e| Error::read(path, e))?;
        parse(path, &text)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The judgments.
    pub fn judgments(&self) -> &[Judgment] {
        &self.judgments
    }

    /// Appends a judgment. After this call it is on the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, judgment: Judgment) -> Result<()> {
        let line = line(&self.path, &judgment)?;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(growing(&self.path)?),
        };
        let written = file.write_all(line.as_bytes());
        let synced = written.and_then(|()| file.sync_data());
        synced.map_err(|e| Error::write(&self.path, e))?;
        self.judgments.push(judgment);
        Ok(())
    }

    /// Removes judgments without a rating that were made again.
    ///
    /// # Errors
    /// The file cannot be written; it then has its older content.
    pub fn tidy(&mut self) -> Result<()> {
        let mut last = HashMap::new();
        for (at, judgment) in self.judgments.iter().enumerate() {
            last.insert((judgment.key(), judgment.run), at);
        }
        let before = self.judgments.len();
        let mut places = 0..before;
        self.judgments.retain(|judgment| {
            let at = places.next();
            judgment.rated().is_some() || at == last.get(&(judgment.key(), judgment.run)).copied()
        });
        if self.judgments.len() < before {
            write(&self.path, &self.judgments)?;
            self.file = Some(growing(&self.path)?);
        }
        Ok(())
    }
}

/// A file that is appended to, made where there is none.
fn growing(path: &Path) -> Result<File> {
    let failed = |cause| Error::write(path, cause);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let file = File::options().append(true).create(true).open(path);
    file.map_err(failed)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Judgment>> {
    let lines = lines::parse_all(path, text)?;
    Ok(lines.into_iter().map(|line| line.value).collect())
}

fn line(path: &Path, judgment: &Judgment) -> Result<String> {
    let line = json_line(judgment).map_err(|e| Error::json(path, e))?;
    Ok(line + "\n")
}

fn write(path: &Path, judgments: &[Judgment]) -> Result<()> {
    let lines = judgments.iter().map(|judgment| line(path, judgment));
    let text: String = lines.collect::<Result<_>>()?;
    Ok(write_atomically(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgment(question_id: i64, score: i64) -> Judgment {
        Judgment {
            question_id,
            model: "m".into(),
            judge: ["j".into(), "single-v1".into()],
            user_prompt: String::new(),
            judgment: "é [[7]]".into(),
            score: score.into(),
            turn: 1,
            tstamp: 0.5,
            error: None,
            run: None,
            scores: None,
        }
    }

    #[test]
    fn a_line_has_the_fields_of_fastchat_in_its_order() {
        let text = line(Path::new("f"), &judgment(5, 7)).unwrap();
        let expected = "{\"question_id\": 5, \"model\": \"m\", \"judge\": [\"j\", \"single-v1\"], \"user_prompt\": \"\", \
            \"judgment\": \"\\u00e9 [[7]]\", \"score\": 7, \"turn\": 1, \"tstamp\": 0.5}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cut_line_goes_and_one_without_line_feed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/f.jsonl");
        let mut file = JudgmentFile::open(&path).unwrap();
        assert!(!path.exists(), "no file before the first judgment");
        file.append(judgment(5, 7)).unwrap();
        file.append(judgment(6, 7)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for (left, expected) in [(text.len() - 1, 2), (text.len() - 2, 1), (10, 0)] {
            std::fs::write(&path, &text[..left]).unwrap();
            let mut file = JudgmentFile::open(&path).unwrap();
            assert_eq!(file.judgments().len(), expected);
            file.append(judgment(7, 1)).unwrap();
            let read = JudgmentFile::read(&path).unwrap();
            assert_eq!(read.len(), expected + 1);
        }
        std::fs::write(&path, format!("{{\n{text}")).unwrap();
        let error = JudgmentFile::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("f.jsonl, line 1: expected a JSON object"),
            "{error}"
        );
    }

    #[test]
    fn only_failures_that_were_made_again_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.jsonl");
        let mut file = JudgmentFile::open(&path).unwrap();
        for (id, score) in [(1, -1), (2, -1), (3, 8), (1, 7), (3, 8)] {
            file.append(judgment(id, score)).unwrap();
        }
        file.tidy().unwrap();
        file.append(judgment(4, 2)).unwrap();
        let read = JudgmentFile::read(&path).unwrap();
        let ids: Vec<_> = read.iter().map(|judgment| judgment.question_id).collect();
        assert_eq!(ids, [2, 3, 1, 3, 4]);
    }
}
