//! Axes: name, range of numbers, and positions of ticks.

use std::ops::Range;

/// An axis of a picture.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The measured quantity with its unit.
    pub name: String,
    /// The first and the last number.
    pub range: Range<f64>,
    /// True for a logarithmic axis. The range must then be above zero.
    pub is_log: bool,
    /// True if only whole numbers have ticks.
    pub is_whole: bool,
    /// Positions where ticks may stand. If empty, the axis chooses them.
    pub places: Vec<f64>,
    /// Formats a number.
    pub format: fn(f64) -> String,
}

/// A tick: its number, its position on the axis from 0 to 1, and its label.
pub(super) type Tick = (f64, f64, String);

impl Axis {
    /// A linear axis.
    pub fn linear(name: impl Into<String>, range: Range<f64>) -> Self {
        Self {
            name: name.into(),
            range,
            is_log: false,
            is_whole: false,
            places: Vec::new(),
            format: plain_number,
        }
    }

    /// A logarithmic axis.
    pub fn log(name: impl Into<String>, range: Range<f64>) -> Self {
        Self {
            is_log: true,
            ..Self::linear(name, range)
        }
    }

    /// The position on the axis, from 0 to 1, of a number in its range.
    pub(super) fn place(&self, number: f64) -> f64 {
        let scaled = |number: f64| if self.is_log { number.ln() } else { number };
        let (start, end) = (scaled(self.range.start), scaled(self.range.end));
        (scaled(number) - start) / (end - start)
    }

    /// As many ticks as fit. `room` returns the share of the axis that a tick's label takes, with the space to the next one.
    pub(super) fn ticks(&self, room: impl Fn(&str) -> f64) -> Vec<Tick> {
        let tick = |number: f64| (number, self.place(number), (self.format)(number));
        let is_in = |number: &f64| self.range.contains(number) || *number == self.range.end;
        let mut fewest = Vec::new();
        for numbers in self.choices() {
            let ticks: Vec<Tick> = numbers.into_iter().filter(is_in).map(tick).collect();
            let fit = |pair: &[Tick]| {
                let gap = (pair[1].1 - pair[0].1).abs();
                gap >= 0.5 * (room(&pair[0].2) + room(&pair[1].2)) && pair[0].2 != pair[1].2
            };
            if ticks.windows(2).all(fit) {
                return ticks;
            }
            fewest = ticks;
        }
        fewest.truncate(1);
        fewest
    }

    /// Sets of numbers for ticks, the densest set first.
    fn choices(&self) -> Vec<Vec<f64>> {
        match (self.places.is_empty(), self.is_log) {
            (false, _) => (1..=self.places.len())
                .map(|every| self.places.iter().copied().step_by(every).collect())
                .collect(),
            (true, true) => self.powers(),
            (true, false) => self.multiples(),
        }
    }

    /// 1, 2 and 5 of every power of ten; then 1 and 3; then 1 of each power, of every second power, and so on. If these give too few ticks,
    /// equal steps.
    fn powers(&self) -> Vec<Vec<f64>> {
        let from = self.range.start.log10().floor() as i32;
        let to = self.range.end.log10().ceil() as i32;
        let of = |digits: &[f64], every: usize| -> Vec<f64> {
            let powers = (from..=to).step_by(every);
            powers
                .flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)))
                .collect()
        };
        let mut choices = vec![of(&[1.0, 2.0, 5.0], 1), of(&[1.0, 3.0], 1)];
        choices.extend((1..=(to - from).max(1) as usize).map(|every| of(&[1.0], every)));
        let inside = |numbers: &Vec<f64>| numbers.iter().filter(|n| self.range.contains(n)).count();
        choices.retain(|numbers| inside(numbers) >= 2);
        choices.extend(self.multiples());
        choices
    }

    /// Multiples of 1, 2 and 5 times powers of ten, from about a dozen ticks down to one or two.
    fn multiples(&self) -> Vec<Vec<f64>> {
        let width = self.range.end - self.range.start;
        let smallest = (width / 12.0).log10().floor() as i32;
        let steps = (0..8).map(|i| [1.0, 2.0, 5.0][i % 3] * 10_f64.powi(smallest + i as i32 / 3));
        let steps =
            steps.filter(|step| width / step <= 13.0 && (!self.is_whole || step.fract() == 0.0));
        let multiples = |step: f64| {
            let first = (self.range.start / step).ceil();
            let count = ((self.range.end / step).floor() - first).max(0.0) as usize;
            // Division by a whole number gives 0.3 and not 0.30000000000000004.
            let number = |i: usize| {
                let times = first + i as f64;
                if step < 1.0 {
                    times / (1.0 / step).round()
                } else {
                    times * step
                }
            };
            (0..=count).map(number).collect()
        };
        steps.map(multiples).collect()
    }
}

/// A number without useless decimals: `0.25`, `120`, `2e9`.
pub fn plain_number(number: f64) -> String {
    if number.abs() >= 1e6 {
        return format!("{number:e}");
    }
    let text = format!("{number:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.into()
}

/// A count in thousands or millions with a letter: `24k`, `1.5M`.
pub fn short_count(count: f64) -> String {
    let (value, unit) = match count {
        ..1e3 => (count, ""),
        ..1e6 => (count / 1e3, "k"),
        _ => (count / 1e6, "M"),
    };
    let digits = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(axis: &Axis, room: f64) -> Vec<String> {
        axis.ticks(|_| room)
            .into_iter()
            .map(|(_, _, words)| words)
            .collect()
    }

    #[test]
    fn ticks_are_round_numbers_that_do_not_collide() {
        let axis = Axis::linear("x", 0.0..1.0);
        assert_eq!(words(&axis, 0.19), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(words(&axis, 0.6), ["0", "1"]);
        let axis = Axis::log("x", 150.0..4000.0);
        assert_eq!(words(&axis, 0.1), ["200", "500", "1000", "2000"]);
        assert_eq!(words(&axis, 0.3), ["300", "1000", "3000"]);
        let axis = Axis::log("x", 6.0..28.0);
        assert_eq!(words(&axis, 0.1), ["10", "20"]);
    }

    #[test]
    fn every_range_has_ticks_apart() {
        for range in [
            0.0..1e-3,
            -3.7..12.0,
            1.0..2147483648.0,
            0.69..0.71,
            -1e9..1e9,
            99.5..100.5,
        ] {
            for is_log in [false, true] {
                if is_log && range.start <= 0.0 {
                    continue;
                }
                let axis = Axis {
                    is_log,
                    ..Axis::linear("x", range.clone())
                };
                let ticks = axis.ticks(|words| 0.02 * words.len() as f64);
                assert!((1..=13).contains(&ticks.len()), "{range:?} {ticks:?}");
                let gap = |pair: &[Tick]| pair[1].1 - pair[0].1;
                assert!(
                    ticks.windows(2).all(|pair| gap(pair) >= 0.02),
                    "{range:?} {ticks:?}"
                );
            }
        }
    }

    #[test]
    fn given_places_are_thinned() {
        let mut axis = Axis::log("rows", 0.8..40.0);
        axis.places = vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
        assert_eq!(words(&axis, 0.1).len(), 6);
        assert_eq!(words(&axis, 0.3), ["1", "4", "16"]);
    }

    #[test]
    fn whole_numbers_alone_where_halves_mean_nothing() {
        let axis = Axis {
            is_whole: true,
            ..Axis::linear("epoch", 0.0..3.0)
        };
        assert_eq!(words(&axis, 0.05), ["0", "1", "2", "3"]);
    }

    #[test]
    fn counts_are_short() {
        let counts = [1.0, 2000.0, 1500.0, 24_000.0, 3e6, 1.2e8].map(short_count);
        assert_eq!(counts, ["1", "2k", "1.5k", "24k", "3M", "120M"]);
    }
}
