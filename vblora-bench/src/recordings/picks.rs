//! A selection, and its difference from the previous one.

use vblora::adapter::Mixture;

/// The recorded value of a weight of 1.
pub const FULL_WEIGHT: u8 = 255;

/// The bank vectors that each sub-vector mixes, with weights in 255ths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picks {
    topk: usize,
    indices: Vec<u32>,
    weights: Vec<u8>,
}

impl Picks {
    /// Creates a selection from `[S, k]` indices and weights. Rounding changes a weight by at most 1/510.
    pub fn new(mixture: &Mixture) -> Self {
        let small = |weight: &f32| (weight * f32::from(FULL_WEIGHT)).round() as u8;
        Self {
            topk: mixture.topk,
            indices: mixture.indices.clone(),
            weights: mixture.weights.iter().map(small).collect(),
        }
    }

    /// The number of vectors per sub-vector, k.
    pub fn topk(&self) -> usize {
        self.topk
    }

    /// The k indices and k weights of each sub-vector, largest weight first.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (&[u32], &[u8])> {
        let indices = self.indices.chunks_exact(self.topk);
        indices.zip(self.weights.chunks_exact(self.topk))
    }

    /// The selected bank vectors, `[S, k]`.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Every index with its weight from 0 to 1, row by row.
    pub fn entries(&self) -> impl Iterator<Item = (usize, f64)> {
        let weight = |w: u8| f64::from(w) / f64::from(FULL_WEIGHT);
        let both = self.indices.iter().zip(&self.weights);
        both.map(move |(&index, &w)| (index as usize, weight(w)))
    }

    /// Encodes the rows that differ from those of `before`, or all rows.
    pub(super) fn difference(&self, before: Option<&Self>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut gap = 0;
        for (row, (indices, weights)) in self.rows().enumerate() {
            let at = row * self.topk..(row + 1) * self.topk;
            let is_moved = before.is_none_or(|b| b.indices[at.clone()] != *indices);
            if !is_moved && before.is_some_and(|b| b.weights[at] == *weights) {
                gap += 1;
                continue;
            }
            put(&mut out, 2 * gap + u64::from(is_moved));
            if is_moved {
                indices.iter().for_each(|&i| put(&mut out, u64::from(i)));
            }
            out.extend(weights);
            gap = 0;
        }
        out
    }

    /// Applies a difference to the selection `before`. The values must fit the sizes `[h, k, S]`.
    ///
    /// # Errors
    /// Only the cause.
    pub(super) fn after(
        before: Option<Self>,
        body: &[u8],
        [h, k, s]: [usize; 3],
    ) -> Result<Self, String> {
        let is_first = before.is_none();
        // Checked before anything is allocated: the first selection has k indices and k weights for every row.
        let least = s.saturating_mul(2 * k + 1);
        if is_first && body.len() < least {
            return Err("the first selection lacks rows".into());
        }
        let mut next = before.unwrap_or_else(|| Self {
            topk: k,
            indices: vec![0; s * k],
            weights: vec![0; s * k],
        });
        let (mut rest, mut row) = (body, 0_usize);
        while !rest.is_empty() {
            let head = take(&mut rest)?;
            let (gap, is_moved) = ((head / 2) as usize, head % 2 == 1);
            row = row.saturating_add(gap);
            if row >= s || (is_first && (gap > 0 || !is_moved)) {
                return Err(format!("row {row} is out of place"));
            }
            let at = row * k..(row + 1) * k;
            if is_moved {
                read_indices(&mut next.indices[at.clone()], &mut rest, h)?;
            }
            let (weights, tail) = rest.split_at_checked(k).ok_or("a row is cut off")?;
            next.weights[at].copy_from_slice(weights);
            (rest, row) = (tail, row + 1);
        }
        match is_first && row < s {
            true => Err("the first selection lacks rows".into()),
            false => Ok(next),
        }
    }
}

fn read_indices(row: &mut [u32], rest: &mut &[u8], h: usize) -> Result<(), String> {
    for place in row.iter_mut() {
        let index = take(rest)?;
        if index >= h as u64 {
            return Err(format!("index {index} is outside a bank of {h} vectors"));
        }
        *place = index as u32;
    }
    let mut sorted = row.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(format!("a row has index {} twice", pair[0])),
    }
}

/// Appends a number with seven bits per byte, lowest bits first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number that [`put`] wrote. No number here has more than 35 bits.
fn take(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for i in 0..5 {
        let Some((&byte, tail)) = rest.split_first() else {
            return Err("a number is cut off".into());
        };
        *rest = tail;
        number |= u64::from(byte & 127) << (7 * i);
        if byte < 128 {
            return Ok(number);
        }
    }
    Err("a number is too long".into())
}
