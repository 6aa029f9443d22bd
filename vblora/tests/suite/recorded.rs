//! Values recorded from PEFT (shared/fixtures, where there): every case of a folder, settings from the JSON beside it.

use std::path::Path;

use burn::backend::Autodiff;
use vblora::{
    Composition, Factors, FrozenLinear, Site, Targets, ValidVbLora, VbLoraConfig, WeightLayout,
    backend::VbLoraBackend,
};

use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder, json, number, rank_first},
    products,
    reference::{self, Matrix},
    tensor, values,
};

type Ad<B> = Autodiff<B>;

fn settings(case: &serde_json::Value) -> ValidVbLora {
    let site = Site::new(
        "w",
        number(case, "in_features"),
        number(case, "out_features"),
    );
    let config = VbLoraConfig {
        bank: number(case, "num_vectors"),
        vector_length: number(case, "vector_length"),
        rank: number(case, "r"),
        topk: number(case, "topk"),
        ..Default::default()
    };
    config
        .check(&Targets::all_linear().select(&[site]).unwrap())
        .unwrap()
}

/// Names of the tensors of one layer in a fixture.
struct Names {
    bank: String,
    a: String,
    b: String,
    grad_bank: String,
    grad_a: String,
    grad_b: String,
}

/// Forward, update and all gradients of a layer against a record.
fn check_layer<B: VbLoraBackend>(
    device: &B::Device,
    case: &serde_json::Value,
    recorded: &Tensors,
    names: &Names,
    base: FrozenLinear<Ad<B>>,
) {
    let valid = settings(case);
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let mut logits = recorded.get(&names.a).to_vec();
    logits.extend(rank_first(recorded.get(&names.b), recorded.shape(&names.b)));
    let adapter = valid
        .load::<Ad<B>>(narrow(recorded.get(&names.bank)), narrow(&logits), device)
        .unwrap();
    let matrix = |name: &str| {
        let [rows, columns] = *recorded.shape(name) else {
            panic!("{name} is no matrix")
        };
        tensor::<Ad<B>, 2>(recorded.get(name), [rows, columns], device)
    };
    let mut step = Composition::new(&adapter);
    let x = matrix("x").require_grad();
    let y = base.forward(x.clone(), step.factors());
    assert_close(
        "y",
        &values(y.clone().inner()),
        recorded.get("y"),
        products(1e-5),
    );
    let delta = step.factors().get("w").unwrap().delta().transpose();
    assert_close(
        "delta",
        &values(delta.inner()),
        recorded.get("delta"),
        products(1e-5),
    );
    let mut grads = (y * matrix("grad_y")).sum().backward();
    assert_close(
        "grad x",
        &values(x.grad(&grads).unwrap()),
        recorded.get("grad_x"),
        products(1e-5),
    );
    step.collect(&mut grads);
    let grads = step.push_back().unwrap();
    assert_close(
        "grad bank",
        &values(adapter.bank.val().grad(&grads).unwrap()),
        recorded.get(&names.grad_bank),
        products(1e-5),
    );
    let mut expected = recorded.get(&names.grad_a).to_vec();
    expected.extend(rank_first(
        recorded.get(&names.grad_b),
        recorded.shape(&names.grad_b),
    ));
    assert_close(
        "grad logits",
        &values(adapter.logits.val().grad(&grads).unwrap()),
        &expected,
        products(1e-5),
    );
}

pub(crate) fn fixture_admixture<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("admixture") else {
        return;
    };
    for path in entries(&folder, ".json") {
        println!("{}", path.display());
        let (case, recorded) = (
            json(&path),
            Tensors::read(&path.with_extension("safetensors")),
        );
        let [d_in, d_out] = ["in_features", "out_features"].map(|key| number(&case, key));
        let zero = tensor::<Ad<B>, 2>(&vec![0.0; d_in * d_out], [d_in, d_out], device);
        let [bank, a, b] = ["bank", "logits_A", "logits_B"].map(str::to_owned);
        let [grad_bank, grad_a, grad_b] =
            ["grad_bank", "grad_logits_A", "grad_logits_B"].map(str::to_owned);
        let names = Names {
            bank,
            a,
            b,
            grad_bank,
            grad_a,
            grad_b,
        };
        check_layer::<B>(
            device,
            &case,
            &recorded,
            &names,
            FrozenLinear::new("w", zero, None, WeightLayout::InOut),
        );
        check_f64(&case, &recorded);
        check_codes(&case, &recorded);
    }
}

/// The plain reference against the record in f64.
fn check_f64(case: &serde_json::Value, recorded: &Tensors) {
    let k = number(case, "topk");
    let flat = |name: &str| {
        let columns = *recorded.shape(name).last().unwrap();
        Matrix::new(
            recorded.get(name).len() / columns,
            columns,
            recorded.get(name).to_vec(),
        )
    };
    let bank = flat("bank");
    let a = reference::admixture(&flat("logits_A"), &bank, k);
    assert_close("A f64", &a.values, recorded.get("A_f64"), 1e-12);
    let b = reference::admixture(&flat("logits_B"), &bank, k);
    // (out/b, r, b) -> (out, r)
    let (rank, length) = (number(case, "r"), bank.columns);
    let tiles = b.rows / rank;
    let expected = (0..tiles)
        .flat_map(|t| (0..length).flat_map(move |j| (0..rank).map(move |rho| (t * rank + rho, j))));
    let up: Vec<f64> = expected.map(|(row, j)| b.row(row)[j]).collect();
    assert_close("B f64", &up, recorded.get("B_f64"), 1e-12);
    let a = Matrix::new(rank, a.values.len() / rank, a.values);
    let delta = Matrix::new(up.len() / rank, rank, up).times(&a);
    assert_close("delta f64", &delta.values, recorded.get("delta_f64"), 1e-12);
}

/// The codes of the logits against torch.topk's.
fn check_codes(case: &serde_json::Value, recorded: &Tensors) {
    let (h, k) = (number(case, "num_vectors"), number(case, "topk"));
    for side in ["A", "B"] {
        let logits: Vec<f32> = recorded
            .get(&format!("logits_{side}"))
            .iter()
            .map(|&v| v as f32)
            .collect();
        let codes = vblora::storage::Codes::from_logits(&logits, h, k);
        let found: Vec<f64> = codes.indices.iter().map(|&i| f64::from(i)).collect();
        assert_eq!(
            found,
            recorded.get(&format!("indices_{side}")),
            "indices of {side}"
        );
        let weights: Vec<f64> = codes.full_weights().iter().map(|&w| f64::from(w)).collect();
        assert_close(
            "weights",
            &weights,
            recorded.get(&format!("weights_{side}")),
            products(1e-5),
        );
    }
}

pub(crate) fn fixture_peft_linear<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("peft_linear") else {
        return;
    };
    for path in entries(&folder, "") {
        println!("{}", path.display());
        let (case, recorded) = (
            json(&path.join("io.json")),
            Tensors::read(&path.join("io.safetensors")),
        );
        let base = |recorded: &Tensors| {
            let [d_out, d_in] = *recorded.shape("base_weight") else {
                panic!("base weight")
            };
            let weight = tensor::<Ad<B>, 2>(recorded.get("base_weight"), [d_out, d_in], device);
            let bias = tensor::<Ad<B>, 1>(recorded.get("base_bias"), [d_out], device);
            FrozenLinear::new("w", weight, Some(bias), WeightLayout::OutIn)
        };
        let module = "base_model.model.lin.vblora_logits";
        let names = Names {
            bank: "param.base_model.vblora_vector_bank".into(),
            a: format!("param.{module}_A"),
            b: format!("param.{module}_B"),
            grad_bank: "grad.base_model.vblora_vector_bank".into(),
            grad_a: format!("grad.{module}_A"),
            grad_b: format!("grad.{module}_B"),
        };
        check_layer::<B>(device, &case, &recorded, &names, base(&recorded));
        check_stored::<B>(device, &path, &case, &recorded, &base(&recorded));
    }
}

/// The stored form of the recorded logits: same output and merged weight as PEFT's after its own reload.
fn check_stored<B: VbLoraBackend>(
    device: &B::Device,
    path: &Path,
    case: &serde_json::Value,
    recorded: &Tensors,
    base: &FrozenLinear<Ad<B>>,
) {
    let valid = settings(case);
    let full = Tensors::read(&path.join("adapter_full/adapter_model.safetensors"));
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let mut logits = full.get("base_model.model.lin.vblora_logits_A").to_vec();
    let b = "base_model.model.lin.vblora_logits_B";
    logits.extend(rank_first(full.get(b), full.shape(b)));
    let bank = narrow(full.get("base_model.vblora_vector_bank"));
    let stored = valid
        .load::<Ad<B>>(bank, narrow(&logits), device)
        .unwrap()
        .store()
        .unwrap();
    let factors: Factors<Ad<B>> = stored.factors(device);
    let [rows, columns] = *recorded.shape("x") else {
        panic!("x")
    };
    let x = tensor::<Ad<B>, 2>(recorded.get("x"), [rows, columns], device);
    assert_close(
        "reloaded",
        &values(base.forward(x, &factors).inner()),
        recorded.get("y_topk_reload"),
        products(1e-5),
    );
    let merged = base.merged(&factors).weight.dense().transpose();
    assert_close(
        "merged",
        &values(merged.inner()),
        recorded.get("merged_weight_topk"),
        products(1e-5),
    );
}
