//! The ranges of a recipe's settings.

use std::ops::RangeInclusive;

use vblora::{MethodConfig, for_each_method};

use super::recipe::Recipe;
use crate::{
    Error, Result,
    limits::{MAX_ACCUMULATION, MAX_BATCH, MAX_EPOCHS, MAX_LENGTH},
    tasks::Target,
};

/// The minimum length: a pair needs three special tokens and at least one of text.
const SHORTEST: usize = 4;

impl Recipe {
    /// Checks every setting's range. The plan checks that b divides the adapted dimensions, because that depends on the model.
    ///
    /// # Errors
    /// The first setting outside its range, with its key and the allowed values.
    pub fn validate(&self) -> Result<()> {
        self.validate_run()?;
        self.validate_optimizer()?;
        self.validate_adapters()
    }

    fn validate_run(&self) -> Result<()> {
        within("epochs", self.epochs, 1..=MAX_EPOCHS)?;
        at_least_1("max_steps", self.max_steps)?;
        at_least_1("evaluation.every", self.evaluation.every)?;
        at_least_1("evaluation.patience", self.evaluation.patience)?;
        within("batch", self.batch, 1..=MAX_BATCH)?;
        within("accumulation", self.accumulation, 1..=MAX_ACCUMULATION)?;
        within("max_length", self.max_length, SHORTEST..=MAX_LENGTH)?;
        probability("head.dropout", self.head.dropout)?;
        self.validate_class_weights()?;
        probability("text.label_smoothing", self.text.label_smoothing)?;
        if self.text.packing && self.group_by_length {
            let expected = "false with text.packing, because packed rows have equal length";
            return Err(setting("group_by_length", expected, true));
        }
        self.base_dropout
            .map_or(Ok(()), |dropout| probability("base_dropout", dropout))?;
        if self
            .targets
            .split(',')
            .any(|target| target.trim().is_empty())
        {
            return Err(setting(
                "targets",
                "qv, all, or comma-separated suffixes",
                &self.targets,
            ));
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() < self.seeds.len() {
            return Err(setting(
                "seeds",
                "at least one, all different",
                format!("{:?}", self.seeds),
            ));
        }
        Ok(())
    }

    fn validate_class_weights(&self) -> Result<()> {
        let Some(weights) = &self.class_weights else {
            return Ok(());
        };
        weights.check()?;
        let one_class = |found| {
            let expected = "a task with one class for each row";
            setting("class_weights", expected, found)
        };
        match self.task.target() {
            Some(Target::Classes { .. }) => Ok(()),
            Some(Target::Sets { .. }) => Err(one_class("--multi-label")),
            Some(Target::Number { .. }) => Err(one_class("--regression")),
            None => Err(one_class("texts")),
        }
    }

    fn validate_optimizer(&self) -> Result<()> {
        let (lr, decay, adam) = (&self.lr, &self.weight_decay, &self.adam);
        for (name, value) in [
            ("lr.bank", lr.bank),
            ("lr.logits", lr.logits),
            ("lr.adapter", lr.adapter),
            ("lr.head", lr.head),
            ("lr.base", lr.base),
            ("weight_decay.bank", decay.bank),
            ("weight_decay.logits", decay.logits),
            ("weight_decay.adapter", decay.adapter),
            ("weight_decay.head", decay.head),
            ("weight_decay.base", decay.base),
            ("clip_norm", self.clip_norm),
        ] {
            rate(name, value)?;
        }
        for (table, own) in lr.own() {
            own.map_or(Ok(()), |value| rate(&format!("lr.{table}"), value))?;
        }
        let ratio = self.schedule.warmup_ratio;
        check(
            "schedule.warmup_ratio",
            ratio,
            (0.0..=1.0).contains(&ratio),
            "a number in 0..=1",
        )?;
        if let (Some(steps), true) = (self.schedule.warmup_steps, ratio > 0.0) {
            let expected = "none beside schedule.warmup_ratio";
            return Err(setting("schedule.warmup_steps", expected, steps));
        }
        probability("adam.beta1", adam.beta1)?;
        probability("adam.beta2", adam.beta2)?;
        positive("adam.eps", adam.eps)
    }

    /// Checks every method's settings, and the stricter limits of a recipe. Training with an alpha of 0 has no effect, and a negative alpha
    /// moves away from the minimum.
    fn validate_adapters(&self) -> Result<()> {
        macro_rules! check_each {
            ($($method:ident $config:ident $name:literal $table:ident $title:literal;)+) => {
                $(in_table(stringify!($table), self.$table.check_values())?;)+
            };
        }
        for_each_method!(check_each);
        positive("lora.alpha", self.lora.alpha)
    }
}

/// Adds the table's name to the setting in an error.
fn in_table(table: &str, checked: vblora::Result<()>) -> Result<()> {
    checked.map_err(|error| match error {
        vblora::Error::Setting {
            setting: key,
            expected,
            found,
        } => setting(&format!("{table}.{key}"), &expected, found),
        other => other.into(),
    })
}

fn rate(name: &str, value: f64) -> Result<()> {
    let holds = value.is_finite() && value >= 0.0;
    check(name, value, holds, "a finite number, at least 0")
}

fn within(name: &str, value: usize, range: RangeInclusive<usize>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    let expected = match value < least {
        true => format!("at least {least}"),
        false => format!("at most {most}"),
    };
    Err(setting(name, &expected, value))
}

fn at_least_1(name: &str, value: Option<usize>) -> Result<()> {
    value.map_or(Ok(()), |value| within(name, value, 1..=usize::MAX))
}

fn positive(name: &str, value: f64) -> Result<()> {
    check(
        name,
        value,
        value.is_finite() && value > 0.0,
        "a finite number above 0",
    )
}

fn probability(name: &str, value: f64) -> Result<()> {
    check(
        name,
        value,
        (0.0..1.0).contains(&value),
        "a number in 0..1, 1 excluded",
    )
}

fn check(name: &str, value: f64, holds: bool, expected: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(setting(name, expected, value))
    }
}

fn setting(name: &str, expected: &str, found: impl ToString) -> Error {
    Error::Setting {
        setting: name.to_string(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use vblora::limits::MAX_RANK;

    use super::*;
    use crate::recipes::Size;
    use crate::tasks::Task;

    type Spoil = fn(&mut Recipe);

    #[test]
    fn each_bad_setting_is_named() {
        let cases: [(&str, Spoil); 53] = [
            ("vblora.topk", |r| r.vblora.topk = r.vblora.bank + 1),
            ("vblora.topk", |r| r.vblora.topk = 0),
            ("vblora.bank", |r| r.vblora.bank = 0),
            ("vblora.vector_length", |r| r.vblora.vector_length = 0),
            ("vblora.rank", |r| r.vblora.rank = 0),
            ("vblora.bank_bound", |r| r.vblora.bank_bound = 0.0),
            ("vblora.logits_std", |r| r.vblora.logits_std = f64::NAN),
            ("vblora.noise_std", |r| r.vblora.noise_std = -0.1),
            ("vblora.tau", |r| r.vblora.tau = 0.0),
            ("lora.rank", |r| r.lora.rank = 0),
            ("lora.alpha", |r| r.lora.alpha = -1.0),
            ("lora.dropout", |r| r.lora.dropout = 1.0),
            ("vera.rank", |r| r.vera.rank = 0),
            ("vera.d_init", |r| r.vera.d_init = 0.0),
            ("lr.vera", |r| r.lr.vera = Some(-1.0)),
            ("tied_lora.rank", |r| r.tied_lora.rank = 0),
            ("lora_xs.rank", |r| r.lora_xs.rank = 0),
            ("lora_xs.std", |r| r.lora_xs.std = -1.0),
            ("lr.tied_lora", |r| r.lr.tied_lora = Some(f64::NAN)),
            ("lr.lora_xs", |r| r.lr.lora_xs = Some(f64::NAN)),
            ("epochs", |r| r.epochs = 0),
            ("max_steps", |r| r.max_steps = Some(0)),
            ("evaluation.every", |r| r.evaluation.every = Some(0)),
            ("evaluation.patience", |r| r.evaluation.patience = Some(0)),
            ("schedule.warmup_steps", |r| {
                r.schedule.warmup_steps = Some(9);
            }),
            ("batch", |r| r.batch = 0),
            ("accumulation", |r| r.accumulation = 0),
            ("max_length", |r| r.max_length = 3),
            ("vblora.bank", |r| r.vblora.bank = 1 << 63),
            ("vblora.vector_length", |r| {
                r.vblora.vector_length = usize::MAX;
            }),
            ("vblora.rank", |r| r.vblora.rank = 1 << 62),
            ("lora.rank", |r| r.lora.rank = 1 << 40),
            ("vera.rank", |r| r.vera.rank = usize::MAX),
            ("tied_lora.rank", |r| r.tied_lora.rank = MAX_RANK + 1),
            ("lora_xs.rank", |r| r.lora_xs.rank = 1 << 32),
            ("epochs", |r| r.epochs = MAX_EPOCHS + 1),
            ("batch", |r| r.batch = 1 << 63),
            ("accumulation", |r| r.accumulation = usize::MAX),
            ("max_length", |r| r.max_length = MAX_LENGTH + 1),
            ("batch", |r| r.batch = MAX_BATCH + 1),
            ("lr.head", |r| r.lr.head = f64::NAN),
            ("lr.bank", |r| r.lr.bank = -1e-3),
            ("weight_decay.head", |r| r.weight_decay.head = f64::INFINITY),
            ("clip_norm", |r| r.clip_norm = -1.0),
            ("schedule.warmup_ratio", |r| r.schedule.warmup_ratio = 1.5),
            ("adam.beta2", |r| r.adam.beta2 = 1.0),
            ("adam.eps", |r| r.adam.eps = 0.0),
            ("head.dropout", |r| r.head.dropout = -0.1),
            ("text.label_smoothing", |r| r.text.label_smoothing = 1.0),
            ("group_by_length", |r| {
                (r.text.packing, r.group_by_length) = (true, true)
            }),
            ("base_dropout", |r| r.base_dropout = Some(2.0)),
            ("targets", |r| r.targets = "query,,value".into()),
            ("seeds", |r| r.seeds = vec![1, 2, 1]),
        ];
        for (name, spoil) in cases {
            let mut recipe = Recipe::builtin(Size::Base, &Task::cola()).unwrap();
            spoil(&mut recipe);
            let error = recipe.validate().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("setting {name}: expected ")),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn the_edges_are_allowed() {
        let mut recipe = Recipe::builtin(Size::Base, &Task::cola()).unwrap();
        recipe.vblora.topk = recipe.vblora.bank;
        recipe.max_length = 4;
        recipe.clip_norm = 0.0;
        recipe.lr.logits = 0.0;
        recipe.schedule.warmup_ratio = 1.0;
        recipe.validate().unwrap();
    }
}
