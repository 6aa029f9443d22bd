//! What a run leaves behind: `results.json`, the summary table, the curve picture.

mod curve;
mod numbers;
mod results;
mod summary;
mod table;

pub use curve::curves_svg;
pub use numbers::human_bytes;
pub use results::{EpochResult, EpochScores, Results, RunResult, Speed, Stop, best_epoch};
pub use summary::{Spread, Summary, summarise, summary_table};
pub use table::{Align, Table};

#[cfg(test)]
pub(crate) use results::tests::run as test_run;
