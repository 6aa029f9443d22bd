//! The objective of causal models: the likelihood of the next token.

use std::marker::PhantomData;

use burn::{
    backend::Autodiff,
    tensor::{Tensor, backend::Backend},
};
use serde_json::{Map, json};
use vblora::{Factors, backend::VbLoraBackend, ops::join_rows, storage::peft::PeftAdapter};
use vblora_models::{
    decoder::{CausalInput, CausalLm, logits_at_once},
    save_model,
};

use super::{
    batch::TextBatch,
    encode::EncodedTexts,
    loss::{ints, token_loss},
};
use crate::{
    Error, Result,
    metrics::{Metric, Scores},
    recipes::Recipe,
    tasks::Evaluation,
    train::{BatchOutputs, Evaluated, Graph, Learner, Objective, Saving, Trained, Turns, order},
};

/// Number of predicted tokens whose logits are computed at once in an evaluation. With a vocabulary of 50,000 their logits take 50 MB.
const SCORED: usize = 256;

/// The mean negative log-likelihood of the tokens to predict.
#[derive(Debug)]
pub struct Causal {
    smoothing: f64,
    recompute: bool,
}

/// The micro-batches of an epoch, as the indices of the texts in each row.
pub(super) fn epoch(
    split: &EncodedTexts,
    recipe: &Recipe,
    seed: u64,
    epoch: usize,
) -> Vec<Vec<Vec<usize>>> {
    let lengths = split.lengths();
    if recipe.text.packing {
        let rows = order::packed(&lengths, seed, epoch, split.max_length);
        return rows.chunks(recipe.batch).map(<[_]>::to_vec).collect();
    }
    let batches = match recipe.group_by_length {
        true => order::grouped(lengths.len(), |row| lengths[row], seed, epoch, recipe.batch),
        false => order::shuffled(lengths.len(), seed, epoch, recipe.batch),
    };
    batches.into_batches().map(one_a_row).collect()
}

impl<B: VbLoraBackend> Objective<B> for Causal {
    type Model = CausalLm<B>;
    type Base = CausalLm<Autodiff<B>>;
    type Head = PhantomData<Autodiff<B>>;
    type Split = EncodedTexts;
    /// The indices of the texts in each row.
    type Rows = Vec<Vec<usize>>;
    type Batch = TextBatch;

    fn new(recipe: &Recipe) -> Self {
        Self {
            smoothing: recipe.text.label_smoothing,
            recompute: recipe.text.recompute,
        }
    }

    fn head(_: &Self::Model, _: &Recipe, _: u64, _: &B::Device) -> Self::Head {
        PhantomData
    }

    fn sha256(split: &EncodedTexts) -> String {
        split.sha256()
    }

    fn truncated(split: &EncodedTexts) -> u64 {
        split.cut() + split.dropped()
    }

    fn rows(split: &EncodedTexts) -> usize {
        split.len()
    }

    fn epoch(
        split: &EncodedTexts,
        recipe: &Recipe,
        seed: u64,
        number: usize,
    ) -> impl ExactSizeIterator<Item = Self::Rows> {
        epoch(split, recipe, seed, number).into_iter()
    }

    fn batch(split: &EncodedTexts, rows: &Self::Rows, base: &Self::Base) -> Result<TextBatch> {
        Ok(split.batch(rows, base.config().pad_token_id.unwrap_or(0)))
    }

    fn weight(batch: &TextBatch) -> usize {
        batch.targets.len()
    }

    fn tokens(batch: &TextBatch) -> Option<usize> {
        Some(batch.tokens)
    }

    fn backward(
        learner: &Learner<B, Self>,
        batch: &TextBatch,
        factors: &Factors<Autodiff<B>>,
        share: f64,
        collect: &mut dyn FnMut(&mut Graph<B>),
    ) -> Result<Tensor<B, 1>> {
        let (
            base,
            Self {
                smoothing,
                recompute,
            },
        ) = (learner.base(), learner.objective());
        let input = CausalInput::new(&batch.inputs, base.config(), &learner.device)?;
        if *recompute {
            let at_once = logits_at_once(base.config().vocab_size);
            let gradient = |hidden| loss_in_pieces(base, hidden, batch, *smoothing, share, at_once);
            return Ok(base.recompute_from(&input, factors, gradient, collect));
        }
        let logits = base.logits(chosen(base.forward(&input, factors), &batch.places));
        let loss = token_loss(logits, &batch.targets, *smoothing).mul_scalar(share);
        let value = loss.clone().inner();
        collect(&mut loss.backward());
        Ok(value)
    }

    /// Means over at most `SCORED` tokens each.
    fn outputs(
        trained: Evaluated<'_, B, Self>,
        split: &EncodedTexts,
        recipe: &Recipe,
        turns: Turns,
    ) -> Result<Vec<BatchOutputs>> {
        let Evaluated { base, device, .. } = trained;
        let pad_id = base.config().pad_token_id.unwrap_or(0);
        let batches = order::by_length(&split.lengths(), recipe.batch).into_iter();
        let own = batches.enumerate().filter(|(i, _)| turns.has(*i));
        let outputs = own.map(|(_, rows)| {
            let batch = split.batch(&one_a_row(rows), pad_id);
            let input = CausalInput::new(&batch.inputs, base.config(), device)?;
            let hidden = base.forward(&input, trained.factors);
            let places = batch.places.chunks(SCORED);
            let pieces = places.zip(batch.targets.chunks(SCORED));
            let mean = |(places, targets): (&[i32], &[i32])| {
                let logits = base.logits(chosen(hidden.clone(), places));
                let mean = token_loss(logits, targets, 0.0).into_data();
                let mean = mean.convert::<f32>().into_vec::<f32>();
                (targets.len(), mean.expect("converted to f32")[0])
            };
            let (indices, values) = pieces.map(mean).unzip();
            Ok(BatchOutputs { indices, values })
        });
        outputs.collect()
    }

    fn score(_: &EncodedTexts, _: &Recipe, outputs: Vec<BatchOutputs>) -> Result<Evaluation> {
        let (mut sum, mut count) = (0.0, 0);
        for BatchOutputs { indices, values } in outputs {
            for (tokens, mean) in indices.into_iter().zip(values) {
                sum += f64::from(mean) * tokens as f64;
                count += tokens;
            }
        }
        let nll = sum / count as f64;
        if !nll.is_finite() {
            let what = "mean log-likelihood of held-out texts".into();
            return Err(Error::NonFinite { what });
        }
        Ok(Scores::from_iter([(Metric::Nll, Some(nll))]).into())
    }

    fn before(
        base: &CausalLm<B>,
        split: &EncodedTexts,
        recipe: &Recipe,
        device: &B::Device,
    ) -> Result<Option<Scores>> {
        let untrained = Evaluated {
            base,
            head: &PhantomData,
            factors: &Factors::none(),
            device,
        };
        let evaluation = Self::evaluate(untrained, split, recipe)?;
        Ok(Some(evaluation.scores))
    }

    fn save(learner: &Learner<B, Self>, to: Saving<'_>) -> Result<()> {
        let config = learner.base().config();
        if let Some(adapter) = to.adapter {
            let adapter = PeftAdapter {
                task_type: Some("CAUSAL_LM".into()),
                fan_in_fan_out: config.layout.conv1d,
                ..adapter
            };
            adapter.write(to.dir)?;
        }
        if matches!(learner.trained(), Trained::Everything) {
            let settings = Map::from_iter([
                ("architectures".into(), json!([config.family.class()])),
                ("tie_word_embeddings".into(), config.tied.into()),
            ]);
            let tensors = learner.plain_base().tensors();
            save_model(to.dir, to.files, settings, &tensors)?;
        }
        Ok(())
    }
}

/// The loss times `share` and its gradient to the hidden states, with the logits of at most `at_once` tokens in memory.
///
/// # Shapes
/// - hidden and the second output: `[n, t, d]`; the first output: `[1]`
fn loss_in_pieces<B: VbLoraBackend>(
    base: &CausalLm<Autodiff<B>>,
    hidden: Tensor<B, 3>,
    batch: &TextBatch,
    smoothing: f64,
    share: f64,
    at_once: usize,
) -> (Tensor<B, 1>, Tensor<B, 3>) {
    let all = batch.targets.len();
    let size = all.div_ceil(all.div_ceil(at_once).max(1)).max(1);
    let pieces = batch.places.chunks(size).zip(batch.targets.chunks(size));
    let mut value = Tensor::zeros([1], &hidden.device());
    let grads = pieces.map(|(places, targets)| {
        let x = Tensor::<Autodiff<B>, 2>::from_inner(chosen(hidden.clone(), places)).require_grad();
        let loss = token_loss(base.logits(x.clone()), targets, smoothing);
        let loss = loss.mul_scalar(share * targets.len() as f64 / all as f64);
        value = value.clone() + loss.clone().inner();
        let grad = x.grad_remove(&mut loss.backward());
        grad.unwrap_or_else(|| x.inner().zeros_like())
    });
    let mut grads: Vec<_> = grads.collect();
    let [n, t, d] = hidden.dims();
    // Tokens without a label take a row of zeros behind those of the labels.
    grads.push(Tensor::zeros([1, d], &hidden.device()));
    let mut rows = vec![all as i32; n * t];
    for (row, &place) in batch.places.iter().enumerate() {
        rows[place as usize] = row as i32;
    }
    let rows = ints(&rows, &hidden.device());
    let grad = join_rows(grads).select(0, rows);
    (value, grad.reshape([n, t, d]))
}

fn one_a_row(texts: Vec<usize>) -> Vec<Vec<usize>> {
    texts.into_iter().map(|text| vec![text]).collect()
}

/// Selects the hidden states of the tokens at `places`, so that logits are computed only for predictions.
///
/// # Shapes
/// - hidden: `[n, t, d]`; output: `[places, d]`
fn chosen<B: Backend>(hidden: Tensor<B, 3>, places: &[i32]) -> Tensor<B, 2> {
    let [n, t, d] = hidden.dims();
    let places = ints(places, &hidden.device());
    hidden.reshape([n * t, d]).select(0, places)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::{backend::Flex, tensor::Distribution};
    use vblora_models::DecoderConfig;

    use super::*;

    /// Pieces of the tokens give the loss and the gradient of all of them.
    #[test]
    fn a_loss_in_pieces_is_the_loss() {
        let config = DecoderConfig {
            vocab_size: 40,
            hidden_size: 16,
            num_layers: 1,
            num_heads: 2,
            num_kv_heads: 2,
            head_size: 8,
            intermediate_size: 24,
            ..DecoderConfig::llama_2_7b()
        };
        let device = Default::default();
        let model = CausalLm::<Autodiff<Flex>>::random(config, 1, &device).unwrap();
        let texts = [vec![3, 4, 5, 6, 7], vec![8, 9, 1]].map(|ids: Vec<u32>| (ids, 1));
        let batch = EncodedTexts::from_tokens(texts, 8).batch(&[vec![0], vec![1]], 0);
        assert_eq!(batch.targets.len(), 6);
        let hidden = Tensor::random([2, 5, 16], Distribution::Default, &device);
        let whole = Tensor::<Autodiff<Flex>, 3>::from_inner(hidden.clone()).require_grad();
        let logits = model.logits(chosen(whole.clone(), &batch.places));
        let loss = token_loss(logits, &batch.targets, 0.1).mul_scalar(0.5);
        let expected = [
            loss.clone().inner().into_data(),
            whole.grad(&loss.backward()).unwrap().into_data(),
        ];
        for (at_once, is_same) in [(6, true), (4, false), (1, false)] {
            let (value, grad) = loss_in_pieces(&model, hidden.clone(), &batch, 0.1, 0.5, at_once);
            for (found, expected) in [value.into_data(), grad.into_data()].iter().zip(&expected) {
                match is_same {
                    true => assert_eq!(found, expected),
                    false => found.assert_approx_eq::<f32>(expected, Default::default()),
                }
            }
        }
    }
}
