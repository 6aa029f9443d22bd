//! The baselines against values recorded from PEFT and torch (shared/fixtures/baselines, where there).

use std::path::Path;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Param},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{
    Adapter, AnyAdapter, BaseWeights, Composition, Factors, FrozenLinear, LoraXsConfig, Site,
    Targets, TiedLoraConfig, WeightLayout,
    adapter::{LoraXsValues, TiedValues},
    backend::VbLoraBackend,
    storage::{HostAdapter, peft::PeftDirectory},
};

use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder, json, number},
    products,
    reference::Matrix,
    tensor, values,
};

type Ad<B> = Autodiff<B>;
type Gradients<B> = <Ad<B> as AutodiffBackend>::Gradients;

fn matrix(recorded: &Tensors, name: &str) -> Matrix {
    let [rows, columns] = *recorded.shape(name) else {
        panic!("{name} is no matrix")
    };
    Matrix::new(rows, columns, recorded.get(name).to_vec())
}

fn on_device<B: VbLoraBackend>(
    recorded: &Tensors,
    name: &str,
    device: &B::Device,
) -> Tensor<Ad<B>, 2> {
    let matrix = matrix(recorded, name);
    tensor(&matrix.values, [matrix.rows, matrix.columns], device)
}

/// The frozen maps of a record, in the order in which the input goes through them, tanh between.
fn maps<B: VbLoraBackend>(recorded: &Tensors, device: &B::Device) -> Vec<FrozenLinear<Ad<B>>> {
    let names = match recorded.contains("base.lin.weight") {
        true => vec!["lin"],
        false => vec!["up", "down"],
    };
    names
        .into_iter()
        .map(|name| {
            let weight = on_device::<B>(recorded, &format!("base.{name}.weight"), device);
            let bias = recorded.get(&format!("base.{name}.bias"));
            let bias = tensor::<Ad<B>, 1>(bias, [bias.len()], device);
            FrozenLinear::new(name, weight, Some(bias), WeightLayout::OutIn)
        })
        .collect()
}

fn through<B: VbLoraBackend>(
    maps: &[FrozenLinear<Ad<B>>],
    x: Tensor<Ad<B>, 2>,
    factors: &Factors<Ad<B>>,
) -> Tensor<Ad<B>, 2> {
    let (last, before) = maps.split_last().expect("at least one map");
    let x = before
        .iter()
        .fold(x, |x, map| map.forward(x, factors).tanh());
    last.forward(x, factors)
}

/// A site's gradients by the names that PEFT gives its parameters.
fn gradients<B: VbLoraBackend>(
    adapter: &AnyAdapter<Ad<B>>,
    site: usize,
    grads: &Gradients<B>,
) -> Vec<(&'static str, Vec<f64>)> {
    fn of<B: VbLoraBackend, const D: usize>(
        parameter: &Param<Tensor<Ad<B>, D>>,
        grads: &Gradients<B>,
    ) -> Tensor<B, D> {
        parameter.val().grad(grads).expect("a gradient")
    }
    match adapter {
        AnyAdapter::Lora(lora) => vec![
            ("lora_A.weight", values(of::<B, 2>(&lora.a[site], grads))),
            (
                "lora_B.weight",
                values(of::<B, 2>(&lora.b[site], grads).transpose()),
            ),
        ],
        AnyAdapter::Vera(vera) => vec![
            (
                "vera_lambda_d",
                values(of::<B, 1>(&vera.lambda_d[site], grads)),
            ),
            (
                "vera_lambda_b",
                values(of::<B, 1>(&vera.lambda_b[site], grads)),
            ),
        ],
        other => panic!("{} has no record of this kind", other.name()),
    }
}

/// An adapter that PEFT saved: output, gradients of input and parameters, merged weights.
fn check_saved<B: VbLoraBackend>(path: &Path, device: &B::Device) {
    println!("{}", path.display());
    let recorded = Tensors::read(&path.join("io.safetensors"));
    let maps = maps::<B>(&recorded, device);
    let sites: Vec<Site> = maps.iter().map(FrozenLinear::site).collect();
    let found = PeftDirectory::open(&path.join("adapter")).unwrap();
    let host = found.bind(&sites).unwrap().adapter;
    let adapter = host.trainable::<Ad<B>>(device).unwrap();
    let close = |what: &str, found: &[f64], name: &str| {
        assert_close(what, found, recorded.get(name), products(1e-5));
    };
    let mut step = Composition::new(&adapter);
    let x = on_device::<B>(&recorded, "x", device).require_grad();
    let y = through(&maps, x.clone(), step.factors());
    close("y", &values(y.clone()), "y_f64");
    let grad = on_device::<B>(&recorded, "grad_y", device);
    let mut grads = (y * grad).sum().backward();
    close("grad x", &values(x.grad(&grads).unwrap()), "grad_x_f64");
    step.collect(&mut grads);
    let grads = step.push_back().unwrap();
    for (index, site) in adapter.plan().sites().iter().enumerate() {
        for (part, found) in gradients::<B>(&adapter, index, &grads) {
            let name = format!("grad.base_model.model.{}.{part}_f64", site.name);
            close(&name, &found, &name);
        }
    }
    let factors = HostAdapter::Lora(host.to_lora()).factors::<B>(device);
    for map in &maps {
        let site = map.site().name;
        let delta = factors.get(&site).unwrap().delta().transpose();
        close("delta", &values(delta), &format!("delta.{site}"));
        let merged = map.valid().merged(&factors).weight.dense().transpose();
        close("merged", &values(merged), &format!("merged.{site}.weight"));
    }
}

/// PEFT's LoRA and VeRA on one and two linear maps.
pub(crate) fn fixture_peft_baselines<B: VbLoraBackend>(device: &B::Device) {
    for method in ["lora", "vera"] {
        let Some(folder) = folder(&format!("baselines/{method}")) else {
            return;
        };
        let mut cases = entries(&folder, "");
        cases.retain(|path| !path.to_string_lossy().contains("roberta"));
        assert_eq!(cases.len(), 2);
        for path in cases {
            check_saved::<B>(&path, device);
        }
    }
}

fn narrow(matrix: &Matrix) -> Vec<f32> {
    matrix.values.iter().map(|&v| v as f32).collect()
}

/// The single-file records of a method, RoBERTa's apart.
fn records(method: &str) -> Vec<std::path::PathBuf> {
    let Some(folder) = folder(&format!("baselines/{method}")) else {
        return Vec::new();
    };
    let mut cases = entries(&folder, ".safetensors");
    cases.retain(|path| !path.to_string_lossy().contains("roberta"));
    assert!(!cases.is_empty());
    cases
}

/// The frozen weight of a record.
struct Recorded<'a>(&'a Tensors);

impl BaseWeights for Recorded<'_> {
    fn weight(&self, _: &str) -> Option<Vec<f32>> {
        Some(narrow(&matrix(self.0, "base_weight").transposed()))
    }
}

/// Output, gradients, update and merged weight with the factors of the record; and the record's factors out of its weight.
pub(crate) fn fixture_lora_xs<B: VbLoraBackend>(device: &B::Device) {
    for path in records("lora_xs") {
        println!("{}", path.display());
        let recorded = Tensors::read(&path);
        let rank = number(&json(&path.with_extension("json")), "r");
        let map = {
            let bias = recorded.get("base_bias");
            let bias = tensor::<Ad<B>, 1>(bias, [bias.len()], device);
            let weight = on_device::<B>(&recorded, "base_weight", device);
            FrozenLinear::new("w", weight, Some(bias), WeightLayout::OutIn)
        };
        let plan = Targets::all_linear().select(&[map.site()]).unwrap();
        let config = LoraXsConfig {
            rank,
            ..LoraXsConfig::default()
        };
        let settings = config.check(&plan).unwrap();
        let part = |name: &str| vec![narrow(&matrix(&recorded, name))];
        let values_of = LoraXsValues {
            a: part("A"),
            b: vec![narrow(&matrix(&recorded, "B").transposed())],
            r: part("R"),
        };
        let adapter = settings.load::<Ad<B>>(&values_of, device).unwrap();
        let close = |found: &[f64], name: &str| {
            assert_close(name, found, recorded.get(name), products(1e-5));
        };
        let mut step = Composition::new(&adapter);
        let x = on_device::<B>(&recorded, "x", device).require_grad();
        let y = map.forward(x.clone(), step.factors());
        close(&values(y.clone()), "y_f64");
        let mut grads = (y * on_device::<B>(&recorded, "grad_y", device))
            .sum()
            .backward();
        close(&values(x.grad(&grads).unwrap()), "grad_x_f64");
        step.collect(&mut grads);
        let grads = step.push_back().unwrap();
        close(
            &values(adapter.r[0].val().grad(&grads).unwrap()),
            "grad_R_f64",
        );
        let factors = adapter.valid().factors();
        let delta = factors.get("w").unwrap().delta();
        close(&values(delta.transpose()), "delta_f64");
        let merged = map.valid().merged(&factors).weight.dense();
        close(&values(merged.transpose()), "merged_weight_f64");
        let mut own = settings.init::<B>(&Recorded(&recorded), 1, device).unwrap();
        own.r[0] = Param::from_tensor(Tensor::eye(rank, device));
        let [a, b] = own.slabs().try_into().expect("two factors");
        assert_close("A", &values(a), recorded.get("A_f64"), 1e-6);
        let b = values(b.transpose());
        assert_close("B", &b, recorded.get("B_f64"), products(1e-6));
    }
}

/// Two layers on one input that share A and B.
pub(crate) fn fixture_tied_lora<B: VbLoraBackend>(device: &B::Device) {
    for path in records("tied_lora") {
        println!("{}", path.display());
        let recorded = Tensors::read(&path);
        let rank = number(&json(&path.with_extension("json")), "r");
        let maps = ["0", "1"].map(|layer| {
            let weight = on_device::<B>(&recorded, &format!("base_weight.{layer}"), device);
            FrozenLinear::new(format!("{layer}.w"), weight, None, WeightLayout::OutIn)
        });
        let sites = maps.each_ref().map(FrozenLinear::site);
        let plan = Targets::all_linear().select(&sites).unwrap();
        let settings = TiedLoraConfig { rank }.check(&plan).unwrap();
        let vectors = |part: &str| {
            let vector = |layer: &str| {
                let values = recorded.get(&format!("{part}.{layer}")).iter();
                values.map(|&v| v as f32).collect()
            };
            ["0", "1"].map(vector).to_vec()
        };
        let values_of = TiedValues {
            a: vec![narrow(&matrix(&recorded, "A"))],
            b: vec![narrow(&matrix(&recorded, "B").transposed())],
            u: vectors("u"),
            v: vectors("v"),
        };
        let adapter = settings.load::<Ad<B>>(&values_of, device).unwrap();
        let close = |found: &[f64], name: &str| {
            assert_close(name, found, recorded.get(name), products(1e-5));
        };
        let mut step = Composition::new(&adapter);
        let x = on_device::<B>(&recorded, "x", device).require_grad();
        let [first, second] = maps
            .each_ref()
            .map(|map| map.forward(x.clone(), step.factors()));
        let y = first + second;
        close(&values(y.clone()), "y_f64");
        let mut grads = (y * on_device::<B>(&recorded, "grad_y", device))
            .sum()
            .backward();
        close(&values(x.grad(&grads).unwrap()), "grad_x_f64");
        step.collect(&mut grads);
        let grads = step.push_back().unwrap();
        close(
            &values(adapter.a[0].val().grad(&grads).unwrap()),
            "grad_A_f64",
        );
        let b = adapter.b[0].val().grad(&grads).unwrap();
        close(&values(b.transpose()), "grad_B_f64");
        let factors = adapter.valid().factors();
        for (i, map) in maps.iter().enumerate() {
            let [u, v] = [&adapter.u[i], &adapter.v[i]].map(|p| p.val().grad(&grads).unwrap());
            close(&values(u), &format!("grad_u.{i}_f64"));
            close(&values(v), &format!("grad_v.{i}_f64"));
            let merged = map.valid().merged(&factors).weight.dense();
            close(
                &values(merged.transpose()),
                &format!("merged_weight.{i}_f64"),
            );
        }
    }
}
