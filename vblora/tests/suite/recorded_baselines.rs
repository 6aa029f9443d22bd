//! The baselines against values recorded from PEFT and torch (shared/fixtures/baselines, where there).

use std::path::Path;

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Param},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{
    Adapter, AnyAdapter, Composition, Factors, FrozenLinear, Site, WeightLayout,
    backend::VbLoraBackend,
    storage::{HostAdapter, peft::PeftDirectory},
};

use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder},
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
        let merged = map.valid().merged(&factors).weight.val().transpose();
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
