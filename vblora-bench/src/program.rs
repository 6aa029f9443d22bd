//! Behaviour that all programs of this workspace share. A signal ends the program with a checkpoint, and no work is lost if nobody reads
//! the output.
//!
//! Libraries do not call this. A program's `main` is [`run_program`], and long work calls [`listen`].

use std::{
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use clap::{Command, FromArgMatches};

mod devices;

use crate::terminal::{visible, visible_but};

#[cfg(not(unix))]
use other as system;
#[cfg(unix)]
use unix as system;

/// True once a signal has asked the program to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The number of that signal; 0 before it.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// True in a process that prints nothing on standard output.
static SILENT: AtomicBool = AtomicBool::new(false);

/// The error with which standard output failed. A closed pipe is not an error.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// The arguments that the program was started with, for the record. Invalid UTF-8 is replaced.
pub fn arguments() -> String {
    words().join(" ")
}

/// [`arguments`] as a list.
pub fn words() -> Vec<String> {
    let words = std::env::args_os().skip(1);
    words.map(|w| w.to_string_lossy().into_owned()).collect()
}

/// The program's name and its arguments, for the record.
pub fn command_line() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_stem();
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    format!("{name} {}", arguments())
}

/// Sends warnings and errors to standard error, filtered by `RUST_LOG` if it is set. Terminal control characters in the messages are
/// escaped.
fn start_logging() {
    let level = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,cubecl=error,wgpu=error".into());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_target(false)
        .without_time()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| VisibleErrors)
        // It would report a closed standard error on standard error, and panic.
        .log_internal_errors(false)
        .init();
}

/// Parses the command line as `T`. If the line asks for help or the version, or is wrong, the text is printed and the error is the exit
/// code. It is 0 after help, 2 after a wrong line, and 1 if standard output failed.
///
/// # Errors
/// The exit code, if there is nothing to run.
fn parse<T: FromArgMatches>(mut command: Command) -> Result<T, ExitCode> {
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = matches.and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        let error = error.format(&mut command);
        let said = error.print().and_then(|()| io::stdout().flush());
        if let (false, Err(cause)) = (error.use_stderr(), said) {
            let _ = LOST.set(cause);
        }
        exit_code(ExitCode::from(error.exit_code() as u8))
    })
}

/// Runs a program: parses its command line as `T`, calls `run`, and turns the outcome into the exit code. An error is one line on standard
/// error. So is the failure of a GPU, which ends the program at once.
pub fn run_program<T: FromArgMatches>(
    command: Command,
    run: impl FnOnce(T) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    start_logging();
    devices::watch();
    let arguments = match parse(command) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match run(arguments) {
        Ok(code) => exit_code(code),
        Err(error) => {
            complain(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns a flag that Ctrl-C, SIGTERM and SIGHUP set, so that the work ends with a checkpoint. A second signal, a moment later, ends the
/// program at once. An ignored SIGHUP (`nohup`) stays ignored on Linux; other systems do not report it.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn listen() -> io::Result<&'static AtomicBool> {
    system::listen()?;
    Ok(&INTERRUPTED)
}

/// Returns true if a signal has asked the program to end since [`listen`].
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn interrupt(signal: i32) {
    SIGNAL.store(signal, Ordering::Relaxed);
    INTERRUPTED.store(true, Ordering::Relaxed);
}

#[cfg(unix)]
mod unix {
    use std::{
        io,
        time::{Duration, Instant},
    };

    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
        low_level::emulate_default_handler,
    };

    /// `timeout` and shells send a process its signal twice: once alone and once to its group.
    const ECHO: Duration = Duration::from_millis(100);

    pub(super) fn listen() -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        if !is_ignored(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        let hear = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                match first {
                    None => {
                        first = Some(Instant::now());
                        super::interrupt(signal);
                    }
                    Some(first) if first.elapsed() < ECHO => {}
                    // The call does not return for these three signals.
                    Some(_) => drop(emulate_default_handler(signal)),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(hear).map(drop)
    }

    /// Returns true if the process was started with the signal ignored.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & 1 << (signal - 1) != 0)
    }
}

#[cfg(not(unix))]
mod other {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use signal_hook::consts::{SIGINT, SIGTERM};

    pub(super) fn listen() -> io::Result<()> {
        let heard = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_usize(signal, Arc::clone(&heard), signal as usize)?;
        }
        let watch = move || {
            while heard.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(Duration::from_millis(50));
            }
            super::interrupt(heard.load(Ordering::Relaxed) as i32);
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(watch).map(drop)
    }
}

/// Writes whole lines to standard error. Colour codes are the logger's own: it escapes those in messages.
struct VisibleErrors;

impl Write for VisibleErrors {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let own = io::stderr().is_terminal().then_some('\u{1b}');
        io::stderr().write_all(visible_but(&text, own).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Makes [`say`] print nothing from here on. Of several processes that do one job, one speaks.
pub fn say_nothing() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Prints a line on standard output, with terminal control characters escaped ([`visible`]). If standard output fails, the work continues,
/// and the exit code reports the failure.
pub fn say(text: impl Display) {
    if !SILENT.load(Ordering::Relaxed)
        && LOST.get().is_none()
        && let Err(cause) = writeln!(io::stdout(), "{}", visible(&text.to_string()))
    {
        let _ = LOST.set(cause);
    }
}

/// Prints a line on standard error like [`say`], and ignores failures.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", visible(&text.to_string()));
}

/// Returns true if the error is a closed pipe, as with `head`.
pub fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// The exit code of a program that would end with `code`. After a signal it is 128 plus the signal's number, as in shells. It is a failure
/// if standard output could not be written, for example on a full disk. A closed pipe is no failure.
fn exit_code(code: ExitCode) -> ExitCode {
    let lost = LOST.get().filter(|cause| !is_closed_pipe(cause));
    if let Some(cause) = lost {
        complain(format!("error: cannot write standard output: {cause}"));
    }
    match (SIGNAL.load(Ordering::Relaxed), lost) {
        (0, None) => code,
        (0, Some(_)) => ExitCode::FAILURE,
        (signal, _) => ExitCode::from(128_u8.saturating_add(signal as u8)),
    }
}
