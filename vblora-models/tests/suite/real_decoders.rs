//! Real weights: SmolLM2-135M-Instruct (shared/models/fetch.sh with VBLORA_CONVERT=1) and, where its licence allows and it has been
//! converted, IgLM, against values of an independent forward pass over the weights.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use serde_json::Value;
use vblora::{Factors, backend::VbLoraBackend, ops::log_softmax};
use vblora_models::{
    BaseDtype, DecoderConfig, ModelFiles, TextTokenizer,
    decoder::{CachedLm, CausalBatch, CausalInput, CausalLm, Side},
    generate::NextToken,
};

use crate::support::{fixtures, models, values};

/// The effect of rounding the weights to f16, by the notes beside them: the recorded values are from before rounding.
const F16: f64 = 2e-4;

/// The recorded values; their file lies beside the fixtures.
fn golden(file: &str) -> Option<Value> {
    Some(fixtures::json(&fixtures::folder("../models")?.join(file)))
}

/// SmolLM2's folder and what was recorded of it.
fn smollm2() -> Option<(PathBuf, Value)> {
    let golden = golden("golden_smollm2.json")?["smollm2"].clone();
    Some((models::smollm2()?, golden))
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("token ids").iter();
    ids.map(|id| id.as_u64().expect("a token id") as u32)
        .collect()
}

struct SmolLm<B: VbLoraBackend> {
    model: CausalLm<B>,
    tokenizer: TextTokenizer,
    device: B::Device,
}

impl<B: VbLoraBackend> SmolLm<B> {
    fn load(folder: &Path, dtype: BaseDtype, device: &B::Device) -> Self {
        let files = ModelFiles::open(folder).unwrap();
        let config = DecoderConfig::from_files(&files).unwrap();
        let config = DecoderConfig {
            base_dtype: dtype,
            ..config
        };
        let (model, report) = CausalLm::load_with(config, &files, device).unwrap();
        assert_eq!((report.tensors, report.values), (272, 134_515_008));
        let tokenizer = TextTokenizer::from_files(&files).unwrap();
        tokenizer.check_fits(model.config().vocab_size).unwrap();
        Self {
            model,
            tokenizer,
            device: device.clone(),
        }
    }

    fn encode(&self, text: &str, max_length: usize) -> Vec<u32> {
        self.tokenizer
            .encode_batch(&[(text, None)], max_length)
            .unwrap()
            .remove(0)
            .ids
    }

    fn mean_nll(&self, ids: &[u32]) -> f64 {
        mean_nll(&self.model, ids, &self.device)
    }
}

/// Log-probabilities of every next token.
fn likely<B: VbLoraBackend>(model: &CausalLm<B>, ids: &[u32], device: &B::Device) -> Tensor<B, 2> {
    let batch = CausalBatch::pad(&[ids], 0, Side::Right);
    let input = CausalInput::new(&batch, model.config(), device).unwrap();
    let hidden = model.forward(&input, &Factors::none());
    let [_, t, d] = hidden.dims();
    log_softmax(model.logits(hidden.reshape([t, d])))
}

fn mean_nll<B: VbLoraBackend>(model: &CausalLm<B>, ids: &[u32], device: &B::Device) -> f64 {
    let t = ids.len() - 1;
    let labels: Vec<i32> = ids[1..].iter().map(|&id| id as i32).collect();
    let labels = Tensor::from_data(TensorData::new(labels, [t, 1]), device);
    let likely = likely(model, ids, device).narrow(0, 0, t).gather(1, labels);
    -values(likely).iter().sum::<f64>() / t as f64
}

/// A GPT-2 with real weights: antibody sequences, likely as they are and unlikely when shuffled.
pub(crate) fn fixture_iglm<B: VbLoraBackend>(device: &B::Device) {
    let Some(golden) = golden("golden_iglm.json") else {
        return;
    };
    for name in ["IgLM", "IgLM-S"] {
        let how = "non-commercial licence; fetch.sh with VBLORA_WITH_IGLM=1, then save pytorch_model.bin as model.safetensors";
        let Some(folder) = models::folder(&format!("iglm/{name}"), "model.safetensors", how) else {
            return;
        };
        let files = ModelFiles::open(&folder).unwrap();
        let (model, _) = CausalLm::<B>::load(&files, device).unwrap();
        let nll = mean_nll(&model, &ids(&golden[name]["ids"]), device);
        let recorded = golden[name]["mean_nll"].as_f64().unwrap();
        assert!(
            (nll - recorded).abs() < 1e-4,
            "{name}: mean NLL {nll}, recorded {recorded}"
        );
    }
}

/// Token ids, likelihood, the five favourites of the last position, and the greedy answer to a chat prompt.
pub(crate) fn fixture_smollm2<B: VbLoraBackend>(device: &B::Device) {
    let Some((folder, golden)) = smollm2() else {
        return;
    };
    let smollm = SmolLm::<B>::load(&folder, BaseDtype::F32, device);
    let text = golden["text"].as_str().unwrap();
    let expected = ids(&golden["ids"]);
    assert_eq!(smollm.encode(text, 1000), expected, "token ids");
    let nll = smollm.mean_nll(&expected);
    let recorded = golden["mean_nll_interleaved_rope"].as_f64().unwrap();
    assert!(
        (nll - recorded).abs() < F16,
        "mean NLL {nll}, recorded {recorded}"
    );
    let last = likely(&smollm.model, &expected, device).narrow(0, expected.len() - 1, 1);
    let last = values(last);
    let mut order: Vec<usize> = (0..last.len()).collect();
    order.sort_by(|&i, &j| last[j].total_cmp(&last[i]));
    let top = golden["last_top5"].as_array().unwrap();
    for (found, expected) in order.iter().zip(top) {
        assert_eq!(*found as u64, expected[0].as_u64().unwrap());
        // Logits less a constant: their distances from the first.
        let distance = |logit: f64, first: f64| first - logit;
        let recorded = distance(expected[1].as_f64().unwrap(), top[0][1].as_f64().unwrap());
        assert!((distance(last[*found], last[order[0]]) - recorded).abs() < 0.02);
    }
    let answer = greedy(&smollm, &ids(&golden["chat_prompt_ids"]));
    assert_eq!(answer, ids(&golden["chat_greedy_ids"]));
    let text = smollm.tokenizer.decode(&answer).unwrap();
    assert_eq!(
        format!("{text}<|im_end|>"),
        golden["chat_greedy_text"].as_str().unwrap()
    );
}

fn greedy<B: VbLoraBackend>(smollm: &SmolLm<B>, prompt: &[u32]) -> Vec<u32> {
    let capacity = prompt.len() + 32;
    let mut decoding = CachedLm::new(&smollm.model, Factors::none(), capacity, &smollm.device);
    let mut scores = decoding.start(&[prompt]).unwrap();
    let mut answer = Vec::new();
    loop {
        let best = (0..scores.len()).max_by(|&i, &j| scores[i].total_cmp(&scores[j]));
        answer.push(best.unwrap() as u32);
        let last = &answer[answer.len() - 1..];
        if smollm.model.config().eos_token_ids.contains(&last[0]) || answer.len() == 32 {
            return answer;
        }
        scores = decoding.step(last).unwrap();
    }
}

/// The first test items of GSM8K, question and answer.
pub(crate) fn fixture_gsm8k<B: VbLoraBackend>(device: &B::Device) {
    let Some((folder, golden)) = smollm2() else {
        return;
    };
    let Some(data) = fixtures::folder("../data/gsm8k") else {
        return;
    };
    let smollm = SmolLm::<B>::load(&folder, BaseDtype::F32, device);
    let rows = std::fs::read_to_string(data.join("test.jsonl")).unwrap();
    let nll: Vec<f64> = rows
        .lines()
        .take(8)
        .map(|row| {
            let row: Value = serde_json::from_str(row).unwrap();
            let [question, answer] = ["question", "answer"].map(|key| row[key].as_str().unwrap());
            let ids = smollm.encode(&format!("{question}\n{answer}"), 1000);
            smollm.mean_nll(&ids[..ids.len().min(200)])
        })
        .collect();
    let found = nll.iter().sum::<f64>() / nll.len() as f64;
    let recorded = golden["gsm8k_test_first8_mean_nll"].as_f64().unwrap();
    assert!(
        (found - recorded).abs() < F16,
        "mean NLL {found}, recorded {recorded}"
    );
}

/// A base in half precision, as the file is.
pub(crate) fn fixture_half_precision<B: VbLoraBackend>(device: &B::Device) {
    let Some((folder, golden)) = smollm2() else {
        return;
    };
    let smollm = SmolLm::<B>::load(&folder, BaseDtype::F16, device);
    let nll = smollm.mean_nll(&ids(&golden["ids"]));
    let recorded = golden["mean_nll_interleaved_rope"].as_f64().unwrap();
    assert!(
        (nll - recorded).abs() < 0.01,
        "mean NLL {nll}, recorded {recorded}"
    );
}
