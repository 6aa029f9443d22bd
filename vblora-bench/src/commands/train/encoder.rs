//! Trains an encoder on a task with labels.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use vblora_models::{EncoderConfig, ModelFiles};

use super::{Work, arguments::Arguments, recipe::set_rank, table};
use crate::{
    commands::ranks::Seat,
    program::say,
    recipes::{Recipe, Size},
    report::summary_table,
    tasks::{Task, check_splits},
    train::{DataSource, Method, Session, run_encoder_with},
};

/// The methods to compare if the user names none.
const METHODS: [Method; 3] = [Method::Head, Method::Lora, Method::VbLora];

pub(super) fn run(arguments: &Arguments, files: ModelFiles, seat: Seat<'_>) -> Result<ExitCode> {
    let mut session = session(arguments, files)?;
    session.quiet |= !seat.ranks.leads();
    let Work::Run(interrupted) = arguments.announce(&session, seat.ranks)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Seat { device, ranks } = seat;
    let results = run_encoder_with(device.backend, device.index, &session, interrupted, ranks)?;
    if ranks.leads() {
        say(summary_table(&results));
        arguments.say_written(&results);
    }
    Ok(super::outcome(&results))
}

fn session(arguments: &Arguments, files: ModelFiles) -> Result<Session> {
    let methods = arguments.methods(&METHODS);
    let data = arguments.model.data.as_deref();
    let (recipe, own) = match arguments.table.task(data)? {
        Some((task, own, notes)) => {
            let recipe = recipe(arguments, &files, &methods, Some(task))?;
            (recipe, Some((own, notes)))
        }
        None => {
            let recipe = recipe(arguments, &files, &methods, arguments.encoder.task.clone())?;
            let own = data.map(|data| arguments.table.data_of(&recipe.task, data));
            (recipe, own.transpose()?.flatten())
        }
    };
    let data = match (own, data) {
        (Some((own, notes)), _) => {
            if arguments.output.says_plan() {
                say(table::describe(&recipe.task));
                notes.iter().for_each(|note| tracing::warn!("{note}"));
            }
            DataSource::Own(own)
        }
        (None, Some(file)) if file.is_file() => {
            return Err(
                match (&arguments.encoder.task, &arguments.optimisation.recipe) {
                    (None, None) => table::without_columns(file),
                    _ => anyhow!(
                        "{}, and {} is a file",
                        needs_directory(&recipe.task),
                        file.display()
                    ),
                },
            );
        }
        (None, Some(dir)) => {
            let names_no_task =
                arguments.encoder.task.is_none() && arguments.optimisation.recipe.is_none();
            check_splits(dir, &recipe.task).map_err(|error| match table::first_in(dir) {
                Some(file) if names_no_task => table::without_columns(&file),
                _ => error.into(),
            })?;
            DataSource::Directory(dir.to_owned())
        }
        // Another primary metric makes no other task.
        (None, None) if recipe.task.is_known() && recipe.task.name() == Task::demo().name() => {
            DataSource::Demo
        }
        (None, None) => bail!(needs_directory(&recipe.task)),
    };
    Ok(arguments.session(recipe, methods, files, data))
}

fn needs_directory(task: &Task) -> String {
    match task.is_known() {
        true => format!("task {task} needs --data DIR with {task}/train.tsv and dev.tsv"),
        false => format!("task {task} needs --data FILE|DIR with the table of its rows"),
    }
}

/// The recipe file, or the built-in recipe for a model of this width; flags override keys.
fn recipe(
    arguments: &Arguments,
    files: &ModelFiles,
    methods: &[Method],
    task: Option<Task>,
) -> Result<Recipe> {
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
    if let Some(metric) = arguments.table.metric {
        recipe.task = recipe.task.with_primary_metric(metric)?;
    }
    recipe.class_weights = arguments.table.weights()?.or(recipe.class_weights);
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
    let exact = Recipe::builtin(size, &task).map(|recipe| (recipe.task == task, recipe));
    if let Ok((true, recipe)) = exact {
        return Ok(recipe);
    }
    // No built-in recipe pairs this model and task. Own data takes the settings of MRPC for the model's size, other tasks the
    // demonstration's.
    let of_mrpc = Recipe::builtin(size, &Task::mrpc())
        .ok()
        .filter(|_| !task.is_known());
    let recipe = match of_mrpc {
        Some(recipe) => recipe,
        None => Recipe::builtin(Size::Demo, &Task::demo())?,
    };
    Ok(Recipe { task, ..recipe })
}
