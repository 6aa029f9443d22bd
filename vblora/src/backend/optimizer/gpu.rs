//! AdamW on GPUs in one launch.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::ops::FloatTensor;
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::prelude::*;

use super::{AdamWStep, CLIP_EPSILON, Clip, OptimizerOps, default};
use crate::backend::gpu::{array, elements::Elements, rows::like};

impl<R, F, I, T> OptimizerOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn adamw(
        value: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        moments: Option<[FloatTensor<Self>; 2]>,
        step: AdamWStep,
        clip: Option<Clip<FloatTensor<Self>>>,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        updated(&value, &grad, moments.as_ref(), step, clip.as_ref())
            .unwrap_or_else(|| default::adamw::<Self>(value, grad, moments, step, clip))
    }
}

/// The value and its moments. Returns `None` if [`Elements::of`] does.
fn updated<R: CubeRuntime>(
    value: &CubeTensor<R>,
    grad: &CubeTensor<R>,
    moments: Option<&[CubeTensor<R>; 2]>,
    step: AdamWStep,
    clip: Option<&Clip<CubeTensor<R>>>,
) -> Option<(CubeTensor<R>, [CubeTensor<R>; 2])> {
    // The launch needs arrays in all places. The kernel does not read those of moments or of a norm that are absent.
    let [first, second] = moments.map_or([grad, grad], |moments| moments.each_ref());
    let norm = clip.map_or(grad, |clip| &clip.norm);
    let elements = Elements::of(&[value, grad, first, second, norm])?;
    let [out, new_first, new_second] = [like(value), like(value), like(value)];
    let [beta1, beta2] = step.betas;
    adamw_of_each::launch(
        &out.client,
        elements.cubes,
        elements.dim,
        array(value),
        array(grad),
        array(first),
        array(second),
        array(norm),
        array(&out),
        array(&new_first),
        array(&new_second),
        beta1 as f32,
        (1.0 - beta1) as f32,
        beta2 as f32,
        (1.0 - beta2) as f32,
        step.epsilon as f32,
        step.rate as f32,
        step.correction as f32,
        step.shrink as f32,
        clip.map_or(0.0, |clip| clip.limit) as f32,
        CLIP_EPSILON as f32,
        moments.is_some(),
        clip.is_some(),
    );
    Some((out, [new_first, new_second]))
}

#[cube(launch)]
fn adamw_of_each(
    value: &Array<f32>,
    grad: &Array<f32>,
    first: &Array<f32>,
    second: &Array<f32>,
    norm: &Array<f32>,
    out: &mut Array<f32>,
    new_first: &mut Array<f32>,
    new_second: &mut Array<f32>,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    epsilon: f32,
    rate: f32,
    correction: f32,
    shrink: f32,
    limit: f32,
    clip_epsilon: f32,
    #[comptime] has_moments: bool,
    #[comptime] clips: bool,
) {
    let at = ABSOLUTE_POS;
    if at >= out.len() {
        terminate!();
    }
    let mut g = grad[at];
    if clips {
        g *= (limit / (norm[0] + clip_epsilon)).min(1.0);
    }
    let mut m = g * rest1;
    let mut v = g * g * rest2;
    if has_moments {
        m += first[at] * beta1;
        v += second[at] * beta2;
    }
    new_first[at] = m;
    new_second[at] = v;
    out[at] = value[at] * shrink - m * rate / (v.sqrt() / correction + epsilon);
}
