//! Decoding on GPUs: one launch turns the codes of a weight into a matrix of its compute dtype, which a dense product then reads.
#![allow(missing_docs, reason = "the macros make launch functions of these")]

use burn::tensor::{DType, Shape};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, tensor::CubeTensor,
};
use cubecl::prelude::*;

use vblora_kernels::nf4::{
    NESTED_BLOCK,
    lanes::{CODES, LANES, tiles},
};

use super::{DeviceScales, Nf4Weight};
use crate::backend::gpu::{MAX_CUBES, array, empty_of};

/// Words of a row that a cube decodes, for each row of a tile.
const WORDS: usize = 16;
/// Units of a cube: one for each word.
const UNITS: usize = WORDS * LANES;
/// Places between the lanes of two words in shared memory. An odd number keeps the units of a plane on different banks.
const PITCH: usize = LANES + 1;

/// The values `[d_in, d_out]`, laid out as `[d_out, d_in]`. Returns `None` for an empty weight, and on devices whose cubes are smaller than
/// the kernel's.
pub(in crate::backend::linear) fn decoded<R, F, I, T>(
    weight: &Nf4Weight<CubeBackend<R, F, I, T>>,
) -> Option<CubeTensor<R>>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    let ([d_out, d_in], [tiles, in_row]) = (weight.shape, tiles(weight.shape));
    let (words, dtype) = (&weight.words, DType::from(weight.compute));
    let (absmax, codes, nested, offset) = match &weight.scales {
        // The kernel reads neither codes nor nested scales then, but a launch needs arrays in their places.
        DeviceScales::Single(absmax) => (absmax, words, absmax, 0.0),
        DeviceScales::Double {
            codes,
            map,
            nested,
            offset,
        } => (map, codes, nested, *offset),
    };
    let is_double = matches!(weight.scales, DeviceScales::Double { .. });
    let units = words.client.properties().hardware.max_units_per_cube as usize;
    let is_known = [words, codes].iter().all(|ints| ints.dtype == DType::I32);
    // The values of a word then lie in two blocks at most.
    let is_blocked = weight.block >= CODES;
    if !is_known || !is_blocked || units < UNITS || tiles > MAX_CUBES || d_in * d_out == 0 {
        return None;
    }
    let mut out = empty_of(words, Shape::new([d_out, d_in]), dtype);
    // Rows of whole words start at multiples of a vector.
    let is_whole = d_in.is_multiple_of(CODES);
    let sizes = out.client.io_optimized_vector_sizes(dtype.size());
    let vector = sizes
        .filter(|size| is_whole && CODES.is_multiple_of(*size))
        .max();
    decode::launch(
        &out.client,
        CubeCount::new_2d(in_row.div_ceil(WORDS) as u32, tiles as u32),
        CubeDim::new_1d(UNITS as u32),
        vector.unwrap_or(1),
        array(words),
        array(&weight.code),
        array(absmax),
        array(codes),
        array(nested),
        array(&out),
        offset,
        d_out,
        d_in,
        in_row,
        weight.block,
        is_double,
        is_whole,
        dtype.into(),
    );
    out.meta.swap(0, 1);
    Some(out)
}

/// A cube decodes some words of each row of a tile. It reads them in their order and writes along rows: a unit reads one word and writes
/// another.
///
/// A restored scale is a product and a sum, each rounded. They stand on two sides of a barrier, so that no compiler joins them to one
/// operation with one rounding.
#[cube(launch)]
fn decode<Y: Float, N: Size>(
    words: &Array<i32>,
    code: &Array<f32>,
    absmax: &Array<f32>,
    scale_codes: &Array<i32>,
    nested: &Array<f32>,
    out: &mut Array<Vector<Y, N>>,
    offset: f32,
    d_out: usize,
    d_in: usize,
    in_row: usize,
    #[comptime] block: usize,
    #[comptime] is_double: bool,
    #[comptime] is_whole: bool,
    #[define(Y)] _dtype: StorageType,
) {
    let unit = UNIT_POS as usize;
    let (tile, first) = (CUBE_POS_Y as usize * LANES, CUBE_POS_X as usize * WORDS);
    let mut table = SharedMemory::<f32>::new(16usize);
    let mut read = SharedMemory::<u32>::new(comptime!(WORDS * PITCH));
    // The scales of a word's first value and of its last.
    let mut scales = SharedMemory::<f32>::new(comptime!(2 * WORDS * PITCH));
    if unit < 16 {
        table[unit] = code[unit];
    }
    let (word, lane) = (unit / LANES, unit % LANES);
    let (k, row) = (first + word, tile + lane);
    if k < in_row && row < d_out {
        let place = word * PITCH + lane;
        read[place] = u32::cast_from(words[(CUBE_POS_Y as usize * in_row + k) * LANES + lane]);
        let start = row * d_in + k * CODES;
        scales[place] = scale(absmax, scale_codes, nested, start / block, is_double);
        if comptime!(!is_whole) {
            let end = row * d_in + (k * CODES + comptime!(CODES - 1)).min(d_in - 1);
            scales[comptime!(WORDS * PITCH) + place] =
                scale(absmax, scale_codes, nested, end / block, is_double);
        }
    }
    sync_cube();
    let (lane, word) = (unit / WORDS, unit % WORDS);
    let (k, row) = (first + word, tile + lane);
    if k < in_row && row < d_out {
        let place = word * PITCH + lane;
        let codes = read[place];
        let mut scale = scales[place];
        if is_double {
            scale += offset;
        }
        let start = row * d_in + k * CODES;
        if is_whole {
            let width = N::value();
            #[unroll]
            for part in 0..comptime!(CODES / width) {
                let mut values = Vector::<Y, N>::empty();
                #[unroll]
                for i in 0..width {
                    let shift = comptime!((4 * (part * width + i)) as u32);
                    let value = table[((codes >> shift) & 15u32) as usize] * scale;
                    values[i] = Y::cast_from(value);
                }
                out[start / width + part] = values;
            }
        } else {
            let mut last = scales[comptime!(WORDS * PITCH) + place];
            if is_double {
                last += offset;
            }
            #[unroll]
            for j in 0..CODES {
                if k * CODES + j < d_in {
                    let own = select((start + j) / block == start / block, scale, last);
                    let shift = comptime!((4 * j) as u32);
                    let value = table[((codes >> shift) & 15u32) as usize] * own;
                    out[start + j] = Vector::cast_from(Y::cast_from(value));
                }
            }
        }
    }
}

/// The scale of a block, without the offset.
#[cube]
fn scale(
    absmax: &Array<f32>,
    codes: &Array<i32>,
    nested: &Array<f32>,
    block: usize,
    #[comptime] is_double: bool,
) -> f32 {
    if is_double {
        let word = u32::cast_from(codes[block / 4]);
        let byte = (word >> (8 * (block % 4) as u32)) & 255u32;
        absmax[byte as usize] * nested[block / NESTED_BLOCK]
    } else {
        absmax[block]
    }
}
