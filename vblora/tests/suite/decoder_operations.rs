//! The operations of a decoder block and their gradients against f64.

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorData},
};
use vblora::{
    backend::{CausalSettings, VbLoraBackend},
    ops::{self, Gate},
    rng::Key,
};

use super::operations::WIDTHS;
use crate::support::{
    assert_close, products,
    reference::{Matrix, dot, finite_differences},
    tensor, values,
};

type Ad<B> = Autodiff<B>;

fn draw(name: &str, rows: usize, columns: usize) -> Matrix {
    let values = Key::new(2).name(name).normal(rows * columns, 1.2);
    Matrix::new(rows, columns, values.into_iter().map(f64::from).collect())
}

/// Holds an operation on matrices, and its gradient to each of them, to an f64 function and that function's slopes.
fn check<B: VbLoraBackend, const N: usize>(
    what: &str,
    inputs: &[Matrix; N],
    tolerance: f64,
    device: &B::Device,
    operation: impl Fn([Tensor<Ad<B>, 2>; N]) -> Tensor<Ad<B>, 2>,
    expected: impl Fn(&[Matrix; N]) -> Matrix,
) {
    let leaves = inputs
        .each_ref()
        .map(|m| tensor::<Ad<B>, 2>(&m.values, [m.rows, m.columns], device).require_grad());
    let output = operation(leaves.clone());
    let wanted = expected(inputs);
    assert_eq!(output.dims(), [wanted.rows, wanted.columns]);
    let found = values(output.clone().inner());
    assert_close(
        &format!("{what}: output"),
        &found,
        &wanted.values,
        tolerance,
    );
    let weights = draw("grad", wanted.rows, wanted.columns);
    let factor = tensor(&weights.values, [weights.rows, weights.columns], device);
    let grads = (output * factor).sum().backward();
    for (i, leaf) in leaves.iter().enumerate() {
        let slopes = finite_differences(&inputs[i], 1e-5, |moved| {
            let mut inputs = inputs.clone();
            inputs[i] = moved.clone();
            dot(&expected(&inputs), &weights)
        });
        let found = values(leaf.grad(&grads).expect("a gradient"));
        let what = format!("{what}: gradient {i}");
        assert_close(&what, &found, &slopes.values, tolerance);
    }
}

fn zip(a: &Matrix, b: &Matrix, f: impl Fn(f64, f64) -> f64) -> Matrix {
    let values = a.values.iter().zip(&b.values).map(|(&a, &b)| f(a, b));
    Matrix::new(a.rows, a.columns, values.collect())
}

/// Among them those that Burn would take for a matrix and a vector, with an operation behind that a GPU's product is fused with.
pub(crate) fn products_and_their_gradients<B: VbLoraBackend>(device: &B::Device) {
    for (m, k, n) in [
        (5, 4, 3),
        (4, 3, 1),
        (40, 37, 1),
        (4, 1, 3),
        (1, 3, 4),
        (1, 5, 1),
    ] {
        check::<B, 2>(
            &format!("{m} x {k} x {n}"),
            &[draw("a", m, k), draw("b", k, n)],
            products(1e-5),
            device,
            |[a, b]| {
                let product = ops::matmul(a, b);
                product.clone() + product
            },
            |[a, b]| a.times(b).map(|v| 2.0 * v),
        );
    }
}

pub(crate) fn rms_norm_and_its_gradients<B: VbLoraBackend>(device: &B::Device) {
    // Enough rows for whole vector registers: what a processor estimates, it estimates there only.
    for (rows, columns) in [(40, 19), (3, 64), (1, 3)] {
        let inputs = [draw("x", rows, columns), draw("gamma", 1, columns)];
        check::<B, 2>(
            &format!("{rows} x {columns}"),
            &inputs,
            1e-5,
            device,
            |[x, gamma]| ops::rms_norm(x, gamma.squeeze_dim::<1>(0), 1e-3),
            |[x, gamma]| {
                let row = |i: usize| {
                    let square = x.row(i).iter().map(|v| v * v).sum::<f64>();
                    let rms = (square / columns as f64 + 1e-3).sqrt();
                    x.row(i)
                        .iter()
                        .zip(&gamma.values)
                        .map(move |(v, g)| v / rms * g)
                };
                Matrix::new(rows, columns, (0..rows).flat_map(row).collect())
            },
        );
    }
}

fn tanh_gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

pub(crate) fn tanh_gelu_and_its_gradient<B: VbLoraBackend>(device: &B::Device) {
    for width in WIDTHS {
        let mut x = draw("x", 5, width);
        // Far out, where the approximation is flat.
        (x.values[0], x.values[1]) = (20.0, -20.0);
        check::<B, 1>(
            "tanh GELU",
            &[x],
            1e-5,
            device,
            |[x]| ops::tanh_gelu(x),
            |[x]| x.map(tanh_gelu),
        );
    }
}

pub(crate) fn gated_units_and_their_gradients<B: VbLoraBackend>(device: &B::Device) {
    let silu = |v: f64| v / (1.0 + (-v).exp());
    let forms = [Gate::Silu, Gate::GeluTanh].into_iter();
    for (form, width) in forms.flat_map(|form| WIDTHS.map(|width| (form, width))) {
        let inputs = [draw("gate", 5, width), draw("up", 5, width)];
        let open = |v| match form {
            Gate::Silu => silu(v),
            Gate::GeluTanh => tanh_gelu(v),
        };
        check::<B, 2>(
            &format!("{form:?}"),
            &inputs,
            1e-5,
            device,
            |[gate, up]| ops::gated(gate, up, form),
            |[gate, up]| zip(gate, up, |g, u| open(g) * u),
        );
    }
}

/// Angles of `n` sequences of `t` tokens, each with positions of its own: `[n t, half]`.
fn angles(n: usize, t: usize, half: usize) -> [Matrix; 2] {
    let angle = (0..n * t * half).map(|i| {
        let (token, i) = (i / half, i % half);
        (3 * (token / t) + token % t) as f64 * 0.7_f64.powi(i as i32)
    });
    let angle = Matrix::new(n * t, half, angle.collect());
    [angle.map(f64::cos), angle.map(f64::sin)]
}

pub(crate) fn rotation_and_its_gradient<B: VbLoraBackend>(device: &B::Device) {
    for (n, t, heads, half) in [(2, 3, 2, 4), (1, 1, 1, 1), (1, 7, 3, 5)] {
        let d = 2 * heads * half;
        let [cos, sin] = angles(n, t, half);
        let on_device = |m: &Matrix| tensor::<Ad<B>, 3>(&m.values, [n, t, half], device);
        check::<B, 1>(
            &format!("{n} {t} {heads} {half}"),
            &[draw("x", n * t, d)],
            1e-5,
            device,
            |[x]| {
                let x = x.reshape([n, t, d]);
                ops::rotate(x, on_device(&cos), on_device(&sin)).reshape([n * t, d])
            },
            |[x]| {
                let turn = |at: usize| {
                    let (token, i) = (at / d, at % d);
                    let (head, i) = (i / (2 * half), i % (2 * half));
                    let row = &x.row(token)[head * 2 * half..];
                    let (c, s) = (cos.row(token)[i % half], sin.row(token)[i % half]);
                    match i < half {
                        true => row[i] * c - row[i + half] * s,
                        false => row[i] * c + row[i - half] * s,
                    }
                };
                Matrix::new(n * t, d, (0..n * t * d).map(turn).collect())
            },
        );
    }
}

/// One attention: sizes, who sees whom, and dropout.
#[derive(Clone)]
struct Case {
    n: usize,
    t: usize,
    size: usize,
    first: Option<Vec<usize>>,
    settings: CausalSettings,
    /// Values of the mask, `[n, heads, t, T]`.
    mask: Vec<f64>,
}

impl Case {
    fn all(&self) -> usize {
        self.settings.offset + self.t
    }

    /// Attention in f64 loops; q is `[n t, heads size]`, keys and values `[n T, kv_heads size]`.
    fn attend(&self, q: &Matrix, k: &Matrix, v: &Matrix) -> Matrix {
        let CausalSettings {
            heads,
            kv_heads,
            offset,
            window,
            cap,
            ..
        } = self.settings;
        let (t, size, room) = (self.t, self.size, k.rows / self.n);
        let mut out = vec![0.0; q.values.len()];
        for at in 0..self.n * heads * t {
            let (row, head, i) = (at / (heads * t), at / t % heads, at % t);
            let own = offset + i;
            let from = self.first.as_ref().map_or(0, |first| first[row * t + i]);
            let from = from.max(window.map_or(0, |w| (own + 1).saturating_sub(w)));
            let shared = head / (heads / kv_heads) * size;
            let query = &q.row(row * t + i)[head * size..][..size];
            let scores = (from..=own).map(|j| {
                let key = &k.row(row * room + j)[shared..][..size];
                let score: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                let score = score / (size as f64).sqrt();
                cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
            });
            let scores: Vec<f64> = scores.collect();
            let sum: f64 = scores.iter().sum();
            for (j, score) in (from..=own).zip(scores) {
                let kept = self.mask[at * self.all() + j];
                let value = &v.row(row * room + j)[shared..][..size];
                let to = (row * t + i) * heads * size + head * size;
                for (out, value) in out[to..].iter_mut().zip(value) {
                    *out += score / sum * kept * value;
                }
            }
        }
        Matrix::new(q.rows, q.columns, out)
    }

    fn first_on<B: VbLoraBackend>(&self, device: &B::Device) -> Option<Tensor<B, 2, Int>> {
        let first = self.first.as_ref()?.iter().map(|&i| i as i32).collect();
        let data = TensorData::new::<i32, _>(first, [self.n, self.t]);
        Some(Tensor::from_data(data, device))
    }
}

fn settings(heads: usize, kv_heads: usize, window: Option<usize>) -> CausalSettings {
    CausalSettings {
        heads,
        kv_heads,
        offset: 0,
        window,
        cap: None,
        dropout: None,
    }
}

/// Plain, grouped, windowed, padded in front, packed, with dropout, and with caps.
fn cases<B: VbLoraBackend>(device: &B::Device) -> Vec<Case> {
    let case = |n: usize, t: usize, size: usize, settings: CausalSettings| {
        let mask = vec![1.0; n * settings.heads * t * t];
        Case {
            n,
            t,
            size,
            first: None,
            settings,
            mask,
        }
    };
    let plain = case(2, 5, 3, settings(2, 2, None));
    let grouped = case(2, 5, 2, settings(4, 2, None));
    let window = case(1, 7, 3, settings(2, 1, Some(3)));
    let mut padded = case(2, 4, 3, settings(2, 1, None));
    padded.first = Some(vec![0, 0, 0, 0, 0, 1, 2, 2]);
    let mut packed = case(1, 7, 2, settings(3, 1, Some(2)));
    packed.first = Some(vec![0, 0, 0, 3, 3, 5, 5]);
    let mut packed_fours = case(1, 8, 4, settings(4, 1, Some(4)));
    packed_fours.first = Some(vec![0, 0, 0, 3, 3, 5, 5, 5]);
    let mut dropped = grouped.clone();
    let key = Key::new(77).bits(0);
    dropped.settings.dropout = Some((key, 0.3));
    let ones = Tensor::<B, 1>::ones([dropped.mask.len()], device);
    let ones =
        burn::tensor::TensorPrimitive::Float(B::dropout(ones.into_primitive().tensor(), key, 0.3));
    dropped.mask = values(Tensor::<B, 1>::from_primitive(ones));
    assert!(dropped.mask.contains(&0.0));
    let mut capped = [grouped.clone(), packed.clone(), dropped.clone()];
    // Scores are a few times the least of these caps.
    for (case, cap) in capped.iter_mut().zip([0.3, 1.0, 20.0]) {
        case.settings.cap = Some(cap);
    }
    let [capped_groups, capped_texts, capped_dropped] = capped;
    vec![
        plain,
        grouped,
        window,
        padded,
        packed,
        dropped,
        capped_groups,
        capped_texts,
        capped_dropped,
        case(1, 1, 4, settings(1, 1, None)),
        // Sizes that a card's tensor cores take: with groups, with a window, and both with places that begin later.
        case(2, 4, 4, settings(4, 2, None)),
        case(1, 8, 4, settings(2, 2, Some(3))),
        packed_fours,
        // One key for several queries.
        case(3, 1, 5, settings(4, 2, None)),
    ]
}

pub(crate) fn causal_attention_and_its_gradients<B: VbLoraBackend>(device: &B::Device) {
    for case in cases::<B>(device) {
        let Case {
            n,
            t,
            size,
            settings,
            ..
        } = case.clone();
        let [d, kv] = [settings.heads, settings.kv_heads].map(|heads| heads * size);
        let inputs = [
            draw("q", n * t, d),
            draw("k", n * t, kv),
            draw("v", n * t, kv),
        ];
        check::<B, 3>(
            &format!("{n} {t} {settings:?}"),
            &inputs,
            products(2e-5),
            device,
            |[q, k, v]| {
                let qkv = [(q, d), (k, kv), (v, kv)].map(|(x, d)| x.reshape([n, t, d]));
                let first = case.first_on::<Ad<B>>(device);
                ops::causal_attention(qkv, first, settings).reshape([n * t, d])
            },
            |[q, k, v]| case.attend(q, k, v),
        );
    }
}

/// The last queries over keys remembered from before, in a memory with room to spare whose contents must not matter.
pub(crate) fn remembered_keys_are_seen<B: VbLoraBackend>(device: &B::Device) {
    for (t, offset, window, cap) in [
        (1, 6, None, None),
        (2, 3, Some(3), None),
        (3, 0, None, None),
        (2, 4, Some(3), Some(0.5)),
        // Eight keys, which GPUs read in pieces.
        (3, 5, None, None),
        (2, 6, Some(5), Some(0.5)),
    ] {
        let (n, size, room) = (2, 3, 9);
        let all = offset + t;
        let settings = CausalSettings {
            offset,
            cap,
            ..settings(4, 2, window)
        };
        let first: Vec<usize> = (0..n * t)
            .map(|i| if i < t { 0 } else { offset.min(1) })
            .collect();
        let mask = vec![1.0; n * 4 * t * all];
        let case = Case {
            n,
            t,
            size,
            first: Some(first),
            settings,
            mask,
        };
        let (q, mut k, v) = (
            draw("q", n * t, 12),
            draw("k", n * room, 6),
            draw("v", n * room, 6),
        );
        for row in 0..n {
            // A key that would win every softmax, where nobody may look.
            k.values[(row * room + all) * 6..][..6].fill(50.0);
        }
        let on_device = |m: &Matrix, t: usize| tensor::<B, 3>(&m.values, [n, t, m.columns], device);
        let qkv = [on_device(&q, t), on_device(&k, room), on_device(&v, room)];
        let found = ops::causal_attention(qkv, case.first_on::<B>(device), settings);
        let expected = case.attend(&q, &k, &v).values;
        assert_close(
            &format!("{settings:?}"),
            &values(found),
            &expected,
            products(2e-5),
        );
    }
}
