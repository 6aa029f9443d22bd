//! Many adapters on one base: switching, stacks of adapters for multi-adapter batches, merging.

use burn::tensor::Tensor;
use vblora::{
    AdapterSet, Factors, FrozenLinear, LoraConfig, LowRank, Site, Stack, StoredVbLora, Targets,
    WeightLayout,
    backend::VbLoraBackend,
    rng::Key,
    storage::{HostAdapter, HostLora},
};

use crate::support::{alike, assert_close, products, random_vblora, values};

fn sites() -> Vec<Site> {
    vec![Site::new("one", 8, 12), Site::new("two", 12, 4)]
}

fn random<B: VbLoraBackend, const D: usize>(
    name: &str,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let values = Key::new(21).name(name).normal(shape.iter().product(), 0.7);
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}

fn linear<B: VbLoraBackend>(site: &str, shape: [usize; 2], device: &B::Device) -> FrozenLinear<B> {
    let bias = random("bias", [shape[1]], device);
    FrozenLinear::new(
        site,
        random(site, shape, device),
        Some(bias),
        WeightLayout::InOut,
    )
}

/// LoRA of rank 11 with a scale, on the second site alone: with the others' columns, more than a GPU's kernels take at once.
fn lora() -> HostAdapter {
    let plan = Targets::suffixes(["two"]).select(&sites()).unwrap();
    let config = LoraConfig {
        rank: 11,
        alpha: 5.0,
        dropout: 0.9,
        ..LoraConfig::default()
    };
    let draw = |name: &str, dim: usize| vec![Key::new(22).name(name).normal(11 * dim, 0.7)];
    let lora = HostLora::new(config.check(&plan).unwrap(), draw("a", 12), draw("b", 4));
    HostAdapter::Lora(lora.unwrap())
}

/// VB-LoRA of rank 3 with one bank, and codes moved on by `shift`.
fn vblora(shift: u32) -> HostAdapter {
    let stored = random_vblora(&sites(), 10, 2).store();
    let mut codes = stored.codes().clone();
    codes
        .indices
        .iter_mut()
        .for_each(|i| *i = (*i + shift) % 10);
    let (settings, bank) = (stored.settings().clone(), stored.bank().to_vec());
    HostAdapter::TopK(StoredVbLora::new(settings, bank, codes).unwrap())
}

pub(crate) fn rows_take_their_own_adapter<B: VbLoraBackend>(device: &B::Device) {
    let adapters = [vblora(0), lora(), vblora(3)].map(|adapter| adapter.factors::<B>(device));
    let stack = Stack::new(&adapters);
    for (site, shape) in [("one", [8, 12]), ("two", [12, 4]), ("other", [8, 8])] {
        let layer = linear::<B>(site, shape, device);
        for rows in [
            vec![Some(0), None, Some(2), Some(1), Some(0)],
            vec![Some(1)],
            vec![None, None],
        ] {
            let (n, t, d_in) = (rows.len(), 3, shape[0]);
            let x = random::<B, 3>("x", [n, t, d_in], device);
            let factors = stack.assign(&rows, device).unwrap();
            assert!(factors.is_multi_adapter());
            let found = layer.forward(x.clone(), &factors);
            let first = layer.forward(x.clone().slice([0..n, 0..1]).reshape([n, d_in]), &factors);
            for (i, row) in rows.iter().enumerate() {
                let x = x.clone().slice([i..i + 1, 0..t]);
                let none = Factors::none();
                let own = row.map_or(&none, |row| &adapters[row]);
                let expected = values(layer.forward(x, own));
                let of_row = found.clone().slice([i..i + 1, 0..t]);
                assert_close(
                    &format!("{site}, row {i}"),
                    &values(of_row),
                    &expected,
                    alike(1e-5),
                );
                // The same as a batch without tokens.
                let of_row = first.clone().slice([i..i + 1, 0..shape[1]]);
                assert_close("flat", &values(of_row), &expected[..shape[1]], alike(1e-5));
            }
        }
    }
    let error = stack.assign(&[Some(0), Some(3)], device).unwrap_err();
    assert!(error.to_string().contains("adapters 3, found 3"), "{error}");
}

pub(crate) fn a_set_switches_adapters_and_shares_their_bank<B: VbLoraBackend>(device: &B::Device) {
    let mut set = AdapterSet::<B>::new(device.clone());
    let other = HostAdapter::VbLora(random_vblora(&sites(), 11, 3));
    let adapters = [
        ("a", vblora(0)),
        ("b", vblora(3)),
        ("c", other),
        ("d", lora()),
    ];
    for (name, adapter) in &adapters {
        set.load(name, adapter).unwrap();
    }
    assert_eq!(set.banks(), 2);
    let same = |found: &Factors<B>, expected: &Factors<B>| {
        assert!(found.names().eq(expected.names()));
        for site in expected.names() {
            let delta = |factors: &Factors<B>| values(factors.get(site).unwrap().delta());
            assert_close(site, &delta(found), &delta(expected), products(1e-6));
        }
    };
    // There and back again.
    for at in [0, 1, 0, 3, 2, 1] {
        let (name, adapter) = &adapters[at];
        same(&set.factors(name).unwrap(), &adapter.factors(device));
    }
    let error = set.load("a", &lora()).unwrap_err().to_string();
    assert!(error.contains("a new name, found \"a\""), "{error}");
    set.unload("a").unwrap();
    assert_eq!((set.banks(), set.names().count()), (2, 3));
    same(&set.factors("b").unwrap(), &adapters[1].1.factors(device));
    set.unload("b").unwrap();
    set.unload("c").unwrap();
    assert_eq!(set.banks(), 0);
    for error in [
        set.factors("a").err(),
        set.unload("a").err(),
        set.stack(&["d", "a"]).err(),
    ] {
        let error = error.unwrap().to_string();
        assert!(error.contains("one of [\"d\"], found \"a\""), "{error}");
    }
    set.load("a", &vblora(1)).unwrap();
    same(&set.factors("a").unwrap(), &vblora(1).factors(device));
}

pub(crate) fn merging_keeps_the_base_to_the_bit<B: VbLoraBackend>(device: &B::Device) {
    let layer = linear::<B>("one", [8, 12], device);
    let bits = |layer: &FrozenLinear<B>| layer.weight.dense().into_data();
    let before = bits(&layer);
    let factors = vblora(0).factors(device);
    let merged = layer.merged(&factors);
    assert_ne!(bits(&merged), before);
    let x = random::<B, 2>("x", [5, 8], device);
    let expected = values(layer.forward(x.clone(), &factors));
    let found = values(merged.forward(x, &Factors::none()));
    assert_close("merged", &found, &expected, products(1e-5));
    drop(merged);
    assert_eq!(bits(&layer), before);
}

/// A row without an adapter gets the base's output exactly: its columns are multiplied by zero, not left to cancel.
pub(crate) fn rows_without_an_adapter_are_untouched<B: VbLoraBackend>(device: &B::Device) {
    let layer = linear::<B>("one", [8, 12], device);
    let pair = LowRank {
        down: random("down", [8, 2], device).mul_scalar(1e6),
        up: random("up", [2, 12], device).mul_scalar(1e6),
        scale: 1e3,
    };
    let stack = Stack::new(&[Factors::new([("one".into(), pair)].into(), 0.0)]);
    let factors = stack.assign(&[None, Some(0)], device).unwrap();
    let x = random::<B, 3>("x", [2, 3, 8], device);
    let [found, base] = [&factors, &Factors::none()]
        .map(|factors| values(layer.forward(x.clone(), factors).slice([0..1, 0..3, 0..12])));
    assert_eq!(found, base);
}
