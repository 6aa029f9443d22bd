//! Answers of a model to questions of several turns: batches of one temperature and similar length, on any backend.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use vblora::backend::{BackendJob, VbLoraBackend};
use vblora_models::generate::{Decoding, Ended, GenerationConfig, GenerationDefaults, Sampling};

use super::{Answer, AnswerFile, Question, Questions, Template};
use crate::{
    Result,
    evaluate::{AnsweringModel, Responder},
    tasks::causal::is_kept,
};

/// Transformers draws from so many tokens where a model's files do not say otherwise.
const TOP_K: usize = 50;

/// The answer that FastChat writes where the model could not answer.
pub const NO_ANSWER: &str = "ERROR";

/// How questions are answered.
#[derive(Debug)]
pub struct Interview<'a> {
    /// The questions. Draws depend on all of them, also where only some are answered.
    pub questions: &'a Questions,
    /// The name that the answers carry.
    pub model_id: &'a str,
    /// The template of prompts.
    pub template: &'a Template,
    /// The model's own settings of generation.
    pub defaults: GenerationDefaults,
    /// The maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// The seed of draws. A draw depends on it, the question, the turn and the place of the token.
    pub seed: u64,
    /// The maximum number of questions in a batch.
    pub batch: usize,
    /// The number of questions to answer, evenly spaced over all.
    pub limit: usize,
}

/// The counts after answering.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// Questions answered by this call.
    pub questions: usize,
    /// Generated tokens.
    pub tokens: usize,
    /// Answers that ended because of the maximum length.
    pub cut: usize,
    /// Turns whose prompt fills the model's positions. Their answer is [`NO_ANSWER`].
    pub without_room: usize,
}

/// A question with its number in the plan, which keys its draws.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    number: usize,
    question: &'a Question,
}

impl Interview<'_> {
    /// All questions in batches: of one temperature, the shortest prompts first. Numbers count through the whole plan. So a draw does not
    /// depend on the size of batches or on what an earlier process has answered.
    fn plan(&self, model: &AnsweringModel) -> Result<Vec<Row<'_>>> {
        let mut measured = Vec::new();
        for question in &self.questions.all {
            let tokens = self
                .template
                .encode(&question.turns[..1], &[], model.tokenizer())?;
            measured.push((question.temperature(), tokens.len(), question));
        }
        measured.sort_by(|(t, length, a), (u, other, b)| {
            let lengths = (length, a.question_id).cmp(&(other, b.question_id));
            t.total_cmp(u).then(lengths)
        });
        let rows = measured.into_iter().enumerate();
        let row = |(number, (_, _, question))| Row { number, question };
        Ok(rows.map(row).collect())
    }

    /// The numbers of the questions to answer.
    pub fn asked(&self) -> Vec<i64> {
        let all = &self.questions.all;
        let rows = all.iter().enumerate();
        let kept = rows.filter(|(row, _)| is_kept(*row, all.len(), self.limit));
        kept.map(|(_, question)| question.question_id).collect()
    }

    /// The number of questions to answer that have an answer in the file.
    pub fn answered(&self, file: &AnswerFile) -> usize {
        let asked = self.asked().into_iter();
        asked.filter(|id| file.get(*id).is_some()).count()
    }

    /// The batches of the questions that the file lacks. The numbers of a batch are consecutive.
    fn batches<'a>(&self, rows: &[Row<'a>], file: &AnswerFile) -> Vec<Vec<Row<'a>>> {
        let mut batches: Vec<Vec<Row<'a>>> = Vec::new();
        let asked = self.asked();
        let left = rows.iter().filter(|row| {
            let id = row.question.question_id;
            asked.contains(&id) && file.get(id).is_none()
        });
        for row in left {
            let goes_on = |batch: &&mut Vec<Row<'_>>| {
                batch.last().is_some_and(|last| {
                    batch.len() < self.batch.max(1)
                        && last.number + 1 == row.number
                        && last.question.temperature() == row.question.temperature()
                })
            };
            match batches.last_mut().filter(goes_on) {
                Some(batch) => batch.push(*row),
                None => batches.push(vec![*row]),
            }
        }
        batches
    }

    /// The settings for rows that begin with this number, at a turn from 0.
    fn settings(&self, first: Row<'_>, turn: usize) -> GenerationConfig {
        let temperature = first.question.temperature();
        let sampling = &self.defaults.sampling;
        let decoding = match temperature {
            0.0 => Decoding::Greedy,
            temperature => Decoding::Sample(Sampling {
                temperature,
                top_k: self.top_k(),
                seed: self.seed,
                first_row: (turn * self.questions.all.len() + first.number) as u64,
                ..sampling.clone()
            }),
        };
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            max_total_tokens: None,
            decoding,
            ..self.defaults.config.clone()
        }
    }

    /// The settings that the answers depend on, by name, for the record.
    ///
    /// # Errors
    /// The settings cannot be written as JSON.
    pub fn record(&self) -> serde_json::Result<Vec<(String, String)>> {
        let settings = GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            max_total_tokens: None,
            decoding: Decoding::Greedy,
            ..self.defaults.config.clone()
        };
        let draws = format!(
            "temperatures of FastChat by category, top_k {}, top_p {}, seed {}",
            self.top_k(),
            self.defaults.sampling.top_p,
            self.seed
        );
        Ok(vec![
            ("benchmark".into(), "mtbench".into()),
            ("template".into(), self.template.name()),
            ("settings".into(), serde_json::to_string(&settings)?),
            ("draws".into(), draws),
        ])
    }

    fn top_k(&self) -> usize {
        match self.defaults.sampling.top_k {
            0 => TOP_K,
            k => k,
        }
    }
}

/// Questions for a model, as work for a backend. The answers that the file lacks are made.
#[expect(missing_debug_implementations, reason = "it has a callback")]
pub struct InterviewJob<'a> {
    /// The model.
    pub model: AnsweringModel,
    /// The questions, and how they are asked.
    pub interview: &'a Interview<'a>,
    /// The file of answers.
    pub file: &'a mut AnswerFile,
    /// Hears [`Interview::answered`].
    pub hear: &'a mut (dyn FnMut(usize) + Send),
    /// Set when the work must end. The batch in work is then lost.
    pub interrupted: &'a AtomicBool,
}

impl BackendJob for InterviewJob<'_> {
    type Output = Result<Answered>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Result<Answered> {
        let rows = self.interview.plan(&self.model)?;
        let loaded = self.model.load::<B>(&device)?;
        let asking = Asking {
            interview: self.interview,
            responder: loaded.responder(&device),
            interrupted: self.interrupted,
        };
        let mut done = Answered::default();
        (self.hear)(self.interview.answered(self.file));
        for batch in self.interview.batches(&rows, self.file) {
            let answers = asking.answer(&batch, &mut done)?;
            if asking.is_interrupted() {
                break;
            }
            self.file.add(answers)?;
            done.questions += batch.len();
            (self.hear)(self.interview.answered(self.file));
        }
        Ok(done)
    }
}

/// A model on a device, and what it is asked.
struct Asking<'a, B: VbLoraBackend> {
    interview: &'a Interview<'a>,
    responder: Responder<'a, B>,
    interrupted: &'a AtomicBool,
}

impl<B: VbLoraBackend> Asking<'_, B> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Answers all turns of the questions of a batch. A later turn is asked after the answers to those before it.
    fn answer(&self, batch: &[Row<'_>], done: &mut Answered) -> Result<Vec<Answer>> {
        let mut answers: Vec<Vec<String>> = vec![Vec::new(); batch.len()];
        let turns = batch.iter().map(|row| row.question.turns.len()).max();
        for turn in 0..turns.unwrap_or(0) {
            let mut asked = Vec::new();
            for (at, row) in batch.iter().enumerate() {
                if let Some(user) = row.question.turns.get(..=turn) {
                    let tokenizer = self.responder.tokenizer;
                    let prompt = self
                        .interview
                        .template
                        .encode(user, &answers[at], tokenizer)?;
                    asked.push((at, prompt));
                }
            }
            // Rows without room leave gaps, and draws are numbered from the first row on.
            let has_room = |(_, prompt): &(usize, Vec<u32>)| self.responder.has_room(prompt);
            for piece in asked.chunk_by(|a, b| has_room(a) && has_room(b) && a.0 + 1 == b.0) {
                let texts = match has_room(&piece[0]) {
                    true => self.generate(piece, batch[piece[0].0], turn, done)?,
                    false => {
                        done.without_room += 1;
                        vec![NO_ANSWER.to_owned()]
                    }
                };
                for ((at, _), text) in piece.iter().zip(texts) {
                    answers[*at].push(text);
                }
            }
            if self.is_interrupted() {
                break;
            }
        }
        let id = self.interview.model_id;
        let rows = batch.iter().zip(answers);
        let answer = |(row, turns): (&Row<'_>, _)| Answer::new(row.question.question_id, id, turns);
        Ok(rows.map(answer).collect())
    }

    /// Answers prompts whose numbers are consecutive.
    fn generate(
        &self,
        asked: &[(usize, Vec<u32>)],
        first: Row<'_>,
        turn: usize,
        done: &mut Answered,
    ) -> Result<Vec<String>> {
        let mut settings = self.interview.settings(first, turn);
        let stop = self.interview.template.stop();
        // A special token is no text; it ends the answer as a token.
        settings
            .stop_tokens
            .extend(stop.and_then(|stop| self.responder.tokenizer.token_id(stop)));
        let prompts: Vec<&[u32]> = asked.iter().map(|(_, prompt)| prompt.as_slice()).collect();
        let mut texts = vec![String::new(); prompts.len()];
        let go_on = |row: usize, piece: &str| {
            texts[row] += piece;
            let is_over = stop.is_some_and(|stop| cut_at(&texts[row], stop).is_some());
            match is_over || self.is_interrupted() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let rows = self
            .responder
            .generate(&prompts, &settings, self.interrupted, go_on)?;
        for row in &rows {
            done.tokens += row.tokens.len();
            let is_cut = matches!(row.ended, Ended::Length | Ended::Capacity);
            done.cut += usize::from(is_cut);
        }
        let finished = |text: &str| {
            let at = stop.and_then(|stop| cut_at(text, stop));
            text[..at.unwrap_or(text.len())].trim().to_owned()
        };
        Ok(rows.iter().map(|row| finished(&row.text)).collect())
    }
}

/// Where FastChat cuts an answer: at the first stop text, unless the answer begins with it.
fn cut_at(text: &str, stop: &str) -> Option<usize> {
    text.find(stop).filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::cut_at;

    #[test]
    fn a_stop_text_at_the_start_cuts_nothing() {
        assert_eq!(cut_at("an answer\n### Human", "###"), Some(10));
        assert_eq!(cut_at("### a ### b", "###"), None);
        assert_eq!(cut_at("an answer", "###"), None);
    }
}
