//! The operations of a step of decoding, against the same in the operations of other families, which are the plain bodies under autodiff.

use burn::{
    backend::{Autodiff, Flex},
    tensor::{
        DType, FloatDType, Int, Tensor, TensorData, TensorPrimitive, backend::Backend,
        ops::FloatTensor,
    },
};
use vblora::{
    backend::{
        CausalSettings, FrozenMap, StepForm, StepMap, StepNorm, StepOps, StepPlaces, Update,
        VbLoraBackend,
    },
    ops::{Gate, GeluForm},
    rng::Key,
};

use crate::support::{assert_close, products, values};

type Ad<B> = Autodiff<B>;
/// Plain bodies in f32.
type Plain = Autodiff<Flex>;

fn draw<B: Backend, const D: usize>(
    name: &str,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let values = Key::new(22).name(name).normal(shape.iter().product(), 0.4);
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn primitive<B: Backend, const D: usize>(x: &Tensor<B, D>) -> FloatTensor<B> {
    x.clone().into_primitive().tensor()
}

fn float<B: Backend, const D: usize>(x: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// The maps of a case and what lies before and after them.
#[derive(Debug, Clone)]
struct Case {
    n: usize,
    d: usize,
    widths: Vec<usize>,
    ranks: Vec<usize>,
    biased: Vec<bool>,
    /// True if the first factors lie with their dimensions swapped, and the last ones do not; false for the opposite.
    swapped: bool,
    /// True if each row has scales of its own.
    of_rows: bool,
    norm: Option<[bool; 2]>,
    form: &'static str,
}

impl Case {
    /// The outputs, with weights that are rounded to a type and held in one. They are rounded by one backend, so that all hold the same.
    fn run<B: StepOps>(&self, [rounded, held]: [FloatDType; 2], device: &B::Device) -> Vec<f64> {
        let weight = |i: usize, width: usize| {
            let shape = [self.d, width];
            let weight: Tensor<Flex, 2> = draw(&format!("weight {i}"), shape, &Default::default());
            let weight = weight.cast(rounded).cast(FloatDType::F32).into_data();
            primitive(&Tensor::<B, 2>::from_data(weight, device).cast(held))
        };
        let draw = |name: &str, rows: usize, columns: usize, swapped: bool| {
            let x: Tensor<B, 2> = draw(name, [rows, columns], device);
            match swapped {
                true => {
                    let swapped = draw::<B, 2>(name, [columns, rows], device);
                    primitive(&swapped.transpose())
                }
                false => primitive(&x),
            }
        };
        let row = |name: &str, width: usize| primitive(&self::draw::<B, 1>(name, [width], device));
        let maps = self.widths.iter().enumerate().map(|(i, &width)| {
            let rank = self.ranks[i];
            StepMap {
                map: FrozenMap::dense(
                    weight(i, width),
                    self.biased[i].then(|| row(&format!("bias {i}"), width)),
                ),
                update: (rank > 0).then(|| Update {
                    down: draw(&format!("down {i}"), self.d, rank, self.swapped),
                    up: draw(&format!("up {i}"), rank, width, !self.swapped),
                    scale: 0.5 + i as f64,
                }),
                scales: (self.of_rows && rank > 0)
                    .then(|| draw(&format!("scales {i}"), self.n, rank, false)),
            }
        });
        let norm = self.norm.map(|[is_centred, has_beta]| StepNorm {
            gamma: row("gamma", self.d),
            beta: has_beta.then(|| row("beta", self.d)),
            is_centred,
            epsilon: 1e-3,
        });
        let form = match self.form {
            "silu" => StepForm::Gated(Gate::Silu),
            "unit" => StepForm::Gated(Gate::GeluTanh),
            "erf" => StepForm::Gelu(GeluForm::Erf),
            "tanh" => StepForm::Gelu(GeluForm::Tanh),
            "added" => StepForm::Added {
                to: draw("to", self.n, self.widths[0], false),
                scale: 0.7,
            },
            _ => StepForm::Joined,
        };
        let x = draw("x", self.n, self.d, false);
        let y = B::step_maps(x, norm, maps.collect(), form);
        let y = float::<B, 2>(y).into_data().convert::<f64>();
        y.into_vec().unwrap()
    }
}

fn cases() -> Vec<Case> {
    let case = Case {
        n: 1,
        d: 40,
        widths: vec![48, 16, 16],
        ranks: vec![0; 3],
        biased: vec![false; 3],
        swapped: true,
        of_rows: false,
        norm: Some([false, false]),
        form: "joined",
    };
    let one = Case {
        widths: vec![37],
        ranks: vec![2],
        biased: vec![true],
        ..case.clone()
    };
    let two = Case {
        widths: vec![52, 52],
        ranks: vec![0, 3],
        biased: vec![false, true],
        ..case.clone()
    };
    vec![
        case.clone(),
        Case {
            n: 3,
            ranks: vec![4, 0, 5],
            biased: vec![true, false, true],
            norm: Some([true, true]),
            ..case.clone()
        },
        // Several rounds of the inner dimension, rows and columns that fill no piece, wide cubes.
        Case {
            n: 5,
            d: 1100,
            widths: vec![1026, 10, 12],
            ranks: vec![1, 16, 2],
            swapped: false,
            norm: None,
            ..case.clone()
        },
        Case {
            n: 16,
            d: 300,
            widths: vec![4200, 8, 8],
            norm: Some([true, false]),
            ..case.clone()
        },
        Case {
            n: 8,
            d: 700,
            of_rows: true,
            ranks: vec![6, 3, 0],
            ..case.clone()
        },
        Case {
            form: "silu",
            ..two.clone()
        },
        Case {
            n: 4,
            form: "unit",
            norm: None,
            ..two.clone()
        },
        Case {
            n: 2,
            d: 600,
            widths: vec![4096, 4096],
            form: "silu",
            ..two
        },
        Case {
            form: "erf",
            ..one.clone()
        },
        Case {
            n: 2,
            form: "tanh",
            ..one.clone()
        },
        Case {
            n: 6,
            form: "added",
            norm: None,
            ..one.clone()
        },
        // More rows than a step has, and a rank that no kernel takes.
        Case {
            n: 17,
            form: "added",
            norm: None,
            ..one.clone()
        },
        Case {
            ranks: vec![17],
            ..one
        },
    ]
}

impl Case {
    /// True if kernels for a step take the case. They are as close as f32 on any backend, where other products may be in TF32.
    fn is_taken<B: StepOps>(&self) -> bool {
        B::takes_steps(self.n) && !self.ranks.contains(&17)
    }
}

pub(crate) fn maps_of_a_step<B: VbLoraBackend>(device: &B::Device) {
    for case in cases() {
        let found = case.run::<B>([FloatDType::F32; 2], device);
        let expected = case.run::<Plain>([FloatDType::F32; 2], &Default::default());
        let tolerance = match case.is_taken::<B>() {
            true => 1e-5,
            false => products(1e-5),
        };
        assert_close(&format!("{case:?}"), &found, &expected, tolerance);
    }
}

/// A weight of 16 bits counts as its value where kernels for a step take it. Other operations round the input too.
pub(crate) fn half_weights_of_a_step<B: VbLoraBackend>(device: &B::Device) {
    for dtype in [DType::F16, DType::BF16] {
        if !B::takes_steps(1) || !B::supports_dtype(device, dtype) {
            println!("skipped: {} has no steps in {dtype:?}", B::name(device));
            continue;
        }
        let half = FloatDType::from(dtype);
        for case in cases().into_iter().filter(Case::is_taken::<B>) {
            let found = case.run::<B>([half; 2], device);
            let expected = case.run::<Plain>([half, FloatDType::F32], &Default::default());
            assert_close(&format!("{dtype:?} {case:?}"), &found, &expected, 1e-5);
        }
    }
}

/// What one attention gives and what it leaves in the cache.
fn attention<B: StepOps>(
    sizes: [usize; 5],
    capacity: usize,
    turning: usize,
    first: Option<&[i32]>,
    settings: CausalSettings,
    device: &B::Device,
) -> [Vec<f64>; 3] {
    let [n, heads, kv_heads, size, _] = sizes;
    let qkv: Tensor<B, 2> = draw("qkv", [n, (heads + 2 * kv_heads) * size], device);
    let cache = ["keys", "values"].map(|name| {
        let cache: Tensor<B, 3> = draw(name, [n, capacity, kv_heads * size], device);
        primitive(&cache)
    });
    let angles = (turning > 0).then(|| {
        ["cos", "sin"].map(|name| primitive(&draw::<B, 3>(name, [n, 1, turning / 2], device)))
    });
    let first = first.map(|first| {
        let data = TensorData::new(first.to_vec(), [n, 1]);
        Tensor::<B, 2, Int>::from_data(data, device).into_primitive()
    });
    let places = StepPlaces {
        angles,
        first,
        query_scale: 1.7,
    };
    let (y, [keys, values]) = B::step_attention(primitive(&qkv), cache, places, settings);
    let values_of = |data: TensorData| data.convert::<f64>().into_vec().unwrap();
    [
        values_of(float::<B, 2>(y).into_data()),
        values_of(float::<B, 3>(keys).into_data()),
        values_of(float::<B, 3>(values).into_data()),
    ]
}

pub(crate) fn attention_of_a_step<B: VbLoraBackend>(device: &B::Device) {
    for (sizes, capacity, turning, first, window, cap) in [
        // Rows, heads, key heads, values of a head, place of the token.
        ([1, 4, 4, 8, 0], 1, 8, None, None, None),
        ([1, 8, 2, 16, 9], 12, 16, None, None, None),
        (
            [3, 6, 2, 20, 30],
            40,
            12,
            Some([0, 30, 17]),
            None,
            Some(1.5),
        ),
        ([2, 2, 1, 64, 700], 720, 64, None, None, None),
        ([2, 2, 2, 80, 600], 601, 0, None, Some(290), None),
        ([1, 2, 1, 256, 270], 300, 128, None, Some(1), None),
    ] {
        let settings = CausalSettings {
            heads: sizes[1],
            kv_heads: sizes[2],
            offset: sizes[4],
            window,
            cap,
            dropout: None,
        };
        let first = first.as_ref().map(|first: &[i32; 3]| first.as_slice());
        let found = attention::<B>(sizes, capacity, turning, first, settings, device);
        let expected = attention::<Ad<B>>(sizes, capacity, turning, first, settings, device);
        for (found, expected) in found.iter().zip(&expected) {
            let what = format!("{sizes:?} {settings:?}");
            assert_close(&what, found, expected, products(1e-5));
        }
    }
}

/// A cache that something else holds is not changed.
pub(crate) fn a_cache_is_written_in_place_if_it_is_free<B: VbLoraBackend>(device: &B::Device) {
    let kept: Tensor<B, 3> = draw("kept", [2, 5, 8], device);
    let before = values(kept.clone());
    let qkv: Tensor<B, 2> = draw("qkv", [2, 32], device);
    let places = StepPlaces {
        angles: None,
        first: None,
        query_scale: 1.0,
    };
    let settings = CausalSettings {
        heads: 2,
        kv_heads: 1,
        offset: 3,
        window: None,
        cap: None,
        dropout: None,
    };
    let cache = [primitive(&kept), primitive(&kept)];
    let (_, cache) = B::step_attention(primitive(&qkv), cache, places, settings);
    assert_eq!(values(kept), before);
    let new = values(qkv);
    for (cache, start) in cache.into_iter().zip([16, 24]) {
        let cache = values(float::<B, 3>(cache));
        for (row, new) in cache.chunks(40).zip(new.chunks(32)) {
            assert_eq!(row[24..32], new[start..start + 8]);
        }
    }
}
