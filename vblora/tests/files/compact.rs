//! The compact file: what it holds comes back, its size is known beforehand, what is broken says where.

use std::path::Path;

use vblora::{
    Selection, Site, StoredVbLora, Targets, VbLoraConfig,
    rng::Key,
    storage::{
        Bank, Codes, HostVbLora, MAX_RECIPE_BYTES, Part, Precision, Precisions, sites_sha256,
    },
};

use crate::support::random_vblora;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bits8];

/// An adapter with random codes, as a long training leaves them: the first weight anywhere between 1 / k and 1.
fn random(config: VbLoraConfig, sites: &[Site]) -> StoredVbLora {
    let plan = Targets::all_linear().select(sites).unwrap();
    let settings = config.check(&plan).unwrap();
    let (h, b, k, s) = (
        config.bank,
        config.vector_length,
        config.topk,
        settings.sub_vectors(),
    );
    let key = Key::new(11);
    let bank = key.name("bank").normal(h * b, 0.1);
    // A few candidates per sub-vector stand for all h logits.
    let logits = key.name("logits").normal(s * k, 1.0);
    let mut codes = Codes::from_logits(&logits, k, k);
    for (row, indices) in codes.indices.chunks_exact_mut(k).enumerate() {
        let start = key.name("start").below(row as u64, h) as u32;
        for (j, index) in indices.iter_mut().enumerate() {
            *index = (start + j as u32 * 7) % h as u32;
        }
    }
    StoredVbLora::new(settings, bank, codes).unwrap()
}

fn small(bank: usize, topk: usize) -> StoredVbLora {
    let config = VbLoraConfig {
        bank,
        vector_length: 4,
        rank: 3,
        topk,
        ..Default::default()
    };
    random(config, &[Site::new("one", 8, 12), Site::new("two", 12, 4)])
}

/// Bytes of a file behind its header.
fn data_bytes(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    bytes.len() - 8 - header as usize
}

#[test]
fn every_precision_comes_back_as_it_was_rounded_in_the_bytes_foretold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    for (h, k) in [(1, 1), (10, 1), (90, 2), (256, 3), (257, 3), (2048, 2)] {
        let stored = small(h, k);
        for bank in PRECISIONS {
            for weights in PRECISIONS {
                let precisions = Precisions { bank, weights };
                let loss = stored.save_as(&path, precisions).unwrap();
                let found = StoredVbLora::load(&path).unwrap();
                assert_eq!(found, stored.rounded(precisions).unwrap());
                assert_eq!(found.codes().indices, stored.codes().indices);
                let foretold = |part, recipe| {
                    let settings = stored.settings();
                    settings.compact_bytes(part, precisions, recipe)
                };
                let size = |path: &Path| std::fs::metadata(path).unwrap().len() as usize;
                assert_eq!(size(&path), foretold(Part::Whole, None));
                let shared = stored.own_bank().save(&path, bank).unwrap();
                assert_eq!(size(&path), foretold(Part::Bank, None));
                let recipe = "lr = 1e-3 \"quoted\"\nη = 2";
                let described = stored.clone().with_recipe(Some(recipe.into())).unwrap();
                described.save_codes(&path, &shared, weights).unwrap();
                assert_eq!(size(&path), foretold(Part::Codes, Some(recipe)));
                let exact = precisions == Precisions::default();
                assert_eq!(
                    loss.largest_change == 0.0,
                    exact || (bank == Precision::F32 && k == 1)
                );
                assert!(loss.largest_change <= 0.02 * loss.largest_entry, "{loss:?}");
                if exact {
                    assert_eq!(found, stored);
                }
            }
        }
    }
}

/// Every vector of the bank, and a gate, by the file's size and by what comes back.
#[test]
fn select_all_needs_no_indices_and_a_gate_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let plain = random_vblora(&[Site::new("one", 8, 12), Site::new("two", 12, 4)], 20, 2);
    for (selection, gate) in [
        (Selection::SelectAll, None),
        (Selection::SelectAll, Some(0.25)),
        (Selection::StraightThrough, Some(-0.7)),
    ] {
        let config = VbLoraConfig {
            selection,
            gate: gate.is_some(),
            ..plain.settings().config().clone()
        };
        let trained = config.check(plain.settings().plan()).unwrap();
        let (bank, logits) = (plain.bank().to_vec(), plain.logits().to_vec());
        let host = HostVbLora::new(trained.clone(), bank, logits).unwrap();
        let host = match gate {
            Some(gate) => host.with_gate(gate).unwrap(),
            None => host,
        };
        let stored = host.store();
        stored.save(&path).unwrap();
        let found = StoredVbLora::load(&path).unwrap();
        assert_eq!((&found, found.gate()), (&stored, gate.unwrap_or(1.0)));
        if selection == Selection::SelectAll {
            assert_eq!(data_bytes(&path), trained.count().bytes);
            let s = trained.sub_vectors();
            let parameters = 20 * 4 + s * 19 + usize::from(gate.is_some());
            assert_eq!(data_bytes(&path), 4 * parameters);
        }
        for precision in PRECISIONS {
            let precisions = Precisions {
                bank: precision,
                weights: precision,
            };
            stored.save_as(&path, precisions).unwrap();
            let found = StoredVbLora::load(&path).unwrap();
            assert_eq!(found, stored.rounded(precisions).unwrap());
            let size = std::fs::metadata(&path).unwrap().len() as usize;
            assert_eq!(size, trained.compact_bytes(Part::Whole, precisions, None));
        }
        let shared = stored.own_bank();
        stored.save_codes(&path, &shared, Precision::F32).unwrap();
        assert_eq!(StoredVbLora::load_codes(&path, &shared).unwrap(), stored);
    }
    // Rows of select-all in another order are none.
    let all = VbLoraConfig {
        selection: Selection::SelectAll,
        ..plain.settings().config().clone()
    };
    let settings = all.check(plain.settings().plan()).unwrap();
    let codes = Codes::from_logits(plain.logits(), 20, 20);
    let error = StoredVbLora::new(settings, plain.bank().to_vec(), codes).unwrap_err();
    assert!(error.to_string().contains("0..20"), "{error}");
}

/// The sizes to reach, on written files (design notes: PEFT needs 109 kB and 2.53 MB).
#[test]
fn files_of_the_papers_models_are_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    let write = |stored: &StoredVbLora, precision: Precision| {
        let precisions = Precisions {
            bank: precision,
            weights: precision,
        };
        stored.save_as(&path, precisions).unwrap();
        let whole = data_bytes(&path);
        let bank = stored.own_bank().rounded(precision).unwrap();
        stored.save_codes(&path, &bank, precision).unwrap();
        [whole, data_bytes(&path)]
    };
    let roberta: Vec<_> = (0..24)
        .map(|n| {
            Site::new(
                format!("encoder.layer.{}.attention.self.{}", n / 2, n % 2),
                768,
                768,
            )
        })
        .collect();
    let roberta = random(VbLoraConfig::default(), &roberta);
    let [whole, codes] = write(&roberta, Precision::Bits8);
    assert!(whole <= 26_000 && codes <= 2_500, "{whole} {codes}");
    let [whole, codes] = write(&roberta, Precision::F16);
    assert!(whole <= 50_000 && codes <= 2_500, "{whole} {codes}");
    let llama: Vec<_> = (0..32)
        .flat_map(|n| {
            let (d, inner) = (4096, 11_008);
            [(d, d); 4]
                .into_iter()
                .chain([(d, inner), (d, inner), (inner, d)])
                .enumerate()
                .map(move |(i, (d_in, d_out))| Site::new(format!("layers.{n}.{i}"), d_in, d_out))
        })
        .collect();
    let config = VbLoraConfig {
        bank: 2048,
        ..Default::default()
    };
    let llama = random(config, &llama);
    assert_eq!(llama.settings().sub_vectors(), 39_040);
    let [whole, codes] = write(&llama, Precision::Bits8);
    assert!(whole <= 700_000 && codes <= 190_000, "{whole} {codes}");
}

#[test]
fn one_bank_serves_many_adapters_and_codes_know_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let stored = small(90, 2);
    for precision in PRECISIONS {
        let bank = stored.own_bank().save(&at("bank"), precision).unwrap();
        assert_eq!(Bank::load(&at("bank")).unwrap(), bank);
        stored
            .save_codes(&at("codes"), &bank, Precision::F32)
            .unwrap();
        let found = StoredVbLora::load_codes(&at("codes"), &bank).unwrap();
        assert_eq!(
            (found.codes(), found.own_bank()),
            (stored.codes(), bank.clone())
        );
        let mut other = bank.values().to_vec();
        other[7] += 0.5;
        let other = Bank::new(bank.shape(), other).unwrap();
        let error = StoredVbLora::load_codes(&at("codes"), &other)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&bank.sha256()) && error.contains(&other.sha256()),
            "{error}"
        );
        let error = StoredVbLora::load(&at("codes")).unwrap_err().to_string();
        assert!(
            error.contains("no bank") && error.contains(&bank.sha256()),
            "{error}"
        );
        let error = StoredVbLora::load(&at("bank")).unwrap_err().to_string();
        assert!(error.contains("no codes"), "{error}");
    }
    // The bank of a whole file can be shared as well.
    stored.save(&at("whole")).unwrap();
    assert_eq!(Bank::load(&at("whole")).unwrap(), stored.own_bank());
    // A bank of another shape cannot be bound to.
    let narrow = Bank::new([90, 2], vec![0.5; 180]).unwrap();
    assert!(
        stored
            .save_codes(&at("codes"), &narrow, Precision::F32)
            .is_err()
    );
}

#[test]
fn a_damaged_bank_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    small(90, 2).save(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // The bank comes first: its type has the widest elements.
    bytes[8 + header + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = StoredVbLora::load(&path).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn a_value_beyond_half_precision_is_refused_and_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bank");
    std::fs::write(&path, "old").unwrap();
    let bank = Bank::new([1, 2], vec![1.0, 70_000.0]).unwrap();
    let error = bank.save(&path, Precision::F16).unwrap_err().to_string();
    assert!(error.contains("bank"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_file_says_how_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let recipe = Some("epochs = 3\n".to_owned());
    let stored = small(90, 2).with_recipe(recipe.clone()).unwrap();
    stored.save(&at("whole")).unwrap();
    let found = StoredVbLora::load(&at("whole")).unwrap();
    assert_eq!(found.recipe(), recipe.as_deref());
    assert_eq!(found, stored);
    let precisions = Precisions {
        bank: Precision::Bits8,
        weights: Precision::F16,
    };
    assert_eq!(
        stored.rounded(precisions).unwrap().recipe(),
        recipe.as_deref()
    );
    let long = "x".repeat(MAX_RECIPE_BYTES + 1);
    assert!(small(90, 2).with_recipe(Some(long[1..].into())).is_ok());
    let error = small(90, 2)
        .with_recipe(Some(long))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("recipe") && error.contains("65537"),
        "{error}"
    );
}

#[test]
fn a_file_knows_the_model_it_was_made_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    small(90, 2).save(&path).unwrap();
    let found = StoredVbLora::load(&path).unwrap();
    let sites = found.settings().plan().sites().to_vec();
    let model = [&[Site::new("more", 4, 4)], &*sites].concat();
    assert_eq!(found.clone().bind(&model).unwrap(), found);
    let other = [Site::new("one", 8, 12), Site::new("two", 12, 8)];
    let error = found.bind(&other).unwrap_err().to_string();
    for part in [
        "two",
        "12 -> 4",
        "12 -> 8",
        &sites_sha256(&sites),
        &sites_sha256(&other),
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // Another name of the same length beside the same hash.
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|w| w == b"two").unwrap();
    bytes[at..at + 3].copy_from_slice(b"six");
    std::fs::write(&path, bytes).unwrap();
    let error = StoredVbLora::load(&path).unwrap_err().to_string();
    assert!(
        error.contains("sites") && error.contains("damaged"),
        "{error}"
    );
}

#[test]
fn another_version_of_the_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.safetensors");
    small(90, 2).save(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let key = br#"format\":"#;
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    for version in [b'1', b'9'] {
        bytes[at] = version;
        std::fs::write(&path, &bytes).unwrap();
        let error = StoredVbLora::load(&path).unwrap_err().to_string();
        let expected = format!("format {}, this program reads", char::from(version));
        assert!(error.contains(&expected), "{error}");
    }
}
