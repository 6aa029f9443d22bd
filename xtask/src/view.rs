//! `cargo xtask view`: the selections of a recorded run as one HTML file to scrub through.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use vblora::storage::write_atomically;
use vblora_bench::{program::say, recordings::Recording, view::viewer};

use crate::figures::read;

/// One HTML file, without server or network, in which one scrubs through the recorded steps of a run (--record-every): which bank vectors each
/// site picks, dead and popular vectors, entropy of use, churn, and the mixtures of a site.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The directory of a session with one recording, or the file of one.
    pub(crate) run: PathBuf,
    /// The file to write [default: beside the recording, as .html].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
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
