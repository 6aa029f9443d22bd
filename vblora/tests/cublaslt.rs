//! Products that are large enough for cuBLASLt, against flex, and their order among CubeCL's own work. Skipped where there is no CUDA device.
#![cfg(all(feature = "cublaslt", feature = "flex"))]
#![allow(missing_docs, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;

use burn::{
    backend::{Autodiff, Flex, autodiff::checkpoint::strategy::NoCheckpointing},
    tensor::{FloatDType, Tensor, TensorData},
};
use support::{TF32, assert_close, values};
use vblora::{
    Factors, FrozenLinear, JoinedMaps, LowRank, Result, WeightLayout,
    backend::{BackendJob, BackendKind, Gate, VbLoraBackend},
    ops::gated,
    rng::Key,
};

/// Runs `job` on the first CUDA device.
fn on_cuda<J: BackendJob<Output = ()>>(job: J) -> Result<()> {
    BackendKind::Cuda.dispatch(0, job)
}

fn skipped(outcome: Result<()>) {
    if let Err(error) = outcome {
        println!("skipped: {error}");
    }
}

fn random<B: VbLoraBackend, const D: usize>(
    name: &str,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let values = Key::new(5)
        .name(name)
        .uniform(shape.iter().product(), -1.0, 1.0);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// One map and its input.
#[derive(Clone, Copy)]
struct Case {
    sizes: [usize; 3],
    layout: WeightLayout,
    dtype: FloatDType,
    has_bias: bool,
    /// 0 without an adapter.
    rank: usize,
}

impl Case {
    /// The output, and the input's gradient.
    fn run<B: VbLoraBackend>(self, device: &B::Device) -> [Vec<f64>; 2] {
        type A<B> = Autodiff<B, NoCheckpointing>;
        let [rows, inner, columns] = self.sizes;
        let stored = match self.layout {
            WeightLayout::OutIn => random::<A<B>, 2>("w", [columns, inner], device),
            WeightLayout::InOut => random::<A<B>, 2>("w", [inner, columns], device),
        };
        let bias = self.has_bias.then(|| random("b", [columns], device));
        let map = FrozenLinear::new("map", stored.cast(self.dtype), bias, self.layout);
        let pair = |rank| LowRank {
            down: random("down", [inner, rank], device),
            up: random("up", [rank, columns], device),
            scale: 0.5,
        };
        let pairs = (self.rank > 0).then(|| ("map".to_owned(), pair(self.rank)));
        let factors = Factors::new(BTreeMap::from_iter(pairs), 0.0);
        let x = random::<A<B>, 2>("x", [rows, inner], device).require_grad();
        let y = map.forward(x.clone(), &factors);
        let direction = random("direction", [rows, columns], device);
        let gradients = (y.clone() * direction).sum().backward();
        let dx = x.grad(&gradients).expect("x has a gradient");
        [values(y.inner()), values(dx)]
    }
}

struct Values;

impl BackendJob for Values {
    type Output = ();

    fn run<B: VbLoraBackend>(self, device: B::Device) {
        let shapes = [[4096, 256, 512], [1000, 640, 776]];
        for sizes in shapes {
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                for dtype in [FloatDType::F32, FloatDType::BF16, FloatDType::F16] {
                    for (has_bias, rank) in [(false, 0), (true, 0), (true, 4), (false, 3)] {
                        let case = Case {
                            sizes,
                            layout,
                            dtype,
                            has_bias,
                            rank,
                        };
                        let what = format!("{sizes:?} {layout:?} {dtype:?} {has_bias} {rank}");
                        let [y, dx] = case.run::<B>(&device);
                        let [ey, edx] = case.run::<Flex>(&Default::default());
                        assert_close(&format!("{what} output"), &y, &ey, TF32);
                        assert_close(&format!("{what} gradient"), &dx, &edx, TF32);
                    }
                }
            }
        }
    }
}

#[test]
fn products_equal_those_of_the_cpu() {
    skipped(on_cuda(Values));
}

/// Two maps of one input as one operation: the gradient to the input is a sum, to which the second product adds the first.
fn joined<B: VbLoraBackend>(device: &B::Device) -> [Vec<f64>; 2] {
    type A<B> = Autodiff<B, NoCheckpointing>;
    let [rows, inner, columns] = [2048, 256, 512];
    let map = |name: &str| {
        let weight = random::<A<B>, 2>(name, [columns, inner], device);
        FrozenLinear::new(name, weight, None, WeightLayout::OutIn)
    };
    let pair = |name: &str| {
        let pair = LowRank {
            down: random(&format!("{name} down"), [inner, 4], device),
            up: random(&format!("{name} up"), [4, columns], device),
            scale: 0.5,
        };
        (name.to_owned(), pair)
    };
    let [gate, up] = ["gate", "up"].map(map);
    let factors = Factors::new(["gate", "up"].map(pair).into(), 0.0);
    let x = random::<A<B>, 2>("x", [rows, inner], device).require_grad();
    let y = match JoinedMaps::new([&gate, &up], &factors) {
        Some(maps) => maps.gated(x.clone(), Gate::Silu),
        None => gated(
            gate.forward(x.clone(), &factors),
            up.forward(x.clone(), &factors),
            Gate::Silu,
        ),
    };
    let direction = random("direction", [rows, columns], device);
    let gradients = (y.clone() * direction).sum().backward();
    let dx = x.grad(&gradients).expect("x has a gradient");
    [values(y.inner()), values(dx)]
}

struct Joined;

impl BackendJob for Joined {
    type Output = ();

    fn run<B: VbLoraBackend>(self, device: B::Device) {
        let [y, dx] = joined::<B>(&device);
        let [ey, edx] = joined::<Flex>(&Default::default());
        assert_close("output", &y, &ey, TF32);
        assert_close("gradient", &dx, &edx, TF32);
    }
}

#[test]
fn products_are_added_to_one_another() {
    skipped(on_cuda(Joined));
}

struct Order;

impl BackendJob for Order {
    type Output = ();

    /// Buffers are written before each product and used again right after it. A product out of order sees another round's values.
    fn run<B: VbLoraBackend>(self, device: B::Device) {
        let [rows, inner, columns] = [1024, 512, 1024];
        let weight = random::<B, 2>("w", [inner, columns], &device);
        let map = FrozenLinear::new("map", weight, None, WeightLayout::InOut);
        let x = random::<B, 2>("x", [rows, inner], &device);
        let expected = map.forward(x.clone(), &Factors::none());
        let scale = expected.clone().abs().max().into_scalar();
        let mut worst = Tensor::<B, 1>::zeros([1], &device);
        for round in 0..2_000 {
            // Powers of two change no digit of a product.
            let power = f64::from(1 << (round % 8));
            let y = map.forward(x.clone().mul_scalar(power), &Factors::none());
            let off = (y.div_scalar(power) - expected.clone()).abs().max();
            worst = worst.max_pair(off);
        }
        let worst = values(worst)[0];
        println!("largest difference {worst:e} of {scale:?}");
        assert_eq!(worst, 0.0, "a product ran out of order");
    }
}

#[test]
fn products_keep_their_place_among_other_work() {
    skipped(on_cuda(Order));
}
