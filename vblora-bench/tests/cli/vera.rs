//! VeRA's directories, which need the model's configuration.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use vblora::{
    Site, Targets, VeraConfig,
    rng::Key,
    storage::{
        HostAdapter, HostVera,
        peft::{PeftAdapter, PeftDirectory},
    },
};

use super::vblora;

const CONFIG: &str = r#"{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20, "max_position_embeddings": 10, "type_vocab_size": 2}"#;

/// Inputs of two widths.
fn sites() -> [Site; 2] {
    [
        Site::new("encoder.layer.0.intermediate.dense", 8, 12),
        Site::new("encoder.layer.0.output.dense", 12, 8),
    ]
}

fn adapter() -> HostAdapter {
    let plan = Targets::all_linear().select(&sites()).unwrap();
    let config = VeraConfig {
        rank: 3,
        ..VeraConfig::default()
    };
    let settings = config.check(&plan).unwrap();
    let draw = |name: &str, dims: [usize; 2]| {
        dims.map(|dim| Key::new(4).name(name).normal(dim, 1.0))
            .to_vec()
    };
    let (d, b) = (draw("d", [3, 3]), draw("b", [12, 8]));
    HostAdapter::Vera(HostVera::new(settings.clone(), settings.projection(), d, b).unwrap())
}

/// A directory `net`, and a base of zeros with its configuration.
fn files(dir: &Path) {
    let adapter = PeftAdapter {
        prefix: "bert.".into(),
        ..PeftAdapter::new(adapter())
    };
    adapter.write(&dir.join("net")).unwrap();
    std::fs::create_dir(dir.join("base")).unwrap();
    std::fs::write(dir.join("base/config.json"), CONFIG).unwrap();
    let zeros = [0; 4 * 96];
    let views = sites().map(|site| {
        let shape = vec![site.d_out, site.d_in];
        let view = TensorView::new(Dtype::F32, shape, &zeros).unwrap();
        (format!("bert.{}.weight", site.name), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.join("base/model.safetensors"), bytes).unwrap();
}

#[test]
fn its_widths_come_from_the_model() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let (status, _, error) = vblora(dir.path(), "inspect net");
    assert_eq!(status, 1);
    assert!(
        error.contains("net") && error.contains("--model"),
        "{error}"
    );
    let (status, out, error) = vblora(dir.path(), "inspect net --model base");
    assert_eq!(status, 0, "{error}");
    assert!(
        out.contains("VeRA r = 3") && out.contains("26 trained"),
        "{out}"
    );
    let convert = "convert net lora --form peft-lora --model base/config.json";
    let (status, _, error) = vblora(dir.path(), convert);
    assert_eq!(status, 0, "{error}");
    let found = PeftDirectory::open(&dir.path().join("lora")).unwrap();
    let found = found.bind(&sites()).unwrap();
    assert_eq!(found.prefix, "bert.");
    assert_eq!(found.adapter, HostAdapter::Lora(adapter().to_lora()));
    let convert = "convert net small --form compact --model base";
    let (status, _, error) = vblora(dir.path(), convert);
    assert_eq!(status, 1);
    assert!(error.contains("not VB-LoRA"), "{error}");
    let (status, out, error) = vblora(dir.path(), "diff net lora --model base --json");
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("only_in_one"), "{out}");
}

#[test]
fn it_is_merged_by_the_bases_own_configuration() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let (status, out, error) = vblora(dir.path(), "merge base net merged");
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("2 weights updated"), "{out}");
    let bytes = std::fs::read(dir.path().join("merged/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let lora = adapter().to_lora();
    for (i, site) in sites().iter().enumerate() {
        let tensor = file.tensor(&format!("bert.{}.weight", site.name)).unwrap();
        let last = tensor.data().last_chunk::<4>().unwrap();
        let (a, b) = (&lora.a()[i], &lora.b()[i]);
        let at = |rho: usize| a[(rho + 1) * site.d_in - 1] * b[(rho + 1) * site.d_out - 1];
        let expected: f32 = (0..3).map(at).sum();
        let found = f32::from_le_bytes(*last);
        assert!(found != 0.0 && (found - expected).abs() < 1e-5, "{found}");
    }
}

/// Each value is finite. Their products, LoRA's factors, are not.
#[test]
fn what_overflows_is_neither_written_nor_called_equal() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let HostAdapter::Vera(vera) = adapter() else {
        panic!("VeRA")
    };
    let mut projection = vera.projection().clone();
    projection.a[0] = 1e30;
    let d = vec![vec![1e30; 3]; 2];
    let vera = HostVera::new(
        vera.settings().clone(),
        projection,
        d,
        vera.lambda_b().to_vec(),
    );
    let adapter = PeftAdapter::new(HostAdapter::Vera(vera.unwrap()));
    adapter.write(&dir.path().join("large")).unwrap();
    let convert = "convert large lora --form peft-lora --model base";
    let (status, _, error) = vblora(dir.path(), convert);
    assert_eq!(status, 1);
    assert!(
        error.contains("encoder.layer.0.intermediate.dense.lora_A.weight")
            && error.contains("not finite"),
        "{error}"
    );
    assert!(!dir.path().join("lora").exists());
    let (status, out, error) = vblora(dir.path(), "diff large large --model base");
    assert_eq!(status, 1, "{out}");
    assert!(
        error.contains("encoder.layer.0.intermediate.dense"),
        "{error}"
    );
}
