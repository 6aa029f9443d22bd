//! The curves of a run directory as an SVG picture.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::{RangedCoordf64, RangedCoordi32};
use plotters::prelude::*;

use crate::results::{EpochResult, Results, RunResult};
use crate::{Error, Result};

/// Width and height in pixels.
const SIZE: (u32, u32) = (1000, 420);

/// Okabe and Ito's colours, which the colour-blind can tell apart; an eighth method starts over.
pub(crate) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Values beyond this have no place in a picture of losses and scores, and would break the axis.
const DRAWABLE: f64 = 1e9;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordi32, RangedCoordf64>>;

/// Training loss and the task's primary dev metric by epoch, side by side: one colour per method and targets, one line
/// per seed. Values that are not finite or not defined are left out.
///
/// # Errors
/// [`Error::Draw`] with the drawing library's words.
pub fn curves_svg(results: &Results) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let (left, right) = root.split_horizontally(SIZE.0 / 2);
        let losses = curves(&results.runs, |_, epoch| Some(epoch.train_loss));
        let scores = curves(&results.runs, |run, epoch| {
            epoch.metrics.get(run.task.primary_metric)
        });
        // Losses fall and scores rise: the legends stand where the lines are not.
        panel(
            &left,
            &losses,
            "training loss",
            SeriesLabelPosition::UpperRight,
        )?;
        let metric = metric_name(&results.runs);
        panel(&right, &scores, &metric, SeriesLabelPosition::LowerRight)?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}

/// The label of the right panel; runs on tasks with different metrics share the axis, as all lie in [-1, 1].
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

/// A line of the picture.
struct Curve {
    /// Method, targets and, where several are drawn, task.
    name: String,
    colour: RGBColor,
    points: Vec<(i32, f64)>,
}

fn curves(
    runs: &[RunResult],
    value: impl Fn(&RunResult, &EpochResult) -> Option<f64>,
) -> Vec<Curve> {
    let one_task = runs.windows(2).all(|pair| pair[0].task == pair[1].task);
    let mut names: Vec<String> = Vec::new();
    let mut curve = |run: &RunResult| {
        let task = if one_task {
            String::new()
        } else {
            format!(", {}", run.task)
        };
        let name = printable(&format!("{} {}{task}", run.method, run.targets));
        // By the runs and not by what can be drawn of them, so that both panels agree.
        let place = names.iter().position(|known| *known == name);
        let place = place.unwrap_or_else(|| {
            names.push(name.clone());
            names.len() - 1
        });
        let points = points(run, &value);
        let colour = COLOURS[place % COLOURS.len()];
        Curve {
            name,
            colour,
            points,
        }
    };
    runs.iter().map(&mut curve).collect()
}

/// The epochs of a run whose value can be drawn.
fn points(
    run: &RunResult,
    value: impl Fn(&RunResult, &EpochResult) -> Option<f64>,
) -> Vec<(i32, f64)> {
    let point = |epoch: &EpochResult| {
        let value = value(run, epoch).filter(|value| value.abs() <= DRAWABLE)?;
        Some((i32::try_from(epoch.epoch).ok()?, value))
    };
    run.epochs.iter().filter_map(point).collect()
}

fn panel(
    area: &Area<'_>,
    curves: &[Curve],
    label: &str,
    legend: SeriesLabelPosition,
) -> Result<()> {
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(label, ("sans-serif", 22))
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(epoch_range(curves), value_range(curves))
        .map_err(|e| failed(&e))?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .x_desc("epoch")
        .y_desc(label)
        .x_labels(10)
        .y_labels(8)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17));
    mesh.draw().map_err(|e| failed(&e))?;
    if draw_lines(&mut chart, curves)? {
        let mut labels = chart.configure_series_labels();
        labels
            .position(legend)
            .label_font(("sans-serif", 16))
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200));
        labels.draw().map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Draws every curve that has a point, each name in the legend once; whether there was any.
fn draw_lines(chart: &mut Chart<'_, '_>, curves: &[Curve]) -> Result<bool> {
    let mut named: Vec<&str> = Vec::new();
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let colour = curve.colour;
        let line =
            LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)).point_size(3);
        let drawn = chart.draw_series(line).map_err(|e| failed(&e))?;
        if !named.contains(&curve.name.as_str()) {
            named.push(&curve.name);
            drawn.label(curve.name.as_str()).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
            });
        }
    }
    Ok(!named.is_empty())
}

/// From 0 to one past the last epoch, so that no point lies on the frame.
fn epoch_range(curves: &[Curve]) -> Range<i32> {
    let last = curves
        .iter()
        .flat_map(|curve| &curve.points)
        .map(|(epoch, _)| *epoch)
        .max();
    0..last.unwrap_or(1).saturating_add(1)
}

/// The values with a margin; never empty or too narrow for the axis to be divided.
fn value_range(curves: &[Curve]) -> Range<f64> {
    let values = || {
        curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|(_, value)| *value)
    };
    let (low, high) = (values().reduce(f64::min), values().reduce(f64::max));
    let (Some(low), Some(high)) = (low, high) else {
        return 0.0..1.0;
    };
    let narrowest = 1e-3 * low.abs().max(high.abs()).max(1.0);
    let margin = (0.06 * (high - low)).max(narrowest);
    low - margin..high + margin
}

/// Text without control characters, which XML does not allow; the SVG writer escapes the rest.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

pub(crate) fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::Draw {
        what: "the picture".into(),
        message: error.to_string(),
    }
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
    fn odd_values_do_not_panic() {
        let mut run_of_nan = run("vblora", "all", 1, &[0.5, 0.5, 0.5]);
        run_of_nan.epochs[0].train_loss = f64::NAN;
        run_of_nan.epochs[1].train_loss = f64::INFINITY;
        run_of_nan.epochs[2].train_loss = 1e300;
        let svg = draw(vec![run_of_nan, run("lora", "qv", 1, &[0.5])]);
        // The first run has no loss to draw, and the second keeps its own colour in both panels.
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
