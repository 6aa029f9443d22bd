//! Maps of sub-vectors by bank vectors.

use plotters::style::{Color, RGBColor};

use crate::{
    Result,
    analysis::Cells,
    chart::{
        Axis, INK, WIDTH,
        canvas::{self, Anchor, At, Canvas, LETTERS, MARGIN, wrapped},
        frame::{FOOT, Frame, Room},
    },
};

/// The height of a panel's cells. Large banks share a row among several vectors.
const HEIGHT: usize = 300;

/// The height of a text line above a panel.
const LINE: i32 = 20;

/// The dimensions of a map.
pub(super) struct Map {
    /// The number of sub-vectors shown, one per column, evenly spread over all.
    pub(super) columns: usize,
    /// S
    pub(super) sub_vectors: usize,
    /// h
    pub(super) vectors: usize,
}

/// Cells of one colour.
pub(super) struct Layer<'a> {
    /// The name in the legend. A picture with several layers has a legend.
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

/// Draws one large panel, or several in rows of two.
pub(super) fn draw(title: &str, panels: &[Panel<'_>]) -> Result<String> {
    let across = panels.len().clamp(1, 2);
    let width = (WIDTH as i32 - 2 * MARGIN) / across as i32;
    let head = panels
        .iter()
        .map(|panel| panel.head(width))
        .max()
        .unwrap_or(0);
    let height = head + HEIGHT as i32 + FOOT + 6;
    let down = panels.len().div_ceil(across).max(1) as i32;
    canvas::draw(title, (down * height + MARGIN) as u32, |canvas, top| {
        panels.iter().enumerate().try_for_each(|(i, panel)| {
            let left = MARGIN + width * (i % across) as i32;
            let top = top + height * (i / across) as i32;
            panel.draw_head(canvas, (left, top), width)?;
            let room = Room {
                left,
                right: left + width - 14,
                top: top + head,
                bottom: top + height - 6,
            };
            panel.draw(canvas, room)
        })
    })
}

impl Panel<'_> {
    fn title(&self, width: i32) -> Vec<String> {
        wrapped(&self.title, width - 10, LETTERS)
    }

    fn has_legend(&self) -> bool {
        self.layers.iter().any(|layer| !layer.name.is_empty())
    }

    /// The height of title and legend.
    fn head(&self, width: i32) -> i32 {
        let lines = self.title(width).len() + usize::from(self.has_legend());
        LINE * lines as i32 + 8
    }

    fn draw_head(&self, canvas: &Canvas<'_>, (left, top): At, width: i32) -> Result<()> {
        let mut at = (left, top + LINE / 2);
        for line in self.title(width) {
            canvas.text(&line, at, Anchor::Left, INK)?;
            at.1 += LINE;
        }
        for layer in self.layers.iter().filter(|layer| !layer.name.is_empty()) {
            at = canvas.key(at, layer.name, |(x, y)| {
                canvas.rectangle([(x + 12, y - 6), (x + 26, y + 6)], layer.colour.filled())
            })?;
        }
        Ok(())
    }

    fn draw(&self, canvas: &Canvas<'_>, room: Room) -> Result<()> {
        let Map {
            columns,
            sub_vectors,
            vectors,
        } = self.map;
        let axis = |name, count: usize| Axis {
            is_whole: true,
            ..Axis::linear(name, 0.0..count.max(1) as f64)
        };
        let (x, y) = (
            axis("sub-vector", sub_vectors),
            axis("bank vector", vectors),
        );
        let frame = Frame::draw(canvas, room, x, y)?;
        let one = sub_vectors.max(1) as f64 / columns.max(1) as f64;
        for layer in &self.layers {
            for (column, from, to) in runs(layer.cells, bin(vectors)) {
                let (left, top) = frame.at(one * column as f64, to.min(vectors) as f64);
                let (right, bottom) = frame.at(one * (column + 1) as f64, from as f64);
                let corners = [(left, top), (right.max(left + 1), bottom.max(top + 1))];
                canvas.rectangle(corners, layer.colour.filled())?;
            }
        }
        Ok(())
    }
}

/// The number of bank vectors that share a row, for h vectors.
pub(super) fn bin(h: usize) -> usize {
    h.div_ceil(HEIGHT).max(1)
}

/// Cells as vertical bars (column, from, to). Adjacent cells form one bar, and `bin` vectors share a row.
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
