//! `vblora evaluate mtbench show`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::question_file;
use crate::{
    evaluate::{
        Origin,
        mtbench::{
            Doubt, JudgmentFile, ModelScores, Questions, Summary, TurnScores, answer_file,
            judgment_file, summarise,
        },
    },
    program::say,
    report::{Align, Table},
};

/// The end of the name of a file of judgments.
const ENDING: &str = "_single.jsonl";

/// The number of judgments that a note lists.
const LISTED: usize = 10;

/// Show the scores of judged answers
///
/// First come FastChat's three tables, in its own text. Means by category and turn follow, and the number of judgments without a rating, which
/// the means leave out. Ratings that the judge may not have meant are listed last.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora evaluate mtbench show --out data/mt_bench
vblora evaluate mtbench show --out data/mt_bench --judge gpt-4 --json")]
pub(super) struct Arguments {
    /// Folder of the benchmark, like FastChat's data/mt_bench
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the judge's model [default: the only one with judgments]
    #[arg(long, value_name = "NAME")]
    judge: Option<String>,
    /// File of judgments, instead of --judge
    #[arg(long, value_name = "FILE", conflicts_with = "judge")]
    file: Option<PathBuf>,
    /// File of questions, for their categories [default: OUT/question.jsonl]
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Print all numbers as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the scores.
///
/// # Errors
/// There is no file of judgments or more than one; a file cannot be read.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.judgments()?;
    let judgments = JudgmentFile::read(&path)?;
    ensure!(
        !judgments.is_empty(),
        "{}: no judgment in this file; `vblora evaluate mtbench judge` makes them",
        path.display()
    );
    let questions = question_file(arguments.questions.as_ref(), &arguments.out);
    let questions = match arguments.questions.is_some() || questions.exists() {
        true => Some(Questions::read(&questions)?),
        false => None,
    };
    let summary = summarise(&judgments, questions.as_ref());
    let name = path.display().to_string();
    if arguments.json {
        let mut value = json!({"file": name});
        if let (Some(object), serde_json::Value::Object(fields)) =
            (value.as_object_mut(), serde_json::to_value(&summary)?)
        {
            object.extend(fields);
        }
        say(serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let mut text = summary.tables(&name);
    for (model, scores) in &summary.models {
        text += &format!("\n########## {model} ##########\n");
        text += &format!("{}\n", template(&arguments.out, model));
        if !scores.categories.is_empty() {
            text += &categories(scores);
        }
        text += &counts(scores);
    }
    text += &notes(&summary, questions.is_some());
    say(text.trim_end());
    Ok(())
}

impl Arguments {
    /// The file of judgments.
    fn judgments(&self) -> Result<PathBuf> {
        match (&self.file, &self.judge) {
            (Some(file), _) => Ok(file.clone()),
            (None, Some(judge)) => Ok(judgment_file(&self.out, judge)?),
            (None, None) => only(&self.out.join("model_judgment")),
        }
    }
}

/// The only file of judgments in a folder.
fn only(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut judges: Vec<String> = names
        .filter_map(|name| name.strip_suffix(ENDING).map(str::to_owned))
        .collect();
    judges.sort();
    match &judges[..] {
        [judge] => Ok(folder.join(format!("{judge}{ENDING}"))),
        [] => bail!(
            "{}: no file of judgments; `vblora evaluate mtbench judge` makes one",
            folder.display()
        ),
        several => bail!(
            "{}: judgments of {}; choose one with --judge",
            folder.display(),
            several.join(", ")
        ),
    }
}

/// With which template the model has answered, if there is a record of it.
fn template(out: &Path, model: &str) -> String {
    let record = answer_file(out, model).map(|path| path.with_extension("json"));
    let bytes = record.ok().and_then(|path| std::fs::read(path).ok());
    let origin: Option<Origin> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match origin.as_ref().and_then(|origin| origin.get("template")) {
        Some(template) => format!("Answered with template {template}."),
        None => "No record says with which template it answered.".into(),
    }
}

fn categories(scores: &ModelScores) -> String {
    let columns = ["first turn", "judged", "second turn", "judged"];
    let columns = columns.map(|name| (name, Align::Right));
    let mut table = Table::new([("category", Align::Left)].into_iter().chain(columns));
    let cells = |of: &TurnScores| {
        let mean = of.mean.map_or("-".into(), |mean| format!("{mean:.2}"));
        [mean, of.judged.to_string()]
    };
    for (name, of) in &scores.categories {
        let row = [name.clone()].into_iter();
        table.row(row.chain(cells(&of.first)).chain(cells(&of.second)));
    }
    format!("{table}\n")
}

fn counts(scores: &ModelScores) -> String {
    let ModelScores {
        judged,
        failed,
        refused,
        ..
    } = scores;
    let mut text = format!("Judged {judged} of {}", judged + failed);
    if *failed > 0 {
        text += &format!(
            "; the means leave out {failed} without a rating, {refused} of them without an answer of the judge"
        );
    }
    text + ".\n"
}

/// Who judged and when, and what a reader should know before comparing the scores.
fn notes(summary: &Summary, has_categories: bool) -> String {
    let mut lines = Vec::new();
    let judges: Vec<_> = summary.judges.keys().map(String::as_str).collect();
    let day = |seconds: f64| {
        let time = Timestamp::from_second(seconds as i64).unwrap_or_default();
        time.strftime("%Y-%m-%d").to_string()
    };
    if let Some([first, last]) = summary.times {
        let days = match (day(first), day(last)) {
            (first, last) if first == last => first,
            (first, last) => format!("{first} to {last}"),
        };
        lines.push(format!(
            "Judge: {}, {days}; judgments of an answer: {}.",
            judges.join(", "),
            summary.runs
        ));
    }
    if !has_categories {
        lines.push("No means by category: there is no file of questions.".into());
    }
    let noted = [
        (&summary.off_scale, "ratings are outside 1 to 10"),
        (
            &summary.by_backup,
            "ratings stand in single brackets, which may be a citation",
        ),
    ];
    for (doubts, what) in noted {
        if !doubts.is_empty() {
            lines.push(format!(
                "{} {what}; they count: {}.",
                doubts.len(),
                listed(doubts)
            ));
        }
    }
    if summary.unknown > 0 {
        lines.push(format!(
            "{} judgments are of other questions than those in the file of questions; they count in no category.",
            summary.unknown
        ));
    }
    if summary.repeated > 0 {
        lines.push(format!(
            "{} judgments are repeated in the file; FastChat counts each.",
            summary.repeated
        ));
    }
    format!("\n{}\n", lines.join("\n"))
}

fn listed(doubts: &[Doubt]) -> String {
    let doubt = |doubt: &Doubt| {
        let Doubt {
            question_id,
            model,
            turn,
            score,
        } = doubt;
        format!("{score} for {model} on question {question_id}, turn {turn}")
    };
    let mut listed: Vec<_> = doubts.iter().take(LISTED).map(doubt).collect();
    if doubts.len() > LISTED {
        listed.push(format!(
            "and {} more (--json lists all)",
            doubts.len() - LISTED
        ));
    }
    listed.join("; ")
}
