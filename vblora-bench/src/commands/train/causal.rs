//! Trains a causal model on prompts and responses, conversations, or documents.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, ensure};
use vblora_models::ModelFiles;

use super::{
    Work,
    answers::{AnswerSettings, Answered},
    arguments::Arguments,
    recipe::set_rank,
};
use crate::{
    commands::{models, ranks::Seat},
    demo,
    directory::is_same,
    program::say,
    recipes::{Recipe, Size},
    report::draw,
    tasks::{
        SplitName, Task,
        causal::{Form, Format, TextFile, TextTemplate, Texts},
    },
    train::{Method, Output, Session, causal::TextSource},
};

/// The methods to compare if the user names none.
const METHODS: [Method; 2] = [Method::Lora, Method::VbLora];

/// Without a file of held-out texts, one of so many prompts is held out.
const HELD_OUT: usize = 20;

pub(super) fn run(arguments: &Arguments, files: ModelFiles, seat: Seat<'_>) -> Result<ExitCode> {
    let (format, train, held_out) = texts(arguments, &files)?;
    let mut session = session(arguments, files, train, &held_out)?;
    record_format(&mut session, format.and_then(|format| format.name()));
    session.quiet |= !seat.ranks.leads();
    let Work::Run(interrupted) = arguments.announce(&session, seat.ranks)? else {
        return Ok(ExitCode::SUCCESS);
    };
    // Answers come from the stored adapters, so there must be a directory for them.
    let place = tempfile::tempdir()?;
    let out = session
        .out
        .get_or_insert_with(|| Output::new(place.path().join("run"), draw));
    let out = out.dir.clone();
    let work = Answered {
        session: &session,
        held_out: &held_out,
        out: &out,
        settings: AnswerSettings::new(&arguments.causal),
        interrupted,
        ranks: seat.ranks,
    };
    let device = seat.device;
    let results = device.backend.dispatch(device.index, work)??;
    if seat.ranks.leads() {
        arguments.say_written(&results);
    }
    Ok(super::outcome(&results))
}

/// The session with its training data. All held-out texts are for questions.
fn session(
    arguments: &Arguments,
    files: ModelFiles,
    train: Texts,
    held_out: &Texts,
) -> Result<Session<TextSource>> {
    let methods = arguments.methods(&METHODS);
    let recipe = recipe(arguments, &files, &methods)?;
    let data = TextSource {
        train: train.thinned(arguments.causal.rows.unwrap_or(usize::MAX)),
        held_out: held_out
            .clone()
            .thinned(arguments.causal.held_out_rows.unwrap_or(usize::MAX)),
    };
    Ok(arguments.session(recipe, methods, files, data))
}

/// Adds the format of the texts to the recorded command and arguments, unless they say it. A detected format is then recorded like a given
/// one, and so is that of a session that goes on.
fn record_format(session: &mut Session<TextSource>, name: Option<String>) {
    let Some(name) = name else { return };
    let is_named = |word: &str| {
        let flags = ["--format", "--template"].into_iter();
        let mut rests = flags.filter_map(|flag| word.strip_prefix(flag));
        rests.any(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if !session.command.split_whitespace().any(is_named) {
        session.command += &format!(" --format {name}");
    }
    if let Some(Output { arguments, .. }) = &mut session.out
        && !arguments.iter().any(|word| is_named(word))
    {
        arguments.extend(["--format".into(), name]);
    }
}

/// The training texts and the held-out texts, with their format. The bundled ones have none.
fn texts(arguments: &Arguments, files: &ModelFiles) -> Result<(Option<Format>, Texts, Texts)> {
    let causal = &arguments.causal;
    let is_empty = causal.rows == Some(0) || causal.held_out_rows == Some(0);
    ensure!(!is_empty, "0 rows leave nothing to train or score on");
    let Some(data) = &arguments.model.data else {
        ensure!(
            is_bundled(arguments),
            "a causal model needs --data FILE with prompts and responses, conversations, or documents"
        );
        return Ok((
            None,
            demo::texts(SplitName::Train)?,
            demo::texts(SplitName::Dev)?,
        ));
    };
    if let Some(held_out) = &causal.held_out {
        ensure!(
            !is_same(data, held_out),
            "--held-out: expected another file than --data, found {}",
            held_out.display()
        );
    }
    let (format, train) = training_texts(arguments, data, files)?;
    let (train, held_out) = match &causal.held_out {
        Some(held_out) => (train, format.texts(&TextFile::read(held_out)?, files)?),
        None => {
            let parts = train.hold_out(HELD_OUT)?;
            if arguments.output.says_plan() {
                say(format!(
                    "{}: one in {HELD_OUT} is held out to evaluate on (--held-out FILE names others)",
                    data.display()
                ));
            }
            parts
        }
    };
    Ok((Some(format), train, held_out))
}

/// The format of the training texts, and these texts. The file is read once, because it may be a stream.
fn training_texts(
    arguments: &Arguments,
    data: &Path,
    files: &ModelFiles,
) -> Result<(Format, Texts)> {
    let file = TextFile::read(data)?;
    let causal = &arguments.causal;
    let format = match (&causal.template, &causal.format) {
        (Some(template), _) => Format::Rows(Form::Template(TextTemplate::read(template)?)),
        (None, Some(format)) => format.clone(),
        (None, None) => {
            let found = Format::detect(&file)?;
            if arguments.output.says_plan() {
                say(format!("{}: format {}", data.display(), found.describe()));
            }
            found
        }
    };
    let texts = format.texts(&file, files)?;
    Ok((format, texts))
}

/// Returns true if the model is the bundled one, which has bundled data.
fn is_bundled(arguments: &Arguments) -> bool {
    let model = arguments.model.model.as_deref();
    model.is_none_or(models::is_bundled)
}

/// The recipe file, or the built-in recipe; flags override keys.
fn recipe(arguments: &Arguments, files: &ModelFiles, methods: &[Method]) -> Result<Recipe> {
    let mut recipe = match &arguments.optimisation.recipe {
        Some(file) => Recipe::from_toml_file(file)?,
        None if is_bundled(arguments) => Recipe::builtin(Size::Demo, &Task::text())?,
        None => Recipe::builtin(Size::Decoder, &Task::text())?,
    };
    ensure!(
        recipe.task == Task::text(),
        "a causal model needs a recipe whose task is {}, found {}",
        Task::text(),
        recipe.task
    );
    let causal = &arguments.causal;
    arguments.set(&mut recipe);
    if let Some(rank) = arguments.method.rank {
        let scale = recipe.lora.scale();
        set_rank(&mut recipe, methods, rank)?;
        recipe.lora.alpha *= scale / recipe.lora.scale();
    }
    let text = &mut recipe.text;
    text.label_smoothing = causal.label_smoothing.unwrap_or(text.label_smoothing);
    text.too_long = causal.too_long.unwrap_or(text.too_long);
    text.on_prompt |= causal.on_prompt;
    text.recompute |= causal.recompute;
    text.packing |= causal.packing;
    // Packed rows all have the same length.
    recipe.group_by_length &= !recipe.text.packing;
    // A repetition has the recorded recipe. The model's files are compared by their hash.
    if arguments.output.repeats.is_none() {
        recipe.model = files.place();
    }
    recipe.validate()?;
    Ok(recipe)
}
