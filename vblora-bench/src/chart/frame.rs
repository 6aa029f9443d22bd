//! The rectangle for data, with its axes.

use plotters::style::Color;

use super::{
    axis::{Axis, Tick},
    canvas::{Anchor, At, Canvas, LETTERS, MARGIN, text_width},
    style::{AXIS, GREY, INK},
};
use crate::Result;

/// The space below a frame, for ticks and the name of the axis.
pub(crate) const FOOT: i32 = 50;

/// Maps numbers of the data to points on the canvas.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    x: Axis,
    y: Axis,
    pub(crate) left: i32,
    pub(crate) right: i32,
    pub(crate) top: i32,
    pub(crate) bottom: i32,
}

/// The part of the canvas that a frame and its axes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) left: i32,
    pub(crate) right: i32,
    pub(crate) top: i32,
    pub(crate) bottom: i32,
}

impl Frame {
    /// Draws axes, ticks and grid.
    pub(crate) fn draw(canvas: &Canvas<'_>, room: Room, x: Axis, y: Axis) -> Result<Self> {
        let bottom = room.bottom - if x.name.is_empty() { 8 } else { FOOT };
        let height = f64::from(bottom - room.top);
        let rows = y.ticks(|_| (LETTERS + 7.0) / height);
        let widest = rows
            .iter()
            .map(|(_, _, words)| text_width(words, LETTERS))
            .max();
        let name = if y.name.is_empty() { 0 } else { 22 };
        let frame = Self {
            left: room.left + name + widest.unwrap_or(0) + 6,
            right: room.right,
            top: room.top,
            bottom,
            x,
            y,
        };
        frame.draw_rows(canvas, &rows)?;
        frame.draw_columns(canvas)?;
        if !frame.y.name.is_empty() {
            let at = (room.left, (frame.top + frame.bottom) / 2);
            canvas.text(&frame.y.name, at, Anchor::Upwards, INK)?;
        }
        Ok(frame)
    }

    fn draw_rows(&self, canvas: &Canvas<'_>, ticks: &[Tick]) -> Result<()> {
        for (number, _, words) in ticks {
            let y = self.y(*number);
            canvas.line(vec![(self.left, y), (self.right, y)], GREY.stroke_width(1))?;
            canvas.text(words, (self.left - 6, y), Anchor::Right, AXIS)?;
        }
        canvas.line(
            vec![(self.left, self.top), (self.left, self.bottom)],
            AXIS.stroke_width(1),
        )
    }

    fn draw_columns(&self, canvas: &Canvas<'_>) -> Result<()> {
        canvas.line(
            vec![(self.left, self.bottom), (self.right, self.bottom)],
            AXIS.stroke_width(1),
        )?;
        if self.x.name.is_empty() {
            return Ok(());
        }
        let width = f64::from((self.right - self.left).max(1));
        for (number, _, words) in self
            .x
            .ticks(|words| f64::from(text_width(words, LETTERS) + 14) / width)
        {
            let x = self.x(number);
            canvas.line(
                vec![(x, self.bottom), (x, self.bottom + 5)],
                AXIS.stroke_width(1),
            )?;
            canvas.text(&words, (x, self.bottom + 8), Anchor::Below, AXIS)?;
        }
        let at = ((self.left + self.right) / 2, self.bottom + 28);
        canvas.text(&self.x.name, at, Anchor::Below, INK)
    }

    pub(crate) fn x(&self, number: f64) -> i32 {
        self.left + (self.x.place(number) * f64::from(self.right - self.left)).round() as i32
    }

    pub(crate) fn y(&self, number: f64) -> i32 {
        self.bottom - (self.y.place(number) * f64::from(self.bottom - self.top)).round() as i32
    }

    pub(crate) fn at(&self, x: f64, y: f64) -> At {
        (self.x(x), self.y(y))
    }
}

impl Room {
    /// The full width of the canvas, from `top` on.
    pub(crate) fn wide(top: i32, height: i32) -> Self {
        Self {
            left: MARGIN,
            right: super::WIDTH as i32 - MARGIN - 10,
            top,
            bottom: top + height,
        }
    }
}
