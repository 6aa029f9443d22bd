//! Casts without a copy of shapes beside the launch.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, kernel, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{array, elements::Elements, empty_of};

/// An f32 tensor in half precision. Other casts are Burn's; a tensor that has the dtype comes back unchanged.
pub(in crate::backend) fn cast<R: CubeRuntime>(x: CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    match dtype {
        DType::F16 | DType::BF16 => rounded(&x, dtype),
        _ => None,
    }
    .unwrap_or_else(|| kernel::cast(x, dtype))
}

/// Returns `None` if [`Elements::in_pieces`] does.
fn rounded<R: CubeRuntime>(x: &CubeTensor<R>, dtype: DType) -> Option<CubeTensor<R>> {
    let elements = Elements::in_pieces(&[x])?;
    let out = empty_of(x, x.meta.shape().clone(), dtype);
    round_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(x),
        array(&out),
        dtype.into(),
        elements.piece,
    );
    Some(out)
}

#[cube(launch)]
fn round_each<Y: Float, V: Size>(
    x: &Array<Vector<f32, V>>,
    out: &mut Array<Vector<Y, V>>,
    #[define(Y)] _dtype: StorageType,
    #[define(V)] _piece: usize,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    out[at] = Vector::cast_from(x[at]);
}
