//! `vblora evaluate mtbench judge`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use super::question_file;
use crate::{
    commands::{apart::check_apart, progress},
    evaluate::mtbench::{
        AnswerFile, ApiKey, Desk, Endpoint, JudgePrompts, Judging, Judgment, JudgmentFile,
        Material, OPENAI, Outcome, Patience, Questions, Request, answer_file, is_local, json_line,
        judgment_file, left, models, reference_file,
    },
    program::{complain, is_interrupted, listen, say},
};

/// The environment variable with the key of OpenAI.
const OPENAI_KEY: &str = "OPENAI_API_KEY";

/// The longest wait for an answer, in seconds: a day.
const LONGEST_TIMEOUT: u64 = 86_400;

// Headings of the help.
const JUDGMENTS: &str = "Judgments";
const ENDPOINT: &str = "Endpoint";

/// Have answers judged by a model behind an OpenAI-compatible endpoint
///
/// Sends FastChat's prompts and appends to OUT/model_judgment/JUDGE_single.jsonl. Judgments that are there are not asked for again, so a
/// killed command goes on where it stopped. The key comes from the environment and is never written or shown.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora evaluate mtbench judge --judge gpt-4-0613 --references gpt-4.jsonl --out mt_bench
vblora evaluate mtbench judge --judge m --base-url http://localhost/v1 --out mt_bench --dry-run")]
pub(super) struct Arguments {
    /// Folder of the benchmark, like FastChat's data/mt_bench
    #[arg(long, value_name = "DIR", help_heading = JUDGMENTS)]
    out: PathBuf,
    /// Name of the judge's model
    #[arg(long, value_name = "NAME", help_heading = JUDGMENTS)]
    judge: String,
    /// Models to judge, separated by commas [default: all of OUT/model_answer]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = JUDGMENTS)]
    models: Vec<String>,
    /// Judge only the first turn
    #[arg(long, help_heading = JUDGMENTS)]
    first_turn: bool,
    /// Judge again where there is no rating
    #[arg(long, help_heading = JUDGMENTS)]
    again: bool,
    /// Judge each answer N times; its score is the median
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = JUDGMENTS)]
    repeat: usize,
    /// Print the requests as JSON lines and send nothing
    #[arg(long, help_heading = JUDGMENTS)]
    dry_run: bool,
    /// File of questions [default: OUT/question.jsonl]
    #[arg(long, value_name = "FILE", help_heading = JUDGMENTS)]
    questions: Option<PathBuf>,
    /// File of the judge's prompts [default: judge_prompts.jsonl in OUT or above it]
    #[arg(long, value_name = "FILE", help_heading = JUDGMENTS)]
    prompts: Option<PathBuf>,
    /// File of reference answers [default: OUT/reference_answer/JUDGE.jsonl]
    #[arg(long, value_name = "FILE", help_heading = JUDGMENTS)]
    references: Option<PathBuf>,
    /// Address below which chat/completions lies
    #[arg(long, value_name = "URL", default_value = OPENAI, help_heading = ENDPOINT)]
    base_url: String,
    /// Environment variable with the key [default: OPENAI_API_KEY for OpenAI, none for other addresses]
    #[arg(long, value_name = "VARIABLE", help_heading = ENDPOINT)]
    api_key_env: Option<String>,
    /// Requests at a time
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = ENDPOINT)]
    parallel: usize,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 300, help_heading = ENDPOINT)]
    timeout: u64,
    /// Times to ask for a judgment, with growing waits between
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = ENDPOINT)]
    tries: usize,
}

/// Judges what has no judgment yet.
///
/// # Errors
/// A file cannot be read, or does not fit the questions; the endpoint does not work. The judgments that were made stay.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    let path = judgment_file(&arguments.out, &arguments.judge)?;
    let given = [
        ("--questions", &arguments.questions),
        ("--prompts", &arguments.prompts),
        ("--references", &arguments.references),
    ];
    let given = given.into_iter();
    let given = given.filter_map(|(flag, path)| Some((flag, path.as_deref()?)));
    check_apart(
        &[("the file of judgments", &path)],
        &given.collect::<Vec<_>>(),
    )?;
    let requests = arguments.requests()?;
    if arguments.dry_run {
        return arguments.rehearse(&path, &requests);
    }
    let judging = Judging {
        parallel: arguments.parallel,
        repeat: arguments.repeat,
        again: arguments.again,
    };
    let endpoint = arguments.endpoint()?;
    let interrupted = listen().context("cannot listen for Ctrl-C")?;
    let mut desk = Desk::open(&path, judging)?;
    let all = desk.left(&requests)? * arguments.repeat;
    let bar = progress::bar(all as u64, "judgments");
    let mut count = 0;
    let mut hear = |judgment: &Judgment| {
        count += 1;
        bar.set_position(count);
        if let Some(reason) = &judgment.error {
            bar.suspend(|| complain(format!("{}: no judgment: {reason}", named(judgment))));
        } else if bar.is_hidden() {
            let name = named(judgment);
            complain(format!("{count} of {all}: {name}: {}", judgment.score));
        }
    };
    let outcome = desk.judge(&requests, &endpoint, &mut hear, interrupted);
    bar.finish_and_clear();
    report(&outcome?, &path);
    Ok(())
}

fn named(judgment: &Judgment) -> String {
    let Judgment {
        question_id,
        turn,
        model,
        ..
    } = judgment;
    format!("question {question_id}, turn {turn}, {model}")
}

fn report(outcome: &Outcome, path: &Path) {
    let Outcome {
        judged,
        failed,
        requests,
    } = outcome;
    say(format!("judged {judged} of {requests}: {}", path.display()));
    if *failed > 0 {
        say(format!(
            "{failed} have no rating; --again judges them again"
        ));
    }
    let left = requests - judged - failed;
    if left > 0 {
        say(format!("{left} are left; the same command goes on"));
    }
    if is_interrupted() {
        complain("interrupted");
    }
}

impl Arguments {
    fn check(&self) -> Result<()> {
        for (flag, value) in [
            ("--parallel", self.parallel),
            ("--repeat", self.repeat),
            ("--tries", self.tries),
        ] {
            ensure!(value > 0, "{flag} must be at least 1, found 0");
        }
        ensure!(
            (1..=LONGEST_TIMEOUT).contains(&self.timeout),
            "--timeout must be 1 to {LONGEST_TIMEOUT}, found {}",
            self.timeout
        );
        ensure!(
            self.parallel <= 256,
            "--parallel must be at most 256, found {}",
            self.parallel
        );
        Ok(())
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let is_openai = self.base_url.trim_end_matches('/') == OPENAI;
        // A key of one service is not for another.
        let default = is_openai.then_some(OPENAI_KEY);
        let variable = self.api_key_env.as_deref().or(default);
        let key = variable.map(ApiKey::from_env).transpose()?;
        let is_plain = self.base_url.starts_with("http://") && !is_local(&self.base_url);
        if key.is_some() && is_plain {
            complain("warning: the key goes over plain HTTP, where others can read it");
        }
        let patience = Patience {
            timeout: Duration::from_secs(self.timeout),
            tries: self.tries,
            ..Patience::default()
        };
        Ok(Endpoint::new(&self.base_url, key, patience)?)
    }

    /// All requests for the answers that are there.
    fn requests(&self) -> Result<Vec<Request>> {
        let questions = Questions::read(&question_file(self.questions.as_ref(), &self.out))?;
        let names = match self.models.is_empty() {
            true => models(&self.out.join("model_answer"))?,
            false => self.models.clone(),
        };
        ensure!(
            !names.is_empty(),
            "{}: no answers; `vblora evaluate mtbench answer` makes them",
            self.out.join("model_answer").display()
        );
        let mut answers = BTreeMap::new();
        for name in names {
            let file = AnswerFile::read(&answer_file(&self.out, &name)?, &questions)?;
            let (found, all) = (file.len(), questions.all.len());
            if found < all {
                complain(format!(
                    "{name} has answered {found} of {all} questions; the others are not judged"
                ));
            }
            answers.insert(name, file);
        }
        let references = match &self.references {
            Some(path) => Some(AnswerFile::read_references(path, &questions)?),
            None => {
                let path = reference_file(&self.out, &self.judge);
                let read = || AnswerFile::read_references(&path, &questions);
                path.exists().then(read).transpose()?
            }
        };
        let material = Material {
            questions: &questions,
            answers: &answers,
            references: references.as_ref(),
            prompts: &JudgePrompts::read(&self.prompt_file())?,
        };
        let turns = if self.first_turn { 1 } else { 2 };
        Ok(material.requests(&self.judge, turns)?)
    }

    fn prompt_file(&self) -> PathBuf {
        const NAME: &str = "judge_prompts.jsonl";
        let inside = self.out.join(NAME);
        match &self.prompts {
            Some(path) => path.clone(),
            None if inside.exists() => inside,
            // FastChat has it beside the folders of its benchmarks.
            None => self.out.parent().unwrap_or(Path::new("..")).join(NAME),
        }
    }

    /// Prints what would be sent.
    fn rehearse(&self, path: &Path, requests: &[Request]) -> Result<()> {
        let judgments = match path.exists() {
            true => JudgmentFile::read(path)?,
            false => Vec::new(),
        };
        let left = left(path, &judgments, requests, self.again)?;
        let mut letters = 0;
        for request in &left {
            letters += request.system.chars().count() + request.user.chars().count();
            let key = &request.key;
            let line = json!({
                "question_id": key.question_id,
                "model": key.model,
                "turn": key.turn,
                "prompt": key.judge[1],
                "body": request.body(),
            });
            say(json_line(&line)?);
        }
        complain(format!(
            "{} of {} judgments would be asked for, {}: {letters} characters",
            left.len(),
            requests.len(),
            match self.repeat {
                1 => "once each".into(),
                times => format!("{times} times each"),
            }
        ));
        Ok(())
    }
}
