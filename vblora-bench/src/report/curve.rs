//! The learning curves of a session as an SVG picture.

use std::ops::Range;

use crate::{
    Result,
    chart::{Axis, Mark, Plot, Series, draw_plots, marks, printable},
    results::{EpochResult, Results, RunResult},
};

/// Larger values are useless in a picture of losses and scores, and would break the axis.
const DRAWABLE: f64 = 1e9;

/// Draws training loss and the task's primary dev metric by epoch, or by step if an epoch of a run has not exactly one evaluation. Each method
/// with its targets has a colour and a mark, and each seed has a line. Values that are not finite or undefined are left out.
///
/// # Errors
/// [`Error::Draw`](crate::Error::Draw) with the drawing library's message.
pub fn curves_svg(results: &Results) -> Result<String> {
    let runs = &results.runs;
    let losses = curves(runs, |_, epoch| Some(epoch.train_loss));
    let scores = curves(runs, |run, epoch| {
        epoch.metrics.get(run.task.primary_metric)
    });
    let plots = [
        plot(runs, losses, "training loss"),
        plot(runs, scores, &metric_name(runs)),
    ];
    draw_plots(&title(runs), &plots)
}

/// Returns true if evaluations are placed by epoch, and false if by step.
fn is_by_epoch(runs: &[RunResult]) -> bool {
    runs.iter().all(RunResult::is_by_epoch)
}

/// The unit in which evaluations are placed.
fn unit(runs: &[RunResult]) -> &'static str {
    match is_by_epoch(runs) {
        true => "epoch",
        false => "step",
    }
}

fn title(runs: &[RunResult]) -> String {
    let mut tasks: Vec<String> = runs.iter().map(|run| run.task.to_string()).collect();
    tasks.dedup();
    let word = if tasks.len() == 1 { "Task" } else { "Tasks" };
    format!(
        "Training loss and score by {}. {word} {}, one line a seed",
        unit(runs),
        tasks.join(", ")
    )
}

/// The name of the metric's axis. Runs on tasks with different metrics share the axis, because all metrics lie in [-1, 1].
fn metric_name(runs: &[RunResult]) -> String {
    let mut names: Vec<&str> = runs
        .iter()
        .map(|run| run.task.primary_metric.name())
        .collect();
    names.dedup();
    match names.as_slice() {
        [one] => format!("dev {one}"),
        _ => "dev score".into(),
    }
}

/// One line per run. Runs of one name look the same.
fn curves(
    runs: &[RunResult],
    value: impl Fn(&RunResult, &EpochResult) -> Option<f64>,
) -> Vec<Series> {
    let (looks, by_epoch) = (looks(runs), is_by_epoch(runs));
    let curve = |run: &RunResult| {
        let name = name(run, runs);
        let mark = looks.iter().find(|(known, _)| *known == name);
        mark.map(|(_, mark)| Series::line(name.as_str(), *mark, points(run, by_epoch, &value)))
    };
    runs.iter().filter_map(curve).collect()
}

/// Names and their marks. They depend on the runs and not on their drawable points, so that both plots agree.
fn looks(runs: &[RunResult]) -> Vec<(String, Mark)> {
    let mut known: Vec<(String, &str)> = Vec::new();
    for run in runs {
        let name = name(run, runs);
        if known.iter().all(|(other, _)| *other != name) {
            known.push((name, &run.method));
        }
    }
    let marks = marks(known.iter().map(|(_, method)| *method));
    known.into_iter().map(|(name, _)| name).zip(marks).collect()
}

/// Method, targets and, if several tasks are drawn, the task.
fn name(run: &RunResult, all: &[RunResult]) -> String {
    let task = match all.iter().all(|other| other.task == run.task) {
        true => String::new(),
        false => format!(", {}", run.task),
    };
    printable(&format!("{} {}{task}", run.method, run.targets))
}

/// The evaluations of a run with a value that can be drawn.
fn points(
    run: &RunResult,
    by_epoch: bool,
    value: impl Fn(&RunResult, &EpochResult) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let point = |epoch: &EpochResult| {
        let value = value(run, epoch).filter(|value| value.abs() <= DRAWABLE)?;
        let at = match by_epoch {
            true => u32::try_from(epoch.epoch).ok()?,
            false => u32::try_from(epoch.step?).ok()?,
        };
        Some((f64::from(at), value))
    };
    run.epochs.iter().filter_map(point).collect()
}

fn plot(runs: &[RunResult], series: Vec<Series>, name: &str) -> Plot {
    let points = || series.iter().flat_map(|series| &series.points);
    let last = points().map(|point| point.x).reduce(f64::max);
    let values = value_range(points().map(|point| point.y));
    Plot {
        // The axis goes from 0 to one past the last epoch, so that no point lies on the frame.
        x: Axis {
            is_whole: true,
            ..Axis::linear(unit(runs), 0.0..last.unwrap_or(1.0) + 1.0)
        },
        y: Axis::linear(name, values),
        series,
    }
}

/// The range of the values with a margin. It is never empty or too narrow to divide.
fn value_range(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let (low, high) = (values.clone().reduce(f64::min), values.reduce(f64::max));
    let (Some(low), Some(high)) = (low, high) else {
        return 0.0..1.0;
    };
    let narrowest = 1e-3 * low.abs().max(high.abs()).max(1.0);
    let margin = (0.06 * (high - low)).max(narrowest);
    low - margin..high + margin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_run as run;
    use crate::tasks::Task;

    fn draw(runs: Vec<RunResult>) -> String {
        let svg = curves_svg(&Results::new("c", "flex", runs)).unwrap();
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
            "{svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        svg
    }

    #[test]
    fn seeds_share_colour_and_legend() {
        let svg = draw(vec![
            run("vblora", "qv", 1, &[0.7, 0.8]),
            run("vblora", "qv", 2, &[0.6, 0.7]),
            run("lora", "qv", 1, &[0.5, 0.9]),
        ]);
        // One legend entry per method in each of the two panels.
        assert_eq!(svg.matches("vblora qv").count(), 2);
        assert_eq!(svg.matches("\nlora qv").count(), 2);
        for word in ["training loss", "dev accuracy", "epoch"] {
            assert!(svg.contains(word), "{word}");
        }
        // In each panel, vblora has two lines and lora one, each with a stroke in the legend.
        let strokes = |colour: &str| {
            let line = |line: &&str| line.starts_with("<polyline") && line.contains(colour);
            svg.lines().filter(line).count()
        };
        assert_eq!((strokes("#0072B2"), strokes("#D55E00")), (6, 4), "{svg}");
    }

    #[test]
    fn evaluations_within_epochs_are_placed_by_step() {
        let mut fine = run("lora", "qv", 1, &[0.5, 0.6, 0.7]);
        for (at, epoch) in fine.epochs.iter_mut().enumerate() {
            (epoch.epoch, epoch.step) = (1, Some(10 * (at as u64 + 1)));
        }
        let svg = draw(vec![fine]);
        assert!(svg.contains("score by step") && svg.contains("30"), "{svg}");
        assert!(!svg.contains("epoch"), "{svg}");
    }

    #[test]
    fn odd_values_do_not_panic() {
        let mut run_of_nan = run("vblora", "all", 1, &[0.5, 0.5, 0.5]);
        run_of_nan.epochs[0].train_loss = f64::NAN;
        run_of_nan.epochs[1].train_loss = f64::INFINITY;
        run_of_nan.epochs[2].train_loss = 1e300;
        let svg = draw(vec![run_of_nan, run("lora", "qv", 1, &[0.5])]);
        // The first run has no loss to draw. The second keeps its colour in both panels.
        assert_eq!(svg.matches("\nlora qv").count(), 2);
        assert_eq!(svg.matches("\nvblora all").count(), 1);
        assert!(
            !svg.split("dev accuracy")
                .next()
                .unwrap()
                .contains("#0072B2")
        );
        draw(vec![run("vblora", "all", 1, &[0.5])]);
        draw(vec![run("vblora", "all", 1, &[])]);
        draw(vec![]);
        let mut huge = run("vblora", "all", 1, &[1e-18, 1.0]);
        huge.epochs[0].train_loss = -1e9;
        huge.epochs[1].epoch = usize::MAX;
        draw(vec![huge]);
        let mut late = run("vblora", "all", 1, &[0.5]);
        late.epochs[0].epoch = i32::MAX as usize;
        draw(vec![late]);
    }

    #[test]
    fn names_are_escaped() {
        let mut other = run("a<b>&\"c\u{1}", "x", 1, &[0.5]);
        other.task = Task::sst2();
        let svg = draw(vec![other, run("head", "none", 1, &[0.5])]);
        assert!(svg.contains("a&lt;b&gt;&amp;"), "{svg}");
        assert!(!svg.contains('\u{1}') && !svg.contains("a<b>"));
        assert!(svg.contains("sst2") && svg.contains("head none, mrpc"));
    }
}
