//! Parameters by path: gradients taken out of a graph, added up, measured and scaled; new values put back.

use std::collections::BTreeMap;

use burn::{
    backend::Autodiff,
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::backend::VbLoraBackend;

type Graph<B> = <Autodiff<B> as AutodiffBackend>::Gradients;

/// Gradients by parameter path, each flattened to one dimension.
#[derive(Debug, Default)]
pub struct Gradients<B: VbLoraBackend>(BTreeMap<String, Tensor<B, 1>>);

impl<B: VbLoraBackend> Gradients<B> {
    /// No gradients.
    pub fn new() -> Self {
        Self(BTreeMap::new())
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

    /// The sum of the squares of all gradients, `[1]`, still on the device.
    pub fn squared_norm(&self) -> Option<Tensor<B, 1>> {
        self.0
            .values()
            .map(|grad| grad.clone().square().sum())
            .reduce(|a, b| a + b)
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f64) {
        for grad in self.0.values_mut() {
            *grad = grad.clone().mul_scalar(factor);
        }
    }

    /// Multiplies every gradient by a number that is still on the device, `[1]`.
    pub fn scale_by(&mut self, factor: Tensor<B, 1>) {
        for grad in self.0.values_mut() {
            *grad = grad.clone() * factor.clone();
        }
    }

    /// The gradient of a parameter.
    pub fn get(&self, path: &str) -> Option<&Tensor<B, 1>> {
        self.0.get(path)
    }

    /// The paths of the parameters that have one.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
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
        let path = self.path.join(".");
        let sum = match self.into.0.remove(&path) {
            Some(sum) => sum + grad,
            None => grad,
        };
        self.into.0.insert(path, sum);
    }
}

/// Gives every trained parameter of `module` a new value, `update(path, number of dimensions, flat value)`; `None` keeps it.
pub(crate) fn update<B: VbLoraBackend, M: Module<Autodiff<B>>>(
    prefix: &str,
    module: M,
    update: impl FnMut(&str, usize, Tensor<B, 1>) -> Option<Tensor<B, 1>>,
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
    F: FnMut(&str, usize, Tensor<B, 1>) -> Option<Tensor<B, 1>>,
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
        let tensor = match (self.update)(&self.path.join("."), D, flat) {
            Some(new) => Tensor::from_inner(new.reshape(shape)).require_grad(),
            None => tensor,
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Makes every parameter of a module require gradients, or none.
pub(crate) struct RequireGrad(pub(crate) bool);

impl<B: AutodiffBackend> ModuleMapper<B> for RequireGrad {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.set_require_grad(self.0)
    }
}
