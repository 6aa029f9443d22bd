//! The stored form of VB-LoRA (paper 3.4): the bank and, per sub-vector, k indices and k - 1 weights. It composes factors by itself.

use std::{borrow::Cow, collections::HashMap, path::Path};

use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive};
use safetensors::{Dtype, SafeTensors, View};

use super::write_atomically;
use crate::{
    Error, Factors, LowRank, Result, ValidVbLora,
    admixture::check_finite,
    backend::{VbLoraBackend, primitive},
    count::index_bytes,
};

/// The metadata key under which settings and sites stand.
const SETTINGS: &str = "vblora";

/// How far a row's stored weights may add up beyond 1 by rounding.
const SUM_SLACK: f32 = 1e-4;

/// Which bank vectors each sub-vector mixes, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Codes {
    /// k
    pub topk: usize,
    /// `[S, k]`, largest weight first.
    pub indices: Vec<u32>,
    /// `[S, k - 1]`: all weights but the last, which is what is missing to 1.
    pub weights: Vec<f32>,
}

impl Codes {
    /// The codes of logits `[S, h]`: the k largest, ties to the lowest index, and the softmax over them (in f64).
    pub fn from_logits(logits: &[f32], h: usize, topk: usize) -> Self {
        let mut codes = Self {
            topk,
            indices: Vec::new(),
            weights: Vec::new(),
        };
        for row in logits.chunks_exact(h) {
            let mut order: Vec<usize> = (0..h).collect();
            order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
            order.truncate(topk);
            let powers: Vec<f64> = order
                .iter()
                .map(|&i| f64::from(row[i] - row[order[0]]).exp())
                .collect();
            let sum: f64 = powers.iter().sum();
            codes.indices.extend(order.iter().map(|&i| i as u32));
            codes
                .weights
                .extend(powers[..topk - 1].iter().map(|p| (p / sum) as f32));
        }
        codes
    }

    /// All k weights of every sub-vector; the last is clamped at 0, below which rounding can push it.
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

    /// Refuses codes that do not fit `rows` sub-vectors over a bank of `h`.
    fn check(&self, rows: usize, h: usize) -> Result<()> {
        let shape = |tensor: &str, found: usize, columns: usize| {
            if found == rows * columns {
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
        if let Some(&index) = self.indices.iter().find(|&&i| i as usize >= h) {
            return Err(Error::setting(
                "indices",
                format!("below the bank size {h}"),
                index,
            ));
        }
        for row in self.indices.chunks_exact(self.topk) {
            if (1..row.len()).any(|i| row[..i].contains(&row[i])) {
                return Err(Error::setting(
                    "indices",
                    "different within a sub-vector",
                    format!("{row:?}"),
                ));
            }
        }
        check_finite("weights", self.topk - 1, &self.weights)?;
        self.check_weights()
    }

    fn check_weights(&self) -> Result<()> {
        let rows = self.weights.chunks_exact((self.topk - 1).max(1));
        for row in rows {
            if row.iter().any(|w| !(0.0..=1.0).contains(w))
                || row.iter().sum::<f32>() > 1.0 + SUM_SLACK
            {
                return Err(Error::setting(
                    "weights",
                    "from 0 to 1 with a sum of at most 1",
                    format!("{row:?}"),
                ));
            }
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
}

impl StoredVbLora {
    /// Puts bank `[h, b]` and codes together.
    ///
    /// # Errors
    /// Values that do not fit the settings: a wrong number, an index at or above h, twice in a row, a weight outside 0 to 1.
    pub fn new(settings: ValidVbLora, bank: Vec<f32>, codes: Codes) -> Result<Self> {
        let (h, b) = (settings.config().bank, settings.config().vector_length);
        if bank.len() != h * b {
            return Err(Error::Shape {
                tensor: "bank".into(),
                expected: vec![h, b],
                found: vec![bank.len()],
            });
        }
        if codes.topk != settings.config().topk {
            return Err(Error::setting(
                "topk",
                settings.config().topk.to_string(),
                codes.topk,
            ));
        }
        check_finite("bank", b, &bank)?;
        codes.check(settings.sub_vectors(), h)?;
        Ok(Self {
            settings,
            bank,
            codes,
        })
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

    /// Composes the factors from bank and codes; no logits, no logarithm.
    pub fn factors<B: VbLoraBackend>(&self, device: &B::Device) -> Factors<B> {
        let config = self.settings.config();
        let rows = self.settings.sub_vectors();
        let matrix = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<B, 2>::from_data(TensorData::new(values, shape), device)
        };
        let bank = matrix(self.bank.clone(), [config.bank, config.vector_length]);
        let weights = matrix(self.codes.full_weights(), [rows, config.topk]);
        let indices: Vec<i32> = self.codes.indices.iter().map(|&i| i as i32).collect();
        let indices =
            Tensor::<B, 2, Int>::from_data(TensorData::new(indices, [rows, config.topk]), device);
        let slab = B::mix(
            primitive(bank),
            primitive(weights),
            indices.into_primitive(),
        );
        let slabs = [Tensor::from_primitive(TensorPrimitive::Float(slab))];
        let pairs = self
            .settings
            .plan()
            .sites()
            .iter()
            .zip(self.settings.spans())
            .map(|(site, spans)| {
                let pair = LowRank {
                    down: spans.down.read(&slabs).transpose(),
                    up: spans.up.read(&slabs),
                    scale: 1.0,
                };
                (site.name.clone(), pair)
            });
        Factors::new(pairs.collect(), 0.0)
    }

    /// Writes one safetensors file: `bank` f32 `[h, b]`, `indices` U8, U16 or U32 `[S, k]`, `weights` f32 `[S, k - 1]`, settings and sites
    /// as JSON in the metadata.
    ///
    /// # Errors
    /// The operating system refuses; nothing is left half-written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let format = |reason: String| Error::Format {
            path: path.to_owned(),
            reason,
        };
        let settings = serde_json::to_string(&self.settings).map_err(|e| format(e.to_string()))?;
        let bytes = safetensors::serialize(
            self.tensors(),
            Some(HashMap::from([(SETTINGS.to_owned(), settings)])),
        )
        .map_err(|e| format(e.to_string()))?;
        write_atomically(path, &bytes)
    }

    fn tensors(&self) -> [(&'static str, Stored); 3] {
        let (config, rows) = (self.settings.config(), self.settings.sub_vectors());
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let width = index_bytes(config.bank);
        let indices = self
            .codes
            .indices
            .iter()
            .flat_map(|i| i.to_le_bytes()[..width].to_vec())
            .collect();
        let dtype = [Dtype::U8, Dtype::U16, Dtype::U32][width / 2];
        [
            (
                "bank",
                Stored(
                    Dtype::F32,
                    vec![config.bank, config.vector_length],
                    floats(&self.bank),
                ),
            ),
            ("indices", Stored(dtype, vec![rows, config.topk], indices)),
            (
                "weights",
                Stored(
                    Dtype::F32,
                    vec![rows, config.topk - 1],
                    floats(&self.codes.weights),
                ),
            ),
        ]
    }

    /// Reads what [`save`](Self::save) wrote, checking every value.
    ///
    /// # Errors
    /// The file cannot be read, is not a safetensors file, lacks a part, or holds values that do not fit its settings.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|cause| Error::Io {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(&bytes).map_err(|reason| Error::Format {
            path: path.to_owned(),
            reason,
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = |e: &dyn ToString| e.to_string();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| text(&e))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| text(&e))?;
        let settings = header.metadata().as_ref().and_then(|m| m.get(SETTINGS));
        let settings = settings.ok_or_else(|| {
            format!("no metadata entry {SETTINGS:?}: not a stored VB-LoRA adapter")
        })?;
        let found: ValidVbLora =
            serde_json::from_str(settings).map_err(|e| format!("metadata {SETTINGS:?}: {e}"))?;
        // The file's word is not enough: the settings are checked like anybody's.
        let settings = found.config().check(found.plan()).map_err(|e| text(&e))?;
        let tensor = |name: &str| {
            tensors
                .tensor(name)
                .map_err(|e| format!("tensor {name:?}: {e}"))
        };
        let bank = read_floats("bank", tensor("bank")?)?;
        let weights = read_floats("weights", tensor("weights")?)?;
        let codes = Codes {
            topk: settings.config().topk,
            indices: read_indices(tensor("indices")?)?,
            weights,
        };
        Self::new(settings, bank, codes).map_err(|e| text(&e))
    }
}

/// A tensor ready to be written: dtype, shape, little-endian bytes.
struct Stored(Dtype, Vec<usize>, Vec<u8>);

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.2)
    }

    fn data_len(&self) -> usize {
        self.2.len()
    }
}

fn read_floats(name: &str, view: safetensors::tensor::TensorView<'_>) -> Result<Vec<f32>, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!(
            "tensor {name:?}: expected F32, found {:?}",
            view.dtype()
        ));
    }
    let word = |c: &[u8]| f32::from_le_bytes(c.try_into().expect("chunks of 4"));
    Ok(view.data().chunks_exact(4).map(word).collect())
}

fn read_indices(view: safetensors::tensor::TensorView<'_>) -> Result<Vec<u32>, String> {
    let width = match view.dtype() {
        Dtype::U8 => 1,
        Dtype::U16 => 2,
        Dtype::U32 => 4,
        other => {
            return Err(format!(
                "tensor \"indices\": expected U8, U16 or U32, found {other:?}"
            ));
        }
    };
    let word = |c: &[u8]| {
        let mut word = [0; 4];
        word[..width].copy_from_slice(c);
        u32::from_le_bytes(word)
    };
    Ok(view.data().chunks_exact(width).map(word).collect())
}
