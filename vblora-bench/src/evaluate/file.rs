//! A file of answers: JSON lines that grow, and the settings that they come from.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use vblora::storage::{read_file, strict_json, write_atomically};

use super::{
    Benchmark,
    answer::{Answer, Question},
};
use crate::{
    Error, Result,
    directory::{DirLock, is_file},
    limits::MAX_DATA_BYTES,
};

/// The settings that a file's answers depend on, by name. A file is continued only under equal settings.
pub type Origin = BTreeMap<String, String>;

/// The key of an origin with the benchmark's name.
pub(super) const BENCHMARK: &str = "benchmark";

/// The keys of an origin that say how many questions were asked, and how many the file of questions has. They are not compared.
const COUNTS: [&str; 2] = ["asked_questions", "all_questions"];

/// What to do about answers to other questions.
const OTHER_QUESTIONS: &str =
    "these answers are to other questions: choose the same --limit and --data";

/// Answers to the questions of a benchmark, in a file that grows. A killed process leaves whole lines and at most one cut line, which the
/// next process drops.
///
/// | file | content |
/// | --- | --- |
/// | `NAME.jsonl` | a line for each [`Answer`], at the end in the order of the questions |
/// | `NAME.jsonl.origin.json` | the [`Origin`] of the answers |
/// | `NAME.jsonl.lock` | the process that writes; removed when it ends |
#[derive(Debug)]
pub struct AnswerFile {
    path: PathBuf,
    answers: HashMap<String, Answer>,
    file: File,
    _lock: DirLock,
}

impl AnswerFile {
    /// Opens a file for answers to these questions. An existing file with the same origin is continued; `overwrite` replaces any file.
    ///
    /// # Errors
    /// The existing answers have another origin or other questions. A line is damaged. Another process writes to the file. A file cannot be
    /// read or written.
    pub fn open(
        path: &Path,
        questions: &[Question],
        origin: &Origin,
        overwrite: bool,
    ) -> Result<Self> {
        let (dir, name) = place(path, "out")?;
        std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, e))?;
        let lock = DirLock::take(dir, &format!("{name}.lock"))?;
        let beside = origin_file(dir, &name);
        let known = is_file(path)? && !overwrite;
        let answers = match known {
            true => {
                check_origin(&beside, path, origin)?;
                past(path, questions)?
            }
            false => Vec::new(),
        };
        let origin = serde_json::to_vec_pretty(origin).map_err(|e| Error::json(&beside, e))?;
        write_atomically(&beside, &origin)?;
        // A cut line goes here.
        write_atomically(path, &lines(&answers)?)?;
        let file = File::options().append(true).open(path);
        Ok(Self {
            path: path.to_owned(),
            answers: answers.into_iter().map(|a| (a.id.clone(), a)).collect(),
            file: file.map_err(|e| Error::write(path, e))?,
            _lock: lock,
        })
    }

    /// The number of answers.
    pub fn count(&self) -> usize {
        self.answers.len()
    }

    /// Returns true if the file has the answer to a question.
    pub fn has(&self, id: &str) -> bool {
        self.answers.contains_key(id)
    }

    /// Appends answers.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, answers: Vec<Answer>) -> Result<()> {
        let bytes = lines(&answers)?;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        written.map_err(|e| Error::write(&self.path, e))?;
        let named = answers
            .into_iter()
            .map(|answer| (answer.id.clone(), answer));
        self.answers.extend(named);
        Ok(())
    }

    /// The answers in the order of the questions; `None` if some are missing. A complete file is brought into that order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self, questions: &[Question]) -> Result<Option<Vec<Answer>>> {
        let found = questions.iter().map(|q| self.answers.get(&q.id).cloned());
        let Some(answers) = found.collect::<Option<Vec<Answer>>>() else {
            return Ok(None);
        };
        write_atomically(&self.path, &lines(&answers)?)?;
        Ok(Some(answers))
    }
}

/// Reads a whole file of answers to a benchmark, to score them again.
///
/// # Errors
/// The file cannot be read or has no answer; a line is not an answer, or repeats an id; the origin names another benchmark.
pub fn read_answers(path: &Path, benchmark: Benchmark) -> Result<Vec<Answer>> {
    let beside = origin_path(path)?;
    // Answers that another program wrote have no origin.
    if is_file(&beside)?
        && let Some(other) = read_origin(&beside)?.get(BENCHMARK)
        && other != benchmark.name()
    {
        return Err(Error::Score {
            task: benchmark.to_string(),
            expected: "answers to its questions".into(),
            found: format!("answers to {other} in {}", path.display()),
        });
    }
    let bytes = read_file(path, MAX_DATA_BYTES).map_err(|e| Error::read(path, e))?;
    let answers = parsed(path, &bytes)?;
    match answers.is_empty() {
        true => Err(entry(path, 1, "an answer", "an empty file")),
        false => Ok(answers),
    }
}

/// The number of questions that were asked and of all questions, as an origin has them.
pub fn question_counts(asked: usize, all: usize) -> Origin {
    let counts = [asked, all].map(|count| count.to_string());
    Origin::from_iter(COUNTS.map(str::to_owned).into_iter().zip(counts))
}

/// A note on answers that are not those to all questions; `None` if they are.
pub fn note(answered: usize, asked: usize, all: usize) -> Option<String> {
    let part = (asked < all).then(|| format!("{asked} of {all} questions, evenly spaced"));
    let left = asked.saturating_sub(answered);
    let left = (left > 0).then(|| format!("{left} not answered yet"));
    let parts: Vec<_> = part.into_iter().chain(left).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The [`note`] on a file with so many answers; `None` also where no count is recorded.
///
/// # Errors
/// The file beside the answers cannot be read.
pub fn recorded_note(path: &Path, answered: usize) -> Result<Option<String>> {
    let beside = origin_path(path)?;
    if !is_file(&beside)? {
        return Ok(None);
    }
    let origin = read_origin(&beside)?;
    let count = |key: &str| origin.get(key)?.parse().ok();
    let [asked, all] = COUNTS.map(count);
    Ok(asked
        .zip(all)
        .and_then(|(asked, all)| note(answered, asked, all)))
}

/// The file with the origin of the answers in a file.
///
/// # Errors
/// The path names no file.
pub(crate) fn origin_path(path: &Path) -> Result<PathBuf> {
    let (dir, name) = place(path, "score")?;
    Ok(origin_file(dir, &name))
}

/// The directory and the name of a file, which a flag names.
fn place<'a>(path: &'a Path, flag: &str) -> Result<(&'a Path, String)> {
    let name = path.file_name().ok_or_else(|| Error::Setting {
        setting: flag.into(),
        expected: "a file for answers".into(),
        found: path.display().to_string(),
    })?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    Ok((dir, name.to_string_lossy().into_owned()))
}

fn origin_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.origin.json"))
}

fn read_origin(path: &Path) -> Result<Origin> {
    let bytes = read_file(path, MAX_DATA_BYTES).map_err(|e| Error::read(path, e))?;
    strict_json::from_slice(&bytes).map_err(|e| Error::json(path, e))
}

/// Refuses a file whose answers come from other settings than those in the file `beside` it.
pub(crate) fn check_origin(beside: &Path, path: &Path, origin: &Origin) -> Result<()> {
    if !is_file(beside)? {
        return Err(Error::in_the_way(
            path,
            "nothing says where its answers come from; choose another file, or overwrite it",
        ));
    }
    let there = read_origin(beside)?;
    let keys = origin.keys().chain(there.keys());
    let keys = keys.filter(|key| !COUNTS.contains(&key.as_str()));
    let value = |origin: &Origin, key: &str| match origin.get(key) {
        Some(value) => value.clone(),
        None => "not set".into(),
    };
    for key in keys {
        let (expected, found) = (value(&there, key), value(origin, key));
        if expected != found {
            let (part, expected, found) = narrowed(key.clone(), expected, found);
            return Err(Error::OtherAnswers {
                path: path.to_owned(),
                part,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// The first key in which two JSON objects differ, with its values. Other texts stay as they are.
fn narrowed(part: String, expected: String, found: String) -> (String, String, String) {
    let parsed = [&expected, &found].map(|text| serde_json::from_str::<Value>(text));
    let [Ok(Value::Object(there)), Ok(Value::Object(here))] = parsed else {
        return (part, expected, found);
    };
    let mut keys = there.keys().chain(here.keys());
    let Some(key) = keys.find(|key| there.get(*key) != here.get(*key)) else {
        return (part, expected, found);
    };
    let text = |of: &Map<String, Value>| match of.get(key) {
        None => "not set".into(),
        Some(value) => value.to_string(),
    };
    narrowed(key.clone(), text(&there), text(&here))
}

/// The answers of an interrupted process, without a line that a kill cut off.
fn past(path: &Path, questions: &[Question]) -> Result<Vec<Answer>> {
    let bytes = read_file(path, MAX_DATA_BYTES).map_err(|e| Error::read(path, e))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |end| end + 1);
    let answers = parsed(path, &bytes[..whole])?;
    let asked: HashMap<&str, &Question> = questions.iter().map(|q| (&*q.id, q)).collect();
    for (i, answer) in answers.iter().enumerate() {
        let is_same = |question: &&Question| {
            (&question.prompt, &question.references) == (&answer.prompt, &answer.references)
        };
        let question = asked.get(answer.id.as_str()).ok_or_else(|| {
            let found = format!("\"{}\"; {OTHER_QUESTIONS}", answer.id);
            entry(path, i + 1, "the id of a question", &found)
        })?;
        if !is_same(question) {
            let expected = format!("prompt and references of question \"{}\"", answer.id);
            let found = format!("others; {OTHER_QUESTIONS}");
            return Err(entry(path, i + 1, &expected, &found));
        }
    }
    Ok(answers)
}

fn parsed(path: &Path, bytes: &[u8]) -> Result<Vec<Answer>> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    for (number, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let answer: Answer = strict_json::from_slice(line)
            .map_err(|e| entry(path, number, "an answer", &e.to_string()))?;
        if let Some(first) = seen.insert(answer.id.clone(), number) {
            let found = format!("\"{}\" as in line {first}", answer.id);
            return Err(entry(path, number, "an id that is not there yet", &found));
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn lines(answers: &[Answer]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut bytes, answer)
            .map_err(|e| Error::json(Path::new("answers"), e))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn entry(path: &Path, line: usize, expected: &str, found: &str) -> Error {
    Error::Entry {
        file: path.display().to_string(),
        place: format!("line {line}"),
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::evaluate::StopReason;

    pub(in crate::evaluate) fn questions(count: usize) -> Vec<Question> {
        let question = |i: usize| Question {
            id: format!("q-{i}"),
            prompt: format!("{i}?"),
            references: vec![i.to_string()],
        };
        (0..count).map(question).collect()
    }

    pub(in crate::evaluate) fn answer(question: &Question) -> Answer {
        Answer {
            id: question.id.clone(),
            prompt: question.prompt.clone(),
            references: question.references.clone(),
            answer: " so \u{2028} it is\n".into(),
            tokens: 3,
            stop: StopReason::StopText,
        }
    }

    fn origin(model: &str) -> Origin {
        Origin::from([("model".into(), model.into())])
    }

    #[test]
    fn a_cut_line_is_dropped_and_the_whole_file_has_the_order_of_the_questions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/answers.jsonl");
        let questions = questions(3);
        let open = || AnswerFile::open(&path, &questions, &origin("a"), false).unwrap();
        let mut file = open();
        file.append(vec![answer(&questions[2])]).unwrap();
        assert_eq!(file.finish(&questions).unwrap(), None);
        let mut cut = std::fs::read(&path).unwrap();
        cut.extend(&b"{\"id\":\"q-0\",\"pro"[..]);
        std::fs::write(&path, cut).unwrap();
        let mut file = open();
        assert_eq!(
            (file.count(), file.has("q-2"), file.has("q-0")),
            (1, true, false)
        );
        file.append(questions[..2].iter().map(answer).collect())
            .unwrap();
        let all = file.finish(&questions).unwrap().unwrap();
        let expected: Vec<Answer> = questions.iter().map(answer).collect();
        assert_eq!(all, expected);
        assert_eq!(read_answers(&path, Benchmark::Math).unwrap(), expected);
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 2, "the lock is gone: {names:?}");
    }

    #[test]
    fn answers_of_other_settings_are_refused_by_the_setting_and_replaced_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let questions = questions(1);
        let open =
            |model, overwrite| AnswerFile::open(&path, &questions, &origin(model), overwrite);
        let mut file = open("a", false).unwrap();
        file.append(vec![answer(&questions[0])]).unwrap();
        let in_use = open("a", false).unwrap_err().to_string();
        assert!(in_use.contains("in use"), "{in_use}");
        drop(file);
        let error = open("b", false).unwrap_err().to_string();
        assert!(error.contains("their model is a, now it is b"), "{error}");
        assert_eq!(open("b", true).unwrap().count(), 0);
        std::fs::remove_file(dir.path().join("answers.jsonl.origin.json")).unwrap();
        let error = open("b", false).unwrap_err().to_string();
        assert!(error.contains("in the way"), "{error}");
    }

    #[test]
    fn counts_of_questions_are_recorded_and_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let questions = questions(3);
        let noted = || recorded_note(&path, 1).unwrap();
        assert_eq!(noted(), None);
        for (asked, all, expected) in [
            (3, 9, "3 of 9 questions, evenly spaced; 2 not answered yet"),
            (3, 3, "2 not answered yet"),
            (1, 3, "1 of 3 questions, evenly spaced"),
        ] {
            let mut origin = origin("a");
            origin.extend(question_counts(asked, all));
            AnswerFile::open(&path, &questions, &origin, false).unwrap();
            assert_eq!(noted().as_deref(), Some(expected));
        }
        // An earlier version recorded no counts.
        AnswerFile::open(&path, &questions, &origin("a"), false).unwrap();
        assert_eq!(noted(), None);
    }

    #[test]
    fn a_setting_that_differs_is_the_only_one_named() {
        let narrowed = |there: &str, here: &str| {
            let (part, there, here) = narrowed("settings".into(), there.into(), here.into());
            format!("{part} {there} {here}")
        };
        let there = r#"{"a": 1, "d": {"Beam": {"beams": 2, "p": 1}}}"#;
        let here = r#"{"a": 1, "d": {"Beam": {"beams": 3, "p": 1}}}"#;
        assert_eq!(narrowed(there, here), "beams 2 3");
        assert_eq!(narrowed(r#"{"d": "Greedy"}"#, "{}"), "d \"Greedy\" not set");
        assert_eq!(narrowed("x", "y"), "settings x y");
    }

    #[test]
    fn wrong_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let two = questions(2);
        let line = |question: &Question| serde_json::to_string(&answer(question)).unwrap();
        let other = line(&Question {
            prompt: "else?".into(),
            ..two[0].clone()
        });
        for (text, resumed, scored) in [
            (
                "",
                None,
                Some("line 1: expected an answer, found an empty file"),
            ),
            (
                "{}\n",
                Some("line 1: expected an answer"),
                Some("line 1: expected an answer"),
            ),
            (
                &*format!("{}\n", other),
                Some("line 1: expected prompt and references"),
                None,
            ),
            (
                &*format!("{0}\n\n{0}\n", line(&two[0])),
                Some("line 3: expected an id that is not there yet, found \"q-0\" as in line 1"),
                Some("line 3"),
            ),
            (
                &*format!("{}\n", line(&questions(9)[8])),
                Some(
                    "line 1: expected the id of a question, found \"q-8\"; these answers are to other questions",
                ),
                None,
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::write(dir.path().join("answers.jsonl.origin.json"), "{}").unwrap();
            let found = AnswerFile::open(&path, &two, &Origin::new(), false);
            let says = |found: Option<String>, expected: Option<&str>| match (found, expected) {
                (Some(error), Some(words)) => assert!(error.contains(words), "{text}: {error}"),
                (found, expected) => assert_eq!(found.as_deref(), expected, "{text}"),
            };
            says(found.err().map(|error| error.to_string()), resumed);
            says(
                read_answers(&path, Benchmark::Math)
                    .err()
                    .map(|error| error.to_string()),
                scored,
            );
        }
    }
}
