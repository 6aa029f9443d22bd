//! The length of a run: its steps, and those after which it is evaluated.

use crate::{
    Error, Result,
    recipes::{EvaluationSettings, Recipe},
};

/// The steps of a run, and its evaluations among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) steps_per_epoch: usize,
    /// Steps of the whole run, if it does not end early.
    pub(super) steps: usize,
    /// Steps between evaluations.
    period: usize,
}

impl Length {
    /// The length that a recipe gives to epochs of this many steps.
    ///
    /// # Errors
    /// A setting in steps or evaluations is beyond the end of the run.
    pub(super) fn new(recipe: &Recipe, steps_per_epoch: usize) -> Result<Self> {
        let steps = recipe.steps(steps_per_epoch);
        let EvaluationSettings { every, patience } = recipe.evaluation;
        let length = Self {
            steps_per_epoch,
            steps,
            period: every.unwrap_or(steps_per_epoch),
        };
        check_steps(recipe, steps_per_epoch)?;
        let evaluations = length.evaluations(steps as u64) as usize;
        match patience {
            Some(patience) if patience >= evaluations => Err(Error::Setting {
                setting: "evaluation.patience".into(),
                expected: format!("less than {evaluations}, the run's number of evaluations"),
                found: patience.to_string(),
            }),
            Some(_) | None => Ok(length),
        }
    }

    /// Returns true if the run is evaluated after this many steps.
    pub(super) fn is_evaluated(&self, step: u64) -> bool {
        step == self.steps as u64 || step.is_multiple_of(self.period as u64)
    }

    /// The number of evaluations in the first `step` steps.
    pub(super) fn evaluations(&self, step: u64) -> u64 {
        let is_extra = step == self.steps as u64 && !step.is_multiple_of(self.period as u64);
        step / self.period as u64 + u64::from(is_extra)
    }

    /// The epoch of the last of `step` steps, from 1.
    pub(super) fn epoch(&self, step: u64) -> usize {
        (step as usize).div_ceil(self.steps_per_epoch)
    }

    /// Returns true if an epoch ends with this step.
    pub(super) fn ends_epoch(&self, step: u64) -> bool {
        step.is_multiple_of(self.steps_per_epoch as u64)
    }
}

/// Refuses a setting in steps that is beyond the end of a run whose epochs have at most this many steps.
///
/// # Errors
/// The error names the setting.
pub(crate) fn check_steps(recipe: &Recipe, steps_per_epoch: usize) -> Result<()> {
    let (steps, epochs) = (recipe.steps(steps_per_epoch), recipe.epochs);
    let all = steps_per_epoch.saturating_mul(epochs);
    at_most("max_steps", recipe.max_steps, all, || {
        let plural = if epochs == 1 { "" } else { "s" };
        format!("the steps of {epochs} epoch{plural} of {steps_per_epoch}")
    })?;
    for (name, value) in [
        ("schedule.warmup_steps", recipe.schedule.warmup_steps),
        ("evaluation.every", recipe.evaluation.every),
    ] {
        at_most(name, value, steps, || "the steps of the run".into())?;
    }
    Ok(())
}

fn at_most(
    name: &str,
    value: Option<usize>,
    most: usize,
    what: impl FnOnce() -> String,
) -> Result<()> {
    match value {
        Some(value) if value > most => Err(Error::Setting {
            setting: name.into(),
            expected: format!("at most {most}, {}", what()),
            found: value.to_string(),
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recipes::Size, tasks::Task};

    fn recipe(edit: impl FnOnce(&mut Recipe)) -> Recipe {
        let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        recipe.epochs = 3;
        edit(&mut recipe);
        recipe
    }

    fn evaluated(recipe: &Recipe) -> Vec<u64> {
        let length = Length::new(recipe, 4).unwrap();
        let steps = 1..=length.steps as u64;
        let found: Vec<u64> = steps.filter(|&step| length.is_evaluated(step)).collect();
        for step in 0..=length.steps as u64 {
            let before = found.iter().filter(|&&at| at <= step).count();
            assert_eq!(length.evaluations(step), before as u64, "{step}");
        }
        found
    }

    #[test]
    fn epochs_are_evaluated_unless_there_is_an_interval_and_the_last_step_always_is() {
        assert_eq!(evaluated(&recipe(|_| ())), [4, 8, 12]);
        assert_eq!(evaluated(&recipe(|r| r.max_steps = Some(10))), [4, 8, 10]);
        assert_eq!(
            evaluated(&recipe(|r| r.evaluation.every = Some(5))),
            [5, 10, 12]
        );
        assert_eq!(
            evaluated(&recipe(|r| r.evaluation.every = Some(6))),
            [6, 12]
        );
        let length = Length::new(&recipe(|_| ()), 4).unwrap();
        assert_eq!([1, 4, 5, 12].map(|step| length.epoch(step)), [1, 1, 2, 3]);
    }

    #[test]
    fn settings_beyond_the_end_are_named() {
        type Spoil = fn(&mut Recipe);
        let cases: [(Spoil, &str); 5] = [
            (
                |r| r.max_steps = Some(13),
                "setting max_steps: expected at most 12, the steps of 3 epochs of 4, found 13",
            ),
            (
                |r| (r.schedule.warmup_ratio, r.schedule.warmup_steps) = (0.0, Some(13)),
                "setting schedule.warmup_steps: expected at most 12, the steps of the run, found 13",
            ),
            (
                |r| {
                    (r.max_steps, r.schedule.warmup_steps) = (Some(5), Some(6));
                },
                "setting schedule.warmup_steps: expected at most 5",
            ),
            (
                |r| r.evaluation.every = Some(100),
                "setting evaluation.every: expected at most 12",
            ),
            (
                |r| r.evaluation.patience = Some(3),
                "setting evaluation.patience: expected less than 3, the run's number of evaluations, found 3",
            ),
        ];
        for (spoil, expected) in cases {
            let error = Length::new(&recipe(spoil), 4).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        Length::new(&recipe(|r| r.evaluation.patience = Some(2)), 4).unwrap();
    }
}
