//! Spinners and progress bars for long work.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Runs `step` and shows a spinner with `what` and the elapsed time.
pub fn with_spinner<T>(what: &'static str, step: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(200));
    let result = step();
    spinner.finish_and_clear();
    result
}

/// A progress bar over `steps` steps that shows the remaining time. `what` names the work.
pub fn bar(steps: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}, {eta} left")
        .expect("the template is a constant");
    ProgressBar::new(steps).with_style(style).with_message(what)
}
