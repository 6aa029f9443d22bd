//! `cargo xtask report`: the page of a sweep's directory.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use vblora::storage::write_atomically;
use vblora_bench::{figures::sweep_figures, program::say, report::sweep_report};

/// Makes tables and figures of what sweeps have left in a directory: one HTML file that needs nothing else, and Markdown with pictures.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The directory of one sweep or several.
    #[arg(value_name = "DIR")]
    results: PathBuf,
    /// The directory for index.html, report.md and the figures.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
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
