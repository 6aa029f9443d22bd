//! Bank and sub-vectors on a plane.

use std::ops::Range;

use plotters::style::{Color, ShapeStyle};

use crate::{
    Result,
    analysis::Projection,
    chart::{
        Axis, BLUE, VERMILLION,
        canvas::{self, At, Canvas, MARGIN},
        frame::{Frame, Room},
    },
};

/// The height of the frame with its axes.
const HEIGHT: i32 = 460;

/// The height of the legend's line.
const LEGEND: i32 = 26;

pub(super) struct Scatter<'a> {
    pub(super) projection: &'a Projection,
    /// `[h]`
    pub(super) uses: &'a [usize],
}

pub(super) fn draw(title: &str, scatter: &Scatter<'_>) -> Result<String> {
    canvas::draw(title, (LEGEND + HEIGHT + MARGIN) as u32, |canvas, top| {
        scatter.draw_legend(canvas, (MARGIN, top + LEGEND / 2))?;
        scatter.draw_points(canvas, Room::wide(top + LEGEND, HEIGHT))
    })
}

fn sub_vector() -> ShapeStyle {
    BLUE.mix(0.45).filled()
}

/// Vectors without uses are drawn as open circles.
fn bank_vector(uses: usize) -> ShapeStyle {
    match uses {
        0 => VERMILLION.stroke_width(1),
        _ => VERMILLION.filled(),
    }
}

impl Scatter<'_> {
    fn draw_legend(&self, canvas: &Canvas<'_>, at: At) -> Result<()> {
        let next = canvas.key(at, "bank vector", |(x, y)| {
            canvas.circle((x + 18, y), 4, bank_vector(1))
        })?;
        let next = if self.uses.contains(&0) {
            canvas.key(next, "unused", |(x, y)| {
                canvas.circle((x + 18, y), 4, bank_vector(0))
            })?
        } else {
            next
        };
        let last = canvas.key(next, "sub-vector", |(x, y)| {
            canvas.circle((x + 18, y), 2, sub_vector())
        });
        last.map(|_| ())
    }

    fn draw_points(&self, canvas: &Canvas<'_>, room: Room) -> Result<()> {
        let Projection {
            bank,
            sub_vectors,
            explained,
        } = self.projection;
        let axis = |i: usize| {
            let part = 100.0 * explained[i];
            Axis::linear(
                format!("component {} ({part:.1} % of the variance)", i + 1),
                range(bank, i),
            )
        };
        let frame = Frame::draw(canvas, room, axis(0), axis(1))?;
        for &[x, y] in sub_vectors {
            canvas.circle(frame.at(x, y), 2, sub_vector())?;
        }
        for (&[x, y], uses) in bank.iter().zip(self.uses) {
            canvas.circle(frame.at(x, y), 4, bank_vector(*uses))?;
        }
        Ok(())
    }
}

/// The range of the bank's values on an axis, with a margin. Mixtures lie inside it.
fn range(bank: &[[f64; 2]], axis: usize) -> Range<f64> {
    let values = || bank.iter().map(|point| point[axis]);
    let (low, high) = (values().reduce(f64::min), values().reduce(f64::max));
    let (low, high) = (low.unwrap_or(0.0), high.unwrap_or(0.0));
    let margin = (0.06 * (high - low)).max(1e-6);
    low - margin..high + margin
}
