//! The heads and the losses against plain loops.

use burn::{backend::Autodiff, module::Param};
use vblora::{backend::VbLoraBackend, rng::Key};
use vblora_models::{
    ClassificationHead, Encoder, Family, HeadForm, HeadInit, HostTensor, Labels, LmHead, loss,
};

use super::{
    plain::{Plain, gelu, plus_row},
    tiny::{config, moved},
};
use crate::support::{assert_close, products, reference::Matrix, tensor, values};

fn random(name: &str, rows: usize, columns: usize) -> Matrix {
    let draw = Key::new(31).name(name).normal(rows * columns, 0.7);
    Matrix::new(rows, columns, draw.into_iter().map(f64::from).collect())
}

/// Dense, tanh and projection of the first token of each text.
pub(crate) fn classification_head_is_the_plain_one<B: VbLoraBackend>(device: &B::Device) {
    // Classes, and a regression.
    for labels in [2, 1] {
        check_head::<B>(labels, device);
    }
}

fn check_head<B: VbLoraBackend>(labels: usize, device: &B::Device) {
    let (n, t, d) = (3, 4, 6);
    let weights = [
        random("dense", d, d),
        random("dense bias", 1, d),
        random("out", d, labels),
        random("out bias", 1, labels),
    ];
    let [dense, dense_bias, out, out_bias] = &weights;
    let head = ClassificationHead::<B>::new(
        (
            tensor(&dense.values, [d, d], device),
            tensor(&dense_bias.values, [d], device),
        ),
        (
            tensor(&out.values, [d, labels], device),
            tensor(&out_bias.values, [labels], device),
        ),
        0.1,
    );
    let hidden = random("hidden", n * t, d);
    let first = Matrix::new(
        n,
        d,
        (0..n).flat_map(|i| hidden.row(i * t).to_vec()).collect(),
    );
    let inner = plus_row(&first.times(dense), dense_bias.row(0)).map(f64::tanh);
    let expected = plus_row(&inner.times(out), out_bias.row(0));
    let found = head.forward(tensor(&hidden.values, [n, t, d], device), None);
    assert_eq!(found.dims(), [n, labels]);
    assert_close("scores", &values(found), &expected.values, products(1e-5));
    assert_eq!(
        burn::module::Module::num_params(&head),
        HeadForm::ROBERTA.parameters(d, labels)
    );
    // Saved as torch stores it.
    let names = [
        "dense.weight",
        "dense.bias",
        "out_proj.weight",
        "out_proj.bias",
    ]
    .map(|name| format!("classifier.{name}"));
    let stored = [
        dense.transposed(),
        dense_bias.clone(),
        out.transposed(),
        out_bias.clone(),
    ];
    for ((name, saved), (expected_name, expected)) in
        head.tensors().iter().zip(names.iter().zip(&stored))
    {
        assert_eq!(name, expected_name);
        let shape = if name.ends_with("bias") {
            vec![expected.columns]
        } else {
            vec![expected.rows, expected.columns]
        };
        assert_eq!(
            (&saved.shape, &saved.values),
            (&shape, &expected.values.iter().map(|&v| v as f32).collect()),
            "{name}"
        );
    }
    assert_eq!(head.tensors().len(), 4);
    initial_values::<B>(device);
}

/// RoBERTa's initial values are normal with zero biases, torch's uniform in `1 / sqrt(d_in)`; both depend on the seed alone.
fn initial_values<B: VbLoraBackend>(device: &B::Device) {
    let weights = |init, seed| {
        let head =
            ClassificationHead::<B>::init(HeadForm::ROBERTA, [64, 3], 0.1, init, seed, device);
        let dense = head.dense.expect("RoBERTa's form");
        [
            values(dense.weight.val()),
            values(dense.bias.unwrap().val()),
            values(head.out_proj.bias.unwrap().val()),
        ]
    };
    let [dense, bias, out_bias] = weights(HeadInit::Normal(0.02), 1);
    let std = (dense.iter().map(|v| v * v).sum::<f64>() / dense.len() as f64).sqrt();
    assert!((std - 0.02).abs() < 1e-3, "standard deviation {std}");
    assert!(bias.iter().chain(&out_bias).all(|&v| v == 0.0));
    let [dense, bias, _] = weights(HeadInit::Torch, 1);
    for part in [&dense, &bias] {
        let largest = part.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        assert!(
            (0.115..=0.125).contains(&largest),
            "uniform in 1/8, largest {largest}"
        );
    }
    assert_eq!(weights(HeadInit::Torch, 1)[0], dense);
    assert_ne!(weights(HeadInit::Torch, 2)[0], dense);
}

pub(crate) fn losses_are_the_plain_ones<B: VbLoraBackend>(device: &B::Device) {
    let scores = random("scores", 4, 3).map(|v| 3.0 * v);
    let classes = [2, 0, 1, 2];
    let row_loss = |i: usize| {
        scores.row(i).iter().map(|v| v.exp()).sum::<f64>().ln() - scores.row(i)[classes[i]]
    };
    let expected = (0..4).map(row_loss).sum::<f64>() / 4.0;
    let found = loss(
        tensor::<B, 2>(&scores.values, [4, 3], device),
        &Labels::Classes(classes.into()),
    );
    assert_close("cross-entropy", &values(found), &[expected], 1e-6);
    let (outputs, targets) = ([0.5, -1.0, 4.0], [1.0_f32, 2.0, 3.5]);
    let found = loss(
        tensor::<B, 2>(&outputs, [3, 1], device),
        &Labels::Scores(targets.into()),
    );
    assert_close(
        "squared error",
        &values(found),
        &[(0.25 + 9.0 + 0.25) / 3.0],
        1e-6,
    );
}

/// Losses and gradients of torch 2.15 in double precision: `cross_entropy` with the weights 0.25, 4 and 1.5 of three classes, and
/// `binary_cross_entropy_with_logits`.
pub(crate) fn weighted_and_binary_losses_are_torchs<B: VbLoraBackend>(device: &B::Device) {
    let outputs = [
        0.5, -1.25, 2.0, 3.0, 0.25, -0.75, -2.0, 1.5, 0.0, 0.1, 0.2, 0.3,
    ];
    let weighted = Labels::Weighted {
        classes: vec![2, 0, 1, 0],
        weights: vec![1.5, 0.25, 4.0, 0.25],
    };
    let sets = Labels::Sets(vec![vec![0, 2], vec![], vec![1, 2], vec![0, 1, 2]]);
    let of_weighted = [
        0.044_205_045_5,
        0.007_681_685_1,
        -0.051_886_730_6,
        -0.003_350_574,
        0.002_449_465_9,
        0.000_901_108_1,
        0.016_062_512_2,
        -0.134_749_315_9,
        0.118_686_803_7,
        -0.029_141_266_4,
        0.013_842_708_1,
        0.015_298_558_4,
    ];
    let of_sets = [
        -0.031_461_722_4,
        0.018_558_344_9,
        -0.009_933_576_8,
        0.079_381_177_2,
        0.046_848_041_7,
        0.026_735_108_4,
        0.009_933_576_8,
        -0.015_202_127,
        -0.041_666_666_7,
        -0.039_585_067_7,
        -0.037_513_833_6,
        -0.035_463_123_6,
    ];
    for (labels, expected, gradients) in [
        (weighted, 0.262_264_125_032_617_26, of_weighted),
        (sets, 0.661_059_258_137_108_1, of_sets),
    ] {
        let x = tensor::<Autodiff<B>, 2>(&outputs, [4, 3], device).require_grad();
        let found = loss(x.clone(), &labels);
        assert_close("loss", &values(found.clone()), &[expected], 1e-6);
        let found = x.grad(&found.backward()).unwrap();
        assert_close("gradient", &values(found), &gradients, 1e-6);
    }
    let far = tensor::<B, 2>(&[200.0, -200.0], [1, 2], device);
    let found = loss(far.clone(), &Labels::Sets(vec![vec![1]]));
    assert_close("far from right", &values(found), &[200.0], 1e-6);
    let none = Labels::Weighted {
        classes: vec![1],
        weights: vec![0.0],
    };
    assert_eq!(values(loss(far, &none)), [0.0]);
}

pub(crate) fn lm_head_is_the_plain_one<B: VbLoraBackend>(device: &B::Device) {
    let config = config(Family::Roberta);
    let head: LmHead<B> = moved(LmHead::random(&config, 3, device).unwrap());
    let (m, d) = (5, config.hidden_size);
    let (hidden, words) = (
        random("hidden", m, d),
        random("words", config.vocab_size, d),
    );
    let tensors: Vec<(String, HostTensor)> = head.tensors();
    let names: Vec<_> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "dense.weight",
        "dense.bias",
        "layer_norm.weight",
        "layer_norm.bias",
        "bias",
    ]
    .map(|n| format!("lm_head.{n}"));
    assert_eq!(names, expected);
    let plain = Plain::new(&config, tensors);
    let inner = plain.norm(
        &plain.linear(&hidden, "lm_head.dense").map(gelu),
        "lm_head.layer_norm",
    );
    let expected = plus_row(
        &inner.times(&words.transposed()),
        plain.matrix("lm_head.bias").row(0),
    );
    let mut embeddings = Encoder::<B>::random(config.clone(), 3, device)
        .unwrap()
        .embeddings;
    let table = tensor(&words.values, [config.vocab_size, d], device);
    embeddings.word.pieces = vec![Param::from_tensor(table)];
    let found = head.forward(tensor(&hidden.values, [m, d], device), &embeddings);
    assert_close(
        "token scores",
        &values(found),
        &expected.values,
        products(1e-5),
    );
}
