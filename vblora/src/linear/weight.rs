//! The weight of a frozen map as a part of a model.

use burn::{
    module::{
        AutodiffModule, Content, Devices, HasAutodiffModule, Module, ModuleDisplay,
        ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    },
    tensor::{
        DType, FloatDType, Tensor, TensorPrimitive,
        backend::{AutodiffBackend, Backend},
    },
};

use crate::{
    backend::{HeldWeight, Nf4Weight, VbLoraBackend, primitive},
    nf4::Nf4Host,
};

/// The weight of a [`FrozenLinear`](crate::FrozenLinear), `[d_in, d_out]`, in the form that the model holds.
///
/// Consumers that need the values, to merge, decompose or save them, ask for [`dense`](Self::dense) and need not know the form.
///
/// The parameter of a dense weight has the path of the weight itself, without a level for the variant. Burn's derive would add one, and the
/// names of parameters in checkpoints would change.
///
/// A weight in 4 bits is no parameter: nothing trains or replaces it. Visitors see its tensors below its path, in a module of the type
/// [`NF4_MODULE`](Self::NF4_MODULE). A record of it holds the values in floats.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FrozenWeight<B: Backend> {
    /// A matrix of floats, perhaps in half precision.
    Dense(Param<Tensor<B, 2>>),
    /// A matrix in 4 bits.
    Nf4(Nf4Weight<B>),
}

impl<B: Backend> FrozenWeight<B> {
    /// A matrix of floats that gets no gradient.
    ///
    /// # Shapes
    /// - weight: `[d_in, d_out]`
    pub fn from_dense(weight: Tensor<B, 2>) -> Self {
        Self::Dense(Param::from_tensor(weight).set_require_grad(false))
    }

    /// The type under which visitors enter a weight in 4 bits.
    pub const NF4_MODULE: &'static str = "Nf4Weight";

    /// A matrix in 4 bits, whose products are computed in `compute`.
    pub fn from_nf4(weight: &Nf4Host, compute: FloatDType, device: &B::Device) -> Self {
        Self::Nf4(Nf4Weight::from_host(weight, compute, device))
    }

    /// `[d_in, d_out]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Nf4(weight) => weight.dims(),
        }
    }

    /// The dtype that products with the weight are computed in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Nf4(weight) => weight.dtype(),
        }
    }

    /// The device that holds the weight.
    pub fn device(&self) -> B::Device {
        match self {
            Self::Dense(weight) => weight.device(),
            Self::Nf4(weight) => weight.device(),
        }
    }

    /// The weight as the backend's operations take it.
    pub(super) fn held(&self) -> HeldWeight<B> {
        match self {
            Self::Dense(weight) => HeldWeight::Dense(primitive(weight.val())),
            Self::Nf4(weight) => HeldWeight::Nf4(weight.clone()),
        }
    }
}

impl<B: VbLoraBackend> FrozenWeight<B> {
    /// The weight as a matrix of floats. A dense weight is shared, not copied. One in 4 bits is decoded into its compute dtype, which takes
    /// eight times its memory in f32.
    ///
    /// # Shapes
    /// - output: `[d_in, d_out]`
    pub fn dense(&self) -> Tensor<B, 2> {
        Tensor::from_primitive(TensorPrimitive::Float(self.held().into_dense()))
    }
}

impl<B: Backend> Module<B> for FrozenWeight<B> {
    type Record = Param<Tensor<B, 2>>;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        match self {
            Self::Dense(weight) => weight.collect_devices(devices),
            Self::Nf4(weight) => {
                let (device, mut devices) = (weight.device(), devices);
                if !devices.contains(&device) {
                    devices.push(device);
                }
                devices
            }
        }
    }

    fn fork(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.fork(device)),
            Self::Nf4(weight) => Self::Nf4(weight.moved_to(device)),
        }
    }

    fn to_device(self, device: &B::Device) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.to_device(device)),
            Self::Nf4(weight) => Self::Nf4(weight.moved_to(device)),
        }
    }

    fn visit<Visitor: ModuleVisitor<B>>(&self, visitor: &mut Visitor) {
        match self {
            Self::Dense(weight) => weight.visit(visitor),
            Self::Nf4(weight) => visit(weight, visitor),
        }
    }

    fn map<Mapper: ModuleMapper<B>>(self, mapper: &mut Mapper) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(Module::map(weight, mapper)),
            Self::Nf4(weight) => Self::Nf4(weight),
        }
    }

    fn load_record(self, record: Self::Record) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.load_record(record)),
            Self::Nf4(_) => Self::from_dense(record.val()),
        }
    }

    fn into_record(self) -> Self::Record {
        match self {
            Self::Dense(weight) => weight.into_record(),
            Self::Nf4(weight) => {
                let values = TensorPrimitive::Float(weight.dequantised());
                Param::from_tensor(Tensor::from_primitive(values)).set_require_grad(false)
            }
        }
    }
}

/// Shows a visitor the tensors of a weight in 4 bits.
fn visit<B: Backend, V: ModuleVisitor<B>>(weight: &Nf4Weight<B>, visitor: &mut V) {
    let module = FrozenWeight::<B>::NF4_MODULE;
    let parts = weight.parts();
    for (name, tensor) in parts.ints {
        visitor.enter_module(name, module);
        visitor.visit_int(&tensor);
        visitor.exit_module(name, module);
    }
    for (name, tensor) in parts.floats {
        visitor.enter_module(name, module);
        visitor.visit_float(&tensor);
        visitor.exit_module(name, module);
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for FrozenWeight<B> {
    type InnerModule = FrozenWeight<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        match self {
            Self::Dense(weight) => FrozenWeight::Dense(weight.valid()),
            Self::Nf4(weight) => FrozenWeight::Nf4(weight.clone().inner()),
        }
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        match module {
            FrozenWeight::Dense(weight) => Self::Dense(Param::from_inner(weight)),
            FrozenWeight::Nf4(weight) => Self::Nf4(Nf4Weight::from_inner(weight)),
        }
    }
}

impl<B: AutodiffBackend> HasAutodiffModule<B> for FrozenWeight<B::InnerBackend> {
    type TrainModule = FrozenWeight<B>;
}

impl<B: Backend> ModuleDisplayDefault for FrozenWeight<B> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight) => weight.content(content),
            Self::Nf4(weight) => Some(content.add("nf4", &format!("{:?}", weight.dims()))),
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
