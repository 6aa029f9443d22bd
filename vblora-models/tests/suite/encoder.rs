//! The forward pass: equal to the plain reference, indifferent to padding, with positions and token types as the family has them.

use burn::{
    backend::Autodiff,
    module::Param,
    tensor::{ElementConversion, Tensor},
};
use vblora::{
    Adapter, BaseWeights, Factors, FrozenLinear, Noise, Stack, WeightLayout,
    backend::VbLoraBackend, nf4::Nf4Host,
};
use vblora_models::{
    Activation, BaseDtype, Encoded, Encoder, EncoderConfig, EncoderInput, Family, Nf4Settings,
    PaddedBatch, Padding, encoder::Pass,
};

use super::{
    plain::Plain,
    tiny::{FAMILIES, PLAIN, adapter, batch, config, model, model_of, texts},
};
use crate::support::{alike, assert_close, products, tensor, values};

/// Every hidden state of a batch, each `[n, t, d]`.
fn states<B: VbLoraBackend>(
    model: &Encoder<B>,
    input: &EncoderInput<B>,
    factors: &Factors<B>,
) -> Vec<Tensor<B, 3>> {
    let mut seen = Vec::new();
    let last = model.trace(input, factors, |state| seen.push(state.clone()));
    assert_eq!(
        values(last),
        values(seen.last().unwrap().clone()),
        "the output is the last hidden state"
    );
    seen
}

/// The rows of text `i`'s tokens, without its padding.
fn tokens<B: VbLoraBackend>(state: &Tensor<B, 3>, i: usize, count: usize) -> Vec<f64> {
    values(state.clone().slice([i..i + 1, 0..count]))
}

fn assert_matches_plain<B: VbLoraBackend>(
    model: &Encoder<B>,
    factors: &Factors<B>,
    texts: &[Encoded],
    device: &B::Device,
) {
    let plain = Plain::new(model.config(), model.tensors()).with_updates(factors);
    let input = EncoderInput::new(&batch(texts, model.config()), model.config(), device);
    let states = states(model, &input, factors);
    assert_eq!(states.len(), model.config().num_layers + 1);
    for (i, text) in texts.iter().enumerate() {
        for (n, (found, expected)) in states.iter().zip(plain.hidden_states(text)).enumerate() {
            let what = format!("{:?}, text {i}, hidden state {n}", model.config().family);
            assert_close(
                &what,
                &tokens(found, i, text.ids.len()),
                &expected.values,
                products(1e-5),
            );
        }
    }
}

pub(crate) fn matches_the_plain_reference<B: VbLoraBackend>(device: &B::Device) {
    for family in PLAIN {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let model = model_of::<B>(
                EncoderConfig {
                    activation,
                    ..config(family)
                },
                device,
            );
            assert_matches_plain(&model, &Factors::none(), &texts(family), device);
        }
    }
}

/// Each linear map reads the pair of its own name: a pair on any one role gives what the plain update gives, and changes the output.
pub(crate) fn adapters_act_on_their_sites<B: VbLoraBackend>(device: &B::Device) {
    let model = model::<B>(Family::Roberta, device);
    let texts = texts(Family::Roberta);
    let roles = [
        "query",
        "key",
        "value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
        "all-linear",
    ];
    let input = EncoderInput::new(&batch(&texts, model.config()), model.config(), device);
    let alone = values(model.forward(&input, &Factors::none()));
    for role in roles {
        let factors = adapter(&model, role, device).factors();
        assert_matches_plain(&model, &factors, &texts, device);
        let found = values(model.forward(&input, &factors));
        let moved = found
            .iter()
            .zip(&alone)
            .fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(moved > 1e-2, "{role} moves the output by {moved}");
    }
}

/// A batch without its padding gives its tokens, and what is trained, the same as the batch: with and without dropout, and where rows have
/// adapters of their own.
pub(crate) fn padding_may_be_left_out<B: VbLoraBackend>(device: &B::Device) {
    type Ad<B> = Autodiff<B>;
    for family in FAMILIES {
        let config = EncoderConfig {
            hidden_dropout: 0.2,
            attention_dropout: 0.3,
            ..config(family)
        };
        let model = model_of::<Ad<B>>(config, device);
        let (texts, adapter) = (texts(family), adapter(&model, "all-linear", device));
        let batch = batch(&texts, model.config());
        let kept: Vec<f64> = batch.mask.iter().map(|&m| m as f64).collect();
        let kept = tensor::<Ad<B>, 3>(&kept, [batch.rows, batch.columns, 1], device);
        let inputs = [
            EncoderInput::with_padding(&batch, model.config(), device),
            EncoderInput::without_padding(&batch, model.config(), device).unwrap(),
        ];
        assert!(matches!(inputs[1].padding, Padding::LeftOut(_)));
        let own: Vec<_> = (0..batch.rows).map(|row| (row != 1).then_some(0)).collect();
        for what in ["plain", "with dropout", "mixed"] {
            let run = |input: &EncoderInput<Ad<B>>| {
                // Anew, since a graph is walked once.
                let whole = adapter.factors();
                let factors = match what {
                    "with dropout" => whole.with_noise(Noise::new(1, 2, 3)),
                    "mixed" => Stack::new(&[whole]).assign(&own, device).unwrap(),
                    _ => whole,
                };
                let hidden = model.forward(input, &factors) * kept.clone();
                let read = model.for_head(input, &factors).narrow(1, 0, 1);
                let hidden = Tensor::cat(vec![hidden, read], 1);
                let shown = values(hidden.clone().inner());
                let weights: Vec<f64> = (0..shown.len()).map(|i| (i % 7) as f64 - 2.0).collect();
                let weights = tensor::<Ad<B>, 3>(&weights, hidden.dims(), device);
                let grads = (hidden * weights).sum().backward();
                let trained = [adapter.bank.val(), adapter.logits.val()];
                let grads = trained.map(|x| values(x.grad(&grads).unwrap()));
                [shown].into_iter().chain(grads).collect::<Vec<_>>()
            };
            let [expected, found] = inputs.each_ref().map(run);
            for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{family:?}, {what}, part {part}");
                assert_close(&what, found, expected, products(2e-5));
            }
        }
    }
}

/// Padding in front of tokens, or rows of nothing else, stay in the batch: what is first in a row is what heads read.
pub(crate) fn only_padding_behind_tokens_is_left_out<B: VbLoraBackend>(device: &B::Device) {
    let config = config(Family::Bert);
    let input = |mask: [i64; 6]| {
        let batch = PaddedBatch {
            ids: vec![5; 6],
            type_ids: vec![0; 6],
            mask: mask.to_vec(),
            rows: 2,
            columns: 3,
        };
        EncoderInput::<B>::without_padding(&batch, &config, device)
    };
    assert!(input([1, 1, 0, 1, 0, 0]).is_some());
    for kept in [
        [1, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 0],
        [1, 0, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0],
    ] {
        assert!(input(kept).is_none(), "{kept:?}");
    }
}

pub(crate) fn padding_changes_nothing<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let texts = texts(family);
        let input = |texts: &[Encoded]| {
            EncoderInput::<B>::with_padding(&batch(texts, model.config()), model.config(), device)
        };
        let together = input(&texts);
        assert!(matches!(together.padding, Padding::Masked(_)));
        let together = model.forward(&together, &Factors::none());
        for (i, text) in texts.iter().enumerate() {
            let alone = input(std::slice::from_ref(text));
            assert!(
                matches!(alone.padding, Padding::None),
                "a batch without padding needs no mask"
            );
            let alone = values(model.forward(&alone, &Factors::none()));
            assert_close(
                &format!("{family:?}, text {i}"),
                &tokens(&together, i, text.ids.len()),
                &alone,
                products(1e-5),
            );
        }
    }
}

/// Dropout follows the output map of the attention in every family but DistilBERT, as in transformers. Other places are silent here.
pub(crate) fn dropout_follows_the_attention_where_the_family_says<B: VbLoraBackend>(
    device: &B::Device,
) {
    // ModernBERT has one setting for the weights and the outputs of its attention.
    for family in FAMILIES.into_iter().filter(|&f| f != Family::ModernBert) {
        let config = EncoderConfig {
            hidden_dropout: 0.5,
            attention_dropout: 0.0,
            ..config(family)
        };
        let mut layer = model_of::<B>(config.clone(), device).layers.swap_remove(0);
        let dims = [config.intermediate_size, config.hidden_size];
        let zeros = Tensor::zeros(dims, device);
        layer.output = FrozenLinear::new("output", zeros, None, WeightLayout::InOut);
        let input = EncoderInput::new(&batch(&texts(family), &config), &config, device);
        let hidden = model_of::<B>(config, device);
        let hidden = hidden.embeddings.forward(&input, &Factors::none());
        let run = |factors: &Factors<B>| {
            values(layer.forward(hidden.clone(), &Pass::new(&input, factors)))
        };
        let alone = run(&Factors::none());
        let trained = run(&Factors::none().with_noise(Noise::new(1, 2, 3)));
        let is_same = family == Family::DistilBert;
        assert_eq!(trained == alone, is_same, "{family:?}");
    }
}

/// BERT's start at 0 in every row; RoBERTa's at the padding id + 1, and padding stays at the padding id.
pub(crate) fn positions_start_where_the_family_says<B: VbLoraBackend>(device: &B::Device) {
    let positions = |pad: u32, family: Family| {
        let config = EncoderConfig {
            pad_token_id: pad,
            ..config(family)
        };
        let p = i64::from(pad);
        let ids = vec![9, 8, 7, 6, 9, 8, p, p, p, p, 9, 8];
        let mask = ids.iter().map(|&id| i64::from(id != p)).collect();
        let batch = PaddedBatch {
            type_ids: vec![0; 12],
            ids,
            mask,
            rows: 3,
            columns: 4,
        };
        let positions = EncoderInput::<B>::new(&batch, &config, device).positions;
        assert_eq!(positions.dims(), [3, 4]);
        positions.into_data().iter::<i64>().collect::<Vec<_>>()
    };
    assert_eq!(
        positions(1, Family::Roberta),
        [2, 3, 4, 5, 2, 3, 1, 1, 1, 1, 2, 3]
    );
    assert_eq!(
        positions(5, Family::Roberta),
        [6, 7, 8, 9, 6, 7, 5, 5, 5, 5, 6, 7]
    );
    assert_eq!(
        positions(0, Family::Bert),
        [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    );
}

pub(crate) fn token_types_are_summed<B: VbLoraBackend>(device: &B::Device) {
    let output = |family: Family, second: u32| {
        let model = model::<B>(family, device);
        let text = Encoded {
            ids: vec![2, 7, 40, 13],
            type_ids: vec![0, 0, second, second],
            truncated: false,
        };
        values(model.forward(
            &EncoderInput::new(&batch(&[text], model.config()), model.config(), device),
            &Factors::none(),
        ))
    };
    let moved = output(Family::Bert, 0)
        .iter()
        .zip(output(Family::Bert, 1))
        .fold(0.0_f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(moved > 0.1, "moved by {moved}");
    // RoBERTa has one type, which a pair's second part gets too.
    assert_eq!(output(Family::Roberta, 0), output(Family::Roberta, 1));
}

pub(crate) fn a_word_table_in_pieces_is_one_table<B: VbLoraBackend>(device: &B::Device) {
    let whole = model::<B>(Family::Roberta, device);
    let [table] = whole.embeddings.word.pieces.as_slice() else {
        panic!("a small table is one piece");
    };
    let table = table.val();
    let d = whole.config().hidden_size;
    // The ids of the texts lie on both sides of each border, and on it.
    for borders in [
        vec![0, 7, 14, 50],
        vec![0, 13, 50],
        vec![0, 1, 2, 3, 40, 49, 50],
    ] {
        let mut pieces = whole.clone();
        let piece =
            |ends: &[usize]| Param::from_tensor(table.clone().slice([ends[0]..ends[1], 0..d]));
        pieces.embeddings.word.pieces = borders.windows(2).map(piece).collect();
        let input = EncoderInput::new(
            &batch(&texts(Family::Roberta), whole.config()),
            whole.config(),
            device,
        );
        let [found, expected] =
            [&pieces, &whole].map(|m| m.embeddings.forward(&input, &Factors::none()));
        let difference = (found - expected).abs().max().into_scalar().elem::<f64>();
        assert_eq!(difference, 0.0, "{borders:?}");
        assert_eq!(pieces.tensors(), whole.tensors(), "{borders:?}");
        let x = whole.embeddings.position.as_ref().unwrap().val();
        let [found, expected] = [&pieces, &whole].map(|m| m.embeddings.word.logits(x.clone()));
        let difference = (found - expected).abs().max().into_scalar().elem::<f64>();
        assert!(difference < alike(1e-6), "{borders:?}: {difference}");
    }
}

/// Every family in 4 bits: the maps of its blocks decode to the values of the dense maps quantised, those beside the blocks stay dense, and
/// adapters act on them.
pub(crate) fn every_family_may_be_in_4_bits<B: VbLoraBackend>(device: &B::Device) {
    for family in FAMILIES {
        let of = |base_dtype| {
            let config = EncoderConfig {
                base_dtype,
                ..config(family)
            };
            Encoder::<B>::random(config, 17, device).unwrap()
        };
        let (dense, nf4) = (
            of(BaseDtype::F32),
            of(BaseDtype::Nf4(Nf4Settings::default())),
        );
        assert_eq!(nf4.sites(), dense.sites());
        for site in dense.sites() {
            let (columns, d_out) = (dense.weight(&site.name).unwrap(), site.d_out);
            if ["embeddings_project", "head.dense", "pooler.dense"].contains(&site.name.as_str()) {
                assert_eq!(nf4.weight(&site.name).unwrap(), columns, "{site:?}");
                continue;
            }
            let rows = (0..d_out).flat_map(|o| columns[o..].iter().step_by(d_out).copied());
            let rows: Vec<f32> = rows.collect();
            let expected = Nf4Host::quantise(&rows, [d_out, site.d_in], true).dequantise();
            for (i, &value) in nf4.weight(&site.name).unwrap().iter().enumerate() {
                let place = i % d_out * site.d_in + i / d_out;
                assert_eq!(value, expected[place], "{site:?}");
            }
        }
        let factors = adapter(&dense, "all-linear", device).factors();
        let batch = batch(&texts(family), dense.config());
        let input = EncoderInput::new(&batch, dense.config(), device);
        let [plain, found, expected] = [
            nf4.for_head(&input, &Factors::none()),
            nf4.for_head(&input, &factors),
            nf4.merged(&factors).for_head(&input, &Factors::none()),
        ]
        .map(values);
        assert_close(&format!("{family:?}"), &found, &expected, products(1e-4));
        assert_ne!(plain, found);
    }
}

/// Half precision comes close to f32 where the backend computes in it, and is refused by name where it does not.
pub(crate) fn half_precision_is_close_or_refused<B: VbLoraBackend>(device: &B::Device) {
    let family = Family::Roberta;
    let model = |base_dtype| {
        let config = EncoderConfig {
            base_dtype,
            ..config(family)
        };
        Encoder::<B>::random(config, 17, device)
    };
    let full = model(BaseDtype::F32).expect("f32 is everywhere");
    let adapter = adapter(&full, "all-linear", device);
    let input = EncoderInput::new(&batch(&texts(family), full.config()), full.config(), device);
    let expected = values(full.forward(&input, &adapter.factors()));
    for (dtype, tolerance) in [(BaseDtype::F16, 0.005), (BaseDtype::Bf16, 0.04)] {
        match (dtype.check::<B>(device), model(dtype)) {
            (Ok(()), Ok(half)) => {
                let found = values(half.forward(&input, &adapter.factors()));
                assert_close(dtype.name(), &found, &expected, tolerance);
                assert_ne!(found, expected, "{dtype} rounds");
            }
            (Err(_), Err(error)) => {
                let message = error.to_string();
                let says = [dtype.name(), "f32", "base_dtype", &B::name(device)];
                assert!(says.iter().all(|word| message.contains(word)), "{message}");
            }
            (check, model) => panic!("{dtype}: {check:?}, but {:?}", model.err()),
        }
    }
}
