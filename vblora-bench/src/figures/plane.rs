//! Figure 9: bank and sub-vectors in two dimensions.

use super::{
    Figure,
    scatter::{self, Scatter},
    title,
};
use crate::{
    Result,
    analysis::{project, spread, sub_vectors, uses},
    recordings::{Picks, Recording},
};

/// The number of sub-vectors that the picture shows.
const POINTS: usize = 1500;

/// Figure 9: bank and sub-vectors in two dimensions, by principal components. Returns `None` without a recorded bank.
///
/// # Errors
/// The picture cannot be drawn.
pub fn projection(recording: &Recording) -> Result<Option<Figure>> {
    let header = recording.header();
    let ([h, _, s], b) = (header.sizes(), header.settings.config().vector_length);
    let Some((step, bank)) = recording.banks().pop() else {
        return Ok(None);
    };
    let Some(picks) = at(recording, step) else {
        return Ok(None);
    };
    let rows = spread(s, POINTS);
    let mixed = sub_vectors(&picks, &bank, b, &rows);
    let found = project(&bank, b, &mixed);
    let title = title("Bank and sub-vectors on two principal components", header);
    let [first, second] = found.explained.map(|part| 100.0 * part);
    let caption = format!(
        "The bank after step {step} on its two largest principal components (PCA, not the paper's t-SNE), which have {first:.1} % and {second:.1} % of its variance, with {} of {s} sub-vectors. PCA is affine: a mixture of two vectors lies on the line between them. Open circles: vectors that no sub-vector uses.",
        rows.len()
    );
    let uses = uses(&picks, h);
    let scatter = Scatter {
        projection: &found,
        uses: &uses,
    };
    Ok(Some(Figure {
        name: "fig9-projection".into(),
        svg: scatter::draw(&title, &scatter)?,
        title,
        caption,
    }))
}

/// The selection at the step at which a bank was recorded.
fn at(recording: &Recording, step: u64) -> Option<Picks> {
    let mut frames = recording.frames();
    let found = frames.find(|frame| frame.step == step);
    found.map(|frame| frame.picks)
}
