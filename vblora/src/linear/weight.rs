//! The weight of a frozen map as a part of a model.

use burn::{
    module::{
        AutodiffModule, Content, Devices, HasAutodiffModule, Module, ModuleDisplay,
        ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    },
    tensor::{
        DType, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};

use crate::backend::{HeldWeight, LaidOut, primitive};

/// The weight of a [`FrozenLinear`](crate::FrozenLinear), `[d_in, d_out]`, in the form that the model holds.
///
/// Consumers that need the values, to merge, decompose or save them, ask for [`dense`](Self::dense) and need not know the form.
///
/// The parameter of a dense weight has the path of the weight itself, without a level for the variant. Burn's derive would add one, and the
/// names of parameters in checkpoints would change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FrozenWeight<B: Backend> {
    /// A matrix of floats, perhaps in half precision, and the place for a backend's copies of it. A weight that may have changed gets a new
    /// place.
    Dense(Param<Tensor<B, 2>>, LaidOut),
}

impl<B: Backend> FrozenWeight<B> {
    /// A matrix of floats that gets no gradient.
    ///
    /// # Shapes
    /// - weight: `[d_in, d_out]`
    pub fn from_dense(weight: Tensor<B, 2>) -> Self {
        Self::at_new_place(Param::from_tensor(weight).set_require_grad(false))
    }

    fn at_new_place(weight: Param<Tensor<B, 2>>) -> Self {
        Self::Dense(weight, LaidOut::place())
    }

    /// `[d_in, d_out]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight, _) => weight.dims(),
        }
    }

    /// The dtype that products with the weight are computed in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight, _) => weight.dtype(),
        }
    }

    /// The device that holds the weight.
    pub fn device(&self) -> B::Device {
        match self {
            Self::Dense(weight, _) => weight.device(),
        }
    }

    /// The weight as a matrix of floats. A dense weight is shared, not copied.
    ///
    /// # Shapes
    /// - output: `[d_in, d_out]`
    pub fn dense(&self) -> Tensor<B, 2> {
        match self {
            Self::Dense(weight, _) => weight.val(),
        }
    }

    /// The weight as the backend's operations take it.
    pub(super) fn held(&self) -> HeldWeight<B> {
        match self {
            Self::Dense(weight, laid_out) => {
                HeldWeight::Dense(primitive(weight.val()), laid_out.clone())
            }
        }
    }
}

impl<B: Backend> Module<B> for FrozenWeight<B> {
    type Record = Param<Tensor<B, 2>>;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        match self {
            Self::Dense(weight, _) => weight.collect_devices(devices),
        }
    }

    fn fork(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(weight, _) => Self::at_new_place(weight.fork(device)),
        }
    }

    fn to_device(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(weight, _) => Self::at_new_place(weight.to_device(device)),
        }
    }

    fn visit<Visitor: ModuleVisitor<B>>(&self, visitor: &mut Visitor) {
        match self {
            Self::Dense(weight, _) => weight.visit(visitor),
        }
    }

    fn map<Mapper: ModuleMapper<B>>(self, mapper: &mut Mapper) -> Self {
        match self {
            Self::Dense(weight, _) => Self::at_new_place(Module::map(weight, mapper)),
        }
    }

    fn load_record(self, record: Self::Record) -> Self {
        match self {
            Self::Dense(weight, _) => Self::at_new_place(weight.load_record(record)),
        }
    }

    fn into_record(self) -> Self::Record {
        match self {
            Self::Dense(weight, _) => weight.into_record(),
        }
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for FrozenWeight<B> {
    type InnerModule = FrozenWeight<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        match self {
            Self::Dense(weight, laid_out) => FrozenWeight::Dense(weight.valid(), laid_out.clone()),
        }
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        match module {
            FrozenWeight::Dense(weight, laid_out) => {
                Self::Dense(Param::from_inner(weight), laid_out)
            }
        }
    }
}

impl<B: AutodiffBackend> HasAutodiffModule<B> for FrozenWeight<B::InnerBackend> {
    type TrainModule = FrozenWeight<B>;
}

impl<B: Backend> ModuleDisplayDefault for FrozenWeight<B> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight, _) => weight.content(content),
        }
    }
}

impl<B: Backend> ModuleDisplay for FrozenWeight<B> {}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::{backend::Flex, tensor::TensorData};

    use super::*;
    use crate::{FrozenLinear, WeightLayout};

    #[derive(Default)]
    struct Paths {
        path: Vec<String>,
        found: Vec<String>,
    }

    impl<B: Backend> ModuleVisitor<B> for Paths {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<B, D>>) {
            self.found.push(self.path.join("."));
        }
    }

    /// Checkpoints name parameters by their paths.
    #[test]
    fn the_form_of_a_weight_is_no_part_of_its_path() {
        let data = TensorData::new(vec![1.0_f32; 6], [2, 3]);
        let weight = Tensor::<Flex, 2>::from_data(data, &Default::default());
        let bias = weight.clone().sum_dim(1).squeeze_dim(1);
        let map = FrozenLinear::new("site", weight, Some(bias), WeightLayout::OutIn);
        let mut paths = Paths::default();
        map.visit(&mut paths);
        assert_eq!(paths.found, ["weight", "bias"]);
        assert_eq!(map.weight.dims(), [3, 2]);
        assert_eq!(Module::<Flex>::num_params(&map), 8);
    }
}
