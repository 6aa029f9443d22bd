//! Custom kernels under Burn's operation fusion. Each is registered as one operation between streams of fused ones.
//!
//! Everything else stays plain tensor operations, which fusion turns into fewer kernels.

use std::{fmt, marker::PhantomData};

use burn::tensor::{DType, Shape, backend::Backend, ops::FloatTensor};
use burn_fusion::{
    Fusion, FusionBackend, FusionRuntime,
    stream::{Operation, OperationStreams},
};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};

use super::HasPlanes;

/// True if the backend has one kernel for an operation on these tensors. Otherwise the operation's parts are fused with their surroundings.
pub(in crate::backend) fn has_kernel<B: FusionBackend + HasPlanes>(
    tensors: &[&FloatTensor<Fusion<B>>],
) -> bool {
    tensors.iter().all(|tensor| tensor.dtype == DType::F32)
        && B::has_planes(tensors[0].client.device())
}

/// An operation and its non-tensor arguments. Each family has a type of its own.
pub(in crate::backend) trait Call<B: Backend>:
    fmt::Debug + Copy + Send + Sync + 'static
{
    /// Runs the operation on the inner backend. `inputs` are the registered tensors in their order.
    fn run(self, inputs: impl Iterator<Item = FloatTensor<B>>) -> Vec<FloatTensor<B>>;
}

struct Registered<B, C> {
    call: C,
    desc: CustomOpIr,
    backend: PhantomData<fn() -> B>,
}

impl<B, C: fmt::Debug> fmt::Debug for Registered<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.call, self.desc)
    }
}

/// An operation with one output, of the shape of its first input and in f32.
pub(in crate::backend) fn register_like<B: FusionBackend, C: Call<B>>(
    call: C,
    inputs: Vec<FloatTensor<Fusion<B>>>,
) -> FloatTensor<Fusion<B>> {
    let shape = inputs[0].shape.clone();
    let [out] = register::<B, C, _>(call, inputs, [shape], DType::F32);
    out
}

/// An operation with outputs of these shapes and this dtype.
pub(in crate::backend) fn register<B: FusionBackend, C: Call<B>, const N: usize>(
    call: C,
    inputs: Vec<FloatTensor<Fusion<B>>>,
    shapes: [impl Into<Shape>; N],
    dtype: DType,
) -> [FloatTensor<Fusion<B>>; N] {
    let client = inputs[0].client.clone();
    let streams = OperationStreams::with_inputs(&inputs);
    let outputs =
        shapes.map(|shape| TensorIr::uninit(client.create_empty_handle(), shape.into(), dtype));
    let inputs: Vec<_> = inputs.into_iter().map(|tensor| tensor.into_ir()).collect();
    let desc = CustomOpIr::new("vblora", &inputs, &outputs);
    let operation = Registered::<B, C> {
        call,
        desc: desc.clone(),
        backend: PhantomData,
    };
    let outputs = client.register(streams, OperationIr::Custom(desc), operation);
    match outputs.try_into() {
        Ok(outputs) => outputs,
        Err(_) => unreachable!("as many outputs as were described"),
    }
}

impl<B: FusionBackend, C: Call<B>> Operation<B::FusionRuntime> for Registered<B, C> {
    fn execute(
        &self,
        handles: &mut HandleContainer<<B::FusionRuntime as FusionRuntime>::FusionHandle>,
    ) {
        let inputs = self.desc.inputs.iter();
        let outputs = self
            .call
            .run(inputs.map(|input| handles.get_float_tensor::<B>(input)));
        for (described, output) in self.desc.outputs.iter().zip(outputs) {
            handles.register_float_tensor::<B>(&described.id, output);
        }
    }
}

/// The next of an operation's inputs.
pub(in crate::backend) fn next<T>(inputs: &mut impl Iterator<Item = T>) -> T {
    inputs.next().expect("every input was described")
}
