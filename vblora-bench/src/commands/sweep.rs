//! `vblora sweep`: plans, runs and records the runs of a sweep file.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use vblora::backend::DEFAULT_BACKEND;

use crate::{
    commands::progress,
    group::{Job, Message, Place},
    program::{complain, listen, say, say_nothing},
    report::{check_published, draw, human_bytes, plan_table},
    results::RunResult,
    sweep::{
        Budget, Campaign, Device, News, Outcome, Plan, Record, Shard, Spec, Store, duration,
        estimate, serve,
    },
    terminal::visible,
};

/// Running jobs end with a checkpoint after a signal.
const NOT_LISTENING: &str = "cannot listen for Ctrl-C";

/// How long rank 0 waits for the others at the end of a sweep: a week.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The hidden command that a sweep starts its workers with.
pub const WORKER: &str = "sweep-worker";

/// Run all experiments of a TOML file of settings
///
/// Runs with a result in the directory are skipped. Interrupted runs continue, and failed runs are tried again.
#[derive(Debug, Clone, Args)]
#[command(before_help = "\
vblora sweep smoke --out sweeps/smoke --dry-run
vblora sweep mine.toml --out sweeps/mine --set epochs=3 --runs 20")]
pub struct Arguments {
    /// A built-in sweep (table1 to table6, k, h, r, learning-rates, targets, smoke, proof, minilm, smollm2-e2e, smollm2-alpaca, smollm2-gsm8k) or a sweep file
    #[arg(value_name = "NAME|FILE")]
    sweep: String,
    /// Directory for runs and results; several sweeps may share one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Show the runs, their trained parameters and bytes, and a time estimate from a few real steps; then stop
    #[arg(long)]
    dry_run: bool,
    /// Set a key of every run instead of the sweep's value; a list makes the key an axis (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Directory of a model or data set that the sweep names, such as roberta-base=DIR or glue=DIR (repeatable)
    #[arg(long, value_name = "NAME=DIR", value_parser = place)]
    place: Vec<(String, String)>,
    /// Number of runs at the same time [default: one per device]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Comma-separated devices that workers use in turn: flex, or cuda:0,cuda:1
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_BACKEND)]
    devices: Vec<Device>,
    /// Make only share I of N of the runs, for array jobs; processes with other shares may use --out at the same time
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Start at most this many runs [default: the sweep's budget, or all]
    #[arg(long)]
    runs: Option<usize>,
    /// Start no run after this many hours [default: the sweep's budget, or no limit]
    #[arg(long, allow_negative_numbers = true)]
    hours: Option<f64>,
}

/// Work for a sweep: read jobs from standard input
#[derive(Debug, Args)]
pub struct WorkerArguments {
    /// Device to train on: flex, or cuda:1
    device: Device,
}

fn place(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, place)) if !name.is_empty() && !place.is_empty() => {
            Ok((name.into(), place.into()))
        }
        _ => Err("expected NAME=DIR".into()),
    }
}

impl Arguments {
    /// The directory of each name that the sweep uses.
    fn places(&self, spec: &Spec) -> Result<BTreeMap<String, String>> {
        let names = spec.names();
        let mut places = BTreeMap::new();
        for (name, place) in &self.place {
            if !names.contains(name.as_str()) {
                let known = names.iter().copied().collect::<Vec<_>>();
                let known = match known.as_slice() {
                    [] => "it uses only bundled ones".to_owned(),
                    names => format!("its names are {}", names.join(", ")),
                };
                bail!(
                    "--place {name}={place}: the sweep has no model or data of this name; {known}"
                );
            }
            if let Some(other) = places.insert(name.clone(), place.clone()) {
                bail!("--place {name}: expected one directory, found {other} and {place}");
            }
        }
        Ok(places)
    }

    /// The share of a rank: its runs, its devices among those of its host, and its part of the budget.
    fn of_rank(&self, place: Place) -> Result<Self> {
        let Place {
            rank,
            size,
            local_rank,
            local_size,
        } = place;
        let devices = match self.devices.as_slice() {
            [one] => vec![*one],
            all => {
                let found = all.len();
                ensure!(
                    local_size <= found,
                    "--devices: expected {local_size} devices for the ranks of this host, found {found}"
                );
                let own = all.iter().skip(local_rank).step_by(local_size);
                own.copied().collect()
            }
        };
        Ok(Self {
            devices,
            shard: Some(Shard::of_process(rank, size)),
            runs: self
                .runs
                .map(|runs| runs / size + usize::from(rank < runs % size)),
            ..self.clone()
        })
    }

    /// The device of each worker.
    fn workers(&self) -> Vec<Device> {
        let count = self.jobs.map_or(self.devices.len(), usize::from);
        self.devices.iter().copied().cycle().take(count).collect()
    }
}

/// Runs the jobs from standard input until it ends.
///
/// # Errors
/// The program cannot listen for signals; the parent process has ended.
pub fn work(arguments: &WorkerArguments) -> Result<ExitCode> {
    let interrupted = listen().context(NOT_LISTENING)?;
    let input = std::io::BufReader::new(std::io::stdin());
    serve(
        input,
        std::io::stdout(),
        arguments.device,
        draw,
        interrupted,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the remaining runs of the sweep and prints how each ended. The exit code is 1 if a run failed.
///
/// The ranks of a job take a share each.
///
/// # Errors
/// The sweep file or a setting is wrong; another process uses the directory; a result cannot be written; another rank fails.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let job = Job::open(LONGEST)?;
    let place = job.group().place();
    let outcome = match place.size {
        1 => make(arguments, place),
        _ => share(arguments, &job),
    };
    job.end(outcome)
}

/// This rank's part of the runs. Rank 0 writes the table of all once the others have done theirs.
fn share(arguments: &Arguments, job: &Job) -> Result<ExitCode> {
    let (group, place) = (job.group(), job.group().place());
    if let Some(shard) = arguments.shard {
        bail!("--shard {shard}: the ranks of a job take their shares by themselves");
    }
    if place.rank > 0 {
        say_nothing();
    }
    if arguments.dry_run {
        return match place.rank {
            0 => make(arguments, place),
            _ => Ok(ExitCode::SUCCESS),
        };
    }
    let code = make(&arguments.of_rank(place)?, place)?;
    if place.rank > 0 {
        let (head, values) = (Vec::new(), Vec::new());
        group.report(Message { head, values });
        return Ok(code);
    }
    for _ in 1..place.size {
        let done = group.receive(LONGEST);
        done.context("another rank is still at work after a week")?;
    }
    // Starts no run: those that failed have been tried just now.
    let rest = Arguments {
        runs: Some(0),
        ..arguments.clone()
    };
    make(&rest, place)
}

/// Makes the runs of these arguments.
fn make(arguments: &Arguments, place: Place) -> Result<ExitCode> {
    let mut spec = Spec::find(&arguments.sweep)?;
    check_published(&spec.tables).with_context(|| arguments.sweep.clone())?;
    let mut keys = HashSet::new();
    for assignment in &arguments.set {
        let key = spec.set(assignment)?;
        ensure!(
            !keys.contains(&key),
            "--set {key}: expected each key once, found it twice; a list of values makes a run for each"
        );
        keys.insert(key);
    }
    let plan = Plan::new(&spec, &arguments.places(&spec)?)?;
    let mut store = Store::open(&arguments.out)?.with_shard(arguments.shard);
    if !arguments.dry_run {
        store = store.lock()?;
    }
    for damaged in store.damaged() {
        complain(format!("skipped a damaged result: {damaged}"));
    }
    let budget = Budget {
        runs: arguments.runs.or(spec.budget.runs),
        hours: arguments.hours.or(spec.budget.hours),
    };
    if arguments.dry_run {
        budget.check()?;
        return dry_run(arguments, &plan, &store);
    }
    let interrupted = listen().context(NOT_LISTENING)?;
    let campaign = Campaign {
        plan: &plan,
        budget,
        devices: arguments.workers(),
        processors: place.processors()?,
        program: std::env::current_exe().context("cannot find the path of this program")?,
        worker: WORKER.into(),
        commit: commit(),
    };
    let left = plan.left(&store).len();
    say(format!(
        "{}: {left} runs to do, by {} at a time.",
        plan.sweep,
        campaign.devices.len()
    ));
    let bar = progress::bar(campaign.steps(&store), "steps");
    let hear = |news: News<'_>| match news {
        News::Steps(steps) => bar.set_position(steps),
        News::Ended(record) => show(&bar, &line(record)),
    };
    let outcome = campaign.run(store, &hear, interrupted)?;
    bar.finish_and_clear();
    Ok(conclude(arguments, &outcome))
}

fn dry_run(arguments: &Arguments, plan: &Plan, store: &Store) -> Result<ExitCode> {
    let device = *arguments.devices.first().context("no device")?;
    let spinner = ProgressBar::new_spinner();
    let mut hear = |name: &str| spinner.set_message(format!("timing steps of {name}"));
    let seconds = estimate(plan, store, device, &mut hear)?;
    spinner.finish_and_clear();
    let workers = arguments.workers().len();
    let total = seconds.values().sum::<f64>() / workers as f64;
    say(format!("{}: {}\n", plan.sweep, plan.about));
    say(plan_table(plan, store, &seconds));
    say(format!(
        "{} of {} runs left: about {} with {workers} at a time, by a few steps on {device}.",
        seconds.len(),
        plan.share(store).len(),
        duration(total)
    ));
    Ok(ExitCode::SUCCESS)
}

/// The commit of the repository that this program runs from, if any.
fn commit() -> Option<String> {
    let arguments = ["describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}

/// Prints a line above the progress bar, or a plain line without a terminal.
fn show(bar: &ProgressBar, line: &str) {
    match bar.is_hidden() {
        true => say(line),
        false => bar.println(visible(line)),
    }
}

fn line(record: &Record) -> String {
    let name = &record.name;
    match (&record.result, &record.error, record.scores()) {
        (_, Some(error), _) => format!("{name}: FAILED: {error}"),
        (Some(result), _, Some((best, last))) => format!(
            "{name}: {} {best:.4} at best, {last:.4} at last, {}{} stored, {}",
            record.metric(),
            answers(result),
            human_bytes(result.stored_bytes),
            duration(result.seconds)
        ),
        _ => format!("{name}: no epoch was evaluated"),
    }
}

/// The scores of generated answers, if the run has any.
fn answers(result: &RunResult) -> String {
    let one = |(name, score): (&String, &f64)| format!("{name} {score:.4}, ");
    result.scores.iter().map(one).collect()
}

/// Prints the outcome. The exit code is 1 if a run failed.
fn conclude(arguments: &Arguments, outcome: &Outcome) -> ExitCode {
    let Outcome { done, failed, left } = outcome;
    say(format!(
        "{done} runs done, {} failed, {left} left, in {}.",
        failed.len(),
        arguments.out.display()
    ));
    for (name, error) in failed {
        complain(format!("{name}: {error}"));
    }
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
