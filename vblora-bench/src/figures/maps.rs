//! Figures 3 to 5: the bank vectors that each sub-vector selects.

use std::fmt::Write;

use super::{
    Figure,
    grid::{self, Layer, Map, Panel},
    title,
};
use crate::{
    Result,
    analysis::{footprint, overlap, spread, windows},
    chart::{BLUE, DARK_GREEN, ORANGE},
    recordings::{Header, Recording},
};

/// The number of sub-vectors that the maps show, as in the paper.
const COLUMNS: usize = 96;

/// The number of epoch windows in Figure 5.
const WINDOWS: u64 = 6;

/// Figure 3: the vectors that each sub-vector selects at least once, one panel per run.
///
/// # Errors
/// The picture cannot be drawn.
pub fn footprints(recordings: &[&Recording]) -> Result<Figure> {
    let maps: Vec<_> = recordings
        .iter()
        .map(|recording| {
            let rows = sample(recording);
            (footprint(recording, &rows), rows, recording.header())
        })
        .collect();
    let mut panels = Vec::new();
    for (cells, rows, header) in &maps {
        panels.push(Panel {
            title: match maps.len() {
                1 => String::new(),
                _ => header.title(),
            },
            map: map(header, rows),
            layers: vec![Layer::plain(BLUE, cells)],
        });
    }
    let title = match recordings {
        [one] => title(
            "Bank vectors that each sub-vector ever selects",
            one.header(),
        ),
        several => format!(
            "Bank vectors that each sub-vector ever selects, in {} runs",
            several.len()
        ),
    };
    let mut caption = String::from(
        "Bank vectors (rows) that a sub-vector (columns) selects in any recorded step. ",
    );
    for (cells, rows, header) in &maps {
        let used = cells.len() as f64 / rows.len() as f64;
        let k = header.sizes()[1];
        let name = &header.run;
        let _infallible = write!(
            caption,
            "{name}: {used:.1} different vectors a sub-vector, where {k} are selected at a time. {}",
            sampled(header)
        );
    }
    Ok(Figure {
        name: "fig3-footprint".into(),
        svg: grid::draw(&title, &panels)?,
        title,
        caption,
    })
}

/// Figure 4: the vectors selected at the start, at the end and at both.
///
/// # Errors
/// The picture cannot be drawn.
pub fn changes(recording: &Recording) -> Result<Figure> {
    let (header, rows) = (recording.header(), sample(recording));
    let (first, last) = (recording.first(), recording.last());
    let found = overlap(&first.picks, &last.picks, &rows);
    let title = title("First and last selection of each sub-vector", header);
    let layer = |name, colour, cells| Layer {
        name,
        colour,
        cells,
    };
    let panel = Panel {
        title: String::new(),
        map: map(header, &rows),
        layers: vec![
            layer("first", ORANGE, &found.initial),
            layer("last", BLUE, &found.last),
            layer("both", DARK_GREEN, &found.both),
        ],
    };
    let kept = found.both.len();
    let all = kept + found.last.len();
    Ok(Figure {
        name: "fig4-overlap".into(),
        svg: grid::draw(&title, &[panel])?,
        title,
        caption: format!(
            "Bank vectors selected after step {} alone, after step {} alone, and after both: {kept} of the last {all} were there at first. {}",
            first.step,
            last.step,
            sampled(header)
        ),
    })
}

/// Figure 5: the vectors that each sub-vector selects, one panel per window of epochs.
///
/// # Errors
/// The picture cannot be drawn.
pub fn footprint_windows(recording: &Recording) -> Result<Figure> {
    let (header, rows) = (recording.header(), sample(recording));
    let found = windows(recording, &rows, WINDOWS);
    let title = title(
        "Bank vectors that each sub-vector selects, by epochs",
        header,
    );
    let mut sizes = Vec::new();
    let mut panels = Vec::new();
    for window in &found {
        let (start, end) = (window.epochs.start(), window.epochs.end());
        let epochs = match start == end {
            true => format!("epoch {start}"),
            false => format!("epochs {start}-{end}"),
        };
        let size = window.cells.len() as f64 / rows.len() as f64;
        sizes.push(format!("{size:.1} in {epochs}"));
        panels.push(Panel {
            title: epochs,
            map: map(header, &rows),
            layers: vec![Layer::plain(BLUE, &window.cells)],
        });
    }
    Ok(Figure {
        name: "fig5-windows".into(),
        svg: grid::draw(&title, &panels)?,
        title,
        caption: format!(
            "Bank vectors that a sub-vector selects in any recorded step of these epochs. Different vectors a sub-vector: {}. {}",
            sizes.join(", "),
            sampled(header)
        ),
    })
}

/// The sub-vectors that maps show.
fn sample(recording: &Recording) -> Vec<usize> {
    spread(recording.header().sizes()[2], COLUMNS)
}

/// The part of all sub-vectors and vectors that a map shows, as text.
fn sampled(header: &Header) -> String {
    let [h, _, s] = header.sizes();
    let mut words = String::new();
    if s > COLUMNS {
        words = format!("Shown are {COLUMNS} of {s} sub-vectors, evenly spread. ");
    }
    if grid::bin(h) > 1 {
        words += &format!("A row stands for {} bank vectors. ", grid::bin(h));
    }
    words
}

fn map(header: &Header, rows: &[usize]) -> Map {
    Map {
        columns: rows.len(),
        sub_vectors: header.sizes()[2],
        vectors: header.sizes()[0],
    }
}
