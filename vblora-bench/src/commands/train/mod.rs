//! `vblora train`: trains an encoder on a task with labels, or a causal model on prompts and responses.

mod answers;
mod arguments;
mod causal;
mod encoder;
mod kind;
mod recipe;
pub(super) mod repeat;
mod schedule;
mod table;

use std::{borrow::Cow, process::ExitCode, sync::atomic::AtomicBool};

use anyhow::{Context, Result};
use vblora::backend::BackendKind;
use vblora_models::ModelFiles;

pub use arguments::Arguments;

use self::arguments::OutputArguments;
use super::models;
use crate::{
    group::Job,
    program::{command_line, listen, say},
    recipes::Recipe,
    report::draw,
    results::{Results, RunResult, Stop, best_run},
    train::{CheckpointSettings, Method, Output, Ranks, Session, Source},
};
use kind::Kind;

/// Runs the command. After this call, signals end the work with a checkpoint ([`listen`]).
///
/// The exit code is 1 if a run failed; the log names each failed run.
///
/// # Errors
/// Flags, model and data do not fit together; a file cannot be read or written; the device does not work.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let job = Job::open(arguments.ranks.patience())?;
    let outcome = match arguments.continued() {
        Ok(Some(recorded)) => train(&recorded, &job),
        Ok(None) => train(arguments, &job).map_err(|error| arguments.with_first_command(error)),
        Err(error) => Err(error),
    };
    job.end(outcome)
}

fn train(arguments: &Arguments, job: &Job) -> Result<ExitCode> {
    let seat = arguments.ranks.seat(&arguments.device, job)?;
    // One rank says what all would do.
    if arguments.output.plan && !seat.ranks.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    let named = &arguments.model;
    let model = named.model.as_deref().unwrap_or(models::ROBERTA);
    let files = models::find(model, named.revision.as_deref())?;
    let kind = Kind::of(&files)?;
    kind.check(arguments, &files)?;
    match kind {
        Kind::Encoder => encoder::run(arguments, files, seat),
        Kind::Causal => causal::run(arguments, files, seat),
    }
}

/// The work that remains after planning.
enum Work {
    /// Nothing: the user asked only for the plan.
    Planned,
    /// The session. When the flag is set, it ends after its current step with a checkpoint.
    Run(&'static AtomicBool),
}

impl Arguments {
    /// The same arguments with `model` as the default model.
    #[must_use]
    pub fn with_default_model(mut self, model: &str) -> Self {
        self.model.model.get_or_insert_with(|| model.into());
        self
    }

    /// The backend of every rank.
    pub(in crate::commands) fn backend(&self) -> BackendKind {
        self.ranks.backend(&self.device)
    }

    /// The methods to compare.
    fn methods(&self, default: &[Method]) -> Vec<Method> {
        match self.method.methods.as_slice() {
            [] => default.to_vec(),
            some => some.to_vec(),
        }
    }

    fn session<S: Source>(
        &self,
        recipe: Recipe,
        methods: Vec<Method>,
        files: ModelFiles,
        data: S,
    ) -> Session<S> {
        let output = &self.output;
        Session {
            recipe,
            methods,
            files,
            data,
            out: output.out.as_ref().map(|dir| Output {
                tensorboard: output.tensorboard,
                arguments: self.words(),
                repeats: output.repeats.clone(),
                ..Output::new(dir, draw)
            }),
            overwrite: output.overwrite,
            resume: output.resume,
            checkpoints: CheckpointSettings {
                every: output.checkpoint_every,
                keep: output.keep,
            },
            record_every: output.record_every,
            quiet: output.quiet,
            command: command_line(),
        }
    }

    /// Says where the results are, unless only `vblora verify` reads them.
    fn say_written(&self, results: &Results) {
        let OutputArguments { out, repeats, .. } = &self.output;
        let Some(out) = out.as_ref().filter(|_| repeats.is_none()) else {
            return;
        };
        let is_there = |name: &String| out.join(name).is_dir();
        let runs = results.runs.iter().map(RunResult::file_name);
        let runs = runs.filter(is_there).map(|run| format!("{run}/"));
        let files = ["table.md".to_owned(), "curves.svg".into()];
        let all: Vec<_> = files.into_iter().chain(runs).collect();
        say(format!("Written to {}: {}", out.display(), all.join(", ")));
        if results.runs.iter().any(|run| run.stop == Stop::Interrupted) {
            let dir = out.display().to_string();
            let dir = shlex::try_quote(&dir).unwrap_or(Cow::Borrowed(&dir));
            say(format!(
                "The interrupted run has a checkpoint. Go on with: vblora train --resume --out {dir}"
            ));
        }
        let best = best_run(&results.runs).map(RunResult::file_name);
        if let Some(best) = best.filter(is_there) {
            say(format!("Best: {}", out.join(best).display()));
        }
    }

    /// Prints the plan, and listens for signals if there is more to do.
    fn announce<S: Source>(&self, session: &Session<S>, ranks: Ranks<'_>) -> Result<Work> {
        session.check_ranks(ranks)?;
        if let Some(asked) = self.model.base_dtype {
            asked.settle_named(session.summary()?.base_dtype)?;
        }
        let plan = session.plan()?;
        let is_dry = self.output.plan;
        let outline = is_dry.then(|| session.rehearse()).transpose()?;
        if self.output.says_plan() {
            say(plan);
        }
        if let Some(outline) = outline {
            say(outline);
            return Ok(Work::Planned);
        }
        let interrupted = listen().context("cannot listen for Ctrl-C")?;
        Ok(Work::Run(interrupted))
    }
}

/// Returns exit code 1 if a run failed, and logs the name of each failed run.
fn outcome(results: &Results) -> ExitCode {
    for run in results.failed() {
        tracing::error!("{}: {}", run.label(), run.stop);
    }
    match results.failed().next() {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}
