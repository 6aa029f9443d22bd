//! AdamW on the elements that have had a gradient, and on all.

use burn::{
    backend::Autodiff,
    tensor::{Tensor, TensorData},
};
use vblora::{Adapter, Site, Targets, VbLora, VbLoraConfig, backend::VbLoraBackend, rng::Key};
use vblora_bench::{
    recipes::AdamSettings,
    train::{AdamW, Gradients, Rule},
};
use vblora_models::host_tensor;

use super::is_exact;
use crate::support::assert_close;

const STEPS: usize = 150;

/// h
const BANK: usize = 90;

fn adapter<B: VbLoraBackend>(topk: usize, device: &B::Device) -> VbLora<Autodiff<B>> {
    let config = VbLoraConfig {
        bank: BANK,
        vector_length: 4,
        rank: 3,
        topk,
        bank_bound: 0.5,
        logits_std: 0.05,
        ..Default::default()
    };
    let sites = [Site::new("one", 8, 12), Site::new("two", 4, 4)];
    let plan = Targets::all_linear().select(&sites).unwrap();
    config.check(&plan).unwrap().init(5, device)
}

/// One step on a random gradient of the sub-vectors.
fn step<B: VbLoraBackend>(
    i: usize,
    adapter: VbLora<Autodiff<B>>,
    optimizer: &mut AdamW<B>,
    selected: Option<usize>,
) -> VbLora<Autodiff<B>> {
    let slab = adapter.slabs().remove(0);
    let shape = slab.dims();
    let gradient = Key::new(6).index(i as u64).normal(shape[0] * shape[1], 1.0);
    let gradient = TensorData::new(gradient, shape);
    let gradient = Tensor::from_data(gradient, &slab.device());
    let mut graph = (slab * gradient).sum().backward();
    let mut grads = Gradients::new();
    grads.collect("adapter", &adapter, &mut graph);
    optimizer.begin_step();
    optimizer.apply("adapter", adapter, &grads, |path, _| Rule {
        lr: 0.5,
        decay: 0.0,
        selected: selected.filter(|_| path.ends_with(".logits")),
    })
}

pub(crate) fn touched_elements_are_updated_as_if_all_were<B: VbLoraBackend>(device: &B::Device) {
    for topk in [1, 2, 3] {
        let run = |selected: Option<usize>| {
            let mut optimizer = AdamW::<B>::new(AdamSettings::default());
            let adapter = (0..STEPS).fold(adapter::<B>(topk, device), |adapter, i| {
                step(i, adapter, &mut optimizer, selected)
            });
            let (_, moments) = optimizer.state();
            let values = moments.iter().flat_map(|(path, moments)| {
                let moments = moments.to_whole().map(|m| host_tensor(m).values);
                moments.map(|values| (path.clone(), values))
            });
            let mut values: Vec<_> = values.collect();
            let logits = host_tensor(adapter.logits.val().inner()).values;
            values.push(("logits".into(), logits));
            values
        };
        let (found, expected) = (run(Some(topk)), run(None));
        if topk == 3 {
            let (_, first) = &found[2];
            let touched = |row: &[f32]| row.iter().filter(|moment| **moment != 0.0).count();
            let most = first.chunks(BANK).map(touched).max().unwrap();
            assert!(
                most > 27,
                "{most} columns fit in the slots that there are at first"
            );
        }
        for ((path, found), (_, expected)) in found.into_iter().zip(expected) {
            if is_exact::<B>(device) {
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert!(bits(&found) == bits(&expected), "k = {topk}: {path}");
            } else {
                let [found, expected] =
                    [found, expected].map(|v| v.into_iter().map(f64::from).collect::<Vec<_>>());
                assert_close(&path, &found, &expected, 1e-4);
            }
        }
    }
}
