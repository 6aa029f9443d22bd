//! Maps of sub-vectors by bank vectors.

use plotters::{prelude::*, style::Color};

use super::picture::{self, Area, LABEL, MAIN};
use crate::{
    Result,
    analysis::Cells,
    report::{failed, printable},
};

/// The height of a panel's cells; banks of more vectors have several to a row.
const HEIGHT: usize = 300;

/// Beside and under the cells.
const LABELS: (u32, u32) = (62, 46);

/// The space around a panel's chart.
const MARGIN: u32 = 10;

/// The line above a panel.
const CAPTION: u32 = 22;

/// What is looked at.
pub(super) struct Map {
    /// The sub-vectors, one a column.
    pub(super) rows: Vec<usize>,
    /// h
    pub(super) vectors: usize,
}

/// Cells of one colour.
pub(super) struct Layer<'a> {
    /// For the legend, which a picture of several layers has.
    pub(super) name: &'a str,
    pub(super) colour: RGBColor,
    pub(super) cells: &'a Cells,
}

impl<'a> Layer<'a> {
    pub(super) fn plain(colour: RGBColor, cells: &'a Cells) -> Self {
        Self {
            name: "",
            colour,
            cells,
        }
    }
}

pub(super) struct Panel<'a> {
    pub(super) title: String,
    pub(super) map: Map,
    pub(super) layers: Vec<Layer<'a>>,
}

/// One panel large, several in rows.
pub(super) fn draw(title: &str, panels: &[Panel<'_>]) -> Result<String> {
    let (across, cell) = match panels.len() {
        0 | 1 => (1, 8),
        2 | 4 => (2, 5),
        _ => (3, 4),
    };
    let columns = panels.iter().map(|p| p.map.rows.len()).max().unwrap_or(1);
    // Wide enough for the title, which does not wrap.
    let width = (cell * columns as u32 + LABELS.0 + 2 * MARGIN).max(860 / across);
    let height = HEIGHT as u32 + LABELS.1 + 2 * MARGIN + CAPTION;
    let down = panels.len().div_ceil(across as usize).max(1) as u32;
    picture::draw(title, (across * width, down * height), |area| {
        let areas = area.split_evenly((down as usize, across as usize));
        panels
            .iter()
            .zip(&areas)
            .try_for_each(|(panel, area)| panel.draw(area))
    })
}

impl Panel<'_> {
    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let Map { rows, vectors } = &self.map;
        let has_legend = self.layers.iter().any(|layer| !layer.name.is_empty());
        // A legend stands above the cells.
        let top = if has_legend {
            vectors + vectors.div_ceil(3)
        } else {
            *vectors
        };
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .caption(printable(&self.title), ("sans-serif", 14))
            .x_label_area_size(LABELS.1 as i32)
            .y_label_area_size(LABELS.0 as i32)
            .build_cartesian_2d(0..rows.len().max(1), 0..top)
            .map_err(|e| failed(&e))?;
        let row = |at: &usize| rows.get(*at).map_or(String::new(), ToString::to_string);
        let vector = |at: &usize| match at > vectors {
            true => String::new(),
            false => at.to_string(),
        };
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc("sub-vector")
            .y_desc("bank vector")
            .x_labels(8)
            .y_labels(8)
            .x_label_formatter(&row)
            .y_label_formatter(&vector)
            .label_style(LABEL)
            .axis_desc_style(("sans-serif", 14))
            .draw()
            .map_err(|e| failed(&e))?;
        for layer in &self.layers {
            let style = layer.colour.filled();
            let bars = runs(layer.cells, bin(*vectors));
            let rectangles = bars
                .into_iter()
                .map(|(x, from, to)| Rectangle::new([(x, from), (x + 1, to.min(*vectors))], style));
            let drawn = chart.draw_series(rectangles).map_err(|e| failed(&e))?;
            if !layer.name.is_empty() {
                drawn
                    .label(layer.name)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], style));
            }
        }
        if !has_legend {
            return Ok(());
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 14))
            .background_style(WHITE.mix(0.9))
            .border_style(MAIN)
            .draw()
            .map_err(|e| failed(&e))
    }
}

/// How many of h bank vectors share a row.
pub(super) fn bin(h: usize) -> usize {
    h.div_ceil(HEIGHT).max(1)
}

/// Cells as upright bars (column, from, to), those above one another as one; `bin` vectors share a row.
pub(super) fn runs(cells: &Cells, bin: usize) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for &(column, vector) in cells {
        let from = vector / bin * bin;
        match runs.last_mut() {
            Some((last, _, to)) if *last == column && *to >= from => *to = from + bin,
            _ => runs.push((column, from, from + bin)),
        }
    }
    runs
}
