//! Attention of one query a row over a cache. A cube takes a head of a row. It turns its query and the new key, and the first head of a group
//! writes the new key and value.
#![allow(
    missing_docs,
    clippy::collapsible_if,
    clippy::len_zero,
    clippy::manual_is_multiple_of,
    reason = "the macros make launch functions of these, and know fewer methods than Rust"
)]

use cubecl::prelude::*;

use super::kernels::{UNITS, add_up};
use crate::backend::activation::gpu::kernels::capped;

/// Units that share a key's product: their reads are 32 bytes together.
const TEAM: usize = 8;

/// What is known of a launch when its kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Values of a head, at most [`UNITS`].
    pub(super) size: usize,
    /// Heads that share a key.
    pub(super) group: usize,
    pub(super) has_cap: bool,
}

#[cube(launch)]
pub(super) fn attention_of_rows(
    qkv: &Array<f32>,
    angles: &Sequence<Array<f32>>,
    first: &Sequence<Array<i32>>,
    keys: &mut Array<f32>,
    values: &mut Array<f32>,
    out: &mut Array<f32>,
    heads: usize,
    capacity: usize,
    offset: usize,
    window: usize,
    turning: usize,
    scale: f32,
    cap: f32,
    #[comptime] form: Form,
) {
    let size = comptime!(form.size);
    let kv_heads = heads / comptime!(form.group);
    let width = kv_heads * size;
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_X as usize;
    let row = CUBE_POS_Y as usize;
    let kv_head = head / comptime!(form.group);
    let mut partial = SharedMemory::<f32>::new(comptime!(TEAM * UNITS));
    let mut weights = SharedMemory::<f32>::new(UNITS);
    let mut query = SharedMemory::<f32>::new(size);

    // The new token: its query, key and value.
    let from = row * (heads + 2 * kv_heads) * size;
    let key_from = from + (heads + kv_head) * size;
    let value_from = key_from + kv_heads * size;
    let mut product = 0.0f32;
    if unit < size {
        let q = turned(qkv, angles, from + head * size, unit, row, turning) * scale;
        let k = turned(qkv, angles, key_from, unit, row, turning);
        query[unit] = q;
        product = q * k;
        if head % comptime!(form.group) == 0 {
            let at = (row * capacity + offset) * width + kv_head * size + unit;
            keys[at] = k;
            values[at] = qkv[value_from + unit];
        }
    }
    partial[unit] = product;
    add_up(&mut partial, 1usize, 1usize);
    let mut max = capped(partial[0], cap, comptime!(form.has_cap));
    sync_cube();

    // The units of a share have the values of a head, each share every so many-th key. The new token counts for the first one.
    let shares = comptime!(UNITS / size);
    let share = unit / size;
    let at_value = unit % size;
    let mut sum = 0.0f32;
    let mut attended = 0.0f32;
    if share == 0 {
        sum = 1.0f32;
        attended = qkv[value_from + at_value];
    }

    let mut begin = offset + 1 - window.min(offset + 1);
    if comptime!(first.len() > 0) {
        begin = begin.max(first.index(0usize)[row] as usize);
    }
    let cache = row * capacity * width + kv_head * size;
    let member = unit % TEAM;
    let team = unit / TEAM;
    let mut start = begin;
    while start < offset {
        #[unroll]
        for pass in 0..TEAM {
            let key = start + pass * comptime!(UNITS / TEAM) + team;
            let mut product = 0.0f32;
            if key < offset {
                let from = cache + key * width;
                let mut i = member;
                while i < size {
                    product += query[i] * keys[from + i];
                    i += TEAM;
                }
            }
            partial[pass * UNITS + unit] = product;
        }
        sync_cube();
        // The products of the key `start + unit` follow one another.
        let mut score = 0.0f32;
        #[unroll]
        for i in 0..TEAM {
            score += partial[unit * TEAM + i];
        }
        score = capped(score, cap, comptime!(form.has_cap));
        let is_key = start + unit < offset;
        weights[unit] = select(is_key, score, max);
        let largest = largest_of(&mut weights).max(max);
        sync_cube();
        weights[unit] = select(is_key, (score - largest).exp(), 0.0f32);
        sync_cube();
        let kept = (max - largest).exp();
        max = largest;
        sum *= kept;
        attended *= kept;
        let count = (offset - start).min(UNITS);
        if share < shares {
            let mut j = share;
            while j < count {
                let weight = weights[j];
                sum += weight;
                attended += weight * values[cache + (start + j) * width + at_value];
                j += shares;
            }
        }
        sync_cube();
        start += UNITS;
    }

    partial[unit] = attended;
    weights[unit] = sum;
    sync_cube();
    if unit < size {
        let mut attended = 0.0f32;
        let mut sum = 0.0f32;
        #[unroll]
        for share in 0..shares {
            attended += partial[share * size + unit];
            sum += weights[share * size];
        }
        out[(row * heads + head) * size + unit] = attended / sum;
    }
}

/// A value of a head whose first values are turned, `turning` of them.
#[cube]
fn turned(
    x: &Array<f32>,
    angles: &Sequence<Array<f32>>,
    start: usize,
    at: usize,
    row: usize,
    turning: usize,
) -> f32 {
    let mut value = x[start + at];
    if comptime!(angles.len() > 0) {
        if at < turning {
            let half = turning / 2;
            let angle = row * half + at % half;
            let mut other = at + half;
            let mut along = -angles.index(1usize)[angle];
            if at >= half {
                other = at - half;
                along = -along;
            }
            value = value * angles.index(0usize)[angle] + x[start + other] * along;
        }
    }
    value
}

/// The largest of the units' values.
#[cube]
fn largest_of(shared: &mut SharedMemory<f32>) -> f32 {
    sync_cube();
    let unit = UNIT_POS as usize;
    #[unroll]
    for step in 0..comptime!(UNITS.ilog2() as usize) {
        let half = comptime!(UNITS >> (step + 1));
        if unit < half {
            shared[unit] = shared[unit].max(shared[unit + half]);
        }
        sync_cube();
    }
    shared[0]
}
