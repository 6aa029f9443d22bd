//! The baselines on the small RoBERTa, as recorded (shared/fixtures/baselines, where there): logits, loss, gradients, merged weights.

use std::path::{Path, PathBuf};

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Param},
    tensor::{Tensor, backend::AutodiffBackend},
};
use vblora::{
    Adapter, AnyAdapter, Composition, Factors, FrozenLinear, LoraXsConfig, SitePlan, Targets,
    TiedLoraConfig,
    adapter::{LoraXsValues, TiedValues},
    backend::VbLoraBackend,
    storage::{HostTensor, peft::PeftDirectory},
};
use vblora_models::{
    ClassificationHead, Encoder, EncoderInput, HeadForm, Labels, ModelFiles, PaddedBatch, loss,
};

use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder},
    products, values,
};

type Ad<B> = Autodiff<B>;
type Gradients<B> = <Ad<B> as AutodiffBackend>::Gradients;

const PREFIX: &str = "roberta.";

/// The records of a method on the RoBERTa, whose names say what is adapted.
fn records(method: &str, suffix: &str) -> Vec<PathBuf> {
    let Some(folder) = folder(&format!("baselines/{method}")) else {
        return Vec::new();
    };
    let mut cases = entries(&folder, suffix);
    cases.retain(|path| path.to_string_lossy().contains("roberta_"));
    assert_eq!(cases.len(), 2, "{method}");
    cases
}

fn model<B: VbLoraBackend>(device: &B::Device) -> Encoder<Ad<B>> {
    let base = base();
    Encoder::load(&ModelFiles::open(&base).unwrap(), device)
        .unwrap()
        .0
}

fn base() -> PathBuf {
    folder("models")
        .expect("beside the baselines")
        .join("roberta/base")
}

fn plan<B: VbLoraBackend>(path: &Path, model: &Encoder<B>) -> SitePlan {
    let targets = match path.to_string_lossy().contains("_qv_") {
        true => Targets::suffixes(["query", "value"]),
        false => Targets::all_linear(),
    };
    targets.select(&model.sites()).unwrap()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// A matrix of a record, turned over.
fn turned(recorded: &Tensors, name: &str) -> Vec<f32> {
    let [rows, columns] = *recorded.shape(name) else {
        panic!("{name} is no matrix")
    };
    let values = recorded.get(name);
    let column = |j: usize| (0..rows).map(move |i| values[i * columns + j] as f32);
    (0..columns).flat_map(column).collect()
}

/// The head of the base itself.
fn base_head<B: VbLoraBackend>(device: &B::Device) -> ClassificationHead<B> {
    let file = Tensors::read(&base().join("model.safetensors"));
    let names = file.names().filter(|name| name.starts_with("classifier."));
    let tensors: Vec<_> = names
        .map(|name| {
            let tensor = HostTensor {
                shape: file.shape(name).to_vec(),
                values: narrow(file.get(name)),
            };
            (name.to_owned(), tensor)
        })
        .collect();
    ClassificationHead::from_tensors(HeadForm::ROBERTA, "the base", &tensors, 0.0, device).unwrap()
}

/// The gradient of a parameter under its name in the record.
type Named = Vec<(String, Vec<f64>)>;

fn of<B: VbLoraBackend, const D: usize>(
    parameter: &Param<Tensor<Ad<B>, D>>,
    grads: &Gradients<B>,
) -> Tensor<B, D> {
    parameter.val().grad(grads).expect("a gradient")
}

fn gradients<B: VbLoraBackend>(adapter: &AnyAdapter<Ad<B>>, grads: &Gradients<B>) -> Named {
    let mut named = Named::new();
    for (i, site) in adapter.plan().sites().iter().enumerate() {
        let name = |part: &str| match adapter {
            AnyAdapter::Lora(_) | AnyAdapter::Vera(_) => {
                format!("base_model.model.{PREFIX}{}.{part}", site.name)
            }
            _ => format!("{PREFIX}{}.{part}", site.name),
        };
        match adapter {
            AnyAdapter::Lora(lora) => named.extend([
                (name("lora_A.weight"), values(of(&lora.a[i], grads))),
                (
                    name("lora_B.weight"),
                    values(of(&lora.b[i], grads).transpose()),
                ),
            ]),
            AnyAdapter::Vera(vera) => named.extend([
                (name("vera_lambda_d"), values(of(&vera.lambda_d[i], grads))),
                (name("vera_lambda_b"), values(of(&vera.lambda_b[i], grads))),
            ]),
            AnyAdapter::TiedLora(tied) => named.extend([
                (name("u"), values(of(&tied.u[i], grads))),
                (name("v"), values(of(&tied.v[i], grads))),
            ]),
            AnyAdapter::LoraXs(xs) => named.push((name("R"), values(of(&xs.r[i], grads)))),
            AnyAdapter::VbLora(_) => panic!("VB-LoRA has records of its own"),
        }
    }
    if let AnyAdapter::TiedLora(tied) = adapter {
        for (i, tie) in tied.settings().ties().iter().enumerate() {
            let (a, b) = (of(&tied.a[i], grads), of(&tied.b[i], grads));
            named.push((format!("{}.A", tie.name), values(a)));
            named.push((format!("{}.B", tie.name), values(b.transpose())));
        }
    }
    named
}

fn check<B: VbLoraBackend>(
    recorded: &Tensors,
    adapter: &AnyAdapter<Ad<B>>,
    model: &Encoder<Ad<B>>,
    head: &ClassificationHead<Ad<B>>,
    device: &B::Device,
) {
    let whole = |name: &str| -> Vec<i64> { recorded.get(name).iter().map(|&v| v as i64).collect() };
    let [rows, columns] = *recorded.shape("input_ids") else {
        panic!("input_ids")
    };
    let batch = PaddedBatch {
        ids: whole("input_ids"),
        type_ids: vec![0; rows * columns],
        mask: whole("attention_mask"),
        rows,
        columns,
    };
    let labels = Labels::Classes(whole("labels").iter().map(|&v| v as usize).collect());
    let mut step = Composition::new(adapter);
    let input = EncoderInput::new(&batch, model.config(), device);
    let logits = head.forward(model.forward(&input, step.factors()), None);
    let close = |found: &[f64], name: &str, tolerance: f64| {
        assert_close(name, found, recorded.get(name), products(tolerance));
    };
    close(&values(logits.clone().inner()), "logits", 2e-5);
    let loss = loss(logits, &labels);
    close(&values(loss.clone().inner()), "loss", 2e-5);
    step.collect(&mut loss.backward());
    let found = gradients(adapter, &step.push_back().unwrap());
    let all = recorded.names().filter(|name| {
        name.starts_with("grad.") && !name.contains("classifier") && !name.ends_with("_f64")
    });
    assert_eq!(found.len(), all.count());
    for (name, found) in found {
        close(&found, &format!("grad.{name}"), 1e-4);
    }
    let inner = adapter.valid().factors();
    let merged = model.valid().merged(&inner);
    let input = EncoderInput::new(&batch, merged.config(), device);
    let logits = head
        .valid()
        .forward(merged.forward(&input, &Factors::none()), None);
    close(&values(logits), "logits", 2e-5);
    for site in adapter.plan().sites() {
        let map = linear(&merged, &site.name);
        let name = format!("merged.{PREFIX}{}.weight", site.name);
        close(&values(map.weight.dense().transpose()), &name, 1e-5);
    }
}

fn linear<'a, B: VbLoraBackend>(model: &'a Encoder<B>, site: &str) -> &'a FrozenLinear<B> {
    let linears = model.layers.iter().flat_map(|layer| {
        [
            &layer.query,
            layer.key.as_ref().expect("three maps"),
            layer.value.as_ref().expect("three maps"),
            &layer.attention_output,
            &layer.intermediate,
            &layer.output,
        ]
    });
    let mut linears = linears;
    linears.find(|map| map.site().name == site).expect(site)
}

/// LoRA and VeRA as PEFT saved them.
pub(crate) fn fixture_peft_baselines<B: VbLoraBackend>(device: &B::Device) {
    for path in ["lora", "vera"].map(|method| records(method, "")).concat() {
        println!("{}", path.display());
        let model = model::<B>(device);
        let found = PeftDirectory::open(&path.join("adapter")).unwrap();
        let found = found.bind(&model.sites()).unwrap();
        assert_eq!(found.adapter.plan(), &plan(&path, &model));
        let head =
            ClassificationHead::from_tensors(HeadForm::ROBERTA, "PEFT", &found.saved, 0.0, device)
                .unwrap();
        let adapter = found.adapter.trainable(device).unwrap();
        let recorded = Tensors::read(&path.join("io.safetensors"));
        check(&recorded, &adapter, &model, &head, device);
    }
}

/// With the record's R on factors of our own: the decomposition of the base's weights.
pub(crate) fn fixture_lora_xs<B: VbLoraBackend>(device: &B::Device) {
    for path in records("lora_xs", ".safetensors") {
        println!("{}", path.display());
        let (model, recorded) = (model::<B>(device), Tensors::read(&path));
        let plan = plan(&path, &model);
        let first = &plan.sites()[0].name;
        let config = LoraXsConfig {
            rank: recorded.shape(&format!("param.{PREFIX}{first}.R"))[0],
            ..LoraXsConfig::default()
        };
        let settings = config.check(&plan).unwrap();
        let part = |kind: &str, part: &str| format!("{kind}.{PREFIX}{part}");
        let recorded_values = |kind: &str, name: &str| -> Vec<Vec<f32>> {
            let sites = plan.sites().iter();
            let name = |site: &str| part(kind, &format!("{site}.{name}"));
            sites
                .map(|site| narrow(recorded.get(&name(&site.name))))
                .collect()
        };
        let given = LoraXsValues {
            a: recorded_values("frozen", "A"),
            b: plan
                .sites()
                .iter()
                .map(|site| turned(&recorded, &part("frozen", &format!("{}.B", site.name))))
                .collect(),
            r: recorded_values("param", "R"),
        };
        let given = settings.load::<Ad<B>>(&given, device).unwrap();
        let mut own = settings.init::<Ad<B>>(&model, 1, device).unwrap();
        own.r.clone_from(&given.r);
        let head = base_head(device);
        for adapter in [given, own] {
            check(
                &recorded,
                &AnyAdapter::LoraXs(adapter),
                &model,
                &head,
                device,
            );
        }
    }
}

pub(crate) fn fixture_tied_lora<B: VbLoraBackend>(device: &B::Device) {
    for path in records("tied_lora", ".safetensors") {
        println!("{}", path.display());
        let (model, recorded) = (model::<B>(device), Tensors::read(&path));
        let plan = plan(&path, &model);
        let rank = recorded.shape(&format!("param.{PREFIX}{}.u", plan.sites()[0].name))[0];
        let settings = TiedLoraConfig { rank }.check(&plan).unwrap();
        let ties = settings.ties().iter();
        let of_sites = |part: &str| {
            let sites = plan.sites().iter();
            sites
                .map(|site| narrow(recorded.get(&format!("param.{PREFIX}{}.{part}", site.name))))
                .collect()
        };
        let given = TiedValues {
            a: ties
                .clone()
                .map(|tie| narrow(recorded.get(&format!("param.{}.A", tie.name))))
                .collect(),
            b: ties
                .map(|tie| turned(&recorded, &format!("param.{}.B", tie.name)))
                .collect(),
            u: of_sites("u"),
            v: of_sites("v"),
        };
        let adapter = AnyAdapter::TiedLora(settings.load::<Ad<B>>(&given, device).unwrap());
        check(&recorded, &adapter, &model, &base_head(device), device);
    }
}
