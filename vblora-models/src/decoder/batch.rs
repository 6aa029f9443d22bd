//! Token ids of a causal model's batch on the host.

/// `rows` sequences of `columns` tokens each, padded on either side or packed; all vectors are row-major `[rows, columns]`.
///
/// A token sees the tokens from `first` to itself. This one rule covers plain texts, padding on the left, which no token sees, and packed
/// texts, which do not see each other. Padding on the right needs no mark, since no earlier token can see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CausalBatch {
    /// Token ids.
    pub ids: Vec<i64>,
    /// Position of each token in its own text, from 0.
    pub positions: Vec<i64>,
    /// Column of the first token of the text that this token belongs to; of padding, its own column.
    pub first: Vec<i64>,
    /// Number of sequences.
    pub rows: usize,
    /// Tokens of each, with padding.
    pub columns: usize,
}

/// The side of a batch on which shorter texts are padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the text, so that all texts end in the last column: for generation.
    Left,
    /// After the text: for training and scoring.
    Right,
}

impl CausalBatch {
    /// One text a row, padded to the longest with `pad_id`.
    pub fn pad(texts: &[&[u32]], pad_id: u32, side: Side) -> Self {
        let columns = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut batch = Self::empty(texts.len(), columns);
        for text in texts {
            let start = match side {
                Side::Left => columns - text.len(),
                Side::Right => 0,
            };
            let mut row = vec![(pad_id, None); columns];
            for (at, &id) in text.iter().enumerate() {
                row[start + at] = (id, Some(start));
            }
            batch.push_row(&row);
        }
        batch
    }

    /// Several texts a row, one after another, padded at the end to `columns`. Each text sees only itself and counts its positions from 0.
    ///
    /// # Panics
    /// A row's texts are longer than `columns`.
    pub fn pack(rows: &[Vec<&[u32]>], columns: usize, pad_id: u32) -> Self {
        let mut batch = Self::empty(rows.len(), columns);
        for texts in rows {
            let mut row = Vec::with_capacity(columns);
            for text in texts {
                let start = row.len();
                row.extend(text.iter().map(|&id| (id, Some(start))));
            }
            assert!(row.len() <= columns, "a packed row of {} tokens", row.len());
            row.resize(columns, (pad_id, None));
            batch.push_row(&row);
        }
        batch
    }

    fn empty(rows: usize, columns: usize) -> Self {
        let room = || Vec::with_capacity(rows * columns);
        Self {
            ids: room(),
            positions: room(),
            first: room(),
            rows,
            columns,
        }
    }

    /// Each column's token and the column in which its text starts, `None` for padding.
    fn push_row(&mut self, row: &[(u32, Option<usize>)]) {
        for (column, &(id, start)) in row.iter().enumerate() {
            let start = start.unwrap_or(column);
            self.ids.push(i64::from(id));
            self.first.push(start as i64);
            self.positions.push((column - start) as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_stands_on_the_side_asked_for_and_is_seen_by_nobody() {
        let texts: [&[u32]; 2] = [&[5, 6, 7], &[8]];
        let right = CausalBatch::pad(&texts, 9, Side::Right);
        assert_eq!((right.rows, right.columns), (2, 3));
        assert_eq!(right.ids, [5, 6, 7, 8, 9, 9]);
        assert_eq!(right.positions, [0, 1, 2, 0, 0, 0]);
        assert_eq!(right.first, [0, 0, 0, 0, 1, 2]);
        let left = CausalBatch::pad(&texts, 9, Side::Left);
        assert_eq!(left.ids, [5, 6, 7, 9, 9, 8]);
        assert_eq!(left.positions, [0, 1, 2, 0, 0, 0]);
        assert_eq!(left.first, [0, 0, 0, 0, 1, 2]);
        let empty = CausalBatch::pad(&[], 9, Side::Left);
        assert_eq!((empty.rows, empty.columns, empty.ids.len()), (0, 0, 0));
    }

    #[test]
    fn packed_texts_start_again_at_position_0_and_see_only_themselves() {
        let (a, b, c): (&[u32], &[u32], &[u32]) = (&[1, 2], &[3, 4, 5], &[6]);
        let batch = CausalBatch::pack(&[vec![a, b], vec![c]], 6, 0);
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 0, 6, 0, 0, 0, 0, 0]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(batch.first, [0, 0, 2, 2, 2, 5, 0, 1, 2, 3, 4, 5]);
    }
}
