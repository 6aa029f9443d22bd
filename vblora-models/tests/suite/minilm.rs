//! Real weights: MiniLM (shared/models/fetch.sh) against values of an independent forward pass over the same file.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use serde_json::Value;
use vblora::{Factors, backend::VbLoraBackend};
use vblora_models::{Encoder, EncoderInput, ModelFiles, TextTokenizer, pad};

use crate::support::{assert_close, fixtures, models, values};

/// Beyond every sentence of the checks.
const MAX_LENGTH: usize = 256;

/// The recorded values; their file lies beside the fixtures.
fn golden() -> Option<Value> {
    Some(fixtures::json(
        &fixtures::folder("../models")?.join("golden_minilm.json"),
    ))
}

struct MiniLm<B: VbLoraBackend> {
    model: Encoder<B>,
    tokenizer: TextTokenizer,
    device: B::Device,
}

impl<B: VbLoraBackend> MiniLm<B> {
    fn load(folder: &Path, device: &B::Device) -> Self {
        let files = ModelFiles::open(folder).unwrap();
        let (model, report) = Encoder::load(&files, device).unwrap();
        assert_eq!((report.prefix.as_str(), report.tensors), ("", 5 + 16 * 6));
        let tokenizer = TextTokenizer::from_files(&files).unwrap();
        tokenizer.check_fits(model.config().vocab_size).unwrap();
        Self {
            model,
            tokenizer,
            device: device.clone(),
        }
    }

    /// The sentences' embeddings: the mean over the tokens of the last hidden state, of length 1.
    fn embed(&self, sentences: &[&str]) -> Vec<Vec<f64>> {
        let texts: Vec<_> = sentences.iter().map(|&sentence| (sentence, None)).collect();
        let encoded = self.tokenizer.encode_batch(&texts, MAX_LENGTH).unwrap();
        let batch = pad(
            &encoded.iter().collect::<Vec<_>>(),
            self.model.config().pad_token_id,
        );
        let hidden = self.model.forward(
            &EncoderInput::new(&batch, self.model.config(), &self.device),
            &Factors::none(),
        );
        let mask: Vec<f32> = batch.mask.iter().map(|&m| m as f32).collect();
        let mask = Tensor::<B, 3>::from_data(
            TensorData::new(mask, [batch.rows, 1, batch.columns]),
            &self.device,
        );
        let sums = values(mask.matmul(hidden));
        sums.chunks(self.model.config().hidden_size)
            .map(|sum| sum.iter().map(|v| v / dot(sum, sum).sqrt()).collect())
            .collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn floats(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value}"))
        .iter()
        .map(|v| v.as_f64().expect("a number"))
        .collect()
}

pub(crate) fn fixture_minilm<B: VbLoraBackend>(device: &B::Device) {
    let (Some(folder), Some(golden)) = (models::minilm(), golden()) else {
        return;
    };
    let minilm = MiniLm::<B>::load(&folder, device);
    let sentences: Vec<&str> = golden["sent"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s.as_str().unwrap())
        .collect();
    let embeddings = minilm.embed(&sentences);
    for (i, expected) in golden["first5"].as_array().unwrap().iter().enumerate() {
        assert_close(sentences[i], &embeddings[i][..5], &floats(expected), 1e-4);
    }
    assert_close(
        "cosine",
        &[dot(&embeddings[0], &embeddings[1])],
        &[golden["cos"].as_f64().unwrap()],
        1e-5,
    );
}

/// Similarity of the first 500 pairs of STS-B's dev split, without any training, against their scores.
pub(crate) fn fixture_similarity<B: VbLoraBackend>(device: &B::Device) {
    let (Some(folder), Some(golden), Some(data)) =
        (models::minilm(), golden(), fixtures::folder("../data/stsb"))
    else {
        return;
    };
    let minilm = MiniLm::<B>::load(&folder, device);
    let text = std::fs::read_to_string(data.join("dev.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .take(500)
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(rows.len(), 500);
    let (mut found, mut scores) = (Vec::new(), Vec::new());
    for rows in rows.chunks(50) {
        let [first, second] = [7, 8]
            .map(|column| minilm.embed(&rows.iter().map(|row| row[column]).collect::<Vec<_>>()));
        found.extend(first.iter().zip(&second).map(|(a, b)| dot(a, b)));
        scores.extend(rows.iter().map(|row| row[9].parse::<f64>().unwrap()));
    }
    let recorded = |key: &str| golden[key].as_f64().unwrap();
    assert_close(
        "Pearson",
        &[pearson(&found, &scores)],
        &[recorded("stsb_dev_pearson")],
        1e-4,
    );
    assert_close(
        "Spearman",
        &[pearson(&ranks(&found), &ranks(&scores))],
        &[recorded("stsb_dev_spearman")],
        1e-4,
    );
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let centred = |v: &[f64]| {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        v.iter().map(|x| x - mean).collect::<Vec<_>>()
    };
    let (x, y) = (centred(x), centred(y));
    dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt()
}

/// Ranks; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |v: f64| {
        let below = values.iter().filter(|&&w| w < v).count();
        let equal = values.iter().filter(|&&w| w == v).count();
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(|&v| rank(v)).collect()
}
