//! Batches without their padding.

use std::{ops::Range, sync::Arc};

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, backend::Backend};

/// The number added to the attention scores of padding. It is far below every real score, and finite in f16.
pub const MASKED: f32 = -1e4;

/// The layout of a batch `[n, columns]` that is given without its padding, as `[N, ..]`. The tokens of a sequence follow one another, and
/// so do the sequences. A token gets the same results, dropout included, as in the padded batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpadded {
    lengths: Arc<[usize]>,
    columns: usize,
}

impl Unpadded {
    /// A layout from the number of tokens in each sequence. Padding comes after a sequence's tokens.
    ///
    /// # Panics
    /// A sequence has no token, or more than `columns`.
    pub fn new(lengths: impl Into<Arc<[usize]>>, columns: usize) -> Self {
        let lengths = lengths.into();
        let fits = lengths.iter().all(|length| (1..=columns).contains(length));
        assert!(fits, "sequences of 1 to {columns} tokens: {lengths:?}");
        Self { lengths, columns }
    }

    /// The shape of the padded batch, `[n, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.lengths.len(), self.columns]
    }

    /// N, the number of tokens.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The number of tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The range of each sequence among the N tokens.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.lengths.iter().scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start..*end)
        })
    }

    /// The sequence of each token.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        let rows = self.lengths.iter().enumerate();
        rows.flat_map(|(row, &length)| std::iter::repeat_n(row, length))
    }

    /// The row-major index of each token in the padded batch.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        let rows = self.lengths.iter().enumerate();
        rows.flat_map(|(row, &length)| row * self.columns..row * self.columns + length)
    }

    /// Puts every token at its place in the padded batch, with zeros at padding.
    ///
    /// # Shapes
    /// - x: `[N, d]`; output: `[n, columns, d]`
    pub fn padded<B: Backend>(&self, x: Tensor<B, 2>) -> Tensor<B, 3> {
        let ([_, d], [n, t]) = (x.dims(), self.shape());
        let device = x.device();
        let zeros = Tensor::<B, 2>::zeros([n * t, d], &device);
        let all = zeros.select_assign(0, self.indices(&device), x, IndexingUpdateOp::Add);
        all.reshape([n, t, d])
    }

    /// The reverse of [`padded`](Self::padded).
    ///
    /// # Shapes
    /// - x: `[n, columns, d]`; output: `[N, d]`
    pub fn unpadded<B: Backend>(&self, x: Tensor<B, 3>) -> Tensor<B, 2> {
        let [n, t, d] = x.dims();
        let places = self.indices(&x.device());
        x.reshape([n * t, d]).select(0, places)
    }

    fn indices<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1, Int> {
        let places: Vec<i32> = self.places().map(|place| place as i32).collect();
        Tensor::from_data(TensorData::new(places, [self.tokens()]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_sequence_and_place() {
        let unpadded = Unpadded::new([2, 1, 3], 4);
        assert_eq!((unpadded.shape(), unpadded.tokens()), ([3, 4], 6));
        assert_eq!(unpadded.ranges().collect::<Vec<_>>(), [0..2, 2..3, 3..6]);
        assert_eq!(unpadded.rows().collect::<Vec<_>>(), [0, 0, 1, 2, 2, 2]);
        assert_eq!(unpadded.places().collect::<Vec<_>>(), [0, 1, 4, 8, 9, 10]);
    }

    #[test]
    #[should_panic(expected = "1 to 4 tokens")]
    fn a_sequence_of_no_tokens_has_no_place() {
        Unpadded::new([2, 0], 4);
    }
}
