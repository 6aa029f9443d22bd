//! Answers by several ranks: each makes those of every n-th batch, and rank 0 keeps them in its file as they come.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    answer::{Answer, Question},
    file::AnswerFile,
};
use crate::{
    Error, Result,
    group::{Group, Message, head, message, silent},
};

/// The moment of a rank's share, as errors name it.
const DURING: &str = "for its answers";

/// The rows of the questions that are left, on every rank. Rank 0, which has the file, tells the others.
///
/// # Errors
/// Rank 0 does not tell them.
pub fn deal(
    group: &dyn Group,
    questions: &[Question],
    file: Option<&AnswerFile>,
    patience: Duration,
) -> Result<Vec<usize>> {
    if let Some(file) = file {
        let rows = 0..questions.len();
        let left: Vec<usize> = rows.filter(|&row| !file.has(&questions[row].id)).collect();
        group.broadcast(message(&left, Vec::new())?);
        return Ok(left);
    }
    let Some((from, found)) = group.receive(patience) else {
        return Err(silent(
            group,
            &[0],
            patience,
            "before the first batch".into(),
        ));
    };
    let left: Vec<usize> = head(from, &found)?;
    match left.iter().find(|&&row| row >= questions.len()) {
        None => Ok(left),
        Some(row) => Err(Error::RankMessage {
            rank: from,
            expected: format!("rows of {} questions", questions.len()),
            found: format!("row {row}"),
        }),
    }
}

/// The place to which a rank brings its answers: the file on rank 0, and rank 0 on the others.
#[expect(missing_debug_implementations, reason = "it has a callback")]
pub struct Keeper<'a> {
    group: &'a dyn Group,
    patience: Duration,
    interrupted: &'a AtomicBool,
    to: To<'a>,
}

enum To<'a> {
    File {
        file: &'a mut AnswerFile,
        /// The questions that have no answer yet.
        left: BTreeSet<String>,
        /// The ranks that are still at work.
        working: Vec<usize>,
        hear: &'a mut (dyn FnMut(usize) + Send),
    },
    Rank0,
}

impl<'a> Keeper<'a> {
    /// Keeps answers to these questions in a file; `hear` is told the number of answers in it. Without a file, sends them to rank 0. Rank 0
    /// ends the work of all ranks after `interrupted` is set.
    pub fn new(
        group: &'a dyn Group,
        patience: Duration,
        interrupted: &'a AtomicBool,
        file: Option<(&'a mut AnswerFile, &'a mut (dyn FnMut(usize) + Send))>,
        left: &[&Question],
    ) -> Self {
        let to = match file {
            None => To::Rank0,
            Some((file, hear)) => To::File {
                file,
                left: left.iter().map(|question| question.id.clone()).collect(),
                working: (1..group.place().size).collect(),
                hear,
            },
        };
        Self {
            group,
            patience,
            interrupted,
            to,
        }
    }

    /// Takes the answers of a batch of this rank, and those that have come from others.
    ///
    /// # Errors
    /// The file cannot be written; another rank sends something else than answers to questions that are left.
    pub fn keep(&mut self, answers: Vec<Answer>) -> Result<()> {
        let rank = self.group.place().rank;
        match self.to {
            To::File { .. } => {
                self.append(rank, answers)?;
                while let Some((from, found)) = self.group.receive(Duration::ZERO) {
                    self.take(from, &found)?;
                }
                Ok(())
            }
            To::Rank0 => {
                self.group.report(message(&Some(answers), Vec::new())?);
                // The only message that rank 0 sends during the work asks for its end.
                if self.group.receive(Duration::ZERO).is_some() {
                    self.interrupted.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }

    /// Ends the work of this rank. Rank 0 waits for the others.
    ///
    /// # Errors
    /// As [`keep`](Self::keep); another rank does not answer.
    pub fn finish(mut self) -> Result<()> {
        if let To::Rank0 = self.to {
            self.group
                .report(message(&None::<Vec<Answer>>, Vec::new())?);
            return Ok(());
        }
        let mut has_asked = false;
        while let Some(working) = self.working() {
            if self.interrupted.load(Ordering::Relaxed) && !has_asked {
                has_asked = true;
                self.group.broadcast(message(&(), Vec::new())?);
            }
            let Some((from, found)) = self.group.receive(self.patience) else {
                return Err(silent(self.group, &working, self.patience, DURING.into()));
            };
            self.take(from, &found)?;
        }
        Ok(())
    }

    /// The ranks that are still at work, if there are any.
    fn working(&self) -> Option<Vec<usize>> {
        match &self.to {
            To::File { working, .. } if !working.is_empty() => Some(working.clone()),
            _ => None,
        }
    }

    /// Takes a message of another rank: answers, or word that there are no more.
    fn take(&mut self, from: usize, found: &Arc<Message>) -> Result<()> {
        match head::<Option<Vec<Answer>>>(from, found)? {
            Some(answers) => self.append(from, answers),
            None => {
                if let To::File { working, .. } = &mut self.to {
                    working.retain(|&rank| rank != from);
                }
                Ok(())
            }
        }
    }

    fn append(&mut self, from: usize, answers: Vec<Answer>) -> Result<()> {
        let To::File {
            file, left, hear, ..
        } = &mut self.to
        else {
            return Ok(());
        };
        if let Some(other) = answers.iter().find(|answer| !left.remove(&answer.id)) {
            return Err(Error::RankMessage {
                rank: from,
                expected: "answers to its own questions".into(),
                found: format!("one to {:?}", other.id),
            });
        }
        file.append(answers)?;
        hear(file.count());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{
        evaluate::{
            Origin,
            file::tests::{answer, questions},
        },
        group::{Place, Threads},
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    type ToFile<'a> = (&'a mut AnswerFile, &'a mut (dyn FnMut(usize) + Send));

    /// The work of one rank: the questions from its number on, by the number of ranks.
    fn work<'a>(
        seat: &'a Threads,
        to: Option<ToFile<'a>>,
        interrupted: &'a AtomicBool,
        questions: &[Question],
        edit: impl Fn(usize, &mut Answer),
    ) -> Result<()> {
        let Place { rank, size, .. } = seat.place();
        let there = to.as_ref().map(|(file, _)| &**file);
        let left = deal(seat, questions, there, PATIENCE)?;
        assert_eq!(left, [0, 1, 2, 4, 5, 6, 7]);
        let left: Vec<_> = left.iter().map(|&row| &questions[row]).collect();
        let mut keeper = Keeper::new(seat, PATIENCE, interrupted, to, &left);
        for question in left.iter().skip(rank).step_by(size) {
            if interrupted.load(Ordering::Relaxed) {
                break;
            }
            let mut answer = answer(question);
            edit(rank, &mut answer);
            keeper.keep(vec![answer])?;
        }
        keeper.finish()
    }

    /// Rank r of `size` answers the questions r, r + size, and so on of those that are left, one a batch, save those that `edit` changes.
    /// Returns the answers, if there are all, and the counts that were heard.
    fn answered(
        size: usize,
        interrupted: &AtomicBool,
        edit: impl Fn(usize, &mut Answer) + Sync,
    ) -> Result<(Option<Vec<Answer>>, Vec<usize>)> {
        let dir = tempfile::tempdir().unwrap();
        let questions = questions(8);
        let mut file = AnswerFile::open(
            &dir.path().join("answers.jsonl"),
            &questions,
            &Origin::new(),
            false,
        )?;
        file.append(vec![answer(&questions[3])])?;
        let group = Threads::group(size);
        let mut counts = Vec::new();
        thread::scope(|scope| {
            let others: Vec<_> = group[1..]
                .iter()
                .map(|seat| {
                    scope.spawn(|| {
                        let own = AtomicBool::new(false);
                        work(seat, None, &own, &questions, &edit)
                    })
                })
                .collect();
            let mut hear = |count| counts.push(count);
            let to: ToFile<'_> = (&mut file, &mut hear);
            let led = work(&group[0], Some(to), interrupted, &questions, &edit);
            others
                .into_iter()
                .for_each(|rank| rank.join().unwrap().unwrap());
            led
        })?;
        Ok((file.finish(&questions)?, counts))
    }

    #[test]
    fn the_file_of_rank_0_gets_the_answers_of_all_ranks() {
        let expected: Vec<_> = questions(8).iter().map(answer).collect();
        for size in [1, 2, 3] {
            let (found, counts) = answered(size, &AtomicBool::new(false), |_, _| ()).unwrap();
            assert_eq!(found.unwrap(), expected);
            assert_eq!(counts, [2, 3, 4, 5, 6, 7, 8], "{size} ranks");
        }
    }

    #[test]
    fn an_answer_of_another_rank_is_refused_by_name() {
        let found = answered(2, &AtomicBool::new(false), |rank, answer| {
            if rank == 1 {
                answer.id = "q-3".into();
            }
        });
        let error = found.unwrap_err().to_string();
        assert!(error.contains("rank 1 sent one to \"q-3\""), "{error}");
    }

    /// The others are asked to end, and what they have answered is kept.
    #[test]
    fn an_interruption_of_rank_0_ends_all() {
        let slowly = |_, _: &mut Answer| thread::sleep(Duration::from_millis(300));
        let (found, counts) = answered(2, &AtomicBool::new(true), slowly).unwrap();
        assert!(found.is_none());
        assert_eq!(counts, [2], "one answer was on its way");
    }
}
