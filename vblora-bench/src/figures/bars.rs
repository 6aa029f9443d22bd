//! Bar charts of weights and uses of bank vectors.

use plotters::style::Color;

use crate::{
    Result,
    analysis::popular,
    chart::{
        Area, Axis, BLUE, GREEN, INK, VERMILLION, Wanted,
        canvas::{self, Anchor, Canvas, LETTERS, MARGIN, text_width},
        draw_label,
        frame::{FOOT, Frame, Room},
        place,
    },
};

/// The height of a panel, and of the line above it.
const PANEL: i32 = 124;
const NAME: i32 = 24;

/// The height of the histogram's frame with its axes, and of the legend above it.
const HISTOGRAM: i32 = 320;
const LEGEND: i32 = 26;

/// The maximum number of bars of a histogram.
const MOST_BARS: usize = 60;

/// The weight of a group on each vector, `[h]`.
pub(super) struct Bars<'a> {
    pub(super) name: &'a str,
    pub(super) values: &'a [f64],
}

/// Draws one panel per group, one below the other on one scale, with the vectors in this order.
pub(super) fn draw(title: &str, groups: &[Bars<'_>], order: &[usize]) -> Result<String> {
    let values = groups.iter().flat_map(|group| group.values).copied();
    let most = values.fold(0.0, f64::max).max(1e-3);
    let height = PANEL * groups.len() as i32 + FOOT;
    canvas::draw(title, height as u32, |canvas, top| {
        let tops = (0..).map(|i| top + PANEL * i);
        let mut panels = groups.iter().zip(tops).enumerate();
        panels.try_for_each(|(i, (group, top))| {
            let has_axis = i + 1 == groups.len();
            group.draw(canvas, top, order, most, (i, has_axis))
        })
    })
}

impl Bars<'_> {
    fn draw(
        &self,
        canvas: &Canvas<'_>,
        top: i32,
        order: &[usize],
        most: f64,
        (number, has_axis): (usize, bool),
    ) -> Result<()> {
        let (h, colour) = (order.len().max(1), [BLUE, VERMILLION, GREEN][number % 3]);
        let foot = if has_axis { FOOT - 8 } else { 0 };
        let room = Room::wide(top + NAME, PANEL - NAME + foot);
        let x = if has_axis {
            "bank vectors by falling norm"
        } else {
            ""
        };
        let x = Axis {
            is_whole: true,
            ..Axis::linear(x, 0.0..h as f64)
        };
        let frame = Frame::draw(canvas, room, x, Axis::linear("weight", 0.0..1.3 * most))?;
        canvas.text(self.name, (frame.left, top + NAME / 2), Anchor::Left, INK)?;
        let at = |at: usize, value: f64| frame.at(at as f64, value);
        let value = |vector: usize| self.values[vector];
        // One outline: thousands of rectangles would make a large file.
        let steps = order.iter().enumerate();
        let steps = steps.flat_map(|(i, &v)| [at(i, value(v)), at(i + 1, value(v))]);
        let outline = [at(0, 0.0)].into_iter().chain(steps).chain([at(h, 0.0)]);
        canvas.polygon(outline.collect(), colour.filled())?;
        let heaviest = self.heaviest().into_iter().filter_map(|vector| {
            let place = order.iter().position(|&v| v == vector)?;
            let (x, y) = frame.at(place as f64 + 0.5, value(vector));
            Some((format!("#{vector}"), (x, y - 2)))
        });
        let heaviest: Vec<_> = heaviest.collect();
        let wanted = heaviest.iter().map(|(text, point)| Wanted {
            point: *point,
            width: text_width(text, LETTERS),
            height: LETTERS as i32,
        });
        let inside = Area {
            left: frame.left,
            top: frame.top - 6,
            right: frame.right,
            bottom: frame.bottom,
        };
        let bars = order.iter().enumerate().map(|(i, &vector)| {
            let ((left, top), (right, bottom)) = (at(i, value(vector)), at(i + 1, 0.0));
            Area {
                left,
                top,
                right,
                bottom,
            }
        });
        let places = place(
            &wanted.collect::<Vec<_>>(),
            &bars.collect::<Vec<_>>(),
            inside,
        );
        for ((text, point), area) in heaviest.iter().zip(places) {
            draw_label(canvas, text, *point, area, colour)?;
        }
        Ok(())
    }

    /// The three vectors with the largest weights.
    fn heaviest(&self) -> Vec<usize> {
        let scaled: Vec<usize> = self.values.iter().map(|v| (v * 1e6) as usize).collect();
        let mut vectors = popular(&scaled, 3);
        vectors.retain(|&vector| scaled[vector] > 0);
        vectors
    }
}

/// Uses of each vector, `[h]`, and their mean.
pub(super) struct Histogram<'a> {
    pub(super) uses: &'a [usize],
    pub(super) mean: f64,
}

impl Histogram<'_> {
    /// The width of a bar, and for each bar its first number of uses and its number of vectors.
    pub(super) fn bars(&self) -> (usize, Vec<(usize, usize)>) {
        let least = self.uses.iter().min().copied().unwrap_or(0);
        let most = self.uses.iter().max().copied().unwrap_or(0);
        let span = (most - least + 1).div_ceil(MOST_BARS);
        let mut bars: Vec<_> = (least..=most).step_by(span).map(|from| (from, 0)).collect();
        for uses in self.uses {
            bars[(uses - least) / span].1 += 1;
        }
        (span, bars)
    }
}

pub(super) fn draw_histogram(title: &str, histogram: &Histogram<'_>) -> Result<String> {
    let height = LEGEND + HISTOGRAM + MARGIN;
    canvas::draw(title, height as u32, |canvas, top| {
        let name = format!("mean k S / h = {:.1}", histogram.mean);
        canvas.key((MARGIN, top + LEGEND / 2), &name, |(x, y)| {
            canvas.line(vec![(x, y), (x + 26, y)], VERMILLION.stroke_width(3))
        })?;
        histogram.draw(canvas, Room::wide(top + LEGEND, HISTOGRAM))
    })
}

impl Histogram<'_> {
    fn draw(&self, canvas: &Canvas<'_>, room: Room) -> Result<()> {
        let (span, bars) = self.bars();
        let from = bars.first().map_or(0, |(from, _)| *from) as f64 - 0.5;
        let to = bars.last().map_or(1, |(from, _)| from + span) as f64 - 0.5;
        let most = bars.iter().map(|(_, n)| *n).max().unwrap_or(1).max(1) as f64;
        let whole = |name: &str, range| Axis {
            is_whole: true,
            ..Axis::linear(name, range)
        };
        let x = whole("sub-vectors that use a bank vector", from..to);
        let y = whole("bank vectors", 0.0..1.15 * most);
        let frame = Frame::draw(canvas, room, x, y)?;
        for &(at, n) in bars.iter().filter(|(_, n)| *n > 0) {
            let left = frame.x(at as f64 - 0.5);
            let right = frame.x((at + span) as f64 - 0.5);
            let corners = [
                (left + 1, frame.y(n as f64)),
                ((right - 1).max(left + 2), frame.bottom),
            ];
            canvas.rectangle(corners, BLUE.filled())?;
        }
        let ends = [0.0, 1.1 * most].map(|y| frame.at(self.mean, y));
        canvas.line(ends.to_vec(), VERMILLION.stroke_width(3))
    }
}
