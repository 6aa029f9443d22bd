//! Tables and pictures of results: the summary and the curves of a session, and the page of a sweep.

mod by_class;
mod curve;
mod escape;
mod numbers;
mod summary;
mod sweep;
mod table;
mod template;

pub use by_class::{by_class_tables, scores_table};
pub use curve::curves_svg;
pub use escape::{as_markdown, as_paragraph, picture};
pub use numbers::human_bytes;
pub use summary::summary_table;
pub use sweep::{Figure, Page, check_published, plan_table, sweep_report};
pub use table::{Align, Table};
pub(crate) use template::html;

use crate::{Result, results::Results, train::Drawing};

/// The table and the picture in a session's directory: [`summary_table`] and [`curves_svg`].
///
/// # Errors
/// As [`curves_svg`].
pub fn draw(results: &Results) -> Result<Drawing> {
    Ok(Drawing {
        table: summary_table(results),
        curves: curves_svg(results)?,
    })
}

#[cfg(test)]
pub(crate) use sweep::tests::page as test_page;
