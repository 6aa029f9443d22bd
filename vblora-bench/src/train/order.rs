//! The order of rows. It depends only on (seed, epoch).

use vblora::rng::Key;

/// Number of batches within which rows are sorted by length (transformers: 50).
const WINDOW: usize = 50;

/// Rows in batches, in one piece of memory. An epoch over a million rows in batches of 8 takes 5 MB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    rows: Vec<u32>,
    /// The rows of a batch. The last piece of `rows` may be shorter.
    size: usize,
    /// The piece of `rows` that each batch is.
    pieces: Vec<usize>,
}

impl Batches {
    /// The number of batches.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Returns true if there are no batches.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The batches in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Vec<usize>> {
        self.pieces.iter().map(|&piece| self.piece(piece))
    }

    /// The batches in their order, with the memory that they are made from.
    pub(super) fn into_batches(self) -> impl ExactSizeIterator<Item = Vec<usize>> {
        (0..self.len()).map(move |index| self.piece(self.pieces[index]))
    }

    fn piece(&self, piece: usize) -> Vec<usize> {
        let start = piece * self.size;
        let end = (start + self.size).min(self.rows.len());
        let rows = self.rows[start..end].iter();
        rows.map(|&row| row as usize).collect()
    }
}

/// The batches of a training epoch over `rows` rows, shuffled by (seed, epoch). The last batch may be shorter.
///
/// # Panics
/// There are more than 2^32 rows.
pub fn shuffled(rows: usize, seed: u64, epoch: usize, batch: usize) -> Batches {
    let rows = permutation(rows, seed, epoch);
    let pieces = (0..rows.len().div_ceil(batch)).collect();
    Batches {
        rows,
        size: batch,
        pieces,
    }
}

/// The batches of a training epoch that groups rows of similar length. Rows are sorted by length within windows of 50 shuffled batches, and
/// then the batches are shuffled.
///
/// # Panics
/// There are more than 2^32 rows.
pub fn grouped(
    rows: usize,
    length: impl Fn(usize) -> usize,
    seed: u64,
    epoch: usize,
    batch: usize,
) -> Batches {
    let mut rows = permutation(rows, seed, epoch);
    for window in rows.chunks_mut(WINDOW * batch) {
        window.sort_by_key(|&row| length(row as usize));
    }
    let count = rows.len().div_ceil(batch);
    Batches {
        rows,
        size: batch,
        pieces: key(seed, epoch).name("batches").permutation(count),
    }
}

/// Every row once, shuffled by (seed, epoch).
fn permutation(rows: usize, seed: u64, epoch: usize) -> Vec<u32> {
    let rows = u32::try_from(rows).expect("readers refuse more rows");
    let mut rows: Vec<u32> = (0..rows).collect();
    key(seed, epoch).shuffle(&mut rows);
    rows
}

/// The batches of an evaluation, sorted by length to reduce padding.
pub fn by_length(lengths: &[usize], batch: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    order.chunks(batch).map(<[usize]>::to_vec).collect()
}

/// Packs texts into rows of at most `capacity` tokens, in the order of a training epoch. The algorithm is first-fit decreasing: the longest
/// text comes first, and each goes into the first row with room. The number of rows therefore depends only on the lengths. (seed, epoch)
/// orders texts of equal length and shuffles the rows.
///
/// # Panics
/// A text is longer than `capacity`.
pub fn packed(lengths: &[usize], seed: u64, epoch: usize, capacity: usize) -> Vec<Vec<usize>> {
    let mut texts = key(seed, epoch).permutation(lengths.len());
    texts.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for text in texts {
        let length = lengths[text];
        assert!(length <= capacity, "a text of {length} tokens");
        match rows.iter_mut().find(|(used, _)| used + length <= capacity) {
            Some((used, row)) => {
                *used += length;
                row.push(text);
            }
            None => rows.push((length, vec![text])),
        }
    }
    let places = key(seed, epoch).name("batches").permutation(rows.len());
    places
        .into_iter()
        .map(|place| std::mem::take(&mut rows[place].1))
        .collect()
}

fn key(seed: u64, epoch: usize) -> Key {
    Key::new(seed).name("order").index(epoch as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn lengths(n: usize) -> Vec<usize> {
        (0..n).map(|i| 3 + (i * 7) % 11).collect()
    }

    fn listed(batches: Batches) -> Vec<Vec<usize>> {
        let listed: Vec<_> = batches.iter().collect();
        assert!(batches.into_batches().eq(listed.iter().cloned()));
        listed
    }

    #[test]
    fn the_shorter_batch_is_the_last_of_shuffled_ones_and_anywhere_among_grouped_ones() {
        let sizes = |batches: Batches| batches.iter().map(|b| b.len()).collect::<Vec<_>>();
        assert_eq!(sizes(shuffled(20, 1, 1, 8)), [8, 8, 4]);
        assert_eq!(sizes(shuffled(16, 1, 1, 8)), [8, 8]);
        assert!(shuffled(0, 1, 1, 8).is_empty());
        let places = (1..20).map(|epoch| {
            let sizes = sizes(grouped(20, |row| lengths(20)[row], 1, epoch, 8));
            assert_eq!(sizes.iter().sum::<usize>(), 20);
            sizes.iter().position(|&size| size == 4)
        });
        assert_eq!(places.flatten().collect::<BTreeSet<_>>().len(), 3);
    }

    /// The batches in which earlier versions trained; a run that they began goes on in these.
    #[test]
    fn the_order_of_rows_stays_that_of_earlier_versions() {
        let (lengths, key) = (lengths(1000), key(3, 2));
        let mut rows = key.permutation(1000);
        let batches: Vec<_> = rows.chunks(8).map(<[usize]>::to_vec).collect();
        assert_eq!(listed(shuffled(1000, 3, 2, 8)), batches);
        for window in rows.chunks_mut(50 * 8) {
            window.sort_by_key(|&row| lengths[row]);
        }
        let batches: Vec<_> = rows.chunks(8).map(<[usize]>::to_vec).collect();
        let places = key.name("batches").permutation(batches.len()).into_iter();
        let batches: Vec<_> = places.map(|place| batches[place].clone()).collect();
        assert_eq!(listed(grouped(1000, |row| lengths[row], 3, 2, 8)), batches);
    }

    #[test]
    fn order_is_a_function_of_seed_and_epoch() {
        assert_eq!(shuffled(50, 1, 2, 8), shuffled(50, 1, 2, 8));
        assert_ne!(shuffled(50, 1, 2, 8), shuffled(50, 1, 3, 8));
        assert_ne!(shuffled(50, 1, 2, 8), shuffled(50, 2, 2, 8));
        let mut all = listed(shuffled(50, 1, 2, 8)).concat();
        assert_eq!((all.len(), shuffled(50, 1, 2, 8).len()), (50, 7));
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn grouped_batches_hold_every_row_once_and_pad_less() {
        let lengths = lengths(400);
        let padding = |batches: &[Vec<usize>]| -> usize {
            let longest = |batch: &Vec<usize>| batch.iter().map(|&row| lengths[row]).max();
            let padded = |batch: &Vec<usize>| batch.len() * longest(batch).unwrap();
            batches.iter().map(padded).sum()
        };
        let grouped = |epoch| listed(grouped(400, |row| lengths[row], 1, epoch, 8));
        assert!(padding(&grouped(2)) * 10 < padding(&listed(shuffled(400, 1, 2, 8))) * 8);
        assert_ne!(grouped(2), grouped(3));
        let mut all = grouped(2).concat();
        all.sort_unstable();
        assert_eq!(all, (0..400).collect::<Vec<_>>());
    }

    #[test]
    fn evaluation_goes_from_short_to_long() {
        assert_eq!(by_length(&[4, 2, 9, 2], 3), [vec![1, 3, 0], vec![2]]);
    }

    #[test]
    fn packing_fills_rows_and_changes_with_the_epoch() {
        let lengths = lengths(400);
        let rows = |epoch| packed(&lengths, 1, epoch, 32);
        let tokens: usize = lengths.iter().sum();
        assert!(
            rows(1).len() * 32 < tokens * 104 / 100,
            "{} rows",
            rows(1).len()
        );
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
        assert_ne!(rows(1), packed(&lengths, 2, 1, 32));
        assert_eq!(packed(&[5, 5, 5], 1, 1, 5).len(), 3);
        assert!(packed(&[], 1, 1, 5).is_empty());
    }

    proptest! {
        #[test]
        fn packed_rows_hold_every_text_once_within_the_capacity(lengths in prop::collection::vec(1usize..30, 0..120), seed in 0u64..9, epoch in 0usize..9) {
            let rows = packed(&lengths, seed, epoch, 30);
            for row in &rows {
                prop_assert!((1..=30).contains(&row.iter().map(|&text| lengths[text]).sum::<usize>()));
            }
            let mut all = rows.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            // The schedule relies on this.
            prop_assert_eq!(rows.len(), packed(&lengths, seed + 1, epoch + 1, 30).len());
        }
    }
}
