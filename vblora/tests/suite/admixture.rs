//! Top-k admixture against the plain reference.

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorPrimitive},
};
use proptest::{prelude::*, test_runner::TestRunner};
use vblora::{admixture::admixture, backend::VbLoraBackend, rng::Key};

use crate::support::{
    assert_close, products,
    reference::{self, Matrix},
    tensor, values,
};

type Ad<B> = Autodiff<B>;

fn random(seed: u64, name: &str, rows: usize, columns: usize) -> Matrix {
    let values = Key::new(seed).name(name).uniform(rows * columns, -1.5, 1.5);
    Matrix::new(rows, columns, values.into_iter().map(f64::from).collect())
}

fn upload<B: VbLoraBackend>(matrix: &Matrix, device: &B::Device) -> Tensor<B, 2> {
    tensor(&matrix.values, [matrix.rows, matrix.columns], device)
}

/// Forward, both gradients and the selection for one shape.
fn check<B: VbLoraBackend>(device: &B::Device, logits: &Matrix, bank: &Matrix, k: usize) {
    let grad = random(9, "grad", logits.rows, bank.columns);
    let (d_logits, d_bank) = reference::admixture_gradients(logits, bank, k, &grad);
    let tracked = |m: &Matrix| upload::<Ad<B>>(m, device).require_grad();
    let (l, b) = (tracked(logits), tracked(bank));
    let mixed = admixture(l.clone(), b.clone(), k).expect("valid input");
    assert_close(
        "mixture",
        &values(mixed.clone().inner()),
        &reference::admixture(logits, bank, k).values,
        products(1e-5),
    );
    let grads = (mixed * upload(&grad, device)).sum().backward();
    assert_close(
        "bank gradient",
        &values(b.grad(&grads).expect("bank gradient")),
        &d_bank.values,
        products(1e-5),
    );
    let found = values(l.grad(&grads).expect("logits gradient"));
    assert_close("logits gradient", &found, &d_logits.values, products(2e-5));
    let unselected = d_logits
        .values
        .iter()
        .zip(&found)
        .filter(|(e, _)| **e == 0.0);
    if k > 1 {
        assert!(
            unselected.into_iter().all(|(_, f)| *f == 0.0),
            "an unselected logit has a gradient"
        );
    }
}

pub(crate) fn matches_the_reference_on_random_shapes<B: VbLoraBackend>(device: &B::Device) {
    // Every shape is another kernel for a GPU backend to compile.
    let cases = if B::name(device).contains("wgpu") {
        12
    } else {
        96
    };
    let shapes = (1usize..40, 1usize..70, 1usize..20)
        .prop_flat_map(|(s, h, b)| (Just(s), Just(h), Just(b), 1..=h.min(9), any::<u64>()));
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..Default::default()
    });
    runner
        .run(&shapes, |(s, h, b, k, seed)| {
            check::<B>(
                device,
                &random(seed, "logits", s, h),
                &random(seed, "bank", h, b),
                k,
            );
            Ok(())
        })
        .unwrap();
    for (s, h, b, k) in [(5, 6, 8, 6), (3, 1, 4, 1), (300, 90, 16, 2), (7, 300, 8, 3)] {
        check::<B>(
            device,
            &random(1, "logits", s, h),
            &random(1, "bank", h, b),
            k,
        );
    }
}

/// The reference's own gradients, and through `check` every backend's, against slopes.
pub(crate) fn gradients_match_finite_differences<B: VbLoraBackend>(device: &B::Device) {
    for (s, h, b, k) in [(4, 7, 5, 2), (3, 6, 4, 3), (3, 5, 2, 1), (2, 4, 3, 4)] {
        let (logits, bank, grad) = (
            random(3, "logits", s, h),
            random(3, "bank", h, b),
            random(9, "grad", s, b),
        );
        let (d_logits, d_bank) = reference::admixture_gradients(&logits, &bank, k, &grad);
        let loss = |l: &Matrix, m: &Matrix| reference::dot(&reference::admixture(l, m, k), &grad);
        let slopes = reference::finite_differences(&logits, 1e-6, |l| loss(l, &bank));
        assert_close("logits", &d_logits.values, &slopes.values, 1e-7);
        assert_close(
            "bank",
            &d_bank.values,
            &reference::finite_differences(&bank, 1e-6, |m| loss(&logits, m)).values,
            1e-7,
        );
        check::<B>(device, &logits, &bank, k);
    }
}

/// More rows than one dense piece of the bank's gradient takes (64 MiB of `[S, h]`), and a rest.
pub(crate) fn many_rows_add_up_in_the_bank<B: VbLoraBackend>(device: &B::Device) {
    let (s, h, b) = (16_384 + 77, 1024, 2);
    let logits = random(4, "logits", s, h);
    check::<B>(device, &logits, &random(4, "bank", h, b), 2);
}

/// The worked example of the paper notes, section 1.10.
pub(crate) fn paper_test_vector<B: VbLoraBackend>(device: &B::Device) {
    let logits = tensor::<Ad<B>, 2>(&[0.1, 0.5, -0.2, 0.4], [1, 4], device).require_grad();
    let bank = tensor::<Ad<B>, 2>(&[1.0, 0.0, 0.0, 2.0, 3.0, 3.0, 4.0, -1.0], [4, 2], device)
        .require_grad();
    let mixed = admixture(logits.clone(), bank.clone(), 2).unwrap();
    assert_close(
        "u",
        &values(mixed.clone().inner()),
        &[1.9000832, 0.5749376],
        1e-6,
    );
    let grads = mixed.sum().backward();
    assert_close(
        "logits",
        &values(logits.grad(&grads).unwrap()),
        &[0.0, -0.2493760, 0.0, 0.2493760],
        1e-6,
    );
    let d_bank = [
        0.0, 0.0, 0.5249792, 0.5249792, 0.0, 0.0, 0.4750208, 0.4750208,
    ];
    assert_close(
        "bank",
        &values(bank.grad(&grads).unwrap()),
        &d_bank,
        products(1e-6),
    );
}

pub(crate) fn ties_go_to_the_lowest_index<B: VbLoraBackend>(device: &B::Device) {
    let rows: Vec<f64> = (0..7 * 12)
        .map(|i| f64::from((i * 37 % 4) as u8) * 0.5)
        .chain([1.0; 12])
        .collect();
    let logits = Matrix::new(8, 12, rows);
    for k in [1, 2, 3, 11] {
        let picked = B::top_k_indices(upload::<B>(&logits, device).into_primitive().tensor(), k);
        let picked: Vec<i64> = Tensor::<B, 2, Int>::from_primitive(picked)
            .into_data()
            .convert::<i64>()
            .into_vec()
            .unwrap();
        let expected: Vec<i64> = (0..8)
            .flat_map(|s| reference::top_k(logits.row(s), k).0)
            .map(|i| i as i64)
            .collect();
        assert_eq!(picked, expected, "k = {k}");
    }
}

pub(crate) fn bad_input_is_an_error<B: VbLoraBackend>(device: &B::Device) {
    let bank = upload::<B>(&random(1, "bank", 5, 2), device);
    let error = |logits: Tensor<B, 2>, k: usize| {
        admixture(logits, bank.clone(), k).unwrap_err().to_string()
    };
    let logits = |edit: &dyn Fn(&mut Matrix)| {
        let mut matrix = random(1, "logits", 3, 5);
        edit(&mut matrix);
        upload::<B>(&matrix, device)
    };
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = error(logits(&|m| m.values[7] = value), 2);
        assert!(
            message.contains("logits") && message.contains("row 1"),
            "{message}"
        );
    }
    assert!(error(logits(&|_| ()), 0).contains("topk must be from 1 to h = 5, found 0"));
    assert!(error(logits(&|_| ()), 6).contains("found 6"));
    let wide = upload::<B>(&random(1, "logits", 3, 6), device);
    assert!(error(wide, 2).contains("expected shape [6, 2], found [5, 2]"));
}

pub(crate) fn strided_input<B: VbLoraBackend>(device: &B::Device) {
    let logits = random(5, "logits", 6, 9);
    let turned = upload::<B>(&logits.transposed(), device).transpose();
    let bank = random(5, "bank", 9, 4);
    let mixed = admixture(
        turned.clone(),
        upload::<B>(&bank.transposed(), device).transpose(),
        3,
    )
    .unwrap();
    assert_close(
        "mixture",
        &values(mixed),
        &reference::admixture(&logits, &bank, 3).values,
        products(1e-5),
    );
    let picked = B::top_k_indices(turned.into_primitive().tensor(), 2);
    let weights = Tensor::<B, 2>::full([6, 2], 0.5, device)
        .into_primitive()
        .tensor();
    let mixed = B::mix(
        upload::<B>(&bank, device).into_primitive().tensor(),
        weights,
        picked,
    );
    assert_eq!(
        Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(mixed)).dims(),
        [6, 4]
    );
}
