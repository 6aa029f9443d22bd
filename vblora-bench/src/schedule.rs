//! The learning-rate factor of each step: warm-up, then the shape that the schedule is named by.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The learning rate after the warm-up. The names are those of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// It stays at its full value. The warm-up applies too, so `constant-with-warmup` is the same
    #[serde(alias = "constant-with-warmup", alias = "constant_with_warmup")]
    #[value(aliases = ["constant-with-warmup", "constant_with_warmup"])]
    Constant,
    /// It falls linearly to zero at the last step
    Linear,
    /// It falls to zero along half a cosine
    Cosine,
    /// It falls with the inverse square root of the step, and reaches half its value after four warm-ups
    #[serde(alias = "inverse_sqrt")]
    #[value(alias = "inverse_sqrt")]
    InverseSqrt,
}

/// The length that an inverse square root falls by if there is no warm-up, as in transformers.
const TIMESCALE: usize = 10_000;

/// A factor in [0, 1] for every step. Each group's learning rate is multiplied by it.
///
/// The values are those of transformers' `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup`,
/// `get_cosine_schedule_with_warmup` (half a cycle) and `get_inverse_sqrt_schedule`. One difference: from `total_steps` on, the cosine stays at
/// zero, while theirs rises again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// Optimizer steps over which the factor rises linearly from zero.
    pub warmup_steps: usize,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
}

impl Schedule {
    /// A schedule with a warm-up of `ceil(warmup_ratio * total_steps)` steps, as in transformers.
    ///
    /// A ratio that is negative or not a number gives no warm-up.
    pub fn with_ratio(kind: ScheduleKind, warmup_ratio: f64, total_steps: usize) -> Self {
        // A float-to-integer cast saturates and turns NaN into zero.
        let warmup_steps = (warmup_ratio * total_steps as f64).ceil() as usize;
        Self {
            kind,
            warmup_steps,
            total_steps,
        }
    }

    /// The factor of the `step`-th optimizer step, counted from 0.
    ///
    /// With a warm-up the first step has factor 0, as in transformers.
    pub fn factor(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => 1.0 - self.progress(step),
            ScheduleKind::Cosine => {
                0.5 * (1.0 + (std::f64::consts::PI * self.progress(step)).cos())
            }
            ScheduleKind::InverseSqrt => {
                let timescale = match self.warmup_steps {
                    0 => TIMESCALE,
                    steps => steps,
                };
                let passed = step - self.warmup_steps + timescale;
                1.0 / (passed as f64 / timescale as f64).sqrt()
            }
        }
    }

    /// The share of the decay that is complete at `step`, in [0, 1].
    fn progress(&self, step: usize) -> f64 {
        if step >= self.total_steps {
            return 1.0;
        }
        // Here warmup_steps <= step < total_steps, so the length is at least 1.
        let length = self.total_steps - self.warmup_steps;
        (step - self.warmup_steps) as f64 / length as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-15,
            "{found} is not {expected}"
        );
    }

    #[test]
    fn linear_rises_then_falls() {
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup_steps: 4,
            total_steps: 20,
        };
        for (step, expected) in [
            (0, 0.0),
            (1, 0.25),
            (3, 0.75),
            (4, 1.0),
            (5, 0.9375),
            (12, 0.5),
            (19, 0.0625),
            (20, 0.0),
            (99, 0.0),
        ] {
            close(schedule.factor(step), expected);
        }
    }

    #[test]
    fn cosine_has_the_hand_computed_values() {
        let schedule = Schedule {
            kind: ScheduleKind::Cosine,
            warmup_steps: 2,
            total_steps: 14,
        };
        // progress 0, 1/4, 1/3, 1/2, 2/3, 1 of half a cycle
        for (step, expected) in [
            (1, 0.5),
            (2, 1.0),
            (5, 0.5 * (1.0 + 0.5f64.sqrt())),
            (6, 0.75),
            (8, 0.5),
            (10, 0.25),
            (14, 0.0),
            (26, 0.0),
        ] {
            close(schedule.factor(step), expected);
        }
    }

    #[test]
    fn constant_stays() {
        let schedule = Schedule {
            kind: ScheduleKind::Constant,
            warmup_steps: 5,
            total_steps: 7,
        };
        close(schedule.factor(2), 0.4);
        close(schedule.factor(5), 1.0);
        close(schedule.factor(700), 1.0);
    }

    /// The values of transformers' `get_inverse_sqrt_schedule`.
    #[test]
    fn the_inverse_square_root_falls_by_the_warm_up_or_by_ten_thousand_steps() {
        let factor = |warmup_steps, step| {
            let kind = ScheduleKind::InverseSqrt;
            let total_steps = 100;
            Schedule {
                kind,
                warmup_steps,
                total_steps,
            }
            .factor(step)
        };
        for (warmup, step, expected) in [
            (4, 1, 0.25),
            (4, 4, 1.0),
            (4, 16, 0.5),
            (4, 99, 0.201_007_563_051_842_42),
            (0, 0, 1.0),
            (0, 10_000, 0.707_106_781_186_547_5),
            (0, 30_000, 0.5),
        ] {
            close(factor(warmup, step), expected);
        }
    }

    #[test]
    fn schedules_have_the_names_of_transformers_in_files_and_on_the_command_line() {
        #[derive(Deserialize)]
        struct File {
            kind: ScheduleKind,
        }
        for (name, kind) in [
            ("constant", ScheduleKind::Constant),
            ("constant-with-warmup", ScheduleKind::Constant),
            ("constant_with_warmup", ScheduleKind::Constant),
            ("linear", ScheduleKind::Linear),
            ("cosine", ScheduleKind::Cosine),
            ("inverse-sqrt", ScheduleKind::InverseSqrt),
            ("inverse_sqrt", ScheduleKind::InverseSqrt),
        ] {
            let file: File = toml::from_str(&format!("kind = \"{name}\"")).unwrap();
            let flag = ScheduleKind::from_str(name, false).unwrap();
            assert_eq!((file.kind, flag), (kind, kind), "{name}");
        }
    }

    #[test]
    fn the_warm_up_is_rounded_up() {
        let warmup =
            |ratio, total| Schedule::with_ratio(ScheduleKind::Linear, ratio, total).warmup_steps;
        assert_eq!(warmup(0.06, 100), 6);
        assert_eq!(warmup(0.06, 101), 7);
        assert_eq!(warmup(0.06, 575), 35);
        assert_eq!(warmup(0.0, 575), 0);
        assert_eq!(warmup(f64::NAN, 10), 0);
        assert_eq!(warmup(-1.0, 10), 0);
    }

    #[test]
    fn degenerate_lengths_stay_finite() {
        for &kind in ScheduleKind::value_variants() {
            for (warmup_steps, total_steps) in [(0, 0), (0, 1), (1, 1), (3, 0), (5, 2)] {
                let schedule = Schedule {
                    kind,
                    warmup_steps,
                    total_steps,
                };
                for step in 0..8 {
                    let factor = schedule.factor(step);
                    assert!(
                        (0.0..=1.0).contains(&factor),
                        "{schedule:?} at {step}: {factor}"
                    );
                }
            }
        }
        let one = Schedule {
            kind: ScheduleKind::Linear,
            warmup_steps: 0,
            total_steps: 1,
        };
        close(one.factor(0), 1.0);
    }
}
