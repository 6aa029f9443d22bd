//! Dynamic padding.

use super::Encoded;

/// Examples of one batch, padded on the right to the longest of them. All vectors are row-major
/// `[rows, columns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedBatch {
    /// Token ids.
    pub ids: Vec<i64>,
    /// Token types; 0 on padding.
    pub type_ids: Vec<i64>,
    /// 1 on tokens, 0 on padding.
    pub mask: Vec<i64>,
    /// Number of examples.
    pub rows: usize,
    /// Length of the longest example, in tokens.
    pub columns: usize,
}

/// Puts encoded examples into one batch, with `pad_id` after the end of the shorter ones.
pub fn pad(examples: &[&Encoded], pad_id: u32) -> PaddedBatch {
    let columns = examples.iter().map(|e| e.ids.len()).max().unwrap_or(0);
    let size = examples.len() * columns;
    let mut batch = PaddedBatch {
        ids: Vec::with_capacity(size),
        type_ids: Vec::with_capacity(size),
        mask: Vec::with_capacity(size),
        rows: examples.len(),
        columns,
    };
    for (row, example) in examples.iter().enumerate() {
        let end = (row + 1) * columns;
        batch
            .ids
            .extend(example.ids.iter().map(|&id| i64::from(id)));
        batch.ids.resize(end, i64::from(pad_id));
        batch.mask.resize(row * columns + example.ids.len(), 1);
        batch.mask.resize(end, 0);
        batch
            .type_ids
            .extend(example.type_ids.iter().map(|&id| i64::from(id)));
        batch.type_ids.resize(end, 0);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(ids: &[u32], type_ids: &[u32]) -> Encoded {
        Encoded {
            ids: ids.to_vec(),
            type_ids: type_ids.to_vec(),
            truncated: false,
        }
    }

    #[test]
    fn shorter_rows_are_padded_on_the_right() {
        let (long, short) = (encoded(&[5, 6, 7], &[0, 1, 1]), encoded(&[8], &[0]));
        let batch = pad(&[&short, &long], 9);
        assert_eq!((batch.rows, batch.columns), (2, 3));
        assert_eq!(batch.ids, [8, 9, 9, 5, 6, 7]);
        assert_eq!(batch.mask, [1, 0, 0, 1, 1, 1]);
        assert_eq!(batch.type_ids, [0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn an_empty_batch_is_empty() {
        let batch = pad(&[], 1);
        assert_eq!((batch.rows, batch.columns, batch.ids.len()), (0, 0, 0));
    }
}
