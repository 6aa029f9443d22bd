//! Turns the drawing library's SVG into one that fits its page: any width, light or dark, with a name for screen readers.

use std::fmt::Write;

use plotters::style::RGBColor;

use super::{
    printable,
    style::{AXIS, BACKGROUND, BLUE, DARK_GREEN, GREY, INK},
};

/// Replacement colours on a dark page. The other colours are bright enough for both.
const DARK: [(RGBColor, RGBColor); 6] = [
    (BACKGROUND, RGBColor(13, 17, 23)),
    (INK, RGBColor(230, 237, 243)),
    (AXIS, RGBColor(157, 167, 179)),
    (GREY, RGBColor(48, 54, 61)),
    (BLUE, RGBColor(47, 143, 216)),
    (DARK_GREEN, RGBColor(230, 237, 243)),
];

/// The scale from units to pixels if the page sets no size.
const SHOWN: f64 = 1.3;

/// The finished picture. `body` is the drawing library's output from its `<svg` on.
pub(super) fn finish(body: &str, title: &str, (width, height): (u32, u32)) -> String {
    let inside = body.find('>').map_or("", |end| &body[end + 1..]);
    let inside = inside.trim_end().trim_end_matches("</svg>");
    let [shown_width, shown_height] =
        [width, height].map(|units| (SHOWN * f64::from(units)).round());
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{shown_width}\" height=\"{shown_height}\" \
         style=\"max-width:100%;height:auto\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>{inside}{}</svg>\n",
        style()
    )
}

/// CSS rules that select elements by colour, because the library writes no classes.
fn style() -> String {
    let mut rules = String::from("<style>@media (prefers-color-scheme: dark) {\n");
    for (light, dark) in DARK {
        let (from, to) = (hex(light), hex(dark));
        let _infallible = writeln!(
            rules,
            ".chart [fill=\"{from}\"] {{ fill: {to} }} .chart [stroke=\"{from}\"] {{ stroke: {to} }}"
        );
    }
    rules + "}</style>\n"
}

/// A colour in the drawing library's notation.
fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn escaped(text: &str) -> String {
    let text = printable(text).replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
