//! Many adapters on one model: multi-adapter batches, merging in memory and on the disk.

use burn::tensor::Tensor;
use vblora::{
    AdapterConfig, AdapterSet, Factors, LoraConfig, Targets,
    backend::VbLoraBackend,
    rng::Key,
    storage::{HostAdapter, HostLora, merge, peft::PeftAdapter},
};
use vblora_models::{
    ClassificationHead, Encoder, EncoderConfig, EncoderInput, Family, HeadForm, HeadInit,
    ModelFiles, PaddedBatch, SaveDtype, save_tensors,
};

use super::tiny::{FAMILIES, adapter, batch, model, texts};
use crate::support::{alike, assert_close, products, values};

/// LoRA on the MLPs alone, large enough to matter.
fn lora<B: VbLoraBackend>(model: &Encoder<B>) -> HostAdapter {
    let rule = Targets::suffixes([
        "intermediate.dense",
        "output.dense",
        "lin1",
        "lin2",
        "Wi",
        "mlp.Wo",
    ]);
    let plan = rule.select(&model.sites()).unwrap();
    let config = LoraConfig {
        rank: 5,
        alpha: 3.0,
        dropout: 0.3,
        ..LoraConfig::default()
    };
    let draw = |name: &str, dim: fn(&vblora::Site) -> usize| {
        let sites = plan.sites().iter();
        let draw = |site: &vblora::Site| {
            let key = Key::new(9).name(name).name(&site.name);
            key.normal(5 * dim(site), 0.3)
        };
        sites.map(draw).collect()
    };
    let (a, b) = (draw("a", |site| site.d_in), draw("b", |site| site.d_out));
    HostAdapter::Lora(HostLora::new(config.check(&plan).unwrap(), a, b).unwrap())
}

/// Row `i` of a batch, padding and all.
fn row<B: VbLoraBackend>(
    batch: &PaddedBatch,
    i: usize,
    config: &EncoderConfig,
    device: &B::Device,
) -> EncoderInput<B> {
    let columns = batch.columns;
    let of_row = |values: &[i64]| values[i * columns..(i + 1) * columns].to_vec();
    let row = PaddedBatch {
        ids: of_row(&batch.ids),
        type_ids: of_row(&batch.type_ids),
        mask: of_row(&batch.mask),
        rows: 1,
        columns,
    };
    EncoderInput::with_padding(&row, config, device)
}

/// Rows with VB-LoRA, none, LoRA and another VB-LoRA, of different ranks and on different sites, in one pass: each as if it were alone.
pub(crate) fn a_multi_adapter_batch_is_its_rows_alone<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let mut set = AdapterSet::<B>::new(device.clone());
        for (name, targets) in [("all", "all-linear"), ("qv", "qv")] {
            let adapter = adapter(&model, targets, device);
            let adapter = HostAdapter::TopK(adapter.store().unwrap());
            set.load(name, &adapter).unwrap();
        }
        set.load("lora", &lora(&model)).unwrap();
        let names = ["all", "qv", "lora"];
        let stack = set.stack(&names).unwrap();
        let texts = texts(family);
        let texts: Vec<_> = [0, 1, 2, 0, 1].map(|i| texts[i].clone()).into();
        let (batch, config) = (batch(&texts, model.config()), model.config());
        let input = EncoderInput::with_padding(&batch, config, device);
        for rows in [
            [Some(2), None, Some(0), Some(1), Some(0)],
            [None, Some(1), Some(1), Some(2), Some(0)],
        ] {
            let outputs = |input: &EncoderInput<B>, factors: &Factors<B>| {
                let read = model.for_head(input, factors).narrow(1, 0, 1);
                Tensor::cat(vec![model.forward(input, factors), read], 1)
            };
            let together = outputs(&input, &stack.assign(&rows, device).unwrap());
            let [_, t, d] = together.dims();
            for (i, adapter) in rows.into_iter().enumerate() {
                let factors = match adapter {
                    Some(adapter) => set.factors(names[adapter]).unwrap(),
                    None => Factors::none(),
                };
                let alone = values(outputs(&row(&batch, i, config, device), &factors));
                let found = values(together.clone().slice([i..i + 1, 0..t, 0..d]));
                let what = format!("{family:?}, row {i} with {adapter:?}");
                assert_close(&what, &found, &alone, alike(1e-5));
                // The row's own adapter, not a neighbour's: the base alone is somewhere else.
                let base = values(outputs(&row(&batch, i, config, device), &Factors::none()));
                let moved = found.iter().zip(&base).map(|(a, b)| (a - b).abs());
                let moved = moved.fold(0.0, f64::max);
                assert_eq!(moved > 1e-2, adapter.is_some(), "{what} moves by {moved}");
            }
        }
    }
}

pub(crate) fn merging_leaves_the_base_as_it_was<B: VbLoraBackend>(device: &B::Device) {
    let model = model::<B>(Family::Roberta, device);
    let before = model.tensors();
    let adapters = [
        HostAdapter::TopK(adapter(&model, "all-linear", device).store().unwrap()),
        lora(&model),
    ];
    let input = EncoderInput::new(
        &batch(&texts(Family::Roberta), model.config()),
        model.config(),
        device,
    );
    for adapter in adapters {
        let factors = adapter.factors(device);
        let merged = model.merged(&factors);
        let expected = values(model.forward(&input, &factors));
        let found = values(merged.forward(&input, &Factors::none()));
        assert_close("merged", &found, &expected, products(1e-5));
        assert_ne!(merged.tensors(), before);
        assert_eq!(model.tensors(), before);
    }
}

/// Saved, merged on the disk and loaded again, head included.
pub(crate) fn a_merged_directory_is_the_adapted_model<B: VbLoraBackend>(device: &B::Device) {
    let model = model::<B>(Family::Roberta, device);
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    std::fs::create_dir(&base).unwrap();
    let head = |seed| {
        ClassificationHead::<B>::init(
            HeadForm::ROBERTA,
            [32, 3],
            0.0,
            HeadInit::Torch,
            seed,
            device,
        )
    };
    let encoder = model.tensors().into_iter();
    let mut tensors: Vec<_> = encoder
        .map(|(name, tensor)| (format!("roberta.{name}"), tensor))
        .collect();
    tensors.extend(head(1).tensors());
    save_tensors(&base.join("model.safetensors"), &tensors, SaveDtype::F32).unwrap();
    std::fs::write(base.join("config.json"), model.config().to_json()).unwrap();
    let config = AdapterConfig::VbLora(vblora::VbLoraConfig {
        bank: 10,
        vector_length: 16,
        rank: 3,
        bank_bound: 0.5,
        logits_std: 1.0,
        ..Default::default()
    });
    let plan = Targets::all_linear().select(&model.sites()).unwrap();
    let full = HostAdapter::read(&config.init::<B>(&plan, 4, device).unwrap()).unwrap();
    let input = EncoderInput::new(
        &batch(&texts(Family::Roberta), model.config()),
        model.config(),
        device,
    );
    for adapter in [full, lora(&model)] {
        let adapter = PeftAdapter {
            prefix: "roberta.".into(),
            modules_to_save: vec!["classifier".into()],
            saved: head(2).tensors(),
            ..PeftAdapter::new(adapter)
        };
        merge(&base, &adapter, &out, true).unwrap();
        let (merged, _) = Encoder::<B>::load(&ModelFiles::open(&out).unwrap(), device).unwrap();
        let weights = vblora::storage::TensorFile::read(&out.join("model.safetensors")).unwrap();
        for (name, tensor) in &adapter.saved {
            assert_eq!(weights.floats(name).unwrap(), tensor.values, "{name}");
        }
        let logits = |model: &Encoder<B>, factors: &Factors<B>| {
            let hidden = model.forward(&input, factors);
            values(head(2).forward(hidden, None))
        };
        let expected = logits(&model, &adapter.adapter.factors(device));
        assert_close(
            "logits",
            &logits(&merged, &Factors::none()),
            &expected,
            products(1e-5),
        );
        let base = logits(&model, &Factors::none());
        let moved = base.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(moved.fold(0.0, f64::max) > 1e-2);
    }
}
