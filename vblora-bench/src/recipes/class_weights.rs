//! Weights of classes in the loss.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The weights of classes in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// `"balanced"`: rows / (classes x rows of the class), as in scikit-learn.
    Rule(WeightRule),
    /// A weight by class name. Classes that are not listed weigh 1.
    ByName(BTreeMap<String, f64>),
}

/// A rule that makes weights from the number of training rows of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightRule {
    /// rows / (classes x rows of the class)
    Balanced,
}

impl ClassWeights {
    /// The weight of each class, by id. `counts` are the training rows of each class.
    ///
    /// # Errors
    /// A weight has a name that is no class; every training row weighs 0.
    pub fn resolve(&self, classes: &[String], counts: &[usize]) -> Result<Vec<f32>> {
        match self {
            Self::Rule(WeightRule::Balanced) => Ok(balanced(counts)),
            Self::ByName(weights) => {
                if let Some(name) = weights.keys().find(|name| !classes.contains(name)) {
                    return Err(error(
                        &format!("class names of {}", classes.join(", ")),
                        name,
                    ));
                }
                let weight = |name| weights.get(name).map_or(1.0, |weight| *weight as f32);
                let weights: Vec<f32> = classes.iter().map(weight).collect();
                let mut rows = weights.iter().zip(counts);
                match rows.any(|(&weight, &count)| weight > 0.0 && count > 0) {
                    true => Ok(weights),
                    false => Err(error(
                        "a training row of a class that weighs more",
                        "0 for all",
                    )),
                }
            }
        }
    }

    /// Checks that there are weights, finite ones of at least 0.
    ///
    /// # Errors
    /// The first weight that is not.
    pub fn check(&self) -> Result<()> {
        let Self::ByName(weights) = self else {
            return Ok(());
        };
        // The loss takes them as f32, in which large ones are infinite.
        let is_wrong = |weight: &f64| !((*weight as f32).is_finite() && *weight >= 0.0);
        if let Some((name, weight)) = weights.iter().find(|(_, weight)| is_wrong(weight)) {
            return Err(error(
                "finite numbers of float32, at least 0",
                &format!("{weight} for {name}"),
            ));
        }
        match weights.is_empty() {
            true => Err(error("\"balanced\" or a weight by class name", "nothing")),
            false => Ok(()),
        }
    }
}

/// scikit-learn's `compute_class_weight("balanced")`. A class without rows weighs 0: no row has it.
fn balanced(counts: &[usize]) -> Vec<f32> {
    let rows: usize = counts.iter().sum();
    let weight = |&count: &usize| match count {
        0 => 0.0,
        count => (rows as f64 / (counts.len() * count) as f64) as f32,
    };
    counts.iter().map(weight).collect()
}

fn error(expected: &str, found: &str) -> Error {
    Error::Setting {
        setting: "class_weights".into(),
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_by_rule_and_by_name() {
        let classes = ["a", "b", "c"].map(String::from);
        let balanced = ClassWeights::Rule(WeightRule::Balanced);
        let found = balanced.resolve(&classes, &[1, 3, 0]).unwrap();
        assert_eq!(found, [4.0 / 3.0, 4.0 / 9.0, 0.0]);
        let by_name = |name: &str, weight| ClassWeights::ByName([(name.into(), weight)].into());
        assert_eq!(
            by_name("b", 2.5).resolve(&classes, &[1; 3]).unwrap(),
            [1.0, 2.5, 1.0]
        );
        let error = by_name("d", 1.0).resolve(&classes, &[1; 3]).unwrap_err();
        assert!(error.to_string().contains("a, b, c, found d"), "{error}");
        for counts in [&[0, 3, 2], &[0; 3]] {
            let all = ClassWeights::ByName(["b", "c"].map(|name| (String::from(name), 0.0)).into());
            assert!(all.resolve(&classes, counts).is_err());
            assert_eq!(all.resolve(&classes, &[1, 3, 2]).unwrap(), [1.0, 0.0, 0.0]);
        }
        for weight in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(by_name("a", weight).check().is_err());
        }
        assert!(ClassWeights::ByName(BTreeMap::new()).check().is_err());
        by_name("a", 0.0).check().unwrap();
    }
}
