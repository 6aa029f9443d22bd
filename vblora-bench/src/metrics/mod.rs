//! The metrics of classification and regression, and BLEU, in double precision.
//!
//! Undefined cases: Matthews, F1, precision and recall are 0, as in scikit-learn with `zero_division=0`. Matthews is therefore 0 also if prediction and gold are constant and equal.
//! Pearson, Spearman and R2 are `None` (NaN in scipy and scikit-learn), which JSON writes as `null`.

mod bleu;
mod classification;
mod correlation;
mod counts;
mod multi_label;
mod regression;
mod scores;

pub use bleu::bleu;
pub use classification::{
    accuracy, balanced_accuracy, f1, f1_macro, f1_micro, f1_weighted, matthews,
};
pub use correlation::{pearson, spearman};
pub use counts::{ClassCounts, ClassScores, Confusion, mean_f1, pooled_f1, weighted_f1};
pub use multi_label::{label_counts, subset_accuracy};
pub use regression::{mae, mse, r2};
pub use scores::{Metric, Scores};
