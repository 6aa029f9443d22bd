//! The flags for a run's length, learning-rate schedule and evaluations.

use std::str::FromStr;

use clap::Args;

use crate::{
    recipes::{Recipe, ScheduleSettings},
    schedule::ScheduleKind,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Schedule and evaluation")]
pub(super) struct ScheduleArguments {
    /// End the run after N optimizer steps, at most those of --epochs. The schedule ends there too
    #[arg(long, value_name = "N")]
    pub(super) max_steps: Option<usize>,
    /// Learning rate after the warm-up [default: the recipe's]
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) schedule: Option<ScheduleKind>,
    /// Warm-up: a whole number of steps, or a share of all steps with a decimal point, such as 0.06 [default: the recipe's]
    #[arg(long, value_name = "STEPS|SHARE", allow_negative_numbers = true)]
    pub(super) warmup: Option<Warmup>,
    /// Evaluate every N steps and after the last one, instead of after each epoch
    #[arg(long, value_name = "N")]
    pub(super) eval_every: Option<usize>,
    /// End a run after P evaluations in a row without a better primary metric [default: never]
    #[arg(long, value_name = "P")]
    pub(super) patience: Option<usize>,
}

/// The length of a warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Warmup {
    Steps(usize),
    /// A share of all steps.
    Share(f64),
}

impl FromStr for Warmup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let steps = text.parse().map(Self::Steps);
        let share = || {
            text.parse()
                .ok()
                .filter(|share| (0.0..=1.0).contains(share))
        };
        steps.or_else(|_| {
            share().map(Self::Share).ok_or_else(|| {
                "expected a whole number of steps, or a share from 0.0 to 1.0".into()
            })
        })
    }
}

impl ScheduleArguments {
    /// Sets the recipe's keys from the flags.
    pub(super) fn set(&self, recipe: &mut Recipe) {
        let set = |to: &mut Option<usize>, from: Option<usize>| *to = from.or(*to);
        set(&mut recipe.max_steps, self.max_steps);
        set(&mut recipe.evaluation.every, self.eval_every);
        set(&mut recipe.evaluation.patience, self.patience);
        let ScheduleSettings {
            kind,
            warmup_ratio,
            warmup_steps,
        } = &mut recipe.schedule;
        *kind = self.schedule.unwrap_or(*kind);
        match self.warmup {
            Some(Warmup::Steps(steps)) => (*warmup_steps, *warmup_ratio) = (Some(steps), 0.0),
            Some(Warmup::Share(share)) => (*warmup_steps, *warmup_ratio) = (None, share),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_steps_or_a_share() {
        for (text, expected) in [
            ("0", Warmup::Steps(0)),
            ("1", Warmup::Steps(1)),
            ("100", Warmup::Steps(100)),
            ("1.0", Warmup::Share(1.0)),
            ("0.06", Warmup::Share(0.06)),
            ("6e-2", Warmup::Share(0.06)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in ["-1", "1.5", "-0.1", "nan", "inf", "6%", "", "1e999"] {
            assert!(wrong.parse::<Warmup>().is_err(), "{wrong}");
        }
    }
}
