//! What ranks say to each other.

use serde::{Deserialize, Serialize};
use vblora::backend::VbLoraBackend;

use crate::{Error, Result, train::step::MicroGradients};

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
    /// The layout of a micro-batch's gradients.
    pub(super) fn of<B: VbLoraBackend>(micro: &MicroGradients<B>) -> Self {
        let parameters = micro.parameters.sizes();
        let sites = micro.factors.shapes();
        Self {
            parameters: parameters
                .map(|(path, size)| (path.to_owned(), size))
                .collect(),
            sites: sites
                .map(|(site, shapes)| (site.to_owned(), shapes))
                .collect(),
        }
    }

    /// Compares with the layout of rank `from`.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn check(&self, other: &Self, from: usize) -> Result<()> {
        match self == other {
            true => Ok(()),
            false => Err(Error::RankMessage {
                rank: from,
                expected: "gradients of the tensors that other micro-batches have".into(),
                found: "gradients of other tensors".into(),
            }),
        }
    }

    /// The number of values, the loss included.
    pub(super) fn len(&self) -> usize {
        let parameters = self.parameters.iter().map(|(_, size)| *size);
        let factors = self.sites.iter().flat_map(|(_, shapes)| shapes);
        let factors = factors.map(|[rows, columns]| rows * columns);
        1 + parameters.chain(factors).sum::<usize>()
    }
}
