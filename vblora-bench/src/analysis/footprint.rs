//! Footprints: the bank vectors that sub-vectors select during training (the paper's Figures 3 to 5).

use std::{collections::BTreeSet, ops::RangeInclusive};

use crate::recordings::{Frame, Picks, Recording};

/// Cells in a map of sub-vectors by bank vectors: `(position in the list of rows, bank vector)`.
pub type Cells = BTreeSet<(usize, usize)>;

/// The footprint of some epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The first and the last epoch, counted from 1.
    pub epochs: RangeInclusive<u64>,
    /// The cells that were selected in at least one recorded step of these epochs.
    pub cells: Cells,
}

/// The cells that were selected only at the start, only at the end, and at both (Figure 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Selected only at the start.
    pub initial: Cells,
    /// Selected only at the end.
    pub last: Cells,
    /// Selected at both.
    pub both: Cells,
}

/// `n` of the numbers below `s`, evenly spread; all of them if `s` is at most `n`.
pub fn spread(s: usize, n: usize) -> Vec<usize> {
    let n = n.min(s);
    (0..n).map(|i| i * s / n).collect()
}

/// The cells that the sub-vectors `rows` select.
fn cells(picks: &Picks, rows: &[usize]) -> Cells {
    let k = picks.topk();
    let of_row = |(at, row): (usize, &usize)| {
        let indices = &picks.indices()[row * k..][..k];
        indices.iter().map(move |&index| (at, index as usize))
    };
    rows.iter().enumerate().flat_map(of_row).collect()
}

/// The cells that the sub-vectors `rows` select in at least one recorded step.
pub fn footprint(recording: &Recording, rows: &[usize]) -> Cells {
    let frames = recording.frames();
    frames.flat_map(|f| cells(&f.picks, rows)).collect()
}

/// The footprints of the recorded epochs in at most `n` windows of equal length. The last window may be shorter.
pub fn windows(recording: &Recording, rows: &[usize], n: u64) -> Vec<Window> {
    let header = recording.header();
    let (first, last) = (recording.first().step, recording.last().step);
    let (first, last) = (header.epoch(first), header.epoch(last));
    let length = (last - first + 1).div_ceil(n.max(1));
    let mut windows: Vec<Window> = (first..=last)
        .step_by(length as usize)
        .map(|start| Window {
            epochs: start..=last.min(start + length - 1),
            cells: Cells::new(),
        })
        .collect();
    for Frame { step, picks } in recording.frames() {
        let at = (header.epoch(step) - first) / length;
        windows[at as usize].cells.extend(cells(&picks, rows));
    }
    windows
}

/// The difference between the first and the last selection of the sub-vectors `rows`.
pub fn overlap(first: &Picks, last: &Picks, rows: &[usize]) -> Overlap {
    let (first, last) = (cells(first, rows), cells(last, rows));
    Overlap {
        initial: &first - &last,
        both: &first & &last,
        last: &last - &first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings::tests::{file, header, picks};

    /// Twelve sub-vectors that all select `index`, except the second, which stays at 0.
    fn all_but_one(index: u32) -> Picks {
        let mut indices = [index; 12];
        indices[1] = 0;
        picks(1, &indices, &[255; 12])
    }

    /// Five steps per epoch.
    fn recording(frames: &[(u64, u32)]) -> Recording {
        let frames: Vec<_> = frames
            .iter()
            .map(|&(step, index)| Frame {
                step,
                picks: all_but_one(index),
            })
            .collect();
        let bank = [0.5; 4 * 9];
        Recording::from_bytes(file(&header(9, 1), &frames, [&bank, &bank])).unwrap()
    }

    #[test]
    fn rows_are_spread_over_all() {
        assert_eq!(spread(10, 4), [0, 2, 5, 7]);
        assert_eq!(spread(3, 9), [0, 1, 2]);
        assert!(spread(0, 9).is_empty());
    }

    #[test]
    fn a_footprint_is_whatever_was_ever_selected() {
        let found = footprint(&recording(&[(0, 1), (5, 3), (9, 1)]), &[0, 1]);
        assert_eq!(found, Cells::from([(0, 1), (0, 3), (1, 0)]));
    }

    #[test]
    fn windows_are_of_whole_epochs_and_a_step_ends_its_own() {
        // Epochs 1, 1, 2, 2, 3, 4.
        let steps = [(0, 1), (5, 2), (6, 3), (10, 4), (15, 5), (20, 6)];
        let found = windows(&recording(&steps), &[2], 2);
        let of = |range, cells: [usize; 4]| Window {
            epochs: range,
            cells: cells.into_iter().map(|index| (0, index)).collect(),
        };
        assert_eq!(found, [of(1..=2, [1, 2, 3, 4]), of(3..=4, [5, 6, 5, 6])]);
        let epochs: Vec<_> = windows(&recording(&steps), &[2], 3)
            .into_iter()
            .map(|window| window.epochs)
            .collect();
        assert_eq!(epochs, [1..=2, 3..=4]);
        // A run that was resumed without its recording lacks the first epochs.
        let late = windows(&recording(&[(12, 1), (15, 2), (16, 3)]), &[2], 6);
        assert_eq!(late.len(), 2);
        assert_eq!(late[0].epochs, 3..=3);
    }

    #[test]
    fn what_is_given_up_taken_up_and_kept() {
        let found = overlap(&all_but_one(3), &all_but_one(4), &[0, 1]);
        assert_eq!(found.initial, Cells::from([(0, 3)]));
        assert_eq!(found.last, Cells::from([(0, 4)]));
        assert_eq!(found.both, Cells::from([(1, 0)]));
    }
}
