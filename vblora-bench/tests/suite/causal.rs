//! Causal training, one step at a time, on a tiny random model and texts of made-up tokens.

use std::{collections::BTreeSet, marker::PhantomData};

use burn::{
    module::AutodiffModule,
    tensor::{Tensor, TensorData},
};
use vblora::{backend::VbLoraBackend, rng::Key};
use vblora_bench::{
    metrics::Metric,
    recipes::Recipe,
    train::{
        Learner, Method, StepReport,
        causal::{Causal, EncodedTexts, token_loss},
    },
};
use vblora_models::{
    DecoderConfig, DecoderFamily, RotaryConfig,
    decoder::{self, CausalLm},
};

use super::learner::trained;
use crate::support::{assert_close, products, values};

const PAD: u32 = 49;

fn config(family: DecoderFamily, dropout: f64) -> DecoderConfig {
    let gpt2 = family == DecoderFamily::Gpt2;
    DecoderConfig {
        hidden_size: 16,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: if gpt2 { 2 } else { 1 },
        head_size: 8,
        intermediate_size: 32,
        vocab_size: 50,
        max_positions: 40,
        norm_eps: 1e-5,
        rotary: (!gpt2).then(|| RotaryConfig::plain(100.0)),
        tied: true,
        embedding_dropout: 0.0,
        residual_dropout: if gpt2 { dropout } else { 0.0 },
        attention_dropout: dropout,
        bos_token_id: None,
        eos_token_ids: vec![2],
        pad_token_id: Some(PAD),
        initializer_range: 0.3,
        ..family.template()
    }
}

fn recipe(edit: impl Fn(&mut Recipe)) -> Recipe {
    let mut recipe = super::learner::recipe();
    recipe.batch = 3;
    edit(&mut recipe);
    recipe
}

fn learner_of<B: VbLoraBackend>(
    family: DecoderFamily,
    dropout: f64,
    kind: Method,
    recipe: &Recipe,
    device: &B::Device,
) -> Learner<B, Causal> {
    let base = CausalLm::<B>::random(config(family, dropout), 3, device).unwrap();
    let plan = decoder::targets("all")
        .unwrap()
        .select(&base.sites())
        .unwrap();
    let trained = trained(kind, recipe, &base, &plan, device);
    Learner::new(&base, trained, PhantomData, recipe, 1, device)
}

fn learner<B: VbLoraBackend>(kind: Method, device: &B::Device) -> Learner<B, Causal> {
    learner_of(DecoderFamily::Llama, 0.0, kind, &recipe(|_| ()), device)
}

/// Texts of 4 to 9 tokens. The last 2 to 4 are predicted.
fn texts(n: usize) -> EncodedTexts {
    let text = |i: usize| {
        let length = 4 + i % 6;
        let ids: Vec<u32> = (0..length as u64)
            .map(|at| 5 + Key::new(i as u64).below(at, 40) as u32)
            .collect();
        (ids, length - 2 - i % 3)
    };
    EncodedTexts::from_tokens((0..n).map(text), 24)
}

fn one_a_row(rows: std::ops::Range<usize>) -> Vec<Vec<usize>> {
    rows.map(|row| vec![row]).collect()
}

fn base_values<B: VbLoraBackend>(learner: &Learner<B, Causal>) -> Vec<Vec<f32>> {
    let tensors = learner.base().valid().tensors();
    tensors
        .into_iter()
        .map(|(_, tensor)| tensor.values)
        .collect()
}

fn deltas<B: VbLoraBackend>(learner: &Learner<B, Causal>) -> Vec<f64> {
    let factors = learner.factors();
    let names = factors.names().map(str::to_owned).collect::<BTreeSet<_>>();
    let delta = |name: &String| values(factors.get(name).unwrap().delta());
    names.iter().flat_map(delta).collect()
}

fn train<B: VbLoraBackend>(learner: &mut Learner<B, Causal>, steps: usize) -> Vec<StepReport> {
    let texts = texts(8);
    let step = |step| {
        let batch = texts.batch(&one_a_row(4 * (step % 2)..4 * (step % 2) + 4), PAD);
        learner.step(step, &[batch], 1.0).unwrap()
    };
    (0..steps).map(step).collect()
}

pub(crate) fn the_loss_is_torchs_cross_entropy<B: VbLoraBackend>(device: &B::Device) {
    let (rows, vocabulary) = (5, 7);
    let scores: Vec<f32> = Key::new(8).normal(rows * vocabulary, 3.0);
    let targets = [3, 0, 6, 3, 1];
    for smoothing in [0.0, 0.1, 0.75] {
        let tensor =
            Tensor::<B, 2>::from_data(TensorData::new(scores.clone(), [rows, vocabulary]), device);
        let found = values(token_loss(tensor, &targets, smoothing));
        let row = |(scores, target): (&[f32], &i32)| {
            let scores: Vec<f64> = scores.iter().map(|&s| f64::from(s)).collect();
            let norm = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
            let log: Vec<f64> = scores.iter().map(|s| s - norm).collect();
            let mean = log.iter().sum::<f64>() / vocabulary as f64;
            -(1.0 - smoothing) * log[*target as usize] - smoothing * mean
        };
        let all = scores.chunks(vocabulary).zip(&targets).map(row);
        assert_close("loss", &found, &[all.sum::<f64>() / rows as f64], 1e-5);
    }
}

pub(crate) fn each_method_trains_what_it_says<B: VbLoraBackend>(device: &B::Device) {
    for kind in [Method::ADAPTERS, &[Method::Full]].concat() {
        let mut learner = learner::<B>(kind, device);
        let (base, start) = (base_values(&learner), deltas(&learner));
        let reports = train(&mut learner, 12);
        assert!(reports.iter().all(StepReport::is_finite));
        assert!(reports[10].loss < reports[0].loss, "{reports:?}");
        let moved = |after: &[Vec<f32>]| base.iter().zip(after).filter(|(b, a)| b != a).count();
        let expected = if kind == Method::Full { base.len() } else { 0 };
        assert_eq!(
            moved(&base_values(&learner)),
            expected,
            "tensors of the base that moved"
        );
        assert_eq!(deltas(&learner) != start, kind != Method::Full);
    }
}

/// Micro-batches are weighted by their predicted tokens, not by their rows.
pub(crate) fn micro_batches_equal_one_batch<B: VbLoraBackend>(device: &B::Device) {
    let texts = texts(7);
    let batch = |rows| texts.batch(&one_a_row(rows), PAD);
    for kind in [Method::VbLora, Method::Full] {
        let (mut whole, mut parts) = (learner::<B>(kind, device), learner::<B>(kind, device));
        for step in 0..3 {
            let one = whole.step(step, &[batch(0..7)], 1.0).unwrap();
            let micro = [batch(0..4), batch(4..6), batch(6..7)];
            let many = parts.step(step, &micro, 1.0).unwrap();
            assert_close("loss", &[many.loss], &[one.loss], products(1e-5));
            assert_close("norm", &[many.norm], &[one.norm], products(1e-4));
        }
    }
}

pub(crate) fn packed_texts_train_as_padded_ones<B: VbLoraBackend>(device: &B::Device) {
    let texts = texts(6);
    for family in [DecoderFamily::Gpt2, DecoderFamily::Llama] {
        let recipe = recipe(|_| ());
        let learner = || learner_of::<B>(family, 0.0, Method::VbLora, &recipe, device);
        let (mut padded, mut packed) = (learner(), learner());
        for step in 0..2 {
            let one = padded
                .step(step, &[texts.batch(&one_a_row(0..6), PAD)], 1.0)
                .unwrap();
            let rows = [vec![3, 0, 5], vec![1, 4], vec![2]];
            let other = packed.step(step, &[texts.batch(&rows, PAD)], 1.0).unwrap();
            assert_close("loss", &[other.loss], &[one.loss], products(1e-5));
            assert_close("norm", &[other.norm], &[one.norm], products(1e-4));
        }
    }
}

pub(crate) fn recomputed_blocks_train_as_kept_ones<B: VbLoraBackend>(device: &B::Device) {
    for family in [DecoderFamily::Gpt2, DecoderFamily::Llama] {
        let run = |recompute| {
            let recipe = recipe(|r| r.text.recompute = recompute);
            let mut learner = learner_of::<B>(family, 0.2, Method::VbLora, &recipe, device);
            let reports = train(&mut learner, 3);
            (reports, deltas(&learner))
        };
        let ((kept, kept_deltas), (again, again_deltas)) = (run(false), run(true));
        for (kept, again) in kept.iter().zip(&again) {
            assert_close("loss", &[again.loss], &[kept.loss], products(1e-5));
            assert_close("norm", &[again.norm], &[kept.norm], products(1e-4));
        }
        assert_close("updates", &again_deltas, &kept_deltas, products(1e-3));
    }
}

pub(crate) fn smoothing_and_prompt_labels_change_the_loss_alone<B: VbLoraBackend>(
    device: &B::Device,
) {
    let texts = texts(4);
    let batch = texts.batch(&one_a_row(0..4), PAD);
    let loss = |smoothing| {
        let recipe = recipe(|r| r.text.label_smoothing = smoothing);
        let mut learner =
            learner_of::<B>(DecoderFamily::Llama, 0.0, Method::VbLora, &recipe, device);
        let nll = learner
            .evaluate(&texts, &recipe)
            .unwrap()
            .get(Metric::Nll)
            .unwrap();
        (
            learner
                .step(0, std::slice::from_ref(&batch), 0.0)
                .unwrap()
                .loss,
            nll,
        )
    };
    let ((plain, nll), (smooth, same)) = (loss(0.0), loss(0.3));
    assert_close(
        "evaluation is the training loss",
        &[nll],
        &[plain],
        products(1e-5),
    );
    assert_close(
        "evaluation is never smoothed",
        &[same],
        &[nll],
        products(1e-6),
    );
    assert!((smooth - plain).abs() > 1e-3, "{smooth} and {plain}");
}

pub(crate) fn evaluation_does_not_depend_on_batches<B: VbLoraBackend>(device: &B::Device) {
    let (texts, learner) = (texts(7), learner::<B>(Method::Lora, device));
    let nll = |batch| {
        let recipe = recipe(|r| r.batch = batch);
        learner
            .evaluate(&texts, &recipe)
            .unwrap()
            .get(Metric::Nll)
            .unwrap()
    };
    assert_close("one at a time", &[nll(1)], &[nll(7)], products(1e-5));
    assert_close("batches of 3", &[nll(3)], &[nll(7)], products(1e-5));
}

pub(crate) fn a_restored_learner_goes_on_as_if_nothing_had_happened<B: VbLoraBackend>(
    device: &B::Device,
) {
    let mut whole = learner::<B>(Method::VbLora, device);
    train(&mut whole, 4);
    let (state, _) = whole.state().unwrap();
    let mut restored = learner::<B>(Method::VbLora, device);
    restored
        .restore(std::path::Path::new("state"), state)
        .unwrap();
    let (one, other) = (train(&mut whole, 2), train(&mut restored, 2));
    for (one, other) in one.iter().zip(&other) {
        assert_close("loss", &[other.loss], &[one.loss], products(1e-6));
    }
    assert_close(
        "updates",
        &deltas(&restored),
        &deltas(&whole),
        products(1e-5),
    );
}
