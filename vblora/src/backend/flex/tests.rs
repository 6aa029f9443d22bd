//! Every kernel against its default body on random shapes, odd and empty ones included. Some inputs lie transposed or inside a larger
//! buffer.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{Shape, Tensor, TensorData, TensorMetadata},
};
use proptest::prelude::*;

use crate::{
    MASKED, Unpadded,
    backend::{
        ActivationOps, AttentionOps, AttentionSettings, CausalSettings, DropoutOps, FrozenMap,
        Gate, GeluForm, LinearOps, NormOps, PositionOps, RelativeTables, RotarySettings, Texts,
        Update, activation, attention, dropout, float, linear, norm, positions, primitive,
    },
    rng::Key,
};

/// The placement of a tensor in memory.
#[derive(Debug, Clone, Copy)]
enum Lies {
    InRows,
    Transposed,
    Inside,
}

fn lies() -> impl Strategy<Value = Lies> {
    prop_oneof![
        Just(Lies::InRows),
        Just(Lies::Transposed),
        Just(Lies::Inside)
    ]
}

/// Random values under a name.
fn draw<const D: usize>(name: &str, shape: [usize; D], lies: Lies) -> FlexTensor {
    let plain = |shape: [usize; D]| {
        let count: usize = shape.iter().product();
        let values = Key::new(3).name(name).normal(count, 1.0);
        Tensor::<Flex, D>::from_data(TensorData::new(values, shape), &Default::default())
    };
    primitive(match lies {
        Lies::InRows => plain(shape),
        Lies::Transposed => {
            let mut turned = shape;
            turned.swap(D - 2, D - 1);
            plain(turned).swap_dims(D - 2, D - 1)
        }
        Lies::Inside => {
            let mut wide = shape;
            wide[D - 1] += 3;
            plain(wide).narrow(D - 1, 2, shape[D - 1])
        }
    })
}

fn vector(name: &str, len: usize) -> FlexTensor {
    let values = Key::new(3).name(name).normal(len, 1.0);
    FlexTensor::from_data(TensorData::new(values, Shape::new([len])))
}

fn values(x: &FlexTensor) -> Vec<f32> {
    x.clone().into_data().into_vec().expect("f32")
}

#[track_caller]
fn assert_close(what: &str, found: &FlexTensor, expected: &FlexTensor) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (f - e).abs() <= 3e-5 * scale,
            "{what}[{i}]: {f}, expected {e} of {scale}"
        );
    }
}

fn map(d_in: usize, d_out: usize, weight: Lies, bias: bool) -> FrozenMap<Flex> {
    let bias = bias.then(|| vector("bias", d_out));
    FrozenMap::dense(draw("weight", [d_in, d_out], weight), bias)
}

/// A map's update whose products have the size of the map's.
fn update(d_in: usize, rank: usize, d_out: usize, lies: Lies) -> Update<FlexTensor> {
    Update {
        down: draw("down", [d_in, rank], lies),
        up: draw("up", [rank, d_out], lies),
        scale: 0.75,
    }
}

/// The texts of a batch, with their padding or without.
fn texts(unpadded: &Unpadded, padded: bool) -> Texts<Flex> {
    if !padded {
        return Texts::Unpadded(unpadded.clone());
    }
    let [_, t] = unpadded.shape();
    let row = |&length: &usize| (0..t).map(move |j| if j < length { 0.0 } else { MASKED });
    let hidden: Vec<f32> = unpadded.lengths().iter().flat_map(row).collect();
    let hidden = TensorData::new(hidden, unpadded.shape());
    Texts::Padded(Some(FlexTensor::from_data(hidden)))
}

/// Random values of the tokens of such texts.
fn as_they_lie(
    unpadded: &Unpadded,
    padded: bool,
    name: &str,
    width: usize,
    how: Lies,
) -> FlexTensor {
    let [n, t] = unpadded.shape();
    match padded {
        true => draw(name, [n, t, width], how),
        false => draw(name, [unpadded.tokens(), width], how),
    }
}

/// The values at tokens alone, `[N, d]`. Those at padding mean nothing.
fn tokens(unpadded: &Unpadded, padded: bool, x: FlexTensor) -> FlexTensor {
    match padded {
        true => primitive(unpadded.unpadded(float::<Flex, 3>(x))),
        false => x,
    }
}

/// Zeros at padding.
fn without_padding(unpadded: &Unpadded, padded: bool, x: FlexTensor) -> FlexTensor {
    match padded {
        true => primitive(unpadded.padded(float::<Flex, 2>(tokens(unpadded, true, x)))),
        false => x,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn maps_are_their_default_body(
        n in 0_usize..70, d_in in 1_usize..90, d_out in 1_usize..150, rank in 1_usize..20,
        how in lies(), held in lies(), bias: bool, needs_x: bool,
    ) {
        let x = || draw("x", [n, d_in], how);
        let grad = || draw("grad", [n, d_out], how);
        let map = || map(d_in, d_out, held, bias);
        let update = || update(d_in, rank, d_out, how);
        let found = Flex::frozen_linear(x(), map());
        assert_close("frozen", &found, &linear::default::frozen_linear::<Flex>(x(), map()));
        let (y, narrow) = Flex::adapted_linear(x(), map(), update());
        let (expected, narrow_expected) = linear::default::adapted_linear::<Flex>(x(), map(), update());
        assert_close("y", &y, &expected);
        assert_close("narrow", &narrow, &narrow_expected);
        let backward = |default: bool| {
            let go = if default { linear::default::adapted_linear_backward::<Flex> } else { Flex::adapted_linear_backward };
            go(x(), map().weight, update(), narrow.clone(), grad(), needs_x)
        };
        let (found, expected) = (backward(false), backward(true));
        assert_close("down", &found.down, &expected.down);
        assert_close("up", &found.up, &expected.up);
        prop_assert_eq!(found.x.is_some(), needs_x);
        if let (Some(found), Some(expected)) = (found.x, expected.x) {
            assert_close("dx", &found, &expected);
        }
        for form in [GeluForm::Erf, GeluForm::Tanh] {
            let backward = |default: bool| {
                let go = if default { linear::default::gelu_linear_backward::<Flex> } else { Flex::gelu_linear_backward };
                go(x(), form, map().weight, update(), narrow.clone(), grad(), needs_x)
            };
            let (found, expected) = (backward(false), backward(true));
            assert_close("down behind GELU", &found.down, &expected.down);
            assert_close("up behind GELU", &found.up, &expected.up);
            if let (Some(found), Some(expected)) = (found.x, expected.x) {
                assert_close("dh", &found, &expected);
            }
        }
    }

    #[test]
    fn attention_is_its_default_body(
        n in 1_usize..4, t in 1_usize..70, heads in 1_usize..4, size in 1_usize..40,
        how in lies(), masked: bool, drops: bool,
    ) {
        let settings = AttentionSettings { heads, dropout: drops.then_some((5, 0.3)) };
        let d = heads * size;
        let qkv = || ["q", "k", "v"].map(|name| draw(name, [n, t, d], how));
        // The last third of each sequence is padding.
        let hidden = (0..n * t).map(|i| if i % t > 2 * t / 3 { -1e4 } else { 0.0_f32 });
        let hidden = TensorData::new(hidden.collect::<Vec<_>>(), [n, t]);
        let mask = || masked.then(|| FlexTensor::from_data(hidden.clone()));
        let (found, saved) = Flex::head_attention(qkv(), mask(), settings);
        let (expected, weights) = attention::default::head_attention::<Flex>(qkv(), mask(), settings);
        assert_close("output", &found, &expected);
        let grad = || draw("grad", [n, t, d], how);
        let found = Flex::head_attention_backward(qkv(), mask(), saved, settings, grad());
        let expected = attention::default::head_attention_backward::<Flex>(qkv(), weights, settings, grad());
        for (found, expected) in found.iter().zip(&expected) {
            assert_close("gradient", found, expected);
        }
    }

    #[test]
    fn unpadded_batches_are_the_default_bodies(
        lengths in prop::collection::vec(1_usize..60, 1..5), room in 0_usize..3, heads in 1_usize..4, size in 1_usize..40,
        how in lies(), drops: bool,
    ) {
        let unpadded = Unpadded::new(lengths.clone(), lengths.iter().max().unwrap() + room);
        let settings = AttentionSettings { heads, dropout: drops.then_some((5, 0.3)) };
        let shape = [unpadded.tokens(), heads * size];
        let qkv = || ["q", "k", "v"].map(|name| draw(name, shape, how));
        let (found, saved) = Flex::unpadded_attention(qkv(), &unpadded, settings);
        let (expected, expected_saved) = attention::default::unpadded_attention::<Flex>(qkv(), &unpadded, settings);
        assert_close("output", &found, &expected);
        let grad = || draw("grad", shape, how);
        let found = Flex::unpadded_attention_backward(qkv(), &unpadded, saved, settings, grad());
        let expected = attention::default::unpadded_attention_backward::<Flex>(qkv(), &unpadded, expected_saved, settings, grad());
        for (found, expected) in found.iter().zip(&expected) {
            assert_close("gradient", found, expected);
        }
        let found = Flex::unpadded_dropout(grad(), &unpadded, 5, 0.3);
        assert_close("dropout", &found, &dropout::default::unpadded_dropout::<Flex>(grad(), &unpadded, 5, 0.3));
    }

    #[test]
    fn causal_attention_is_its_default_body(
        n in 1_usize..3, t in 1_usize..60, kv_heads in 1_usize..3, group in 1_usize..4, half in 1_usize..20,
        offset in 0_usize..9, room in 0_usize..3, windowed: bool, late: bool, drops: bool, capped: bool, window in 1_usize..30,
    ) {
        let (heads, size) = (kv_heads * group, 2 * half);
        let settings = |offset| CausalSettings {
            heads, kv_heads, offset,
            window: windowed.then_some(window),
            cap: capped.then_some(1.5),
            dropout: drops.then_some((5, 0.3)),
        };
        let inputs = |offset: usize, room: usize| [
            draw("q", [n, t, heads * size], Lies::InRows),
            draw("k", [n, offset + t + room, kv_heads * size], Lies::InRows),
            draw("v", [n, offset + t + room, kv_heads * size], Lies::InRows),
        ];
        // The first key of a query lies before its own.
        let first = |offset: usize| late.then(|| {
            let first = (0..n * t).map(|i| ((offset + i % t) / 2) as i32);
            FlexTensor::from_data(TensorData::new(first.collect::<Vec<_>>(), [n, t]))
        });
        let (found, _) = Flex::causal_attention(inputs(offset, room), first(offset), settings(offset));
        let (expected, _) = attention::default::causal_attention::<Flex>(inputs(offset, room), first(offset), settings(offset));
        assert_close("output", &found, &expected);
        let (_, saved) = Flex::causal_attention(inputs(0, 0), first(0), settings(0));
        let (_, weights) = attention::default::causal_attention::<Flex>(inputs(0, 0), first(0), settings(0));
        let grad = || draw("grad", [n, t, heads * size], Lies::InRows);
        let found = Flex::causal_attention_backward(inputs(0, 0), first(0), saved, settings(0), grad());
        let expected = attention::default::causal_attention_backward::<Flex>(inputs(0, 0), weights, settings(0), grad());
        for (found, expected) in found.iter().zip(&expected) {
            assert_close("gradient", found, expected);
        }
    }

    #[test]
    fn rows_are_their_default_body(n in 0_usize..40, d in 1_usize..70, how in lies()) {
        let (x, grad) = (|| draw("x", [n, d], how), || draw("grad", [n, d], how));
        let (gamma, beta) = (|| vector("gamma", d), || vector("beta", d));
        let found = Flex::row_norm(x(), gamma(), beta(), 1e-3);
        let plain = float::<Flex, 2>(x());
        let centred = plain.clone() - plain.mean_dim(1);
        let deviation = centred.clone().square().mean_dim(1).add_scalar(1e-3).sqrt();
        let expected = centred / deviation * float::<Flex, 1>(gamma()).unsqueeze::<2>()
            + float::<Flex, 1>(beta()).unsqueeze::<2>();
        assert_close("layer norm", &found, &primitive(expected));
        let (y, deviation) = Flex::norm_and_deviation(x(), gamma(), beta(), 1e-3);
        assert_close("the same", &y, &found);
        assert_close("deviation", &deviation, &norm::default::row_deviation::<Flex>(x(), 1e-3));
        let found = Flex::invertible_norm_backward(y.clone(), gamma(), beta(), deviation.clone(), grad());
        let expected = norm::default::invertible_norm_backward::<Flex>(y, [gamma(), beta()], deviation, grad());
        assert_close("gradient from the output", &found, &expected);
        let (found, _) = Flex::row_norm_backward(x(), gamma(), 1e-3, grad(), false);
        let (expected, _) = norm::default::row_norm_backward::<Flex>(x(), gamma(), 1e-3, grad(), false);
        assert_close("its gradient", &found, &expected);
        let found = Flex::rms_norm(x(), gamma(), 1e-3);
        assert_close("RMS norm", &found, &norm::default::rms_norm::<Flex>(x(), gamma(), 1e-3));
        let (found, _) = Flex::rms_norm_backward(x(), gamma(), 1e-3, grad(), false);
        let (expected, _) = norm::default::rms_norm_backward::<Flex>(x(), gamma(), 1e-3, grad(), false);
        assert_close("its gradient", &found, &expected);
    }

    #[test]
    fn units_are_their_default_body(n in 0_usize..40, d in 1_usize..70, how in lies()) {
        let [x, up, grad] = ["x", "up", "grad"].map(|name| draw(name, [n, d], how));
        let found = Flex::tanh_gelu(x.clone());
        assert_close("GELU by tanh", &found, &activation::default::tanh_gelu::<Flex>(x.clone()));
        let found = Flex::tanh_gelu_backward(x.clone(), grad.clone());
        let expected = activation::default::tanh_gelu_backward::<Flex>(x.clone(), grad.clone());
        assert_close("its gradient", &found, &expected);
        for form in [Gate::Silu, Gate::GeluTanh] {
            let found = Flex::gated(x.clone(), up.clone(), form);
            assert_close("gated", &found, &activation::default::gated::<Flex>(x.clone(), up.clone(), form));
            let found = Flex::gated_backward(x.clone(), up.clone(), form, grad.clone());
            let expected = activation::default::gated_backward::<Flex>(x.clone(), up.clone(), form, grad.clone());
            assert_close("gate", &found[0], &expected[0]);
            assert_close("up", &found[1], &expected[1]);
        }
    }

    #[test]
    fn cross_entropy_is_its_default_body(n in 1_usize..40, d in 1_usize..70, how in lies(), smoothing in 0.0_f64..1.0) {
        let (logits, grad) = (|| draw("logits", [n, d], how), || vector("grad", n));
        let targets = || {
            let targets: Vec<i32> = (0..n).map(|row| (row * 5 % d) as i32).collect();
            FlexTensor::from_data(TensorData::new(targets, Shape::new([n])))
        };
        let [found, kept] = Flex::cross_entropy_forward(logits(), targets(), smoothing);
        let [expected, log] = activation::default::cross_entropy::<Flex>(logits(), targets(), smoothing);
        assert_close("loss", &found, &expected);
        let found = Flex::cross_entropy_backward(kept, targets(), smoothing, grad());
        let expected = activation::default::cross_entropy_backward::<Flex>(log, targets(), smoothing, grad());
        assert_close("gradient", &found, &expected);
    }

    #[test]
    fn halves_are_their_default_body(n in 0_usize..40, d in 1_usize..70, how in lies()) {
        let (both, grad) = (|| draw("both", [n, 2 * d], how), || draw("grad", [n, d], how));
        for form in [GeluForm::Erf, GeluForm::Tanh] {
            let found = Flex::gated_halves(both(), form);
            assert_close("units", &found, &activation::default::gated_halves::<Flex>(both(), form));
            let found = Flex::gated_halves_backward(both(), form, grad());
            let expected = activation::default::gated_halves_backward::<Flex>(both(), form, grad());
            assert_close("gradient", &found, &expected);
        }
    }

    #[test]
    fn rotary_attention_is_its_default_body(
        lengths in prop::collection::vec(1_usize..110, 1..4), room in 0_usize..3, heads in 1_usize..4, half in 1_usize..20,
        how in lies(), drops: bool, windowed: bool, reach in 0_usize..60, padded: bool,
    ) {
        let (d, settings) = (heads * 2 * half, RotarySettings {
            attention: AttentionSettings { heads, dropout: drops.then_some((5, 0.3)) },
            reach: windowed.then_some(reach),
        });
        let unpadded = Unpadded::new(lengths.clone(), lengths.iter().max().unwrap() + room);
        let texts = texts(&unpadded, padded);
        let of = |name, width| as_they_lie(&unpadded, padded, name, width, how);
        let angles = || ["cos", "sin"].map(|name| of(name, half));
        let (found, saved) = Flex::rotary_attention(of("qkv", 3 * d), angles(), &texts, settings);
        let (expected, expected_saved) = positions::default::rotary_attention::<Flex>(of("qkv", 3 * d), angles(), &texts, settings);
        let kept = |x| tokens(&unpadded, padded, x);
        assert_close("output", &kept(found), &kept(expected));
        let grad = || without_padding(&unpadded, padded, of("grad", d));
        let found = Flex::rotary_attention_backward(saved, angles(), &texts, settings, grad());
        let expected = positions::default::rotary_attention_backward::<Flex>(expected_saved, angles(), &texts, settings, grad());
        assert_close("gradient", &kept(found), &kept(expected));
    }

    #[test]
    fn disentangled_attention_is_its_default_body(
        lengths in prop::collection::vec(1_usize..110, 1..12), room in 0_usize..3, heads in 1_usize..4, size in 1_usize..40,
        how in lies(), drops: bool, padded: bool,
    ) {
        let (d, settings) = (heads * size, AttentionSettings { heads, dropout: drops.then_some((5, 0.3)) });
        let unpadded = Unpadded::new(lengths.clone(), lengths.iter().max().unwrap() + room);
        let texts = texts(&unpadded, padded);
        let qkv = || ["q", "k", "v"].map(|name| as_they_lie(&unpadded, padded, name, d, how));
        let table = |name| draw(name, [1, 2 * unpadded.shape()[1] - 1, d], how);
        let relative = || RelativeTables { of_query: table("of query"), of_key: table("of key") };
        let (found, saved) = Flex::disentangled_attention(qkv(), relative(), &texts, settings);
        let (expected, weights) = positions::default::disentangled_attention::<Flex>(qkv(), relative(), &texts, settings);
        let kept = |x| tokens(&unpadded, padded, x);
        assert_close("output", &kept(found), &kept(expected));
        let grad = || without_padding(&unpadded, padded, as_they_lie(&unpadded, padded, "grad", d, how));
        let (found, of_tables) = Flex::disentangled_attention_backward(qkv(), relative(), saved, &texts, settings, grad());
        let (expected, expected_tables) = positions::default::disentangled_attention_backward::<Flex>(qkv(), relative(), weights, &texts, settings, grad());
        for (found, expected) in found.into_iter().zip(expected) {
            assert_close("gradient", &kept(found), &kept(expected));
        }
        assert_close("table of queries", &of_tables.of_query, &expected_tables.of_query);
        assert_close("table of keys", &of_tables.of_key, &expected_tables.of_key);
    }

    #[test]
    fn a_rotation_is_its_default_body(n in 1_usize..4, t in 1_usize..9, heads in 1_usize..4, half in 1_usize..20, how in lies()) {
        let x = || draw("x", [n, t, heads * 2 * half], how);
        let (cos, sin) = (|| draw("cos", [n, t, half], how), || draw("sin", [n, t, half], how));
        let found = Flex::rotate(x(), cos(), sin());
        assert_close("turned", &found, &attention::default::rotate::<Flex>(x(), cos(), sin()));
    }
}

/// Sizes beyond every block: inner dimension, columns laid out at once, and enough work for several threads.
#[test]
fn large_maps_are_their_default_body() {
    for (n, d_in, d_out, held) in [
        (133, 1600, 200, Lies::Transposed),
        (3, 900, 4000, Lies::InRows),
        (2, 90, 1201, Lies::Transposed),
        (16, 131, 1201, Lies::InRows),
        (260, 70, 65, Lies::InRows),
    ] {
        let x = || draw("x", [n, d_in], Lies::InRows);
        let map = || map(d_in, d_out, held, true);
        let found = Flex::frozen_linear(x(), map());
        let expected = linear::default::frozen_linear::<Flex>(x(), map());
        assert_close("y", &found, &expected);
    }
}
