//! Values recorded from PEFT on small encoders (shared/fixtures/models and models2, where there): every adapter of every encoder found
//! there, with names, shapes and settings from the files beside it. Anything that these tests cannot interpret is a failure.

use std::path::{Path, PathBuf};

use burn::{backend::Autodiff, module::AutodiffModule, tensor::Tensor};
use serde_json::Value;
use vblora::{
    Adapter, Composition, Factors, Site, SitePlan, StoredVbLora, Targets, ValidVbLora, VbLora,
    VbLoraConfig,
    backend::VbLoraBackend,
    storage::{
        HostAdapter, merge,
        peft::{PeftAdapter, PeftDirectory},
    },
};
use vblora_models::{
    ClassificationHead, ClassifierNames, Encoder, EncoderConfig, EncoderInput, HeadForm,
    HostTensor, Labels, ModelFiles, PaddedBatch, loss,
};

use super::recorded_decoders::assert_within;
use crate::support::{
    assert_close,
    fixtures::{Tensors, entries, folder, json, number, rank_first},
    gradients, logit_gradients, products, values,
};

type Ad<B> = Autodiff<B>;

/// Settings of `adapter_config.json` that do not change what is computed here.
const IGNORED: [&str; 8] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_logits_std",
    "init_vector_bank_bound",
    "peft_version",
    "revision",
    "save_only_topk_weights",
];

/// Settings that [`Case::read`] interprets.
const INTERPRETED: [&str; 9] = [
    "num_vectors",
    "vector_length",
    "r",
    "topk",
    "exclude_modules",
    "layers_to_transform",
    "modules_to_save",
    "target_modules",
    "vblora_dropout",
];

pub(crate) fn fixture_roberta<B: VbLoraBackend>(device: &B::Device) {
    check_folder::<B>("models", device);
}

pub(crate) fn fixture_further_encoders<B: VbLoraBackend>(device: &B::Device) {
    check_folder::<B>("models2/models", device);
}

fn check_folder<B: VbLoraBackend>(name: &str, device: &B::Device) {
    let Some(folder) = folder(name) else {
        return;
    };
    let mut cases = 0;
    for family in entries(&folder, "") {
        let config = json(&family.join("base/config.json"));
        let architecture = config["architectures"][0]
            .as_str()
            .expect("architectures")
            .to_owned();
        if architecture.ends_with("ForCausalLM") || architecture.ends_with("LMHeadModel") {
            continue; // A decoder: no case of this crate's encoders.
        }
        check_words_of_transformers_4(&family.join("base"));
        for path in entries(&family, "")
            .into_iter()
            .filter(|path| !path.ends_with("base"))
        {
            println!("{}", path.display());
            let case = Case::read(&family, &path, &config, device);
            assert_eq!(architecture, case.names.class, "{}", family.display());
            check_case::<B>(&case, device);
            cases += 1;
        }
    }
    if cases == 0 {
        println!("skipped: no encoder among {}", folder.display());
    }
}

/// A configuration in the words of published checkpoints describes the same model, and so does the one that this library writes.
fn check_words_of_transformers_4(base: &Path) {
    let read = |name: &str| {
        let text = std::fs::read(base.join(name)).ok()?;
        Some(EncoderConfig::from_json(&text, name).unwrap())
    };
    let config = read("config.json").expect("config.json");
    if let Some(old) = read("config_v4.json") {
        assert_eq!(old, config);
    }
    let again = EncoderConfig::from_json(config.to_json().as_bytes(), "written").unwrap();
    assert_eq!(again, config);
}

/// One recorded adapter on one base.
struct Case<B: VbLoraBackend> {
    io: Value,
    recorded: Tensors,
    /// The adapter with all logits, and in the top-k form.
    full: Tensors,
    topk: Tensors,
    model: Encoder<Ad<B>>,
    base_head: ClassificationHead<Ad<B>>,
    names: ClassifierNames,
    valid: ValidVbLora,
    path: PathBuf,
}

impl<B: VbLoraBackend> Case<B> {
    fn read(family: &Path, path: &Path, config: &Value, device: &B::Device) -> Self {
        let settings = json(&path.join("adapter_full/adapter_config.json"));
        refuse_unknown(&settings);
        assert!(
            config["problem_type"].is_null(),
            "problem type {}",
            config["problem_type"]
        );
        let (model, _) =
            Encoder::load(&ModelFiles::open(&family.join("base")).unwrap(), device).unwrap();
        let names = model.config().classifier();
        let form = model.config().head_form();
        let io = json(&path.join("io.json"));
        let recorded = Tensors::read(&path.join("io.safetensors"));
        recorded.names().for_each(refuse_unknown_tensor);
        let adapter =
            |kind: &str| Tensors::read(&path.join(kind).join("adapter_model.safetensors"));
        let base = Tensors::read(&family.join("base/model.safetensors"));
        let vblora = VbLoraConfig {
            bank: number(&settings, "num_vectors"),
            vector_length: number(&settings, "vector_length"),
            rank: number(&settings, "r"),
            topk: number(&settings, "topk"),
            ..Default::default()
        };
        Self {
            valid: vblora
                .check(&plan(&io, &settings, &model.sites(), names.prefix))
                .unwrap(),
            base_head: head(&base, "", &names, form, device),
            full: adapter("adapter_full"),
            topk: adapter("adapter_topk"),
            names,
            path: path.to_owned(),
            io,
            recorded,
            model,
        }
    }

    /// A module's name in PEFT's files.
    fn module(&self, site: &str) -> String {
        format!("base_model.model.{}{site}", self.names.prefix)
    }

    /// Logits, or their gradients, of all sites in this library's order; `name` maps a tensor of the layer to its name in `file`.
    fn slab(&self, file: &Tensors, before: &str, after: &str) -> Vec<f64> {
        let site = |site: &Site| {
            let name = |side: &str| {
                format!(
                    "{before}{}.vblora_logits_{side}{after}",
                    self.module(&site.name)
                )
            };
            let mut rows = file.get(&name("A")).to_vec();
            rows.extend(rank_first(file.get(&name("B")), file.shape(&name("B"))));
            rows
        };
        self.valid.plan().sites().iter().flat_map(site).collect()
    }

    fn adapter(&self, device: &B::Device) -> VbLora<Ad<B>> {
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let bank = narrow(self.full.get("base_model.vblora_vector_bank"));
        self.valid
            .load(bank, narrow(&self.slab(&self.full, "", "")), device)
            .unwrap()
    }

    fn head<C: VbLoraBackend>(
        &self,
        file: &Tensors,
        before: &str,
        device: &C::Device,
    ) -> ClassificationHead<C> {
        let form = self.model.config().head_form();
        head(file, before, &self.names, form, device)
    }

    fn batch(&self) -> PaddedBatch {
        let [rows, columns] = *self.recorded.shape("input_ids") else {
            panic!("input_ids")
        };
        let whole = |name: &str| {
            self.recorded
                .get(name)
                .iter()
                .map(|&v| v as i64)
                .collect::<Vec<_>>()
        };
        let type_ids = vec![0; rows * columns];
        PaddedBatch {
            ids: whole("input_ids"),
            type_ids,
            mask: whole("attention_mask"),
            rows,
            columns,
        }
    }

    fn labels(&self) -> Labels {
        let labels = self.recorded.get("labels");
        match self.recorded.shape("logits")[1] {
            1 => Labels::Scores(labels.iter().map(|&v| v as f32).collect()),
            _ => Labels::Classes(labels.iter().map(|&v| v as usize).collect()),
        }
    }
}

fn refuse_unknown(settings: &Value) {
    let fixed = [
        ("peft_type", Value::from("VBLORA")),
        ("task_type", "SEQ_CLS".into()),
        ("bias", "none".into()),
        ("fan_in_fan_out", false.into()),
        ("layers_pattern", Value::Null),
    ];
    for (key, value) in settings.as_object().expect("an object") {
        match fixed.iter().find(|(name, _)| name == key) {
            Some((_, expected)) => assert_eq!(value, expected, "{key}"),
            None => assert!(
                IGNORED.contains(&&**key) || INTERPRETED.contains(&&**key) || value.is_null(),
                "setting {key}: {value}"
            ),
        }
    }
    // Recorded in evaluation mode but for the gradients, which would need torch's masks.
    assert_eq!(settings["vblora_dropout"], 0.0);
}

fn refuse_unknown_tensor(name: &str) {
    let known = [
        "input_ids",
        "attention_mask",
        "labels",
        "logits",
        "loss",
        "base_logits",
        "base_loss",
        "delta_first",
        "logits_topk_reload",
        "logits_merged",
    ];
    assert!(
        known.contains(&name) || name.starts_with("grad.") || name.starts_with("hidden."),
        "tensor {name}"
    );
}

/// A list of texts, or none.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => list
            .iter()
            .map(|v| v.as_str().unwrap_or_else(|| panic!("{value}")).to_owned())
            .collect(),
        other => panic!("expected a list, found {other}"),
    }
}

/// The sites that PEFT adapted, in this library's order.
fn plan(io: &Value, settings: &Value, sites: &[Site], prefix: &str) -> SitePlan {
    // PEFT's rules see the name in the whole model.
    let named: Vec<Site> = sites
        .iter()
        .map(|s| Site::new(format!("{prefix}{}", s.name), s.d_in, s.d_out))
        .collect();
    let rule = match &io["targets"] {
        Value::String(all) if all == "all-linear" => Targets::all_linear(),
        Value::String(pattern) => Targets::regex(pattern).unwrap(),
        list => Targets::suffixes(texts(list)),
    };
    let rule = rule.exclude(texts(&settings["exclude_modules"]));
    let layers = settings["layers_to_transform"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let layers = layers
        .iter()
        .map(|layer| layer.as_u64().expect("a layer") as usize);
    let chosen = layers
        .fold(rule, |rule, layer| rule.layers(layer..=layer))
        .select(&named)
        .unwrap();
    let names: Vec<&str> = chosen
        .sites()
        .iter()
        .map(|site| &site.name[prefix.len()..])
        .collect();
    let plan = Targets::suffixes(names).select(sites).unwrap();
    let mut found: Vec<_> = plan
        .sites()
        .iter()
        .map(|s| {
            (
                format!("base_model.model.{prefix}{}", s.name),
                s.d_in,
                s.d_out,
            )
        })
        .collect();
    found.sort();
    let module = |(name, dims): (&String, &Value)| {
        assert_eq!(dims[2], false, "{name}: encoders have no Conv1D");
        (
            name.clone(),
            dims[0].as_u64().unwrap() as usize,
            dims[1].as_u64().unwrap() as usize,
        )
    };
    let mut expected: Vec<_> = io["modules"]
        .as_object()
        .expect("modules")
        .iter()
        .map(module)
        .collect();
    expected.sort();
    assert_eq!(found, expected, "adapted modules");
    plan
}

/// The classification head of a file whose names begin with `before`.
fn head<B: VbLoraBackend>(
    file: &Tensors,
    before: &str,
    names: &ClassifierNames,
    form: HeadForm,
    device: &B::Device,
) -> ClassificationHead<B> {
    let tensor = |name: String| {
        let stored = format!("{before}{}", names.written(&name));
        let tensor = HostTensor {
            shape: file.shape(&stored).to_vec(),
            values: file.get(&stored).iter().map(|&v| v as f32).collect(),
        };
        (name, tensor)
    };
    let tensors: Vec<_> = head_tensors(form).map(tensor).collect();
    ClassificationHead::from_tensors(form, before, &tensors, 0.0, device).unwrap()
}

/// The names of a head's tensors.
fn head_tensors(form: HeadForm) -> impl Iterator<Item = String> {
    let maps = [form.has_dense.then_some("dense"), Some("out_proj")];
    let of = |map| ["weight", "bias"].map(|part| format!("classifier.{map}.{part}"));
    maps.into_iter().flatten().flat_map(of)
}

fn check_case<B: VbLoraBackend>(case: &Case<B>, device: &B::Device) {
    let adapter = case.adapter(device);
    check_counts(case);
    check_base(case, device);
    check_gradients(case, &adapter, device);
    let inner = adapter.valid();
    let delta = inner
        .factors()
        .get(
            case.io["first_module"]
                .as_str()
                .unwrap()
                .strip_prefix(&case.module(""))
                .unwrap(),
        )
        .unwrap()
        .delta();
    assert_close(
        "delta_first",
        &values(delta.transpose()),
        case.recorded.get("delta_first"),
        products(1e-5),
    );
    let head = case.head::<B>(&case.full, "base_model.model.", device);
    let model = case.model.valid();
    let stored = inner.store().unwrap();
    check_codes(case, &stored);
    check_output(
        case,
        "logits_topk_reload",
        &model,
        &head,
        &stored.factors(device),
        device,
    );
    check_output(
        case,
        "logits_merged",
        &model.merged(&inner.factors()),
        &head,
        &Factors::none(),
        device,
    );
    check_directories(case, &model, device);
}

/// The directories that PEFT wrote, as this library reads them: adapter and head, as they are and as LoRA.
fn check_directories<B: VbLoraBackend>(case: &Case<B>, model: &Encoder<B>, device: &B::Device) {
    for (kind, logits) in [
        ("adapter_full", "logits"),
        ("adapter_topk", "logits_topk_reload"),
    ] {
        let found = PeftDirectory::open(&case.path.join(kind)).unwrap();
        let found = found.bind(&model.sites()).unwrap();
        assert_eq!(found.prefix, case.names.prefix);
        let form = model.config().head_form();
        let read = |(name, tensor): &(String, HostTensor)| (case.names.read(name), tensor.clone());
        let saved: Vec<_> = found.saved.iter().map(read).collect();
        let head = ClassificationHead::from_tensors(form, kind, &saved, 0.0, device).unwrap();
        check_merged_on_disk(case, &found, device);
        let as_lora = HostAdapter::Lora(found.adapter.to_lora());
        for adapter in [found.adapter, as_lora] {
            check_output(case, logits, model, &head, &adapter.factors(device), device);
        }
    }
}

/// Base and adapter as PEFT wrote them, merged into a directory.
fn check_merged_on_disk<B: VbLoraBackend>(
    case: &Case<B>,
    adapter: &PeftAdapter,
    device: &B::Device,
) {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (case.path.with_file_name("base"), dir.path().join("out"));
    merge(&base, adapter, &out, false).unwrap();
    let (model, _) = Encoder::load(&ModelFiles::open(&out).unwrap(), device).unwrap();
    let weights = Tensors::read(&out.join("model.safetensors"));
    let head = case.head::<B>(&weights, "", device);
    let none = Factors::none();
    check_output(case, "logits_merged", &model, &head, &none, device);
}

fn check_output<B: VbLoraBackend>(
    case: &Case<B>,
    name: &str,
    model: &Encoder<B>,
    head: &ClassificationHead<B>,
    factors: &Factors<B>,
    device: &B::Device,
) -> Tensor<B, 2> {
    let input = EncoderInput::new(&case.batch(), model.config(), device);
    let found = head.forward(model.for_head(&input, factors), None);
    assert_within(name, &values(found.clone()), case.recorded.get(name), 1e-4);
    found
}

/// PEFT's counts of what it trains and saves: adapter, and everything else (the head).
fn check_counts<B: VbLoraBackend>(case: &Case<B>) {
    let (count, config) = (case.valid.count(), case.valid.config());
    let saved =
        |form: &str| [0, 1].map(|i| case.io["nb_savable"][form][i].as_f64().expect("a count"));
    let [d, labels] = [
        case.model.config().hidden_size,
        case.recorded.shape("logits")[1],
    ];
    let head = case.model.config().head_form().parameters(d, labels) as f64;
    assert_eq!(saved("full"), [count.trained as f64, head]);
    // PEFT's signed indices are wider than the paper's at h = 256 and from 32,768 on.
    let width = match config.bank {
        0..=255 => 1,
        256..=32_767 => 2,
        _ => 4,
    };
    let wider =
        (width - vblora::count::index_bytes(config.bank)) * config.topk * case.valid.sub_vectors();
    assert_eq!(saved("topk"), [count.stored + wider as f64 / 4.0, head]);
}

fn check_base<B: VbLoraBackend>(case: &Case<B>, device: &B::Device) {
    let head = case.base_head.valid();
    let found = check_output(
        case,
        "base_logits",
        &case.model.valid(),
        &head,
        &Factors::none(),
        device,
    );
    assert_within(
        "base_loss",
        &values(loss(found, &case.labels())),
        case.recorded.get("base_loss"),
        1e-5,
    );
}

/// Hidden states, scores, loss and every gradient of one training pass.
fn check_gradients<B: VbLoraBackend>(case: &Case<B>, adapter: &VbLora<Ad<B>>, device: &B::Device) {
    let recorded = &case.recorded;
    let head = case.head::<Ad<B>>(&case.full, "base_model.model.", device);
    let input = EncoderInput::new(&case.batch(), case.model.config(), device);
    let mut step = Composition::new(adapter);
    let mut states = Vec::new();
    case.model.trace(&input, step.factors(), |state| {
        states.push(values(state.clone().inner()))
    });
    let read = case.model.for_head(&input, step.factors());
    assert_eq!(
        states.len(),
        recorded
            .names()
            .filter(|name| name.starts_with("hidden."))
            .count(),
        "hidden states"
    );
    for (n, state) in states.iter().enumerate() {
        let expected = recorded.get(&format!("hidden.{n}"));
        assert_within(
            &format!("hidden.{n}"),
            &of_tokens(case, state),
            &of_tokens(case, expected),
            1e-4,
        );
    }
    let output = head.forward(read, None);
    assert_within(
        "logits",
        &values(output.clone().inner()),
        recorded.get("logits"),
        1e-4,
    );
    let loss = loss(output, &case.labels());
    assert_within(
        "loss",
        &values(loss.clone().inner()),
        recorded.get("loss"),
        1e-5,
    );
    let mut grads = loss.backward();
    let mut compared = 0;
    let maps = [
        ("dense", head.dense.as_ref()),
        ("out_proj", Some(&head.out_proj)),
    ];
    let maps = maps
        .into_iter()
        .filter_map(|(name, map)| Some((name, map?)));
    for (name, linear) in maps {
        let name = |part: &str| {
            let name = case.names.written(&format!("classifier.{name}.{part}"));
            format!("grad.base_model.model.{name}")
        };
        let weight = linear.weight.val().grad(&grads).expect("a gradient");
        let bias = linear.bias.as_ref().unwrap().val();
        let bias = bias.grad(&grads).expect("a gradient");
        for (part, found) in [
            ("weight", values(weight.transpose())),
            ("bias", values(bias)),
        ] {
            let name = name(part);
            assert_close(&name, &found, recorded.get(&name), gradients(1e-4));
        }
        compared += 2;
    }
    step.collect(&mut grads);
    let grads = step.push_back().unwrap();
    let bank = values(adapter.bank.val().grad(&grads).unwrap());
    assert_close(
        "grad of the bank",
        &bank,
        recorded.get("grad.base_model.vblora_vector_bank"),
        gradients(1e-4),
    );
    compared +=
        1 + check_logit_gradients(case, &values(adapter.logits.val().grad(&grads).unwrap()));
    assert_eq!(
        compared,
        recorded
            .names()
            .filter(|name| name.starts_with("grad."))
            .count(),
        "every recorded gradient was compared"
    );
}

/// Tensor by tensor, since the tolerance is relative to each one's largest value; returns how many there are.
fn check_logit_gradients<B: VbLoraBackend>(case: &Case<B>, found: &[f64]) -> usize {
    let (expected, config) = (case.slab(&case.recorded, "grad.", ""), case.valid.config());
    assert_eq!(found.len(), expected.len());
    let (mut start, mut compared) = (0, 0);
    for site in case.valid.plan().sites() {
        for (side, dim) in [("A", site.d_in), ("B", site.d_out)] {
            let span = start..start + config.rank * dim / config.vector_length * config.bank;
            let what = format!("grad of {} logits_{side}", site.name);
            assert_close(
                &what,
                &found[span.clone()],
                &expected[span.clone()],
                logit_gradients(1e-4),
            );
            (start, compared) = (span.end, compared + 1);
        }
    }
    assert_eq!(start, found.len());
    compared
}

/// The rows `[.., d]` of tokens that are not padding.
fn of_tokens<B: VbLoraBackend>(case: &Case<B>, state: &[f64]) -> Vec<f64> {
    let mask = case.recorded.get("attention_mask");
    assert!(
        mask.contains(&0.0) && mask.contains(&1.0),
        "a record without padding proves less"
    );
    let d = state.len() / mask.len();
    state
        .chunks(d)
        .zip(mask)
        .filter(|(_, m)| **m == 1.0)
        .flat_map(|(row, _)| row.to_vec())
        .collect()
}

/// The codes made of the full logits against those that PEFT stored.
fn check_codes<B: VbLoraBackend>(case: &Case<B>, stored: &StoredVbLora) {
    let found: Vec<f64> = stored
        .codes()
        .indices
        .iter()
        .map(|&i| f64::from(i))
        .collect();
    assert_eq!(found, case.slab(&case.topk, "", "_topk_indices"), "indices");
    if case.valid.config().topk > 1 {
        let found: Vec<f64> = stored
            .codes()
            .weights
            .iter()
            .map(|&w| f64::from(w))
            .collect();
        assert_within(
            "weights",
            &found,
            &case.slab(&case.topk, "", "_topk_weights"),
            1e-6,
        );
    }
}
