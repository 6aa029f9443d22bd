//! Judging: requests to an endpoint by several workers, and their judgments into a file.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use serde_json::Number;

use super::{
    FAILED, Judgment, JudgmentFile, Key, Request,
    answers::{ENDING, now},
    client::{Endpoint, Failure},
    rating::{NO_RATING, rating},
};
use crate::{Error, Result, directory::DirLock};

/// So many judgments in a row without an answer end the work: the endpoint does not work.
const FAILURES: usize = 5;

/// How judgments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judging {
    /// The number of requests at a time.
    pub parallel: usize,
    /// The number of judgments of an answer. The score is their median.
    pub repeat: usize,
    /// Judges answers again whose judgments have no rating.
    pub again: bool,
}

/// The file of a judge's judgments in a folder of the benchmark.
///
/// # Errors
/// The judge's name would lead out of the folder.
pub fn judgment_file(out: &Path, judge: &str) -> Result<PathBuf> {
    let parts: Vec<_> = judge.split('/').collect();
    let leads_out = |part: &&str| matches!(*part, "" | "." | "..") || part.contains(['\\', '\0']);
    if parts.iter().any(leads_out) {
        return Err(Error::Setting {
            setting: "judge".into(),
            expected: "the name of a model, which names a file as well".into(),
            found: format!("{judge:?}"),
        });
    }
    Ok(out
        .join("model_judgment")
        .join(format!("{judge}_single.{ENDING}")))
}

/// The requests without a judgment in a judge's file. With `again` a judgment without a rating does not count.
///
/// # Errors
/// A judgment is of another user message than its request has, because the answer, reference or prompt was changed after it.
pub fn left<'a>(
    path: &Path,
    judgments: &[Judgment],
    requests: &'a [Request],
    again: bool,
) -> Result<Vec<&'a Request>> {
    let counting = judgments.iter().filter(|judgment| counts(judgment, again));
    let there: HashMap<Key, &Judgment> = counting.map(|found| (found.key(), found)).collect();
    let mut left = Vec::new();
    for request in requests {
        match there.get(&request.key) {
            Some(judgment) => check_message(path, judgment, request)?,
            None => left.push(request),
        }
    }
    Ok(left)
}

/// Returns true if an answer with this judgment is not judged again.
fn counts(judgment: &Judgment, again: bool) -> bool {
    !again || judgment.rated().is_some()
}

fn check_message(path: &Path, judgment: &Judgment, request: &Request) -> Result<()> {
    if judgment.user_prompt == request.user {
        return Ok(());
    }
    let Key {
        question_id,
        model,
        turn,
        ..
    } = &request.key;
    Err(Error::Entry {
        file: path.display().to_string(),
        place: format!("question {question_id}, turn {turn}, model {model}"),
        expected: "a judgment of the present answer".into(),
        found: "one of another user_prompt; remove its line to judge again".into(),
    })
}

/// One judgment that a worker asks for.
#[derive(Debug, Clone, Copy)]
struct Job<'a> {
    request: &'a Request,
    run: usize,
}

/// A job with the endpoint's answer.
struct Heard<'a> {
    job: Job<'a>,
    judgment: std::result::Result<String, Failure>,
}

/// The judgments of one judge, and the work that is left. One process at a time has it.
#[derive(Debug)]
pub struct Desk {
    file: JudgmentFile,
    /// Single judgments, where a score is the median of several.
    runs: Option<JudgmentFile>,
    /// The number of single judgments that an answer still needs.
    pending: HashMap<Key, usize>,
    judging: Judging,
    path: PathBuf,
    _lock: DirLock,
}

/// The counts after judging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Judgments with a rating among the requests.
    pub judged: usize,
    /// Judgments without one.
    pub failed: usize,
    /// All requests.
    pub requests: usize,
}

impl Desk {
    /// Opens the files of a judge's judgments, or makes them.
    ///
    /// # Errors
    /// Another process judges; a file cannot be read or written, or has judgments of another number of runs.
    pub fn open(path: &Path, judging: Judging) -> Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let lock = DirLock::take(dir, &format!("{name}.lock"))?;
        let file = JudgmentFile::open(path)?;
        let runs = match judging.repeat {
            0 | 1 => None,
            _ => Some(JudgmentFile::open(&path.with_extension("runs.jsonl"))?),
        };
        let desk = Self {
            file,
            runs,
            pending: HashMap::new(),
            judging,
            path: path.to_owned(),
            _lock: lock,
        };
        desk.check_runs()?;
        Ok(desk)
    }

    /// Refuses medians of another number of runs.
    fn check_runs(&self) -> Result<()> {
        let repeat = self.judging.repeat.max(1);
        let runs = |judgment: &Judgment| judgment.scores.as_ref().map_or(1, Vec::len);
        let others = self.file.judgments().iter().map(runs);
        match others.into_iter().find(|runs| *runs != repeat) {
            None => Ok(()),
            Some(runs) => Err(Error::OtherRun {
                place: self.path.clone(),
                part: "number of judgments of an answer (--repeat)".into(),
                expected: runs.to_string(),
                found: repeat.to_string(),
            }),
        }
    }

    /// The number of answers without a judgment.
    ///
    /// # Errors
    /// As [`left()`].
    pub fn left(&self, requests: &[Request]) -> Result<usize> {
        Ok(self.requests_left(requests)?.len())
    }

    fn requests_left<'a>(&self, requests: &'a [Request]) -> Result<Vec<&'a Request>> {
        let judgments = self.file.judgments();
        left(&self.path, judgments, requests, self.judging.again)
    }

    /// Asks for all judgments that are left. Each is in the file as soon as it is made. After `interrupted` is set, no more are asked for.
    ///
    /// `hear` is told each judgment.
    ///
    /// # Errors
    /// The endpoint refuses every request, or has not answered several in a row; a file cannot be written; a judgment is of an earlier
    /// answer. The judgments that were made stay.
    pub fn judge(
        &mut self,
        requests: &[Request],
        endpoint: &Endpoint,
        hear: &mut dyn FnMut(&Judgment),
        interrupted: &AtomicBool,
    ) -> Result<Outcome> {
        let queue = Mutex::new(self.jobs(requests)?.into_iter());
        let stop = AtomicBool::new(false);
        let is_over = || stop.load(Ordering::Relaxed) || interrupted.load(Ordering::Relaxed);
        let made = thread::scope(|scope| {
            let (sender, heard) = channel();
            for _ in 0..self.judging.parallel.max(1) {
                let (sender, queue, is_over, stop) = (sender.clone(), &queue, &is_over, &stop);
                scope.spawn(move || work(queue, endpoint, &sender, is_over, stop));
            }
            drop(sender);
            self.collect(heard, endpoint, hear, &stop)
        });
        self.file.tidy()?;
        if let Some(runs) = &mut self.runs {
            runs.tidy()?;
        }
        made?;
        Ok(self.outcome(requests))
    }

    /// The single judgments to ask for, those of an answer one after the other. Medians that a killed process did not write are written.
    fn jobs<'a>(&mut self, requests: &'a [Request]) -> Result<Vec<Job<'a>>> {
        let mut jobs = Vec::new();
        let again = self.judging.again;
        for request in self.requests_left(requests)? {
            let there = self.runs_of(&request.key);
            for judgment in there.iter().filter(|judgment| counts(judgment, again)) {
                let path = self.runs.as_ref().map_or(&*self.path, JudgmentFile::path);
                check_message(path, judgment, request)?;
            }
            let is_there = |run: &usize| {
                let found = there.iter().find(|judgment| judgment.run == Some(*run));
                found.is_some_and(|judgment| counts(judgment, again))
            };
            let runs = 1..=self.judging.repeat.max(1);
            let runs: Vec<_> = runs.filter(|run| !is_there(run)).collect();
            if runs.is_empty() {
                self.file.append(median(there))?;
            } else {
                self.pending.insert(request.key.clone(), runs.len());
            }
            jobs.extend(runs.into_iter().map(|run| Job { request, run }));
        }
        Ok(jobs)
    }

    /// The latest judgment of each run of an answer.
    fn runs_of(&self, key: &Key) -> Vec<Judgment> {
        let all = self.runs.iter().flat_map(JudgmentFile::judgments);
        let of_key = all.filter(|judgment| judgment.key() == *key);
        let latest: BTreeMap<_, _> = of_key.map(|judgment| (judgment.run, judgment)).collect();
        latest.into_values().cloned().collect()
    }

    /// Writes what the workers hear until all have ended. The first error tells them to end.
    fn collect(
        &mut self,
        heard: Receiver<Heard<'_>>,
        endpoint: &Endpoint,
        hear: &mut dyn FnMut(&Judgment),
        stop: &AtomicBool,
    ) -> Result<()> {
        let mut in_a_row = 0;
        let mut outcome = Ok(());
        for Heard { job, judgment } in heard {
            let (text, error) = match judgment {
                Ok(text) => (text, None),
                Err(Failure::This(reason)) => (FAILED.to_owned(), Some(reason)),
                Err(Failure::All(reason)) => {
                    outcome = outcome.and(Err(failed(endpoint, reason)));
                    continue;
                }
                Err(Failure::Interrupted) => continue,
            };
            in_a_row = if error.is_some() { in_a_row + 1 } else { 0 };
            let judgment = judgment_of(job.request, text, error);
            hear(&judgment);
            let reason = judgment.error.clone().filter(|_| in_a_row >= FAILURES);
            let mut done = self.add(job, judgment);
            if let Some(reason) = reason {
                let reason =
                    format!("{in_a_row} judgments in a row failed, the last one: {reason}");
                done = done.and(Err(failed(endpoint, reason)));
            }
            if done.is_err() {
                stop.store(true, Ordering::Relaxed);
                outcome = outcome.and(done);
            }
        }
        outcome
    }

    /// Writes a judgment. The last of several runs also writes their median.
    fn add(&mut self, job: Job<'_>, judgment: Judgment) -> Result<()> {
        let Some(runs) = &mut self.runs else {
            return self.file.append(judgment);
        };
        let run = Some(job.run);
        runs.append(Judgment { run, ..judgment })?;
        let key = &job.request.key;
        let pending = self.pending.entry(key.clone()).or_default();
        *pending = pending.saturating_sub(1);
        match *pending {
            0 => self.file.append(median(self.runs_of(key))),
            _ => Ok(()),
        }
    }

    fn outcome(&self, requests: &[Request]) -> Outcome {
        let mut latest = HashMap::new();
        for judgment in self.file.judgments() {
            let is_rated: &mut bool = latest.entry(judgment.key()).or_default();
            *is_rated |= judgment.rated().is_some();
        }
        let count = |rated: bool| {
            let found = requests
                .iter()
                .filter_map(|request| latest.get(&request.key));
            found.filter(|is_rated| **is_rated == rated).count()
        };
        Outcome {
            judged: count(true),
            failed: count(false),
            requests: requests.len(),
        }
    }
}

fn failed(endpoint: &Endpoint, reason: String) -> Error {
    Error::Endpoint {
        address: endpoint.address().to_owned(),
        reason,
    }
}

/// Asks for one judgment after the other until none is left, or until it is known that no other would succeed.
fn work<'a>(
    queue: &Mutex<impl Iterator<Item = Job<'a>>>,
    endpoint: &Endpoint,
    to: &Sender<Heard<'a>>,
    is_over: &dyn Fn() -> bool,
    stop: &AtomicBool,
) {
    while !is_over() {
        // A worker that panicked has left the queue whole.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(job) = next else {
            return;
        };
        let judgment = endpoint.ask(&job.request.body(), is_over);
        if matches!(judgment, Err(Failure::All(_))) {
            stop.store(true, Ordering::Relaxed);
        }
        if to.send(Heard { job, judgment }).is_err() {
            return;
        }
    }
}

fn judgment_of(request: &Request, judgment: String, error: Option<String>) -> Judgment {
    let Key {
        question_id,
        model,
        judge,
        turn,
    } = request.key.clone();
    let found = rating(&judgment).filter(|_| error.is_none());
    Judgment {
        question_id,
        model,
        judge,
        user_prompt: request.user.clone(),
        judgment,
        score: found.map_or(NO_RATING.into(), |rating| rating.score),
        turn,
        tstamp: now(),
        error,
        run: None,
        scores: None,
    }
}

/// The judgment with the median score of several. Its text is that of the run with this score, or with the score below, where the median
/// lies between two. Runs without a rating do not count; if none has one, neither has the median.
fn median(runs: Vec<Judgment>) -> Judgment {
    let scores: Vec<Number> = runs.iter().map(|judgment| judgment.score.clone()).collect();
    let (mut rated, mut others): (Vec<_>, Vec<_>) = runs
        .into_iter()
        .partition(|judgment| judgment.rated().is_some());
    rated.sort_by(|a, b| {
        a.score
            .as_f64()
            .unwrap_or(0.0)
            .total_cmp(&b.score.as_f64().unwrap_or(0.0))
    });
    let middle = rated.len().saturating_sub(1) / 2;
    let between = match rated.len() % 2 {
        0 => rated.get(middle + 1).and_then(Judgment::rated),
        _ => None,
    };
    let mut judgment = match rated.is_empty() {
        true => others.swap_remove(0),
        false => rated.swap_remove(middle),
    };
    if let (Some(above), Some(below)) = (between, judgment.rated())
        && above != below
        && let Some(mean) = Number::from_f64(f64::midpoint(below, above))
    {
        judgment.score = mean;
    }
    Judgment {
        run: None,
        scores: Some(scores),
        ..judgment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run: usize, score: f64) -> Judgment {
        let request = Request {
            key: Key {
                question_id: 81,
                model: "m".into(),
                judge: ["j".into(), "p".into()],
                turn: 1,
            },
            system: String::new(),
            user: String::new(),
        };
        let score = Number::from_f64(score).unwrap();
        Judgment {
            run: Some(run),
            score,
            ..judgment_of(&request, format!("text {run}"), None)
        }
    }

    #[test]
    fn the_median_leaves_out_failures_and_keeps_a_text() {
        let of = |scores: &[f64]| {
            let runs = (1..).zip(scores).map(|(number, score)| run(number, *score));
            let found = median(runs.collect());
            let scores = found.scores.unwrap().len();
            (found.score.as_f64().unwrap(), found.judgment, scores)
        };
        assert_eq!(of(&[9.0, 2.0, 5.0]), (5.0, "text 3".into(), 3));
        assert_eq!(of(&[9.0, 4.0]), (6.5, "text 2".into(), 2));
        assert_eq!(of(&[-1.0, 4.0, -1.0]), (4.0, "text 2".into(), 3));
        assert_eq!(of(&[-1.0, -1.0]), (-1.0, "text 1".into(), 2));
    }

    #[test]
    fn a_judge_names_its_file_and_no_other() {
        let out = Path::new("out");
        let file = |judge| judgment_file(out, judge).map(|path| path.display().to_string());
        assert_eq!(
            file("gpt-4").unwrap(),
            "out/model_judgment/gpt-4_single.jsonl"
        );
        assert!(
            file("meta/llama-3.1")
                .unwrap()
                .ends_with("meta/llama-3.1_single.jsonl")
        );
        for judge in ["", "..", "../x", "/x", "a//b", r"a\b"] {
            file(judge).unwrap_err();
        }
    }
}
