//! The flags and the work that evaluations with generated answers share.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::model::{MODEL, ModelArguments};
use crate::{
    commands::{
        apart::{Named, check_apart},
        device::DeviceArguments,
        progress,
        ranks::{RankArguments, Seat},
    },
    evaluate::{
        Answer, AnswerFile, AnswerJob, AnsweringModel, Asking, Benchmark, Evaluation, Keeper,
        Origin, Question, Score, asked, deal, encoded, note, origin_path, question_counts,
        read_answers, recorded_note,
    },
    group::{Job, Terms, agree},
    program::{complain, listen},
    report::{Align, Table},
    train::Turns,
};

// Headings of the help.
pub(super) const ANSWERS: &str = "Answers";
pub(super) const SCORES: &str = "Scores";

/// The flags for answers of a model. A flag that conflicts with `--model` must conflict with each of them, because clap does not enforce
/// `requires = "model"` beside it.
pub(super) const WITH_MODEL: [&str; 11] = [
    "model",
    "revision",
    "adapter",
    "merge",
    "base_dtype",
    "data",
    "out",
    "overwrite",
    "limit",
    "max_new_tokens",
    "batch",
];

// Plain comments: a doc comment on flattened flags would become the command's description.
#[derive(Debug, Args)]
pub(super) struct AnswerArguments {
    /// Hugging Face directory, hub id, or bundled:llama
    #[arg(long, value_name = "DIR|HUB_ID", requires_all = ["data", "out"], help_heading = MODEL)]
    model: Option<String>,
    #[command(flatten)]
    base: ModelArguments,
    /// File of questions
    #[arg(long, value_name = "FILE", requires = "model", help_heading = ANSWERS)]
    data: Option<PathBuf>,
    /// File for the answers, as JSON lines; a killed command goes on where it stopped
    #[arg(long, value_name = "FILE", requires = "model", help_heading = ANSWERS)]
    out: Option<PathBuf>,
    /// Replace the file of answers
    #[arg(long, requires = "out", help_heading = ANSWERS)]
    overwrite: bool,
    /// Ask only N questions, evenly spaced over the file
    #[arg(long, value_name = "N", requires = "model", help_heading = ANSWERS)]
    limit: Option<usize>,
    /// Maximum number of tokens of an answer [default: as the authors allow]
    #[arg(long, alias = "max-tokens", value_name = "N", requires = "model", help_heading = ANSWERS)]
    max_new_tokens: Option<usize>,
    /// Prompts in a batch [default: 16]
    #[arg(long, value_name = "N", requires = "model", help_heading = ANSWERS)]
    batch: Option<usize>,
    /// Score a file of answers again, without a model
    #[arg(long, value_name = "FILE", conflicts_with_all = WITH_MODEL, help_heading = SCORES)]
    score: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    ranks: RankArguments,
}

/// The scores of answers, as this process has them.
pub(super) enum Found {
    /// The scores, with the answers.
    Scored(Scored),
    /// Rank 0 has them.
    Elsewhere,
    /// A signal ended the work: the file keeps what was answered.
    Interrupted,
}

/// Answers with their scores, and a note if they are a part of the questions.
pub(super) struct Scored {
    pub(super) answers: Vec<Answer>,
    pub(super) scores: Vec<Score>,
    pub(super) subset: Option<String>,
}

impl AnswerArguments {
    /// The file of answers: that to write, or that to score again.
    pub(super) fn file(&self) -> &Path {
        let file = self.out.as_ref().or(self.score.as_ref());
        file.map_or(Path::new(""), PathBuf::as_path)
    }

    /// Refuses a file that is written and named by another flag too.
    pub(super) fn check_apart(&self, export: Option<&Path>) -> Result<()> {
        let beside = self.out.as_deref().or(self.score.as_deref());
        let beside = beside.and_then(|file| origin_path(file).ok());
        let mut written = named("--export", export);
        written.extend(named("--out", self.out.as_deref()));
        written.extend(named("the file beside the answers", beside.as_deref()));
        let read = [
            named("--score", self.score.as_deref()),
            named("--data", self.data.as_deref()),
            named("--adapter", self.base.adapter.as_deref()),
        ];
        check_apart(&written, &read.concat())
    }

    /// Returns true if several processes share the work: a model's answers.
    pub(super) fn is_shared(&self) -> bool {
        self.model.is_some()
    }

    /// Answers the questions and scores the answers, or scores a file.
    pub(super) fn scored(&self, benchmark: Benchmark, settings: &Evaluation) -> Result<Found> {
        let (answers, subset) = match (&self.score, &self.model, &self.data, &self.out) {
            (Some(file), ..) => {
                let answers = read_answers(file, benchmark)?;
                let note = recorded_note(file, answers.len())?;
                (answers, note)
            }
            (None, Some(model), Some(data), Some(out)) => {
                let job = Job::open(self.ranks.patience())?;
                let rank = job.group().place().rank;
                let answered = self.answered(benchmark, settings, (model, data, out), &job);
                match job.end(answered)? {
                    Some(answered) => answered,
                    None if rank > 0 => return Ok(Found::Elsewhere),
                    None => return Ok(Found::Interrupted),
                }
            }
            _ => bail!("expected --model, --data and --out to answer, or --score FILE"),
        };
        let scores = settings.score(benchmark, &answers)?;
        Ok(Found::Scored(Scored {
            answers,
            scores,
            subset,
        }))
    }

    /// The answers, with a note if they are a part; `None` on ranks other than 0, and after a signal.
    fn answered(
        &self,
        benchmark: Benchmark,
        settings: &Evaluation,
        (model, data, out): (&str, &Path, &Path),
        job: &Job,
    ) -> Result<Option<(Vec<Answer>, Option<String>)>> {
        let seat = self.ranks.seat(&self.device, job)?;
        let settings = Evaluation {
            data: data.display().to_string(),
            limit: self.limit,
            max_new_tokens: self.max_new_tokens,
            batch: self.batch,
            ..settings.clone()
        };
        settings.check(benchmark)?;
        let model = self.base.open(model)?;
        let (questions, all) = settings.questions(benchmark, model.files())?;
        let asking = settings.asking(benchmark, model.files(), model.tokenizer())?;
        let interrupted = listen().context("cannot listen for Ctrl-C")?;
        let mut origin = model.origin()?;
        origin.extend(asked(benchmark, &asking)?);
        origin.extend(question_counts(questions.len(), all));
        // A prompt without room is found before a file is made.
        encoded(
            &questions.iter().collect::<Vec<_>>(),
            model.tokenizer(),
            model.config(),
        )?;
        if seat.ranks.size() > 1 {
            let terms = terms(seat, &origin, &asking, &questions)?;
            agree(job.group(), &terms, job.patience())?;
        }
        if seat.ranks.rank() > 0 {
            self.ask(model, &questions, &asking, None, (job, seat), interrupted)?;
            return Ok(None);
        }
        let mut file = AnswerFile::open(out, &questions, &origin, self.overwrite)?;
        let to = Some(&mut file);
        self.ask(model, &questions, &asking, to, (job, seat), interrupted)?;
        let count = file.count();
        let Some(answers) = file.finish(&questions)? else {
            let left = questions.len() - count;
            complain(format!(
                "{count} answered, {left} left; the same command goes on"
            ));
            return Ok(None);
        };
        let subset = note(answers.len(), questions.len(), all);
        Ok(Some((answers, subset)))
    }

    /// Answers this process's share of the questions that are left. Rank 0 brings the answers of all ranks into the file.
    fn ask(
        &self,
        model: AnsweringModel,
        questions: &[Question],
        asking: &Asking,
        file: Option<&mut AnswerFile>,
        (job, seat): (&Job, Seat<'_>),
        interrupted: &AtomicBool,
    ) -> Result<()> {
        let (group, patience) = (job.group(), job.patience());
        let left = deal(group, questions, file.as_deref(), patience)?;
        if left.is_empty() {
            return Ok(());
        }
        let left: Vec<&Question> = left.iter().map(|&row| &questions[row]).collect();
        let bar = progress::bar(questions.len() as u64, "answers");
        let mut hear = |count: usize| match bar.is_hidden() {
            true => complain(format!("{count} of {} answered", questions.len())),
            false => bar.set_position(count as u64),
        };
        if seat.ranks.rank() == 0 {
            hear(questions.len() - left.len());
        }
        let to = file.map(|file| (file, &mut hear as &mut (dyn FnMut(usize) + Send)));
        let mut keeper = Keeper::new(group, patience, interrupted, to, &left);
        let work = AnswerJob {
            model,
            questions: &left,
            asking,
            turns: Turns {
                rank: seat.ranks.rank(),
                size: seat.ranks.size(),
            },
            keep: &mut |answers| keeper.keep(answers),
            interrupted,
        };
        seat.device.backend.dispatch(seat.device.index, work)??;
        keeper.finish()?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// What ranks agree on before they share questions.
fn terms(
    seat: Seat<'_>,
    origin: &Origin,
    asking: &Asking,
    questions: &[Question],
) -> Result<Terms> {
    let mut terms = Terms::new(seat.device.backend)?;
    for (part, value) in origin {
        terms.set(part, value.clone());
    }
    // Batches are dealt out by their number.
    terms.set("batch", asking.batch.to_string());
    let questions = questions.iter();
    let parts = questions.map(|q| serde_json::to_vec(&(&q.id, &q.prompt, &q.references)));
    terms.set_hash("set of questions", parts.collect::<Result<Vec<_>, _>>()?);
    Ok(terms)
}

fn named<'a>(flag: &'a str, path: Option<&'a Path>) -> Vec<Named<'a>> {
    path.map(|path| (flag, path)).into_iter().collect()
}

impl Scored {
    /// A table of accuracies, with the headline first.
    pub(super) fn accuracies(&self) -> String {
        let right = |name| (name, Align::Right);
        let mut table = Table::new([
            ("scorer", Align::Left),
            right("right"),
            right("accuracy"),
            right("95 % interval"),
            right("no answer"),
        ]);
        for score in &self.scores {
            let Some(tally) = score.tally else { continue };
            let (low, high) = tally.interval();
            table.row([
                score.name.clone(),
                format!("{} of {}", tally.correct, tally.count),
                format!("{:.2} %", 100.0 * tally.accuracy()),
                format!("{:.2} to {:.2}", 100.0 * low, 100.0 * high),
                tally.invalid.to_string(),
            ]);
        }
        let mut text = table.to_string();
        if let Some(subset) = &self.subset {
            let _ = write!(text, "\n{subset}.\n");
        }
        text
    }
}
