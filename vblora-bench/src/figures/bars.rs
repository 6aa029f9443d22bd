//! Weights and uses of bank vectors as bars.

use plotters::{
    prelude::*,
    style::{
        Color,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::picture::{self, Area, LABEL, MAIN, SECOND};
use crate::{
    Result,
    analysis::popular,
    report::{COLOURS, failed, printable},
};

/// A panel's width in pixels at least, and its height.
const SIZE: (u32, u32) = (1000, 110);

/// A histogram has no more bars.
const MOST_BARS: usize = 60;

/// The weight of a group on each vector, `[h]`.
pub(super) struct Bars<'a> {
    pub(super) name: &'a str,
    pub(super) values: &'a [f64],
}

/// One panel a group, under one another on one scale; the vectors in this order.
pub(super) fn draw(title: &str, groups: &[Bars<'_>], order: &[usize]) -> Result<String> {
    let values = groups.iter().flat_map(|group| group.values).copied();
    let most = values.fold(0.0, f64::max).max(1e-3);
    let size = (
        SIZE.0.max(order.len() as u32 + 90),
        SIZE.1 * groups.len().max(1) as u32 + 24,
    );
    picture::draw(title, size, |area| {
        let (panels, foot) = area.split_vertically(size.1 - 24);
        let words = "bank vector, by falling norm";
        let centred = ("sans-serif", 14)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(HPos::Center, VPos::Top));
        let text = Text::new(words, ((size.0 / 2) as i32, 2), centred);
        foot.draw(&text).map_err(|e| failed(&e))?;
        let areas = panels.split_evenly((groups.len().max(1), 1));
        let mut both = groups.iter().zip(&areas).enumerate();
        both.try_for_each(|(i, (group, area))| group.draw(area, order, most, i))
    })
}

impl Bars<'_> {
    fn draw(&self, area: &Area<'_>, order: &[usize], most: f64, number: usize) -> Result<()> {
        let (h, colour) = (order.len(), COLOURS[number % 3]);
        let mut chart = ChartBuilder::on(area)
            .margin_left(8)
            .margin_right(12)
            .margin_top(2)
            .margin_bottom(8)
            .caption(printable(self.name), ("sans-serif", 14))
            .y_label_area_size(56)
            .build_cartesian_2d(0..h, 0.0..1.25 * most)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .y_labels(4)
            .y_desc("weight")
            .y_label_formatter(&picture::short)
            .label_style(LABEL)
            .draw()
            .map_err(|e| failed(&e))?;
        let value = |vector: usize| self.values[vector];
        // One outline: a rectangle for each of thousands of vectors would make a large file.
        let steps = order.iter().enumerate();
        let steps = steps.flat_map(|(at, &v)| [(at, value(v)), (at + 1, value(v))]);
        let outline = [(0, 0.0)].into_iter().chain(steps).chain([(h, 0.0)]);
        let shape = Polygon::new(outline.collect::<Vec<_>>(), colour.filled());
        chart.draw_series([shape]).map_err(|e| failed(&e))?;
        let style = ("sans-serif", 12)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(HPos::Center, VPos::Bottom));
        let names = self.heaviest().into_iter().filter_map(|vector| {
            let at = order.iter().position(|&v| v == vector)?;
            let text = format!("#{vector}");
            Some(Text::new(text, (at, value(vector)), style.clone()))
        });
        chart.draw_series(names).map_err(|e| failed(&e))?;
        Ok(())
    }

    /// The three vectors of the largest weights.
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
    /// The first number of each bar, how many it spans, and how many vectors are used so often.
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
    let (span, bars) = histogram.bars();
    let from = bars.first().map_or(0, |(from, _)| *from);
    let to = bars.last().map_or(1, |(from, _)| from + span);
    let most = bars.iter().map(|(_, n)| *n).max().unwrap_or(1).max(1) as f64;
    picture::draw(title, (SIZE.0, 380), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(62)
            .build_cartesian_2d(from as f64 - 0.5..to as f64 - 0.5, 0.0..1.15 * most)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("sub-vectors that use it")
            .y_desc("bank vectors")
            .x_label_formatter(&picture::short)
            .y_label_formatter(&picture::short)
            .label_style(LABEL)
            .axis_desc_style(("sans-serif", 15))
            .draw()
            .map_err(|e| failed(&e))?;
        let bar = |&(at, n): &(usize, usize)| {
            let left = at as f64 - 0.5;
            let mut bar =
                Rectangle::new([(left, 0.0), (left + span as f64, n as f64)], MAIN.filled());
            bar.set_margin(0, 0, 1, 1);
            bar
        };
        chart
            .draw_series(bars.iter().map(bar))
            .map_err(|e| failed(&e))?;
        let mean = histogram.mean;
        let line = PathElement::new([(mean, 0.0), (mean, 1.1 * most)], SECOND.stroke_width(3));
        chart
            .draw_series([line])
            .map_err(|e| failed(&e))?
            .label(format!("mean k S / h = {mean:.1}"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], SECOND.stroke_width(3)));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 15))
            .background_style(WHITE.mix(0.9))
            .draw()
            .map_err(|e| failed(&e))
    })
}
