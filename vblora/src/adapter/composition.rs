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
        let grads = std::mem::replace(&mut self.grads, FactorGradients::none());
        let names = self.sites.iter().map(|(name, _)| name.as_str());
        let spans = self.sites.iter().map(|(_, spans)| spans);
        let grads = joined(names.zip(spans), grads)?;
        Ok(self.push_slabs(grads))
    }

    /// Pushes these gradients of the slabs through the composition, in place of those that were collected.
    ///
    /// # Shapes
    /// - grads: those of [`slabs`](Self::slabs)
    pub fn push_slabs(self, grads: Vec<Tensor<B, 2>>) -> Gradients<B> {
        let first = self.slabs.first();
        let first = first.expect("a plan is never empty, so there is a slab");
        let mut root = Tensor::zeros([1], &first.device());
        for (slab, grad) in self.slabs.into_iter().zip(grads) {
            root = seed(root, slab, grad);
        }
        root.backward()
    }
}

/// The gradients of an adapter's slabs: those of its factors, at the factors' places.
///
/// # Shapes
/// - output: those of [`Adapter::slabs`]
///
/// # Errors
/// A site has no gradient.
pub fn slab_gradients<B: VbLoraBackend, A: Adapter<Autodiff<B>>>(
    adapter: &A,
    grads: FactorGradients<B>,
) -> Result<Vec<Tensor<B, 2>>> {
    let names = adapter.plan().sites().iter().map(|site| site.name.as_str());
    let spans = adapter.spans();
    joined(names.zip(&spans), grads)
}

/// The factors' gradients as those of the slabs in which they lie.
fn joined<'a, B: VbLoraBackend>(
    sites: impl Iterator<Item = (&'a str, &'a SiteSpans)>,
    mut grads: FactorGradients<B>,
) -> Result<Vec<Tensor<B, 2>>> {
    let mut slabs: BTreeMap<usize, Vec<(usize, Tensor<B, 2>)>> = BTreeMap::new();
    for (name, spans) in sites {
        let found = grads.sums.remove(name);
        let [down, up] = found.ok_or_else(|| Error::NoGradient { site: name.into() })?;
        for (span, grad) in [(&spans.down, down.transpose()), (&spans.up, up)] {
            let rows = span.rows.len();
            let columns = grad.shape().num_elements() / rows;
            let pieces = slabs.entry(span.slab).or_default();
            pieces.push((span.rows.start, grad.reshape([rows, columns])));
        }
    }
    let slabs = slabs.into_values().map(|mut pieces| {
        pieces.sort_by_key(|(row, _)| *row);
        join_rows(pieces.into_iter().map(|(_, grad)| grad).collect())
    });
    Ok(slabs.collect())
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

    /// The shapes of the gradients down and up, by site.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, [[usize; 2]; 2])> {
        let sums = self.sums.iter();
        sums.map(|(site, grads)| (site.as_str(), grads.each_ref().map(Tensor::dims)))
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
