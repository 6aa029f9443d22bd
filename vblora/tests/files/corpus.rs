//! Small files that once did harm (memory, time, a wrong result without a word), each made here, and what is said of them now.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use vblora::{
    Selection, Site, StoredVbLora, Targets, VbLoraConfig,
    limits::{MAX_NAME_BYTES, MAX_STORED_FACTORS},
    storage::{
        Bank, Codes, HostAdapter, TensorFile, merge,
        peft::{PeftAdapter, PeftDirectory},
    },
};

use crate::support::random_vblora;

fn sites() -> Vec<Site> {
    vec![Site::new("a.one", 4, 8), Site::new("a.two", 8, 4)]
}

/// A compact file with a part of its header's text replaced.
fn compact(dir: &Path, from: &str, to: &str) -> std::path::PathBuf {
    let path = dir.join("adapter.safetensors");
    random_vblora(&sites(), 9, 3).store().save(&path).unwrap();
    edit(&path, from, to);
    path
}

fn edit(path: &Path, from: &str, to: &str) {
    let whole = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(whole[8..8 + length].to_vec()).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    let text = text.replacen(from, to, 1);
    let bytes = [
        &(text.len() as u64).to_le_bytes()[..],
        text.as_bytes(),
        &whole[8 + length..],
    ];
    std::fs::write(path, bytes.concat()).unwrap();
}

#[test]
fn compact_files_that_lie_about_sizes_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("\\\"name\\\":\\\"{}", "x".repeat(65_536));
    for (from, to, said) in [
        (
            r#"\"rank\":3"#,
            r#"\"rank\":4611686018427387904"#,
            "rank must be at most 1048576",
        ),
        (
            r#"\"rank\":3"#,
            r#"\"rank\":18446744073709551615"#,
            "rank must be at most",
        ),
        (
            r#"\"rank\":3"#,
            r#"\"rank\":3,\"rank\":3"#,
            "duplicate field `rank`",
        ),
        (
            r#"\"bank\":9"#,
            r#"\"bank\":2147483648"#,
            "bank must be at most 16777216",
        ),
        (
            r#"\"topk\":3"#,
            r#"\"topk\":50000"#,
            "topk must be from 1 to the bank size 9",
        ),
        (
            r#"\"vector_length\":4"#,
            r#"\"vector_length\":3"#,
            "does not divide",
        ),
        (
            r#"\"vector_length\":4"#,
            r#"\"vector_length\":0"#,
            "vector_length must be at least 1",
        ),
        (
            r#"\"vector_length\":4"#,
            r#"\"vector_length\":9223372036854775808"#,
            "vector_length must be at most",
        ),
        (
            r#"\"d_in\":4"#,
            r#"\"d_in\":18446744073709551612"#,
            "expected from 1 to",
        ),
        (r#"\"name\":\"a.one"#, &long, "over the limit of"),
        (r#""weights":"#, r#""bank":"#, "key \"bank\" is given twice"),
        (
            r#""weights":"#,
            r#""gate":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"weights":"#,
            "expected the tensors bank, weights, indices alone by its settings, found \"gate\"",
        ),
        (
            r#"\"bank_sha256\""#,
            r#"\"alpha\":5,\"bank_sha256\""#,
            "unknown field `alpha`",
        ),
        (
            r#"\"format\":2"#,
            r#"\"format\":3,\"alpha\":5"#,
            "format 3, this program reads",
        ),
    ] {
        let path = compact(dir.path(), from, to);
        let error = StoredVbLora::load(&path).unwrap_err().to_string();
        assert!(
            error.contains(said) && error.contains("adapter.safetensors") && error.len() < 600,
            "{to:.40}: {error:.600}"
        );
    }
}

/// The codes of a bank of one vector take no bytes, so a file of a kilobyte can stand for any number of factors.
#[test]
fn a_kilobyte_does_not_stand_for_terabytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let bank = vec![0.5; 4096];
    let config = VbLoraConfig {
        bank: 1,
        vector_length: 4096,
        rank: 4,
        topk: 1,
        ..Default::default()
    };
    let plan = Targets::all_linear()
        .select(&[Site::new("a", 1 << 20, 1 << 20)])
        .unwrap();
    let settings = config.check(&plan).unwrap();
    let codes = Codes {
        topk: 1,
        indices: vec![0; settings.sub_vectors()],
        weights: Vec::new(),
    };
    StoredVbLora::new(settings, bank, codes)
        .unwrap()
        .save_codes(
            &path,
            &Bank::new([1, 4096], vec![0.5; 4096]).unwrap(),
            Default::default(),
        )
        .unwrap();
    edit(&path, r#"\"rank\":4"#, r#"\"rank\":1024"#);
    let bank = Bank::new([1, 4096], vec![0.5; 4096]).unwrap();
    let error = StoredVbLora::load_codes(&path, &bank)
        .unwrap_err()
        .to_string();
    let said =
        format!("codes for factors of 2147483648 values, over the limit of {MAX_STORED_FACTORS}");
    assert!(error.contains(&said), "{error}");
}

/// All of a large bank but one vector, in each sub-vector, and one index twice in the last of them.
#[test]
fn an_index_twice_among_50_000_is_found_at_once_and_named_in_a_line() {
    let (h, k) = (50_001, 50_000);
    let config = VbLoraConfig {
        bank: h,
        vector_length: 4,
        rank: 4,
        topk: k,
        selection: Selection::TopK,
        ..Default::default()
    };
    let plan = Targets::all_linear()
        .select(&[Site::new("a", 4, 4)])
        .unwrap();
    let settings = config.check(&plan).unwrap();
    let rows = settings.sub_vectors();
    let mut indices: Vec<u32> = (0..rows).flat_map(|_| 0..k as u32).collect();
    let weights = vec![0.0; rows * (k - 1)];
    let of = |indices: Vec<u32>| Codes {
        topk: k,
        indices,
        weights: weights.clone(),
    };
    let start = Instant::now();
    StoredVbLora::new(settings.clone(), vec![0.5; 4 * h], of(indices.clone())).unwrap();
    *indices.last_mut().unwrap() = 7;
    let error = StoredVbLora::new(settings, vec![0.5; 4 * h], of(indices)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "indices must be different within a sub-vector, found 7 twice in sub-vector 7"
    );
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// A directory of PEFT's with LoRA on many sites.
fn many_sites(count: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config =
        r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "all-linear"}"#;
    std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    let names: Vec<String> = (0..count)
        .flat_map(|i| {
            ["A", "B"].map(|part| format!("base_model.model.m{i}.x{i}.lora_{part}.weight"))
        })
        .collect();
    let values = [0; 4];
    let view =
        || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 1], &values);
    let tensors = names.iter().map(|name| (name, view().unwrap()));
    let bytes = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(dir.path().join("adapter_model.safetensors"), bytes).unwrap();
    dir
}

#[test]
fn ten_times_the_sites_take_no_hundred_times_the_time() {
    let time = |count| {
        let dir = many_sites(count);
        let start = Instant::now();
        let found = PeftDirectory::open(dir.path()).unwrap();
        let plan = Targets::all_linear().select(found.sites()).unwrap();
        assert_eq!(plan.to_string().lines().count(), count);
        start.elapsed()
    };
    time(1000);
    let (few, many) = (time(2000), time(20_000));
    assert!(
        many < 40 * few + Duration::from_secs(10),
        "{few:?}, {many:?}"
    );
}

#[test]
fn an_adapters_directory_of_traps_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = PeftAdapter::new(HostAdapter::VbLora(random_vblora(&sites(), 9, 3)));
    adapter.write(dir.path()).unwrap();
    let error = || PeftDirectory::open(dir.path()).unwrap_err().to_string();
    let config = dir.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, said) in [
        ("\"r\": 3", "\"r\": 3, \"r\": 3", "key \"r\" is given twice"),
        (
            "\"num_vectors\": 9",
            "\"num_vectors\": 2147483648",
            "adapter_config.json: num_vectors: expected at most",
        ),
        (
            "\"num_vectors\": 9",
            "\"num_vectors\": 16777216",
            "expected shape [16777216, 4]",
        ),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        assert!(error().contains(said), "{}", error());
    }
    std::fs::File::create(&config)
        .unwrap()
        .set_len(8 << 40)
        .unwrap();
    assert!(error().contains("adapter_config.json: 8796093022208 bytes, over the limit"));
    std::fs::write(&config, text).unwrap();
    // A sparse file with a header that is none: its gigabytes are not read.
    let tensors = dir.path().join("adapter_model.safetensors");
    std::fs::File::create(&tensors)
        .unwrap()
        .set_len(3 << 30)
        .unwrap();
    let start = Instant::now();
    assert!(error().contains("adapter_model.safetensors: "));
    assert!(start.elapsed() < Duration::from_secs(20));
    #[cfg(unix)]
    {
        std::fs::remove_file(&tensors).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &tensors).unwrap();
        assert!(
            error().contains("adapter_model.safetensors: expected a regular file, found a device")
        );
        let out = dir.path().join("out");
        let base = dir.path().join("base");
        std::fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink("/dev/zero", base.join("model.safetensors")).unwrap();
        let error = merge(&base, &adapter, &out, false).unwrap_err().to_string();
        assert!(
            error.contains("expected a regular file, found a device"),
            "{error}"
        );
    }
}

#[test]
fn names_too_long_to_show_are_cut_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(65_536);
    let values = [0; 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &values);
    let bytes = safetensors::serialize([(&name, view.unwrap())], None).unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let error = TensorFile::read(&path).unwrap_err().to_string();
    let said = format!("has 65536 bytes, over the limit of {MAX_NAME_BYTES}");
    assert!(error.contains(&said) && error.len() < 400, "{error:.400}");
}
