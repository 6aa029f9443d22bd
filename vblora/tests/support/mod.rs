//! What the test suites of the workspace share: recorded values, a plain f64 reference, and one instantiation per compiled backend.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr
)]

pub mod corrupt;
pub mod fixtures;
pub mod launches;
pub mod models;
pub mod process;
pub mod reference;

use burn::tensor::{Tensor, TensorData};
use vblora::{Site, Targets, VbLoraConfig, backend::VbLoraBackend, rng::Key, storage::HostVbLora};

/// Instantiates generic tests `fn name<B: VbLoraBackend>(device: &B::Device)` of `module` on every backend that is compiled in. Each
/// ends with a sync, since a GPU's errors show only there.
#[macro_export]
macro_rules! on_every_backend {
    ($module:ident: $($test:ident),* $(,)?) => {
        on_every_backend!(@ "flex", flex, burn::backend::Flex, $module, $($test),*);
        on_every_backend!(@ "ndarray", ndarray, burn::backend::NdArray, $module, $($test),*);
        on_every_backend!(@ "wgpu", wgpu, vblora::backend::Wgpu, $module, $($test),*);
        on_every_backend!(@ "cuda", cuda, vblora::backend::Cuda, $module, $($test),*);
    };
    (@ $feature:literal, $name:ident, $backend:ty, $module:ident, $($test:ident),*) => {
        #[cfg(feature = $feature)]
        mod $name {
            $(#[test]
            fn $test() {
                let device = Default::default();
                $crate::support::set_backend($feature);
                super::$module::$test::<$backend>(&device);
                <$backend as burn::tensor::backend::Backend>::sync(&device).expect("the device reports no error");
            })*
        }
    };
}

thread_local! {
    static PRODUCTS: std::cell::Cell<f64> = const { std::cell::Cell::new(0.0) };
    static KERNELS: std::cell::Cell<f64> = const { std::cell::Cell::new(0.0) };
}

/// The error of f32 matrix products on tensor cores, relative to the largest value: CubeCL multiplies f32 in TF32 on CUDA, which cuts both
/// factors to 10 bits of mantissa (2^-10 each); two layers of a transformer were seen to end 4.1e-3 off.
pub const TF32: f64 = 8e-3;

/// Says on which backend this thread's test runs.
pub fn set_backend(name: &str) {
    PRODUCTS.set(if name == "cuda" { TF32 } else { 0.0 });
    KERNELS.set(match name {
        "cuda" => TF32,
        "wgpu" if cfg!(feature = "autotune") => 1e-5,
        _ => 0.0,
    });
}

/// The tolerance of two ways to one value by the same backend: the given one, or the products' error where another kernel makes a product
/// of another shape. On CUDA the number of rows decides that: fewer than 16 are multiplied in f32, and cuBLASLt has many kernels. With
/// `autotune` the first product of a shape may differ as well.
pub fn alike(tolerance: f64) -> f64 {
    KERNELS.get().max(tolerance)
}

/// The tolerance of what has gone through f32 matrix products: the given one, or the products' own error where that is larger.
pub fn products(tolerance: f64) -> f64 {
    PRODUCTS.get().max(tolerance)
}

/// The tolerance of gradients that come back through the products of a recorded model. With every operand of a product rounded as tensor
/// cores round it, PyTorch's own of GPT-2 with all maps adapted are off by 4.8e-2, and its hidden states by 1.4e-2. Those of DeBERTa-v3 are
/// off by 6e-3, and by 1.4e-2 with operands cut as CubeCL cuts them.
pub fn gradients(tolerance: f64) -> f64 {
    (2.5 * PRODUCTS.get()).max(tolerance)
}

/// The tolerance of a recorded encoder's gradients to the logits of one factor, which are differences of nearly equal numbers. With operands
/// rounded to TF32, PyTorch's own of a factor of ModernBERT are off by 4.8e-2.
pub fn logit_gradients(tolerance: f64) -> f64 {
    (6.5 * PRODUCTS.get()).max(tolerance)
}

/// A tensor from f64 values, rounded once.
pub fn tensor<B: VbLoraBackend, const D: usize>(
    values: &[f64],
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor's values.
pub fn values<B: VbLoraBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f64> {
    tensor
        .into_data()
        .convert::<f64>()
        .into_vec()
        .expect("converted to f64")
}

/// Asserts that no value is further off than `tolerance` times the largest expected magnitude (at least 1e-6 of 1).
#[track_caller]
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1e-6_f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance * scale,
            "{what}[{i}]: expected {e}, found {f} (largest magnitude {scale})"
        );
    }
}

/// A VB-LoRA adapter of rank 3 on these sites, random values throughout; vectors have length 4.
pub fn random_vblora(sites: &[Site], bank: usize, topk: usize) -> HostVbLora {
    let config = VbLoraConfig {
        bank,
        vector_length: 4,
        rank: 3,
        topk,
        bank_bound: 0.5,
        logits_std: 2.0,
        ..VbLoraConfig::default()
    };
    let plan = Targets::all_linear().select(sites).unwrap();
    let settings = config.check(&plan).unwrap();
    let key = Key::new(3);
    let values = key.name("bank").uniform(bank * 4, -0.5, 0.5);
    let logits = key
        .name("logits")
        .normal(settings.sub_vectors() * bank, 2.0);
    HostVbLora::new(settings, values, logits).unwrap()
}
