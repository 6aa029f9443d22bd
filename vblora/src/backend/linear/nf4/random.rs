//! Weights that the device draws, to measure with.

use burn::tensor::{
    DType, Distribution, FloatDType, Int, Tensor,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use vblora_kernels::nf4::{
    BLOCK, NESTED_BLOCK, NF4,
    lanes::{LANES, tiles},
    scale_map,
};

use super::{DeviceScales, Nf4Weight, floats};
use crate::backend::primitive;

impl<B: Backend> Nf4Weight<B> {
    /// A weight `[d_in, d_out]` of random codes whose values have about this standard deviation. The device draws it from its own generator:
    /// quantising a large model's weights takes the host minutes, and measurements need no particular values.
    pub fn random(
        [d_in, d_out]: [usize; 2],
        std: f64,
        is_double: bool,
        compute: FloatDType,
        device: &B::Device,
    ) -> Self {
        let shape = [d_out, d_in];
        let blocks = (d_in * d_out).div_ceil(BLOCK);
        let [tiles, in_row] = tiles(shape);
        let squares = NF4.iter().map(|code| code * code).sum::<f32>();
        let absmax = std as f32 / (squares / NF4.len() as f32).sqrt();
        let filled = |value: f32, len: usize| -> FloatTensor<B> {
            primitive(Tensor::<B, 1>::full([len], value, (device, DType::F32)))
        };
        let scales = match is_double {
            true => DeviceScales::Double {
                codes: bits::<B>(blocks.div_ceil(4), device),
                map: floats::<B>(&scale_map()[..], device),
                // Half of the mean scale is the most that one is away from it.
                nested: filled(absmax / 2.0, blocks.div_ceil(NESTED_BLOCK)),
                offset: absmax,
            },
            false => DeviceScales::Single(filled(absmax, blocks)),
        };
        Self {
            shape,
            block: BLOCK,
            compute,
            words: bits::<B>(tiles * in_row * LANES, device),
            last: 0,
            code: floats::<B>(&NF4, device),
            scales,
        }
    }
}

/// Words of 32 random bits, of which a generator of floats makes 16 at a time.
fn bits<B: Backend>(len: usize, device: &B::Device) -> IntTensor<B> {
    let half = |from: f64| {
        let range = Distribution::Uniform(from, from + 65_536.0);
        Tensor::<B, 1, Int>::random([len], range, (device, DType::I32))
    };
    (half(-32_768.0).mul_scalar(65_536) + half(0.0)).into_primitive()
}
