//! Plots of points and lines.

use plotters::style::{Color, RGBColor};

use super::{
    axis::Axis,
    canvas::{self, Anchor, At, Canvas, LETTERS, MARGIN, text_width},
    frame::{Frame, Room},
    labels::{Area, Wanted, needs_leader, place},
    style::{AXIS, INK, Mark, Shape},
};
use crate::Result;

/// The height of a plot's frame with its axes, in units.
const HEIGHT: i32 = 330;

/// The height of a legend line, in units.
const ROW: i32 = 23;

/// The size of label text, in units.
const LABELS: f64 = 13.5;

/// Points and lines on two axes, with a legend above.
#[derive(Debug, Clone)]
pub struct Plot {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series, the first one drawn below the others.
    pub series: Vec<Series>,
}

/// Points with one name and one mark. Series that share both have one line in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The name in the legend. A series without a name is not listed.
    pub name: String,
    /// The look of its points.
    pub mark: Mark,
    /// The points in order.
    pub points: Vec<Point>,
    /// The line that joins the points.
    pub line: Line,
    /// Values without a position on the horizontal axis. They are drawn as dashed lines across the plot.
    pub across: Vec<f64>,
}

/// A line through the points of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Points alone.
    None,
    /// Points on a line.
    Solid,
    /// A line of dashes without points, to compare others with.
    Dashed,
}

/// A point of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The horizontal value.
    pub x: f64,
    /// The vertical value.
    pub y: f64,
    /// Half the length of the error bar; 0 draws none.
    pub deviation: f64,
    /// Text next to the point; may be empty.
    pub label: String,
}

impl Series {
    /// A line through points.
    pub fn line(
        name: impl Into<String>,
        mark: Mark,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let point = |(x, y)| Point {
            x,
            y,
            deviation: 0.0,
            label: String::new(),
        };
        Self {
            name: name.into(),
            mark,
            points: points.into_iter().map(point).collect(),
            line: Line::Solid,
            across: Vec::new(),
        }
    }

    /// A grey dashed line through points without marks.
    pub fn dashes(points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mark = Mark {
            colour: AXIS,
            shape: Shape::Circle,
        };
        Self {
            line: Line::Dashed,
            ..Self::line("", mark, points)
        }
    }

    fn is_empty(&self) -> bool {
        self.points.is_empty() && self.across.is_empty()
    }
}

/// Draws plots one below the other, as SVG. Text after the first full stop of the title is smaller.
///
/// # Errors
/// [`Error::Draw`](crate::Error::Draw) with the drawing library's words.
pub fn draw_plots(title: &str, plots: &[Plot]) -> Result<String> {
    let heights: Vec<i32> = plots
        .iter()
        .map(|plot| plot.legend_height() + HEIGHT + 14)
        .collect();
    canvas::draw(
        title,
        heights.iter().sum::<i32>().max(0) as u32,
        |canvas, top| {
            let mut top = top;
            for (plot, height) in plots.iter().zip(&heights) {
                plot.draw(canvas, top)?;
                top += height;
            }
            Ok(())
        },
    )
}

impl Plot {
    fn draw(&self, canvas: &Canvas<'_>, top: i32) -> Result<()> {
        let room = Room::wide(top + self.legend_height() + 8, HEIGHT);
        let frame = Frame::draw(canvas, room, self.x.clone(), self.y.clone())?;
        for (entry, at) in self.legend() {
            entry.draw_name(canvas, (at.0, at.1 + top))?;
        }
        for series in &self.series {
            series.draw(canvas, &frame)?;
        }
        self.draw_labels(canvas, &frame)
    }

    /// The series of the legend and the positions of their marks, from the plot's upper left corner.
    fn legend(&self) -> Vec<(&Series, At)> {
        let mut entries: Vec<(&Series, At)> = Vec::new();
        let (mut x, mut y) = (MARGIN, ROW / 2);
        for series in &self.series {
            let is_known = |(known, _): &(&Series, At)| {
                (&known.name, known.mark) == (&series.name, series.mark)
            };
            if series.is_empty() || series.name.is_empty() || entries.iter().any(is_known) {
                continue;
            }
            let width = 44 + text_width(&series.name, LETTERS);
            if x > MARGIN && x + width > super::WIDTH as i32 - MARGIN / 2 {
                (x, y) = (MARGIN, y + ROW);
            }
            entries.push((series, (x, y)));
            x += width;
        }
        entries
    }

    fn legend_height(&self) -> i32 {
        self.legend().last().map_or(0, |(_, (_, y))| y + ROW / 2)
    }

    fn draw_labels(&self, canvas: &Canvas<'_>, frame: &Frame) -> Result<()> {
        let points = || {
            self.series
                .iter()
                .flat_map(|series| series.points.iter().map(move |point| (series, point)))
        };
        let marks = points().map(|(_, point)| Area::around(frame.at(point.x, point.y), 7, 7));
        let bars = points().map(|(_, point)| bar(frame, point));
        let across = self.series.iter().flat_map(|series| &series.across);
        let across = across.map(|&value| Area {
            left: frame.left,
            top: frame.y(value) - 1,
            right: frame.right,
            bottom: frame.y(value) + 1,
        });
        let taken: Vec<Area> = marks.chain(bars).chain(across).collect();
        let labelled: Vec<(&Series, &Point)> = points()
            .filter(|(_, point)| !point.label.is_empty())
            .collect();
        let wanted = labelled.iter().map(|(_, point)| Wanted {
            point: frame.at(point.x, point.y),
            width: text_width(&point.label, LABELS) + 3,
            height: LABELS as i32 + 2,
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let inside = Area {
            left: frame.left + 2,
            top: frame.top,
            right: frame.right,
            bottom: frame.bottom - 2,
        };
        let places = place(&wanted, &taken, inside);
        for (((series, point), label), area) in labelled.iter().zip(&wanted).zip(&places) {
            draw_label(canvas, &point.label, label.point, *area, series.mark.colour)?;
        }
        Ok(())
    }
}

/// The area that a point's error bar covers.
fn bar(frame: &Frame, point: &Point) -> Area {
    let (x, low) = frame.at(point.x, point.y - point.deviation);
    Area {
        left: x - 2,
        top: frame.y(point.y + point.deviation),
        right: x + 2,
        bottom: low,
    }
}

/// Draws a label, with a leader line if it is not next to its point.
pub(crate) fn draw_label(
    canvas: &Canvas<'_>,
    text: &str,
    point: At,
    area: Area,
    colour: RGBColor,
) -> Result<()> {
    let end = area.nearest(point);
    if needs_leader(point, area) {
        canvas.line(vec![point, end], colour.mix(0.55).stroke_width(1))?;
    }
    let (anchor, x) = match (point.0 <= area.left, point.0 >= area.right) {
        (true, _) => (Anchor::Left, area.left),
        (_, true) => (Anchor::Right, area.right),
        _ => (Anchor::Middle, (area.left + area.right) / 2),
    };
    canvas.sized_text(text, (x, (area.top + area.bottom) / 2), anchor, INK, LABELS)
}

impl Series {
    fn draw(&self, canvas: &Canvas<'_>, frame: &Frame) -> Result<()> {
        let style = self.mark.colour.stroke_width(2);
        for &value in &self.across {
            let y = frame.y(value);
            canvas.dashes([(frame.left, y), (frame.right, y)], style)?;
        }
        let places: Vec<At> = self
            .points
            .iter()
            .map(|point| frame.at(point.x, point.y))
            .collect();
        match self.line {
            Line::None => {}
            // A line needs two points.
            Line::Solid if places.len() < 2 => {}
            Line::Solid => canvas.line(places.clone(), style)?,
            Line::Dashed => {
                let thin = self.mark.colour.stroke_width(1);
                let mut pairs = places.windows(2);
                return pairs.try_for_each(|pair| canvas.dashes([pair[0], pair[1]], thin));
            }
        }
        for point in self.points.iter().filter(|point| point.deviation > 0.0) {
            let area = bar(frame, point);
            let x = (area.left + area.right) / 2;
            canvas.line(vec![(x, area.top), (x, area.bottom)], style)?;
        }
        for place in places {
            canvas.mark(place, self.mark)?;
        }
        Ok(())
    }

    /// Draws the legend entry of the series.
    fn draw_name(&self, canvas: &Canvas<'_>, at: At) -> Result<()> {
        let swatch = |(x, y): At| {
            let style = self.mark.colour.stroke_width(2);
            let ends = [(x, y), (x + 26, y)];
            if self.points.is_empty() {
                return canvas.dashes(ends, style);
            }
            if self.line == Line::Solid {
                canvas.line(ends.to_vec(), style)?;
            }
            canvas.mark((x + 13, y), self.mark)
        };
        canvas.key(at, &self.name, swatch).map(|_| ())
    }
}
