//! `vblora evaluate mtbench answer`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use vblora::storage::{read_file, sha256_hex, write_atomically};
use vblora_models::generate::GenerationDefaults;

use super::question_file;
use crate::{
    Error,
    commands::{
        apart::check_apart,
        device::DeviceArguments,
        evaluate::model::{MODEL, ModelArguments},
        progress,
    },
    directory::DirLock,
    evaluate::{
        AnsweringModel, Origin, check_origin,
        mtbench::{
            AnswerFile, Answered, Interview, InterviewJob, NO_ANSWER, Questions, Template,
            TemplateName, answer_file,
        },
    },
    limits::MAX_DATA_BYTES,
    program::{complain, is_interrupted, listen, say},
};

// Heading of the help.
const ANSWERS: &str = "Answers";

/// Answer MT-Bench's questions with a model, both turns
///
/// Writes OUT/model_answer/MODEL_ID.jsonl, and beside it MODEL_ID.json with the settings that the answers depend on. A killed command goes
/// on where it stopped and loses at most the batch in work. Temperatures are FastChat's: 0.7 for writing and roleplay, 0.1 for stem and
/// humanities, greedy for the others.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora evaluate mtbench answer --model path/to/model --adapter runs/x --model-id x --out mt_bench
vblora evaluate mtbench answer --model path/to/model --template chat --model-id m --out mt_bench")]
pub(super) struct Arguments {
    /// Hugging Face directory, hub id, or bundled:llama
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = MODEL)]
    model: String,
    #[command(flatten)]
    base: ModelArguments,
    /// Name of the model in all files
    #[arg(long, value_name = "NAME", help_heading = ANSWERS)]
    model_id: String,
    /// Folder of the benchmark, like FastChat's data/mt_bench
    #[arg(long, value_name = "DIR", help_heading = ANSWERS)]
    out: PathBuf,
    /// File of questions [default: OUT/question.jsonl]
    #[arg(long, value_name = "FILE", help_heading = ANSWERS)]
    questions: Option<PathBuf>,
    /// Form of the prompts: chat (the model's template), training (the adapter's form), or FastChat's alpaca, llama-2, mistral, vicuna_v1.1,
    /// gemma, zero_shot, one_shot or raw [default: training]
    #[arg(long, value_name = "NAME", help_heading = ANSWERS)]
    template: Option<TemplateName>,
    /// Maximum number of tokens of an answer
    #[arg(long, alias = "max-tokens", value_name = "N", default_value_t = 1024, help_heading = ANSWERS)]
    max_new_tokens: usize,
    /// Seed of the draws; the same seed gives the same answers
    #[arg(long, default_value_t = 0, help_heading = ANSWERS)]
    seed: u64,
    /// Questions in a batch
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = ANSWERS)]
    batch: usize,
    /// Answer only N questions, evenly spaced over the file
    #[arg(long, value_name = "N", help_heading = ANSWERS)]
    limit: Option<usize>,
    /// Replace the file of answers
    #[arg(long, help_heading = ANSWERS)]
    overwrite: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Answers the questions that have no answer yet.
///
/// # Errors
/// Model, adapter, template and questions do not fit together; the file has answers of other settings; the device failed.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.batch > 0, "--batch 0 answers nothing");
    ensure!(arguments.limit != Some(0), "--limit 0 answers nothing");
    let questions_path = question_file(arguments.questions.as_ref(), &arguments.out);
    let path = answer_file(&arguments.out, &arguments.model_id)?;
    arguments.check_apart(&path, &questions_path)?;
    let questions = Questions::read(&questions_path)?;
    let model = arguments.base.open(&arguments.model)?;
    let adapter = arguments.base.adapter.as_deref();
    let template = Template::find(arguments.template.as_ref(), adapter, model.files())?;
    let interview = Interview {
        questions: &questions,
        model_id: &arguments.model_id,
        template: &template,
        defaults: GenerationDefaults::from_files(model.files(), model.tokenizer())?,
        max_new_tokens: arguments.max_new_tokens,
        seed: arguments.seed,
        batch: arguments.batch,
        limit: arguments.limit.unwrap_or(questions.all.len()),
    };
    let origin = origin(&interview, &model, &questions_path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, e))?;
    let _lock = DirLock::take(dir, &format!("{}.lock", arguments.model_id))?;
    let mut file = open(&path, &questions, &origin, arguments.overwrite)?;
    let asked = interview.asked().len();
    let done = match interview.answered(&file) == asked {
        true => Answered::default(),
        false => ask(arguments, model, &interview, &mut file)?,
    };
    report(&done);
    let answered = interview.answered(&file);
    say(format!(
        "{answered} of {asked} questions answered with template {}: {}",
        template.name(),
        path.display()
    ));
    if is_interrupted() {
        complain("interrupted; the same command goes on");
    }
    Ok(())
}

impl Arguments {
    /// Refuses questions or an adapter in the place of the answers.
    fn check_apart(&self, answers: &Path, questions: &Path) -> Result<()> {
        let beside = answers.with_extension("json");
        let written = [
            ("the file of answers", answers),
            ("the file beside the answers", &*beside),
        ];
        let adapter = self.base.adapter.as_deref();
        let adapter = adapter.map(|path| ("--adapter", path));
        let read = [("--questions", questions)].into_iter().chain(adapter);
        check_apart(&written, &read.collect::<Vec<_>>())
    }
}

/// The settings that answers depend on.
fn origin(interview: &Interview<'_>, model: &AnsweringModel, questions: &Path) -> Result<Origin> {
    let bytes = read_file(questions, MAX_DATA_BYTES).map_err(|e| Error::read(questions, e))?;
    let mut origin = model.origin()?;
    origin.insert("questions".into(), sha256_hex([bytes]));
    origin.extend(interview.record()?);
    Ok(origin)
}

/// The answers of an earlier command with the same settings, or an empty file.
fn open(
    path: &Path,
    questions: &Questions,
    origin: &Origin,
    overwrite: bool,
) -> Result<AnswerFile> {
    let beside = path.with_extension("json");
    let file = match path.exists() && !overwrite {
        true => {
            check_origin(&beside, path, origin)?;
            AnswerFile::read(path, questions)?
        }
        false => AnswerFile::new(path.to_owned()),
    };
    let mut file = file;
    write_atomically(&beside, &serde_json::to_vec_pretty(origin)?)?;
    // The older answers of a file that is replaced go here.
    file.add([])?;
    Ok(file)
}

fn ask(
    arguments: &Arguments,
    model: AnsweringModel,
    interview: &Interview<'_>,
    file: &mut AnswerFile,
) -> Result<Answered> {
    let interrupted = listen().context("cannot listen for Ctrl-C")?;
    let all = interview.asked().len();
    let bar = progress::bar(all as u64, "questions");
    let mut hear = |count: usize| match bar.is_hidden() {
        true => complain(format!("{count} of {all} questions answered")),
        false => bar.set_position(count as u64),
    };
    let job = InterviewJob {
        model,
        interview,
        file,
        hear: &mut hear,
        interrupted,
    };
    let device = &arguments.device;
    let done = device.backend.dispatch(device.device, job)?;
    bar.finish_and_clear();
    Ok(done?)
}

fn report(done: &Answered) {
    let Answered {
        questions,
        tokens,
        cut,
        without_room,
    } = done;
    if *questions > 0 {
        complain(format!(
            "[{tokens} tokens; {cut} answers ended at the maximum length]"
        ));
    }
    if *without_room > 0 {
        complain(format!(
            "{without_room} prompts fill the model's positions; their answer is {NO_ANSWER}, as in FastChat"
        ));
    }
}
