//! The stored form of VB-LoRA (paper 3.4): the bank and, per sub-vector, k indices and k - 1 weights. It composes factors by itself.

use std::ops::Range;

use super::identity::{MAX_RECIPE_BYTES, check_base};
use crate::{
    Error, Factors, LowRank, Result, Selection, Site, ValidVbLora,
    admixture::{check_finite, check_values},
    backend::{VbLoraBackend, primitive},
};
use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive};

/// Rounding may bring the sum of a row's stored weights this far above 1.
const SUM_SLACK: f32 = 1e-4;

/// The largest increase of a weight that is rounded to few bits: half of bf16's step below 1, or of a 255th.
const COARSEST_STEP: f32 = 1.0 / 510.0;

/// The bank vectors that each sub-vector mixes, and their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// k
    pub topk: usize,
    /// `[S, k]`, largest weight first; `0..h` if every vector is selected.
    pub indices: Vec<u32>,
    /// `[S, k - 1]`: all weights but the last, which is 1 less their sum.
    pub weights: Vec<f32>,
}

impl Codes {
    /// The codes of logits `[S, h]`: the k largest, ties to the lowest index, and the softmax over them (in f64).
    pub fn from_logits(logits: &[f32], h: usize, topk: usize) -> Self {
        Self::of_rows(logits, h, topk, |row| {
            let mut order: Vec<usize> = (0..h).collect();
            order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
            order.truncate(topk);
            order
        })
    }

    /// The codes of logits `[S, h]` if every vector is selected: the softmax over all, in the bank's order.
    pub fn of_all(logits: &[f32], h: usize) -> Self {
        Self::of_rows(logits, h, h, |_| (0..h).collect())
    }

    fn of_rows(
        logits: &[f32],
        h: usize,
        topk: usize,
        order: impl Fn(&[f32]) -> Vec<usize>,
    ) -> Self {
        let mut codes = Self {
            topk,
            indices: Vec::new(),
            weights: Vec::new(),
        };
        for row in logits.chunks_exact(h) {
            let order = order(row);
            let largest = order.iter().map(|&i| row[i]).fold(f32::MIN, f32::max);
            let powers: Vec<f64> = order
                .iter()
                .map(|&i| f64::from(row[i] - largest).exp())
                .collect();
            let sum: f64 = powers.iter().sum();
            codes.indices.extend(order.iter().map(|&i| i as u32));
            codes
                .weights
                .extend(powers[..topk - 1].iter().map(|p| (p / sum) as f32));
        }
        codes
    }

    /// All k weights of every sub-vector. The last is at least 0, which rounding could make negative.
    pub fn full_weights(&self) -> Vec<f32> {
        if self.topk == 1 {
            return vec![1.0; self.indices.len()];
        }
        let complete = |row: &[f32]| {
            let last = (1.0 - row.iter().sum::<f32>()).max(0.0);
            row.iter().copied().chain([last]).collect::<Vec<_>>()
        };
        self.weights
            .chunks_exact(self.topk - 1)
            .flat_map(complete)
            .collect()
    }

    /// Divides rows whose stored weights add up to more than 1 by their sum. Rounding to few bits can make such rows.
    pub(super) fn bring_sums_to_one(&mut self) {
        for row in self.weights.chunks_exact_mut((self.topk - 1).max(1)) {
            let sum: f32 = row.iter().sum();
            let steps = row.len() as f32;
            if sum > 1.0 && sum <= 1.0 + steps * COARSEST_STEP {
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
    }

    /// Refuses codes that do not fit `rows` sub-vectors over a bank of `h`.
    fn check(&self, rows: usize, h: usize, selection: Selection) -> Result<()> {
        let shape = |tensor: &str, found: usize, columns: usize| {
            if rows.checked_mul(columns) == Some(found) {
                return Ok(());
            }
            Err(Error::Shape {
                tensor: tensor.into(),
                expected: vec![rows, columns],
                found: vec![found],
            })
        };
        shape("indices", self.indices.len(), self.topk)?;
        shape("weights", self.weights.len(), self.topk - 1)?;
        match selection {
            Selection::SelectAll => self.check_all(h)?,
            _ => self.check_indices(h)?,
        }
        check_finite("weights", self.topk - 1, &self.weights)?;
        self.check_weights()
    }

    fn check_indices(&self, h: usize) -> Result<()> {
        if let Some(&index) = self.indices.iter().find(|&&i| i as usize >= h) {
            return Err(Error::setting(
                "indices",
                format!("below the bank size {h}"),
                index,
            ));
        }
        let mut sorted = Vec::with_capacity(self.topk);
        for (at, row) in self.indices.chunks_exact(self.topk).enumerate() {
            sorted.clear();
            sorted.extend_from_slice(row);
            sorted.sort_unstable();
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Error::setting(
                    "indices",
                    "different within a sub-vector",
                    format!("{} twice in sub-vector {at}", pair[0]),
                ));
            }
        }
        Ok(())
    }

    /// Refuses rows that are not all of the bank in its order.
    fn check_all(&self, h: usize) -> Result<()> {
        let in_order = |row: &[u32]| {
            row.iter()
                .enumerate()
                .all(|(i, &index)| index as usize == i)
        };
        match self.indices.chunks_exact(h).position(|row| !in_order(row)) {
            None => Ok(()),
            Some(at) => {
                let expected = format!("0..{h} where every vector is selected");
                let found = format!("other indices in sub-vector {at}");
                Err(Error::setting("indices", expected, found))
            }
        }
    }

    fn check_weights(&self) -> Result<()> {
        let rows = self.weights.chunks_exact((self.topk - 1).max(1));
        for (at, row) in rows.enumerate() {
            let outside = row.iter().find(|w| !(0.0..=1.0).contains(*w));
            let sum: f32 = row.iter().sum();
            let found = match outside {
                Some(weight) => format!("{weight} in sub-vector {at}"),
                None if sum > 1.0 + SUM_SLACK => format!("a sum of {sum} in sub-vector {at}"),
                None => continue,
            };
            let expected = "from 0 to 1 with a sum of at most 1";
            return Err(Error::setting("weights", expected, found));
        }
        Ok(())
    }
}

/// A trained VB-LoRA adapter in its stored form: for inference, merging and export, not for training on.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVbLora {
    settings: ValidVbLora,
    bank: Vec<f32>,
    codes: Codes,
    recipe: Option<String>,
    gate: f32,
}

impl StoredVbLora {
    /// Puts bank `[h, b]` and codes together.
    ///
    /// # Errors
    /// A wrong number of values, an index at or above h, an index twice in a row, or a weight outside 0 to 1. If every vector is selected,
    /// indices other than `0..h`.
    pub fn new(settings: ValidVbLora, bank: Vec<f32>, codes: Codes) -> Result<Self> {
        let settings = settings.stored();
        let (h, b) = (settings.config().bank, settings.config().vector_length);
        check_values("bank", [h, b], &bank)?;
        if codes.topk != settings.config().topk {
            return Err(Error::setting(
                "topk",
                settings.config().topk.to_string(),
                codes.topk,
            ));
        }
        let selection = settings.config().selection;
        codes.check(settings.sub_vectors(), h, selection)?;
        Ok(Self {
            settings,
            bank,
            codes,
            recipe: None,
            gate: 1.0,
        })
    }

    /// The same adapter with this value of its gate.
    ///
    /// # Errors
    /// It is not finite, or the settings have no gate.
    pub fn with_gate(self, gate: f32) -> Result<Self> {
        self.settings.check_gate(gate)?;
        Ok(Self { gate, ..self })
    }

    /// The number that multiplies every update; 1 without a gate.
    pub fn gate(&self) -> f32 {
        self.gate
    }

    /// The same adapter with a recipe: a text in any form that tells how it was made. Files keep the text.
    ///
    /// # Errors
    /// It is longer than [`MAX_RECIPE_BYTES`].
    pub fn with_recipe(mut self, recipe: Option<String>) -> Result<Self> {
        let bytes = recipe.as_ref().map_or(0, String::len);
        if bytes > MAX_RECIPE_BYTES {
            return Err(Error::setting(
                "recipe",
                format!("at most {MAX_RECIPE_BYTES} bytes"),
                bytes,
            ));
        }
        self.recipe = recipe;
        Ok(self)
    }

    /// The adapter's recipe, if its maker gave one.
    pub fn recipe(&self) -> Option<&str> {
        self.recipe.as_deref()
    }

    /// Binds the adapter to a model by its sites. The model must have the sites that the adapter was made for, in their shapes.
    ///
    /// # Errors
    /// [`Error::OtherBase`]: the model's sites of these names have another [hash](super::sites_sha256).
    pub fn bind(self, sites: &[Site]) -> Result<Self> {
        check_base(self.settings.plan().sites(), sites)?;
        Ok(self)
    }

    /// The settings and sites.
    pub fn settings(&self) -> &ValidVbLora {
        &self.settings
    }

    /// The bank, `[h, b]` row-major.
    pub fn bank(&self) -> &[f32] {
        &self.bank
    }

    /// The codes.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// Composes the factors from bank and codes, without logits or logarithms.
    pub fn factors<B: VbLoraBackend>(&self, device: &B::Device) -> Factors<B> {
        compose(
            &self.settings,
            self.own_bank().upload(device),
            &self.codes.indices,
            self.codes.full_weights(),
            self.gate,
        )
    }

    /// Per site its down factor transposed `[r, d_in]` and its up factor `[r, d_out]` times the gate, row-major, in host memory.
    pub(super) fn host_factors(&self) -> Vec<(Vec<f32>, Vec<f32>)> {
        let (b, k) = (self.settings.config().vector_length, self.codes.topk);
        let weights = self.codes.full_weights();
        let compose = |rows: Range<usize>| {
            let mut out = vec![0.0; rows.len() * b];
            for (row, out) in rows.zip(out.chunks_exact_mut(b)) {
                let mixed = weights[row * k..][..k]
                    .iter()
                    .zip(&self.codes.indices[row * k..]);
                for (weight, &index) in mixed {
                    let vector = &self.bank[index as usize * b..][..b];
                    for (out, value) in out.iter_mut().zip(vector) {
                        *out += weight * value;
                    }
                }
            }
            out
        };
        let spans = self.settings.spans().into_iter();
        let up = |rows: Range<usize>| compose(rows).into_iter().map(|v| v * self.gate).collect();
        spans
            .map(|site| (compose(site.down.rows), up(site.up.rows)))
            .collect()
    }
}

/// The factors of all sites from a bank on the device; only codes go there.
///
/// # Shapes
/// - bank: `[h, b]`; indices and weights: `[S, k]`, all k weights of each row
pub(crate) fn compose<B: VbLoraBackend>(
    settings: &ValidVbLora,
    bank: Tensor<B, 2>,
    indices: &[u32],
    weights: Vec<f32>,
    gate: f32,
) -> Factors<B> {
    let shape = [settings.sub_vectors(), settings.config().topk];
    let device = bank.device();
    let weights = Tensor::<B, 2>::from_data(TensorData::new(weights, shape), &device);
    let indices: Vec<i32> = indices.iter().map(|&i| i as i32).collect();
    let indices = Tensor::<B, 2, Int>::from_data(TensorData::new(indices, shape), &device);
    let slab = B::mix(
        primitive(bank),
        primitive(weights),
        indices.into_primitive(),
    );
    let slabs = [Tensor::from_primitive(TensorPrimitive::Float(slab))];
    let sites = settings.plan().sites().iter().zip(settings.spans());
    let pairs = sites.map(|(site, spans)| {
        let pair = LowRank {
            down: spans.down.read(&slabs).transpose(),
            up: spans.up.read(&slabs),
            scale: f64::from(gate),
        };
        (site.name.clone(), pair)
    });
    Factors::new(pairs.collect(), 0.0)
}
