//! A drawing surface. Units are counted from its upper left corner.

use plotters::{
    coord::Shift,
    element::{DashedPathElement, Drawable, PointCollection},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    WIDTH, printable,
    style::{AXIS, BACKGROUND, INK, Mark, Shape},
    theme,
};
use crate::{Error, Result};

/// A point: to the right, down.
pub(crate) type At = (i32, i32);

/// The size of ordinary text, in units.
pub(crate) const LETTERS: f64 = 15.0;

/// The space between the edge and the drawing, in units.
pub(crate) const MARGIN: i32 = 12;

/// The drawing library divides font sizes by this.
const LIBRARY_UNIT: f64 = 1.24;

/// The position of text relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// The text starts at the point, vertically centred.
    Left,
    /// The text ends at the point.
    Right,
    /// The text is centred on the point.
    Middle,
    /// The text hangs below the point.
    Below,
    /// The text is centred on the point and rotated to read upwards.
    Upwards,
}

pub(crate) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// An upper estimate of the width of text of `size`. The page's font is not known.
pub(crate) fn text_width(text: &str, size: f64) -> i32 {
    (0.58 * size * text.chars().count() as f64).ceil() as i32
}

/// Draws a picture: a heading, and `height` units below it for `body`. Text after the first full stop of the heading is smaller.
///
/// # Errors
/// [`Error::Draw`] with the drawing library's words.
pub(crate) fn draw(
    title: &str,
    height: u32,
    body: impl FnOnce(&Canvas<'_>, i32) -> Result<()>,
) -> Result<String> {
    let (head, rest) = title.split_once(". ").unwrap_or((title, ""));
    let width = WIDTH as i32 - 2 * MARGIN;
    let lines = [(head, 17.0, true), (rest, LETTERS, false)].map(|(text, size, is_bold)| {
        let lines = wrapped(text, width, if is_bold { 1.04 * size } else { size });
        (lines, size, is_bold)
    });
    let step = |size: f64| (1.35 * size) as i32;
    let head: i32 = lines
        .iter()
        .map(|(lines, size, _)| lines.len() as i32 * step(*size))
        .sum();
    let top = MARGIN + head + 4;
    let size = (WIDTH, height + top as u32);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let canvas = Canvas { area };
        canvas.area.fill(&BACKGROUND).map_err(|e| failed(&e))?;
        let mut y = MARGIN;
        for (lines, size, is_bold) in &lines {
            for line in lines {
                canvas.title(line, y, *size, *is_bold)?;
                y += step(*size);
            }
        }
        body(&canvas, top)?;
        canvas.area.present().map_err(|e| failed(&e))?;
    }
    Ok(theme::finish(&svg, title, size))
}

/// Breaks text at blanks into lines of at most `width` units.
pub(crate) fn wrapped(text: &str, width: i32, size: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(word, size) + 5 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

impl<'s> Canvas<'s> {
    fn title(&self, text: &str, y: i32, size: f64, is_bold: bool) -> Result<()> {
        let style = if is_bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let colour = if is_bold { INK } else { AXIS };
        let font = ("sans-serif", size * LIBRARY_UNIT, style)
            .into_font()
            .color(&colour);
        let text = Text::new(
            printable(text),
            (MARGIN, y),
            font.pos(Pos::new(HPos::Left, VPos::Top)),
        );
        self.draw(&text)
    }

    /// Draws text at the ordinary size.
    pub(crate) fn text(&self, text: &str, at: At, anchor: Anchor, colour: RGBColor) -> Result<()> {
        self.sized_text(text, at, anchor, colour, LETTERS)
    }

    pub(crate) fn sized_text(
        &self,
        text: &str,
        at: At,
        anchor: Anchor,
        colour: RGBColor,
        size: f64,
    ) -> Result<()> {
        let pos = match anchor {
            Anchor::Left => Pos::new(HPos::Left, VPos::Center),
            Anchor::Right => Pos::new(HPos::Right, VPos::Center),
            Anchor::Middle => Pos::new(HPos::Center, VPos::Center),
            Anchor::Below | Anchor::Upwards => Pos::new(HPos::Center, VPos::Top),
        };
        let font = ("sans-serif", size * LIBRARY_UNIT).into_font();
        let font = match anchor {
            Anchor::Upwards => font.transform(FontTransform::Rotate270),
            _ => font,
        };
        self.draw(&Text::new(
            printable(text),
            at,
            font.color(&colour).pos(pos),
        ))
    }

    /// Draws a legend entry from `at` on: a swatch of at most 26 units and its name. Returns the start of the next entry.
    pub(crate) fn key(
        &self,
        at: At,
        name: &str,
        swatch: impl FnOnce(At) -> Result<()>,
    ) -> Result<At> {
        swatch(at)?;
        self.text(name, (at.0 + 34, at.1), Anchor::Left, AXIS)?;
        Ok((at.0 + 44 + text_width(name, LETTERS), at.1))
    }

    /// Draws a line through these points.
    pub(crate) fn line(&self, places: Vec<At>, style: impl Into<ShapeStyle>) -> Result<()> {
        self.draw(&PathElement::new(places, style))
    }

    /// Draws a dashed line between two points.
    pub(crate) fn dashes(&self, ends: [At; 2], style: impl Into<ShapeStyle>) -> Result<()> {
        self.draw(&DashedPathElement::new(ends, 7, 5, style))
    }

    pub(crate) fn rectangle(&self, corners: [At; 2], style: impl Into<ShapeStyle>) -> Result<()> {
        self.draw(&Rectangle::new(corners, style))
    }

    pub(crate) fn polygon(&self, corners: Vec<At>, style: impl Into<ShapeStyle>) -> Result<()> {
        self.draw(&Polygon::new(corners, style))
    }

    pub(crate) fn circle(&self, at: At, radius: i32, style: impl Into<ShapeStyle>) -> Result<()> {
        self.draw(&Circle::new(at, radius, style))
    }

    /// Draws a mark at the size of a letter.
    pub(crate) fn mark(&self, (x, y): At, mark: Mark) -> Result<()> {
        let fill = mark.colour.filled();
        let corners: &[At] = match mark.shape {
            Shape::Circle => return self.circle((x, y), 5, fill),
            Shape::Square => &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
            Shape::Up => &[(0, -6), (6, 5), (-6, 5)],
            Shape::Down => &[(0, 6), (6, -5), (-6, -5)],
            Shape::Diamond => &[(0, -7), (7, 0), (0, 7), (-7, 0)],
            Shape::Plus => &[
                (-2, -6),
                (2, -6),
                (2, -2),
                (6, -2),
                (6, 2),
                (2, 2),
                (2, 6),
                (-2, 6),
                (-2, 2),
                (-6, 2),
                (-6, -2),
                (-2, -2),
            ],
            Shape::Cross => &[
                (-3, -6),
                (0, -3),
                (3, -6),
                (6, -3),
                (3, 0),
                (6, 3),
                (3, 6),
                (0, 3),
                (-3, 6),
                (-6, 3),
                (-3, 0),
                (-6, -3),
            ],
        };
        self.polygon(
            corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect(),
            fill,
        )
    }

    fn draw<E>(&self, element: &E) -> Result<()>
    where
        for<'b> &'b E: PointCollection<'b, At>,
        E: Drawable<SVGBackend<'s>>,
    {
        self.area.draw(element).map_err(|e| failed(&e))
    }
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::Draw {
        what: "the picture".into(),
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_broken_at_blanks() {
        assert_eq!(wrapped("one two three", 70, 15.0), ["one two", "three"]);
        assert_eq!(wrapped("onewordthatistoolong", 10, 15.0).len(), 1);
        assert!(wrapped("", 10, 15.0).is_empty());
    }

    #[test]
    fn a_picture_has_a_name_any_width_and_a_dark_form() {
        let svg = draw("A <b> & c. More", 50, |canvas, top| {
            canvas.text("w", (20, top), Anchor::Left, INK)
        });
        let svg = svg.unwrap();
        for part in [
            "<title>A &lt;b&gt; &amp; c. More</title>",
            "viewBox=\"0 0 600 ",
            "max-width:100%",
            "@media (prefers-color-scheme: dark)",
            ".chart [fill=\"#000000\"]",
        ] {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        assert_eq!(
            (svg.matches("<svg").count(), svg.matches("</svg>").count()),
            (1, 1)
        );
    }
}
