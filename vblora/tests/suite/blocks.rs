//! Several maps of one input as one operation, against the same maps one by one.

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorData, TensorPrimitive, backend::Backend, ops::FloatTensor},
};
use vblora::{
    backend::{
        AttentionOps, AttentionSettings, BlockOps, CausalSettings, FrozenMap, LinearOps,
        SelfAttention, Update, Updates, VbLoraBackend,
    },
    ops::{self, Gate},
    rng::Key,
};

use crate::support::{assert_close, products, tensor, values};

type Ad<B> = Autodiff<B>;

fn draw(name: &str, n: usize) -> Vec<f64> {
    let values = Key::new(21).name(name).normal(n, 0.4);
    values.into_iter().map(f64::from).collect()
}

/// The sizes of N maps of one input `[n, t, d]`.
#[derive(Debug, Clone, Copy)]
struct Sizes<const N: usize> {
    n: usize,
    t: usize,
    d: usize,
    rank: usize,
    widths: [usize; N],
}

/// A weight and a bias.
type Map<B> = (Tensor<Ad<B>, 2>, Tensor<Ad<B>, 1>);

/// The input, and down and up of each map, as leaves; the frozen weights and biases; the gradient of the output.
struct Case<B: VbLoraBackend, const N: usize> {
    /// The maps that have an update.
    adapted: [bool; N],
    x: Tensor<Ad<B>, 3>,
    factors: [[Tensor<Ad<B>, 2>; 2]; N],
    maps: [Map<B>; N],
    grad: Tensor<Ad<B>, 3>,
}

fn primitive<B: Backend, const D: usize>(x: &Tensor<B, D>) -> FloatTensor<B> {
    x.clone().into_primitive().tensor()
}

fn float<B: Backend, const D: usize>(x: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

impl<B: VbLoraBackend, const N: usize> Case<B, N> {
    fn new(sizes: Sizes<N>, adapted: [bool; N], width: usize, device: &B::Device) -> Self {
        let Sizes {
            n,
            t,
            d,
            rank,
            widths,
        } = sizes;
        let matrix = |name: &str, rows: usize, columns: usize| {
            tensor::<Ad<B>, 2>(&draw(name, rows * columns), [rows, columns], device)
        };
        let cube =
            |name: &str, d: usize| tensor::<Ad<B>, 3>(&draw(name, n * t * d), [n, t, d], device);
        Self {
            adapted,
            x: cube("x", d).require_grad(),
            // The down factor lies in memory as [r, d], as adapters have it.
            factors: std::array::from_fn(|i| {
                [
                    matrix(&format!("down {i}"), rank, d)
                        .transpose()
                        .require_grad(),
                    matrix(&format!("up {i}"), rank, widths[i]).require_grad(),
                ]
            }),
            maps: std::array::from_fn(|i| {
                let bias = draw(&format!("bias {i}"), widths[i]);
                (
                    matrix(&format!("weight {i}"), widths[i], d).transpose(),
                    tensor::<Ad<B>, 1>(&bias, [widths[i]], device),
                )
            }),
            grad: cube("grad", width),
        }
    }

    fn maps(&self) -> [FrozenMap<Ad<B>>; N] {
        self.maps
            .each_ref()
            .map(|(weight, bias)| FrozenMap::dense(primitive(weight), Some(primitive(bias))))
    }

    fn updates(&self) -> Updates<FloatTensor<Ad<B>>, N> {
        std::array::from_fn(|i| {
            let [down, up] = &self.factors[i];
            self.adapted[i].then(|| Update {
                down: primitive(down),
                up: primitive(up),
                scale: 0.5,
            })
        })
    }

    /// The outputs of the maps one by one.
    fn one_by_one(&self) -> [Tensor<Ad<B>, 3>; N] {
        let mut updates = self.updates().into_iter();
        self.maps().map(|map| {
            let x = primitive(&self.x);
            match updates.next().expect("a place for each map") {
                Some(update) => float(Ad::<B>::adapted_rows(x, None, map, update)),
                None => {
                    let [n, t, d] = self.x.dims();
                    let flat = self.x.clone().reshape([n * t, d]);
                    let y: Tensor<_, 2> = float(Ad::<B>::frozen_linear(primitive(&flat), map));
                    let [_, width] = y.dims();
                    y.reshape([n, t, width])
                }
            }
        })
    }

    /// The values of an output, and its gradients to all leaves.
    fn results(&self, output: Tensor<Ad<B>, 3>) -> Vec<(String, Vec<f64>)> {
        let shown = values(output.clone().inner());
        let grads = (output * self.grad.clone()).sum().backward();
        let mut found = vec![
            ("output".to_owned(), shown),
            ("x".to_owned(), values(self.x.grad(&grads).unwrap())),
        ];
        for (i, pair) in self.factors.iter().enumerate() {
            if !self.adapted[i] {
                assert!(pair.iter().all(|factor| factor.grad(&grads).is_none()));
                continue;
            }
            for (name, factor) in ["down", "up"].iter().zip(pair) {
                let grad = values(factor.grad(&grads).unwrap());
                found.push((format!("{name} {i}"), grad));
            }
        }
        found
    }

    fn compare(&self, what: &str, joined: Tensor<Ad<B>, 3>, apart: Tensor<Ad<B>, 3>) {
        let all = self.results(joined).into_iter().zip(self.results(apart));
        for ((name, found), (_, expected)) in all {
            assert_close(
                &format!("{what}: {name}"),
                &found,
                &expected,
                products(1e-4),
            );
        }
    }
}

/// Narrow and wide, with heads of their own and shared; rows that do and do not end where memory is aligned.
fn attention_sizes() -> [(Sizes<3>, [usize; 2]); 3] {
    let sizes = |n, t, d, rank, widths| Sizes {
        n,
        t,
        d,
        rank,
        widths,
    };
    [
        (sizes(2, 5, 12, 3, [16, 16, 16]), [4, 4]),
        (sizes(3, 33, 64, 4, [64, 64, 64]), [2, 2]),
        (sizes(2, 32, 128, 5, [128, 64, 64]), [4, 2]),
    ]
}

pub(crate) fn attention_of_joined_maps<B: VbLoraBackend>(device: &B::Device) {
    let all = attention_sizes();
    let adapted = [[true; 3], [true, false, true], [false; 3]];
    for ((sizes, [heads, kv_heads]), adapted) in all
        .into_iter()
        .flat_map(|sizes| adapted.map(|adapted| (sizes, adapted)))
    {
        let case = Case::<B, 3>::new(sizes, adapted, sizes.widths[0], device);
        let Sizes { n, t, widths, .. } = sizes;
        let half = widths[0] / heads / 2;
        let angles = ["cos", "sin"].map(|name| {
            let angles = draw(name, n * t * half);
            tensor::<Ad<B>, 3>(&angles, [n, t, half], device)
        });
        let first: Vec<i32> = (0..n * t).map(|i| ((i % t) / 3) as i32).collect();
        let first = Tensor::<Ad<B>, 2, Int>::from_data(TensorData::new(first, [n, t]), device);
        if heads == kv_heads {
            let mask = tensor::<Ad<B>, 2>(&draw("mask", n * t), [n, t], device);
            let settings = AttentionSettings {
                heads,
                dropout: Some((7, 0.2)),
            };
            let form = SelfAttention::Whole {
                mask: Some(primitive(&mask)),
                settings,
            };
            let x = primitive(&case.x);
            let joined = Ad::<B>::self_attention(x, case.maps(), case.updates(), form);
            let qkv = case.one_by_one().map(|x| primitive(&x));
            let (apart, _) = Ad::<B>::head_attention(qkv, Some(primitive(&mask)), settings);
            case.compare(
                &format!("{sizes:?}, {adapted:?}"),
                float(joined),
                float(apart),
            );
        }
        for (angles, first, window, cap) in [
            (None, None, None, None),
            (Some(angles), Some(first), Some(4), Some(1.5)),
        ] {
            let settings = CausalSettings {
                heads,
                kv_heads,
                offset: 0,
                window,
                cap,
                dropout: None,
            };
            let form = SelfAttention::Causal {
                angles: angles
                    .as_ref()
                    .map(|angles| angles.each_ref().map(primitive)),
                first: first.clone().map(Tensor::into_primitive),
                settings,
            };
            let x = primitive(&case.x);
            let joined = Ad::<B>::self_attention(x, case.maps(), case.updates(), form);
            let [q, k, v] = case.one_by_one();
            let [q, k] = [q, k].map(|x| match &angles {
                Some([cos, sin]) => ops::rotate(x, cos.clone(), sin.clone()),
                None => x,
            });
            let apart = ops::causal_attention([q, k, v], first, settings);
            case.compare(
                &format!("causal, {sizes:?}, {adapted:?}"),
                float(joined),
                apart,
            );
        }
    }
}

pub(crate) fn units_of_joined_maps<B: VbLoraBackend>(device: &B::Device) {
    for (n, t, d, rank, width) in [(1, 3, 10, 2, 6), (2, 40, 64, 4, 128)] {
        let sizes = Sizes {
            n,
            t,
            d,
            rank,
            widths: [width; 2],
        };
        let adapted = [[true; 2], [false, true], [true, false], [false; 2]];
        let forms = adapted.map(|adapted| [(adapted, Gate::Silu), (adapted, Gate::GeluTanh)]);
        for (adapted, form) in forms.into_iter().flatten() {
            let case = Case::<B, 2>::new(sizes, adapted, width, device);
            let x = primitive(&case.x);
            let joined = Ad::<B>::gated_maps(x, case.maps(), case.updates(), form);
            let [gate, up] = case.one_by_one();
            let apart = ops::gated(gate, up, form);
            case.compare(
                &format!("{form:?}, {sizes:?}, {adapted:?}"),
                float(joined),
                apart,
            );
        }
    }
}
