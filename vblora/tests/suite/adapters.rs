//! Adapters: layout, exactness of the cut, initialisation, the bank's single ownership, the frozen base.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, Param},
    optim::{AdamWConfig, GradientsParams, Optimizer},
    tensor::{DType, FloatDType, Tensor},
};
use vblora::{
    Adapter, AdapterConfig, Composition, Factors, FrozenLinear, LoraConfig, LowRank, Noise, Site,
    SitePlan, Targets, VbLora, VbLoraConfig, WeightLayout, backend::VbLoraBackend, rng::Key,
};

use crate::support::{
    assert_close, products,
    reference::{self, Matrix},
    tensor, values,
};

type Ad<B> = Autodiff<B>;

fn config(rank: usize, topk: usize) -> VbLoraConfig {
    VbLoraConfig {
        bank: 10,
        vector_length: 4,
        rank,
        topk,
        bank_bound: 0.5,
        logits_std: 1.0,
        ..Default::default()
    }
}

fn plan() -> SitePlan {
    Targets::all_linear()
        .select(&[Site::new("one", 8, 12), Site::new("two", 12, 4)])
        .unwrap()
}

fn random<B: VbLoraBackend>(
    name: &str,
    rows: usize,
    columns: usize,
    device: &B::Device,
) -> (Tensor<B, 2>, Matrix) {
    let draw = Key::new(11).name(name).normal(rows * columns, 0.7);
    let matrix = Matrix::new(rows, columns, draw.into_iter().map(f64::from).collect());
    (tensor(&matrix.values, [rows, columns], device), matrix)
}

fn linear<B: VbLoraBackend>(
    site: &str,
    d_in: usize,
    d_out: usize,
    device: &B::Device,
) -> FrozenLinear<B> {
    let (weight, _) = random::<B>(site, d_in, d_out, device);
    let (bias, _) = random::<B>("bias", 1, d_out, device);
    FrozenLinear::new(site, weight, Some(bias.squeeze_dim(0)), WeightLayout::InOut)
}

/// A (r, in) has its chunks one after another along a row, B (out, r) along a column: the layout example of the paper notes, 1.10.
pub(crate) fn factors_lie_as_peft_lays_them<B: VbLoraBackend>(device: &B::Device) {
    let plan = Targets::all_linear()
        .select(&[Site::new("w", 4, 2)])
        .unwrap();
    let settings = VbLoraConfig {
        bank: 6,
        vector_length: 2,
        rank: 2,
        topk: 1,
        ..Default::default()
    }
    .check(&plan)
    .unwrap();
    // Bank row i is the chunk of slab row i: U(t, rho) at rank-major row 2 rho + t, then V(0, rho).
    let bank = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.1, 0.2, 0.3, 0.4];
    let logits = (0..6)
        .flat_map(|s| (0..6).map(move |i| if i == s { 1.0 } else { 0.0 }))
        .collect();
    let adapter: VbLora<B> = settings.load(bank, logits, device).unwrap();
    let factors = adapter.factors();
    let pair = factors.get("w").unwrap();
    assert_close(
        "A",
        &values(pair.down.clone().transpose()),
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        products(1e-6),
    );
    assert_close(
        "B",
        &values(pair.up.clone().transpose()),
        &[0.1, 0.3, 0.2, 0.4],
        products(1e-6),
    );
    assert_close(
        "delta",
        &values(pair.delta().transpose()),
        &[1.6, 2.0, 2.4, 2.8, 2.2, 2.8, 3.4, 4.0],
        products(1e-6),
    );
}

pub(crate) fn linear_equals_the_materialised_update<B: VbLoraBackend>(device: &B::Device) {
    for config in [
        AdapterConfig::VbLora(config(3, 2)),
        AdapterConfig::Lora(LoraConfig {
            rank: 3,
            alpha: 7.5,
            dropout: 0.5,
            ..LoraConfig::default()
        }),
    ] {
        let adapter = nonzero::<B>(&config, device);
        let factors = adapter.factors();
        let (x, xm) = random::<B>("x", 5, 8, device);
        let layer = linear::<B>("one", 8, 12, device);
        let pair = factors.get("one").unwrap();
        let matrix = |t: &Tensor<B, 2>| Matrix::new(t.dims()[0], t.dims()[1], values(t.clone()));
        let delta = matrix(&pair.down)
            .times(&matrix(&pair.up))
            .map(|v| v * pair.scale);
        let weight = matrix(&layer.weight.dense()).plus(&delta);
        let bias = values(layer.bias.as_ref().unwrap().val());
        let mut expected = xm.times(&weight);
        expected
            .values
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v += bias[i % 12]);
        assert_close(
            "unmerged",
            &values(layer.forward(x.clone(), &factors)),
            &expected.values,
            products(1e-5),
        );
        assert_close(
            "merged",
            &values(layer.merged(&factors).forward(x.clone(), &Factors::none())),
            &expected.values,
            products(1e-5),
        );
        let deep = layer.forward(x.clone().reshape([1, 5, 1, 8]), &factors);
        assert_eq!(deep.dims(), [1, 5, 1, 12]);
        assert_close(
            "more dimensions",
            &values(deep),
            &expected.values,
            products(1e-5),
        );
        let plain = values(layer.forward(x, &Factors::none()));
        assert!(
            plain
                .iter()
                .zip(&expected.values)
                .any(|(p, e)| (p - e).abs() > 0.01),
            "the adapter does something"
        );
    }
}

/// Forward and every gradient at sizes for which GPUs have kernels of their own, with ranks on both sides of their limit, rows that fill no
/// tile, a gradient that lies transposed, with and without a gradient of the input, in every dtype of the weight.
pub(crate) fn wide_maps_and_their_gradients<B: VbLoraBackend>(device: &B::Device) {
    let sizes = [130, 192, 320];
    for (rank, scale, needs_x) in [(1, 1.0, true), (3, 2.0, false), (19, 1.5, true)] {
        wide_map::<B>(
            DType::F32,
            products(1e-5),
            sizes,
            rank,
            scale,
            needs_x,
            device,
        );
    }
    // More rows than are summed at a time, and a width that is no whole number of what a GPU's cubes make.
    let tall = [2300, 128, 76];
    wide_map::<B>(DType::F32, products(1e-5), tall, 2, 1.0, true, device);
    // Widths that no GPU reads in pieces, few rows, which planes share, and rows that a plane reads in several rounds.
    for sizes in [[70, 131, 75], [3, 261, 130], [2, 64, 2100]] {
        wide_map::<B>(DType::F32, products(1e-5), sizes, 4, 1.0, true, device);
    }
    for (dtype, tolerance) in [
        (DType::F32, products(1e-5)),
        (DType::F16, products(2e-3)),
        (DType::BF16, 1.6e-2),
    ] {
        if B::supports_dtype(device, dtype) {
            wide_map::<B>(dtype, tolerance, sizes, 4, 0.5, true, device);
        }
    }
}

/// `tolerance` is for what has gone through the frozen weight.
fn wide_map<B: VbLoraBackend>(
    dtype: DType,
    tolerance: f64,
    [n, d_in, d_out]: [usize; 3],
    rank: usize,
    scale: f64,
    needs_x: bool,
    device: &B::Device,
) {
    let close = |what: &str, found: &[f64], expected: &Matrix, tolerance: f64| {
        let what = format!("{dtype:?}, rank {rank}, {what}");
        assert_close(&what, found, &expected.values, tolerance);
    };
    let (weight, wm) = random::<B>("one", d_in, d_out, device);
    let (bias, bm) = random::<B>("bias", 1, d_out, device);
    let layer = FrozenLinear::<Ad<B>>::new(
        "one",
        Tensor::from_inner(weight.cast(FloatDType::from(dtype))),
        Some(Tensor::from_inner(bias.squeeze_dim(0))),
        WeightLayout::InOut,
    );
    let (x, xm) = random::<Ad<B>>("x", n, d_in, device);
    let (down, dm) = random::<Ad<B>>("down", rank, d_in, device);
    let (up, um) = random::<Ad<B>>("up", rank, d_out, device);
    // As adapters hand them out: down is a view of rows.
    let (down, dm) = (down.transpose().require_grad(), dm.transposed());
    let up = up.require_grad();
    let x = if needs_x { x.require_grad() } else { x };
    let pair = LowRank {
        down: down.clone(),
        up: up.clone(),
        scale,
    };
    let factors = Factors::new([("one".to_owned(), pair)].into(), 0.0);
    let y = layer.forward(x.clone(), &factors);
    let narrow = xm.times(&dm).map(|v| v * scale);
    let mut expected = xm.times(&wm).plus(&narrow.times(&um));
    let add = |(i, v): (usize, &mut f64)| *v += bm.values[i % d_out];
    expected.values.iter_mut().enumerate().for_each(add);
    close("y", &values(y.clone()), &expected, tolerance);
    let (g, gm) = random::<Ad<B>>("g", d_out, n, device);
    let gm = gm.transposed();
    let grads = (y.transpose() * g).sum().backward();
    let d_narrow = gm.times(&um.transposed()).map(|v| v * scale);
    let found = |t: &Tensor<Ad<B>, 2>| values(t.grad(&grads).expect("tracked"));
    let (d_down, d_up) = (
        xm.transposed().times(&d_narrow),
        narrow.transposed().times(&gm),
    );
    close("down", &found(&down), &d_down, products(1e-5));
    close("up", &found(&up), &d_up, products(1e-5));
    if !needs_x {
        assert!(x.grad(&grads).is_none());
        return;
    }
    let through_map = gm.times(&wm.transposed());
    let dx = through_map.plus(&d_narrow.times(&dm.transposed()));
    close("x", &found(&x), &dx, tolerance);
    let (g, gm) = random::<Ad<B>>("g", n, d_out, device);
    let plain = layer.forward(x.clone(), &Factors::none());
    let mut expected = xm.times(&wm);
    expected.values.iter_mut().enumerate().for_each(add);
    let shown = values(plain.clone());
    close("y without an adapter", &shown, &expected, tolerance);
    let grads = (plain * g).sum().backward();
    let found = values(x.grad(&grads).expect("tracked"));
    let dx = gm.times(&wm.transposed());
    close("x without an adapter", &found, &dx, tolerance);
}

/// With a weight in half precision the product alone is rounded; input, bias, adapter and gradients of the factors are as in f32.
pub(crate) fn half_precision_rounds_the_product_alone<B: VbLoraBackend>(device: &B::Device) {
    for (dtype, bits) in [(DType::F16, 11), (DType::BF16, 8)] {
        if !B::supports_dtype(device, dtype) {
            println!("skipped: {} does not compute in {dtype:?}", B::name(device));
            continue;
        }
        let half = FloatDType::from(dtype);
        let rounding = 0.5_f64.powi(bits);
        let layer = linear::<Ad<B>>("one", 8, 12, device);
        let held = layer.weight.dense().inner().cast(half);
        let rounded = |t: Tensor<Ad<B>, 2>| {
            let t = t.cast(half).cast(FloatDType::F32).inner();
            Matrix::new(t.dims()[0], t.dims()[1], values(t))
        };
        let weight = rounded(Tensor::from_inner(held.clone()));
        let bias = layer.bias.as_ref().map(|bias| bias.val());
        let layer = FrozenLinear::new(
            "one",
            Tensor::<Ad<B>, 2>::from_inner(held.clone()),
            bias,
            WeightLayout::InOut,
        );
        let config = AdapterConfig::VbLora(config(3, 2));
        let adapter = config.init::<Ad<B>>(&plan(), 5, device).unwrap();
        let composition = Composition::new(&adapter);
        let factors = composition.factors();
        let (x, xm) = random::<Ad<B>>("x", 5, 8, device);
        let (with, without) = (
            layer.forward(x.clone(), factors),
            layer.forward(x.clone(), &Factors::none()),
        );
        assert_eq!(with.dtype(), DType::F32);
        let bias = values(layer.bias.as_ref().unwrap().val());
        let mut expected = rounded(x).times(&weight);
        expected
            .values
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v += bias[i % 12]);
        assert_close(
            "frozen",
            &values(without.clone()),
            &expected.values,
            2.0 * rounding,
        );
        // The same rounded product stands in both, so that the adapter's share is all that is left.
        let matrix =
            |t: &Tensor<Ad<B>, 2>| Matrix::new(t.dims()[0], t.dims()[1], values(t.clone()));
        let pair = factors.get("one").unwrap();
        let (down, up) = (matrix(&pair.down), matrix(&pair.up));
        let share = values(with.clone() - without);
        assert_close(
            "adapter",
            &share,
            &xm.times(&down.times(&up)).values,
            products(1e-5),
        );
        let (g, gm) = random::<Ad<B>>("g", 5, 12, device);
        let grads = (with * g).sum().backward();
        let d_down = xm.transposed().times(&gm).times(&up.transposed());
        assert_close(
            "gradient of down",
            &values(pair.down.grad(&grads).unwrap()),
            &d_down.values,
            products(1e-5),
        );
        let served = LowRank {
            down: pair.down.clone().inner(),
            up: pair.up.clone().inner(),
            scale: pair.scale,
        };
        let served = Factors::new([("one".to_owned(), served)].into(), 0.0);
        let merged = FrozenLinear::new("one", held, None, WeightLayout::InOut).merged(&served);
        let merged = Tensor::<Ad<B>, 2>::from_inner(merged.weight.dense());
        assert_eq!(merged.dtype(), dtype);
        assert_close(
            "merged",
            &rounded(merged).values,
            &weight.plus(&down.times(&up)).values,
            rounding,
        );
    }
}

/// An adapter whose update is not zero, also for LoRA.
fn nonzero<B: VbLoraBackend>(config: &AdapterConfig, device: &B::Device) -> vblora::AnyAdapter<B> {
    let mut adapter = config.init::<B>(&plan(), 5, device).unwrap();
    if let vblora::AnyAdapter::Lora(lora) = &mut adapter {
        for (i, b) in lora.b.iter_mut().enumerate() {
            let [r, d] = b.dims();
            let (value, _) = random::<B>(&format!("b{i}"), r, d, device);
            *b = Param::from_tensor(value);
        }
    }
    adapter
}

fn loss<B: VbLoraBackend>(
    factors: &Factors<Ad<B>>,
    device: &B::Device,
    batch: &str,
) -> Tensor<Ad<B>, 1> {
    let (x, _) = random::<Ad<B>>(batch, 6, 8, device);
    let hidden = linear::<Ad<B>>("one", 8, 12, device)
        .forward(x, factors)
        .tanh();
    linear::<Ad<B>>("two", 12, 4, device)
        .forward(hidden, factors)
        .square()
        .mean()
}

/// Gradients by name, in a fixed order.
fn gradients<B: VbLoraBackend>(
    adapter: &vblora::AnyAdapter<Ad<B>>,
    grads: &<Ad<B> as burn::tensor::backend::AutodiffBackend>::Gradients,
) -> Vec<Vec<f64>> {
    match adapter {
        vblora::AnyAdapter::VbLora(a) => [&a.bank, &a.logits]
            .map(|p| values(p.val().grad(grads).expect("gradient")))
            .into(),
        vblora::AnyAdapter::Lora(a) => {
            a.a.iter()
                .chain(&a.b)
                .map(|p| values(p.val().grad(grads).expect("gradient")))
                .collect()
        }
        other => panic!("{} has tests of its own", other.name()),
    }
}

/// The cut gives the gradients of the whole graph.
pub(crate) fn pushed_back_gradients_are_exact<B: VbLoraBackend>(device: &B::Device) {
    for config in [
        AdapterConfig::VbLora(config(3, 2)),
        AdapterConfig::Lora(LoraConfig {
            rank: 3,
            alpha: 7.5,
            dropout: 0.0,
            ..LoraConfig::default()
        }),
    ] {
        let adapter = nonzero::<Ad<B>>(&config, device);
        let whole = loss::<B>(&adapter.factors(), device, "x").backward();
        let mut step = Composition::new(&adapter);
        step.collect(&mut loss::<B>(step.factors(), device, "x").backward());
        let cut = step.push_back().unwrap();
        for (found, expected) in gradients::<B>(&adapter, &cut)
            .iter()
            .zip(gradients::<B>(&adapter, &whole))
        {
            assert_close("gradient", found, &expected, products(1e-5));
            assert!(expected.iter().any(|v| v.abs() > 1e-6));
        }
    }
}

pub(crate) fn micro_batches_add_up<B: VbLoraBackend>(device: &B::Device) {
    let adapter = nonzero::<Ad<B>>(&AdapterConfig::VbLora(config(2, 3)), device);
    let both =
        loss::<B>(&adapter.factors(), device, "x") + loss::<B>(&adapter.factors(), device, "y");
    let expected = gradients::<B>(&adapter, &both.backward());
    let mut step = Composition::new(&adapter);
    for batch in ["x", "y"] {
        step.collect(&mut loss::<B>(step.factors(), device, batch).backward());
    }
    for (found, expected) in gradients::<B>(&adapter, &step.push_back().unwrap())
        .iter()
        .zip(expected)
    {
        assert_close("gradient", found, &expected, products(1e-5));
    }
}

pub(crate) fn a_composition_without_gradients_is_an_error<B: VbLoraBackend>(device: &B::Device) {
    let adapter = nonzero::<Ad<B>>(&AdapterConfig::VbLora(config(2, 2)), device);
    let message = Composition::new(&adapter)
        .push_back()
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("site one got no gradient"), "{message}");
    // A site that the loss does not pass through is named too.
    let mut step = Composition::new(&adapter);
    let (x, _) = random::<Ad<B>>("x", 6, 8, device);
    step.collect(
        &mut linear::<Ad<B>>("one", 8, 12, device)
            .forward(x, step.factors())
            .sum()
            .backward(),
    );
    assert!(
        step.push_back()
            .err()
            .unwrap()
            .to_string()
            .contains("site two")
    );
}

pub(crate) fn lora_scales_and_starts_at_zero<B: VbLoraBackend>(device: &B::Device) {
    let config = LoraConfig {
        rank: 3,
        alpha: 7.5,
        dropout: 0.5,
        ..LoraConfig::default()
    };
    let adapter = config.check(&plan()).unwrap().init::<B>(3, device);
    let factors = adapter.factors();
    let pair = factors.get("two").unwrap();
    assert_eq!(
        (pair.scale, pair.down.dims(), pair.up.dims()),
        (2.5, [12, 3], [3, 4])
    );
    let stabilised = LoraConfig {
        rank: 4,
        rslora: true,
        ..config.clone()
    };
    assert_eq!(stabilised.scale(), 3.75);
    assert!(values(pair.delta()).iter().all(|&v| v == 0.0));
    let a = values(pair.down.clone());
    assert!(
        a.iter().all(|v| v.abs() <= 1.0 / 12f64.sqrt()) && a.iter().any(|v| v.abs() > 0.2),
        "{a:?}"
    );
    // Dropout acts on the adapter's input alone, and only with noise.
    let factors = nonzero::<B>(&AdapterConfig::Lora(config), device).factors();
    let layer = linear::<B>("one", 8, 12, device);
    let (x, _) = random::<B>("x", 5, 8, device);
    let noisy = factors.with_noise(Noise::new(1, 0, 0));
    let dropped = Noise::new(1, 0, 0).dropout(x.clone(), 0.5, "one");
    let pair = factors.get("one").unwrap();
    let expected = layer.forward(x.clone(), &Factors::none()) + dropped.matmul(pair.delta());
    assert_close(
        "noisy",
        &values(layer.forward(x.clone(), &noisy)),
        &values(expected),
        products(1e-5),
    );
    assert_ne!(
        values(layer.forward(x.clone(), &noisy)),
        values(layer.forward(x, &factors))
    );
}

/// A two-layer model that is trained for a while.
#[derive(Module, Debug)]
struct Net<B: burn::tensor::backend::Backend> {
    one: FrozenLinear<B>,
    two: FrozenLinear<B>,
}

pub(crate) fn one_bank_stays_one_and_the_base_stays_put<B: VbLoraBackend>(device: &B::Device) {
    let net = Net::<Ad<B>> {
        one: linear("one", 8, 12, device),
        two: linear("two", 12, 4, device),
    };
    let frozen = |net: &Net<Ad<B>>| {
        [&net.one, &net.two].map(|l| {
            (
                l.weight.dense().into_data(),
                l.bias.as_ref().unwrap().val().into_data(),
            )
        })
    };
    let before = frozen(&net);
    let mut adapter = config(3, 2)
        .check(&plan())
        .unwrap()
        .init::<Ad<B>>(5, device);
    let start = (values(adapter.bank.val()), values(adapter.logits.val()));
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    for i in 0..30 {
        let (x, _) = random::<Ad<B>>(&format!("x{}", i % 3), 6, 8, device);
        let mut step = Composition::new(&adapter);
        let output = net
            .two
            .forward(net.one.forward(x, step.factors()).tanh(), step.factors());
        let mut grads = output.square().mean().backward();
        for layer in [&net.one, &net.two] {
            assert!(
                !layer.weight.dense().is_require_grad()
                    && layer.weight.dense().grad(&grads).is_none()
            );
            assert!(layer.bias.as_ref().unwrap().val().grad(&grads).is_none());
        }
        step.collect(&mut grads);
        let grads = GradientsParams::from_grads(step.push_back().unwrap(), &adapter);
        adapter = optimizer.step(0.05, adapter, grads);
    }
    assert_eq!(frozen(&net), before, "base weights to the bit");
    assert_eq!(
        adapter.num_params(),
        10 * 4 + 10 * plan().sub_vectors(3, 4),
        "one bank, one slab of logits"
    );
    assert_ne!(
        (values(adapter.bank.val()), values(adapter.logits.val())),
        start
    );
    // Every factor of every site is a mixture of the one bank there is.
    let inner = adapter.valid();
    let stored = inner.store().unwrap();
    let bank = Matrix::new(10, 4, stored.bank().iter().map(|&v| f64::from(v)).collect());
    let logits = Matrix::new(plan().sub_vectors(3, 4), 10, values(inner.logits.val()));
    let slab = reference::admixture(&logits, &bank, 2);
    assert_close(
        "first factor",
        &values(inner.factors().get("one").unwrap().down.clone().transpose()),
        &slab.values[..24],
        products(1e-5),
    );
    let last = values(inner.factors().get("two").unwrap().up.clone());
    assert_close(
        "last factor",
        &last,
        &slab.values[slab.values.len() - last.len()..],
        products(1e-5),
    );
}

/// Recorded once: a seed means the same adapter on every backend, in every version, whatever other sites there are.
pub(crate) fn initial_values_are_the_same_everywhere<B: VbLoraBackend>(device: &B::Device) {
    let adapter = VbLoraConfig {
        bank: 10,
        vector_length: 4,
        ..Default::default()
    }
    .check(&plan())
    .unwrap()
    .init::<B>(1234, device);
    let bits = |v: Vec<f64>| {
        v[..3]
            .iter()
            .map(|&v| (v as f32).to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (
            bits(values(adapter.bank.val())),
            bits(values(adapter.logits.val()))
        ),
        (RECORDED_BANK.into(), RECORDED_LOGITS.into())
    );
    let alone = Targets::suffixes(["two"]).select(plan().sites()).unwrap();
    let alone = VbLoraConfig {
        bank: 10,
        vector_length: 4,
        ..Default::default()
    }
    .check(&alone)
    .unwrap()
    .init::<B>(1234, device);
    assert_eq!(
        values(alone.factors().get("two").unwrap().delta()),
        values(adapter.factors().get("two").unwrap().delta())
    );
    let other = VbLoraConfig {
        bank: 10,
        vector_length: 4,
        ..Default::default()
    }
    .check(&plan())
    .unwrap()
    .init::<B>(1235, device);
    assert_ne!(values(other.bank.val()), values(adapter.bank.val()));
}

const RECORDED_BANK: [u32; 3] = [3_128_472_230, 3_156_798_823, 1_011_376_334];
const RECORDED_LOGITS: [u32; 3] = [985_596_641, 3_145_877_040, 999_168_775];
