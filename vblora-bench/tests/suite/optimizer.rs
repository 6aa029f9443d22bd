//! AdamW on all elements and on those that once had a gradient, for parameters together and one by one.

use burn::{
    backend::Autodiff,
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use vblora::{
    Adapter, Site, Targets, VbLora, VbLoraConfig,
    backend::{Clip, VbLoraBackend},
    rng::Key,
};
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
    optimizer.begin_step(None);
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

/// Parameters with sizes that no vector register divides.
#[derive(Module, Debug)]
struct Small<B: Backend> {
    all: Vec<Param<Tensor<B, 2>>>,
}

impl<B: VbLoraBackend> Small<Autodiff<B>> {
    fn new(device: &B::Device) -> Self {
        let parameter = |i: usize| {
            let shape = [i + 1, 5];
            let values = Key::new(7).index(i as u64).normal(shape[0] * shape[1], 1.0);
            let value = Tensor::from_data(TensorData::new(values, shape), device);
            Param::from_tensor(value).set_require_grad(true)
        };
        Self {
            all: (0..4).map(parameter).collect(),
        }
    }

    /// One step on random gradients of those parameters that `has_gradient`.
    fn step(
        self,
        step: usize,
        optimizer: &mut AdamW<B>,
        clip: impl Fn(&mut Gradients<B>) -> Option<Clip<Tensor<B, 1>>>,
        is_updated: impl Fn(usize) -> bool,
    ) -> Self {
        let has_gradient = |i: usize| is_updated(i) && (step % 3 != 1 || i.is_multiple_of(2));
        let terms = self.all.iter().enumerate().map(|(i, parameter)| {
            let value = parameter.val();
            let shape = value.dims();
            let key = Key::new(8).index(step as u64).index(i as u64);
            let gradient = key.normal(shape[0] * shape[1], 1.0);
            let gradient = TensorData::new(gradient, shape);
            (has_gradient(i))
                .then(|| (value * Tensor::from_data(gradient, &parameter.device())).sum())
        });
        let Some(loss) = terms.flatten().reduce(|a, b| a + b) else {
            optimizer.begin_step(None);
            return self;
        };
        let mut graph = loss.backward();
        let mut grads = Gradients::new();
        grads.collect("small", &self, &mut graph);
        optimizer.begin_step(clip(&mut grads));
        optimizer.apply("small", self, &grads, |path, _| Rule {
            lr: 0.1,
            decay: if path.ends_with('3') { 0.2 } else { 0.1 },
            selected: None,
        })
    }
}

/// Clipping by the host.
fn halved<B: VbLoraBackend>(grads: &mut Gradients<B>) -> Option<Clip<Tensor<B, 1>>> {
    grads.scale(0.5);
    None
}

/// This also holds if a step has gradients only for some of them. The others keep their moments.
pub(crate) fn parameters_are_updated_together_as_one_by_one<B: VbLoraBackend>(device: &B::Device) {
    const TOGETHER: usize = 7;
    let mut optimizer = AdamW::<B>::new(AdamSettings::default());
    let together = (0..TOGETHER).fold(Small::new(device), |small, step| {
        small.step(step, &mut optimizer, halved, |_| true)
    });
    let (_, moments) = optimizer.state();
    for i in 0..4 {
        let mut alone = AdamW::<B>::new(AdamSettings::default());
        let small = (0..TOGETHER).fold(Small::new(device), |small, step| {
            small.step(step, &mut alone, halved, |j| j == i)
        });
        let path = format!("small.all.{i}");
        let (_, of_one) = alone.state();
        let [first, second] = [&moments, &of_one].map(|moments| {
            moments[&path]
                .to_whole()
                .map(|m| host_tensor(m).values)
                .concat()
        });
        let value = |small: &Small<Autodiff<B>>| host_tensor(small.all[i].val().inner()).values;
        for (found, expected) in [(first, second), (value(&together), value(&small))] {
            if is_exact::<B>(device) {
                assert_eq!(found, expected, "{path}");
            } else {
                let [found, expected] =
                    [found, expected].map(|v| v.into_iter().map(f64::from).collect::<Vec<_>>());
                assert_close(&path, &found, &expected, 1e-5);
            }
        }
    }
}

/// With gradients of both kinds of norms: above the limit, and below it.
pub(crate) fn a_device_clips_as_the_host_does<B: VbLoraBackend>(device: &B::Device) {
    for limit in [0.5, 100.0] {
        let [there, here] = [true, false].map(|is_device| {
            let clip = |grads: &mut Gradients<B>| {
                let norm = grads.squared_norm()?.sqrt();
                if is_device {
                    return Some(Clip { norm, limit });
                }
                let norm = f64::from(host_tensor(norm).values[0]);
                grads.scale((limit / (norm + 1e-6)).min(1.0));
                None
            };
            let mut optimizer = AdamW::<B>::new(AdamSettings::default());
            let small = (0..5).fold(Small::new(device), |small, step| {
                small.step(step, &mut optimizer, clip, |_| true)
            });
            let of_small = small.all.iter().map(|parameter| parameter.val().inner());
            let values = of_small.map(|value| host_tensor(value).values);
            let (_, moments) = optimizer.state();
            let moments = moments.values().flat_map(|moments| moments.to_whole());
            let moments = moments.map(|moment| host_tensor(moment).values);
            let all = values.chain(moments).flatten();
            all.map(f64::from).collect::<Vec<_>>()
        });
        assert_close("values and moments", &there, &here, 1e-6);
    }
}
