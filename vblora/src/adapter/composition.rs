//! One composition per optimizer step: factors cut from the graph, their gradients pushed back once.

use std::{collections::BTreeMap, marker::PhantomData};

use burn::{
    backend::Autodiff,
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};

use super::{Adapter, SiteSpans};
use crate::{
    Error, Factors, LowRank, Result,
    backend::{VbLoraBackend, seed},
    ops::join_rows,
    rng::Key,
};

/// The gradients of Burn's autodiff on `B`.
type Gradients<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

/// The factors of one optimizer step, cut from the graph as leaves. One backward pass takes their gradients back to the adapter's
/// parameters.
///
/// ```text
/// let mut step = Composition::new(&adapter);            // one top-k, one softmax, one gather for the whole model
/// for batch in micro_batches {
///     let mut grads = loss(batch, step.factors()).backward();
///     step.collect(&mut grads);                         // adds up on the leaves
/// }
/// let grads = step.push_back()?;                        // one backward through the composition
/// ```
///
/// Burn walks a graph once, so micro-batches could not share factors that hang on it. Slices on the graph would also cost a slab-sized
/// tensor each in the backward pass.
#[derive(Debug)]
pub struct Composition<B: VbLoraBackend, A> {
    slabs: Vec<Tensor<Autodiff<B>, 2>>,
    sites: Vec<(String, SiteSpans)>,
    factors: Factors<Autodiff<B>>,
    grads: FactorGradients<B>,
    adapter: PhantomData<fn(&A)>,
}

impl<B: VbLoraBackend, A: Adapter<Autodiff<B>>> Composition<B, A> {
    /// Composes the adapter's factors once, by the rule of inference.
    pub fn new(adapter: &A) -> Self {
        Self::of(adapter, adapter.slabs())
    }

    /// Composes the adapter's factors once, by the rule of training. Its random draws depend on `key` alone.
    pub fn drawn(adapter: &A, key: Key) -> Self {
        Self::of(adapter, adapter.training_slabs(key))
    }

    fn of(adapter: &A, slabs: Vec<Tensor<Autodiff<B>, 2>>) -> Self {
        let inner: Vec<Tensor<B, 2>> = slabs.iter().map(|slab| slab.clone().inner()).collect();
        let names = adapter.plan().sites().iter().map(|site| site.name.clone());
        Self {
            sites: names.zip(adapter.spans()).collect(),
            factors: leaf_factors(adapter, &inner),
            slabs,
            grads: FactorGradients::none(),
            adapter: PhantomData,
        }
    }

    /// The composed slabs without their graph. Another machine makes the same factors of them ([`leaf_factors`]).
    pub fn slabs(&self) -> Vec<Tensor<B, 2>> {
        let slabs = self.slabs.iter().cloned();
        slabs.map(Tensor::inner).collect()
    }

    /// The step's factors.
    pub fn factors(&self) -> &Factors<Autodiff<B>> {
        &self.factors
    }

    /// Takes the factors' gradients out of `grads` and adds them to those of earlier micro-batches.
    pub fn collect(&mut self, grads: &mut Gradients<B>) {
        self.grads.collect(&self.factors, grads);
    }

    /// Adds the gradients of the next micro-batch, which were collected elsewhere.
    pub fn add(&mut self, grads: FactorGradients<B>) {
        self.grads.add(grads);
    }

    /// Pushes the summed gradients through the composition: one backward pass, whatever the number of micro-batches.
    ///
    /// # Errors
    /// A site got no gradient from any micro-batch.
    pub fn push_back(mut self) -> Result<Gradients<B>> {
        let mut pieces: Vec<Vec<(usize, Tensor<B, 2>)>> =
            self.slabs.iter().map(|_| Vec::new()).collect();
        for (name, spans) in &self.sites {
            let [down, up] = self
                .grads
                .sums
                .remove(name)
                .ok_or_else(|| Error::NoGradient { site: name.clone() })?;
            for (span, grad) in [(&spans.down, down.transpose()), (&spans.up, up)] {
                let [_, columns] = self.slabs[span.slab].dims();
                pieces[span.slab].push((span.rows.start, grad.reshape([span.rows.len(), columns])));
            }
        }
        let first = self.slabs.first();
        let first = first.expect("a plan is never empty, so there is a slab");
        let mut root = Tensor::zeros([1], &first.device());
        for (slab, mut pieces) in self.slabs.into_iter().zip(pieces) {
            pieces.sort_by_key(|(row, _)| *row);
            let grad = join_rows(pieces.into_iter().map(|(_, grad)| grad).collect());
            root = seed(root, slab, grad);
        }
        Ok(root.backward())
    }
}

/// The factors in composed slabs, each as a leaf tensor. `adapter` says where they lie and how they act; its own values are not used.
///
/// # Shapes
/// - slabs: those of [`Adapter::slabs`]
pub fn leaf_factors<B: VbLoraBackend, A: Adapter<Autodiff<B>>>(
    adapter: &A,
    slabs: &[Tensor<B, 2>],
) -> Factors<Autodiff<B>> {
    let leaf = |tensor: Tensor<B, 2>| Tensor::<Autodiff<B>, 2>::from_inner(tensor).require_grad();
    let sites = adapter.plan().sites().iter().zip(adapter.spans());
    let pairs = sites.map(|(site, spans)| {
        let (down, up) = (
            leaf(spans.down.read(slabs).transpose()),
            leaf(spans.up.read(slabs)),
        );
        let scale = adapter.scale();
        (site.name.clone(), LowRank { down, up, scale })
    });
    Factors::new(pairs.collect(), adapter.dropout())
}

/// The summed gradients of a step's factors, by site: down `[d_in, r]`, up `[r, d_out]`.
///
/// Sums are taken in the order of the calls, from left to right, so that the same order gives the same bits.
#[derive(Debug, Clone)]
pub struct FactorGradients<B: Backend> {
    sums: BTreeMap<String, [Tensor<B, 2>; 2]>,
}

impl<B: VbLoraBackend> FactorGradients<B> {
    /// No gradients yet.
    pub fn none() -> Self {
        Self {
            sums: BTreeMap::new(),
        }
    }

    /// Takes the gradients of these factors out of a walked graph and adds them. A site that the graph did not reach gets none.
    pub fn collect(&mut self, factors: &Factors<Autodiff<B>>, graph: &mut Gradients<B>) {
        for (site, pair) in factors.pairs() {
            let (Some(down), Some(up)) = (pair.down.grad_remove(graph), pair.up.grad_remove(graph))
            else {
                continue;
            };
            self.add_site(site.clone(), [down, up]);
        }
    }

    /// Adds the gradients of a later micro-batch.
    pub fn add(&mut self, later: Self) {
        for (site, grads) in later.sums {
            self.add_site(site, grads);
        }
    }

    /// The gradients by site: down `[d_in, r]`, up `[r, d_out]`.
    pub fn into_sites(self) -> BTreeMap<String, [Tensor<B, 2>; 2]> {
        self.sums
    }

    fn add_site(&mut self, site: String, [down, up]: [Tensor<B, 2>; 2]) {
        let sum = match self.sums.remove(&site) {
            Some([d, u]) => [d + down, u + up],
            None => [down, up],
        };
        self.sums.insert(site, sum);
    }
}

impl<B: Backend> FromIterator<(String, [Tensor<B, 2>; 2])> for FactorGradients<B> {
    fn from_iter<I: IntoIterator<Item = (String, [Tensor<B, 2>; 2])>>(sites: I) -> Self {
        Self {
            sums: sites.into_iter().collect(),
        }
    }
}
