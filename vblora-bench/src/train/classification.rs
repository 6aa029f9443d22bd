//! The objective of encoders with a classification head, for GLUE.

use burn::{backend::Autodiff, module::AutodiffModule, tensor::Tensor};
use serde_json::{Map, Value, json};
use vblora::{Factors, backend::VbLoraBackend, storage::peft::PeftAdapter};
use vblora_models::{
    ClassificationHead, ClassifierNames, Encoded, Encoder, EncoderInput, HeadInit, HostTensor,
    Labels, SaveDtype, loss, pad, save_config, save_model, save_tensors,
};

use super::{
    data::{EncodedSplit, LabelledBatch},
    head_settings::HeadSettings,
    learner::{Learner, Trained},
    objective::{BatchOutputs, Evaluated, Graph, Objective, Saving, Turns},
    order,
};
use crate::{
    Error, Result,
    metrics::Scores,
    recipes::{self, Recipe},
    tasks::{Evaluation, Predictions, Target, Task, evaluate},
};

/// The file of a head without an adapter. Older directories have the head of a BERT's adapter in it.
pub const HEAD_FILE: &str = "head.safetensors";

/// Tensors by name.
type Named = Vec<(String, HostTensor)>;

/// A head on the first token, or on what the family makes of all. The loss is cross-entropy for classes, binary cross-entropy for sets of
/// classes, and squared error for numbers.
#[derive(Debug)]
pub struct Classification;

impl<B: VbLoraBackend> Objective<B> for Classification {
    type Model = Encoder<B>;
    type Base = Encoder<Autodiff<B>>;
    type Head = ClassificationHead<Autodiff<B>>;
    type Split = EncodedSplit;
    type Rows = Vec<usize>;
    type Batch = LabelledBatch;

    fn new(_: &Recipe) -> Self {
        Self
    }

    fn head(base: &Self::Model, recipe: &Recipe, seed: u64, device: &B::Device) -> Self::Head {
        let config = base.config();
        let init = match recipe.head.init {
            recipes::HeadInit::Roberta => HeadInit::Normal(config.initializer_range),
            recipes::HeadInit::Torch => HeadInit::Torch,
        };
        let (d, labels) = (config.hidden_size, recipe.task.outputs());
        let form = config.head_form();
        ClassificationHead::init(form, [d, labels], recipe.head.dropout, init, seed, device)
    }

    fn sha256(split: &EncodedSplit) -> String {
        split.sha256()
    }

    fn truncated(split: &EncodedSplit) -> u64 {
        split.truncated()
    }

    fn rows(split: &EncodedSplit) -> usize {
        split.len()
    }

    fn epoch(
        split: &EncodedSplit,
        recipe: &Recipe,
        seed: u64,
        epoch: usize,
    ) -> impl ExactSizeIterator<Item = Vec<usize>> {
        let batches = match recipe.group_by_length {
            true => order::grouped(
                split.len(),
                |row| split.length(row),
                seed,
                epoch,
                recipe.batch,
            ),
            false => order::shuffled(split.len(), seed, epoch, recipe.batch),
        };
        batches.into_batches()
    }

    fn batch(split: &EncodedSplit, rows: &Vec<usize>, base: &Self::Base) -> Result<LabelledBatch> {
        split.batch(rows, base.config().pad_token_id)
    }

    fn weight(batch: &LabelledBatch) -> usize {
        batch.inputs.rows
    }

    fn loss_weight(batch: &LabelledBatch) -> f64 {
        match &batch.labels {
            Labels::Weighted { weights, .. } => weights.iter().copied().map(f64::from).sum(),
            Labels::Classes(_) | Labels::Sets(_) | Labels::Scores(_) => batch.inputs.rows as f64,
        }
    }

    fn tokens(_: &LabelledBatch) -> Option<usize> {
        None
    }

    fn backward(
        learner: &Learner<B>,
        batch: &LabelledBatch,
        factors: &Factors<Autodiff<B>>,
        share: f64,
        collect: &mut dyn FnMut(&mut Graph<B>),
    ) -> Result<Tensor<B, 1>> {
        let loss = batch_loss(learner, batch, factors).mul_scalar(share);
        let value = loss.clone().inner();
        collect(&mut loss.backward());
        Ok(value)
    }

    fn outputs(
        trained: Evaluated<'_, B, Self>,
        split: &EncodedSplit,
        recipe: &Recipe,
        turns: Turns,
    ) -> Result<Vec<BatchOutputs>> {
        let Evaluated {
            base,
            head,
            factors,
            device,
        } = trained;
        let batch = HeadSettings::new(recipe).evaluation_batch();
        let (mut all, mut number, mut first) = (Vec::new(), 0, 0);
        for chunk in split.chunks() {
            let texts = chunk?;
            for rows in order::by_length(&lengths(&texts), batch) {
                if turns.has(number) {
                    all.push(BatchOutputs {
                        values: logits(base, head, factors, (&texts, &rows), device),
                        indices: rows.into_iter().map(|row| first + row).collect(),
                    });
                }
                number += 1;
            }
            first += texts.len();
        }
        Ok(all)
    }

    fn score(
        split: &EncodedSplit,
        recipe: &Recipe,
        outputs: Vec<BatchOutputs>,
    ) -> Result<Evaluation> {
        let mut all = vec![Vec::new(); split.len()];
        for BatchOutputs { indices, values } in outputs {
            let labels = values.len() / indices.len().max(1);
            for (row, logits) in indices.into_iter().zip(values.chunks(labels.max(1))) {
                all[row] = finite(logits, row)?.to_vec();
            }
        }
        let predictions = predictions(&recipe.task, &all);
        evaluate(&recipe.task, &predictions, &split.labels())
    }

    /// An untrained head has no meaningful scores.
    fn before(
        _: &Encoder<B>,
        _: &EncodedSplit,
        _: &Recipe,
        _: &B::Device,
    ) -> Result<Option<Scores>> {
        Ok(None)
    }

    fn save(learner: &Learner<B>, to: Saving<'_>) -> Result<()> {
        HeadSettings::new(to.recipe).write(to.dir)?;
        let head = learner.head().valid().tensors();
        let names = learner.base().config().classifier();
        // transformers' configuration of the whole model, which names the classes.
        save_config(to.dir, to.files, settings(&names, to.recipe))?;
        if matches!(learner.trained(), Trained::Everything) {
            let tensors = whole(&names, learner.plain_base().tensors(), &head);
            save_model(to.dir, to.files, settings(&names, to.recipe), &tensors)?;
        }
        match to.adapter {
            Some(adapter) => Ok(with_head(adapter, &names, &head).write(to.dir)?),
            None => {
                let path = to.dir.join(HEAD_FILE);
                Ok(save_tensors(&path, &head, SaveDtype::F32)?)
            }
        }
    }
}

/// The adapter with the head as modules that PEFT saves whole, on transformers' model for sequence classification.
pub fn with_head(adapter: PeftAdapter, names: &ClassifierNames, head: &Named) -> PeftAdapter {
    PeftAdapter {
        prefix: names.prefix.into(),
        modules_to_save: names.modules.iter().map(|&name| name.into()).collect(),
        saved: written(names, head).collect(),
        task_type: Some("SEQ_CLS".into()),
        ..adapter
    }
}

/// The head's tensors under their names in transformers. BERT's model has the head's first map as the pooler, which is equivalent without
/// dropout.
fn written(names: &ClassifierNames, head: &Named) -> impl Iterator<Item = (String, HostTensor)> {
    head.iter()
        .map(|(name, tensor)| (names.written(name), tensor.clone()))
}

/// Encoder and head with the tensor names of transformers' model for sequence classification.
fn whole(names: &ClassifierNames, base: Named, head: &Named) -> Named {
    let base = base
        .into_iter()
        .map(|(name, tensor)| (format!("{}{name}", names.prefix), tensor));
    base.chain(written(names, head)).collect()
}

/// The kind of a head that gives a number.
const REGRESSION: &str = "regression";

/// The head's settings in the `config.json` of such a model.
fn settings(of: &ClassifierNames, recipe: &Recipe) -> Map<String, Value> {
    let names: Vec<&str> = match recipe.task.target() {
        Some(Target::Classes { .. } | Target::Sets { .. }) => {
            recipe.task.classes().iter().map(String::as_str).collect()
        }
        Some(Target::Number { .. }) | None => vec!["LABEL_0"],
    };
    let problem = recipe.task.target().map_or(REGRESSION, problem_type);
    let mut settings = class_settings(of.class, &names);
    settings.extend([
        (of.dropout.into(), json!(recipe.head.dropout)),
        ("problem_type".into(), problem.into()),
    ]);
    settings
}

/// The kind of a head in transformers' `config.json`.
pub(super) fn problem_type(target: &Target) -> &'static str {
    match target {
        Target::Classes { .. } => "single_label_classification",
        Target::Sets { .. } => "multi_label_classification",
        Target::Number { .. } => REGRESSION,
    }
}

/// The settings in the `config.json` of transformers' class that hold for any head: the class, and the names of its outputs.
pub(crate) fn class_settings(class: &str, names: &[impl AsRef<str>]) -> Map<String, Value> {
    let ids = names.iter().map(AsRef::as_ref).enumerate();
    let id2label: Map<_, _> = ids
        .clone()
        .map(|(id, name)| (id.to_string(), json!(name)))
        .collect();
    let label2id: Map<_, _> = ids.map(|(id, name)| (name.into(), json!(id))).collect();
    Map::from_iter([
        ("architectures".into(), json!([class])),
        ("id2label".into(), id2label.into()),
        ("label2id".into(), label2id.into()),
    ])
}

fn batch_loss<B: VbLoraBackend>(
    learner: &Learner<B>,
    batch: &LabelledBatch,
    factors: &Factors<Autodiff<B>>,
) -> Tensor<Autodiff<B>, 1> {
    let (base, noise) = (learner.base(), factors.noise());
    let hidden = if matches!(learner.trained(), Trained::HeadOnly) {
        // Nothing below the head has gradients, so no graph is built there. Dropout still applies.
        let factors = noise.map_or_else(Factors::none, |noise| Factors::none().with_noise(noise));
        let input = EncoderInput::new(&batch.inputs, base.config(), &learner.device);
        Tensor::from_inner(base.valid().for_head(&input, &factors))
    } else {
        let input = EncoderInput::new(&batch.inputs, base.config(), &learner.device);
        base.for_head(&input, factors)
    };
    loss(learner.head().forward(hidden, noise), &batch.labels)
}

/// The outputs of the head for each text, in the order of the texts, without dropout. Batches have texts of similar length. `go_on` is
/// called with the rows of each batch; once it returns false the work ends, and there are no outputs.
///
/// `batch` is the number of rows of a batch, and `first` the number of texts before these, for messages. Only the batches of `turns` are
/// computed. The other texts have no outputs.
///
/// # Errors
/// An output is not finite; the error names the text's number.
pub fn outputs<B: VbLoraBackend>(
    base: &Encoder<B>,
    head: &ClassificationHead<B>,
    factors: &Factors<B>,
    texts: &[Encoded],
    (batch, first, turns): (usize, usize, Turns),
    device: &B::Device,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<f32>>>> {
    let mut all: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
    let batches = order::by_length(&lengths(texts), batch);
    let own = batches.into_iter().enumerate();
    for (_, rows) in own.filter(|(number, _)| turns.has(*number)) {
        let values = logits(base, head, factors, (texts, &rows), device);
        let count = rows.len();
        for (row, logits) in rows.into_iter().zip(values.chunks(values.len() / count)) {
            all[row] = finite(logits, first + row)?.to_vec();
        }
        if !go_on(count) {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

fn lengths(texts: &[Encoded]) -> Vec<usize> {
    texts.iter().map(|text| text.ids.len()).collect()
}

/// The outputs for these rows of the texts, one row after the other.
fn logits<B: VbLoraBackend>(
    base: &Encoder<B>,
    head: &ClassificationHead<B>,
    factors: &Factors<B>,
    (texts, rows): (&[Encoded], &[usize]),
    device: &B::Device,
) -> Vec<f32> {
    let inputs: Vec<&Encoded> = rows.iter().map(|&row| &texts[row]).collect();
    let batch = pad(&inputs, base.config().pad_token_id);
    let input = EncoderInput::new(&batch, base.config(), device);
    let output = head.forward(base.for_head(&input, factors), None);
    let values = output.into_data().convert::<f32>().into_vec();
    values.expect("converted to f32")
}

/// The outputs for an example, if they are finite.
fn finite(logits: &[f32], row: usize) -> Result<&[f32]> {
    match logits.iter().all(|logit| logit.is_finite()) {
        true => Ok(logits),
        false => {
            let what = format!("model output for example {}", row + 1);
            Err(Error::NonFinite { what })
        }
    }
}

/// [`outputs`] of a split, chunk by chunk.
fn outputs_of_split<B: VbLoraBackend>(
    base: &Encoder<B>,
    head: &ClassificationHead<B>,
    factors: &Factors<B>,
    split: &EncodedSplit,
    batch: usize,
    device: &B::Device,
) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::with_capacity(split.len());
    for chunk in split.chunks() {
        let (texts, batch) = (chunk?, (batch, all.len(), Turns::ALL));
        let go_on = &mut |_| true;
        let some = outputs(base, head, factors, &texts, batch, device, go_on)?;
        all.extend(some.unwrap_or_default());
    }
    Ok(all)
}

/// The predictions that a task makes of outputs: the most likely class, the classes more likely than not, or the number.
pub fn predictions(task: &Task, outputs: &[Vec<f32>]) -> Predictions {
    let rows = outputs.iter();
    match task.target() {
        Some(Target::Number { .. }) => Predictions::Values(rows.map(|row| row[0]).collect()),
        Some(Target::Sets { .. }) => Predictions::Sets(rows.map(|row| chosen(row)).collect()),
        Some(Target::Classes { .. }) | None => {
            Predictions::Classes(rows.map(|row| argmax(row)).collect())
        }
    }
}

/// The classes with a probability above one half.
fn chosen(logits: &[f32]) -> Vec<usize> {
    (0..logits.len()).filter(|&i| logits[i] > 0.0).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

impl<B: VbLoraBackend> Learner<B> {
    /// The outputs of the head for each example of a split, in its order, without dropout and without a graph.
    ///
    /// # Errors
    /// An output is not finite.
    pub fn predict(&self, split: &EncodedSplit, batch: usize) -> Result<Vec<Vec<f32>>> {
        let (base, head, factors) = (self.base().valid(), self.head().valid(), self.factors());
        outputs_of_split(&base, &head, &factors, split, batch, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vblora_models::Family;

    #[test]
    fn a_head_has_its_names_in_transformers() {
        let tensor = HostTensor {
            shape: vec![1],
            values: vec![0.5],
        };
        let named = |names: &[&str]| -> Named {
            let all = names.iter();
            all.map(|name| ((*name).to_owned(), tensor.clone()))
                .collect()
        };
        let base = named(&["embeddings.LayerNorm.bias"]);
        let head = named(&["classifier.dense.weight", "classifier.out_proj.bias"]);
        for (family, expected) in [
            (
                Family::Roberta,
                [
                    "roberta.embeddings.LayerNorm.bias",
                    "classifier.dense.weight",
                    "classifier.out_proj.bias",
                ],
            ),
            (
                Family::Bert,
                [
                    "bert.embeddings.LayerNorm.bias",
                    "bert.pooler.dense.weight",
                    "classifier.bias",
                ],
            ),
        ] {
            assert_eq!(
                whole(&family.classifier(), base.clone(), &head),
                named(&expected)
            );
        }
    }
}
