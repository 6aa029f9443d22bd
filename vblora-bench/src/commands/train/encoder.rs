//! Trains an encoder on a task with labels.

use std::process::ExitCode;

use anyhow::{Result, bail};
use vblora_models::{EncoderConfig, ModelFiles};

use super::{Work, arguments::Arguments, recipe::set_rank};
use crate::{
    program::say,
    recipes::{Recipe, Size},
    report::summary_table,
    tasks::Task,
    train::{DataSource, Method, Session, run_encoder},
};

/// The methods to compare if the user names none.
const METHODS: [Method; 3] = [Method::Head, Method::Lora, Method::VbLora];

pub(super) fn run(arguments: &Arguments, files: ModelFiles) -> Result<ExitCode> {
    let session = session(arguments, files)?;
    let Work::Run(interrupted) = arguments.announce(&session)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let device = &arguments.device;
    let results = run_encoder(device.backend, device.device, &session, interrupted)?;
    say(summary_table(&results));
    if let Some(out) = session.out.iter().find(|out| out.repeats.is_none()) {
        say(format!("Written to {}.", out.dir.display()));
    }
    Ok(super::outcome(&results))
}

fn session(arguments: &Arguments, files: ModelFiles) -> Result<Session> {
    let methods = arguments.methods(&METHODS);
    let recipe = recipe(arguments, &files, &methods)?;
    let data = match &arguments.model.data {
        Some(dir) => DataSource::Directory(dir.clone()),
        None if recipe.task == Task::demo() => DataSource::Demo,
        None => bail!(
            "task {} needs --data DIR with {}/train.tsv and dev.tsv",
            recipe.task,
            recipe.task
        ),
    };
    Ok(arguments.session(recipe, methods, files, data))
}

/// The recipe file, or the built-in recipe for a model of this width; flags override keys.
fn recipe(arguments: &Arguments, files: &ModelFiles, methods: &[Method]) -> Result<Recipe> {
    let task = arguments.encoder.task.clone();
    let mut recipe = match &arguments.optimisation.recipe {
        Some(file) => Recipe::from_toml_file(file)?,
        None => built_in(task.clone().unwrap_or_else(Task::demo), files)?,
    };
    arguments.set(&mut recipe);
    if let Some(rank) = arguments.method.rank {
        set_rank(&mut recipe, methods, rank)?;
    }
    recipe.lr.head = arguments.encoder.lr_head.unwrap_or(recipe.lr.head);
    recipe.task = task.unwrap_or(recipe.task);
    recipe.validate()?;
    Ok(recipe)
}

/// The paper's recipe for roberta-base and -large, MiniLM's recipe for its width, and the demonstration's recipe otherwise.
fn built_in(task: Task, files: &ModelFiles) -> Result<Recipe> {
    let size = match EncoderConfig::from_files(files)?.hidden_size {
        768 => Size::Base,
        1024 => Size::Large,
        384 => Size::Minilm,
        _ => Size::Demo,
    };
    let exact = Recipe::builtin(size, &task);
    // No built-in recipe pairs this model and task. Use the demonstration's settings for the task.
    exact
        .or_else(|_| {
            Recipe::builtin(Size::Demo, &Task::demo()).map(|recipe| Recipe { task, ..recipe })
        })
        .map_err(Into::into)
}
