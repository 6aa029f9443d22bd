//! Figure 1: scores against stored parameters.

use std::ops::Range;

use plotters::{
    coord::{combinators::LogCoord, types::RangedCoordf64},
    prelude::*,
};

use super::{
    cells::{Cell, Cells},
    page::Figure,
};
use crate::{
    Result,
    report::curve::{COLOURS, failed, printable},
};

const SIZE: (u32, u32) = (820, 460);

/// A method's score, times 100.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    method: String,
    /// What it is besides its method.
    label: String,
    stored: f64,
    score: f64,
    sd: f64,
}

/// One picture for each model and task of the tables: the median of the best epochs with its deviation, by what is stored besides the head.
///
/// # Errors
/// The drawing library's.
pub(super) fn figures<'a>(tables: impl Iterator<Item = &'a Cells<'a>>) -> Result<Vec<Figure>> {
    let mut charts: Vec<Scores> = Vec::new();
    for cells in tables {
        for (row, column, cell) in cells.all() {
            let label = cells.label((row, column), &["method", "task", "model", "data"]);
            let Some(point) = point(cell, label) else {
                continue;
            };
            let [model, task] = ["model", "task"].map(|key| cell.run.config.value(key));
            let metric = cell.metric().name();
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

/// What one picture shows.
struct Scores {
    model: String,
    task: String,
    metric: &'static str,
    points: Vec<Point>,
}

impl Scores {
    /// Adds a point; the same run may be in several tables.
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
        let (task, metric) = (&self.task, self.metric);
        Ok(Figure {
            name: format!("scores-{number}"),
            title: format!("Task {task}, model {model}"),
            caption: format!(
                "The {metric} times 100 on dev against stored parameters (float32 equivalents, without the head); \
                 medians of best epochs, bars of one standard deviation over seeds."
            ),
            svg: draw(&self.points, &format!("{task}, {model}"), metric)?,
        })
    }
}

fn point(cell: &Cell<'_>, label: String) -> Option<Point> {
    let best = cell.best()?;
    Some(Point {
        method: cell.run.config.method.clone(),
        label,
        stored: cell.run.count.stored,
        score: 100.0 * best.median,
        sd: 100.0 * best.sd,
    })
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>;

fn draw(points: &[Point], title: &str, metric: &str) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .caption(printable(title), ("sans-serif", 20))
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(stored_range(points).log_scale(), score_range(points))
            .map_err(|e| failed(&e))?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .x_desc("stored parameters")
            .y_desc(metric)
            .x_label_formatter(&|count| short(*count))
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 17));
        mesh.draw().map_err(|e| failed(&e))?;
        draw_methods(&mut chart, points)?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}

/// A colour for each method, in the order of their first points.
fn draw_methods<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, points: &[Point]) -> Result<()> {
    let mut methods: Vec<&str> = points.iter().map(|point| &*point.method).collect();
    let mut seen = Vec::new();
    methods.retain(|method| {
        !seen.contains(method) && {
            seen.push(*method);
            true
        }
    });
    for (method, colour) in methods.iter().zip(COLOURS.iter().cycle().copied()) {
        let own = points.iter().filter(|point| point.method == *method);
        let (stores, stores_nothing): (Vec<_>, Vec<_>) = own.partition(|point| point.stored > 0.0);
        let dots = stores
            .iter()
            .map(|p| Circle::new((p.stored, p.score), 5, colour.filled()));
        let series = chart.draw_series(dots).map_err(|e| failed(&e))?;
        series
            .label(printable(method))
            .legend(move |at| Circle::new(at, 5, colour.filled()));
        let range = stored_range(points);
        let bars = stores
            .iter()
            .map(|p| [(p.stored, p.score - p.sd), (p.stored, p.score + p.sd)]);
        // What stores nothing has no place on this axis: a line across.
        let across = stores_nothing
            .iter()
            .map(|p| [(range.start, p.score), (range.end, p.score)]);
        let lines = bars
            .chain(across)
            .map(|ends| PathElement::new(ends, colour.stroke_width(2)));
        chart.draw_series(lines).map_err(|e| failed(&e))?;
        let font = ("sans-serif", 13).into_font();
        let label = |p: &&Point| {
            let place = (p.stored * LABEL_AT, p.score);
            Text::new(printable(&p.label), place, font.clone())
        };
        chart
            .draw_series(stores.iter().map(label))
            .map_err(|e| failed(&e))?;
    }
    let mut legend = chart.configure_series_labels();
    legend
        .position(SeriesLabelPosition::LowerRight)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200));
    legend.draw().map_err(|e| failed(&e))
}

/// Where a label starts, as a multiple of its point's place.
const LABEL_AT: f64 = 1.06;

/// From half the least that is stored to twice the most; anything where nothing is.
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

/// The scores with their bars and a margin; never empty.
fn score_range(points: &[Point]) -> Range<f64> {
    let lows = points.iter().map(|point| point.score - point.sd);
    let highs = points.iter().map(|point| point.score + point.sd);
    let (low, high) = (lows.reduce(f64::min), highs.reduce(f64::max));
    let (low, high) = (low.unwrap_or(0.0), high.unwrap_or(1.0));
    let margin = (0.08 * (high - low)).max(0.5);
    low - margin..high + margin
}

/// A count on an axis: `24k`, `1.5M`.
fn short(count: f64) -> String {
    let (value, unit) = match count {
        ..1e3 => (count, ""),
        ..1e6 => (count / 1e3, "k"),
        _ => (count / 1e6, "M"),
    };
    let digits = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.digits$}{unit}")
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
        let svg = draw(&points, "cola & co", "matthews").unwrap();
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
        // Two points and the legend's.
        assert_eq!(shapes("<circle", "#D55E00"), 3);
        assert_eq!(shapes("<circle", "#0072B2"), 2);
        assert_eq!(shapes("<circle", "#009E73"), 1);
        assert_eq!(shapes("<polyline", "#009E73"), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn odd_sets_of_points_can_be_drawn() {
        for points in [
            vec![],
            vec![at("head", 0.0, 1.0, 0.0)],
            vec![at("x", 1.0, 1.0, 0.0)],
        ] {
            let svg = draw(&points, "t", "m").unwrap();
            assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
        }
    }

    #[test]
    fn counts_are_short() {
        let counts = [1.0, 2000.0, 1500.0, 24_000.0, 3e6, 1.2e8].map(short);
        assert_eq!(counts, ["1", "2k", "1.5k", "24k", "3M", "120M"]);
    }
}
