//! Dropout masks, and the operations with a backward of their own, against f64.

use burn::{
    backend::Autodiff,
    tensor::{Tensor, TensorData},
};
use vblora::{Noise, backend::VbLoraBackend, ops, rng::Key};

use crate::support::{
    assert_close, products,
    reference::{Matrix, finite_differences},
    tensor, values,
};

type Ad<B> = Autodiff<B>;

/// The first 40 elements and the number of drops were recorded once: a run repeats on another backend and in a later version.
pub(crate) fn dropout_masks_are_the_same_everywhere<B: VbLoraBackend>(device: &B::Device) {
    let noise = Noise::new(7, 3, 1);
    let ones = Tensor::<B, 3>::ones([2, 300, 150], device);
    let dropped = values(noise.dropout(ones.clone(), 0.25, "place"));
    let kept = 1.0 / 0.75;
    assert!(dropped.iter().all(|&v| v == 0.0 || (v - kept).abs() < 1e-6));
    let first: String = dropped[..40]
        .iter()
        .map(|&v| if v == 0.0 { '.' } else { 'x' })
        .collect();
    let count = dropped.iter().filter(|&&v| v == 0.0).count();
    assert_eq!((first.as_str(), count), (RECORDED_MASK, RECORDED_DROPS));
    assert_ne!(
        dropped,
        values(noise.dropout(ones.clone(), 0.25, "elsewhere"))
    );
    assert_ne!(
        dropped,
        values(Noise::new(7, 3, 2).dropout(ones.clone(), 0.25, "place"))
    );
    assert_ne!(
        dropped,
        values(noise.index(1).dropout(ones.clone(), 0.25, "place"))
    );
    assert_eq!(
        values(noise.dropout(ones.clone(), 0.0, "place")),
        values(ones.clone())
    );
    // An element's number decides, not its row: GPUs read these rows in pieces.
    let wide = ones.reshape([2, 225, 200]);
    assert_eq!(dropped, values(noise.dropout(wide, 0.25, "place")));
}

const RECORDED_MASK: &str = "xxxxxxxxxx.xxxx.xxxxxxxxxxxxxxxxxxxxxxx.";
const RECORDED_DROPS: usize = 22_590;

/// Widths that a GPU reads value by value, and in pieces.
pub(super) const WIDTHS: [usize; 2] = [33, 36];

fn sample(rows: usize, columns: usize) -> (Matrix, Matrix) {
    let draw = |name: &str| {
        let values = Key::new(2).name(name).normal(rows * columns, 1.5);
        Matrix::new(rows, columns, values.into_iter().map(f64::from).collect())
    };
    (draw("x"), draw("grad"))
}

/// Holds an operation and its gradient to an f64 function and that function's slopes.
fn check<B: VbLoraBackend>(
    device: &B::Device,
    x: &Matrix,
    grad: &Matrix,
    operation: impl Fn(Tensor<Ad<B>, 2>) -> Tensor<Ad<B>, 2>,
    expected: impl Fn(&Matrix) -> Matrix,
) {
    let input = tensor::<Ad<B>, 2>(&x.values, [x.rows, x.columns], device).require_grad();
    let output = operation(input.clone());
    assert_close(
        "output",
        &values(output.clone().inner()),
        &expected(x).values,
        1e-5,
    );
    let weights = tensor(&grad.values, [grad.rows, grad.columns], device);
    let grads = (output * weights).sum().backward();
    let slopes = finite_differences(x, 1e-5, |m| {
        crate::support::reference::dot(&expected(m), grad)
    });
    assert_close(
        "gradient",
        &values(input.grad(&grads).expect("a gradient")),
        &slopes.values,
        1e-5,
    );
}

pub(crate) fn gelu_and_its_gradient<B: VbLoraBackend>(device: &B::Device) {
    for width in WIDTHS {
        let (x, grad) = sample(5, width);
        check::<B>(device, &x, &grad, ops::gelu, |m| {
            m.map(|v| 0.5 * v * (1.0 + libm::erf(v / std::f64::consts::SQRT_2)))
        });
    }
}

pub(crate) fn softmax_and_its_gradient<B: VbLoraBackend>(device: &B::Device) {
    let (x, grad) = sample(40, 17);
    check::<B>(device, &x, &grad, ops::softmax, |m| {
        let rows = (0..m.rows).flat_map(|i| {
            let powers: Vec<f64> = m.row(i).iter().map(|v| v.exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(move |p| p / sum)
        });
        Matrix::new(m.rows, m.columns, rows.collect())
    });
}

pub(crate) fn log_softmax_and_its_gradient<B: VbLoraBackend>(device: &B::Device) {
    // Enough rows for whole vector registers: what a processor estimates, it estimates there only. The last width takes a GPU's plane several
    // rounds.
    for (rows, columns) in [(70, 5), (7, 36), (2, 1100)] {
        let (x, grad) = sample(rows, columns);
        check::<B>(device, &x, &grad, ops::log_softmax, |m| {
            let rows = (0..m.rows).flat_map(|i| {
                let sum: f64 = m.row(i).iter().map(|v| v.exp()).sum();
                m.row(i).iter().map(move |v| v - sum.ln())
            });
            Matrix::new(m.rows, m.columns, rows.collect())
        });
    }
}

pub(crate) fn cross_entropy_and_its_gradient<B: VbLoraBackend>(device: &B::Device) {
    for (rows, classes) in [(70, 5), (7, 36), (2, 1100)] {
        let (x, _) = sample(rows, classes);
        let (_, grad) = sample(rows, 1);
        let targets: Vec<i32> = (0..rows).map(|row| (row * 5 % classes) as i32).collect();
        for smoothing in [0.0, 0.1] {
            let operation = |x: Tensor<Ad<B>, 2>| {
                let targets = TensorData::new(targets.clone(), [rows]);
                let targets = Tensor::from_data(targets, &x.device());
                ops::cross_entropy(x, targets, smoothing).unsqueeze_dim(1)
            };
            check::<B>(device, &x, &grad, operation, |m| {
                let loss = |row: usize| {
                    let norm = m.row(row).iter().map(|v| v.exp()).sum::<f64>().ln();
                    let mean = m.row(row).iter().sum::<f64>() / classes as f64 - norm;
                    let hit = m.row(row)[targets[row] as usize] - norm;
                    -(1.0 - smoothing) * hit - smoothing * mean
                };
                Matrix::new(rows, 1, (0..rows).map(loss).collect())
            });
        }
    }
}

pub(crate) fn layer_norm_and_its_gradients<B: VbLoraBackend>(device: &B::Device) {
    // Enough rows for whole vector registers: what a processor estimates, it estimates there only.
    let (x, grad) = sample(40, 19);
    let (gamma, beta) = sample(1, 19);
    let epsilon = 1e-3;
    let norm = |m: &Matrix, gamma: &Matrix, beta: &Matrix| {
        let rows = (0..m.rows).flat_map(|i| {
            let n = m.columns as f64;
            let mean = m.row(i).iter().sum::<f64>() / n;
            let var = m.row(i).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let normal = m.row(i).iter().map(|v| (v - mean) / (var + epsilon).sqrt());
            normal
                .zip(&gamma.values)
                .zip(&beta.values)
                .map(|((v, g), b)| v * g + b)
                .collect::<Vec<_>>()
        });
        Matrix::new(m.rows, m.columns, rows.collect())
    };
    let vector = |m: &Matrix| tensor::<Ad<B>, 1>(&m.values, [m.columns], device);
    check::<B>(
        device,
        &x,
        &grad,
        |t| ops::layer_norm(t, vector(&gamma), vector(&beta), epsilon),
        |m| norm(m, &gamma, &beta),
    );
    // gamma and beta, when they are trained
    let (g, b) = (vector(&gamma).require_grad(), vector(&beta).require_grad());
    let t = tensor::<Ad<B>, 2>(&x.values, [x.rows, x.columns], device);
    let grads = (ops::layer_norm(t, g.clone(), b.clone(), epsilon)
        * tensor(&grad.values, [x.rows, x.columns], device))
    .sum()
    .backward();
    let loss = |m: &Matrix| crate::support::reference::dot(m, &grad);
    let slopes = finite_differences(&gamma, 1e-5, |m| loss(&norm(&x, m, &beta)));
    assert_close(
        "gamma",
        &values(g.grad(&grads).unwrap()),
        &slopes.values,
        1e-5,
    );
    let slopes = finite_differences(&beta, 1e-5, |m| loss(&norm(&x, &gamma, m)));
    assert_close(
        "beta",
        &values(b.grad(&grads).unwrap()),
        &slopes.values,
        1e-5,
    );
}

/// Output and gradient are those of the norm, though the backward pass has the output alone.
pub(crate) fn a_norm_goes_back_from_its_output<B: VbLoraBackend>(device: &B::Device) {
    let (n, d) = (7, 19);
    let draw = |name: &str, n: usize, mean: f64| {
        let values = Key::new(12).name(name).normal(n, 1.0);
        values
            .into_iter()
            .map(|v| mean + f64::from(v))
            .collect::<Vec<f64>>()
    };
    // Rows whose mean is not zero; gammas of either sign, none small.
    let gamma: Vec<f64> = draw("gamma", d, 0.0)
        .iter()
        .map(|v| v + v.signum() * 0.3)
        .collect();
    let x = tensor::<Ad<B>, 2>(&draw("x", n * d, 3.0), [n, d], device);
    let weights = [gamma, draw("beta", d, 0.0)].map(|w| tensor::<Ad<B>, 1>(&w, [d], device));
    let grad = tensor::<Ad<B>, 2>(&draw("grad", n * d, 0.5), [n, d], device);
    let run = |invertible: bool| {
        let (x, [gamma, beta]) = (x.clone().require_grad(), weights.clone());
        let y = match invertible {
            true => ops::invertible_norm(x.clone(), gamma, beta, 1e-2),
            false => ops::layer_norm(x.clone(), gamma, beta, 1e-2),
        };
        let shown = values(y.clone().inner());
        let grads = (y * grad.clone()).sum().backward();
        [shown, values(x.grad(&grads).unwrap())]
    };
    let [found, expected] = [run(true), run(false)];
    assert_close("output", &found[0], &expected[0], 1e-6);
    assert_close("gradient", &found[1], &expected[1], 1e-5);
}

/// The norm of a sum is that of the added inputs, and its gradient goes to both.
pub(crate) fn a_norm_of_a_sum_is_of_both_inputs<B: VbLoraBackend>(device: &B::Device) {
    for (n, d) in [(7, 19), (3, 770), (3, 1100)] {
        let draw = |name: &str, n: usize| {
            let values = Key::new(13).name(name).normal(n, 1.0);
            values.into_iter().map(f64::from).collect::<Vec<f64>>()
        };
        let gamma: Vec<f64> = draw("gamma", d).iter().map(|v| v + v.signum()).collect();
        let weights = [gamma, draw("beta", d)].map(|w| tensor::<Ad<B>, 1>(&w, [d], device));
        let inputs = ["x", "residual"].map(|name| draw(name, n * d));
        let grad = tensor::<Ad<B>, 2>(&draw("grad", n * d), [n, d], device);
        let run = |together: bool| {
            let [gamma, beta] = weights.clone();
            let [x, residual] = inputs
                .each_ref()
                .map(|values| tensor::<Ad<B>, 2>(values, [n, d], device).require_grad());
            let y = match together {
                true => ops::invertible_sum_norm(x.clone(), residual.clone(), gamma, beta, 1e-2),
                false => ops::layer_norm(x.clone() + residual.clone(), gamma, beta, 1e-2),
            };
            let shown = values(y.clone().inner());
            let grads = (y * grad.clone()).sum().backward();
            let of = |input: &Tensor<Ad<B>, 2>| values(input.grad(&grads).unwrap());
            [shown, of(&x), of(&residual)]
        };
        let (found, expected) = (run(true), run(false));
        for (i, name) in ["output", "gradient of x", "gradient of the residual"]
            .into_iter()
            .enumerate()
        {
            let name = format!("{name}, {n} x {d}");
            assert_close(&name, &found[i], &expected[i], 1e-5);
        }
    }
}

/// Softmax and norms of rows narrower and wider than what a GPU takes at a time, and of more rows than a dimension of its grid holds.
pub(crate) fn rows_of_any_width_and_number<B: VbLoraBackend>(device: &B::Device) {
    for (n, d) in [(1, 7), (5, 100), (3, 770), (3, 1100), (525_000, 2)] {
        let draw = |name: &str, n: usize| {
            let values = Key::new(5).name(name).normal(n, 1.0);
            values.into_iter().map(f64::from).collect::<Vec<_>>()
        };
        let (x, grad) = (draw("x", n * d), draw("grad", n * d));
        let (mut gamma, beta) = (draw("gamma", d), draw("beta", d));
        gamma.iter_mut().for_each(|g| *g += g.signum());
        let weight = |values: &[f64]| tensor::<Ad<B>, 1>(values, [d], device);
        type Operation<'a, B> = &'a dyn Fn(Tensor<Ad<B>, 2>) -> Tensor<Ad<B>, 2>;
        type Row<'a> = &'a dyn Fn(&[f64], &[f64]) -> [Vec<f64>; 2];
        let norm = |x: &[f64], grad: &[f64], is_centred: bool| {
            let mean_of = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / d as f64;
            let mean = if is_centred {
                mean_of(&mut x.iter().copied())
            } else {
                0.0
            };
            let square = mean_of(&mut x.iter().map(|v| (v - mean).powi(2)));
            let deviation = (square + 1e-2).sqrt();
            let normal: Vec<f64> = x.iter().map(|v| (v - mean) / deviation).collect();
            let g: Vec<f64> = grad.iter().zip(&gamma).map(|(a, b)| a * b).collect();
            let mean = if is_centred {
                mean_of(&mut g.iter().copied())
            } else {
                0.0
            };
            let along = mean_of(&mut g.iter().zip(&normal).map(|(a, b)| a * b));
            let added = |i: usize| if is_centred { beta[i] } else { 0.0 };
            let y = (0..d).map(|i| normal[i] * gamma[i] + added(i)).collect();
            let dx = (0..d).map(|i| (g[i] - mean - normal[i] * along) / deviation);
            [y, dx.collect()]
        };
        let softmax = |x: &[f64], grad: &[f64]| {
            let sum: f64 = x.iter().map(|v| v.exp()).sum();
            let y: Vec<f64> = x.iter().map(|v| v.exp() / sum).collect();
            let along: f64 = y.iter().zip(grad).map(|(y, g)| y * g).sum();
            let dx = y.iter().zip(grad).map(|(y, g)| y * (g - along)).collect();
            [y, dx]
        };
        let cases: [(&str, Operation<'_, B>, Row<'_>); 4] = [
            ("softmax", &ops::softmax, &softmax),
            (
                "layer norm",
                &|x| ops::layer_norm(x, weight(&gamma), weight(&beta), 1e-2),
                &|x, grad| norm(x, grad, true),
            ),
            (
                "invertible norm",
                &|x| ops::invertible_norm(x, weight(&gamma), weight(&beta), 1e-2),
                &|x, grad| norm(x, grad, true),
            ),
            (
                "RMS norm",
                &|x| ops::rms_norm(x, weight(&gamma), 1e-2),
                &|x, grad| norm(x, grad, false),
            ),
        ];
        for (name, operation, row) in cases {
            let input = tensor::<Ad<B>, 2>(&x, [n, d], device).require_grad();
            let output = operation(input.clone());
            let shown = values(output.clone().inner());
            let grads = (output * tensor(&grad, [n, d], device)).sum().backward();
            let found = values(input.grad(&grads).expect("a gradient"));
            let rows = x.chunks_exact(d).zip(grad.chunks_exact(d));
            let expected: Vec<_> = rows.map(|(x, grad)| row(x, grad)).collect();
            let of = |i: usize| {
                expected
                    .iter()
                    .flat_map(|both| both[i].clone())
                    .collect::<Vec<_>>()
            };
            assert_close(&format!("{name} of {n} x {d}"), &shown, &of(0), 1e-5);
            assert_close(
                &format!("{name} of {n} x {d}, gradient"),
                &found,
                &of(1),
                1e-5,
            );
        }
    }
}

/// More pieces than a kernel's arguments hold, some of them not as they lie in memory.
pub(crate) fn rows_are_joined<B: VbLoraBackend>(device: &B::Device) {
    let piece = |i: usize| {
        let (rows, width) = (1 + i * 7 % 5, 6);
        let values: Vec<f64> = (0..rows * width).map(|j| (i * 100 + j) as f64).collect();
        let swapped = tensor::<B, 2>(&values, [width, rows], device).transpose();
        (swapped, rows, values)
    };
    let mut expected = Vec::new();
    let pieces: Vec<_> = (0..150)
        .map(|i| {
            let (swapped, rows, values) = piece(i);
            let all = (0..rows).flat_map(|row| (0..6).map(move |j| (row, j)));
            expected.extend(all.map(|(row, j)| values[j * rows + row]));
            swapped.into_primitive().tensor()
        })
        .collect();
    let joined = B::join_rows(pieces);
    let joined = Tensor::<B, 2>::from_primitive(burn::tensor::TensorPrimitive::Float(joined));
    assert_eq!(values(joined), expected);
}

/// Attention in one operation against the same out of single ones, with padding and with dropout.
pub(crate) fn attention_is_its_parts<B: VbLoraBackend>(device: &B::Device) {
    for (n, t, heads, size) in [(3, 5, 2, 9), (2, 19, 3, 16), (1, 1, 1, 4), (2, 140, 2, 20)] {
        let d = heads * size;
        let draw = |name: &str| {
            let values = Key::new(8).name(name).normal(n * t * d, 1.0);
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            tensor::<Ad<B>, 3>(&values, [n, t, d], device)
        };
        // The last third of the last sequence is padding.
        let hidden: Vec<f64> = (0..n * t)
            .map(|i| if i >= n * t - t / 3 { -1e4 } else { 0.0 })
            .collect();
        let mask = tensor::<Ad<B>, 2>(&hidden, [n, t], device);
        for (mask, noise) in [
            (None, None),
            (Some(mask.clone()), None),
            (Some(mask), Some(Noise::new(3, 4, 0))),
        ] {
            let case = format!("{n} {t} {heads} {size}, noise {}", noise.is_some());
            let run = |whole: bool| {
                let [q, k, v] = ["q", "k", "v"].map(|name| draw(name).require_grad());
                let qkv = [q.clone(), k.clone(), v.clone()];
                let output = if whole {
                    ops::attention(qkv, mask.clone(), heads, 0.3, noise, "place")
                } else {
                    parts::<B>(qkv, mask.clone(), heads, noise)
                };
                let shown = values(output.clone().inner());
                let grads = (output * draw("grad")).sum().backward();
                [q, k, v]
                    .map(|x| values(x.grad(&grads).expect("a gradient")))
                    .into_iter()
                    .chain([shown])
                    .collect::<Vec<_>>()
            };
            for (name, (found, expected)) in ["dq", "dk", "dv", "output"]
                .into_iter()
                .zip(run(true).iter().zip(&run(false)))
            {
                assert_close(&format!("{case}: {name}"), found, expected, products(2e-5));
            }
        }
    }
}

fn parts<B: VbLoraBackend>(
    qkv: [Tensor<Ad<B>, 3>; 3],
    mask: Option<Tensor<Ad<B>, 2>>,
    heads: usize,
    noise: Option<Noise>,
) -> Tensor<Ad<B>, 3> {
    let [n, t, d] = qkv[0].dims();
    let [q, k, v] = qkv.map(|x| x.reshape([n, t, heads, d / heads]).swap_dims(1, 2));
    let scores = q
        .matmul(k.swap_dims(2, 3))
        .div_scalar(((d / heads) as f64).sqrt());
    let scores = match mask {
        Some(mask) => scores + mask.reshape([n, 1, 1, t]),
        None => scores,
    };
    let weights = vblora::noise::dropout(ops::softmax(scores), 0.3, noise, "place");
    weights.matmul(v).swap_dims(1, 2).reshape([n, t, d])
}
