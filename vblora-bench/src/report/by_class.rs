//! Tables of one evaluation: its scores, the scores of each class, and the confusion matrix.

use super::{Align, Table};
use crate::{metrics::Scores, tasks::ByClass};

/// A confusion matrix of more classes than this does not fit a page.
const MOST_COLUMNS: usize = 20;

/// Every metric with its value, as a Markdown table.
pub fn scores_table(scores: &Scores) -> String {
    let mut table = Table::new([("metric", Align::Left), ("value", Align::Right)]);
    for (metric, value) in scores.iter() {
        let value = value.map_or("undefined".into(), |value| format!("{value:.4}"));
        table.row([metric.name().to_owned(), value]);
    }
    table.to_string()
}

/// Precision, recall, F1 and support of each class, and the confusion matrix if rows have one class each, as Markdown tables.
pub fn by_class_tables(by_class: &ByClass) -> String {
    let mut table = Table::new([
        ("class", Align::Left),
        ("precision", Align::Right),
        ("recall", Align::Right),
        ("F1", Align::Right),
        ("support", Align::Right),
    ]);
    for class in &by_class.classes {
        let scores = class.scores;
        let shares = [scores.precision, scores.recall, scores.f1];
        let shares = shares.map(|share| format!("{share:.4}"));
        let cells = std::iter::once(class.label.clone()).chain(shares);
        table.row(cells.chain([scores.support.to_string()]));
    }
    let matrix = by_class.confusion.as_ref();
    let matrix = matrix.map(|matrix| format!("\n{}", confusion(by_class, matrix)));
    format!("{table}{}", matrix.unwrap_or_default())
}

fn confusion(by_class: &ByClass, matrix: &[Vec<usize>]) -> String {
    let names = by_class.classes.iter().map(|class| class.label.clone());
    if by_class.classes.len() > MOST_COLUMNS {
        return "The confusion matrix is in the JSON form; it has too many classes for a page.\n"
            .into();
    }
    let first = ("label / predicted".to_owned(), Align::Left);
    let columns = names.clone().map(|name| (name, Align::Right));
    let mut table = Table::new(std::iter::once(first).chain(columns));
    for (name, row) in names.zip(matrix) {
        let counts = row.iter().map(usize::to_string);
        table.row(std::iter::once(name).chain(counts));
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{Label, Predictions, Task, evaluate};

    #[test]
    fn a_row_for_each_class_and_each_pair() {
        let labels = [1, 1, 0, 1, 0].map(Label::Class);
        let predictions = Predictions::Classes(vec![1, 1, 1, 0, 0]);
        let found = evaluate(&Task::mrpc(), &predictions, &labels).unwrap();
        let text = by_class_tables(&found.by_class.unwrap());
        for row in [
            "| equivalent     |    0.6667 | 0.6667 | 0.6667 |       3 |",
            "| equivalent        |              1 |          2 |",
        ] {
            assert!(text.contains(row), "{text}");
        }
        assert!(scores_table(&found.scores).contains("| accuracy | 0.6000 |"));
    }
}
