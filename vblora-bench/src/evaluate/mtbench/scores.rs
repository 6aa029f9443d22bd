//! Means of judgments: those of FastChat's `show_result`, and what it leaves out.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Serialize, Serializer};

use super::{FAILED, Judgment, Questions, is_on_scale, pandas::frame, rating::rating};

/// The scores of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelScores {
    /// The mean of the first turn.
    pub first: Option<f64>,
    /// The mean of the second turn.
    pub second: Option<f64>,
    /// The mean of all judgments. It is not the mean of the two turns' means where one turn has more judgments.
    pub average: Option<f64>,
    /// Number of judgments with a rating.
    pub judged: usize,
    /// Number of judgments without a rating.
    pub failed: usize,
    /// Number of failed judgments that the endpoint did not give.
    pub refused: usize,
    /// Means by category, in the order of the questions; empty if the categories are not known.
    #[serde(serialize_with = "as_object")]
    pub categories: Vec<(String, CategoryScores)>,
}

fn as_object<S: Serializer>(
    categories: &[(String, CategoryScores)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(categories.iter().map(|(name, scores)| (name, scores)))
}

/// The scores of one category.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CategoryScores {
    /// The first turn.
    pub first: TurnScores,
    /// The second turn.
    pub second: TurnScores,
}

/// A mean and the number of its judgments.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TurnScores {
    /// The mean; none without judgments.
    pub mean: Option<f64>,
    /// Number of judgments with a rating.
    pub judged: usize,
}

/// A judgment whose rating may not be what the judge meant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Doubt {
    /// The question's number.
    pub question_id: i64,
    /// The judged model.
    pub model: String,
    /// The judged turn.
    pub turn: usize,
    /// The rating.
    pub score: f64,
}

/// The scores of a file of judgments, with their doubts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Scores by model.
    pub models: BTreeMap<String, ModelScores>,
    /// Judges, each with the number of its judgments.
    pub judges: BTreeMap<String, usize>,
    /// The most judgments that a score is the median of.
    pub runs: usize,
    /// Seconds since 1970 of the first and the last judgment.
    pub times: Option<[f64; 2]>,
    /// Ratings outside 1 to 10. They count.
    pub off_scale: Vec<Doubt>,
    /// Ratings found as `[7]`, where the judge was asked for `[[7]]`. They count.
    pub by_backup: Vec<Doubt>,
    /// Judgments of questions that are not in the file of questions. They count, and are in no category.
    pub unknown: usize,
    /// Judgments of something that the file has a rating of already. They count again.
    pub repeated: usize,
}

/// Collects the scores of judgments. A judgment without a rating counts as failed only if there is none with a rating beside it.
pub fn summarise(judgments: &[Judgment], questions: Option<&Questions>) -> Summary {
    let rated: Vec<Rated<'_>> = judgments.iter().filter_map(Rated::new).collect();
    let keys: HashSet<_> = rated.iter().map(|rated| rated.of.key()).collect();
    let others = judgments.iter().map(|judgment| (judgment.key(), judgment));
    let failed: BTreeMap<_, _> = others.filter(|(key, _)| !keys.contains(key)).collect();
    let mut judges = BTreeMap::new();
    for judgment in judgments {
        *judges.entry(judgment.judge[0].clone()).or_insert(0) += 1;
    }
    let names: BTreeSet<&str> = judgments.iter().map(|judgment| &*judgment.model).collect();
    let models = names.into_iter().map(|model| {
        let rated: Vec<_> = rated
            .iter()
            .filter(|rated| rated.of.model == model)
            .collect();
        let failed: Vec<_> = failed
            .values()
            .filter(|failed| failed.model == model)
            .collect();
        let scores = ModelScores {
            failed: failed.len(),
            refused: failed
                .iter()
                .filter(|failed| failed.judgment == FAILED)
                .count(),
            categories: questions.map_or(Vec::new(), |questions| by_category(&rated, questions)),
            ..means(&rated)
        };
        (model.to_owned(), scores)
    });
    let is_backup = |rated: &Rated<'_>| rating(&rated.of.judgment).is_some_and(|r| r.by_backup);
    let is_unknown = |rated: &&Rated<'_>| {
        questions.is_some_and(|questions| questions.get(rated.of.question_id).is_none())
    };
    Summary {
        models: models.collect(),
        judges,
        runs: runs(judgments),
        times: times(judgments),
        off_scale: doubts(&rated, |rated| !is_on_scale(rated.score)),
        by_backup: doubts(&rated, is_backup),
        unknown: rated.iter().filter(is_unknown).count(),
        repeated: rated.len() - keys.len(),
    }
}

/// A judgment with a rating.
#[derive(Clone, Copy)]
struct Rated<'a> {
    of: &'a Judgment,
    score: f64,
}

impl<'a> Rated<'a> {
    fn new(of: &'a Judgment) -> Option<Self> {
        of.rated().map(|score| Self { of, score })
    }
}

/// The means of one model's judgments.
fn means(rated: &[&Rated<'_>]) -> ModelScores {
    let of_turn = |turn| mean(rated.iter().filter(|rated| rated.of.turn == turn)).mean;
    ModelScores {
        first: of_turn(1),
        second: of_turn(2),
        average: mean(rated.iter()).mean,
        judged: rated.len(),
        failed: 0,
        refused: 0,
        categories: Vec::new(),
    }
}

fn by_category(rated: &[&Rated<'_>], questions: &Questions) -> Vec<(String, CategoryScores)> {
    let scores = |category: String| {
        let is_in = |rated: &&&Rated<'_>| {
            let question = questions.get(rated.of.question_id);
            question.is_some_and(|question| question.category == category)
        };
        let of_turn = |turn| {
            let chosen = rated.iter().filter(|rated| rated.of.turn == turn);
            mean(chosen.filter(is_in))
        };
        let [first, second] = [1, 2].map(of_turn);
        (category, CategoryScores { first, second })
    };
    questions.categories().into_iter().map(scores).collect()
}

fn runs(judgments: &[Judgment]) -> usize {
    let runs = judgments
        .iter()
        .filter_map(|j| Some(j.scores.as_ref()?.len()));
    runs.max().unwrap_or(1)
}

fn times(judgments: &[Judgment]) -> Option<[f64; 2]> {
    let mut times = judgments.iter().map(|judgment| judgment.tstamp);
    let first = times.next()?;
    Some(times.fold([first; 2], |[first, last], time| {
        [first.min(time), last.max(time)]
    }))
}

fn doubts(rated: &[Rated<'_>], is_one: impl Fn(&Rated<'_>) -> bool) -> Vec<Doubt> {
    let found = rated.iter().filter(|rated| is_one(rated));
    let doubt = |rated: &Rated<'_>| Doubt {
        question_id: rated.of.question_id,
        model: rated.of.model.clone(),
        turn: rated.of.turn,
        score: rated.score,
    };
    found.map(doubt).collect()
}

fn mean<'a>(rated: impl Iterator<Item = &'a &'a Rated<'a>>) -> TurnScores {
    let (sum, judged) = rated.fold((0.0, 0), |(sum, n), rated| (sum + rated.score, n + 1));
    TurnScores {
        mean: (judged > 0).then(|| sum / judged as f64),
        judged,
    }
}

impl Summary {
    /// The three tables of FastChat's `show_result`, with its first line, which names the file.
    pub fn tables(&self, file: &str) -> String {
        type Of = fn(&ModelScores) -> Option<f64>;
        let tables: [(&str, Option<&str>, Of); 3] = [
            ("First turn", Some("1"), |of| of.first),
            ("Second turn", Some("2"), |of| of.second),
            ("Average", None, |of| of.average),
        ];
        let mut text = format!("Input file: {file}\n");
        for (title, turn, score) in tables {
            let row = |(model, scores): (&String, &ModelScores)| {
                let index = [model.as_str()].into_iter().chain(turn);
                Some((index.map(str::to_owned).collect(), score(scores)?))
            };
            let mut rows: Vec<(Vec<String>, f64)> = self.models.iter().filter_map(row).collect();
            // Equal scores stay in the order of names.
            rows.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            let names: &[&str] = match turn {
                Some(_) => &["model", "turn"],
                None => &["model"],
            };
            text += &format!("\n########## {title} ##########\n{}", frame(names, &rows));
        }
        text
    }
}
