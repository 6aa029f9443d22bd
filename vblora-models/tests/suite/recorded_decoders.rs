//! Values recorded from PEFT and transformers on small decoders (shared/fixtures/models and models2, where there): every adapter of every
//! decoder found there.

use std::path::{Path, PathBuf};

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    tensor::{Tensor, TensorData},
};
use serde_json::Value;
use vblora::{
    Composition, Factors,
    backend::VbLoraBackend,
    ops::log_softmax,
    storage::{
        HostAdapter, HostVbLora, merge,
        peft::{PeftAdapter, PeftDirectory},
    },
};
use vblora_models::{
    DecoderConfig, ModelFiles,
    decoder::{CachedLm, CausalBatch, CausalInput, CausalLm, Side},
    generate::NextToken,
};

use crate::support::{
    alike, assert_close,
    fixtures::{Tensors, entries, folder, json, rank_first},
    gradients, products, values,
};

type Ad<B> = Autodiff<B>;

/// One recorded adapter on one base.
pub(super) struct Case<B: VbLoraBackend> {
    pub(super) path: PathBuf,
    pub(super) io: Value,
    pub(super) recorded: Tensors,
    pub(super) model: CausalLm<Ad<B>>,
}

/// The tokens in front of each label, and the label, where there is one.
pub(super) struct Labelled {
    places: Vec<usize>,
    labels: Vec<usize>,
}

pub(crate) fn fixture_gpt2<B: VbLoraBackend>(device: &B::Device) {
    check_family::<B>("gpt2", device);
}

pub(crate) fn fixture_llama<B: VbLoraBackend>(device: &B::Device) {
    check_family::<B>("llama", device);
}

pub(crate) fn fixture_mistral<B: VbLoraBackend>(device: &B::Device) {
    check_family::<B>("mistral", device);
}

pub(crate) fn fixture_gemma<B: VbLoraBackend>(device: &B::Device) {
    check_family::<B>("gemma", device);
}

fn check_family<B: VbLoraBackend>(name: &str, device: &B::Device) {
    if let Some(folder) = folder("models") {
        check_cases::<B>(&folder.join(name), device);
    }
}

/// The further families whose recorded values hold.
const FURTHER: [&str; 11] = [
    "gemma2",
    "gemma3",
    "granite",
    "llama3",
    "mistral_nemo",
    "olmo2",
    "phi3",
    "phi3_longrope",
    "qwen2",
    "qwen3",
    "smollm3",
];

/// Every further family found there, from both forms of its `config.json`. Those that are not listed are refused by name.
pub(crate) fn fixture_further_families<B: VbLoraBackend>(device: &B::Device) {
    let Some(folder) = folder("models2") else {
        return;
    };
    let folders = entries(&folder.join("models"), "");
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let (listed, others): (Vec<_>, Vec<_>) = folders
        .into_iter()
        .partition(|path| FURTHER.contains(&&*name(path)));
    assert_eq!(listed.len(), FURTHER.len());
    for family in listed {
        check_configurations(&family.join("base"));
        check_cases::<B>(&family, device);
    }
    for family in others {
        let files = ModelFiles::open(&family.join("base")).unwrap();
        let error = DecoderConfig::from_files(&files).unwrap_err().to_string();
        let says = ["supported are", "is not implemented"];
        assert!(says.iter().any(|text| error.contains(text)), "{error}");
    }
}

/// A file of transformers 4, one of transformers 5 and the one that is written of either say the same.
fn check_configurations(base: &Path) {
    let read = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        DecoderConfig::from_files(&ModelFiles::open(dir.path()).unwrap()).unwrap()
    };
    let [new, old] = ["config.json", "config_v4.json"]
        .map(|name| read(&std::fs::read_to_string(base.join(name)).unwrap()));
    assert_eq!(new, old);
    assert_eq!(read(&new.to_json()), new);
}

fn check_cases<B: VbLoraBackend>(family: &Path, device: &B::Device) {
    let cases = entries(family, "").into_iter();
    let cases: Vec<_> = cases.filter(|path| !path.ends_with("base")).collect();
    assert_eq!(cases.len(), 2, "qv and all-linear");
    for path in cases {
        println!("{}", path.display());
        let case = Case::<B>::read(family, &path, device);
        check_case(&case, device);
    }
}

impl<B: VbLoraBackend> Case<B> {
    fn read(family: &Path, path: &Path, device: &B::Device) -> Self {
        let base = ModelFiles::open(&family.join("base")).unwrap();
        let (model, report) = CausalLm::load(&base, device).unwrap();
        assert_eq!(report.ignored, Vec::<String>::new());
        assert_eq!(report.values, model.config().parameters());
        Self {
            path: path.to_owned(),
            io: json(&path.join("io.json")),
            recorded: Tensors::read(&path.join("io.safetensors")),
            model,
        }
    }

    fn adapter(&self, kind: &str) -> PeftAdapter {
        let directory = PeftDirectory::open(&self.path.join(kind)).unwrap();
        directory.bind(&self.model.sites()).unwrap()
    }

    fn whole(&self, name: &str) -> Vec<i64> {
        let values = self.recorded.get(name).iter();
        values.map(|&v| v as i64).collect()
    }

    /// The texts without their padding.
    pub(super) fn batch(&self) -> CausalBatch {
        let (ids, mask) = (self.whole("input_ids"), self.whole("attention_mask"));
        let [_, columns] = *self.recorded.shape("input_ids") else {
            panic!("input_ids")
        };
        let texts = ids
            .chunks(columns)
            .zip(mask.chunks(columns))
            .map(|(ids, mask)| {
                let real = ids.iter().zip(mask).filter(|(_, m)| **m == 1);
                real.map(|(&id, _)| id as u32).collect()
            });
        let texts: Vec<Vec<u32>> = texts.collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let batch = CausalBatch::pad(&texts, 0, Side::Right);
        assert_eq!(batch.columns, columns);
        batch
    }

    /// Labels as the loss shifts them.
    pub(super) fn labelled(&self) -> Labelled {
        let labels = self.whole("labels");
        let columns = self.recorded.shape("labels")[1];
        let (mut places, mut found) = (Vec::new(), Vec::new());
        for (at, &label) in labels.iter().enumerate() {
            if at % columns != 0 && label != -100 {
                places.push(at - 1);
                found.push(label as usize);
            }
        }
        Labelled {
            places,
            labels: found,
        }
    }

    /// The rows of tokens that are not padding.
    pub(super) fn of_tokens(&self, values: &[f64]) -> Vec<f64> {
        let mask = self.recorded.get("attention_mask");
        assert!(
            mask.contains(&0.0) && mask.contains(&1.0),
            "padding, and not only padding"
        );
        let d = values.len() / mask.len();
        let rows = values.chunks(d).zip(mask);
        rows.filter(|(_, m)| **m == 1.0)
            .flat_map(|(row, _)| row.to_vec())
            .collect()
    }

    fn assert_tokens(&self, name: &str, found: &[f64]) {
        let (found, expected) = (
            self.of_tokens(found),
            self.of_tokens(self.recorded.get(name)),
        );
        assert_within(name, &found, &expected, 1e-4);
    }
}

/// Holds values to an absolute tolerance, or, where products are less exact than that, to theirs of the largest value.
#[track_caller]
pub(super) fn assert_within(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let tolerance = match products(tolerance) {
        exact if exact == tolerance => tolerance,
        rounded => rounded * largest,
    };
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance,
            "{what}[{i}]: expected {e}, found {f}"
        );
    }
}

/// The mean negative log-likelihood of the labels.
pub(super) fn nll<B: VbLoraBackend>(scores: Tensor<B, 2>, at: &Labelled) -> Tensor<B, 1> {
    let device = scores.device();
    let ints = |values: &[usize]| {
        let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
        Tensor::from_data(TensorData::new(values, [at.places.len()]), &device)
    };
    let likely = log_softmax(scores.select(0, ints(&at.places)));
    likely
        .gather(1, ints(&at.labels).unsqueeze_dim(1))
        .mean()
        .neg()
}

pub(super) fn logits_of<B: VbLoraBackend>(
    model: &CausalLm<B>,
    hidden: Tensor<B, 3>,
) -> Tensor<B, 2> {
    let [n, t, d] = hidden.dims();
    model.logits(hidden.reshape([n * t, d]))
}

fn check_case<B: VbLoraBackend>(case: &Case<B>, device: &B::Device) {
    let full = case.adapter("adapter_full");
    let HostAdapter::VbLora(ref host) = full.adapter else {
        panic!("not all logits")
    };
    check_modules(case, host);
    check_gradients(case, host, device);
    let (model, none) = (case.model.valid(), Factors::none());
    check_logits(case, "base_logits", &model, &none, device);
    let factors = full.adapter.factors::<B>(device);
    check_logits(case, "logits", &model, &factors, device);
    check_logits(
        case,
        "logits_merged",
        &model.merged(&factors),
        &none,
        device,
    );
    let as_lora = HostAdapter::Lora(full.adapter.to_lora()).factors(device);
    check_logits(case, "logits", &model, &as_lora, device);
    let topk = case.adapter("adapter_topk");
    check_logits(
        case,
        "logits_topk_reload",
        &model,
        &topk.adapter.factors(device),
        device,
    );
    check_merged_on_disk(case, &full, device);
    check_greedy(case, &model, &factors, device);
    check_greedy(case, &model.merged(&factors), &none, device);
}

fn check_modules<B: VbLoraBackend>(case: &Case<B>, host: &HostVbLora) {
    let sites = host.settings().plan().sites().iter();
    let mut found: Vec<_> = sites
        .map(|s| (format!("base_model.model.{}", s.name), s.d_in, s.d_out))
        .collect();
    found.sort();
    let modules = case.io["modules"].as_object().unwrap().iter();
    let dim = |dims: &Value, i: usize| dims[i].as_u64().unwrap() as usize;
    let mut expected: Vec<_> = modules
        .map(|(name, dims)| (name.clone(), dim(dims, 0), dim(dims, 1)))
        .collect();
    expected.sort();
    assert_eq!(found, expected, "adapted modules");
    let trained = case.io["nb_savable"]["full"][0].as_u64().unwrap();
    assert_eq!(host.settings().count().trained as u64, trained);
}

fn check_logits<B: VbLoraBackend>(
    case: &Case<B>,
    name: &str,
    model: &CausalLm<B>,
    factors: &Factors<B>,
    device: &B::Device,
) {
    let input = CausalInput::new(&case.batch(), model.config(), device).unwrap();
    let found = logits_of(model, model.forward(&input, factors));
    case.assert_tokens(name, &values(found.clone()));
    let loss = match name {
        "base_logits" => "base_loss",
        _ => "loss",
    };
    let found = values(nll(found, &case.labelled()));
    // The codes of a top-k file are rounded to f32 once more.
    assert_within(loss, &found, case.recorded.get(loss), 1e-5);
}

/// Hidden states, loss and every gradient of one training pass, and of one that runs every block twice.
fn check_gradients<B: VbLoraBackend>(case: &Case<B>, host: &HostVbLora, device: &B::Device) {
    let adapter = host
        .settings()
        .load::<Ad<B>>(host.bank().to_vec(), host.logits().to_vec(), device)
        .unwrap();
    let model = &case.model;
    let input = CausalInput::new(&case.batch(), model.config(), device).unwrap();
    let mut step = Composition::new(&adapter);
    let mut states = Vec::new();
    let last = model.trace(&input, step.factors(), |state| {
        states.push(values(state.clone().inner()));
    });
    let names = case.recorded.names();
    assert_eq!(
        states.len(),
        names.filter(|name| name.starts_with("hidden.")).count()
    );
    for (n, state) in states.iter().enumerate() {
        case.assert_tokens(&format!("hidden.{n}"), state);
    }
    let at = case.labelled();
    let loss = nll(logits_of(model, last), &at);
    let found = values(loss.clone().inner());
    assert_within("loss", &found, case.recorded.get("loss"), 1e-5);
    step.collect(&mut loss.backward());
    let grads = step.push_back().unwrap();
    let [bank, logits] =
        [&adapter.bank.val(), &adapter.logits.val()].map(|x| values(x.grad(&grads).unwrap()));
    check_slabs(case, host, &bank, &logits);

    let mut step = Composition::new(&adapter);
    let factors = step.factors().clone();
    let loss = |hidden| nll(logits_of(model, hidden), &at);
    let found = model.recompute(&input, &factors, loss, |grads| step.collect(grads));
    assert_within(
        "recomputed loss",
        &values(found),
        case.recorded.get("loss"),
        1e-5,
    );
    let grads = step.push_back().unwrap();
    let again =
        [&adapter.bank.val(), &adapter.logits.val()].map(|x| values(x.grad(&grads).unwrap()));
    assert_close("recomputed bank", &again[0], &bank, products(1e-5));
    assert_close("recomputed logits", &again[1], &logits, products(1e-5));
}

/// Gradients of bank and logits, tensor by tensor, since the tolerance is relative to each one's largest value.
fn check_slabs<B: VbLoraBackend>(case: &Case<B>, host: &HostVbLora, bank: &[f64], logits: &[f64]) {
    let recorded = &case.recorded;
    let expected = recorded.get("grad.base_model.vblora_vector_bank");
    assert_close("gradient of the bank", bank, expected, gradients(1e-4));
    let (mut start, mut compared) = (0, 1);
    for site in host.settings().plan().sites() {
        for side in ["A", "B"] {
            let name = format!("grad.base_model.model.{}.vblora_logits_{side}", site.name);
            let expected = match side {
                "A" => recorded.get(&name).to_vec(),
                _ => rank_first(recorded.get(&name), recorded.shape(&name)),
            };
            let found = &logits[start..][..expected.len()];
            assert_close(&name, found, &expected, gradients(1e-4));
            (start, compared) = (start + expected.len(), compared + 1);
        }
    }
    assert_eq!(start, logits.len());
    let names = recorded.names().filter(|name| name.starts_with("grad."));
    assert_eq!(
        compared,
        names.count(),
        "every recorded gradient was compared"
    );
}

/// Base and adapter as PEFT wrote them, merged into a directory; and the first update by itself, in the order of the file.
fn check_merged_on_disk<B: VbLoraBackend>(
    case: &Case<B>,
    adapter: &PeftAdapter,
    device: &B::Device,
) {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (case.path.with_file_name("base"), dir.path().join("out"));
    merge(&base, adapter, &out, false).unwrap();
    let (model, _) = CausalLm::load(&ModelFiles::open(&out).unwrap(), device).unwrap();
    check_logits(case, "logits_merged", &model, &Factors::none(), device);
    let first = case.io["first_module"].as_str().unwrap();
    let weight = format!(
        "{}.weight",
        first.strip_prefix("base_model.model.").unwrap()
    );
    let [base, merged] = [&base, &out].map(|dir| Tensors::read(&dir.join("model.safetensors")));
    let delta = base
        .get(&weight)
        .iter()
        .zip(merged.get(&weight))
        .map(|(a, b)| b - a);
    let delta: Vec<f64> = delta.collect();
    assert_close(
        "delta_first",
        &delta,
        case.recorded.get("delta_first"),
        1e-5,
    );
}

/// Ten tokens from the prompt, over a cache and without.
fn check_greedy<B: VbLoraBackend>(
    case: &Case<B>,
    model: &CausalLm<B>,
    factors: &Factors<B>,
    device: &B::Device,
) {
    let expected: Vec<u32> = case.whole("greedy").iter().map(|&id| id as u32).collect();
    let prompt: Vec<u32> = case.whole("prompt").iter().map(|&id| id as u32).collect();
    let mut decoding = CachedLm::new(model, factors.clone(), expected.len(), device);
    let mut logits = decoding.start(&[&prompt]).unwrap();
    for length in prompt.len()..expected.len() {
        let token = expected[length];
        let remembered: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
        assert_largest("over a cache", &remembered, token);
        if length + 1 < expected.len() {
            logits = decoding.step(&[token]).unwrap();
        }
        let batch = CausalBatch::pad(&[&expected[..length]], 0, Side::Right);
        let input = CausalInput::new(&batch, model.config(), device).unwrap();
        let hidden = model.forward(&input, factors);
        let [_, t, d] = hidden.dims();
        let last = model.logits(hidden.narrow(1, t - 1, 1).reshape([1, d]));
        assert_largest("without one", &values(last), token);
    }
}

/// This token is the first with the largest score; where kernels are tuned, none is further above it than they differ.
#[track_caller]
fn assert_largest(what: &str, scores: &[f64], token: u32) {
    let best = scores.iter().copied().fold(f64::MIN, f64::max);
    let own = scores[token as usize];
    let is_first = scores.iter().position(|&v| v == best) == Some(token as usize);
    let scale = scores.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    assert!(
        is_first || best - own < alike(0.0) * scale,
        "greedy tokens {what}: {token} has {own}, the best {best}"
    );
}
