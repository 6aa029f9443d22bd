//! `vblora report`: writes the page of a sweep's directory.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use vblora::storage::write_atomically;

use crate::{figures::sweep_figures, program::say, report::sweep_report};

/// Write a page with the tables and figures of a sweep
///
/// The page is one self-contained HTML file. The same text is written as Markdown, with pictures as SVG files.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora report sweeps/smoke --out pages/smoke
vblora report sweeps/mine --out pages/mine")]
pub struct Arguments {
    /// Directory of one or several sweeps
    #[arg(value_name = "DIR")]
    results: PathBuf,
    /// Directory for index.html, report.md and the figures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes `index.html`, `report.md` and their figures.
///
/// # Errors
/// The directory holds no results for a table; a file cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut page = sweep_report(&arguments.results)?;
    page.add_figures("What is selected", sweep_figures(&arguments.results)?);
    let write =
        |name: &str, text: &str| write_atomically(&arguments.out.join(name), text.as_bytes());
    for figure in page.figures() {
        write(&format!("{}.svg", figure.name), &figure.svg)?;
    }
    write("report.md", &page.markdown())?;
    write("index.html", &page.html())?;
    say(format!(
        "Written to {}.",
        arguments.out.join("index.html").display()
    ));
    Ok(())
}
