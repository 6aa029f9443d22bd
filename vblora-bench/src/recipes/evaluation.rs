//! Evaluations during training, and early stopping.

use serde::{Deserialize, Serialize};

/// When a run is evaluated, and when it ends early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSettings {
    /// Optimizer steps between evaluations. If absent, every epoch is evaluated. The last step always is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<usize>,
    /// Evaluations in a row without a better primary metric after which a run ends early. If absent, no run does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
}

impl EvaluationSettings {
    /// Returns true if all settings have their default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
