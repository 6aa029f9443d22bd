//! Frozen maps in 4 bits: as the dense maps of their values, on every backend.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    tensor::{FloatDType, Int, Tensor, TensorData},
};
use vblora::{
    Factors, FrozenLinear, FrozenWeight, LowRank, WeightLayout,
    backend::{GeluForm, VbLoraBackend},
    nf4::Nf4Host,
    rng::Key,
};

use crate::support::{assert_close, products, values};

type Ad<B> = Autodiff<B>;

fn draw(name: &str, len: usize) -> Vec<f32> {
    Key::new(5).name(name).normal(len, 0.5)
}

fn tensor<B: VbLoraBackend, const D: usize>(
    name: &str,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let data = TensorData::new(draw(name, shape.iter().product()), shape);
    Tensor::from_data(data, device)
}

/// The map in 4 bits, and the dense map of its values.
fn maps<B: VbLoraBackend>(
    [d_in, d_out]: [usize; 2],
    double: bool,
    device: &B::Device,
) -> [FrozenLinear<Ad<B>>; 2] {
    let shape = [d_out, d_in];
    let host = Nf4Host::quantise(&draw("weight", d_in * d_out), shape, double);
    let bias = || Some(tensor("bias", [d_out], device));
    // As loading lays dense weights out.
    let rows = host.dequantise();
    let turned = (0..d_in).flat_map(|i| (0..d_out).map(move |o| (o, i)));
    let turned: Vec<f32> = turned.map(|(o, i)| rows[o * d_in + i]).collect();
    let dense = Tensor::from_data(TensorData::new(turned, [d_in, d_out]), device);
    [
        FrozenLinear::from_nf4("map", &host, bias(), FloatDType::F32, device),
        FrozenLinear::new("map", dense, bias(), WeightLayout::InOut),
    ]
}

fn factors<B: VbLoraBackend>(
    [d_in, d_out]: [usize; 2],
    device: &B::Device,
) -> (Factors<Ad<B>>, [Tensor<Ad<B>, 2>; 2]) {
    let down = tensor::<Ad<B>, 2>("down", [d_in, 3], device).require_grad();
    let up = tensor::<Ad<B>, 2>("up", [3, d_out], device).require_grad();
    let pair = LowRank {
        down: down.clone(),
        up: up.clone(),
        scale: 0.75,
    };
    let factors = Factors::new([("map".to_owned(), pair)].into(), 0.0);
    (factors, [down, up])
}

/// Equal to the bit where the processor computes, close elsewhere.
fn same<B: VbLoraBackend>(what: &str, found: &[f64], expected: &[f64], device: &B::Device) {
    let name = B::name(device);
    match name.contains("flex") || name.contains("ndarray") {
        true => assert_eq!(found, expected, "{what}"),
        false => assert_close(what, found, expected, products(1e-5)),
    }
}

const SHAPES: [[usize; 2]; 8] = [
    [64, 64],
    [128, 40],
    [96, 33],
    [1, 7],
    [130, 1],
    [70, 70],
    [320, 64],
    [77, 300],
];

pub(crate) fn maps_in_4_bits_are_the_maps_of_their_values<B: VbLoraBackend>(device: &B::Device) {
    for (shape, double) in SHAPES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        for rows in [1, 5, 40] {
            for (adapts, gelu) in [(false, false), (true, false), (true, true)] {
                let run = |map: &FrozenLinear<Ad<B>>| {
                    let x = tensor::<Ad<B>, 2>("x", [rows, shape[0]], device).require_grad();
                    let (factors, leaves) = factors::<B>(shape, device);
                    let factors = if adapts { factors } else { Factors::none() };
                    let y = match gelu {
                        true => map.forward_gelu(x.clone(), GeluForm::Erf, &factors),
                        false => map.forward(x.clone(), &factors),
                    };
                    let weights = tensor::<Ad<B>, 2>("grad", [rows, shape[1]], device);
                    let grads = (y.clone() * weights).sum().backward();
                    let mut all = vec![values(y.inner()), values(x.grad(&grads).unwrap())];
                    if adapts {
                        all.extend(leaves.map(|leaf| values(leaf.grad(&grads).unwrap())));
                    }
                    all
                };
                let [nf4, dense] = maps::<B>(shape, double, device).map(|map| run(&map));
                for (part, (found, expected)) in nf4.iter().zip(&dense).enumerate() {
                    let what = format!("{shape:?} {double} {rows} rows {adapts} {gelu}: {part}");
                    same::<B>(&what, found, expected, device);
                }
            }
        }
    }
}

pub(crate) fn a_weight_in_4_bits_decodes_to_its_values<B: VbLoraBackend>(device: &B::Device) {
    for (shape, double) in SHAPES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let [nf4, dense] = maps::<B>(shape, double, device);
        assert_eq!(nf4.site(), dense.site());
        let [found, expected] = [&nf4, &dense].map(|map| values(map.weight.dense().inner()));
        same::<B>("values", &found, &expected, device);
        let pair = LowRank {
            down: tensor::<B, 2>("down", [shape[0], 3], device),
            up: tensor("up", [3, shape[1]], device),
            scale: 0.75,
        };
        let factors = Factors::new([("map".to_owned(), pair)].into(), 0.0);
        let [found, expected] = [nf4, dense].map(|map| {
            let merged = map.valid().merged(&factors);
            assert!(matches!(merged.weight, FrozenWeight::Dense(_)));
            values(merged.weight.dense())
        });
        same::<B>("merged", &found, &expected, device);
    }
}

#[derive(Default)]
struct Seen {
    bytes: usize,
    trained: usize,
}

impl<B: VbLoraBackend> ModuleVisitor<B> for Seen {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.bytes += 4 * param.val().shape().num_elements();
        self.trained += usize::from(param.is_require_grad());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<B, D, Int>>) {
        self.bytes += 4 * param.val().shape().num_elements();
    }
}

pub(crate) fn a_weight_in_4_bits_is_held_in_4_bits<B: VbLoraBackend>(device: &B::Device) {
    let shape = [512, 256];
    let [map, _] = maps::<B>(shape, true, device);
    let mut seen = Seen::default();
    map.valid().weight.visit(&mut seen);
    let tables = 4 * (16 + 256 + 1);
    let expected = vblora::nf4::bytes(512 * 256, true) + tables;
    assert_eq!((seen.bytes, seen.trained), (expected, 0));
    let back = FrozenLinear::<Ad<B>>::from_inner(map.valid());
    assert!(matches!(back.weight, FrozenWeight::Nf4(_)));
    let moved = Module::<B>::to_device(map.valid(), device);
    assert!(matches!(moved.weight, FrozenWeight::Nf4(_)));
}
