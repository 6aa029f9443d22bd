//! Figures 6 to 8: how much each bank vector is used, and by which layers and roles.

use super::{
    Figure,
    bars::{self, Bars, Histogram},
    title,
};
use crate::{
    Result,
    analysis::{Group, by_norm, by_role_and_side, by_third, dead, entropy, mass, mean_uses, uses},
    recordings::Recording,
};

/// Figure 6: the weight on each bank vector by thirds of the layers.
///
/// # Errors
/// The picture cannot be drawn.
pub fn mass_by_third(recording: &Recording) -> Result<Figure> {
    let groups = by_third(&recording.header().settings);
    masses(
        recording,
        "fig6-thirds",
        "Weight on each bank vector, by thirds of the layers",
        &groups,
    )
}

/// Figure 7: the weight on each bank vector by role and side.
///
/// # Errors
/// The picture cannot be drawn.
pub fn mass_by_role(recording: &Recording) -> Result<Figure> {
    let groups = by_role_and_side(&recording.header().settings);
    masses(
        recording,
        "fig7-roles",
        "Weight on each bank vector, by role and factor",
        &groups,
    )
}

fn masses(recording: &Recording, name: &str, what: &str, groups: &[Group]) -> Result<Figure> {
    let header = recording.header();
    let [h, ..] = header.sizes();
    let last = recording.last();
    let values = mass(&last.picks, groups, h);
    let title = title(what, header);
    let b = header.settings.config().vector_length;
    let order = match recording.banks().last() {
        Some((_, bank)) => by_norm(bank, b),
        None => (0..h).collect(),
    };
    let bars: Vec<Bars<'_>> = groups
        .iter()
        .zip(&values)
        .map(|(group, values)| Bars {
            name: &group.name,
            values,
        })
        .collect();
    Ok(Figure {
        name: name.into(),
        svg: bars::draw(&title, &bars, &order)?,
        title,
        caption: format!(
            "The sum of the weights that sub-vectors give each bank vector after step {}; the vectors by their last recorded norm, the longest on the left. Numbers name each panel's three heaviest vectors. A faces the input, B the output.",
            last.step
        ),
    })
}

/// Figure 8: how many bank vectors are used how often.
///
/// # Errors
/// The picture cannot be drawn.
pub fn use_histogram(recording: &Recording) -> Result<Figure> {
    let header = recording.header();
    let [h, ..] = header.sizes();
    let last = recording.last();
    let uses = uses(&last.picks, h);
    let mean = mean_uses(&last.picks, h);
    let title = title("How many sub-vectors use each bank vector", header);
    let (least, most) = (uses.iter().min(), uses.iter().max());
    let caption = format!(
        "How many sub-vectors use a bank vector after step {}: {} to {}, in the mean k S / h = {mean:.1} (line); {} of {h} unused; the entropy of use is {:.3} of that of even use.",
        last.step,
        least.unwrap_or(&0),
        most.unwrap_or(&0),
        dead(&uses).len(),
        entropy(&uses)
    );
    Ok(Figure {
        name: "fig8-uses".into(),
        svg: bars::draw_histogram(&title, &Histogram { uses: &uses, mean })?,
        title,
        caption,
    })
}
