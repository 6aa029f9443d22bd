//! `vblora evaluate gsm8k` and `vblora evaluate math`: answers to problems, and several scorers side by side.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use vblora::storage::write_atomically;

use super::answers::{ANSWERS, AnswerArguments, Found, SCORES, Scored};
use crate::{
    Error,
    evaluate::{
        Answer, Benchmark, Evaluation,
        math::{GSM8K, MATH, PromptForm, Scorer},
    },
    program::say,
};

/// Answer GSM8K's problems with a model and score the answers by several rules
///
/// The first row of the table is the rule of the paper's authors. `--scorer` chooses another headline.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora evaluate gsm8k --model path/to/model --data gsm8k/test.jsonl --out answers.jsonl
vblora evaluate gsm8k --score answers.jsonl")]
pub(super) struct Gsm8kArguments {
    #[command(flatten)]
    common: CommonArguments,
}

/// Answer problems of MATH with a model and score the answers by several rules
///
/// The first row of the table is the rule of the paper's authors, without sympy. Their mistake, which counts some answers as right unseen, is
/// not repeated.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora evaluate math --model path/to/model --data math/test.jsonl --out answers.jsonl --limit 500
vblora evaluate math --score answers.jsonl")]
pub(super) struct MathArguments {
    #[command(flatten)]
    common: CommonArguments,
}

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, Args)]
struct CommonArguments {
    #[command(flatten)]
    answers: AnswerArguments,
    /// Form of the prompt [default: metamath]
    #[arg(
        long,
        value_name = "FORM",
        requires = "model",
        conflicts_with = "score",
        help_heading = ANSWERS
    )]
    prompt: Option<PromptForm>,
    /// Scorer of the headline, the table's first row
    #[arg(long, value_name = "NAME", help_heading = SCORES)]
    scorer: Option<String>,
    /// Write each answer with its expected answer as JSON lines, for math-verify
    #[arg(long, value_name = "FILE", help_heading = SCORES)]
    export: Option<PathBuf>,
}

impl Gsm8kArguments {
    /// Returns true if several processes share the work.
    pub(super) fn is_shared(&self) -> bool {
        self.common.answers.is_shared()
    }
}

impl MathArguments {
    /// Returns true if several processes share the work.
    pub(super) fn is_shared(&self) -> bool {
        self.common.answers.is_shared()
    }
}

pub(super) fn gsm8k(arguments: &Gsm8kArguments) -> Result<ExitCode> {
    run(&arguments.common, Benchmark::Gsm8k, &GSM8K)
}

pub(super) fn math(arguments: &MathArguments) -> Result<ExitCode> {
    run(&arguments.common, Benchmark::Math, &MATH)
}

fn run(arguments: &CommonArguments, benchmark: Benchmark, scorers: &[Scorer]) -> Result<ExitCode> {
    let headline = headline(arguments, scorers)?;
    arguments.answers.check_apart(arguments.export.as_deref())?;
    let settings = Evaluation {
        prompt: arguments.prompt,
        ..Evaluation::default()
    };
    let mut scored = match arguments.answers.scored(benchmark, &settings)? {
        Found::Scored(scored) => scored,
        Found::Elsewhere => return Ok(ExitCode::SUCCESS),
        Found::Interrupted => return Ok(ExitCode::FAILURE),
    };
    scored.scores.sort_by_key(|score| score.name != headline);
    if let Some(file) = &arguments.export {
        export(&scored, file)?;
    }
    say(scored.accuracies());
    for scorer in scorers {
        say(format!("{}: {}", scorer.name, scorer.about));
    }
    Ok(ExitCode::SUCCESS)
}

fn headline(arguments: &CommonArguments, scorers: &[Scorer]) -> Result<&'static str> {
    let Some(name) = &arguments.scorer else {
        return Ok(scorers[0].name);
    };
    let found = scorers.iter().find(|scorer| scorer.name == name);
    let names: Vec<_> = scorers.iter().map(|scorer| scorer.name).collect();
    let unknown = || Error::UnknownName {
        what: "scorer",
        name: name.clone(),
        expected: names.join(", "),
    };
    Ok(found.ok_or_else(unknown)?.name)
}

/// Writes lines of `id`, `gold` and `answer`. math-verify's `parse` reads both texts; the gold answer is in a box, since it looks for LaTeX.
fn export(scored: &Scored, file: &Path) -> Result<()> {
    let line = |answer: &Answer| {
        let gold = format!("\\boxed{{{}}}", answer.references[0]);
        format!(
            "{}\n",
            json!({"id": answer.id, "gold": gold, "answer": answer.answer})
        )
    };
    let lines: String = scored.answers.iter().map(line).collect();
    Ok(write_atomically(file, lines.as_bytes())?)
}
