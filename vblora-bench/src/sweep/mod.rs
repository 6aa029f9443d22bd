//! Ablation sweeps: many runs from one TOML file.
//!
//! A sweep file has a `[base]` that every run starts from and `[[grid]]`s whose lists are combined. It may have single `[[run]]`s with
//! names, `[tables]` that lay out the runs, and a `[budget]`. A key is `recipe` (a built-in one or a file), `model`, `data`, `task`,
//! `method` or `seed`. It can also be a short name (`k`, `h`, `b`, `r`, `selection`) or any dotted key of the recipe.
//!
//! [`Spec`] reads the file. [`Plan`] resolves every run and gives it an id, the hash of its resolved configuration. [`Store`] holds the
//! results. A [`Campaign`] runs the remaining runs in worker processes ([`serve`]).

mod axis;
mod block;
mod campaign;
mod config;
mod estimate;
mod expand;
mod identity;
mod plan;
mod pool;
mod record;
mod shard;
mod shipped;
mod spec;
mod stats;
mod store;
mod text;
mod worker;

pub use campaign::{Campaign, News, Outcome};
pub use config::{AnySession, BUNDLED, RunConfig};
pub use estimate::estimate;
pub use plan::{Plan, PlannedRun, duration};
pub use record::{Provenance, Record};
pub use shard::Shard;
pub use spec::{Budget, Layout, Spec};
pub use stats::PairedTest;
pub use store::Store;
pub use text::TextRun;
pub use worker::{Device, serve};

#[cfg(test)]
pub(crate) use record::tests as record_tests;
