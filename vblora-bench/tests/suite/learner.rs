//! Training steps on a tiny random model that the test makes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    backend::Autodiff,
    module::{Module, Param},
    tensor::Tensor,
};
use vblora::{
    AnyAdapter, BaseWeights, Noise, Selection, SitePlan, VbLoraConfig, backend::VbLoraBackend,
    rng::Key,
};
use vblora_bench::{
    recipes::{Recipe, Size},
    tasks::Task,
    train::{Classification, LabelledBatch, Learner, Method, Objective, StepReport, Trained},
};
use vblora_models::{
    Activation, BaseDtype, ClassificationHead, Encoder, EncoderConfig, Family, HeadForm, HeadInit,
    Labels, PaddedBatch, encoder,
};

use super::is_exact;
use crate::support::{assert_close, products, values};

fn config(dropout: f64) -> EncoderConfig {
    EncoderConfig {
        family: Family::Roberta,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 2,
        intermediate_size: 32,
        vocab_size: 50,
        max_positions: 20,
        type_vocab_size: 1,
        layer_norm_eps: 1e-5,
        activation: Activation::Gelu,
        hidden_dropout: dropout,
        attention_dropout: dropout,
        classifier_dropout: None,
        pad_token_id: 1,
        initializer_range: 0.2,
        position_offset: 2,
        base_dtype: BaseDtype::F32,
        ..EncoderConfig::roberta_base()
    }
}

pub(super) fn recipe() -> Recipe {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    recipe.vblora = VbLoraConfig {
        bank: 12,
        vector_length: 8,
        rank: 2,
        topk: 2,
        bank_bound: 0.3,
        logits_std: 0.5,
        ..Default::default()
    };
    (recipe.lora.rank, recipe.tied_lora.rank, recipe.lora_xs.rank) = (2, 2, 3);
    (recipe.head.dropout, recipe.lr.head, recipe.lr.base) = (0.0, 1e-2, 1e-2);
    recipe
}

/// The trained part of a method on these sites of a base, always drawn with seed 4.
pub(super) fn trained<B: VbLoraBackend>(
    kind: Method,
    recipe: &Recipe,
    base: &dyn BaseWeights,
    plan: &SitePlan,
    device: &B::Device,
) -> Trained<B> {
    match kind.adapter(recipe) {
        Some(config) => {
            let adapter = config.init_on::<Autodiff<B>>(base, plan, 4, device);
            Trained::Adapter(Box::new(adapter.unwrap()))
        }
        None if kind == Method::Full => Trained::Everything,
        None => Trained::HeadOnly,
    }
}

fn learner<B: VbLoraBackend>(
    kind: Method,
    dropout: f64,
    seed: u64,
    device: &B::Device,
) -> Learner<B> {
    learner_of(&recipe(), kind, dropout, seed, device)
}

pub(super) fn learner_of<B: VbLoraBackend>(
    recipe: &Recipe,
    kind: Method,
    dropout: f64,
    seed: u64,
    device: &B::Device,
) -> Learner<B> {
    learner_at("qv", recipe, kind, dropout, seed, device)
}

/// A learner whose every map is a site.
#[cfg(feature = "wgpu")]
pub(super) fn all_maps<B: VbLoraBackend>(
    kind: Method,
    dropout: f64,
    device: &B::Device,
) -> Learner<B> {
    learner_at("all", &recipe(), kind, dropout, 1, device)
}

fn learner_at<B: VbLoraBackend>(
    sites: &str,
    recipe: &Recipe,
    kind: Method,
    dropout: f64,
    seed: u64,
    device: &B::Device,
) -> Learner<B> {
    let base = Encoder::<B>::random(config(dropout), 3, device).unwrap();
    let plan = encoder::targets(sites)
        .unwrap()
        .select(&base.sites())
        .unwrap();
    let trained = trained(kind, recipe, &base, &plan, device);
    let head = ClassificationHead::init(
        HeadForm::ROBERTA,
        [16, 2],
        0.0,
        HeadInit::Normal(0.2),
        5,
        device,
    );
    Learner::new(&base, trained, head, recipe, seed, device)
}

pub(super) fn batch(first: usize, rows: usize) -> LabelledBatch {
    let columns = 9;
    let cell = |row: usize, column: usize| {
        let length = 4 + row % 6;
        if column < length {
            (5 + Key::new(row as u64).below(column as u64, 45) as i64, 1)
        } else {
            (1, 0)
        }
    };
    let cells: Vec<_> = (first..first + rows)
        .flat_map(|row| (0..columns).map(move |c| cell(row, c)))
        .collect();
    let inputs = PaddedBatch {
        ids: cells.iter().map(|c| c.0).collect(),
        type_ids: vec![0; cells.len()],
        mask: cells.iter().map(|c| c.1).collect(),
        rows,
        columns,
    };
    LabelledBatch {
        inputs,
        labels: Labels::Classes((first..first + rows).map(|row| row % 2).collect()),
    }
}

fn train<B: VbLoraBackend>(learner: &mut Learner<B>, steps: usize) -> Vec<StepReport> {
    (0..steps)
        .map(|step| {
            learner
                .step(step, &[batch(8 * (step % 2), 8)], 1.0)
                .unwrap()
        })
        .collect()
}

fn base_values<B: VbLoraBackend>(learner: &Learner<B>) -> Vec<(String, Vec<f32>)> {
    use burn::module::AutodiffModule;
    learner
        .base()
        .valid()
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.values))
        .collect()
}

pub(crate) fn frozen_weights_stay_to_the_bit<B: VbLoraBackend>(device: &B::Device) {
    for kind in [Method::ADAPTERS, &[Method::Head]].concat() {
        let mut learner = learner::<B>(kind, 0.1, 1, device);
        let before = base_values(&learner);
        let reports = train(&mut learner, 6);
        assert!(reports.iter().all(StepReport::is_finite));
        assert!(base_values(&learner) == before, "the base moved");
    }
}

pub(crate) fn each_method_trains_what_it_says<B: VbLoraBackend>(device: &B::Device) {
    for kind in [Method::ADAPTERS, &[Method::Head, Method::Full]].concat() {
        let mut learner = learner::<B>(kind, 0.0, 1, device);
        let before = (
            base_values(&learner),
            values(learner.head().dense.as_ref().unwrap().weight.val().inner()),
        );
        let deltas = |learner: &Learner<B>| {
            let factors = learner.factors();
            factors
                .names()
                .map(|site| values(factors.get(site).unwrap().delta()))
                .collect::<Vec<_>>()
        };
        let start = deltas(&learner);
        let reports = train(&mut learner, 12);
        assert!(
            reports[10].loss < reports[0].loss,
            "{} to {}",
            reports[0].loss,
            reports[10].loss
        );
        assert_ne!(
            values(learner.head().dense.as_ref().unwrap().weight.val().inner()),
            before.1,
            "the head is trained"
        );
        assert_eq!(base_values(&learner) != before.0, kind == Method::Full);
        assert_eq!(
            deltas(&learner) != start,
            Method::ADAPTERS.contains(&kind),
            "{kind:?}"
        );
        let moved = |part: &str| {
            let after = base_values(&learner);
            before
                .0
                .iter()
                .zip(&after)
                .filter(|(b, _)| b.0.contains(part))
                .all(|(b, a)| b.1 != a.1)
        };
        if kind == Method::Full {
            assert!(moved("query.weight") && moved("LayerNorm.bias") && moved("word_embeddings"));
        }
        assert!(learner.base().num_params() > 1000);
    }
}

/// The mean over the examples of all micro-batches, the shorter last one included.
pub(crate) fn micro_batches_equal_one_batch<B: VbLoraBackend>(device: &B::Device) {
    for kind in [Method::VbLora, Method::Full] {
        let (mut whole, mut parts) = (
            learner::<B>(kind, 0.0, 1, device),
            learner::<B>(kind, 0.0, 1, device),
        );
        for step in 0..3 {
            let one = whole.step(step, &[batch(0, 11)], 1.0).unwrap();
            let many = parts
                .step(step, &[batch(0, 4), batch(4, 4), batch(8, 3)], 1.0)
                .unwrap();
            assert_close("loss", &[many.loss], &[one.loss], products(1e-5));
            assert_close("norm", &[many.norm], &[one.norm], products(1e-4));
        }
    }
}

/// The mean over the weights of all micro-batches: a step in parts is the step in one, also where a part weighs nothing.
pub(crate) fn weighted_micro_batches_equal_one_batch<B: VbLoraBackend>(device: &B::Device) {
    let weighted = |first: usize, rows: usize| {
        let batch = batch(first, rows);
        let weights = (first..first + rows).map(|row| [0.5, 3.0][row % 2] * f32::from(row < 9));
        LabelledBatch {
            labels: Labels::Weighted {
                classes: (first..first + rows).map(|row| row % 2).collect(),
                weights: weights.collect(),
            },
            ..batch
        }
    };
    let (mut whole, mut parts) = (
        learner::<B>(Method::VbLora, 0.0, 1, device),
        learner::<B>(Method::VbLora, 0.0, 1, device),
    );
    for step in 0..3 {
        let one = whole.step(step, &[weighted(0, 11)], 1.0).unwrap();
        let many = [weighted(0, 5), weighted(5, 4), weighted(9, 2)];
        let many = parts.step(step, &many, 1.0).unwrap();
        assert_close("loss", &[many.loss], &[one.loss], products(1e-5));
        assert_close("norm", &[many.norm], &[one.norm], products(1e-4));
    }
    let nothing = whole.step(3, &[weighted(9, 2)], 1.0).unwrap();
    assert_eq!((nothing.loss, nothing.norm), (0.0, 0.0));
}

/// Several machines would work like this: they compute the parts of a step in any order, and add them in the order of their numbers.
pub(crate) fn micro_batches_of_any_order_make_the_same_step<B: VbLoraBackend>(device: &B::Device) {
    if !is_exact::<B>(device) {
        println!("skipped: {} sums in no fixed order", B::name(device));
        return;
    }
    let batches = [batch(0, 4), batch(4, 4), batch(8, 3), batch(11, 2)];
    for &kind in Method::ALL {
        let mut one = learner::<B>(kind, 0.2, 1, device);
        let mut other = learner::<B>(kind, 0.2, 1, device);
        for step in 0..3 {
            let expected = one.step(step, &batches, 1.0).unwrap();
            let mut sum = other.compose(step);
            let factors = sum.factors();
            for number in [2, 0, 3, 1] {
                let noise = Noise::new(1, step as u64, number as u64);
                let weight = <Classification as Objective<B>>::weight;
                let whole: usize = batches.iter().map(weight).sum();
                let share = weight(&batches[number]) as f64 / whole as f64;
                let part = other.micro_batch(&factors, &batches[number], noise, share);
                sum.add(number, part.unwrap());
            }
            let found = other.finish(sum, 1.0).unwrap();
            assert_eq!(found, expected, "{kind:?}, step {step}");
        }
        let [one, other] = [one, other].map(|learner| learner.state().unwrap().0);
        assert!(one == other, "{kind:?}");
    }
}

/// A GPU begins a step before the last one's loss is known. Only a step that was taken is followed by it.
pub(crate) fn a_step_begun_early_is_the_same_step<B: VbLoraBackend>(device: &B::Device) {
    let first = |step: usize| 4 * (step % 3);
    for &kind in Method::ALL {
        let mut one = learner::<B>(kind, 0.2, 1, device);
        let mut other = learner::<B>(kind, 0.2, 1, device);
        let begin = |learner: &Learner<B>, step: usize| {
            let halves = [batch(first(step), 4), batch(first(step) + 4, 3)];
            learner.gradients(step, &halves).unwrap()
        };
        let mut begun = begin(&other, 0);
        for step in 0..4 {
            let halves = [batch(first(step), 4), batch(first(step) + 4, 3)];
            let expected = one.step(step, &halves, 1.0).unwrap();
            let next = |learner: &Learner<B>| begin(learner, step + 1);
            let (found, next) = other.finish_then(begun, 1.0, next).unwrap();
            begun = next.unwrap();
            match is_exact::<B>(device) {
                true => assert_eq!(found, expected, "{kind:?}, step {step}"),
                false => {
                    assert_close("loss", &[found.loss], &[expected.loss], products(1e-5));
                    assert_close("norm", &[found.norm], &[expected.norm], products(1e-4));
                }
            }
        }
    }
}

/// A gap would silently leave out examples.
pub(crate) fn a_missing_micro_batch_is_no_step<B: VbLoraBackend>(device: &B::Device) {
    let mut learner = learner::<B>(Method::Head, 0.0, 1, device);
    let mut sum = learner.compose(0);
    let noise = Noise::new(1, 0, 1);
    let part = learner.micro_batch(&sum.factors(), &batch(0, 4), noise, 0.5);
    sum.add(1, part.unwrap());
    let finish = AssertUnwindSafe(|| learner.finish(sum, 1.0));
    let panic = catch_unwind(finish).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert_eq!(message, "micro-batch 0 is missing");
}

pub(crate) fn a_bad_step_changes_nothing<B: VbLoraBackend>(device: &B::Device) {
    let mut learner = learner::<B>(Method::VbLora, 0.0, 1, device);
    let good = train(&mut learner, 1);
    assert!(good[0].is_finite());
    // A huge learning rate makes the next loss not finite. The step after that must not be taken.
    let mut last = learner
        .step(1, &[batch(0, 8)], f64::from(f32::MAX))
        .unwrap();
    let mut step = 2;
    while last.is_finite() && step < 6 {
        last = learner
            .step(step, &[batch(0, 8)], f64::from(f32::MAX))
            .unwrap();
        step += 1;
    }
    assert!(!last.is_finite(), "{last:?}");
    let before = values(learner.head().dense.as_ref().unwrap().weight.val().inner());
    let steps = learner.optimizer().state().0;
    let sum = learner.gradients(step, &[batch(0, 8)]).unwrap();
    let (report, next) = learner.finish_then(sum, 1.0, |_| ()).unwrap();
    assert!(!report.is_finite() && next.is_none());
    assert_eq!(learner.optimizer().state().0, steps);
    let after = values(learner.head().dense.as_ref().unwrap().weight.val().inner());
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

pub(crate) fn dropout_is_on_in_training_and_repeats<B: VbLoraBackend>(device: &B::Device) {
    for kind in [Method::VbLora, Method::Head, Method::Full] {
        // Learning rates are zero, so each loss depends only on its step's masks.
        let losses = |seed: u64, dropout: f64| {
            let mut learner = learner::<B>(kind, dropout, seed, device);
            (0..3)
                .map(|step| learner.step(step, &[batch(0, 8)], 0.0).unwrap().loss)
                .collect::<Vec<_>>()
        };
        if cfg!(feature = "autotune") {
            // Kernels are chosen in the first run.
            losses(1, 0.2);
        }
        let (one, other) = (losses(1, 0.2), losses(2, 0.2));
        assert_close("the same seed", &losses(1, 0.2), &one, 1e-5);
        assert!(
            (one[0] - other[0]).abs() > 1e-6,
            "another seed drops other elements"
        );
        assert!(
            (one[0] - one[1]).abs() > 1e-6 && (one[1] - one[2]).abs() > 1e-6,
            "another step drops other elements"
        );
        let without = losses(1, 0.0);
        assert_close("no dropout", &losses(2, 0.0), &without, 1e-6);
        assert_close("no noise", &without, &[without[0]; 3], 1e-6);
    }
}

/// Without dropout and with learning rates of zero, a step's loss depends only on the selection's draws.
pub(crate) fn selections_draw_by_seed_and_step<B: VbLoraBackend>(device: &B::Device) {
    for selection in Selection::ALL {
        let mut recipe = recipe();
        recipe.vblora.selection = selection;
        let losses = |seed: u64| {
            let mut learner = learner_of::<B>(&recipe, Method::VbLora, 0.0, seed, device);
            let loss = |step| learner.step(step, &[batch(0, 8)], 0.0).unwrap().loss;
            [0, 1, 2].map(loss)
        };
        if cfg!(feature = "autotune") {
            // Kernels are chosen in the first run.
            losses(1);
        }
        let (one, other) = (losses(1), losses(2));
        assert_close("the same seed", &losses(1), &one, 1e-6);
        let differs = |a: f64, b: f64| (a - b).abs() > 1e-6;
        let draws = !matches!(selection, Selection::TopK | Selection::SelectAll);
        for (a, b) in [(one[0], one[1]), (one[1], one[2]), (one[0], other[0])] {
            assert_eq!(differs(a, b), draws, "{selection}: {a} {b}");
        }
    }
}

/// The first step changes only the gate, bit by bit. Once the gate is open the rest is trained, with every selection.
pub(crate) fn a_gate_opens_first<B: VbLoraBackend>(device: &B::Device) {
    for selection in Selection::ALL {
        let mut recipe = recipe();
        (recipe.vblora.selection, recipe.vblora.gate) = (selection, true);
        let mut learner = learner_of::<B>(&recipe, Method::VbLora, 0.0, 1, device);
        let trained = |learner: &Learner<B>| {
            let Trained::Adapter(adapter) = learner.trained() else {
                panic!("an adapter")
            };
            let AnyAdapter::VbLora(adapter) = &**adapter else {
                panic!("VB-LoRA")
            };
            let gate = values(adapter.gate.as_ref().unwrap().val().inner());
            let matrix = |p: &Param<Tensor<Autodiff<B>, 2>>| values(p.val().inner());
            let noise = adapter.noise_logits.as_ref().map(matrix);
            (
                gate[0],
                [
                    Some(matrix(&adapter.bank)),
                    Some(matrix(&adapter.logits)),
                    noise,
                ],
            )
        };
        let (gate, start) = trained(&learner);
        assert_eq!(gate, 0.0);
        let first = learner.step(0, &[batch(0, 8)], 1.0).unwrap();
        let (gate, after) = trained(&learner);
        // AdamW's first step is as large as the bank's learning rate.
        assert_close("gate", &[gate.abs()], &[recipe.lr.bank], 1e-2);
        assert!(after == start, "{selection}");
        let later = (1..12).map(|step| learner.step(step, &[batch(0, 8)], 1.0).unwrap().loss);
        let last = later.last().unwrap();
        assert!(last < first.loss, "{selection}: {} to {last}", first.loss);
        let (_, after) = trained(&learner);
        let moved = after
            .iter()
            .zip(&start)
            .filter(|(a, b)| a.is_some() && a != b);
        assert_eq!(moved.count(), start.iter().flatten().count(), "{selection}");
    }
}
