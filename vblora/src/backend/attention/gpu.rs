//! The products of heads on GPUs, on tensor cores if the device has them.

use burn::tensor::ops::FloatTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use super::{AttentionOps, HeadProduct, default};
use crate::backend::gpu::{
    HasPlanes,
    fusion::{Call, next, register},
    product::tensor_core_head_product,
};

impl<R, F, I, T> AttentionOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        tensor_core_head_product(&a, &b, mask.as_ref(), product)
            .unwrap_or_else(|| default::head_product::<Self>(a, b, mask, product))
    }
}

impl<B: FusionBackend + AttentionOps + HasPlanes> AttentionOps for Fusion<B> {
    fn head_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        product: HeadProduct,
    ) -> FloatTensor<Self> {
        let (shape, dtype) = (product.shape(&a.shape, &b.shape), a.dtype);
        let has_mask = mask.is_some();
        let inputs = [a, b].into_iter().chain(mask).collect();
        let call = Heads { product, has_mask };
        let [out] = register::<B, _, _>(call, inputs, [shape], dtype);
        out
    }
}

/// A head product. Its inputs are both operands and perhaps a mask.
#[derive(Debug, Clone, Copy)]
struct Heads {
    product: HeadProduct,
    has_mask: bool,
}

impl<B: AttentionOps> Call<B> for Heads {
    fn run(self, mut inputs: impl Iterator<Item = FloatTensor<B>>) -> Vec<FloatTensor<B>> {
        let mut next = || next(&mut inputs);
        let (a, b) = (next(), next());
        let mask = self.has_mask.then(next);
        vec![B::head_product(a, b, mask, self.product)]
    }
}
