//! Training on a base in 4 bits: as on the base of its values, and bound to its bytes.
#![allow(missing_docs)]
#![cfg(feature = "flex")]

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use burn::backend::Flex;
use vblora::{Factors, storage::peft::PeftDirectory};
use vblora_bench::{
    demo,
    recipes::{Recipe, Size},
    report::draw,
    results::{Results, Stop},
    tasks::{SplitName, Task},
    train::{CheckpointSettings, Identity, Method, Output, RunDir, Session, causal::TextSource},
};
use vblora_models::{
    BaseDtype, DecodedDtype, DecoderConfig, Encoder, EncoderConfig, EncoderInput, ModelFiles,
    Nf4Settings, PaddedBatch,
    decoder::{CausalBatch, CausalInput, CausalLm, Side},
    dequantize, host_tensor, quantize,
};

fn session(out: &Path, files: ModelFiles, edit: impl Fn(&mut Recipe)) -> Session<TextSource> {
    let mut recipe = Recipe::builtin(Size::Demo, &Task::text()).unwrap();
    recipe.epochs = 5;
    edit(&mut recipe);
    Session {
        recipe,
        methods: vec![Method::VbLora],
        files,
        data: TextSource {
            train: demo::texts(SplitName::Train).unwrap().thinned(64),
            held_out: demo::texts(SplitName::Dev).unwrap().thinned(16),
        },
        out: Some(Output::new(out, draw)),
        overwrite: false,
        resume: true,
        checkpoints: CheckpointSettings::default(),
        record_every: None,
        quiet: true,
        command: "test".into(),
    }
}

fn run(session: &Session<TextSource>) -> vblora_bench::Result<Results> {
    session.run::<Flex>(&Default::default(), &AtomicBool::new(false))
}

/// Interrupts the run when a checkpoint is there.
fn run_until(session: &Session<TextSource>, checkpoint: &Path) -> Results {
    let interrupted = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(300);
            while !checkpoint.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            interrupted.store(true, Ordering::Relaxed);
        });
        session.run::<Flex>(&Default::default(), &interrupted)
    })
    .unwrap()
}

/// The bundled decoder as a directory.
fn directory(path: &Path) -> ModelFiles {
    let files = demo::decoder_files();
    std::fs::create_dir(path).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::write(path.join(name), files.read(name).unwrap()).unwrap();
    }
    ModelFiles::open(path).unwrap()
}

#[test]
fn a_run_in_4_bits_is_the_run_on_their_values_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let dense = directory(&path("dense"));
    quantize(&dense, &path("nf4"), true, &[]).unwrap();
    let nf4 = ModelFiles::open(&path("nf4")).unwrap();
    dequantize(&nf4, &path("floats"), Some(DecodedDtype::F32)).unwrap();
    let floats = ModelFiles::open(&path("floats")).unwrap();

    let whole = run(&session(&path("on-floats"), floats.clone(), |_| ())).unwrap();
    assert!(whole.runs[0].steps >= 20, "{} steps", whole.runs[0].steps);
    let mut parts = session(&path("on-nf4"), nf4.clone(), |_| ());
    parts.checkpoints.every = Some(9);
    let stopped = run_until(
        &parts,
        &path("on-nf4/checkpoints/vblora-seed1/step-00000009"),
    );
    assert_eq!(stopped.runs[0].stop, Stop::Interrupted);
    // The record says what the base is. An earlier version recorded the form that was asked for.
    let config = path("on-nf4/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("base_dtype = \"nf4\""), "{text}");
    let recorded = RunDir::recipe(&path("on-nf4")).unwrap();
    let earlier = text.replace("base_dtype = \"nf4\"", "base_dtype = \"f32\"");
    std::fs::write(&config, earlier).unwrap();
    let resumed = run(&parts).unwrap();
    // The recorded recipe is the run's own.
    std::fs::write(&config, text).unwrap();
    parts.recipe = recorded;
    assert_eq!(run(&parts).unwrap().runs, resumed.runs);
    let card = std::fs::read_to_string(path("on-nf4/vblora-seed1/README.md")).unwrap();
    assert!(card.contains("base_dtype = \"nf4\""), "{card}");
    let parts = resumed;
    // While it is loaded, the dense base is quantised to the same bytes.
    let loading = session(&path("loading"), dense.clone(), |recipe| {
        recipe.base_dtype = BaseDtype::Nf4(Nf4Settings::default());
    });
    let loading = run(&loading).unwrap();
    for other in [&parts, &loading] {
        assert_eq!(other.runs[0].epochs, whole.runs[0].epochs);
        assert_eq!(other.runs[0].before, whole.runs[0].before);
    }
    let adapter = |out: &str| path(out).join("vblora-seed1");
    let bytes = |out: &str| std::fs::read(adapter(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(bytes("on-nf4"), bytes("on-floats"));
    assert_eq!(bytes("loading"), bytes("on-floats"));

    // The adapter serves on either base.
    let device = Default::default();
    for (out, base) in [("on-nf4", &dense), ("on-floats", &nf4)] {
        let (model, _) = CausalLm::<Flex>::load(base, &device).unwrap();
        let found = PeftDirectory::open(&adapter(out)).unwrap();
        let factors = found.bind(&model.sites()).unwrap().adapter.factors(&device);
        let batch = CausalBatch::pad(&[&[1, 5, 9]], 0, Side::Right);
        let input = CausalInput::new(&batch, model.config(), &device).unwrap();
        let states = |factors| host_tensor(model.forward(&input, factors)).values;
        let (with, without) = (states(&factors), states(&Factors::none()));
        assert!(with != without && with.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn a_run_is_bound_to_the_form_of_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let dense = directory(&dir.path().join("dense"));
    let recipe = Recipe::builtin(Size::Demo, &Task::text()).unwrap();
    let device = Default::default();
    let bases = [true, false].map(|double_quant| {
        let mut config = DecoderConfig::from_files(&dense).unwrap();
        config.base_dtype = BaseDtype::Nf4(Nf4Settings {
            double_quant,
            ..Nf4Settings::default()
        });
        let (model, _) = CausalLm::<Flex>::load_with(config, &dense, &device).unwrap();
        Identity::new(&model, ["a".into(), "b".into()], &recipe, None, &device).unwrap()
    });
    let (model, _) = CausalLm::<Flex>::load(&dense, &device).unwrap();
    let float = Identity::new(&model, ["a".into(), "b".into()], &recipe, None, &device).unwrap();
    assert!(bases[0].base != bases[1].base && bases.iter().all(|nf4| nf4.base != float.base));
}

#[test]
fn what_does_not_go_with_4_bits_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let dense = directory(&path("dense"));
    quantize(&dense, &path("nf4"), true, &[]).unwrap();
    let nf4 = ModelFiles::open(&path("nf4")).unwrap();
    // Names of one tensor each, changed in the file: to others of the same length.
    let directory = path("nf4");
    let weights = directory.join("model.safetensors");
    let config = directory.join("config.json");
    let [whole, settings] = [&weights, &config].map(|file| std::fs::read(file).unwrap());
    let down = "layers.0.mlp.down_proj.weight";
    for (file, from, to, says) in [
        (
            &weights,
            format!("{down}.quant_state.b"),
            format!("{down}.quant_statx.b"),
            "expected floats or 4 bits of shape [",
        ),
        (
            &weights,
            format!("{down}\""),
            format!("{}x\"", &down[..down.len() - 1]),
            "no tensor \"model.layers.0.mlp.down_proj.weight\"",
        ),
        (
            &weights,
            "model.norm.weight".into(),
            "modelnorma.absmax".into(),
            "a part of \"modelnorma\", which is not there in 4 bits",
        ),
        (
            &config,
            "\"intermediate_size\": ".into(),
            "\"intermediate_size\": 1".into(),
            "expected shape [",
        ),
    ] {
        let bytes = std::fs::read(file).unwrap();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{from}"));
        let rest = &bytes[at + from.len()..];
        std::fs::write(file, [&bytes[..at], to.as_bytes(), rest].concat()).unwrap();
        let changed = ModelFiles::open(&directory).unwrap();
        let error = dequantize(&changed, &path("refused"), None).unwrap_err();
        assert!(error.to_string().contains(says), "{to}: {error}");
        assert!(!path("refused").exists());
        std::fs::write(&weights, &whole).unwrap();
        std::fs::write(&config, &settings).unwrap();
    }
    // A name that is kept is a whole one: transformers compares ends.
    quantize(&dense, &path("kept"), true, &["0.mlp.down_proj".into()]).unwrap();
    let kept = std::fs::read_to_string(path("kept").join("config.json")).unwrap();
    assert!(kept.contains("\"model.layers.0.mlp.down_proj\""), "{kept}");
    let refusal = |session: Session<TextSource>| run(&session).unwrap_err().to_string();
    let mut full = session(&path("full"), nf4.clone(), |_| ());
    full.methods = vec![Method::Full];
    for (error, part) in [
        (refusal(full), "f32 for method full"),
        (
            refusal(session(&path("half"), nf4, |r| {
                r.base_dtype = BaseDtype::Bf16
            })),
            "files are in 4 bits",
        ),
        (
            refusal(session(&path("table"), dense, |r| {
                r.nf4.double_quant = false
            })),
            "unless base_dtype is nf4",
        ),
    ] {
        assert!(error.contains(part), "{error}");
    }
    let text = Recipe::builtin(Size::Demo, &Task::text())
        .unwrap()
        .to_toml()
        .unwrap();
    assert!(!text.contains("[nf4]"), "{text}");
    let text = text.replace("base_dtype = \"f32\"", "base_dtype = \"nf4\"");
    let text = format!("{text}\n[nf4]\ndouble_quant = false\ncompute = \"bf16\"\n");
    let recipe = Recipe::from_toml(&text, "nf4.toml").unwrap();
    let again = Recipe::from_toml(&recipe.to_toml().unwrap(), "again").unwrap();
    assert_eq!(again, recipe);
    assert!(!recipe.nf4.double_quant);
}

/// An encoder's directory in 4 bits is the encoder that is quantised while it is loaded, and the one of its values.
#[test]
fn an_encoder_is_written_in_4_bits_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let files = demo::model_files();
    let keep = ["intermediate.dense".to_owned()];
    let done = quantize(&files, &path("nf4"), true, &[]).unwrap();
    let some = quantize(&files, &path("some"), true, &keep).unwrap();
    assert!(done.after < done.before && some.maps < done.maps);
    let nf4 = ModelFiles::open(&path("nf4")).unwrap();
    dequantize(&nf4, &path("floats"), Some(DecodedDtype::F32)).unwrap();

    let device = Default::default();
    let states = |files: &ModelFiles, dtype: Option<BaseDtype>| {
        let mut config = EncoderConfig::from_files(files).unwrap();
        config.base_dtype = dtype.unwrap_or(config.base_dtype);
        let (model, _) = Encoder::<Flex>::load_with(config, files, &device).unwrap();
        let batch = PaddedBatch {
            ids: vec![0, 5, 9, 4, 7, 2],
            type_ids: vec![0; 6],
            mask: vec![1; 6],
            rows: 2,
            columns: 3,
        };
        let input = EncoderInput::new(&batch, model.config(), &device);
        host_tensor(model.forward(&input, &Factors::none())).values
    };
    let found = states(&nf4, None);
    let loading = states(&files, Some(BaseDtype::Nf4(Nf4Settings::default())));
    assert_eq!(found, loading);
    assert_eq!(
        found,
        states(&ModelFiles::open(&path("floats")).unwrap(), None)
    );
    let partly = states(&ModelFiles::open(&path("some")).unwrap(), None);
    assert!(found != states(&files, None) && found != partly);
}
