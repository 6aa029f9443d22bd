//! The kernels of a training step on flex, each at RoBERTa-base shapes for 8 x 128 tokens, on all threads.
//!
//! `cargo bench -p vblora-bench --bench kernels`
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;

use burn::{
    backend::Flex,
    tensor::{Distribution, Tensor, ops::FloatTensor},
};
use criterion::{Criterion, criterion_group, criterion_main};
use vblora::backend::{
    ActivationOps, AttentionOps, AttentionSettings, FrozenMap, GeluForm, LinearOps, NormOps, Update,
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

const TOKENS: usize = 1024;
const D: usize = 768;
const INNER: usize = 3072;

fn draw<const N: usize>(shape: [usize; N]) -> FloatTensor<Flex> {
    let tensor = Tensor::<Flex, N>::random(shape, Distribution::Default, &Default::default());
    tensor.into_primitive().tensor()
}

fn map(d_in: usize, d_out: usize) -> FrozenMap<Flex> {
    FrozenMap::dense(draw([d_in, d_out]), Some(draw([d_out])))
}

fn update(d_in: usize, d_out: usize) -> Update<FloatTensor<Flex>> {
    Update {
        down: draw([d_in, 4]),
        up: draw([4, d_out]),
        scale: 1.0,
    }
}

fn maps(criterion: &mut Criterion) {
    for (d_in, d_out) in [(D, D), (D, INNER), (INNER, D)] {
        let mut group = criterion.benchmark_group(format!("{TOKENS}x{d_in}x{d_out}"));
        let (map, update) = (map(d_in, d_out), update(d_in, d_out));
        let (x, grad) = (draw([TOKENS, d_in]), draw([TOKENS, d_out]));
        group.bench_function("frozen", |b| {
            b.iter(|| black_box(Flex::frozen_linear(x.clone(), map.clone())))
        });
        group.bench_function("adapted", |b| {
            b.iter(|| black_box(Flex::adapted_linear(x.clone(), map.clone(), update.clone())))
        });
        let (_, narrow) = Flex::adapted_linear(x.clone(), map.clone(), update.clone());
        group.bench_function("adapted, backward", |b| {
            b.iter(|| {
                let weight = map.weight.clone();
                let (x, narrow, grad) = (x.clone(), narrow.clone(), grad.clone());
                black_box(Flex::adapted_linear_backward(
                    x,
                    weight,
                    update.clone(),
                    narrow,
                    grad,
                    true,
                ))
            })
        });
        group.finish();
    }
}

fn generating(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("a few rows x{D}x{INNER}"));
    let map = map(D, INNER);
    for rows in [1, 8] {
        let x = draw([rows, D]);
        group.bench_function(format!("{rows}"), |b| {
            b.iter(|| black_box(Flex::frozen_linear(x.clone(), map.clone())))
        });
    }
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention 8x128");
    let settings = AttentionSettings {
        heads: 12,
        dropout: None,
    };
    let qkv = [(); 3].map(|()| draw([8, 128, D]));
    group.bench_function("forward", |b| {
        b.iter(|| black_box(Flex::head_attention(qkv.clone(), None, settings)))
    });
    let (output, saved) = Flex::head_attention(qkv.clone(), None, settings);
    group.bench_function("backward", |b| {
        b.iter(|| {
            let (saved, grad) = (saved.clone(), output.clone());
            black_box(Flex::head_attention_backward(
                qkv.clone(),
                None,
                saved,
                settings,
                grad,
            ))
        })
    });
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    let (x, gamma, beta) = (draw([TOKENS, D]), draw([D]), draw([D]));
    group.bench_function("layer norm", |b| {
        b.iter(|| black_box(Flex::row_norm(x.clone(), gamma.clone(), beta.clone(), 1e-5)))
    });
    group.bench_function("layer norm, backward", |b| {
        b.iter(|| {
            let (x, gamma) = (x.clone(), gamma.clone());
            black_box(Flex::row_norm_backward(x.clone(), gamma, 1e-5, x, false))
        })
    });
    let h = draw([TOKENS, INNER]);
    group.bench_function("GELU", |b| b.iter(|| black_box(Flex::erf_gelu(h.clone()))));
    let (map, update) = (map(INNER, D), update(INNER, D));
    let (_, narrow) = Flex::gelu_linear(h.clone(), GeluForm::Erf, map.clone(), update.clone());
    group.bench_function("adapted behind GELU, backward", |b| {
        b.iter(|| {
            black_box(Flex::gelu_linear_backward(
                h.clone(),
                GeluForm::Erf,
                map.weight.clone(),
                update.clone(),
                narrow.clone(),
                x.clone(),
                true,
            ))
        })
    });
    group.finish();
}

criterion_group!(benches, maps, generating, attention, rows);
criterion_main!(benches);
