//! Figures 3 to 9 of the paper, as SVG: the bank vectors that recorded runs select.

mod bars;
mod grid;
mod maps;
mod of_sweep;
mod plane;
mod scatter;
mod weights;

use std::fmt::Write;

use crate::{
    Result,
    recordings::{Header, Recording},
    report::Figure,
    results::RunResult,
};

pub use maps::{changes, footprint_windows, footprints};
pub use of_sweep::sweep_figures;
pub use plane::projection;
pub use weights::{mass_by_role, mass_by_third, use_histogram};

/// Draws Figures 3 to 9 of one run. The captions include its result if there is one. A recording without a bank has no Figure 9.
///
/// # Errors
/// A picture cannot be drawn.
pub fn figures(recording: &Recording, result: Option<&RunResult>) -> Result<Vec<Figure>> {
    let mut made = vec![
        footprints(&[recording])?,
        changes(recording)?,
        footprint_windows(recording)?,
        mass_by_third(recording)?,
        mass_by_role(recording)?,
        use_histogram(recording)?,
    ];
    made.extend(projection(recording)?);
    let score = result.and_then(score);
    for figure in &mut made {
        if let Some(score) = &score {
            figure.caption.push_str(score);
        }
        if let Some(damage) = recording.damage() {
            let _infallible = write!(figure.caption, " The recording is damaged: {damage}.");
        }
    }
    Ok(made)
}

/// The best epoch's primary metric as text.
fn score(result: &RunResult) -> Option<String> {
    let (best, metric) = (result.best.as_ref()?, result.task.primary_metric);
    let value = best.metrics.get(metric)?;
    Some(format!(
        " The run's best dev {} is {value:.4}, after epoch {}.",
        metric.name(),
        best.epoch
    ))
}

fn title(what: &str, header: &Header) -> String {
    format!("{what}. {}", header.title())
}

#[cfg(test)]
mod tests;
