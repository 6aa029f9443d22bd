//! The selection rules against plain f64 loops, against records, and as an adapter in training draws for them.

use burn::{
    backend::Autodiff,
    tensor::{Tensor, TensorData, backend::AutodiffBackend},
};
use vblora::{
    Adapter, AdapterSet, AnyAdapter, Composition, Factors, FrozenLinear, LowRank, Selection, Site,
    Targets, ValidVbLora, VbLora, VbLoraConfig, WeightLayout,
    admixture::admixture_unchecked,
    backend::VbLoraBackend,
    noise::step_key,
    rng::Key,
    selection::{gumbel_softmax, noisy_top_k, straight_through},
    storage::HostAdapter,
};

use crate::support::{
    alike, assert_close,
    fixtures::{Tensors, entries, folder, json, number, rank_first},
    products,
    reference::{self, Matrix},
    tensor, values,
};

type Ad<B> = Autodiff<B>;

/// What a rule mixes; k and tau as far as it has a use for them.
struct Case {
    rule: Selection,
    logits: Matrix,
    noise_logits: Matrix,
    draws: Matrix,
    bank: Matrix,
    k: usize,
    tau: f64,
}

/// The gradients of `sum(mixture * grad)`.
struct Gradients {
    logits: Matrix,
    noise_logits: Matrix,
    bank: Matrix,
}

impl Case {
    fn random(rule: Selection, [s, h, b, k]: [usize; 4], seed: u64) -> Self {
        let key = Key::new(seed);
        let uniform = |name: &str, rows: usize, columns: usize| {
            let values = key.name(name).uniform(rows * columns, -1.5, 1.5);
            Matrix::new(rows, columns, values.into_iter().map(f64::from).collect())
        };
        let draws = rule.draws(key, s * h).unwrap_or(vec![0.0; s * h]);
        Self {
            rule,
            logits: uniform("logits", s, h),
            noise_logits: uniform("noise", s, h),
            draws: Matrix::new(s, h, draws.into_iter().map(f64::from).collect()),
            bank: uniform("bank", h, b),
            k,
            tau: 0.4,
        }
    }

    /// What the softmax is taken over, and over how many of it.
    fn scores(&self) -> (Matrix, usize) {
        let softplus = |x: f64| x.exp().ln_1p();
        let h = self.bank.rows;
        match self.rule {
            Selection::TopK => (self.logits.clone(), self.k),
            Selection::SelectAll => (self.logits.clone(), h),
            Selection::NoisyTopK => {
                let size = self.noise_logits.map(softplus);
                (self.logits.plus(&product(&self.draws, &size)), self.k)
            }
            Selection::GumbelSoftmax | Selection::StraightThrough => {
                let noisy = self.logits.plus(&self.draws);
                (noisy.map(|v| v / self.tau), h)
            }
        }
    }

    /// The weights of the softmax, `[S, h]`, and those of the forward pass.
    fn weights(&self) -> [Matrix; 2] {
        let (scores, k) = self.scores();
        let forward = match self.rule {
            Selection::StraightThrough => 1,
            _ => k,
        };
        [k, forward].map(|k| {
            let mut dense = scores.map(|_| 0.0);
            for s in 0..scores.rows {
                let (indices, weights) = reference::top_k(scores.row(s), k);
                for (i, w) in indices.into_iter().zip(weights) {
                    dense.values[s * scores.columns + i] = w;
                }
            }
            dense
        })
    }

    fn mixture(&self) -> Matrix {
        let [_, forward] = self.weights();
        forward.times(&self.bank)
    }

    fn gradients(&self, grad: &Matrix) -> Gradients {
        let [soft, forward] = self.weights();
        let d_weights = grad.times(&self.bank.transposed());
        let mut d_scores = product(&soft, &d_weights);
        for s in 0..soft.rows {
            let h = soft.columns;
            let mean: f64 = d_scores.row(s).iter().sum();
            for (i, d) in d_scores.values[s * h..][..h].iter_mut().enumerate() {
                *d -= mean * soft.row(s)[i];
            }
        }
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let slope = product(&self.draws, &self.noise_logits.map(sigmoid));
        Gradients {
            noise_logits: product(&d_scores, &slope),
            bank: forward.transposed().times(grad),
            logits: match self.rule {
                Selection::GumbelSoftmax | Selection::StraightThrough => {
                    d_scores.map(|d| d / self.tau)
                }
                _ => d_scores,
            },
        }
    }
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let values = a.values.iter().zip(&b.values).map(|(a, b)| a * b);
    Matrix::new(a.rows, a.columns, values.collect())
}

fn mixed<B: VbLoraBackend>(
    rule: Selection,
    [logits, noise_logits, draws, bank]: [Tensor<B, 2>; 4],
    k: usize,
    tau: f64,
) -> Tensor<B, 2> {
    match rule {
        Selection::TopK => admixture_unchecked(logits, bank, k),
        Selection::SelectAll => {
            let [h, _] = bank.dims();
            admixture_unchecked(logits, bank, h)
        }
        Selection::NoisyTopK => noisy_top_k(logits, noise_logits, draws, bank, k),
        Selection::GumbelSoftmax => gumbel_softmax(logits, draws, bank, tau),
        Selection::StraightThrough => straight_through(logits, draws, bank, tau),
    }
}

/// Mixture and all gradients of one case.
fn check<B: VbLoraBackend>(device: &B::Device, case: &Case) {
    let upload = |m: &Matrix| tensor::<Ad<B>, 2>(&m.values, [m.rows, m.columns], device);
    let [logits, noise_logits, bank] =
        [&case.logits, &case.noise_logits, &case.bank].map(|m| upload(m).require_grad());
    let draws = upload(&case.draws);
    let tensors = [&logits, &noise_logits, &draws, &bank].map(Clone::clone);
    let mixture = mixed(case.rule, tensors, case.k, case.tau);
    let what = |part: &str| format!("{} {part}", case.rule);
    let found = values(mixture.clone().inner());
    assert_close(
        &what("mixture"),
        &found,
        &case.mixture().values,
        products(2e-5),
    );
    let grad = Case::random(case.rule, [1, found.len(), 1, 1], 9).logits;
    let grad = Matrix::new(case.logits.rows, case.bank.columns, grad.values);
    let expected = case.gradients(&grad);
    let grads = (mixture * upload(&grad)).sum().backward();
    let close = |part: &str, found: &Tensor<Ad<B>, 2>, expected: &Matrix| {
        let found = values(found.grad(&grads).expect("a gradient"));
        assert_close(&what(part), &found, &expected.values, products(5e-5));
        let unselected = expected.values.iter().zip(&found);
        let mut unselected = unselected.filter(|(e, _)| **e == 0.0);
        // To the bit: a checkpoint would take -0 for touched.
        let is_zero = |found: f64| found.to_bits() == 0;
        let is_sparse = case.rule.is_sparse() && case.k > 1;
        assert!(!is_sparse || unselected.all(|(_, &f)| is_zero(f)), "{part}");
    };
    close("logits", &logits, &expected.logits);
    close("bank", &bank, &expected.bank);
    if case.rule == Selection::NoisyTopK {
        close("noise logits", &noise_logits, &expected.noise_logits);
    }
}

pub(crate) fn matches_the_reference_on_random_shapes<B: VbLoraBackend>(device: &B::Device) {
    let shapes = [
        [1, 1, 1, 1],
        [5, 6, 8, 6],
        [30, 12, 4, 2],
        [7, 90, 16, 3],
        [200, 33, 5, 1],
    ];
    for rule in Selection::ALL {
        for (seed, shape) in shapes.into_iter().enumerate() {
            check::<B>(device, &Case::random(rule, shape, seed as u64));
        }
    }
}

/// The reference's own gradients, and through `check` every backend's, against slopes; straight-through gradients are no slopes.
pub(crate) fn gradients_match_finite_differences<B: VbLoraBackend>(device: &B::Device) {
    for rule in Selection::ALL {
        if rule == Selection::StraightThrough {
            continue;
        }
        let case = |at: &dyn Fn(&mut Case)| {
            let mut case = Case::random(rule, [4, 7, 5, 2], 3);
            at(&mut case);
            case
        };
        let whole = case(&|_| ());
        let grad = Case::random(rule, [4, 5, 1, 1], 9).logits;
        let expected = whole.gradients(&grad);
        let slopes = |of: &Matrix, put: &dyn Fn(&mut Case, Matrix)| {
            reference::finite_differences(of, 1e-6, |moved| {
                reference::dot(&case(&|c| put(c, moved.clone())).mixture(), &grad)
            })
        };
        for (what, expected, slopes) in [
            (
                "logits",
                &expected.logits,
                slopes(&whole.logits, &|c, m| c.logits = m),
            ),
            (
                "bank",
                &expected.bank,
                slopes(&whole.bank, &|c, m| c.bank = m),
            ),
        ] {
            assert_close(
                &format!("{rule} {what}"),
                &expected.values,
                &slopes.values,
                1e-7,
            );
        }
        if rule == Selection::NoisyTopK {
            let slopes = slopes(&whole.noise_logits, &|c, m| c.noise_logits = m);
            assert_close(
                "noise logits",
                &expected.noise_logits.values,
                &slopes.values,
                1e-7,
            );
        }
        check::<B>(device, &whole);
    }
}

/// Far from zero softplus neither overflows nor loses its slope.
pub(crate) fn large_noise_logits_stay_finite<B: VbLoraBackend>(device: &B::Device) {
    let mut case = Case::random(Selection::NoisyTopK, [6, 9, 4, 2], 5);
    for (i, nu) in case.noise_logits.values.iter_mut().enumerate() {
        *nu = [100.0, -100.0, 0.0][i % 3];
    }
    check::<B>(device, &case);
}

fn settings(config: VbLoraConfig, sites: &[Site]) -> ValidVbLora {
    let plan = Targets::all_linear().select(sites).unwrap();
    config.check(&plan).unwrap()
}

/// A small adapter with logits far enough apart that noise matters, but not always.
fn adapter<B: VbLoraBackend>(selection: Selection, gate: bool, device: &B::Device) -> VbLora<B> {
    let config = VbLoraConfig {
        bank: 10,
        vector_length: 4,
        rank: 3,
        bank_bound: 0.5,
        logits_std: 0.5,
        selection,
        gate,
        ..Default::default()
    };
    settings(config, &[Site::new("one", 8, 12), Site::new("two", 12, 4)]).init(7, device)
}

fn bits<B: VbLoraBackend>(slabs: Vec<Tensor<B, 2>>) -> Vec<u64> {
    let slabs = slabs.into_iter().flat_map(values);
    slabs.map(f64::to_bits).collect()
}

/// A step's slab is the rule with the draws of its key; evaluation draws nothing, and the default never does.
pub(crate) fn an_adapter_draws_in_training_alone<B: VbLoraBackend>(device: &B::Device) {
    for rule in Selection::ALL {
        let adapter = adapter::<B>(rule, false, device);
        let (logits, bank) = (adapter.logits.val(), adapter.bank.val());
        let k = adapter.settings().config().topk_at_inference();
        assert_eq!(k, if rule == Selection::SelectAll { 10 } else { 2 });
        let plain = bits(vec![admixture_unchecked(logits.clone(), bank.clone(), k)]);
        assert_eq!(bits(adapter.slabs()), plain, "{rule}");
        let key = step_key(1, 5);
        let step = bits(adapter.training_slabs(key));
        assert_eq!(bits(adapter.training_slabs(key)), step, "{rule} repeats");
        let Some(draws) = rule.draws(key, logits.dims().iter().product()) else {
            assert_eq!(step, plain, "{rule} draws nothing");
            continue;
        };
        let draws = Tensor::from_data(TensorData::new(draws, logits.dims()), device);
        let noise = adapter.noise_logits.as_ref().map(|noise| noise.val());
        assert_eq!(noise.is_some(), rule == Selection::NoisyTopK);
        let noise = noise.unwrap_or_else(|| logits.zeros_like());
        let expected = mixed(rule, [logits, noise, draws, bank], k, 1.0 / 3.0);
        assert_eq!(step, bits(vec![expected]), "{rule}");
        assert_ne!(step, plain, "{rule} draws");
        for other in [step_key(1, 6), step_key(2, 5)] {
            assert_ne!(bits(adapter.training_slabs(other)), step, "{rule}");
        }
    }
}

/// Codes, logits and plain LoRA serve what evaluation composes, whatever the rule, with and without a gate.
pub(crate) fn stored_forms_serve_what_evaluation_does<B: VbLoraBackend>(device: &B::Device) {
    for rule in Selection::ALL {
        for gate in [None, Some(-0.75)] {
            let adapter = adapter::<B>(rule, gate.is_some(), device);
            let adapter = adapter.with_gate(gate.unwrap_or(1.0));
            let host = HostAdapter::read(&AnyAdapter::VbLora(adapter.clone())).unwrap();
            let stored = HostAdapter::TopK(host.store().unwrap());
            let lora = HostAdapter::Lora(stored.to_lora());
            let expected = adapter.factors();
            let mut set = AdapterSet::<B>::new(device.clone());
            set.load("stored", &stored).unwrap();
            let served = [host, stored, lora].map(|form| form.factors::<B>(device));
            for factors in served.into_iter().chain([set.factors("stored").unwrap()]) {
                for site in ["one", "two"] {
                    let delta = |factors: &Factors<B>| values(factors.get(site).unwrap().delta());
                    let (found, expected) = (delta(&factors), delta(&expected));
                    assert_close(
                        &format!("{rule} {gate:?}"),
                        &found,
                        &expected,
                        products(1e-5),
                    );
                }
            }
        }
    }
}

fn loss<B: VbLoraBackend>(
    factors: &Factors<Ad<B>>,
    device: &B::Device,
) -> (Tensor<Ad<B>, 2>, Tensor<Ad<B>, 1>) {
    let draw = |name: &str, shape: [usize; 2]| {
        let values = Key::new(11).name(name).normal(shape[0] * shape[1], 0.7);
        Tensor::<Ad<B>, 2>::from_data(TensorData::new(values, shape), device)
    };
    let linear = |site: &str, d_in, d_out| {
        FrozenLinear::new(site, draw(site, [d_in, d_out]), None, WeightLayout::InOut)
    };
    let hidden = linear("one", 8, 12)
        .forward(draw("x", [6, 8]), factors)
        .tanh();
    let output = linear("two", 12, 4).forward(hidden, factors);
    let target = draw("target", [6, 4]);
    let loss = (output.clone() - target).square().mean();
    (output, loss)
}

/// At zero nothing but the gate gets a gradient, which is the slope of the ungated adapter's scale; away from zero everything does.
pub(crate) fn a_gate_starts_from_the_base_and_opens<B: VbLoraBackend>(device: &B::Device) {
    let (base, _) = loss::<B>(&Factors::none(), device);
    for rule in [Selection::TopK, Selection::GumbelSoftmax] {
        let closed = adapter::<Ad<B>>(rule, true, device);
        let gradients = |adapter: &VbLora<Ad<B>>| {
            let mut step = Composition::drawn(adapter, step_key(1, 0));
            let (output, loss) = loss::<B>(step.factors(), device);
            step.collect(&mut loss.backward());
            let grads = step.push_back().unwrap();
            let of = |tensor: Tensor<Ad<B>, 2>| values(tensor.grad(&grads).unwrap());
            let gate = adapter.gate.as_ref().unwrap().val();
            let gate = values(gate.grad(&grads).unwrap())[0];
            (
                output,
                gate,
                of(adapter.bank.val()),
                of(adapter.logits.val()),
            )
        };
        let (output, gate, bank, logits) = gradients(&closed);
        assert_close(
            "the base to the bit",
            &values(output.inner()),
            &values(base.clone().inner()),
            alike(0.0),
        );
        assert!(bank.iter().chain(&logits).all(|&g| g == 0.0));
        let scaled = |scale: f64| {
            let plain = adapter::<Ad<B>>(rule, false, device);
            let step = Composition::drawn(&plain, step_key(1, 0));
            let pairs = step.factors().names().map(|name| {
                let pair = step.factors().get(name).unwrap().clone();
                (name.to_owned(), LowRank { scale, ..pair })
            });
            let factors = Factors::new(pairs.collect(), 0.0);
            values(loss::<B>(&factors, device).1.inner())[0]
        };
        // A step this wide keeps the slope above the rounding of tensor cores.
        let slope = (scaled(0.4) - scaled(-0.4)) / 0.8;
        assert!(gate.abs() > 1e-4, "{rule}: {gate}");
        assert_close("slope", &[gate], &[slope], 0.05);
        let (output, gate, bank, logits) = gradients(&closed.with_gate(-0.5));
        let (found, expected) = (values(loss_of(output, device)), scaled(-0.5));
        assert_close("a gate is a scale", &found, &[expected], products(1e-5));
        assert!(gate != 0.0 && bank.iter().any(|&g| g != 0.0) && logits.iter().any(|&g| g != 0.0));
    }
}

fn loss_of<B: AutodiffBackend>(
    output: Tensor<B, 2>,
    device: &B::Device,
) -> Tensor<B::InnerBackend, 1> {
    let target = Key::new(11).name("target").normal(24, 0.7);
    let target = Tensor::<B, 2>::from_data(TensorData::new(target, [6, 4]), device);
    (output - target).square().mean().inner()
}

/// Every recorded rule with its recorded draws.
pub(crate) fn fixture_selection<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("baselines/selection") else {
        return;
    };
    for path in entries(&folder, ".json") {
        println!("{}", path.display());
        let recorded = Tensors::read(&path.with_extension("safetensors"));
        check_record::<B>(device, &json(&path), &recorded);
    }
}

fn check_record<B: VbLoraBackend>(
    device: &B::Device,
    case: &serde_json::Value,
    recorded: &Tensors,
) {
    let rule = match case["kind"].as_str().unwrap() {
        "select_all" => Selection::SelectAll,
        "noisy_topk" => Selection::NoisyTopK,
        "gumbel_softmax" => Selection::GumbelSoftmax,
        "straight_through" => Selection::StraightThrough,
        other => panic!("{other}"),
    };
    let k = case["topk"].as_u64().unwrap_or(1) as usize;
    let [d_in, d_out] = ["in_features", "out_features"].map(|key| number(case, key));
    let config = VbLoraConfig {
        bank: number(case, "num_vectors"),
        vector_length: number(case, "vector_length"),
        rank: number(case, "r"),
        topk: k,
        selection: rule,
        ..Default::default()
    };
    let valid = settings(config, &[Site::new("w", d_in, d_out)]);
    let shape = [valid.sub_vectors(), valid.config().bank];
    // A and B of a tensor as one slab, rank first.
    let slab = |name: &str| {
        let [a, b] = ["A", "B"].map(|side| format!("{name}_{side}"));
        let mut rows = recorded.get(&a).to_vec();
        rows.extend(rank_first(recorded.get(&b), recorded.shape(&b)));
        rows
    };
    let upload = |values: &[f64], shape| tensor::<Ad<B>, 2>(values, shape, device);
    let matrix = |name: &str| {
        let [rows, columns] = *recorded.shape(name) else {
            panic!("{name} is no matrix")
        };
        upload(recorded.get(name), [rows, columns])
    };
    let logits = upload(&slab("logits"), shape).require_grad();
    let is_noisy = rule == Selection::NoisyTopK;
    let noise_logits = if is_noisy {
        slab("noise_logits")
    } else {
        vec![0.0; shape[0] * shape[1]]
    };
    let noise_logits = upload(&noise_logits, shape).require_grad();
    let draws = match rule {
        Selection::NoisyTopK => slab("eps"),
        Selection::SelectAll => vec![0.0; shape[0] * shape[1]],
        _ => slab("uniform").iter().map(|u| -(-u.ln()).ln()).collect(),
    };
    let bank = matrix("bank").require_grad();
    let tensors = [
        logits.clone(),
        noise_logits.clone(),
        upload(&draws, shape),
        bank.clone(),
    ];
    let slabs = [mixed(rule, tensors, k, case["tau"].as_f64().unwrap_or(1.0))];
    let adapter = valid.init::<Ad<B>>(1, device);
    let spans = adapter.spans().remove(0);
    let (down, up) = (spans.down.read(&slabs), spans.up.read(&slabs));
    let close = |what: &str, found: Tensor<B, 2>, expected: &[f64], tolerance: f64| {
        assert_close(
            &format!("{rule} {what}"),
            &values(found),
            expected,
            products(tolerance),
        );
    };
    let delta = down.clone().transpose().matmul(up.clone()).transpose();
    close("delta", delta.inner(), recorded.get("delta_f64"), 1e-5);
    let x = matrix("x").require_grad();
    let y = x.clone().matmul(down.transpose()).matmul(up);
    close("y", y.clone().inner(), recorded.get("y_f64"), 1e-5);
    let grads = (y * matrix("grad_y")).sum().backward();
    close(
        "grad x",
        x.grad(&grads).unwrap(),
        recorded.get("grad_x_f64"),
        1e-4,
    );
    close(
        "grad bank",
        bank.grad(&grads).unwrap(),
        recorded.get("grad_bank_f64"),
        1e-4,
    );
    let both = |name: &str| {
        let [a, b] = ["A", "B"].map(|side| format!("grad_{name}_{side}"));
        let f64s = |name: &str| recorded.get(&format!("{name}_f64")).to_vec();
        [f64s(&a), rank_first(&f64s(&b), recorded.shape(&b))].concat()
    };
    close(
        "grad logits",
        logits.grad(&grads).unwrap(),
        &both("logits"),
        1e-4,
    );
    if is_noisy {
        let found = noise_logits.grad(&grads).unwrap();
        close("grad noise logits", found, &both("noise_logits"), 1e-4);
    }
}
