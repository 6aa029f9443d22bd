//! One style for every picture: colours and marks by method, axes whose ticks never collide, labels that never overlap, light and dark
//! pages.
//!
//! A picture is an SVG of [`WIDTH`] units with large letters, readable at 400 and at 1,200 pixels. [`draw_plots`] draws points and lines.
//! Other pictures draw on a canvas inside a frame.

mod axis;
pub(crate) mod canvas;
pub(crate) mod frame;
mod labels;
mod plot;
mod style;
mod theme;

pub use axis::{Axis, plain_number, short_count};
pub(crate) use labels::{Area, Wanted, place};
pub(crate) use plot::draw_label;
pub use plot::{Line, Plot, Point, Series, draw_plots};
pub(crate) use style::{BLUE, DARK_GREEN, GREEN, INK, ORANGE, VERMILLION};
pub use style::{Mark, Shape, marks};

/// Width of a picture in its own units.
pub const WIDTH: u32 = 600;

/// Removes control characters from text, because XML forbids them. The SVG writer escapes the rest.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
