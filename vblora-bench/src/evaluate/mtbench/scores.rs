//! Means of judgments: those of FastChat's `show_result`, and what it leaves out.

use std::collections::{BTreeMap, HashSet};

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
    /// Of those that failed: the endpoint gave no judgment.
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
    /// Of the first turn.
    pub first: TurnScores,
    /// Of the second turn.
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

/// What a file of judgments comes to.
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
    let rated: Vec<_> = judgments.iter().filter(|j| j.rated().is_some()).collect();
    let keys: HashSet<_> = rated.iter().map(|j| j.key()).collect();
    let mut failed = BTreeMap::new();
    for judgment in judgments {
        let key = judgment.key();
        if !keys.contains(&key) {
            failed.insert(key, judgment);
        }
    }
    let mut judges = BTreeMap::new();
    let mut names: BTreeMap<&str, ()> = BTreeMap::new();
    for judgment in judgments {
        *judges.entry(judgment.judge[0].clone()).or_insert(0) += 1;
        names.insert(&judgment.model, ());
    }
    let doubts = |is_one: &dyn Fn(&Judgment, f64) -> bool| {
        let found = rated.iter().filter_map(|j| Some((j, j.rated()?)));
        let found = found.filter(|(judgment, score)| is_one(judgment, *score));
        let doubt = |(judgment, score): (&&Judgment, f64)| Doubt {
            question_id: judgment.question_id,
            model: judgment.model.clone(),
            turn: judgment.turn,
            score,
        };
        found.map(doubt).collect()
    };
    let runs = judgments
        .iter()
        .filter_map(|j| Some(j.scores.as_ref()?.len()));
    let mut times = judgments.iter().map(|judgment| judgment.tstamp);
    let models = names.into_keys().map(|model| {
        let rated: Vec<_> = rated.iter().filter(|j| j.model == model).collect();
        let failed: Vec<_> = failed.values().filter(|j| j.model == model).collect();
        let refused = failed.iter().filter(|j| j.judgment == FAILED).count();
        let mean_of = |is_one: &dyn Fn(&Judgment) -> bool| {
            let chosen = rated.iter().filter(|judgment| is_one(judgment));
            mean(chosen.filter_map(|judgment| judgment.rated()))
        };
        let scores = ModelScores {
            first: mean_of(&|j| j.turn == 1).mean,
            second: mean_of(&|j| j.turn == 2).mean,
            average: mean_of(&|_| true).mean,
            judged: rated.len(),
            failed: failed.len(),
            refused,
            categories: questions.map_or(Vec::new(), |questions| {
                let of = |category: &str, turn: usize| {
                    let is_in = |id| questions.get(id).is_some_and(|q| q.category == category);
                    mean_of(&|j| j.turn == turn && is_in(j.question_id))
                };
                let scored = |category: String| {
                    let [first, second] = [1, 2].map(|turn| of(&category, turn));
                    (category, CategoryScores { first, second })
                };
                questions.categories().into_iter().map(scored).collect()
            }),
        };
        (model.to_owned(), scores)
    });
    Summary {
        models: models.collect(),
        judges,
        runs: runs.max().unwrap_or(1),
        times: times
            .next()
            .map(|first| times.fold([first; 2], |[first, last], t| [first.min(t), last.max(t)])),
        off_scale: doubts(&|_, score| !is_on_scale(score)),
        by_backup: doubts(&|j, _| rating(&j.judgment).is_some_and(|r| r.by_backup)),
        unknown: questions.map_or(0, |questions| {
            let is_unknown = |judgment: &&&Judgment| questions.get(judgment.question_id).is_none();
            rated.iter().filter(is_unknown).count()
        }),
        repeated: rated.len() - keys.len(),
    }
}

fn mean(scores: impl Iterator<Item = f64>) -> TurnScores {
    let (sum, judged) = scores.fold((0.0, 0), |(sum, n), score| (sum + score, n + 1));
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
