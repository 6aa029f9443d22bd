//! Training through the encoder: keyed dropout, a base without gradients, exact gradients of what is trained.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    nn::Linear,
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{Adapter, Composition, Factors, Noise, VbLora, backend::VbLoraBackend};
use vblora_models::{
    ClassificationHead, Encoder, EncoderConfig, EncoderInput, Family, HeadForm, HeadInit, Labels,
    encoder::Pass, loss,
};

use super::tiny::{FAMILIES, adapter, batch, config, model, model_of, texts};
use crate::support::{assert_close, products, tensor, values};

type Ad<B> = Autodiff<B>;

fn input<B: VbLoraBackend>(model: &Encoder<B>, device: &B::Device) -> EncoderInput<B> {
    EncoderInput::new(
        &batch(&texts(model.config().family), model.config()),
        model.config(),
        device,
    )
}

/// The same with its padding, whose hidden states are then no zeros.
fn padded<B: VbLoraBackend>(model: &Encoder<B>, device: &B::Device) -> EncoderInput<B> {
    let config = model.config();
    EncoderInput::with_padding(&batch(&texts(config.family), config), config, device)
}

fn head<B: VbLoraBackend>(device: &B::Device) -> ClassificationHead<B> {
    ClassificationHead::init(HeadForm::ROBERTA, [32, 3], 0.3, HeadInit::Torch, 2, device)
}

fn noisy<B: VbLoraBackend>(family: Family, noise: Option<Noise>, device: &B::Device) -> Vec<f64> {
    let model = model::<B>(family, device);
    let factors = match noise {
        Some(noise) => Factors::none().with_noise(noise),
        None => Factors::none(),
    };
    values(head::<B>(device).forward(model.forward(&input(&model, device), &factors), noise))
}

/// The same masks for the same (seed, step, micro-batch) on every backend, others for others; none without noise.
pub(crate) fn dropout_is_a_function_of_its_keys<B: VbLoraBackend>(device: &B::Device) {
    let run = |noise| noisy::<B>(Family::Roberta, noise, device);
    let (first, quiet) = (run(Some(Noise::new(1, 2, 3))), run(None));
    assert_close("repeated", &run(Some(Noise::new(1, 2, 3))), &first, 1e-6);
    assert_close("without noise", &run(None), &quiet, 1e-6);
    assert_close(
        "recorded with noise",
        &first,
        &RECORDED_NOISY,
        products(1e-5),
    );
    assert_close(
        "recorded without noise",
        &quiet,
        &RECORDED_QUIET,
        products(1e-5),
    );
    let others = [
        Noise::new(0, 2, 3),
        Noise::new(1, 0, 3),
        Noise::new(1, 2, 0),
        Noise::new(1, 3, 2),
    ]
    .map(|n| run(Some(n)));
    let all: Vec<&Vec<f64>> = others.iter().chain([&first, &quiet]).collect();
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            assert!(
                a.iter().zip(b.iter()).any(|(a, b)| (a - b).abs() > 1e-2),
                "two outputs are the same"
            );
        }
    }
}

/// Recorded once on flex: a seed means the same dropout on every backend and in every version.
const RECORDED_NOISY: [f64; 9] = [
    -0.182_227_46,
    0.216_309_85,
    0.873_949_11,
    -0.494_277_06,
    -0.038_643_80,
    -0.355_583_07,
    -0.100_112_33,
    -0.239_570_92,
    -0.158_724_67,
];
const RECORDED_QUIET: [f64; 9] = [
    -0.272_667_62,
    -0.201_594_38,
    0.172_013_58,
    -0.440_961_90,
    -0.296_024_89,
    -0.244_881_45,
    -0.296_339_69,
    -0.150_499_28,
    -0.532_710_97,
];

/// Hidden and attention dropout each act by themselves, at every place, with masks that differ from layer to layer.
pub(crate) fn every_dropout_place_is_live<B: VbLoraBackend>(device: &B::Device) {
    let states = |hidden_dropout: f64, attention_dropout: f64, noise: Option<Noise>| {
        let model = model_of::<B>(
            EncoderConfig {
                hidden_dropout,
                attention_dropout,
                ..config(Family::Bert)
            },
            device,
        );
        let factors = noise.map_or(Factors::none(), |noise| Factors::none().with_noise(noise));
        let mut seen = Vec::new();
        model.trace(&padded(&model, device), &factors, |state| {
            seen.push(values(state.clone()))
        });
        seen
    };
    let noise = Some(Noise::new(4, 0, 0));
    let quiet = states(0.5, 0.5, None);
    assert_close(
        "no probability, no dropout",
        &states(0.0, 0.0, noise).concat(),
        &quiet.concat(),
        1e-6,
    );
    let attention = states(0.0, 0.5, noise);
    assert_close(
        "attention dropout leaves the embeddings",
        &attention[0],
        &quiet[0],
        1e-6,
    );
    assert!(differ(&attention[1], &quiet[1]) && differ(&attention[2], &quiet[2]));
    // A dropped element of the embeddings' output is 0, about half of them; the others are doubled.
    let hidden = states(0.5, 0.0, noise);
    let dropped = hidden[0].iter().filter(|&&v| v == 0.0).count() as f64 / hidden[0].len() as f64;
    assert!((dropped - 0.5).abs() < 0.06, "{dropped} dropped");
    assert!(
        hidden[0]
            .iter()
            .zip(&quiet[0])
            .all(|(&h, q)| h == 0.0 || (h - 2.0 * q).abs() < 1e-4)
    );
    layers_differ::<B>(device);
}

/// Each layer has masks of its own: those of the pass's noise under its number.
fn layers_differ<B: VbLoraBackend>(device: &B::Device) {
    let model = model::<B>(Family::Bert, device);
    let input = padded(&model, device);
    let noise = Noise::new(4, 0, 0);
    let mut states = Vec::new();
    model.trace(&input, &Factors::none().with_noise(noise), |state| {
        states.push(state.clone())
    });
    for (n, layer) in model.layers.iter().enumerate() {
        let with = |index: u64| {
            let factors = Factors::none().with_noise(noise.index(index));
            values(layer.forward(states[n].clone(), &Pass::new(&input, &factors)))
        };
        let found = values(states[n + 1].clone());
        assert_close(&format!("layer {n}"), &found, &with(n as u64), 1e-6);
        assert!(differ(&found, &with(n as u64 + 1)));
    }
}

fn differ(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-2)
}

/// Finds parameters that a gradient reached or that ask for one.
struct Untouched<'a, B: AutodiffBackend> {
    grads: &'a B::Gradients,
    visited: usize,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Untouched<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.visited += 1;
        assert!(
            !param.is_require_grad() && !param.val().is_require_grad(),
            "{:?} requires a gradient",
            param.val().dims()
        );
        assert!(
            param.val().grad(self.grads).is_none(),
            "{:?} got a gradient",
            param.val().dims()
        );
    }
}

/// The loss of one batch through adapter and head.
fn batch_loss<B: VbLoraBackend>(
    model: &Encoder<B>,
    head: &ClassificationHead<B>,
    factors: &Factors<B>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let noise = factors.noise();
    let output = head.forward(model.for_head(&input(model, device), factors), noise);
    loss(output, &Labels::Classes(vec![2, 0, 1]))
}

pub(crate) fn the_base_gets_no_gradient<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        // As loading and initialising leave it, without a detour through a mapper.
        let model = Encoder::<Ad<B>>::random(config(family), 17, device).unwrap();
        let before = model.tensors();
        let (adapter, head) = (adapter(&model, "all-linear", device), head::<Ad<B>>(device));
        let mut step = Composition::new(&adapter);
        let factors = step.factors().with_noise(Noise::new(9, 0, 0));
        let mut grads = batch_loss(&model, &head, &factors, device).backward();
        let mut untouched = Untouched {
            grads: &grads,
            visited: 0,
        };
        model.visit(&mut untouched);
        assert_eq!(
            untouched.visited,
            before.len(),
            "every tensor was looked at"
        );
        assert!(
            dense(&head).weight.val().grad(&grads).is_some()
                && head.out_proj.weight.val().grad(&grads).is_some()
        );
        step.collect(&mut grads);
        let grads = step.push_back().unwrap();
        for gradient in [
            values(adapter.bank.val().grad(&grads).unwrap()),
            values(adapter.logits.val().grad(&grads).unwrap()),
        ] {
            assert!(
                gradient.iter().any(|g| g.abs() > 1e-4),
                "the adapter's gradient is not nothing"
            );
        }
        assert_eq!(model.tensors(), before);
    }
}

/// The first map of a head of RoBERTa's form.
fn dense<B: VbLoraBackend>(head: &ClassificationHead<B>) -> &Linear<B> {
    head.dense.as_ref().expect("RoBERTa's form")
}

/// The parameters of adapter and head as plain values, to be moved.
#[derive(Clone)]
struct Trained {
    bank: Vec<f64>,
    logits: Vec<f64>,
    dense: Vec<f64>,
}

/// Gradients of bank, logits and head through the whole model, dropout on, against the slope of the loss: along the gradient itself, where
/// the slope is its norm, and for the bank's steepest entries one by one.
pub(crate) fn gradients_match_finite_differences<B: VbLoraBackend>(device: &B::Device) {
    if products(0.0) > 0.0 {
        println!("skipped: slopes of rounded products are noise; recorded gradients hold them");
        return;
    }
    for family in FAMILIES {
        let model = model::<Ad<B>>(family, device);
        let adapter = with_margin(&adapter(&model, "all-linear", device), device);
        let head = head::<Ad<B>>(device);
        let noise = Noise::new(6, 1, 0);
        let mut step = Composition::new(&adapter);
        let mut grads =
            batch_loss(&model, &head, &step.factors().with_noise(noise), device).backward();
        let of_dense = values(dense(&head).weight.val().grad(&grads).unwrap());
        step.collect(&mut grads);
        let grads = step.push_back().unwrap();
        let gradient = Trained {
            bank: values(adapter.bank.val().grad(&grads).unwrap()),
            logits: values(adapter.logits.val().grad(&grads).unwrap()),
            dense: of_dense,
        };
        let inner = model.valid();
        let at = Trained {
            bank: values(adapter.bank.val()),
            logits: values(adapter.logits.val()),
            dense: values(dense(&head).weight.val()),
        };
        let loss_at = |trained: &Trained| loss_of::<B>(&inner, &adapter, trained, noise, device);
        check_slopes(family, &at, &gradient, loss_at);
    }
}

/// The same adapter with its selected logits raised above the others, so that a small step changes no selection: there the loss jumps,
/// and has no slope.
fn with_margin<B: VbLoraBackend>(adapter: &VbLora<Ad<B>>, device: &B::Device) -> VbLora<Ad<B>> {
    let stored = adapter.valid().store().unwrap();
    let mut logits = values(adapter.logits.val());
    let [h, k] = [adapter.settings().config().bank, stored.codes().topk];
    for (at, &index) in stored.codes().indices.iter().enumerate() {
        logits[at / k * h + index as usize] += 1.0;
    }
    let logits = logits.into_iter().map(|v| v as f32).collect();
    adapter
        .settings()
        .load(stored.bank().to_vec(), logits, device)
        .unwrap()
}

fn loss_of<B: VbLoraBackend>(
    model: &Encoder<B>,
    adapter: &VbLora<Ad<B>>,
    trained: &Trained,
    noise: Noise,
    device: &B::Device,
) -> f64 {
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let adapter = adapter
        .settings()
        .load::<B>(narrow(&trained.bank), narrow(&trained.logits), device)
        .unwrap();
    let mut head = head::<B>(device);
    let weight = Param::from_tensor(tensor(&trained.dense, [32, 32], device));
    head.dense.as_mut().expect("RoBERTa's form").weight = weight;
    values(batch_loss(
        model,
        &head,
        &adapter.factors().with_noise(noise),
        device,
    ))[0]
}

/// One parameter of [`Trained`].
type Part = fn(&mut Trained) -> &mut Vec<f64>;

/// The step of a slope: the loss of ReLU heads and windows bends within larger ones.
const STEP: f64 = 2e-3;

fn check_slopes(
    family: Family,
    at: &Trained,
    gradient: &Trained,
    loss_at: impl Fn(&Trained) -> f64,
) {
    let slope = |part: Part, direction: &[f64], step: f64| {
        let moved = |by: f64| {
            let mut moved = at.clone();
            part(&mut moved)
                .iter_mut()
                .zip(direction)
                .for_each(|(v, d)| *v += by * d);
            loss_at(&moved)
        };
        (moved(step) - moved(-step)) / (2.0 * step)
    };
    let parts: [(&str, Part); 3] = [
        ("bank", |t| &mut t.bank),
        ("logits", |t| &mut t.logits),
        ("head", |t| &mut t.dense),
    ];
    for (name, part) in parts {
        let gradient = part(&mut gradient.clone()).clone();
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let direction: Vec<f64> = gradient.iter().map(|g| g / norm).collect();
        assert_close(
            &format!("{family:?}, along the gradient of {name}"),
            &[slope(part, &direction, STEP)],
            &[norm],
            1e-2,
        );
    }
    let mut steepest: Vec<usize> = (0..gradient.bank.len()).collect();
    steepest.sort_by(|&i, &j| gradient.bank[j].abs().total_cmp(&gradient.bank[i].abs()));
    for &i in &steepest[..4] {
        let mut direction = vec![0.0; gradient.bank.len()];
        direction[i] = 1.0;
        assert_close(
            &format!("{family:?}, bank[{i}]"),
            &[slope(parts[0].1, &direction, STEP)],
            &[gradient.bank[i]],
            1e-2,
        );
    }
}
