//! The arguments of a session, recorded so that `vblora verify` can repeat it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Command, FromArgMatches};

use super::{
    Arguments,
    arguments::{CausalArguments, ModelArguments, OutputArguments},
    kind::Kind,
    table::TableArguments,
};
use crate::{
    Error,
    commands::models,
    program,
    train::{CheckpointSettings, Made, Method, RunDir},
};

/// The subcommand's own name among the program's arguments.
const NAME: &str = "train";

/// Flags of a bare command, with their values.
const VALUED: [&str; 3] = ["--out=", "--devices=", "--rank-timeout="];

/// The recorded arguments of the session in a directory, if it has some.
fn first_command(out: &Path) -> Option<Vec<String>> {
    let made = Made::read(out).ok().flatten();
    made.map(|made| made.arguments)
        .filter(|words| !words.is_empty())
}

/// Returns true if the words of a command say no more than that the session in a directory goes on.
fn is_bare(words: &[String]) -> bool {
    let mut words = words.iter().map(String::as_str).peekable();
    words.next_if_eq(&NAME);
    while let Some(word) = words.next() {
        match word {
            "--out" | "--devices" | "--rank-timeout" => drop(words.next()),
            "--resume" | "--plan" | "--quiet" => {}
            word if VALUED.iter().any(|start| word.starts_with(start)) => {}
            _ => return false,
        }
    }
    true
}

/// The repetition of a session.
#[derive(Debug)]
pub(in crate::commands) struct Repetition<'a> {
    /// The session's directory.
    pub(in crate::commands) of: &'a Path,
    /// Its recipe.
    pub(in crate::commands) recipe: PathBuf,
    /// The methods of its runs.
    pub(in crate::commands) methods: Vec<Method>,
    /// The model, if it lies elsewhere now.
    pub(in crate::commands) model: Option<String>,
    /// The data, if they lie elsewhere now.
    pub(in crate::commands) data: Option<PathBuf>,
    /// The directory of the repetition.
    pub(in crate::commands) out: PathBuf,
}

impl Arguments {
    /// The words that give these arguments to `vblora train`. The program may have another default model.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = program::words();
        if words.first().is_some_and(|word| word == NAME) {
            words.remove(0);
        }
        let is_model = |word: &String| word == "--model" || word.starts_with("--model=");
        if !words.iter().any(is_model) {
            let model = self.model.model.as_deref().unwrap_or(models::ROBERTA);
            words.extend(["--model".into(), model.into()]);
        }
        words
    }

    /// The arguments that a session has recorded.
    fn recorded(words: &[String]) -> Result<Self> {
        let command = Command::new("vblora train").no_binary_name(true);
        let matches = Self::augment_args(command).try_get_matches_from(words);
        let parsed = matches.and_then(|matches| Self::from_arg_matches(&matches));
        parsed.context("this version does not take the recorded arguments")
    }

    /// The same arguments without all that a recipe holds: the task and every hyperparameter. Those that say which rows are read stay.
    fn without_settings(self) -> Result<Self> {
        let none = Self::recorded(&[])?;
        let (model, table, causal) = (self.model, self.table, self.causal);
        Ok(Self {
            model: ModelArguments {
                max_length: None,
                base_dtype: None,
                ..model
            },
            table: TableArguments {
                dev: table.dev,
                hold_out: table.hold_out,
                hold_out_seed: table.hold_out_seed,
                ..none.table
            },
            causal: CausalArguments {
                held_out: causal.held_out,
                format: causal.format,
                template: causal.template,
                rows: causal.rows,
                held_out_rows: causal.held_out_rows,
                ..none.causal
            },
            device: self.device,
            ranks: self.ranks,
            ..none
        })
    }

    /// The arguments of the session to continue, if this command says no more than where it is.
    ///
    /// # Errors
    /// There is no session; this version does not take its arguments.
    pub(super) fn continued(&self) -> Result<Option<Self>> {
        let OutputArguments {
            out,
            resume,
            plan,
            quiet,
            ..
        } = &self.output;
        let is_bare = *resume && is_bare(&program::words());
        let Some(out) = out.as_ref().filter(|_| is_bare) else {
            return Ok(None);
        };
        let Some(words) = first_command(out) else {
            // An earlier version did not record its arguments.
            ensure!(
                RunDir::holds_session(out),
                "{}: no session to continue: expected config.toml, found none",
                out.display()
            );
            return Ok(None);
        };
        let mut arguments = Self::recorded(&words)?;
        if !self.ranks.devices.is_empty() {
            arguments.ranks.devices.clone_from(&self.ranks.devices);
        }
        arguments.ranks.rank_timeout = self.ranks.rank_timeout;
        arguments.output = OutputArguments {
            out: Some(out.clone()),
            overwrite: false,
            resume: true,
            plan: *plan,
            quiet: *quiet,
            ..arguments.output
        };
        Ok(Some(arguments))
    }

    /// The error, with the first command of a session that other flags cannot continue.
    pub(super) fn with_first_command(&self, error: anyhow::Error) -> anyhow::Error {
        let is_other = matches!(error.downcast_ref(), Some(Error::OtherRun { .. }));
        let out = self.output.out.as_ref().filter(|_| is_other);
        let command = out.and_then(|out| first_command(out));
        let command = command.and_then(|words| {
            let words = words.iter().map(String::as_str);
            shlex::try_join(words).ok()
        });
        match command {
            Some(command) => {
                anyhow!("{error}; give the flags of the first command: vblora train {command}")
            }
            None => error,
        }
    }

    /// The arguments of the session that recorded these words, for its repetition in another directory. Nothing but the adapters is made
    /// again: no answers, no recordings, no additional checkpoints.
    ///
    /// # Errors
    /// This version does not take the words; the model's configuration cannot be read.
    pub(in crate::commands) fn repeating(
        words: &[String],
        repetition: Repetition<'_>,
    ) -> Result<Self> {
        let Repetition {
            of,
            recipe,
            methods,
            model,
            data,
            out,
        } = repetition;
        let mut arguments = Self::recorded(words)?.without_settings()?;
        arguments.model.model = model.or(arguments.model.model);
        arguments.model.data = data.or(arguments.model.data);
        arguments.optimisation.recipe = Some(recipe);
        arguments.method.methods = methods;
        arguments.output = OutputArguments {
            out: Some(out),
            overwrite: false,
            resume: false,
            checkpoint_every: None,
            keep: CheckpointSettings::default().keep,
            record_every: None,
            tensorboard: false,
            repeats: Some(of.to_owned()),
            plan: false,
            quiet: true,
        };
        let named = &arguments.model;
        let model = named.model.as_deref().unwrap_or(models::ROBERTA);
        let files = models::find(model, named.revision.as_deref())?;
        if Kind::of(&files)? == Kind::Causal {
            arguments.causal.generate = Some(0);
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_bare_if_it_only_says_which_session_goes_on() {
        let is_bare = |line: &str| is_bare(&line.split(' ').map(String::from).collect::<Vec<_>>());
        for line in [
            "train --resume --out run",
            "--out=run --resume --quiet",
            "train --out --epochs --resume",
            "train --resume --out run --devices cuda:0,cuda:1 --rank-timeout=9",
        ] {
            assert!(is_bare(line), "{line}");
        }
        for line in [
            "train --resume --out run --epochs 3",
            "train --model train --resume --out run",
        ] {
            assert!(!is_bare(line), "{line}");
        }
    }
}
