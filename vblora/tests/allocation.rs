//! How much memory a reader takes for a file made to do harm, measured by an allocator that counts. Alone in its process, and one test, so
//! that nothing else is counted.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::path::Path;

use vblora::{
    Site, StoredVbLora,
    rng::Key,
    storage::{
        Bank, HostAdapter, MAX_SUB_VECTORS,
        checkpoint::{
            FileSet, MAX_SET_BYTES, ParameterState, parameters_from_bytes, parameters_to_bytes,
        },
        peft::{PeftAdapter, PeftDirectory},
    },
};

use counting::{Counting, measured};
use support::random_vblora;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were held at a time during `work`, above those held before.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let (_, [_, peak]) = measured(work);
    peak
}

/// The most bytes that a reader may take for a file of `file` bytes: parsed text takes more than its bytes, and so do packed numbers.
fn allowed(file: usize) -> usize {
    64 * file + (1 << 20)
}

/// A digit of the text replaced by a large number, or some bytes in the middle by others.
fn corrupt(file: &[u8], case: u64) -> Vec<u8> {
    const NUMBERS: [&str; 5] = [
        "99",
        "65536",
        "16777216",
        "4294967295",
        "9223372036854775807",
    ];
    let key = Key::new(case).name("allocation");
    let mut bytes = file.to_vec();
    for draw in 0..=key.below(0, 3) as u64 {
        let key = key.index(draw);
        let digits: Vec<_> = (0..bytes.len())
            .filter(|&i| bytes[i].is_ascii_digit())
            .collect();
        let at = digits[key.below(1, digits.len())];
        let number = NUMBERS[key.below(2, NUMBERS.len())];
        bytes.splice(at..=at, number.bytes());
        // Some of the numbers are lengths that the text itself is found by.
        if key.below(3, 2) == 0 && bytes.len() > 8 {
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let grown = header.wrapping_add(number.len() as u64 - 1);
            bytes[..8].copy_from_slice(&grown.to_le_bytes());
        }
    }
    bytes
}

fn attack<T>(path: &Path, name: &str, read: impl Fn() -> T) {
    let whole = std::fs::read(path).unwrap();
    let mut worst = 0;
    for case in 0..1000 {
        let bytes = corrupt(&whole, case);
        let size = bytes.len();
        std::fs::write(path, bytes).unwrap();
        let peak = peak(&read);
        assert!(
            peak <= allowed(size),
            "{name}, case {case}: {peak} bytes for a file of {size}"
        );
        worst = worst.max(peak);
    }
    println!(
        "{name}: at most {worst} bytes for a file of {}",
        whole.len()
    );
    std::fs::write(path, whole).unwrap();
}

#[test]
fn no_file_makes_a_reader_allocate_beyond_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let sites = [Site::new("a.one", 4, 8), Site::new("a.two", 8, 4)];
    let adapter = random_vblora(&sites, 9, 3);

    let path = dir.path().join("adapter.safetensors");
    adapter.store().save(&path).unwrap();
    attack(&path, "compact", || {
        (StoredVbLora::load(&path).is_ok(), Bank::load(&path).is_ok())
    });

    most_sub_vectors(&path);

    for (name, adapter) in [
        ("top-k", HostAdapter::TopK(adapter.store())),
        ("full", HostAdapter::VbLora(adapter)),
    ] {
        let dir = dir.path().join(name);
        PeftAdapter::new(adapter).write(&dir).unwrap();
        let read = || PeftDirectory::open(&dir).and_then(|found| found.bind(found.sites()));
        attack(&dir.join("adapter_model.safetensors"), name, read);
        attack(&dir.join("adapter_config.json"), name, read);
    }

    let mut set = FileSet::default();
    let value = vec![0.5; 2000];
    let state = ParameterState {
        value,
        moments: None,
    };
    let initial = |_: &str| Some(vec![0.5; 2000]);
    let (tensors, _) = parameters_to_bytes([("x", &state)], initial).unwrap();
    set.insert("tensors", tensors).unwrap();
    let place = dir.path().join("step-1");
    set.write(&place).unwrap();
    attack(&place.join("manifest.json"), "manifest", || {
        FileSet::read(&place)
    });

    // The text alone decides how much there would be.
    let manifest = std::fs::read_to_string(place.join("manifest.json")).unwrap();
    let bytes = format!("\"bytes\": {}", set.bytes());
    let huge = manifest.replace(&bytes, &format!("\"bytes\": {MAX_SET_BYTES}"));
    assert_ne!(huge, manifest);
    std::fs::write(place.join("manifest.json"), huge).unwrap();
    let found = peak(|| FileSet::read(&place).unwrap_err());
    assert!(found < allowed(manifest.len() + set.bytes()), "{found}");

    let path = dir.path().join("parameters");
    std::fs::write(&path, set.take("tensors").unwrap()).unwrap();
    let expected = [("x".to_owned(), 2000)];
    attack(&path, "parameters", || {
        parameters_from_bytes(&path, std::fs::read(&path).unwrap(), &expected, initial)
    });
}

/// A bank of one vector needs no bits for its indices, so a few bytes can stand for as many sub-vectors as the limit allows.
fn most_sub_vectors(path: &Path) {
    let adapter = random_vblora(&[Site::new("a", 256, 256)], 1, 1);
    adapter.store().save(path).unwrap();
    let whole = std::fs::read(path).unwrap();
    let with_rank = |rank: usize| {
        let (from, to) = ("rank\\\":3", format!("rank\\\":{rank}"));
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes());
        let at = at.expect("the settings are in the metadata");
        let mut bytes = whole.clone();
        bytes.splice(at..at + from.len(), to.bytes());
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap());
        let header = header + (to.len() - from.len()) as u64;
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    };
    // 128 sub-vectors for each rank.
    with_rank(MAX_SUB_VECTORS / 128);
    let found = peak(|| StoredVbLora::load(path).unwrap());
    println!("compact, {MAX_SUB_VECTORS} sub-vectors: {found} bytes");
    assert!(found <= 4 * MAX_SUB_VECTORS + (1 << 20), "{found}");
    with_rank(MAX_SUB_VECTORS / 128 + 1);
    let found = peak(|| StoredVbLora::load(path).unwrap_err());
    assert!(found <= allowed(whole.len()), "{found}");
}
