//! Hyperparameters of published runs as TOML, and the type that they are read into.
//!
//! A built-in file holds one table `common` and one table `tasks.<task>` per task, whose keys override it. A user's file
//! ([`Recipe::from_toml_file`]) is one whole recipe, as written by [`Recipe::to_toml`].

mod builtin;
mod class_weights;
mod difference;
mod evaluation;
mod recipe;
mod text;
mod validate;

pub use builtin::Size;
pub use class_weights::{ClassWeights, WeightRule};
pub(crate) use difference::{Difference, first_difference};
pub use evaluation::EvaluationSettings;
pub use recipe::{
    AdamSettings, HeadInit, HeadSettings, LearningRates, Recipe, ScheduleSettings, SharedBank,
    WeightDecay,
};
pub(crate) use recipe::{held_as, is_default};
pub use text::{TextSettings, TooLong};
