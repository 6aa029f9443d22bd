//! `vblora figures`: draws the paper's figures of selections from recorded runs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use vblora::storage::write_atomically;

use crate::{
    figures::{figures, footprints},
    program::say,
    recordings::Recording,
    report::{Figure, as_markdown, as_paragraph, picture},
    results::{Results, RunResult},
};

/// Draw the paper's Figures 3 to 9 from recorded runs
///
/// --record-every records a run. The command writes one SVG file per figure of each recording, and the captions to figures.md. With several
/// recordings, one more picture shows the footprints of all.
#[derive(Debug, Args)]
#[command(before_help = "\
vblora figures runs/mrpc --out figures
vblora figures runs/mrpc runs/rte/selections/vblora-seed1.rec --out figures")]
pub struct Arguments {
    /// Directories of sessions, or recording files
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Directory for the pictures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes the figures of each recording, and a page of their captions.
///
/// # Errors
/// There is no recording, or a recording cannot be used; a file cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut found = Vec::new();
    for place in &arguments.runs {
        for path in Recording::find(place)? {
            found.push((name(place, &path), read(&path)?, path));
        }
    }
    let mut page = String::from("# Selections of recorded runs\n");
    if found.len() > 1 {
        let all: Vec<_> = found.iter().map(|(_, recording, _)| recording).collect();
        save(&arguments.out, "all", &footprints(&all)?, &mut page)?;
    }
    for (number, (name, recording, path)) in found.iter().enumerate() {
        let is_taken = found[..number].iter().any(|(other, ..)| other == name);
        let name = match is_taken {
            true => format!("{name}-{}", number + 1),
            false => name.clone(),
        };
        let result = result(path, recording);
        for figure in figures(recording, result.as_ref())? {
            save(&arguments.out, &name, &figure, &mut page)?;
        }
    }
    write_atomically(&arguments.out.join("figures.md"), page.as_bytes())?;
    say(format!(
        "Figures of {} recordings written to {}; captions in figures.md.",
        found.len(),
        arguments.out.display()
    ));
    Ok(())
}

/// Reads a recording, and prints a line if it is damaged.
pub(super) fn read(path: &Path) -> Result<Recording> {
    let recording = Recording::read(path)?;
    if let Some(damage) = recording.damage() {
        let last = recording.last().step;
        say(format!(
            "{}: {damage}; used up to step {last}",
            path.display()
        ));
    }
    Ok(recording)
}

/// `SESSION-METHOD-seedN`.
fn name(place: &Path, path: &Path) -> String {
    let session = place.canonicalize().ok();
    let session = session.as_deref().filter(|place| place.is_dir());
    let of = |path: &Path| {
        path.file_stem()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let parts = session.and_then(of).into_iter().chain(of(path));
    parts.collect::<Vec<_>>().join("-")
}

/// The session's result for a recorded run; `None` while the run has not ended.
fn result(path: &Path, recording: &Recording) -> Option<RunResult> {
    let results = path.parent()?.parent()?.join("results.json");
    let runs = Results::read(results).ok()?.runs;
    runs.into_iter()
        .find(|run| run.label() == recording.header().run)
}

/// Writes a picture and adds it to the page.
fn save(out: &Path, run: &str, figure: &Figure, page: &mut String) -> Result<()> {
    let Figure {
        name,
        title,
        caption,
        svg,
    } = figure;
    let file = format!("{run}-{name}.svg");
    write_atomically(&out.join(&file), svg.as_bytes())?;
    let (title, caption) = (as_markdown(title), as_paragraph(caption));
    let picture = picture(name, &file);
    page.push_str(&format!("\n## {title}\n\n{picture}\n\n{caption}\n"));
    Ok(())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use crate::recordings::{Header, Recorder};
    use burn::backend::Flex;
    use vblora::{Site, Targets, VbLoraConfig};

    use super::*;
    use crate::commands::view;

    /// A session directory with recordings of these runs, two selections each.
    fn session(dir: &Path, runs: &[&str]) {
        let plan = Targets::all_linear().select(&[Site::new("layer.0.query", 8, 8)]);
        let config = VbLoraConfig {
            vector_length: 4,
            ..Default::default()
        };
        let settings = config.check(&plan.unwrap()).unwrap();
        let adapter = |seed| settings.init::<Flex>(seed, &Default::default());
        for run in runs {
            let header = Header::new((*run).into(), "demo".into(), settings.clone(), 5, 10);
            let mut recorder = Recorder::start(dir, run, &header, 5, 0, &adapter(1)).unwrap();
            recorder.end(10, &adapter(2)).unwrap();
        }
    }

    #[test]
    fn every_recording_gets_its_figures_and_all_a_common_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        session(&place("a"), &["x", "y"]);
        session(&place("b"), &["x"]);
        let file = place("b/selections/x.rec");
        let bytes = std::fs::read(&file).unwrap();
        // The cut is inside the last bank, so the first bank can be drawn.
        std::fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
        let arguments = Arguments {
            runs: vec![place("a"), place("b"), file],
            out: place("out"),
        };
        run(&arguments).unwrap();
        let page = std::fs::read_to_string(place("out/figures.md")).unwrap();
        for name in ["all-fig3", "a-x-fig9", "a-y-fig4", "b-x-fig7", "x-fig8"] {
            assert!(page.contains(&format!("({name}")), "{name}");
        }
        assert_eq!(
            page.matches("is damaged: the file is cut off").count(),
            2 * 7
        );
        let files = std::fs::read_dir(place("out")).unwrap().count();
        assert_eq!(files, 1 + 1 + 4 * 7);
    }

    #[test]
    fn a_page_is_of_one_recording() {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path(), &["x", "y"]);
        let page = |run: PathBuf| view::run(&view::Arguments { run, out: None });
        let refused = page(dir.path().to_owned()).unwrap_err().to_string();
        assert!(
            refused.contains("x.rec") && refused.contains("y.rec"),
            "{refused}"
        );
        let one = dir.path().join("selections/y.rec");
        page(one.clone()).unwrap();
        assert!(
            std::fs::read_to_string(one.with_extension("html"))
                .unwrap()
                .contains("<title>")
        );
        let none = page(dir.path().join("selections")).unwrap_err().to_string();
        assert!(none.contains("selections"), "{none}");
    }
}
