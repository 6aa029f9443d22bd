//! `vblora view`: writes the selections of a recorded run as one interactive HTML file.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use vblora::storage::write_atomically;

use super::figures::read;
use crate::{program::say, recordings::Recording, view::viewer};

/// Write the selections of a recorded run as an interactive HTML page
///
/// --record-every records a run. The page has a slider over the training steps and needs no server and no network. It shows the bank
/// vectors that each site selects, unused and popular vectors, entropy of use, churn, and the mixtures of a site.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora view runs/mrpc
vblora view runs/mrpc/selections/vblora-seed1.rec --out mrpc.html")]
pub struct Arguments {
    /// Directory of a session with one recording, or a recording file
    pub(super) run: PathBuf,
    /// HTML file to write [default: next to the recording, as .html]
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

/// Writes the page of one recording.
///
/// # Errors
/// There is no recording, more than one, or one that cannot be used; the file cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let found = Recording::find(&arguments.run)?;
    let [path] = &found[..] else {
        let names: Vec<_> = found
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!("several recordings, name one of {}", names.join(", "));
    };
    let recording = read(path)?;
    let out = arguments.out.clone().unwrap_or(path.with_extension("html"));
    let page = viewer(&recording);
    write_atomically(&out, page.as_bytes())?;
    say(format!(
        "{} steps of {} in {} ({} kB): open it in a browser.",
        recording.differences().count(),
        recording.header().run,
        out.display(),
        page.len() / 1000
    ));
    Ok(())
}
