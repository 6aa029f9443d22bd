//! What all pictures have in common.

use plotters::{coord::Shift, prelude::*};

use crate::{
    Result,
    report::{COLOURS, failed, printable},
};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Blue, orange and green: they differ in print without colours too.
pub(super) const MAIN: RGBColor = COLOURS[0];
pub(super) const SECOND: RGBColor = COLOURS[4];
pub(super) const KEPT: RGBColor = RGBColor(0, 60, 45);

/// Height of the title's line.
pub(super) const TITLE: u32 = 34;

pub(super) const LABEL: (&str, i32) = ("sans-serif", 13);

/// A picture of `size` under a title.
pub(super) fn draw(
    title: &str,
    size: (u32, u32),
    body: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (size.0, size.1 + TITLE)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let (head, below) = root.split_vertically(TITLE);
        let text = Text::new(printable(title), (12, 10), ("sans-serif", 17));
        head.draw(&text).map_err(|e| failed(&e))?;
        body(&below)?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
}

/// A number on an axis, without decimals that say nothing.
pub(super) fn short(number: &f64) -> String {
    let text = format!("{number:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.into()
}
