//! Attention with rotary and relative positions against the same out of single operations, and gated units of halves.

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorData},
};
use vblora::{
    MASKED, Noise, Unpadded,
    backend::{AttentionSettings, RelativeTables, RotarySettings, Texts, VbLoraBackend},
    noise::dropout,
    ops::{self, GeluForm},
    rng::Key,
};

use crate::support::{assert_close, products, tensor, values};

type Ad<B> = Autodiff<B>;

fn draw<B: VbLoraBackend, const D: usize>(
    name: &str,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<Ad<B>, D> {
    let count = shape.iter().product();
    let values = Key::new(21).name(name).normal(count, 1.0);
    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
    tensor::<Ad<B>, D>(&values, shape, device)
}

/// The lengths of the texts of each case, its columns, heads and the size of a head.
const CASES: [(&[usize], usize, usize, usize); 6] = [
    (&[5, 5, 5], 5, 2, 8),
    (&[19, 7], 19, 3, 16),
    (&[1], 1, 1, 4),
    (&[2, 1], 2, 1, 6),
    (&[130, 64], 140, 2, 20),
    (&[60], 60, 2, 2),
];

const PLACE: &str = "place";

/// Lengths, a mask, and the ways in which the texts of a case lie.
type Ways<B> = (Unpadded, Tensor<Ad<B>, 2>, Vec<Texts<Ad<B>>>);

/// The ways in which the texts of a case lie, and their masks.
fn ways<B: VbLoraBackend>(lengths: &[usize], columns: usize, device: &B::Device) -> Ways<B> {
    let unpadded = Unpadded::new(lengths.to_vec(), columns);
    let hidden = lengths
        .iter()
        .flat_map(|&length| (0..columns).map(move |j| if j < length { 0.0 } else { MASKED }));
    let hidden: Vec<f64> = hidden.map(f64::from).collect();
    let mask = tensor::<Ad<B>, 2>(&hidden, [lengths.len(), columns], device);
    let masked = Texts::Padded(Some(mask.clone().into_primitive().tensor()));
    let mut ways = vec![masked, Texts::Unpadded(unpadded.clone())];
    if lengths.iter().all(|&length| length == columns) {
        ways.push(Texts::Padded(None));
    }
    (unpadded, mask, ways)
}

/// A padded tensor as the texts lie.
fn lying<B: VbLoraBackend>(
    x: Tensor<Ad<B>, 3>,
    texts: &Texts<Ad<B>>,
    unpadded: &Unpadded,
) -> Tensor<Ad<B>, 3> {
    match texts {
        Texts::Padded(_) => x,
        Texts::Unpadded(_) => unpadded.unpadded(x).unsqueeze_dim(1),
    }
}

/// The values at tokens alone.
fn of_tokens<B: VbLoraBackend>(
    x: Tensor<B, 3>,
    texts: &Texts<Ad<B>>,
    unpadded: &Unpadded,
) -> Vec<f64> {
    match texts {
        Texts::Padded(_) => values(unpadded.unpadded(x)),
        Texts::Unpadded(_) => values(x),
    }
}

fn split<B: VbLoraBackend>(x: Tensor<Ad<B>, 3>, heads: usize) -> Tensor<Ad<B>, 4> {
    let [n, t, d] = x.dims();
    x.reshape([n, t, heads, d / heads]).swap_dims(1, 2)
}

fn weighted<B: VbLoraBackend>(
    scores: Tensor<Ad<B>, 4>,
    mask: &Tensor<Ad<B>, 2>,
    v: Tensor<Ad<B>, 3>,
    noise: Option<Noise>,
) -> Tensor<Ad<B>, 3> {
    let [n, heads, t, _] = scores.dims();
    let d = v.dims()[2];
    let scores = scores + mask.clone().reshape([n, 1, 1, t]);
    let weights = dropout(ops::softmax(scores), 0.3, noise, PLACE);
    let output = weights.matmul(split::<B>(v, heads)).swap_dims(1, 2);
    output.reshape([n, t, d])
}

pub(crate) fn rotary_attention_is_its_parts<B: VbLoraBackend>(device: &B::Device) {
    for (lengths, t, heads, size) in CASES {
        let (n, d) = (lengths.len(), heads * size);
        let (unpadded, mask, ways) = ways::<B>(lengths, t, device);
        let angles = ["cos", "sin"].map(|name| draw::<B, 3>(name, [n, t, size / 2], device));
        let all = || draw::<B, 3>("qkv", [n, t, 3 * d], device).require_grad();
        // No gradient comes back from padding.
        let grad = unpadded.padded(unpadded.unpadded(draw::<B, 3>("grad", [n, t, d], device)));
        for (reach, noise) in [
            (None, None),
            (Some(3), None),
            (Some(70), Some(Noise::new(3, 4, 0))),
            (Some(1000), None),
        ] {
            let qkv = all();
            let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(2, part * d, d));
            let [q, k] = [q, k].map(|x| ops::rotate(x, angles[0].clone(), angles[1].clone()));
            let scores = split::<B>(q, heads).matmul(split::<B>(k, heads).swap_dims(2, 3));
            let scores = scores.div_scalar((size as f64).sqrt());
            let far = |i: usize| {
                let is_far = reach.is_some_and(|reach| (i / t).abs_diff(i % t) > reach);
                f64::from(u8::from(is_far)) * -1e5
            };
            let window: Vec<f64> = (0..t * t).map(far).collect();
            let window = tensor::<Ad<B>, 4>(&window, [1, 1, t, t], device);
            let output = weighted::<B>(scores + window, &mask, v, noise);
            let expected = values(unpadded.unpadded(output.clone().inner()));
            let grads = (output * grad.clone()).sum().backward();
            let slopes = values(unpadded.unpadded(qkv.grad(&grads).unwrap()));
            for texts in &ways {
                let case = format!("{lengths:?} {texts:?}, reach {reach:?}");
                let lie = |x| lying::<B>(x, texts, &unpadded);
                let qkv = lie(all()).detach().require_grad();
                let settings = RotarySettings {
                    attention: AttentionSettings::new(heads, 0.3, noise, PLACE),
                    reach,
                };
                let output =
                    ops::rotary_attention(qkv.clone(), angles.clone().map(lie), texts, settings);
                let found = of_tokens(output.clone().inner(), texts, &unpadded);
                assert_close(&case, &found, &expected, products(2e-5));
                let grads = (output * lie(grad.clone())).sum().backward();
                let found = of_tokens(qkv.grad(&grads).unwrap(), texts, &unpadded);
                assert_close(
                    &format!("{case}, gradient"),
                    &found,
                    &slopes,
                    products(2e-5),
                );
            }
        }
    }
}

/// The rows of a table that each pair of a query and a key meets, `[1, heads, t t, size]`.
fn of_pairs<B: VbLoraBackend>(
    table: Tensor<Ad<B>, 3>,
    t: usize,
    heads: usize,
    row: impl Fn(usize, usize) -> usize,
) -> Tensor<Ad<B>, 4> {
    let pairs = (0..t * t).map(|i| row(i / t, i % t) as i32);
    let pairs = TensorData::new(pairs.collect::<Vec<_>>(), [t * t]);
    let pairs = Tensor::<Ad<B>, 1, Int>::from_data(pairs, &table.device());
    split::<B>(table.select(1, pairs), heads)
}

pub(crate) fn disentangled_attention_is_its_parts<B: VbLoraBackend>(device: &B::Device) {
    for (lengths, t, heads, size) in CASES {
        let (n, d) = (lengths.len(), heads * size);
        let (unpadded, mask, ways) = ways::<B>(lengths, t, device);
        let grad = unpadded.padded(unpadded.unpadded(draw::<B, 3>("grad", [n, t, d], device)));
        let token = |name| draw::<B, 3>(name, [n, t, d], device).require_grad();
        for (of, noise) in [(1, None), (1, Some(Noise::new(3, 4, 0))), (n, None)] {
            let table = |name| draw::<B, 3>(name, [of, 2 * t - 1, d], device).require_grad();
            let (qkv, tables) = (
                ["q", "k", "v"].map(token),
                ["of query", "of key"].map(table),
            );
            let [q, k] = [&qkv[0], &qkv[1]].map(|x| split::<B>(x.clone(), heads));
            let of_query = of_pairs::<B>(tables[0].clone(), t, heads, |i, j| i + t - 1 - j);
            let of_key = of_pairs::<B>(tables[1].clone(), t, heads, |i, j| j + t - 1 - i);
            let pairs = [n, heads, t, t, size];
            let spread = |x: Tensor<Ad<B>, 4>, dims: [usize; 5]| {
                let x = x.reshape(dims).expand(pairs);
                x.reshape([n * heads, t * t, size])
            };
            let (keys, queries) = ([n, heads, 1, t, size], [n, heads, t, 1, size]);
            let of_key = spread(of_key, [of, heads, t, t, size]);
            let of_query = spread(of_query, [of, heads, t, t, size]);
            let (each_q, each_k) = (spread(q.clone(), queries), spread(k.clone(), keys));
            let positions = (each_q * of_key + each_k * of_query).sum_dim(2);
            let content = q.matmul(k.swap_dims(2, 3));
            let scores = content + positions.reshape([n, heads, t, t]);
            let scores = scores.div_scalar((3.0 * size as f64).sqrt());
            let output = weighted::<B>(scores, &mask, qkv[2].clone(), noise);
            let expected = values(unpadded.unpadded(output.clone().inner()));
            let grads = (output * grad.clone()).sum().backward();
            let of_each = qkv.each_ref().map(|x| x.grad(&grads).unwrap());
            let of_each = of_each.map(|x| values(unpadded.unpadded(x)));
            let of_tables = tables.each_ref().map(|x| values(x.grad(&grads).unwrap()));
            for texts in &ways {
                let case = format!("{lengths:?} {texts:?}, {of} tables, {}", noise.is_some());
                let lie = |x| lying::<B>(x, texts, &unpadded);
                let qkv = ["q", "k", "v"].map(|name| lie(token(name)).detach().require_grad());
                let tables = ["of query", "of key"].map(table);
                let relative = RelativeTables {
                    of_query: tables[0].clone(),
                    of_key: tables[1].clone(),
                };
                let settings = AttentionSettings::new(heads, 0.3, noise, PLACE);
                let output = ops::disentangled_attention(qkv.clone(), relative, texts, settings);
                let found = of_tokens(output.clone().inner(), texts, &unpadded);
                assert_close(&case, &found, &expected, products(3e-5));
                let grads = (output * lie(grad.clone())).sum().backward();
                for ((x, expected), name) in qkv.iter().zip(&of_each).zip(["q", "k", "v"]) {
                    let found = of_tokens(x.grad(&grads).unwrap(), texts, &unpadded);
                    assert_close(
                        &format!("{case}, d{name}"),
                        &found,
                        expected,
                        products(3e-5),
                    );
                }
                for (x, expected) in tables.iter().zip(&of_tables) {
                    let found = values(x.grad(&grads).unwrap());
                    assert_close(&format!("{case}, table"), &found, expected, products(3e-5));
                }
            }
        }
    }
}

pub(crate) fn units_of_halves_are_their_parts<B: VbLoraBackend>(device: &B::Device) {
    for form in [GeluForm::Erf, GeluForm::Tanh] {
        for (n, d) in [(3, 7), (70, 33)] {
            let both = || draw::<B, 3>("both", [2, n, 2 * d], device).require_grad();
            let grad = draw::<B, 3>("grad", [2, n, d], device);
            let run = |whole: bool| {
                let both = both();
                let output = match whole {
                    true => ops::gated_halves(both.clone(), form),
                    false => {
                        let [x, gate] = [0, d].map(|start| both.clone().narrow(2, start, d));
                        let x = match form {
                            GeluForm::Erf => ops::gelu(x),
                            GeluForm::Tanh => ops::tanh_gelu(x),
                        };
                        x * gate
                    }
                };
                let shown = values(output.clone().inner());
                let grads = (output * grad.clone()).sum().backward();
                [shown, values(both.grad(&grads).unwrap())]
            };
            let (found, expected) = (run(true), run(false));
            assert_close("units", &found[0], &expected[0], 1e-5);
            assert_close("gradient", &found[1], &expected[1], 1e-5);
        }
    }
}
