//! `vblora verify`: trains a run directory's adapters again and compares their bytes.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use vblora::backend::BackendKind;

use super::train::{self, repeat::Repetition};
use crate::{
    Error,
    program::{is_interrupted, say},
    results::{Results, RunResult},
    train::{Made, Method, RunDir},
};

const EXAMPLES: &str = "\
vblora verify runs/mrpc
vblora verify runs/texts --model models/llama --data texts.jsonl";

const LONG: &str = "\
Train a run directory's adapters again and compare their bytes

The command that made the directory is run again, in a temporary directory, with the recorded recipe. Before training starts, the model's \
files, the data, the backend and the numbers of threads must be the recorded ones; the error names the first difference. Relative paths \
are those of the present directory. Every file of weights and settings of every run is compared. The exit status is 0 if all are the same, and 1 otherwise. Only flex and ndarray \
repeat a run to the bit.";

/// Train a run directory's adapters again and compare their bytes
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, long_about = LONG)]
pub struct Arguments {
    /// Directory that vblora train --out has made
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where the model is now [default: where it was]
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<String>,
    /// Where the data are now [default: where they were]
    #[arg(long, value_name = "DIR|FILE")]
    data: Option<PathBuf>,
}

/// Runs the command. The exit code is 1 if a file differs.
///
/// # Errors
/// The directory holds no finished session of `vblora train`, or it cannot be repeated here; training fails.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let dir = &arguments.run;
    let (made, runs) = (made(dir)?, finished(dir)?);
    let place = tempfile::tempdir().context("cannot make a temporary directory")?;
    let out = place.path().join("run");
    let repetition = Repetition {
        of: dir,
        recipe: dir.join("config.toml"),
        methods: methods(&runs)?,
        model: arguments.model.clone(),
        data: arguments.data.clone(),
        out: out.clone(),
    };
    let repeated = train::Arguments::repeating(&made.arguments, repetition)?;
    check(dir, &made, repeated.backend())?;
    let code = train::run(&repeated)?;
    if is_interrupted() {
        say("Interrupted before the adapters were compared.");
        return Ok(code);
    }
    for path in RunDir::foreign(dir)? {
        say(format!(
            "{}: not compared, since this session did not make it",
            path.display()
        ));
    }
    let mut are_same = true;
    for run in &runs {
        are_same &= compare(run, dir, &out)?;
    }
    Ok(match are_same {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The program and its command that made the session.
fn made(dir: &Path) -> Result<Made> {
    let made = Made::read(dir)?.with_context(|| {
        format!(
            "{} does not record its command: an earlier version made it",
            dir.join("session.json").display()
        )
    })?;
    let is_ours = !made.arguments.is_empty();
    ensure!(
        is_ours,
        "{} was not made by vblora train, so there is no command to repeat",
        dir.display()
    );
    Ok(made)
}

/// The runs of the session, all of which must have ended as their recipe says.
fn finished(dir: &Path) -> Result<Vec<RunResult>> {
    let runs = Results::read(dir.join("results.json"))?.runs;
    ensure!(!runs.is_empty(), "{}: no run has ended", dir.display());
    if let Some(run) = runs.iter().find(|run| !run.stop.is_finished()) {
        let (dir, label, stop) = (dir.display(), run.label(), &run.stop);
        bail!("{dir}: {label} has not finished ({stop})");
    }
    Ok(runs)
}

/// The methods of the runs, in their order.
fn methods(runs: &[RunResult]) -> Result<Vec<Method>> {
    let mut methods = Vec::new();
    for RunResult { method, .. } in runs {
        let found = Method::from_str(method, false);
        let found = found.map_err(|_| anyhow::anyhow!("unknown method {method:?}"))?;
        if !methods.contains(&found) {
            methods.push(found);
        }
    }
    Ok(methods)
}

/// Refuses conditions in which the same bytes are not to be expected, and names another version.
fn check(dir: &Path, made: &Made, backend: BackendKind) -> Result<()> {
    let repeats = matches!(backend, BackendKind::Flex | BackendKind::NdArray);
    ensure!(
        repeats,
        "{}: {backend} sums in no fixed order; only flex and ndarray repeat a run to the bit",
        dir.display()
    );
    let here = Made::here(Vec::new());
    let other = |part: &str, expected: String, found: String| {
        let place = dir.join("session.json");
        Err(Error::OtherRepetition {
            place,
            part: part.to_owned(),
            expected,
            found,
        })
    };
    if made.threads != here.threads {
        let expected = format!("{0} (set RAYON_NUM_THREADS={0})", made.threads);
        other("number of threads", expected, here.threads.to_string())?;
    }
    if backend == BackendKind::NdArray && made.matmul_threads != here.matmul_threads {
        let shown = |threads: &Option<String>| match threads {
            Some(threads) => format!("{threads:?}"),
            None => "not set".into(),
        };
        let (there, here) = (shown(&made.matmul_threads), shown(&here.matmul_threads));
        other("MATMUL_NUM_THREADS", there, here)?;
    }
    if made.version != here.version {
        say(format!(
            "Made by version {}; this is version {}, which may compute other bits.",
            made.version, here.version
        ));
    }
    Ok(())
}

/// Compares the files of a run, and says how they compare. Returns true if all are the same.
fn compare(run: &RunResult, there: &Path, here: &Path) -> Result<bool> {
    let name = run.file_name();
    let (there, here) = (there.join(&name), here.join(&name));
    let mut files = RunDir::trained_files(&there)?;
    files.extend(RunDir::trained_files(&here)?);
    files.sort();
    files.dedup();
    let mut bytes = 0;
    let mut differences = Vec::new();
    for file in &files {
        match first_difference(&there.join(file), &here.join(file))? {
            Compared::Same(size) => bytes += size,
            Compared::From(at) => differences.push(format!("{file} from byte {at} on")),
            Compared::Missing => differences.push(format!("{file}, which one of both lacks")),
        }
    }
    say(match differences.as_slice() {
        [] => format!("{name}: the same, {} files of {bytes} bytes", files.len()),
        some => format!("{name}: different in {}", some.join("; ")),
    });
    Ok(differences.is_empty())
}

/// The comparison of two files.
enum Compared {
    /// They are equal and have this size.
    Same(u64),
    /// They differ from this byte on.
    From(u64),
    /// One does not exist.
    Missing,
}

fn first_difference(a: &Path, b: &Path) -> Result<Compared> {
    if !(a.is_file() && b.is_file()) {
        return Ok(Compared::Missing);
    }
    let open = |path: &Path| {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok::<_, anyhow::Error>(BufReader::with_capacity(1 << 16, file))
    };
    let (mut a, mut b) = (open(a)?, open(b)?);
    let mut at = 0;
    loop {
        let (x, y) = (a.fill_buf()?, b.fill_buf()?);
        let size = x.len().min(y.len());
        if size == 0 {
            let is_end = x.len() == y.len();
            return Ok(if is_end {
                Compared::Same(at)
            } else {
                Compared::From(at)
            });
        }
        if let Some(place) = (0..size).find(|&i| x[i] != y[i]) {
            return Ok(Compared::From(at + place as u64));
        }
        at += size as u64;
        a.consume(size);
        b.consume(size);
    }
}
