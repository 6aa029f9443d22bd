//! The baselines: each against the update that its definition gives, in f64 and materialised, on odd shapes; their beginnings.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{
    Adapter, AdapterConfig, AnyAdapter, BaseWeights, Composition, Factors, FrozenLinear,
    LoraXsConfig, Site, SitePlan, Targets, TiedLoraConfig, VeraConfig, WeightLayout,
    adapter::{LoraXsValues, Projection, TiedValues},
    backend::VbLoraBackend,
    rng::Key,
    storage::HostAdapter,
};

use crate::support::{
    assert_close, products,
    reference::{self, Matrix},
    tensor, values,
};

type Ad<B> = Autodiff<B>;
type Gradients<B> = <Ad<B> as AutodiffBackend>::Gradients;

/// Sites of two layers, no dimension a multiple of another.
fn plan() -> SitePlan {
    let sites = [
        ("layer.0.first", 7, 13),
        ("layer.0.second", 13, 5),
        ("layer.1.first", 7, 13),
        ("layer.1.second", 13, 5),
    ];
    let sites = sites.map(|(name, d_in, d_out)| Site::new(name, d_in, d_out));
    Targets::all_linear().select(&sites).unwrap()
}

fn random(name: &str, rows: usize, columns: usize) -> Matrix {
    let draw = Key::new(31).name(name).normal(rows * columns, 0.7);
    Matrix::new(rows, columns, draw.into_iter().map(f64::from).collect())
}

fn narrow(matrix: &Matrix) -> Vec<f32> {
    matrix.values.iter().map(|&v| v as f32).collect()
}

/// The first columns of a matrix.
fn first(matrix: &Matrix, columns: usize) -> Matrix {
    let rows = (0..matrix.rows).flat_map(|i| matrix.row(i)[..columns].to_vec());
    Matrix::new(matrix.rows, columns, rows.collect())
}

/// A diagonal matrix.
fn diagonal(values: &Matrix) -> Matrix {
    let n = values.values.len();
    let mut matrix = Matrix::new(n, n, vec![0.0; n * n]);
    for (i, &value) in values.values.iter().enumerate() {
        matrix.values[i * n + i] = value;
    }
    matrix
}

type Updates = dyn Fn(&[Matrix]) -> Vec<Matrix>;

/// An adapter, its parameters in the order in which a module shows them, and the updates `[d_in, d_out]` that they should give, by site.
struct Case<B: VbLoraBackend> {
    adapter: AnyAdapter<Ad<B>>,
    parameters: Vec<Matrix>,
    updates: Box<Updates>,
}

fn host(matrices: &[Matrix]) -> Vec<Vec<f32>> {
    matrices.iter().map(narrow).collect()
}

/// Random matrices, one for each site.
fn per_site(plan: &SitePlan, part: &str, shape: impl Fn(&Site) -> [usize; 2]) -> Vec<Matrix> {
    let draw = |site: &Site| {
        let [rows, columns] = shape(site);
        random(&format!("{}.{part}", site.name), rows, columns)
    };
    plan.sites().iter().map(draw).collect()
}

fn vera<B: VbLoraBackend>(rank: usize, device: &B::Device) -> Case<B> {
    let plan = plan();
    let config = VeraConfig {
        rank,
        ..VeraConfig::default()
    };
    let (a, b) = (random("a", rank, 13), random("b", rank, 13));
    let d = per_site(&plan, "d", |_| [1, rank]);
    let up = per_site(&plan, "b", |site| [1, site.d_out]);
    let projection = Projection {
        a: narrow(&a),
        b: narrow(&b),
    };
    let settings = config.check(&plan).unwrap();
    let adapter = settings.load(&projection, &host(&d), &host(&up), device);
    let updates = move |parameters: &[Matrix]| {
        let (d, up) = parameters.split_at(plan.sites().len());
        let sites = plan.sites().iter().zip(d.iter().zip(up));
        sites
            .map(|(site, (d, up))| {
                let down = first(&a, site.d_in).transposed().times(&diagonal(d));
                let b = first(&b, site.d_out).times(&diagonal(up));
                down.times(&b)
            })
            .collect()
    };
    Case {
        adapter: AnyAdapter::Vera(adapter.unwrap()),
        parameters: [d, up].concat(),
        updates: Box::new(updates),
    }
}

/// The sites of a role share its factors: the first two parameters are the A of both roles, the next two their B.
fn tied_lora<B: VbLoraBackend>(rank: usize, device: &B::Device) -> Case<B> {
    let plan = plan();
    let settings = TiedLoraConfig { rank }.check(&plan).unwrap();
    let roles: Vec<_> = settings.ties().iter().map(|tie| &tie.name).collect();
    assert_eq!(roles, ["first", "second"]);
    let a = [random("tied a0", rank, 7), random("tied a1", rank, 13)];
    let b = [random("tied b0", rank, 13), random("tied b1", rank, 5)];
    let u = per_site(&plan, "u", |_| [1, rank]);
    let v = per_site(&plan, "v", |site| [1, site.d_out]);
    let values = TiedValues {
        a: host(&a),
        b: host(&b),
        u: host(&u),
        v: host(&v),
    };
    let updates = |parameters: &[Matrix]| {
        let [a, b, u, v] = [0, 2, 4, 8].map(|start| &parameters[start..]);
        let update = |i: usize| {
            let down = a[i % 2].transposed().times(&diagonal(&u[i]));
            down.times(&b[i % 2]).times(&diagonal(&v[i]))
        };
        (0..4).map(update).collect()
    };
    Case {
        adapter: AnyAdapter::TiedLora(settings.load(&values, device).unwrap()),
        parameters: [&a[..], &b, &u, &v].concat(),
        updates: Box::new(updates),
    }
}

fn lora_xs<B: VbLoraBackend>(rank: usize, device: &B::Device) -> Case<B> {
    let plan = plan();
    let config = LoraXsConfig {
        rank,
        ..LoraXsConfig::default()
    };
    let a = per_site(&plan, "xs a", |site| [rank, site.d_in]);
    let b = per_site(&plan, "xs b", |site| [rank, site.d_out]);
    let r = per_site(&plan, "xs r", |_| [rank, rank]);
    let values = LoraXsValues {
        a: host(&a),
        b: host(&b),
        r: host(&r),
    };
    let adapter = config.check(&plan).unwrap().load(&values, device);
    let updates = move |r: &[Matrix]| {
        let frozen = a.iter().zip(&b).zip(r);
        frozen
            // (B R A) in torch's layout, turned over.
            .map(|((a, b), r)| b.transposed().times(r).times(a).transposed())
            .collect()
    };
    Case {
        adapter: AnyAdapter::LoraXs(adapter.unwrap()),
        parameters: r,
        updates: Box::new(updates),
    }
}

fn cases<B: VbLoraBackend>(device: &B::Device) -> Vec<Case<B>> {
    vec![
        vera(1, device),
        vera(4, device),
        tied_lora(1, device),
        tied_lora(3, device),
        lora_xs(1, device),
        lora_xs(5, device),
    ]
}

/// The gradients of all parameters, in the order in which the module shows them.
struct Collect<'a, B: VbLoraBackend> {
    grads: &'a Gradients<B>,
    found: Vec<Vec<f64>>,
}

impl<B: VbLoraBackend> ModuleVisitor<Ad<B>> for Collect<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Ad<B>, D>>) {
        let grad = param.val().grad(self.grads);
        self.found.push(values(grad.expect("a gradient")));
    }
}

/// Input, frozen map with its weight and bias, and the gradient of the output.
struct Layer<B: VbLoraBackend> {
    x: Matrix,
    weight: Matrix,
    map: FrozenLinear<Ad<B>>,
    grad: Matrix,
}

fn layer<B: VbLoraBackend>(site: &Site, device: &B::Device) -> Layer<B> {
    let named = |part: &str, rows, columns| random(&format!("{} {part}", site.name), rows, columns);
    let weight = named("weight", site.d_in, site.d_out);
    let map = FrozenLinear::new(
        site.name.clone(),
        tensor(&weight.values, [site.d_in, site.d_out], device),
        None,
        WeightLayout::InOut,
    );
    Layer {
        x: named("x", 6, site.d_in),
        weight,
        map,
        grad: named("grad", 6, site.d_out),
    }
}

pub(crate) fn baselines_are_their_materialised_updates<B: VbLoraBackend>(device: &B::Device) {
    for case in cases::<B>(device) {
        let name = case.adapter.name();
        let updates = (case.updates)(&case.parameters);
        let mut step = Composition::new(&case.adapter);
        let mut loss = Tensor::<Ad<B>, 1>::zeros([1], device);
        let mut slopes = Vec::new();
        for (site, update) in plan().sites().iter().zip(&updates) {
            let layer = layer::<B>(site, device);
            let x = tensor::<Ad<B>, 2>(&layer.x.values, [6, site.d_in], device).require_grad();
            let y = layer.map.forward(x.clone(), step.factors());
            let changed = layer.weight.plus(update);
            let expected = layer.x.times(&changed);
            let what = format!("{name}, {}", site.name);
            let close = |part: &str, found: &[f64], expected: &Matrix| {
                let what = format!("{what}, {part}");
                assert_close(&what, found, &expected.values, products(1e-5));
            };
            close("y", &values(y.clone().inner()), &expected);
            let factors = step.factors().inner();
            let merged = layer.map.valid().merged(&factors);
            close("merged", &values(merged.weight.dense()), &changed);
            let grad = tensor::<Ad<B>, 2>(&layer.grad.values, [6, site.d_out], device);
            let part = (y * grad).sum();
            let grads = part.clone().backward();
            let found = values(x.grad(&grads).expect("a gradient"));
            close("grad x", &found, &layer.grad.times(&changed.transposed()));
            // The graph is walked, so the loss is made again.
            let y = layer.map.forward(x.detach(), step.factors());
            let grad = tensor::<Ad<B>, 2>(&layer.grad.values, [6, site.d_out], device);
            loss = loss + (y * grad).sum();
            slopes.push(layer.x.transposed().times(&layer.grad));
        }
        step.collect(&mut loss.backward());
        let mut found = Collect::<B> {
            grads: &step.push_back().unwrap(),
            found: Vec::new(),
        };
        case.adapter.visit(&mut found);
        assert_eq!(found.found.len(), case.parameters.len(), "{name}");
        for (i, found) in found.found.iter().enumerate() {
            // The loss is linear in the updates, and they in each parameter: central differences are exact.
            let expected = reference::finite_differences(&case.parameters[i], 0.5, |moved| {
                let mut parameters = case.parameters.clone();
                parameters[i] = moved.clone();
                let updates = (case.updates)(&parameters);
                let pairs = updates.iter().zip(&slopes);
                pairs
                    .map(|(update, slope)| reference::dot(update, slope))
                    .sum()
            });
            let what = format!("{name}, gradient of parameter {i}");
            assert_close(&what, found, &expected.values, products(1e-5));
        }
    }
}

/// What goes through host memory, as it is or as LoRA, is the same update; of Tied-LoRA and LoRA-XS it is LoRA.
pub(crate) fn baselines_come_back_from_host_memory<B: VbLoraBackend>(device: &B::Device) {
    for case in cases::<B>(device) {
        let (name, adapter) = (case.adapter.name(), case.adapter.valid());
        let host = HostAdapter::read(&adapter).unwrap();
        let as_lora = HostAdapter::Lora(host.to_lora());
        if let HostAdapter::Vera(_) = host {
            let again = host.trainable::<B>(device).unwrap();
            assert_eq!(HostAdapter::read(&again).unwrap(), host, "{name}");
        }
        let updates = (case.updates)(&case.parameters);
        let forms: [Factors<B>; 3] = [
            adapter.factors(),
            host.factors(device),
            as_lora.factors(device),
        ];
        for (site, update) in plan().sites().iter().zip(&updates) {
            for factors in &forms {
                let found = values(factors.get(&site.name).unwrap().delta());
                assert_close(name, &found, &update.values, products(1e-5));
            }
        }
    }
}

/// Recorded once, as VB-LoRA's: the projection is a function of its own seed.
pub(crate) fn vera_starts_at_zero_on_one_projection<B: VbLoraBackend>(device: &B::Device) {
    let config = VeraConfig {
        rank: 3,
        projection_seed: 9,
        ..VeraConfig::default()
    };
    let settings = config.check(&plan()).unwrap();
    let adapter = settings.init::<B>(device);
    let [a, b] = adapter.frozen();
    assert_eq!((a.dims(), b.dims()), ([3, 13], [3, 13]));
    let (bound_a, bound_b) = ((6.0 / 13f64).sqrt(), (6.0 / 3f64).sqrt());
    for (matrix, bound) in [(values(a), bound_a), (values(b), bound_b)] {
        let largest = matrix.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert!(
            largest <= bound && largest > 0.9 * bound,
            "{largest} {bound}"
        );
    }
    let factors = adapter.factors();
    for site in plan().sites() {
        let pair = factors.get(&site.name).unwrap();
        assert!(values(pair.delta()).iter().all(|&v| v == 0.0));
        let expected = adapter.frozen()[0].clone().slice([0..3, 0..site.d_in]);
        let expected: Vec<_> = values(expected).iter().map(|v| 0.1 * v).collect();
        let found = values(pair.down.clone().transpose());
        assert_close("down", &found, &expected, 1e-6);
    }
    let bits = |v: &[f32]| [v[0], v[1]].map(f32::to_bits);
    let projection = settings.projection();
    assert_eq!((bits(&projection.a), bits(&projection.b)), RECORDED);
    assert_eq!(adapter.num_params(), 4 * 3 + 2 * (13 + 5));
}

const RECORDED: ([u32; 2], [u32; 2]) = ([0x3ea0_1f91, 0x3ab7_1e78], [0x3ee3_c948, 0xbf0b_cbfe]);

pub(crate) fn tied_lora_starts_at_zero_from_random_factors<B: VbLoraBackend>(device: &B::Device) {
    let settings = TiedLoraConfig { rank: 3 }.check(&plan()).unwrap();
    let adapter = settings.init::<B>(5, device);
    let factors = adapter.factors();
    for site in plan().sites() {
        let pair = factors.get(&site.name).unwrap();
        assert!(values(pair.up.clone()).iter().all(|&v| v == 0.0));
    }
    let down = |site: &str| values(factors.get(site).unwrap().down.clone());
    assert_eq!(down("layer.0.first"), down("layer.1.first"));
    let largest = |values: Vec<f64>| values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (part, fan_in) in [(&adapter.a[1], 13.0), (&adapter.b[1], 3.0)] {
        let (largest, bound) = (largest(values(part.val())), 1.0 / f64::sqrt(fan_in));
        assert!(largest <= bound && largest > 0.8 * bound, "{largest}");
    }
    assert_eq!(adapter.num_params(), settings.count().trained);
    let other = settings.init::<B>(6, device);
    assert_ne!(values(other.a[0].val()), values(adapter.a[0].val()));
    // A tie is a matter of the role, not of the other sites.
    let alone = Targets::suffixes(["1.first"]).select(plan().sites());
    let alone = TiedLoraConfig { rank: 3 }.check(&alone.unwrap()).unwrap();
    let alone = alone.init::<B>(5, device);
    assert_eq!(values(alone.a[0].val()), values(adapter.a[0].val()));
}

/// Weights by site.
struct Weights(Vec<(String, Matrix)>);

impl BaseWeights for Weights {
    fn weight(&self, site: &str) -> Option<Vec<f32>> {
        let (_, weight) = self.0.iter().find(|(name, _)| name == site)?;
        Some(narrow(weight))
    }
}

fn weights() -> Weights {
    let plan = plan();
    let weights = per_site(&plan, "weight", |site| [site.d_in, site.d_out]);
    let names = plan.sites().iter().map(|site| site.name.clone());
    Weights(names.zip(weights).collect())
}

/// With R = 1 and a full rank the update is the weight itself; the beginning is small and a function of the seed.
pub(crate) fn lora_xs_starts_from_the_frozen_weights<B: VbLoraBackend>(device: &B::Device) {
    let config = LoraXsConfig {
        rank: 5,
        ..LoraXsConfig::default()
    };
    let plan = Targets::suffixes(["second"])
        .select(plan().sites())
        .unwrap();
    let settings = config.check(&plan).unwrap();
    let mut adapter = settings.init::<B>(&weights(), 5, device).unwrap();
    assert_eq!(adapter.num_params(), 2 * 5 * 5);
    let r = values(adapter.r[0].val());
    let deviation = (r.iter().map(|v| v * v).sum::<f64>() / 25.0).sqrt();
    assert!((5e-6..2e-5).contains(&deviation), "{deviation}");
    let other = settings.init::<B>(&weights(), 6, device).unwrap();
    assert_ne!(values(other.r[0].val()), r);
    for r in &mut adapter.r {
        *r = Param::from_tensor(Tensor::eye(5, device));
    }
    let factors = adapter.factors();
    for (site, weight) in weights()
        .0
        .iter()
        .filter(|(site, _)| site.ends_with("second"))
    {
        let found = values(factors.get(site).unwrap().delta());
        assert_close(site, &found, &weight.values, products(1e-5));
    }
}

pub(crate) fn lora_xs_refuses_what_its_weights_cannot_give<B: VbLoraBackend>(device: &B::Device) {
    let config = LoraXsConfig {
        rank: 5,
        ..LoraXsConfig::default()
    };
    let init = |config: &LoraXsConfig, weights: &dyn BaseWeights| {
        let config = AdapterConfig::LoraXs(config.clone());
        let made = config.init_on::<B>(weights, &plan(), 1, device);
        made.err().map(|error| error.to_string())
    };
    assert_eq!(init(&config, &weights()), None);
    let above = LoraXsConfig {
        rank: 6,
        ..config.clone()
    };
    let error = init(&above, &weights()).unwrap();
    let parts = ["layer.0.second", "r = 6", "[13, 5]", "rank 5"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    let error = init(&config, &()).unwrap();
    assert!(error.contains("layer.0.first"), "{error}");
    let mut spoilt = weights();
    spoilt.0[1].1 = random("u", 13, 2).times(&random("v", 2, 5));
    let error = init(&config, &spoilt).unwrap();
    assert!(
        error.contains("layer.0.second") && error.contains("rank 2"),
        "{error}"
    );
    spoilt.0[1].1.values[7] = f64::NAN;
    let error = init(&config, &spoilt).unwrap();
    assert!(
        error.contains("layer.0.second") && error.contains("NaN"),
        "{error}"
    );
    spoilt.0.truncate(3);
    spoilt.0[1].1 = random("w", 13, 4);
    assert!(init(&config, &spoilt).unwrap().contains("[13, 5]"));
}
