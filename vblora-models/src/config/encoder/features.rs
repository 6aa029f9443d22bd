//! The features in which encoders differ. A family is a choice of them.

use crate::{Activation, config::LayerSet};

/// How an encoder knows where a token stands.
#[derive(Debug, Clone, PartialEq)]
pub enum EncoderPositions {
    /// A table of position embeddings is added to the token embeddings.
    Learned,
    /// Queries and keys turn (arXiv 2104.09864), and some layers see a window only (ModernBERT).
    Rotary(RotaryLayers),
    /// Scores of content and of relative positions are summed (DeBERTa, arXiv 2006.03654).
    Relative(RelativeBuckets),
}

/// The rotary positions and windows of an encoder's layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryLayers {
    /// The base of the frequencies in global layers.
    pub theta: f64,
    /// The base of the frequencies in local layers.
    pub local_theta: f64,
    /// The largest distance that a token sees in a local layer, to both sides.
    pub reach: usize,
    /// The local layers.
    pub local: LayerSet,
}

/// The rows of a table of relative positions: near distances have one each, far ones share rows by their logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeBuckets {
    /// Half the rows of the table.
    pub buckets: usize,
    /// The distance that the last row stands for.
    pub reach: usize,
}

/// What a classification head reads of the last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token.
    First,
    /// The mean over the tokens that are no padding.
    Mean,
}

/// The function after the first map of a classification head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadActivation {
    /// The hyperbolic tangent.
    Tanh,
    /// A function that feed-forward blocks have as well.
    Of(Activation),
}

/// The form of a family's classification head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadForm {
    /// The function after the first map.
    pub activation: HeadActivation,
    /// True if the head has a first map. Else that map is a part of the base.
    pub has_dense: bool,
    /// True if dropout comes before the first map too.
    pub drops_input: bool,
}

impl HeadForm {
    /// RoBERTa's: dropout, dense, tanh, dropout, projection.
    pub const ROBERTA: Self = Self {
        activation: HeadActivation::Tanh,
        has_dense: true,
        drops_input: true,
    };

    /// The number of parameters of a head on hidden states of width `d`.
    pub fn parameters(self, d: usize, labels: usize) -> usize {
        let dense = if self.has_dense { (d + 1) * d } else { 0 };
        dense + (d + 1) * labels
    }
}

impl RotaryLayers {
    /// The bases of the global and the local layers.
    pub(crate) fn thetas(&self) -> [f64; 2] {
        [self.theta, self.local_theta]
    }
}

impl RelativeBuckets {
    /// Rows of the table.
    pub fn rows(self) -> usize {
        2 * self.buckets
    }

    /// The row for a query that stands `distance` tokens after its key.
    ///
    /// Distances up to half the buckets count singly. The logarithm is taken in f64, as in transformers.
    pub fn row(self, distance: i64) -> usize {
        let middle = (self.buckets / 2) as i64;
        let far = distance.abs();
        let place = match far <= middle {
            true => distance,
            false => {
                let (middle, last) = (middle as f64, (self.reach - 1) as f64);
                let share = (far as f64 / middle).ln() / (last / middle).ln();
                let beyond = (share * (middle - 1.0)).ceil();
                distance.signum() * (beyond + middle) as i64
            }
        };
        let last = self.rows() as i64 - 1;
        (place + self.buckets as i64).clamp(0, last) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `make_log_bucket_position` in transformers 5.23, for DeBERTa-v3's settings and for small ones.
    #[test]
    fn far_distances_share_rows() {
        let published = RelativeBuckets {
            buckets: 256,
            reach: 512,
        };
        for (distance, expected) in [
            (0, 256),
            (1, 257),
            (-128, 128),
            (128, 384),
            (129, 385),
            (130, 386),
            (511, 511),
            (-511, 1),
            (2000, 511),
            (-2000, 0),
        ] {
            assert_eq!(published.row(distance), expected, "{distance}");
        }
    }
}
