//! What a run leaves behind: `results.json`, the summary table, the curve picture; and the page of many runs.

mod curve;
mod escape;
mod numbers;
mod results;
mod summary;
mod sweep;
mod table;

pub use curve::curves_svg;
pub(crate) use curve::{COLOURS, failed, printable};
pub use escape::{as_html, as_markdown, as_paragraph, picture};
pub use numbers::human_bytes;
pub use results::{EpochResult, EpochScores, Results, RunResult, Speed, Stop, best_epoch};
pub use summary::{Spread, Summary, summarise, summary_table};
pub use sweep::{Figure, Page, sweep_report};
pub use table::{Align, Table};

#[cfg(test)]
pub(crate) use results::tests::run as test_run;
