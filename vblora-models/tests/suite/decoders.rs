//! Small random decoders of every family: batches, memories, adapters, recomputed blocks, files.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::Tensor,
};
use vblora::{
    Adapter, AdapterSet, BaseWeights, Composition, Factors, Noise, Targets, VbLora, VbLoraConfig,
    backend::VbLoraBackend, nf4::Nf4Host, storage::HostAdapter,
};
use vblora_models::{
    AttentionScale, BaseDtype, DecoderConfig, DecoderFamily, EmbeddingScale, LayerSet, ModelFiles,
    Nf4Settings, RopeScaling, RotaryConfig, SaveDtype,
    decoder::{CachedLm, CausalBatch, CausalInput, CausalLm, Side, sites, targets},
    generate::NextToken,
    save_safetensors, save_tensors,
};

use super::tiny::moved;
use crate::support::{alike, assert_close, products, values};

type Ad<B> = Autodiff<B>;

pub(super) const FAMILIES: [DecoderFamily; DecoderFamily::ALL.len()] = DecoderFamily::ALL;

/// Sizes differ from each other wherever they may.
pub(super) fn config(family: DecoderFamily) -> DecoderConfig {
    let gpt2 = family == DecoderFamily::Gpt2;
    let config = DecoderConfig {
        hidden_size: 32,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: if gpt2 { 4 } else { 2 },
        head_size: if gpt2 { 8 } else { 16 },
        intermediate_size: 48,
        vocab_size: 50,
        max_positions: 24,
        norm_eps: 1e-5,
        rotary: (!gpt2).then(|| RotaryConfig::plain(100.0)),
        window: (family == DecoderFamily::Mistral).then_some(3),
        embedding_dropout: if gpt2 { 0.2 } else { 0.0 },
        residual_dropout: if gpt2 { 0.3 } else { 0.0 },
        attention_dropout: 0.25,
        bos_token_id: None,
        eos_token_ids: vec![1],
        pad_token_id: None,
        initializer_range: 0.3,
        ..family.template()
    };
    with_own_settings(config)
}

/// Every feature of the family is switched on.
fn with_own_settings(config: DecoderConfig) -> DecoderConfig {
    let first = LayerSet::Listed(vec![true, false]);
    match config.family {
        DecoderFamily::Gpt2
        | DecoderFamily::Mistral
        | DecoderFamily::Gemma
        | DecoderFamily::Qwen2
        | DecoderFamily::Olmo2 => config,
        DecoderFamily::Llama => DecoderConfig {
            rotary: Some(RotaryConfig {
                scaling: RopeScaling::Llama3 {
                    factor: 4.0,
                    low: 1.0,
                    high: 4.0,
                    original: 16.0,
                },
                ..RotaryConfig::plain(100.0)
            }),
            ..config
        },
        DecoderFamily::Gemma2 => DecoderConfig {
            window: Some(3),
            windowed: first,
            attention_scale: AttentionScale::RootOf(24.0),
            score_cap: Some(1.5),
            logit_cap: Some(4.0),
            ..config
        },
        DecoderFamily::Gemma3 => DecoderConfig {
            local_theta: Some(10.0),
            window: Some(3),
            windowed: first,
            attention_scale: AttentionScale::RootOf(24.0),
            ..config
        },
        DecoderFamily::Qwen3 => DecoderConfig {
            window: Some(3),
            windowed: LayerSet::Listed(vec![false, true]),
            ..config
        },
        DecoderFamily::Granite => DecoderConfig {
            embedding_scale: EmbeddingScale::By(3.0),
            residual_scale: 0.7,
            attention_scale: AttentionScale::By(0.2),
            logits_divisor: 1.5,
            ..config
        },
        DecoderFamily::SmolLm3 => DecoderConfig {
            rotated: first,
            ..config
        },
        DecoderFamily::Phi3 => DecoderConfig {
            rotary: Some(RotaryConfig {
                share: 0.5,
                // Texts of a batch turn alike, so they stay below this in the tests that compare them with themselves alone. Those that
                // grow pass it.
                scaling: RopeScaling::LongRope {
                    short: vec![1.0, 1.2, 1.4, 1.6],
                    long: vec![1.0, 3.0, 5.0, 7.0],
                    original: 10,
                    attention: 1.3,
                },
                ..RotaryConfig::plain(100.0)
            }),
            window: Some(3),
            residual_dropout: 0.3,
            ..config
        },
    }
}

fn model_of<B: VbLoraBackend>(config: DecoderConfig, device: &B::Device) -> CausalLm<B> {
    moved(CausalLm::random(config, 17, device).expect("a model this small fits"))
}

pub(super) fn model<B: VbLoraBackend>(family: DecoderFamily, device: &B::Device) -> CausalLm<B> {
    model_of(config(family), device)
}

/// Factors large enough to matter.
pub(super) fn adapter<B: VbLoraBackend>(
    model: &CausalLm<B>,
    rule: &str,
    seed: u64,
    device: &B::Device,
) -> VbLora<B> {
    let plan = targets(rule).unwrap().select(&model.sites()).unwrap();
    let config = VbLoraConfig {
        bank: 10,
        vector_length: 16,
        rank: 3,
        topk: 2,
        bank_bound: 0.5,
        logits_std: 1.0,
        ..Default::default()
    };
    config.check(&plan).unwrap().init(seed, device)
}

pub(super) const TEXTS: [&[u32]; 3] = [
    &[2, 7, 40, 7, 13, 2],
    &[2, 49, 30],
    &[5, 11, 12, 13, 14, 15, 16, 3, 2],
];

fn hidden<B: VbLoraBackend>(
    model: &CausalLm<B>,
    batch: &CausalBatch,
    factors: &Factors<B>,
    device: &B::Device,
) -> Vec<f64> {
    let input = CausalInput::new(batch, model.config(), device).unwrap();
    values(model.forward(&input, factors))
}

fn alone<B: VbLoraBackend>(
    model: &CausalLm<B>,
    text: &[u32],
    factors: &Factors<B>,
    device: &B::Device,
) -> Vec<f64> {
    hidden(
        model,
        &CausalBatch::pad(&[text], 0, Side::Right),
        factors,
        device,
    )
}

/// Padded on either side, or packed one after another.
pub(crate) fn a_batch_is_its_rows_alone<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let factors = adapter(&model, "all", 23, device).factors();
        let d = model.config().hidden_size;
        for (layout, batch, places) in [
            (
                "left",
                CausalBatch::pad(&TEXTS, 0, Side::Left),
                [(0, 3), (1, 6), (2, 0)],
            ),
            (
                "right",
                CausalBatch::pad(&TEXTS, 0, Side::Right),
                [(0, 0), (1, 0), (2, 0)],
            ),
            (
                "packed",
                CausalBatch::pack(&[TEXTS[..2].to_vec(), TEXTS[2..].to_vec()], 11, 0),
                [(0, 0), (0, 6), (1, 0)],
            ),
        ] {
            let together = hidden(&model, &batch, &factors, device);
            for (text, (row, column)) in TEXTS.into_iter().zip(places) {
                let start = (row * batch.columns + column) * d;
                let found = &together[start..][..text.len() * d];
                let expected = alone(&model, text, &factors, device);
                assert_close(
                    &format!("{family:?} {layout}"),
                    found,
                    &expected,
                    products(1e-5),
                );
            }
        }
    }
}

fn last<B: VbLoraBackend>(
    model: &CausalLm<B>,
    text: &[u32],
    factors: &Factors<B>,
    device: &B::Device,
) -> Vec<f64> {
    let input = CausalInput::new(
        &CausalBatch::pad(&[text], 0, Side::Right),
        model.config(),
        device,
    )
    .unwrap();
    let hidden = model.forward(&input, factors);
    let [_, t, d] = hidden.dims();
    values(model.logits(hidden.narrow(1, t - 1, 1).reshape([1, d])))
}

/// Prompts of three lengths, five more tokens each, rows that change places and one that ends: the scores of each text by itself.
pub(crate) fn decoding_over_a_memory_is_reading_again<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let factors = adapter(&model, "qv", 23, device).factors();
        let mut decoding = CachedLm::new(&model, factors.clone(), 20, device);
        assert_eq!((decoding.vocabulary(), decoding.capacity()), (50, 20));
        // Twice, so that a second start is seen to forget.
        for round in 0..2 {
            let mut texts: Vec<Vec<u32>> = TEXTS.map(<[u32]>::to_vec).into();
            let prompts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let mut scores = decoding.start(&prompts).unwrap();
            for step in 0..5_u32 {
                let expected = texts
                    .iter()
                    .flat_map(|text| last(&model, text, &factors, device));
                let expected: Vec<f64> = expected.collect();
                let found: Vec<f64> = scores.iter().map(|&v| f64::from(v)).collect();
                assert_close(
                    &format!("{family:?} {round} {step}"),
                    &found,
                    &expected,
                    products(1e-5),
                );
                let order: &[usize] = match step {
                    1 => &[2, 0, 1],
                    3 => &[0, 0, 2, 1],
                    4 => &[3, 1],
                    _ => &[],
                };
                if !order.is_empty() {
                    decoding.keep(order).unwrap();
                    texts = order.iter().map(|&row| texts[row].clone()).collect();
                }
                let next: Vec<u32> = (0..texts.len() as u32)
                    .map(|row| 3 + 7 * step + row)
                    .collect();
                texts
                    .iter_mut()
                    .zip(&next)
                    .for_each(|(text, &token)| text.push(token));
                scores = decoding.step(&next).unwrap();
            }
        }
    }
}

pub(crate) fn what_does_not_fit_is_refused<B: VbLoraBackend>(device: &B::Device) {
    let model = model::<B>(DecoderFamily::Gpt2, device);
    let message = |batch: &CausalBatch| {
        CausalInput::<B>::new(batch, model.config(), device)
            .unwrap_err()
            .to_string()
    };
    let long = [3; 25];
    assert_eq!(
        message(&CausalBatch::pad(&[&long], 0, Side::Right)),
        "a text of 25 tokens, but the model has positions for 24"
    );
    assert_eq!(
        message(&CausalBatch::pad(&[&[3, 50]], 0, Side::Right)),
        "token id 50, but the model's vocabulary has 50 (ids 0 to 49)"
    );
    let mut decoding = CachedLm::new(&model, Factors::none(), 4, device);
    let message = decoding.start(&[&[3], &[]]).unwrap_err().to_string();
    assert_eq!(
        message,
        "text 1 is empty; a model needs at least one token to go on from"
    );
    assert!(
        decoding
            .start(&[&long[..5]])
            .unwrap_err()
            .to_string()
            .contains("5 tokens")
    );
    decoding.start(&[&[3, 4, 5]]).unwrap();
    decoding.step(&[1]).unwrap();
    let message = decoding.step(&[1]).unwrap_err().to_string();
    assert_eq!(
        message,
        "a text of 5 tokens, but the model has positions for 4"
    );
}

/// Rows with different adapters, or none, that also change places, each as if it were alone; and the merged model as the adapted one.
pub(crate) fn rows_decode_with_adapters_of_their_own<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let mut set = AdapterSet::<B>::new(device.clone());
        let mut load = |name: &str, rule: &str, seed: u64| {
            let adapter = adapter(&model, rule, seed, device);
            set.load(name, &HostAdapter::TopK(adapter.store().unwrap()))
                .unwrap();
        };
        load("all", "all", 3);
        load("qv", "qv", 4);
        let stack = set.stack(&["all", "qv"]).unwrap();
        let mixed = stack.assign(&[Some(1), None, Some(0)], device).unwrap();
        let of =
            |name: Option<&str>| name.map_or(Factors::none(), |name| set.factors(name).unwrap());
        let mut rows = vec![
            (TEXTS[0].to_vec(), of(Some("qv"))),
            (TEXTS[1].to_vec(), of(None)),
            (TEXTS[2].to_vec(), of(Some("all"))),
        ];
        let mut decoding = CachedLm::new(&model, mixed, 12, device);
        decoding.start(&TEXTS).unwrap();
        decoding.keep(&[2, 0]).unwrap();
        rows = vec![rows[2].clone(), rows[0].clone()];
        let scores = decoding.step(&[9, 8]).unwrap();
        for ((row, next), found) in rows.iter().zip([9, 8]).zip(scores.chunks(50)) {
            let mut text = row.0.clone();
            text.push(next);
            let expected = last(&model, &text, &row.1, device);
            let found: Vec<f64> = found.iter().map(|&v| f64::from(v)).collect();
            // A step on a GPU sums in f32, where reading a text multiplies on tensor cores.
            let tolerance = products(alike(1e-5));
            assert_close(&format!("{family:?}"), &found, &expected, tolerance);
            let merged = last(&model.merged(&row.1), &text, &Factors::none(), device);
            assert_close(
                &format!("{family:?} merged"),
                &merged,
                &expected,
                products(1e-4),
            );
        }
    }
}

/// As one map or as three, GPT-2 computes the same; the sites are the paper's or PEFT's.
pub(crate) fn a_fused_map_may_be_three_sites<B: VbLoraBackend>(device: &B::Device) {
    // From a file, so that no bias is 0.
    let dir = tempfile::tempdir().unwrap();
    let tensors = model::<B>(DecoderFamily::Gpt2, device).tensors();
    save_tensors(
        &dir.path().join("model.safetensors"),
        &tensors,
        SaveDtype::F32,
    )
    .unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    let [whole, split] = [false, true].map(|split_qkv| {
        let config = DecoderConfig {
            split_qkv,
            ..config(DecoderFamily::Gpt2)
        };
        CausalLm::<B>::load_with(config, &files, device).unwrap().0
    });
    let names = |model: &CausalLm<B>| {
        assert_eq!(model.sites(), sites(model.config()));
        model.sites()[..3]
            .iter()
            .map(|site| (site.name.clone(), site.d_out))
            .collect::<Vec<_>>()
    };
    let name = |part: &str| format!("transformer.h.0.attn.{part}");
    assert_eq!(
        names(&whole)[..2],
        [(name("c_attn"), 96), (name("c_proj"), 32)]
    );
    assert_eq!(
        names(&split),
        ["c_attn.q", "c_attn.k", "c_attn.v"].map(|part| (name(part), 32))
    );
    let [found, expected] =
        [&split, &whole].map(|model| alone(model, TEXTS[2], &Factors::none(), device));
    assert_close("three maps", &found, &expected, products(1e-6));
    let factors = adapter(&split, "all", 5, device).factors();
    let merged = alone(&split.merged(&factors), TEXTS[2], &Factors::none(), device);
    let adapted = alone(&split, TEXTS[2], &factors, device);
    assert_close("merged", &merged, &adapted, products(1e-5));
}

/// Every family in 4 bits. Its maps, in either orientation, decode to the values of the dense maps quantised. A fused map may be three sites
/// if its parts are whole blocks.
pub(crate) fn every_family_may_be_in_4_bits<B: VbLoraBackend>(device: &B::Device) {
    let in_4_bits = |config: DecoderConfig| DecoderConfig {
        base_dtype: BaseDtype::Nf4(Nf4Settings::default()),
        ..config
    };
    for family in FAMILIES {
        let dense = CausalLm::<B>::random(config(family), 1, device).unwrap();
        let nf4 = CausalLm::<B>::random(in_4_bits(config(family)), 1, device).unwrap();
        assert_eq!(nf4.sites(), dense.sites());
        for site in dense.sites() {
            let (columns, d_out) = (dense.weight(&site.name).unwrap(), site.d_out);
            let rows = (0..d_out).flat_map(|o| columns[o..].iter().step_by(d_out).copied());
            let rows: Vec<f32> = rows.collect();
            let expected = Nf4Host::quantise(&rows, [d_out, site.d_in], true).dequantise();
            let found = nf4.weight(&site.name).unwrap();
            for (i, &value) in found.iter().enumerate() {
                assert_eq!(
                    value,
                    expected[i % d_out * site.d_in + i / d_out],
                    "{site:?}"
                );
            }
        }
    }
    let split = |hidden_size| DecoderConfig {
        split_qkv: true,
        hidden_size,
        head_size: hidden_size / config(DecoderFamily::Gpt2).num_heads,
        ..in_4_bits(config(DecoderFamily::Gpt2))
    };
    let whole = in_4_bits(config(DecoderFamily::Gpt2));
    let [found, expected] = [split(32), whole].map(|config| {
        let model = CausalLm::<B>::random(config, 1, device).unwrap();
        alone(&model, TEXTS[2], &Factors::none(), device)
    });
    assert_close("three maps in 4 bits", &found, &expected, products(1e-6));
    let error = CausalLm::<B>::random(split(12), 1, device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("base_dtype") && error.contains("c_attn"),
        "{error}"
    );
}

/// Gradients of the adapter in one pass with dropout, as a whole and block by block; the base gets none.
pub(crate) fn recomputed_blocks_give_the_same_gradients<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<Ad<B>>(family, device);
        let adapter = adapter(&model, "all", 23, device);
        let batch = CausalBatch::pad(&TEXTS, 0, Side::Right);
        let input = CausalInput::new(&batch, model.config(), device).unwrap();
        let loss = |hidden: Tensor<Ad<B>, 3>| {
            let [n, t, d] = hidden.dims();
            model.logits(hidden.reshape([n * t, d])).square().mean()
        };
        for noise in [None, Some(Noise::new(3, 1, 0))] {
            let gradients = |recompute: bool| {
                let mut step = Composition::new(&adapter);
                let factors = match noise {
                    Some(noise) => step.factors().with_noise(noise),
                    None => step.factors().clone(),
                };
                let value = if recompute {
                    model.recompute(&input, &factors, loss, |grads| step.collect(grads))
                } else {
                    let loss = loss(model.forward(&input, &factors));
                    let mut grads = loss.backward();
                    assert!(model.embedding.pieces[0].val().grad(&grads).is_none());
                    step.collect(&mut grads);
                    loss.inner()
                };
                let grads = step.push_back().unwrap();
                let of = |x: &Tensor<Ad<B>, 2>| values(x.grad(&grads).unwrap());
                [
                    values(value),
                    of(&adapter.bank.val()),
                    of(&adapter.logits.val()),
                ]
            };
            let (found, expected) = (gradients(true), gradients(false));
            for (name, (found, expected)) in ["loss", "bank", "logits"]
                .into_iter()
                .zip(found.iter().zip(&expected))
            {
                let what = format!("{family:?} {name}, noise {}", noise.is_some());
                assert_close(&what, found, expected, products(1e-5));
            }
        }
    }
}

/// Every place of dropout changes the outcome, by its key alone.
pub(crate) fn dropout_is_a_function_of_its_key<B: VbLoraBackend>(device: &B::Device) {
    let batch = CausalBatch::pad(&TEXTS, 0, Side::Right);
    let with = |change: fn(&mut DecoderConfig), family, step| {
        let mut config = config(family);
        (
            config.embedding_dropout,
            config.residual_dropout,
            config.attention_dropout,
        ) = (0.0, 0.0, 0.0);
        change(&mut config);
        let model = model_of::<B>(config, device);
        let factors = Factors::none().with_noise(Noise::new(1, step, 0));
        hidden(&model, &batch, &factors, device)
    };
    type Change = fn(&mut DecoderConfig);
    let places: [(DecoderFamily, Change); 4] = [
        (DecoderFamily::Gpt2, |c| c.embedding_dropout = 0.3),
        (DecoderFamily::Gpt2, |c| c.residual_dropout = 0.3),
        (DecoderFamily::Gpt2, |c| c.attention_dropout = 0.3),
        (DecoderFamily::Llama, |c| c.attention_dropout = 0.3),
    ];
    for (i, (family, change)) in places.into_iter().enumerate() {
        assert_eq!(
            with(change, family, 5),
            with(change, family, 5),
            "place {i}"
        );
        assert_ne!(
            with(change, family, 5),
            with(change, family, 6),
            "place {i}"
        );
        assert_ne!(
            with(change, family, 5),
            with(|_| (), family, 5),
            "place {i}"
        );
    }
}

pub(crate) fn saved_models_load_as_they_were<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let expected = alone(&model, TEXTS[2], &Factors::none(), device);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), model.config().to_json()).unwrap();
        let tensors = model.tensors();
        let stored: usize = tensors.iter().map(|(_, tensor)| tensor.values.len()).sum();
        assert_eq!(stored, model.config().parameters(), "{family:?}");
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, t)| (name.as_str(), &t.shape[..], &t.values[..]))
            .collect();
        // Two shards.
        let (a, b) = views.split_at(views.len() / 2);
        let mut map = serde_json::Map::new();
        for (file, views) in [("model-1.safetensors", a), ("model-2.safetensors", b)] {
            save_safetensors(&dir.path().join(file), views, SaveDtype::F32).unwrap();
            map.extend(
                views
                    .iter()
                    .map(|(name, ..)| ((*name).to_owned(), file.into())),
            );
        }
        let index = serde_json::json!({"weight_map": map}).to_string();
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        let (loaded, report) = CausalLm::<B>::load(&files, device).unwrap();
        assert_eq!(loaded.config(), model.config());
        assert_eq!(report.tensors, tensors.len());
        let found = alone(&loaded, TEXTS[2], &Factors::none(), device);
        // Gemma's norms are stored less 1.
        assert_close(&format!("{family:?}"), &found, &expected, products(1e-5));
        half_precision::<B>(&files, &expected, device);
    }
}

fn half_precision<B: VbLoraBackend>(files: &ModelFiles, expected: &[f64], device: &B::Device) {
    for dtype in [BaseDtype::F16, BaseDtype::Bf16] {
        let config = DecoderConfig {
            base_dtype: dtype,
            ..DecoderConfig::from_files(files).unwrap()
        };
        match CausalLm::<B>::load_with(config, files, device) {
            Ok((model, _)) => {
                let found = alone(&model, TEXTS[2], &Factors::none(), device);
                assert_close(dtype.name(), &found, expected, 0.05);
                assert_ne!(found, expected, "{dtype}");
            }
            Err(error) => assert!(error.to_string().contains("base_dtype"), "{error}"),
        }
    }
}

/// Adapters and sub-vectors of a length that does not divide everything: the lengths that would.
pub(crate) fn a_length_that_divides_nothing_is_refused<B: VbLoraBackend>(_: &B::Device) {
    let plan = Targets::all_linear()
        .select(&sites(&DecoderConfig::smollm2_135m()))
        .unwrap();
    let config = VbLoraConfig {
        vector_length: 256,
        ..Default::default()
    };
    let message = config.check(&plan).unwrap_err().to_string();
    assert!(
        message.contains("576")
            && message.contains("1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 192"),
        "{message}"
    );
}

/// A model on the inner backend is the same model.
pub(crate) fn the_inner_model_is_the_model<B: VbLoraBackend>(device: &B::Device) {
    let model = model::<Ad<B>>(DecoderFamily::Gemma, device);
    assert_eq!(model.num_params(), model.config().parameters());
    let found = alone(&model.valid(), TEXTS[0], &Factors::none(), device);
    let expected = alone(&model, TEXTS[0], &Factors::none(), device);
    assert_eq!(found, expected);
}
