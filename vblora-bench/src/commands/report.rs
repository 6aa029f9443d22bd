//! `vblora report`: the page of a sweep's directory.

use std::path::PathBuf;

use crate::{figures::sweep_figures, program::say, report::sweep_report};
use anyhow::Result;
use clap::Args;
use vblora::storage::write_atomically;

/// Write the page of a sweep's directory: tables and figures
///
/// The page is one HTML file that needs nothing else. The same text is written as Markdown, with its pictures as SVG files.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora report sweeps/smoke --out pages/smoke
vblora report sweeps/mine --out pages/mine")]
pub struct Arguments {
    /// The directory of one sweep or several
    #[arg(value_name = "DIR")]
    results: PathBuf,
    /// The directory for index.html, report.md and the figures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes `index.html`, `report.md` and their figures.
///
/// # Errors
/// The directory holds no results that make a table; a file cannot be read or written.
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
