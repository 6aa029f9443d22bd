//! Hyperparameters of published runs as TOML, and the type they are read into.
//!
//! The built-in files hold one table `common` and one table `tasks.<task>` whose keys override it; a file given by a
//! user ([`Recipe::from_toml_file`]) is one whole recipe, as [`Recipe::to_toml`] writes it.

mod builtin;
mod recipe;
mod text;
mod validate;

pub use builtin::Size;
pub use recipe::{
    AdamSettings, HeadInit, HeadSettings, LearningRates, Recipe, ScheduleSettings, SharedBank,
    WeightDecay,
};
pub use text::{TextSettings, TooLong};
