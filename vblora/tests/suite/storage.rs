//! The stored form: the same factors, files that round trip, broken files that say what is wrong.

use burn::tensor::Tensor;
use vblora::{
    Adapter, Selection, Site, StoredVbLora, Targets, VbLora, VbLoraConfig, backend::VbLoraBackend,
    storage::Codes,
};

use crate::support::{assert_close, products, values};

fn adapter<B: VbLoraBackend>(topk: usize, bank: usize, device: &B::Device) -> VbLora<B> {
    let plan = Targets::all_linear()
        .select(&[Site::new("one", 8, 12), Site::new("two", 12, 4)])
        .unwrap();
    let config = VbLoraConfig {
        bank,
        vector_length: 4,
        rank: 3,
        topk,
        bank_bound: 0.5,
        logits_std: 2.0,
        ..Default::default()
    };
    config.check(&plan).unwrap().init(7, device)
}

fn deltas<B: VbLoraBackend>(factors: &vblora::Factors<B>) -> Vec<f64> {
    factors
        .names()
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .iter()
        .flat_map(|n| values::<B, 2>(factors.get(n).unwrap().delta()))
        .collect()
}

pub(crate) fn codes_compose_what_the_adapter_composed<B: VbLoraBackend>(device: &B::Device) {
    for (topk, bank) in [(1, 10), (2, 10), (3, 300), (10, 10)] {
        let adapter = adapter::<B>(topk, bank, device);
        let stored = adapter.store().unwrap();
        assert_close(
            "deltas",
            &deltas(&stored.factors::<B>(device)),
            &deltas(&adapter.factors()),
            products(1e-5),
        );
        let bytes = 4 * stored.bank().len() + 4 * stored.codes().weights.len();
        let indices = stored.codes().indices.len() * if bank > 256 { 2 } else { 1 };
        assert_eq!(
            adapter.settings().count().bytes,
            bytes + indices,
            "k = {topk}"
        );
    }
}

pub(crate) fn mixtures_are_the_codes_with_all_weights<B: VbLoraBackend>(device: &B::Device) {
    for (topk, bank) in [(1, 10), (2, 10), (3, 300), (10, 10)] {
        let adapter = adapter::<B>(topk, bank, device);
        let (found, stored) = (adapter.mixture(), adapter.store().unwrap());
        assert_eq!(found.topk, topk);
        assert_eq!(found.indices, stored.codes().indices, "k = {topk}");
        let doubles = |weights: &[f32]| weights.iter().copied().map(f64::from).collect::<Vec<_>>();
        let expected = doubles(&stored.codes().full_weights());
        assert_close("weights", &doubles(&found.weights), &expected, 1e-5);
        assert_eq!(adapter.host_bank(), stored.bank());
    }
}

/// Where every vector is selected, the k with most weight are shown, with their parts of the whole.
pub(crate) fn a_mixture_of_all_vectors_shows_the_heaviest<B: VbLoraBackend>(device: &B::Device) {
    let (few, h) = (adapter::<B>(3, 10, device), 10);
    let all = VbLoraConfig {
        selection: Selection::SelectAll,
        ..few.settings().config().clone()
    };
    let all = all
        .check(few.settings().plan())
        .unwrap()
        .init::<B>(7, device);
    let (found, stored) = (all.mixture(), all.store().unwrap());
    assert_eq!(found.indices, few.mixture().indices);
    let whole = stored.codes().full_weights();
    let rows = found.indices.chunks(3).enumerate();
    let expected: Vec<f64> = rows
        .flat_map(|(row, indices)| indices.iter().map(move |&i| row * h + i as usize))
        .map(|at| f64::from(whole[at]))
        .collect();
    let weights: Vec<f64> = found.weights.into_iter().map(f64::from).collect();
    assert_close("weights", &weights, &expected, 1e-5);
    assert!(weights.chunks(3).any(|row| row.iter().sum::<f64>() < 0.9));
}

pub(crate) fn files_round_trip<B: VbLoraBackend>(device: &B::Device) {
    let folder = tempfile::tempdir().unwrap();
    for (topk, bank) in [(1, 10), (2, 256), (2, 257), (3, 300)] {
        let path = folder.path().join(format!("{topk}-{bank}.safetensors"));
        let stored = adapter::<B>(topk, bank, device).store().unwrap();
        stored.save(&path).unwrap();
        assert_eq!(StoredVbLora::load(&path).unwrap(), stored);
    }
}

pub(crate) fn broken_files_are_errors<B: VbLoraBackend>(device: &B::Device) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    assert!(
        StoredVbLora::load(&path)
            .unwrap_err()
            .to_string()
            .contains("adapter.safetensors")
    );
    let stored = adapter::<B>(2, 10, device).store().unwrap();
    stored.save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 4, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let message = StoredVbLora::load(&path).unwrap_err().to_string();
        assert!(
            message.contains("adapter.safetensors"),
            "{length}: {message}"
        );
    }
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &lying).unwrap();
    assert!(StoredVbLora::load(&path).is_err());
    // A file that is well formed, with settings that cannot be.
    let text = |from: &str, to: &str| {
        let at = whole
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .expect(from);
        let mut edited = whole.clone();
        edited[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, edited).unwrap();
        StoredVbLora::load(&path).unwrap_err().to_string()
    };
    assert!(text("rank\\\":3", "rank\\\":0").contains("rank must be"));
    assert!(text("topk\\\":2", "topk\\\":3").contains("indices"));
    let message = codes_error(&stored, |codes| codes.indices[3] = 10);
    assert!(
        message.contains("indices must be below the bank size 10, found 10"),
        "{message}"
    );
    assert!(
        codes_error(&stored, |codes| codes.indices[1] = codes.indices[0])
            .contains("different within a sub-vector")
    );
    assert!(codes_error(&stored, |codes| codes.weights[2] = f32::NAN).contains("weights"));
    assert!(codes_error(&stored, |codes| codes.weights[2] = 1.5).contains("from 0 to 1"));
    assert!(codes_error(&stored, |codes| codes.weights.truncate(3)).contains("expected shape"));
    // A weight that rounding pushed past the sum is clamped, not refused, and gives no negative weight.
    let codes = Codes {
        topk: 3,
        indices: vec![0, 1, 2],
        weights: vec![0.7, 0.300_000_1],
    };
    assert_eq!(codes.full_weights()[2], 0.0);
    let mut adapter = adapter::<B>(2, 10, device);
    adapter.logits =
        burn::module::Param::from_tensor(Tensor::full(adapter.logits.dims(), f32::NAN, device));
    assert!(adapter.store().unwrap_err().to_string().contains("logits"));
}

fn codes_error(stored: &StoredVbLora, edit: impl Fn(&mut Codes)) -> String {
    let mut codes = stored.codes().clone();
    edit(&mut codes);
    StoredVbLora::new(stored.settings().clone(), stored.bank().to_vec(), codes)
        .unwrap_err()
        .to_string()
}
