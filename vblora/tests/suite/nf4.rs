//! Frozen maps in 4 bits: as the dense maps of their values, on every backend.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    tensor::{FloatDType, Int, Tensor, TensorData, TensorPrimitive},
};
use vblora::{
    Factors, FrozenLinear, FrozenWeight, LowRank, WeightLayout,
    backend::{GeluForm, Nf4Weight, VbLoraBackend},
    nf4::{NESTED_BLOCK, Nf4Host, Nf4Scales, scale_map},
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

/// FP4 has the zeros of both signs, and its codes are in no order.
const FP4: [f32; 16] = [
    0.0,
    0.005_208_334,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -0.005_208_334,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// Matrices in 4 bits: NF4 as this library quantises, and FP4 in blocks of 32 as a file may have it.
fn hosts([d_in, d_out]: [usize; 2], double: bool) -> [Nf4Host; 2] {
    let shape = [d_out, d_in];
    let ours = Nf4Host::quantise(&draw("weight", d_in * d_out), shape, double);
    let blocks = (d_in * d_out).div_ceil(32);
    let byte = |name: &str, i: u64| Key::new(6).name(name).below(i, 256) as u8;
    let packed = (0..(d_in * d_out).div_ceil(2)).map(|i| byte("packed", i as u64));
    let scales = match double {
        true => Nf4Scales::Double {
            codes: (0..blocks).map(|i| byte("scales", i as u64)).collect(),
            map: Box::new(scale_map()),
            nested: draw("nested", blocks.div_ceil(NESTED_BLOCK)),
            offset: 0.37,
        },
        false => Nf4Scales::Single(draw("absmax", blocks)),
    };
    let theirs = Nf4Host::new(shape, 32, packed.collect(), FP4, scales).unwrap();
    [ours, theirs]
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

/// A backend's own decoding is that of plain tensor operations and of the host, to the bit, in every dtype that the backend has.
pub(crate) fn decoding_is_that_of_plain_operations<B: VbLoraBackend>(device: &B::Device) {
    let wide = [[2048, 40], [1096, 19], [1001, 35]];
    for (shape, double) in SHAPES
        .into_iter()
        .chain(wide)
        .flat_map(|s| [(s, false), (s, true)])
    {
        for (form, host) in hosts(shape, double).into_iter().enumerate() {
            for dtype in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
                if !B::supports_dtype(device, dtype.into()) {
                    continue;
                }
                let weight = FrozenWeight::<B>::from_nf4(&host, dtype, device);
                let FrozenWeight::Nf4(held) = &weight else {
                    panic!("a dense weight");
                };
                let plain = TensorPrimitive::Float(held.dequantised());
                let bits = |values: Tensor<B, 2>| -> Vec<u32> {
                    let values = host_values(values);
                    values.iter().map(|value| value.to_bits()).collect()
                };
                let what = format!("{shape:?} {double} {form} {dtype:?}");
                let found = bits(weight.dense());
                assert_eq!(found, bits(Tensor::from_primitive(plain)), "{what}");
                if dtype == FloatDType::F32 {
                    let rows = host.dequantise();
                    let turned = (0..shape[0]).flat_map(|i| (0..shape[1]).map(move |o| (o, i)));
                    let expected = turned.map(|(o, i)| rows[o * shape[0] + i].to_bits());
                    assert_eq!(found, expected.collect::<Vec<_>>(), "{what}, host");
                }
            }
        }
    }
}

fn host_values<B: VbLoraBackend>(values: Tensor<B, 2>) -> Vec<f32> {
    values.into_data().convert::<f32>().into_vec().unwrap()
}

/// A product in 4 bits is that with the decoded matrix as it lies on a GPU. There the bits are equal; CPUs have their own order.
pub(crate) fn products_are_those_of_the_decoded_matrix<B: VbLoraBackend>(device: &B::Device) {
    for (shape, double) in [[128, 96], [320, 64], [77, 300]]
        .into_iter()
        .zip([true, false, true])
    {
        let [nf4, _] = maps::<B>(shape, double, device);
        let rows = nf4.weight.dense().transpose();
        let rows = Tensor::from_data(rows.into_data(), device);
        let bias = nf4.bias.as_ref().map(|bias| bias.val());
        let dense = FrozenLinear::<Ad<B>>::new("map", rows, bias, WeightLayout::OutIn);
        for n in [1, 40, 96] {
            let [found, expected] = [&nf4, &dense].map(|map| {
                let x = tensor::<Ad<B>, 2>("x", [n, shape[0]], device).require_grad();
                let (factors, leaves) = factors::<B>(shape, device);
                let y = map.forward(x.clone(), &factors);
                let grads = (y.clone() * y.clone()).sum().backward();
                let mut all = vec![values(y.inner()), values(x.grad(&grads).unwrap())];
                all.extend(leaves.map(|leaf| values(leaf.grad(&grads).unwrap())));
                all.concat()
            });
            let what = format!("{shape:?} {double} {n} rows");
            match B::memory_meter(device) {
                Some(_) => assert_eq!(found, expected, "{what}"),
                None => assert_close(&what, &found, &expected, products(1e-5)),
            }
        }
    }
}

/// Nothing keeps the dense matrix: neither a product, nor the graph of one, nor a backward pass.
pub(crate) fn no_dense_copy_stays<B: VbLoraBackend>(device: &B::Device) {
    let Some(meter) = B::memory_meter(device) else {
        return;
    };
    let in_use = || meter().expect("the device counts");
    let shape = [1024, 768];
    let [map, _] = maps::<B>(shape, true, device);
    let x = tensor::<Ad<B>, 2>("x", [8, shape[0]], device).require_grad();
    let (factors, leaves) = factors::<B>(shape, device);
    B::sync(device).unwrap();
    let before = in_use();
    let y = map.forward(x.clone(), &factors);
    let with_graph = in_use();
    let grads = (y.clone() * y).sum().backward();
    let all: Vec<_> = leaves
        .iter()
        .map(|leaf| values(leaf.grad(&grads).unwrap()))
        .collect();
    let after = in_use();
    assert!(all.iter().flatten().all(|value| value.is_finite()));
    // The dense matrix has 3 MiB; x, y and the factors have 60 kB.
    for (what, bytes) in [("a graph", with_graph), ("gradients", after)] {
        let more = bytes.saturating_sub(before);
        assert!(more < 1 << 20, "{what} keeps {more} bytes");
    }
}

/// A drawn weight decodes to values of about the standard deviation that was asked for.
pub(crate) fn a_drawn_weight_has_its_deviation<B: VbLoraBackend>(device: &B::Device) {
    for double in [false, true] {
        let weight = Nf4Weight::<B>::random([384, 200], 0.02, double, FloatDType::F32, device);
        assert_eq!(weight.dims(), [384, 200]);
        let values = host_values(FrozenWeight::Nf4(weight).dense());
        let squares: f32 = values.iter().map(|value| value * value).sum();
        let deviation = (squares / values.len() as f32).sqrt();
        assert!((0.018..0.025).contains(&deviation), "{deviation}");
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
