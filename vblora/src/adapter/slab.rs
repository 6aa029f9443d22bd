//! The places of factors in the tensors that a method composes.

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use crate::SitePlan;

/// One factor: `rows` of slab `slab`, read in row-major order as `[rank, dim]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The slab's index.
    pub slab: usize,
    /// The factor's rows in the slab.
    pub rows: Range<usize>,
    /// r
    pub rank: usize,
    /// `d_in` or `d_out`
    pub dim: usize,
}

/// The two factors of a site, both rank-major: down as `[r, d_in]` (PEFT's A), up as `[r, d_out]` (PEFT's B transposed).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSpans {
    /// The factor that multiplies the input.
    pub down: Span,
    /// The factor that produces the output.
    pub up: Span,
}

impl SiteSpans {
    /// The spans of a method that has a slab for each factor: down and up of each site, one after the other.
    pub(super) fn a_slab_each(plan: &SitePlan, rank: usize) -> Vec<Self> {
        let span = |slab, dim| Span {
            slab,
            rows: 0..rank,
            rank,
            dim,
        };
        let sites = plan.sites().iter().enumerate();
        sites
            .map(|(i, site)| Self {
                down: span(2 * i, site.d_in),
                up: span(2 * i + 1, site.d_out),
            })
            .collect()
    }
}

impl Span {
    /// Reads the factor from the slabs.
    ///
    /// # Shapes
    /// - output: `[r, dim]`
    pub fn read<B: Backend>(&self, slabs: &[Tensor<B, 2>]) -> Tensor<B, 2> {
        let [_, columns] = slabs[self.slab].dims();
        slabs[self.slab]
            .clone()
            .slice([self.rows.clone(), 0..columns])
            .reshape([self.rank, self.dim])
    }
}
