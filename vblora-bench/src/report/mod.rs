//! Results of one run (`results.json`, the summary table, the curves) and the page of many runs.

mod curve;
mod escape;
mod numbers;
mod results;
mod summary;
mod sweep;
mod table;
mod template;

pub use curve::curves_svg;
pub use escape::{as_markdown, as_paragraph, picture};
pub use numbers::human_bytes;
pub use results::{EpochResult, EpochScores, Results, RunResult, Speed, Stop, best_epoch};
pub use summary::{Spread, Summary, summarise, summary_table};
pub use sweep::{Figure, Page, sweep_report};
pub use table::{Align, Table};
pub(crate) use template::html;

#[cfg(test)]
pub(crate) use results::tests::run as test_run;
#[cfg(test)]
pub(crate) use sweep::tests::page as test_page;
