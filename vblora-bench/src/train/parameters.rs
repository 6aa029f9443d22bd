//! Parameters by path: collects, adds, measures and scales gradients, and writes new values back.

use std::collections::BTreeMap;

use burn::{
    backend::Autodiff,
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{backend::VbLoraBackend, ops::join_rows};
use vblora_models::host_tensor;

/// Number of elements that are summed at once. Flex splits larger sums over threads dynamically, so that rounding would differ from run to
/// run.
const PIECE: usize = 1 << 20;

/// Maximum elements of a tensor that is processed together with others.
const SMALL: usize = 1 << 17;

type Graph<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

/// Gradients by parameter path, each flattened to one dimension.
#[derive(Debug)]
pub struct Gradients<B: VbLoraBackend> {
    of: BTreeMap<String, Tensor<B, 1>>,
    /// A factor on all gradients that is not yet multiplied into the tensors.
    factor: f64,
}

impl<B: VbLoraBackend> Default for Gradients<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: VbLoraBackend> Gradients<B> {
    /// Creates an empty set of gradients.
    pub fn new() -> Self {
        Self {
            of: BTreeMap::new(),
            factor: 1.0,
        }
    }

    /// Adds the gradients that `module`'s parameters have in `graph`, under `prefix`.
    pub fn collect<M: Module<Autodiff<B>>>(
        &mut self,
        prefix: &str,
        module: &M,
        graph: &mut Graph<B>,
    ) {
        module.visit(&mut Collect {
            path: vec![prefix.to_owned()],
            graph,
            into: self,
        });
    }

    /// Gradients of these values, by path.
    pub(super) fn from_tensors(of: BTreeMap<String, Tensor<B, 1>>) -> Self {
        Self { of, factor: 1.0 }
    }

    /// The number of elements of each gradient, by path.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        let of = self.of.iter();
        of.map(|(path, grad)| (path.as_str(), grad.dims()[0]))
    }

    /// The gradients by path; they are unscaled.
    pub(super) fn into_tensors(self) -> BTreeMap<String, Tensor<B, 1>> {
        debug_assert!(self.factor == 1.0);
        self.of
    }

    /// Adds the gradients of a later micro-batch; both are unscaled.
    pub(super) fn add(&mut self, later: Self) {
        debug_assert!(self.factor == 1.0 && later.factor == 1.0);
        for (path, grad) in later.of {
            self.add_one(path, grad);
        }
    }

    fn add_one(&mut self, path: String, grad: Tensor<B, 1>) {
        let sum = match self.of.remove(&path) {
            Some(sum) => sum + grad,
            None => grad,
        };
        self.of.insert(path, sum);
    }

    /// The sum of the squares of all gradients, `[1]`, still on the device.
    pub fn squared_norm(&self) -> Option<Tensor<B, 1>> {
        let (small, large): (Vec<_>, Vec<_>) =
            self.of.values().cloned().partition(|grad| is_small(grad));
        let small = (!small.is_empty()).then(|| join(small));
        let sum = small
            .into_iter()
            .chain(large)
            .flat_map(|grad| grad.split(PIECE, 0))
            .map(|piece| piece.square().sum())
            .reduce(|a, b| a + b)?;
        Some(times(sum, self.factor * self.factor))
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f64) {
        self.factor *= factor;
    }

    /// The gradient of a parameter.
    pub fn get(&self, path: &str) -> Option<Tensor<B, 1>> {
        let grad = self.of.get(path)?.clone();
        Some(times(grad, self.factor))
    }

    /// The gradients of parameters that have one, concatenated.
    pub(super) fn joined<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Tensor<B, 1> {
        let grads = paths.map(|path| self.of[path].clone());
        times(join(grads.collect()), self.factor)
    }

    /// Returns true if the parameter has a gradient.
    pub(super) fn has(&self, path: &str) -> bool {
        self.of.contains_key(path)
    }

    /// The paths of the parameters that have a gradient.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.of.keys().map(String::as_str)
    }
}

/// A tensor times a factor. The factor is 1 in most steps.
fn times<B: VbLoraBackend>(tensor: Tensor<B, 1>, factor: f64) -> Tensor<B, 1> {
    if factor == 1.0 {
        tensor
    } else {
        tensor.mul_scalar(factor)
    }
}

/// Returns true if a tensor is processed together with others. For small tensors the launch on a GPU costs more than the computation.
pub(super) fn is_small<B: VbLoraBackend>(tensor: &Tensor<B, 1>) -> bool {
    tensor.dims()[0] <= SMALL
}

/// Concatenates tensors, at least one.
pub(super) fn join<B: VbLoraBackend>(pieces: Vec<Tensor<B, 1>>) -> Tensor<B, 1> {
    let columns = pieces.into_iter().map(|piece| piece.unsqueeze_dim(1));
    join_rows(columns.collect()).squeeze_dim(1)
}

struct Collect<'a, B: VbLoraBackend> {
    path: Vec<String>,
    graph: &'a mut Graph<B>,
    into: &'a mut Gradients<B>,
}

impl<B: VbLoraBackend> ModuleVisitor<Autodiff<B>> for Collect<'_, B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Autodiff<B>, D>>) {
        let Some(grad) = param.val().grad_remove(self.graph) else {
            return;
        };
        let n = grad.shape().num_elements();
        let grad = grad.reshape([n]);
        self.into.add_one(self.path.join("."), grad);
    }
}

/// The values of every trained parameter of `module`, flat and on the host, by path.
pub(super) fn trained_values<B: VbLoraBackend, M: Module<Autodiff<B>>>(
    prefix: &str,
    module: &M,
) -> Vec<(String, Vec<f32>)> {
    let mut read = Read {
        path: vec![prefix.to_owned()],
        found: Vec::new(),
    };
    module.visit(&mut read);
    read.found
}

/// The path of the first trained parameter of `module` with a value that is not finite. It reads back all values, one parameter at a time.
pub(super) fn non_finite<B: VbLoraBackend, M: Module<Autodiff<B>>>(
    prefix: &str,
    module: &M,
) -> Option<String> {
    let mut check = Check {
        path: vec![prefix.to_owned()],
        found: None,
    };
    module.visit(&mut check);
    check.found
}

struct Check {
    path: Vec<String>,
    found: Option<String>,
}

impl<B: VbLoraBackend> ModuleVisitor<Autodiff<B>> for Check {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Autodiff<B>, D>>) {
        if self.found.is_none() && param.is_require_grad() {
            let values = host_tensor(param.val().inner()).values;
            let is_finite = values.iter().all(|value| value.is_finite());
            self.found = (!is_finite).then(|| self.path.join("."));
        }
    }
}

struct Read {
    path: Vec<String>,
    found: Vec<(String, Vec<f32>)>,
}

impl<B: VbLoraBackend> ModuleVisitor<Autodiff<B>> for Read {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Autodiff<B>, D>>) {
        if param.is_require_grad() {
            let values = host_tensor(param.val().inner()).values;
            self.found.push((self.path.join("."), values));
        }
    }
}

/// Gives every trained parameter of `module` a new value: `update(path, shape, flat value)`. `None` keeps the old value.
pub(crate) fn update<B: VbLoraBackend, M: Module<Autodiff<B>>>(
    prefix: &str,
    module: M,
    update: impl FnMut(&str, &[usize], Tensor<B, 1>) -> Option<Tensor<B, 1>>,
) -> M {
    module.map(&mut Update {
        path: vec![prefix.to_owned()],
        update,
    })
}

struct Update<F> {
    path: Vec<String>,
    update: F,
}

impl<B, F> ModuleMapper<Autodiff<B>> for Update<F>
where
    B: VbLoraBackend,
    F: FnMut(&str, &[usize], Tensor<B, 1>) -> Option<Tensor<B, 1>>,
{
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<Autodiff<B>, D>>,
    ) -> Param<Tensor<Autodiff<B>, D>> {
        if !param.is_require_grad() {
            return param;
        }
        let (id, tensor, mapper) = param.consume();
        let value = tensor.clone().inner();
        let shape = value.dims();
        let flat = value.reshape([shape.iter().product::<usize>()]);
        let tensor = match (self.update)(&self.path.join("."), &shape, flat) {
            Some(new) => Tensor::from_inner(new.reshape(shape)).require_grad(),
            None => tensor,
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Makes every parameter of a module require gradients, or none of them.
pub(crate) struct RequireGrad(pub(crate) bool);

impl<B: AutodiffBackend> ModuleMapper<B> for RequireGrad {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.set_require_grad(self.0)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::{backend::Flex, tensor::TensorData};
    use vblora::rng::Key;

    use super::*;

    /// A single sum would be split over threads. Its last bits would differ from this result, and sometimes from run to run.
    #[test]
    fn the_norm_of_a_large_gradient_is_summed_in_pieces() {
        let n = 9 * PIECE + 3;
        let values = Key::new(1).normal(n, 1.0);
        let sum = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            let grad = Tensor::<Flex, 1>::from_data(data, &Default::default());
            let mut grads = Gradients::new();
            grads.of.insert("x".to_owned(), grad);
            grads.squared_norm().unwrap().into_scalar()
        };
        let expected = values.chunks(PIECE).map(sum).reduce(|a, b| a + b);
        assert_eq!(sum(&values).to_bits(), expected.unwrap().to_bits());
        let exact: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        assert!((f64::from(sum(&values)) - exact).abs() < 1e-5 * exact);
    }

    /// This is the scaling of clipping. It applies to gradients read alone or together, and to the norm.
    #[test]
    fn a_scaled_gradient_is_scaled_wherever_it_is_read() {
        let mut grads = Gradients::<Flex>::new();
        for (path, value) in [("a", 3.0_f32), ("b", 4.0)] {
            let data = TensorData::new(vec![value], [1]);
            let grad = Tensor::from_data(data, &Default::default());
            grads.of.insert(path.to_owned(), grad);
        }
        grads.scale(0.5);
        grads.scale(0.5);
        let read = |tensor: Tensor<Flex, 1>| host_tensor(tensor).values;
        assert_eq!(read(grads.squared_norm().unwrap()), [25.0 / 16.0]);
        assert_eq!(read(grads.get("a").unwrap()), [0.75]);
        assert_eq!(read(grads.joined(["b", "a"].into_iter())), [1.0, 0.75]);
    }
}
