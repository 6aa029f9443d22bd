//! Bank and sub-vectors on a plane.

use std::ops::Range;

use plotters::{
    prelude::*,
    style::{Color, ShapeStyle},
};

use super::picture::{self, LABEL, MAIN};
use crate::{
    Result,
    analysis::Projection,
    report::{COLOURS, failed},
};

/// Width and height in pixels.
const SIZE: (u32, u32) = (860, 640);

/// The bank's colour.
const BANK: RGBColor = COLOURS[1];

pub(super) struct Scatter<'a> {
    pub(super) projection: &'a Projection,
    /// `[h]`
    pub(super) uses: &'a [usize],
}

pub(super) fn draw(title: &str, scatter: &Scatter<'_>) -> Result<String> {
    let Projection {
        bank,
        sub_vectors,
        explained,
    } = scatter.projection;
    picture::draw(title, SIZE, |area| {
        let axis = |i: usize| format!("component {} ({:.1} %)", i + 1, 100.0 * explained[i]);
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d(range(bank, 0), range(bank, 1))
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(axis(0))
            .y_desc(axis(1))
            .x_label_formatter(&picture::short)
            .y_label_formatter(&picture::short)
            .label_style(LABEL)
            .axis_desc_style(("sans-serif", 15))
            .draw()
            .map_err(|e| failed(&e))?;
        let small = MAIN.mix(0.45).filled();
        let points = sub_vectors
            .iter()
            .map(|&[x, y]| Circle::new((x, y), 2, small));
        chart
            .draw_series(points)
            .map_err(|e| failed(&e))?
            .label("sub-vector")
            .legend(move |(x, y)| Circle::new((x + 8, y), 2, small));
        let style = |vector: usize| match scatter.uses[vector] {
            0 => ShapeStyle::from(BANK).stroke_width(1),
            _ => BANK.filled(),
        };
        let vectors = bank.iter().enumerate();
        let vectors = vectors.map(|(i, &[x, y])| Circle::new((x, y), 4, style(i)));
        chart
            .draw_series(vectors)
            .map_err(|e| failed(&e))?
            .label("bank vector")
            .legend(|(x, y)| Circle::new((x + 8, y), 4, BANK.filled()));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 15))
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|e| failed(&e))
    })
}

/// The bank's values on an axis with a margin: mixtures lie within.
fn range(bank: &[[f64; 2]], axis: usize) -> Range<f64> {
    let values = || bank.iter().map(|point| point[axis]);
    let (low, high) = (values().reduce(f64::min), values().reduce(f64::max));
    let (low, high) = (low.unwrap_or(0.0), high.unwrap_or(0.0));
    let margin = (0.06 * (high - low)).max(1e-6);
    low - margin..high + margin
}
