//! What ranks say to each other.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Result, group::Message};

/// What rank 0 asks of the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Order {
    /// Get ready for a run, by its place in the list of runs.
    Run(usize),
    /// Compute the gradients of micro-batches. The message's values are those of the slabs, then those of the head.
    Step {
        step: usize,
        /// The share of each micro-batch in the step's mean.
        shares: Vec<f64>,
        /// The shapes of the composed slabs.
        slabs: Vec<[usize; 2]>,
    },
    /// Compute the outputs for batches of the development split. The message's values are those of the factors, then those of the head.
    Evaluate(Vec<SiteShape>),
    /// All runs have ended.
    End,
}

/// What a rank says to rank 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Report {
    Gradients(Part),
    /// The outputs for batches of an evaluation: for each its indices and its number of values.
    Outputs(Vec<(Vec<usize>, usize)>),
    /// The rank was asked to end, and has no micro-batch of the step.
    Interrupted,
}

/// The factors of a site in a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SiteShape {
    pub(super) site: String,
    pub(super) rank: usize,
    pub(super) d_in: usize,
    pub(super) d_out: usize,
    pub(super) scale: f64,
}

impl SiteShape {
    /// The number of values.
    pub(super) fn len(&self) -> usize {
        self.rank * (self.d_in + self.d_out)
    }
}

/// The gradients of one micro-batch, or of all that a rank has in a step. The message's values are the loss, then the tensors of the layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) step: usize,
    /// The number of the micro-batch in the step, of several the first.
    pub(super) number: usize,
    /// True if the rank was asked to end.
    pub(super) interrupted: bool,
    pub(super) layout: Layout,
}

/// The places of gradients in a flat tensor, after the loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// Paths and sizes of the head's parameters.
    pub(super) parameters: Vec<(String, usize)>,
    /// Sites, with the shapes of their factors down and up.
    pub(super) sites: Vec<(String, [[usize; 2]; 2])>,
}

impl Layout {
    /// The number of values, the loss included.
    pub(super) fn len(&self) -> usize {
        let parameters = self.parameters.iter().map(|(_, size)| *size);
        let factors = self.sites.iter().flat_map(|(_, shapes)| shapes);
        let factors = factors.map(|[rows, columns]| rows * columns);
        1 + parameters.chain(factors).sum::<usize>()
    }
}

/// The most values of a message. MPI counts them in 32 bits with a sign.
const MAX_VALUES: usize = i32::MAX as usize;

fn check_count(values: usize) -> Result<()> {
    match values <= MAX_VALUES {
        true => Ok(()),
        false => Err(Error::Setting {
            setting: "ranks".into(),
            expected: format!("at most {MAX_VALUES} values in the factors and the head of a step"),
            found: format!("{values} (fewer sites or a lower rank have fewer)"),
        }),
    }
}

/// A message with this head.
///
/// # Errors
/// There are more values than a message can have.
pub(super) fn message<T: Serialize>(head: &T, values: Vec<f32>) -> Result<Message> {
    check_count(values.len())?;
    let head = serde_json::to_vec(head).map_err(|cause| Error::Json {
        file: "of a message to another rank".into(),
        cause,
    })?;
    Ok(Message { head, values })
}

/// The head of a message from a rank.
pub(super) fn head<T: DeserializeOwned>(from: usize, message: &Message) -> Result<T> {
    serde_json::from_slice(&message.head).map_err(|cause| Error::RankMessage {
        rank: from,
        expected: "a message of this version".into(),
        found: cause.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_mpi_cannot_count_is_refused() {
        check_count(MAX_VALUES).unwrap();
        let error = check_count(MAX_VALUES + 1).unwrap_err().to_string();
        assert!(
            error.contains("setting ranks: expected at most 2147483647"),
            "{error}"
        );
    }
}
