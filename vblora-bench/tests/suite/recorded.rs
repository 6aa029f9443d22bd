//! Twenty AdamW steps recorded from torch and PEFT (shared/fixtures/train, if it exists).

use std::path::Path;

use burn::backend::Autodiff;
use vblora::{
    Adapter, AnyAdapter, SitePlan, Targets, VbLoraConfig, backend::VbLoraBackend, storage::Codes,
};
use vblora_bench::{
    recipes::{AdamSettings, LearningRates, Recipe, Size, WeightDecay},
    tasks::Task,
    train::{LabelledBatch, Learner, Trained},
};
use vblora_models::{ClassificationHead, Encoder, Labels, ModelFiles, PaddedBatch};

use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder, json, number, rank_first},
    products, tensor, values,
};

type Ad<B> = Autodiff<B>;

const PREFIX: &str = "base_model.model.";

pub(crate) fn fixture_train<B: VbLoraBackend>(device: &B::Device) {
    let (Some(runs), Some(models)) = (folder("train"), folder("models")) else {
        return;
    };
    let (base, _) = Encoder::<B>::load(
        &ModelFiles::open(&models.join("roberta/base")).unwrap(),
        device,
    )
    .unwrap();
    for path in entries(&runs, "") {
        println!("{}", path.display());
        follow(&path, &base, device);
    }
}

/// Repeats a run from its initial adapter and compares each loss, each group's gradient norm, and the end.
fn follow<B: VbLoraBackend>(path: &Path, base: &Encoder<B>, device: &B::Device) {
    let (case, io) = (
        json(&path.join("io.json")),
        Tensors::read(&path.join("io.safetensors")),
    );
    let start = Saved::read(&path.join("adapter_init"), base);
    let end = Saved::read(&path.join("adapter_step20"), base);
    let trained = Trained::Adapter(Box::new(AnyAdapter::VbLora(start.adapter::<Ad<B>>(device))));
    let mut learner: Learner<B> = Learner::new(
        base,
        trained,
        start.head::<Ad<B>>(device),
        &recipe(&case),
        0,
        device,
    );
    for (step, expected) in io.get("losses").iter().enumerate() {
        let report = learner.step(step, &[batch(&io, step)], 1.0).unwrap();
        assert_close(
            &format!("loss of step {step}"),
            &[report.loss],
            &[*expected],
            products(1e-5),
        );
        let norm = io.get("grad_norms")[3 * step..][..3]
            .iter()
            .map(|n| n * n)
            .sum::<f64>()
            .sqrt();
        assert_close(
            &format!("gradient norm of step {step}"),
            &[report.norm],
            &[norm],
            products(1e-4),
        );
    }
    let Trained::Adapter(adapter) = learner.trained() else {
        unreachable!()
    };
    let AnyAdapter::VbLora(adapter) = &**adapter else {
        unreachable!()
    };
    let logits = values(adapter.logits.val().inner());
    assert_ends_close("bank", &values(adapter.bank.val().inner()), &end.bank);
    assert_ends_close("logits", &logits, &end.logits);
    let codes = |logits: &[f64]| {
        let logits: Vec<f32> = logits.iter().map(|&v| v as f32).collect();
        let mut codes = Codes::from_logits(&logits, end.config.bank, end.config.topk).indices;
        codes
            .chunks_mut(end.config.topk)
            .for_each(<[u32]>::sort_unstable);
        codes
    };
    let (found, expected) = (codes(&logits), codes(&end.logits));
    let moved = found.iter().zip(&expected).filter(|(f, e)| f != e).count();
    let allowed = if products(0.0) > 0.0 {
        found.len() / 20
    } else {
        0
    };
    assert!(
        moved <= allowed,
        "{moved} of {} selected vectors are others",
        found.len()
    );
    assert_ne!(
        codes(&start.logits),
        codes(&end.logits),
        "the selection moved"
    );
    assert!(adapter.plan().sites().len() == end.plan.sites().len());
}

/// The largest difference after 20 steps. AdamW divides by a gradient's size, so a gradient that is mostly rounding moves its parameter by
/// a whole step. With TF32 products single values end tenths of the largest away, so the root mean square is checked instead. PyTorch's own
/// bank of `qv_wd0` is 2.6e-2 away by that measure, if each operand is rounded as in tensor cores. Single values are then 0.18 away.
#[track_caller]
fn assert_ends_close(what: &str, found: &[f64], expected: &[f64]) {
    if products(0.0) == 0.0 {
        return assert_close(what, found, expected, 1e-3);
    }
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let squares = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2));
    let rms = (squares.sum::<f64>() / found.len() as f64).sqrt();
    assert!(
        rms <= 4e-2 * largest,
        "{what}: rms {rms}, largest {largest}"
    );
}

fn recipe(case: &serde_json::Value) -> Recipe {
    let optimizer = &case["optimizer"];
    let float = |value: &serde_json::Value| {
        value
            .as_f64()
            .unwrap_or_else(|| panic!("no number in {optimizer}"))
    };
    assert_eq!(
        (optimizer["name"].as_str(), optimizer["decoupled"].as_bool()),
        (Some("AdamW"), Some(true)),
        "{optimizer}"
    );
    let decay = float(&optimizer["weight_decay"]);
    let lr = &optimizer["lr"];
    Recipe {
        lr: LearningRates {
            bank: float(&lr["bank"]),
            logits: float(&lr["logits"]),
            head: float(&lr["head"]),
            adapter: 0.0,
            vera: None,
            tied_lora: None,
            lora_xs: None,
            base: 0.0,
        },
        weight_decay: WeightDecay {
            bank: decay,
            logits: decay,
            head: decay,
            adapter: decay,
            base: decay,
            biases: true,
        },
        adam: AdamSettings {
            beta1: float(&optimizer["betas"][0]),
            beta2: float(&optimizer["betas"][1]),
            eps: float(&optimizer["eps"]),
        },
        clip_norm: 0.0,
        ..Recipe::builtin(Size::Demo, &Task::demo()).unwrap()
    }
}

fn batch(io: &Tensors, step: usize) -> LabelledBatch {
    let [_, rows, columns] = *io.shape("input_ids") else {
        panic!("input_ids")
    };
    let ints = |name: &str, size: usize| {
        io.get(name)[step * size..][..size]
            .iter()
            .map(|&v| v as i64)
            .collect::<Vec<_>>()
    };
    let inputs = PaddedBatch {
        ids: ints("input_ids", rows * columns),
        type_ids: vec![0; rows * columns],
        mask: ints("attention_mask", rows * columns),
        rows,
        columns,
    };
    let labels = ints("labels", rows)
        .into_iter()
        .map(|l| l as usize)
        .collect();
    LabelledBatch {
        inputs,
        labels: Labels::Classes(labels),
    }
}

/// A PEFT folder with full logits and a head.
struct Saved {
    config: VbLoraConfig,
    plan: SitePlan,
    bank: Vec<f64>,
    logits: Vec<f64>,
    tensors: Tensors,
}

impl Saved {
    fn read<B: VbLoraBackend>(folder: &Path, base: &Encoder<B>) -> Self {
        let config = json(&folder.join("adapter_config.json"));
        let tensors = Tensors::read(&folder.join("adapter_model.safetensors"));
        let targets = match &config["target_modules"] {
            serde_json::Value::String(all) => all.parse::<Targets>().unwrap(),
            list => {
                // PEFT writes the full names, including heads. Sites have no model prefix.
                let names = list
                    .as_array()
                    .expect("a list of names")
                    .iter()
                    .map(|s| s.as_str().unwrap());
                Targets::suffixes(names.map(|name| name.trim_start_matches("roberta.")))
            }
        };
        let plan = targets.select(&base.sites()).unwrap();
        let mut logits = Vec::new();
        for site in plan.sites() {
            let name = format!("{PREFIX}roberta.{}.vblora_logits_", site.name);
            logits.extend_from_slice(tensors.get(&format!("{name}A")));
            logits.extend(rank_first(
                tensors.get(&format!("{name}B")),
                tensors.shape(&format!("{name}B")),
            ));
        }
        let config = VbLoraConfig {
            bank: number(&config, "num_vectors"),
            vector_length: number(&config, "vector_length"),
            rank: number(&config, "r"),
            topk: number(&config, "topk"),
            ..Default::default()
        };
        let bank = tensors.get("base_model.vblora_vector_bank").to_vec();
        Self {
            config,
            plan,
            bank,
            logits,
            tensors,
        }
    }

    fn adapter<B: VbLoraBackend>(&self, device: &B::Device) -> vblora::VbLora<B> {
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
        self.config
            .check(&self.plan)
            .unwrap()
            .load(narrow(&self.bank), narrow(&self.logits), device)
            .unwrap()
    }

    fn head<B: VbLoraBackend>(&self, device: &B::Device) -> ClassificationHead<B> {
        let linear = |name: &str| {
            let weight = format!("{PREFIX}classifier.{name}.weight");
            let [d_out, d_in] = *self.tensors.shape(&weight) else {
                panic!("{weight}")
            };
            let bias = tensor(
                self.tensors.get(&format!("{PREFIX}classifier.{name}.bias")),
                [d_out],
                device,
            );
            (
                tensor::<B, 2>(self.tensors.get(&weight), [d_out, d_in], device).transpose(),
                bias,
            )
        };
        ClassificationHead::new(linear("dense"), linear("out_proj"), 0.0)
    }
}
