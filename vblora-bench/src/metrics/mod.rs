//! The metrics of GLUE, and BLEU, in double precision.
//!
//! Undefined cases: Matthews and F1 are 0 (as in scikit-learn), so Matthews is 0 also where both prediction and gold are
//! constant and equal; Pearson and Spearman are `None` (scipy gives NaN), JSON's `null`.

mod bleu;
mod classification;
mod correlation;
mod scores;

pub use bleu::bleu;
pub use classification::{accuracy, f1, f1_macro, matthews};
pub use correlation::{pearson, spearman};
pub use scores::{Metric, Scores};
