//! Figure 1: scores against stored parameters.

use std::ops::Range;

use super::{
    cells::{Cell, Cells},
    page::Figure,
};
use crate::{
    Result,
    chart::{
        Axis, Line, Mark, Plot, Point as Dot, Series, draw_plots, marks, printable, short_count,
    },
    metrics::Metric,
};

/// A method's score, multiplied by 100.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    method: String,
    /// A description without the method.
    label: String,
    stored: f64,
    score: f64,
    sd: f64,
}

/// Draws one picture for each model and task of the tables. It shows the median of the best epochs with its deviation, against the stored
/// parameters without the head.
///
/// # Errors
/// The drawing library's errors.
pub(super) fn figures<'a>(tables: impl Iterator<Item = &'a Cells<'a>>) -> Result<Vec<Figure>> {
    let mut charts: Vec<Scores> = Vec::new();
    for cells in tables {
        for (row, column, cell) in cells.all() {
            let label = cells.label((row, column), &["method", "task", "model", "data"]);
            let Some(point) = point(cell, label) else {
                continue;
            };
            let [model, task] = ["model", "task"].map(|key| cell.run.config.value(key));
            let metric = cell.metric();
            let same = |chart: &&mut Scores| (&chart.model, &chart.task) == (&model, &task);
            match charts.iter_mut().find(same) {
                Some(chart) => chart.add(point),
                None => charts.push(Scores {
                    model,
                    task,
                    metric,
                    points: vec![point],
                }),
            }
        }
    }
    charts
        .iter()
        .enumerate()
        .map(|(i, chart)| chart.figure(i + 1))
        .collect()
}

/// The content of one picture.
struct Scores {
    model: String,
    task: String,
    metric: Metric,
    points: Vec<Point>,
}

impl Scores {
    /// Adds a point. The same run may be in several tables.
    fn add(&mut self, point: Point) {
        let place = |p: &Point| (p.method.clone(), p.stored.to_bits(), p.score.to_bits());
        if !self
            .points
            .iter()
            .any(|known| place(known) == place(&point))
        {
            self.points.push(point);
        }
    }

    fn figure(&self, number: usize) -> Result<Figure> {
        let model = self.model.rsplit('/').next().unwrap_or(&self.model);
        let (task, metric) = (&self.task, self.metric.name());
        Ok(Figure {
            name: format!("scores-{number}"),
            title: format!("Task {task}, model {model}"),
            caption: format!(
                "The {metric}{} on dev against stored parameters (float32 equivalents, without the head); \
                 medians of best epochs, bars of one standard deviation over seeds.",
                times(self.metric, " times 100")
            ),
            svg: draw(
                &self.points,
                &format!("task {task}, model {model}"),
                self.metric,
            )?,
        })
    }
}

fn point(cell: &Cell<'_>, label: String) -> Option<Point> {
    let best = cell.best()?;
    Some(Point {
        method: cell.run.config.method.clone(),
        label,
        stored: cell.run.count.stored,
        score: cell.metric().scale() * best.median,
        sd: cell.metric().scale() * best.sd,
    })
}

/// The words for a scale that is not one.
fn times(metric: Metric, words: &'static str) -> &'static str {
    match metric.is_loss() {
        true => "",
        false => words,
    }
}

/// Draws the points. `of` names their model and task.
fn draw(points: &[Point], of: &str, metric: Metric) -> Result<String> {
    let (words, stored) = (metric_words(metric), "stored parameters");
    let title = format!(
        "{words} against {stored}. Dev set, {of}; medians of best epochs, bars of one standard deviation over seeds"
    );
    let plot = Plot {
        x: Axis {
            format: short_count,
            ..Axis::log(
                format!("{stored} (float32 equivalents, without the head)"),
                stored_range(points),
            )
        },
        y: Axis::linear(
            format!("{words}{}", times(metric, " × 100")),
            score_range(points, metric),
        ),
        series: series(points),
    };
    draw_plots(&title, &[plot])
}

/// A metric's name on an axis.
fn metric_words(metric: Metric) -> &'static str {
    match metric {
        Metric::Accuracy => "Accuracy",
        Metric::F1 => "F1",
        Metric::Matthews => "Matthews correlation",
        Metric::Pearson => "Pearson correlation",
        Metric::Spearman => "Spearman correlation",
        Metric::Nll => "Negative log-likelihood",
        Metric::F1Macro => "Macro F1",
        Metric::F1Micro => "Micro F1",
        Metric::F1Weighted => "Weighted F1",
        Metric::BalancedAccuracy => "Balanced accuracy",
        Metric::SubsetAccuracy => "Subset accuracy",
        Metric::Mse => "Mean squared error",
        Metric::Mae => "Mean absolute error",
        Metric::R2 => "R2",
    }
}

/// One series per method, in the order of their first points.
fn series(points: &[Point]) -> Vec<Series> {
    let mut methods: Vec<&str> = Vec::new();
    for point in points {
        if !methods.contains(&point.method.as_str()) {
            methods.push(&point.method);
        }
    }
    let all = methods.iter().zip(marks(methods.iter().copied()));
    all.map(|(method, mark)| one_series(method, mark, points))
        .collect()
}

fn one_series(method: &str, mark: Mark, points: &[Point]) -> Series {
    let own = points.iter().filter(|point| point.method == method);
    let (stores, stores_nothing): (Vec<_>, Vec<_>) = own.partition(|point| point.stored > 0.0);
    let dot = |point: &&Point| Dot {
        x: point.stored,
        y: point.score,
        deviation: point.sd,
        label: printable(&point.label),
    };
    Series {
        name: printable(method),
        mark,
        points: stores.iter().map(dot).collect(),
        line: Line::None,
        // A logarithmic axis has no place for zero.
        across: stores_nothing.iter().map(|point| point.score).collect(),
    }
}

/// The range from half the smallest stored size to twice the largest. It is arbitrary if nothing is stored.
fn stored_range(points: &[Point]) -> Range<f64> {
    let stored = || {
        points
            .iter()
            .map(|point| point.stored)
            .filter(|stored| *stored > 0.0)
    };
    match (stored().reduce(f64::min), stored().reduce(f64::max)) {
        (Some(least), Some(most)) => least / 2.0..most * 2.0,
        _ => 1.0..10.0,
    }
}

/// The range of the scores with their error bars and a margin. It is never empty.
fn score_range(points: &[Point], metric: Metric) -> Range<f64> {
    let lows = points.iter().map(|point| point.score - point.sd);
    let highs = points.iter().map(|point| point.score + point.sd);
    let (low, high) = (lows.reduce(f64::min), highs.reduce(f64::max));
    let (low, high) = (low.unwrap_or(0.0), high.unwrap_or(1.0));
    let margin = (0.08 * (high - low)).max(0.005 * metric.scale());
    low - margin..high + margin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(method: &str, stored: f64, score: f64, sd: f64) -> Point {
        Point {
            method: method.into(),
            label: "q<v".into(),
            stored,
            score,
            sd,
        }
    }

    #[test]
    fn each_method_has_a_colour_and_what_stores_nothing_a_line() {
        let points = [
            at("lora", 294_912.0, 60.0, 1.0),
            at("vblora", 23_904.0, 63.0, 0.5),
            at("vblora", 26_928.0, 64.0, 0.0),
            at("head", 0.0, 40.0, 0.0),
        ];
        let svg = draw(&points, "cola & co", Metric::Matthews).unwrap();
        for text in [
            "\nlora\n",
            "\nvblora\n",
            "\nhead\n",
            "cola &amp; co",
            "q&lt;v",
            "100k",
        ] {
            assert!(svg.contains(text), "{text}\n{svg}");
        }
        let shapes = |tag: &str, colour: &str| {
            let of_it = |line: &&str| line.starts_with(tag) && line.contains(colour);
            svg.lines().filter(of_it).count()
        };
        // The circles of two points and of the legend.
        assert_eq!(shapes("<circle", "#0072B2"), 3);
        assert_eq!(shapes("<polygon", "#D55E00"), 2);
        // Dashed lines across and in the legend, without a mark.
        assert_eq!(shapes("<polygon", "#000000"), 0);
        assert!(shapes("<polyline", "#000000") > 10);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn odd_sets_of_points_can_be_drawn() {
        for points in [
            vec![],
            vec![at("head", 0.0, 1.0, 0.0)],
            vec![at("x", 1.0, 1.0, 0.0)],
        ] {
            let svg = draw(&points, "t", Metric::F1).unwrap();
            assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
        }
    }
}
