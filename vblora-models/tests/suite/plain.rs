//! The encoder and its heads in plain f64 loops over one text at a time, as slow and as clear as possible: no padding, no batches.

use std::collections::BTreeMap;

use vblora::{Factors, backend::VbLoraBackend};
use vblora_models::{Activation, Encoded, EncoderConfig, Family, HostTensor};

use crate::support::{reference::Matrix, values};

/// An encoder's tensors by their Hugging Face names, and updates `[d_in, d_out]` by site.
pub(crate) struct Plain {
    config: EncoderConfig,
    tensors: BTreeMap<String, HostTensor>,
    updates: BTreeMap<String, Matrix>,
}

impl Plain {
    pub(crate) fn new(config: &EncoderConfig, tensors: Vec<(String, HostTensor)>) -> Self {
        Self {
            config: config.clone(),
            tensors: tensors.into_iter().collect(),
            updates: BTreeMap::new(),
        }
    }

    pub(crate) fn with_updates<B: VbLoraBackend>(mut self, factors: &Factors<B>) -> Self {
        for site in factors.names() {
            let delta = factors.get(site).unwrap().delta();
            let [rows, columns] = delta.dims();
            self.updates
                .insert(site.into(), Matrix::new(rows, columns, values(delta)));
        }
        self
    }

    pub(crate) fn matrix(&self, name: &str) -> Matrix {
        let tensor = &self.tensors[name];
        let (rows, columns) = match *tensor.shape {
            [n] => (1, n),
            [rows, columns] => (rows, columns),
            _ => panic!("{name}: {:?}", tensor.shape),
        };
        Matrix::new(
            rows,
            columns,
            tensor.values.iter().map(|&v| f64::from(v)).collect(),
        )
    }

    /// `x W^T + b` of a weight as torch stores it, plus the site's update.
    pub(crate) fn linear(&self, x: &Matrix, site: &str) -> Matrix {
        let y = x.times(&self.matrix(&format!("{site}.weight")).transposed());
        let y = plus_row(&y, self.matrix(&format!("{site}.bias")).row(0));
        match self.updates.get(site) {
            Some(update) => y.plus(&x.times(update)),
            None => y,
        }
    }

    pub(crate) fn norm(&self, x: &Matrix, name: &str) -> Matrix {
        let (gamma, beta) = (
            self.matrix(&format!("{name}.weight")),
            self.matrix(&format!("{name}.bias")),
        );
        let n = x.columns as f64;
        let mut out = Vec::new();
        for i in 0..x.rows {
            let mean = x.row(i).iter().sum::<f64>() / n;
            let variance = x.row(i).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let scale = (variance + self.config.layer_norm_eps).sqrt();
            out.extend(
                x.row(i)
                    .iter()
                    .zip(gamma.row(0))
                    .zip(beta.row(0))
                    .map(|((v, g), b)| (v - mean) / scale * g + b),
            );
        }
        Matrix::new(x.rows, x.columns, out)
    }

    /// The hidden states `[t, d]` of one text: what enters the first layer, then what leaves each.
    pub(crate) fn hidden_states(&self, text: &Encoded) -> Vec<Matrix> {
        let mut states = vec![self.embed(text)];
        for layer in 0..self.config.num_layers {
            states.push(self.layer(states.last().unwrap(), &format!("encoder.layer.{layer}")));
        }
        states
    }

    fn embed(&self, text: &Encoded) -> Matrix {
        let table = |name: &str| self.matrix(&format!("embeddings.{name}_embeddings.weight"));
        let (words, positions, types) = (table("word"), table("position"), table("token_type"));
        let first = match self.config.family {
            Family::Roberta => self.config.pad_token_id as usize + 1,
            _ => 0,
        };
        let mut out = Vec::new();
        for (place, (&id, &kind)) in text.ids.iter().zip(&text.type_ids).enumerate() {
            let rows = words
                .row(id as usize)
                .iter()
                .zip(positions.row(first + place))
                .zip(types.row(kind as usize));
            out.extend(rows.map(|((w, p), t)| w + p + t));
        }
        self.norm(
            &Matrix::new(text.ids.len(), words.columns, out),
            "embeddings.LayerNorm",
        )
    }

    fn layer(&self, x: &Matrix, layer: &str) -> Matrix {
        let attended = self.linear(
            &self.attend(x, layer),
            &format!("{layer}.attention.output.dense"),
        );
        let x = self.norm(
            &attended.plus(x),
            &format!("{layer}.attention.output.LayerNorm"),
        );
        let inner = self
            .linear(&x, &format!("{layer}.intermediate.dense"))
            .map(|v| self.activate(v));
        let inner = self.linear(&inner, &format!("{layer}.output.dense"));
        self.norm(&inner.plus(&x), &format!("{layer}.output.LayerNorm"))
    }

    fn attend(&self, x: &Matrix, layer: &str) -> Matrix {
        let part = |name: &str| self.linear(x, &format!("{layer}.attention.self.{name}"));
        let (query, key, value) = (part("query"), part("key"), part("value"));
        let size = x.columns / self.config.num_heads;
        let mut out = vec![0.0; x.values.len()];
        for head in 0..self.config.num_heads {
            let columns = head * size..(head + 1) * size;
            for i in 0..x.rows {
                let score = |j: usize| {
                    let products = query.row(i)[columns.clone()]
                        .iter()
                        .zip(&key.row(j)[columns.clone()])
                        .map(|(q, k)| q * k);
                    (products.sum::<f64>() / (size as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..x.rows).map(score).collect();
                let sum: f64 = scores.iter().sum();
                for column in columns.clone() {
                    out[i * x.columns + column] = (0..x.rows)
                        .map(|j| scores[j] / sum * value.row(j)[column])
                        .sum();
                }
            }
        }
        Matrix::new(x.rows, x.columns, out)
    }

    fn activate(&self, x: f64) -> f64 {
        match self.config.activation {
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => {
                0.5 * x
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3)))
                            .tanh())
            }
            Activation::Relu => x.max(0.0),
        }
    }
}

/// Adds a row to every row.
pub(crate) fn plus_row(x: &Matrix, row: &[f64]) -> Matrix {
    let values = (0..x.rows).flat_map(|i| {
        x.row(i)
            .iter()
            .zip(row)
            .map(|(v, b)| v + b)
            .collect::<Vec<_>>()
    });
    Matrix::new(x.rows, x.columns, values.collect())
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}
