//! The arguments of a session, recorded so that `vblora verify` can repeat it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command, FromArgMatches};
use vblora::backend::BackendKind;

use super::{Arguments, arguments::OutputArguments, kind::Kind};
use crate::{
    commands::models,
    program,
    train::{CheckpointSettings, Method},
};

/// The subcommand's own name among the program's arguments.
const NAME: &str = "train";

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
        let command = Command::new("vblora train").no_binary_name(true);
        let matches = Self::augment_args(command).try_get_matches_from(words);
        let parsed = matches.and_then(|matches| Self::from_arg_matches(&matches));
        let mut arguments = parsed.context("this version does not take the recorded arguments")?;
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

    /// The backend.
    pub(in crate::commands) fn backend(&self) -> BackendKind {
        self.device.backend
    }
}
