//! Files made to do harm: whatever their bytes say, reading ends in an adapter or in an error that names the file, never in a panic.

use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};
use vblora::{
    LoraConfig, Selection, Site, StoredVbLora, Targets, VbLoraConfig, VeraConfig,
    storage::{
        Bank, HostAdapter, HostLora, HostVbLora, HostVera, Precision, Precisions, merge,
        peft::{PeftAdapter, PeftDirectory},
    },
};

pub(crate) use crate::support::corrupt::corrupt;
use crate::support::random_vblora;

/// Of each kind of file.
pub(crate) const CASES: u64 = 34_000;

fn sites() -> Vec<Site> {
    vec![Site::new("a.one", 4, 8), Site::new("a.two", 8, 4)]
}

fn vblora() -> HostVbLora {
    random_vblora(&sites(), 9, 3)
}

/// How many files of this kind were read all the same.
fn attack(path: &Path, name: &str, mut read: impl FnMut() -> Result<(), vblora::Error>) -> u64 {
    let whole = std::fs::read(path).unwrap();
    read().unwrap();
    let mut survived = 0;
    for case in 0..CASES {
        std::fs::write(path, corrupt(&whole, case, name)).unwrap();
        match read() {
            Ok(()) => survived += 1,
            Err(error) => {
                let file = path.file_name().unwrap().to_str().unwrap();
                assert!(error.to_string().contains(file), "case {case}: {error}");
            }
        }
    }
    println!("{name}: {survived} of {CASES} were still right");
    std::fs::write(path, whole).unwrap();
    read().unwrap();
    survived
}

/// All of the bank selected, and a gate.
fn gated() -> HostVbLora {
    let plain = vblora();
    let config = VbLoraConfig {
        selection: Selection::SelectAll,
        gate: true,
        ..plain.settings().config().clone()
    };
    let settings = config.check(plain.settings().plan()).unwrap();
    let (bank, logits) = (plain.bank().to_vec(), plain.logits().to_vec());
    let adapter = HostVbLora::new(settings, bank, logits).unwrap();
    adapter.with_gate(0.5).unwrap()
}

#[test]
fn a_compact_file_of_arbitrary_bytes_gives_an_error_or_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let precisions = Precisions {
        bank: Precision::Bits8,
        weights: Precision::F16,
    };
    for (name, adapter) in [("compact", vblora()), ("select-all", gated())] {
        adapter.store().save_as(&path, precisions).unwrap();
        let survived = attack(&path, name, || {
            // What was read can be used.
            let found = StoredVbLora::load(&path)?;
            HostAdapter::TopK(found).to_lora();
            Bank::load(&path).map(|_| ())
        });
        assert!((1..CASES / 2).contains(&survived));
    }
}

fn vera() -> HostAdapter {
    let config = VeraConfig {
        rank: 2,
        ..Default::default()
    };
    let plan = Targets::all_linear().select(&sites()).unwrap();
    let settings = config.check(&plan).unwrap();
    let (projection, d) = (settings.projection(), vec![vec![0.5; 2]; 2]);
    let b = vec![vec![0.5; 8], vec![0.5; 4]];
    HostAdapter::Vera(HostVera::new(settings, projection, d, b).unwrap())
}

#[test]
fn peft_tensors_of_arbitrary_bytes_give_an_error_or_an_adapter() {
    for (name, adapter) in [
        ("top-k", HostAdapter::TopK(vblora().store())),
        ("full", HostAdapter::VbLora(vblora())),
        ("VeRA", vera()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        PeftAdapter::new(adapter).write(dir.path()).unwrap();
        let survived = attack(&dir.path().join("adapter_model.safetensors"), name, || {
            let found = PeftDirectory::open(dir.path())?;
            found.bind(found.sites()).map(|a| {
                a.adapter.to_lora();
            })
        });
        assert!((1..CASES / 2).contains(&survived));
    }
}

#[test]
fn a_peft_configuration_of_arbitrary_bytes_gives_an_error_or_an_adapter() {
    let config = LoraConfig {
        rank: 2,
        ..Default::default()
    };
    let plan = Targets::all_linear().select(&sites()).unwrap();
    let values = |dims: [usize; 2]| dims.map(|dim| vec![0.5; 2 * dim]).to_vec();
    let lora = HostLora::new(config.check(&plan).unwrap(), values([4, 8]), values([8, 4]));
    for (name, adapter) in [
        ("LoRA", HostAdapter::Lora(lora.unwrap())),
        ("VB-LoRA", HostAdapter::TopK(vblora().store())),
        ("VeRA", vera()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        PeftAdapter::new(adapter).write(dir.path()).unwrap();
        // A setting may be fine by itself and not fit the tensors: then theirs is the name in the error.
        let path = dir.path().join("adapter_config.json");
        attack(&path, name, || {
            let found = PeftDirectory::open(dir.path()).map_err(as_config)?;
            found.bind(found.sites()).map(|_| ()).map_err(as_config)
        });
    }
}

/// The same error with the configuration's name in place of that of the tensors beside it.
fn as_config(error: vblora::Error) -> vblora::Error {
    match error {
        vblora::Error::Format { path, reason } => vblora::Error::Format {
            path: path.with_file_name("adapter_config.json"),
            reason,
        },
        other => other,
    }
}

/// Fewer cases than of the other kinds: a merge writes a folder and waits for the disk.
#[test]
fn a_base_of_arbitrary_bytes_is_merged_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    std::fs::create_dir(&base).unwrap();
    let values = [0; 4 * 32];
    let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.into(), &values).unwrap();
    let tensors = [
        ("a.one.weight", view([8, 4])),
        ("a.two.weight", view([4, 8])),
    ];
    let whole = safetensors::serialize(tensors, None).unwrap();
    let adapter = PeftAdapter::new(HostAdapter::VbLora(vblora()));
    let mut merged = 0;
    for case in 0..500 {
        let bytes = if case == 0 {
            whole.clone()
        } else {
            corrupt(&whole, case, "base")
        };
        std::fs::write(base.join("model.safetensors"), bytes).unwrap();
        match merge(&base, &adapter, &out, true) {
            Ok(_) => merged += 1,
            Err(error) => assert!(error.to_string().contains("base"), "case {case}: {error}"),
        }
        // The first of all succeeds; what fails leaves its output, and nothing beside it.
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "case {case}"
        );
    }
    assert!((1..250).contains(&merged), "{merged}");
}
