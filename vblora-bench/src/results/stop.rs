//! The reason why a run ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Result};

/// The reason why a run ended. The file holds it as a sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stop {
    /// All epochs ended: `completed`.
    #[default]
    Completed,
    /// The evaluations did not get better ([`EvaluationSettings::patience`](crate::recipes::EvaluationSettings::patience)): `stopped early
    /// after step N`.
    Early {
        /// Optimizer steps taken.
        step: u64,
    },
    /// The user stopped it: `interrupted`.
    Interrupted,
    /// The loss was not finite: `non-finite loss at step N`.
    NonFiniteLoss {
        /// The optimizer step, from 0, which equals the number of steps taken before it.
        step: u64,
    },
    /// A trained value or an output is not finite and has no score: `non-finite WHAT after step N`.
    NonFinite {
        /// The path of the parameter, or the model's output.
        what: String,
        /// Optimizer steps taken.
        step: u64,
    },
}

/// The text of [`Stop::Early`] before the step.
const EARLY: &str = "stopped early after step ";

/// The text of [`Stop::NonFiniteLoss`] before the step.
const NON_FINITE_LOSS: &str = "non-finite loss at step ";

/// The text of [`Stop::NonFinite`] before the name and before the step.
const NON_FINITE: [&str; 2] = ["non-finite ", " after step "];

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.pad("completed"),
            Self::Early { step } => write!(f, "{EARLY}{step}"),
            Self::Interrupted => f.pad("interrupted"),
            Self::NonFiniteLoss { step } => write!(f, "{NON_FINITE_LOSS}{step}"),
            Self::NonFinite { what, step } => {
                let [before, between] = NON_FINITE;
                write!(f, "{before}{what}{between}{step}")
            }
        }
    }
}

impl FromStr for Stop {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [before, between] = NON_FINITE;
        let non_finite = |text: &str| {
            let (what, step) = text.strip_prefix(before)?.rsplit_once(between)?;
            let (what, step) = (what.to_owned(), step.parse().ok()?);
            Some(Self::NonFinite { what, step })
        };
        let step_after = |prefix: &str| -> Option<u64> { text.strip_prefix(prefix)?.parse().ok() };
        let early = || step_after(EARLY).map(|step| Self::Early { step });
        let non_finite_loss =
            || step_after(NON_FINITE_LOSS).map(|step| Self::NonFiniteLoss { step });
        match text {
            "completed" => Some(Self::Completed),
            "interrupted" => Some(Self::Interrupted),
            other => early()
                .or_else(non_finite_loss)
                .or_else(|| non_finite(other)),
        }
        .ok_or_else(|| Error::UnknownName {
            what: "stop",
            name: text.to_string(),
            expected: format!(
                "completed, {EARLY}N, interrupted, {NON_FINITE_LOSS}N, {before}WHAT{between}N"
            ),
        })
    }
}

impl Serialize for Stop {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Stop {
    /// Returns true if the run ended as its recipe says: after all its steps, or early.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Completed | Self::Early { .. })
    }

    /// Returns true if the run failed. An unfinished run did not fail.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::NonFiniteLoss { .. } | Self::NonFinite { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_go_round() {
        for stop in [
            Stop::Completed,
            Stop::Early { step: 40 },
            Stop::Interrupted,
            Stop::NonFiniteLoss { step: 12 },
            Stop::NonFinite {
                what: "head.dense.weight after step 3".into(),
                step: 4,
            },
        ] {
            assert_eq!(stop.to_string().parse::<Stop>().unwrap(), stop);
        }
        assert_eq!(
            Stop::NonFiniteLoss { step: 12 }.to_string(),
            "non-finite loss at step 12"
        );
        assert!(
            "tired"
                .parse::<Stop>()
                .unwrap_err()
                .to_string()
                .contains("tired")
        );
    }
}
