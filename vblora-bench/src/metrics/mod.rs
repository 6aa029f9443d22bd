//! The metrics of GLUE, and those of generated texts ([`text`]), in double precision.
//!
//! Undefined cases: Matthews and F1 are 0, as in scikit-learn. Matthews is therefore 0 also if prediction and gold are constant and equal.
//! Pearson and Spearman are `None` (NaN in scipy), which JSON writes as `null`.

mod classification;
mod correlation;
mod scores;
pub mod text;

pub use classification::{accuracy, f1, f1_macro, matthews};
pub use correlation::{pearson, spearman};
pub use scores::{Metric, Scores};
pub use text::bleu;
