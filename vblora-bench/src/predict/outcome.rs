//! From the outputs of a head to labels and probabilities.

use crate::{
    tasks::{Predictions, Task},
    train::predictions,
};

/// The prediction for one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The most likely class, and the probability of each (softmax).
    Class(usize, Vec<f32>),
    /// The classes with a probability above one half, and the probability of each (sigmoid).
    Set(Vec<usize>, Vec<f32>),
    /// A number.
    Value(f32),
}

/// The outcomes of a task's outputs, a row each.
pub fn outcomes(task: &Task, outputs: &[Vec<f32>]) -> Vec<Outcome> {
    let rows = outputs.iter();
    match predictions(task, outputs) {
        Predictions::Classes(classes) => {
            let pairs = classes.into_iter().zip(rows);
            pairs
                .map(|(class, row)| Outcome::Class(class, softmax(row)))
                .collect()
        }
        Predictions::Sets(sets) => {
            let pairs = sets.into_iter().zip(rows);
            pairs
                .map(|(set, row)| Outcome::Set(set, row.iter().map(sigmoid).collect()))
                .collect()
        }
        Predictions::Values(values) => values.into_iter().map(Outcome::Value).collect(),
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let powers = logits.iter().map(|logit| f64::from(logit - largest).exp());
    let powers: Vec<f64> = powers.collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

fn sigmoid(logit: &f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(*logit)).exp())) as f32
}
