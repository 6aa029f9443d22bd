//! Masked-language-model pretraining of a small RoBERTa from scratch. The bundled model was made with it.

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    tensor::{Int, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use vblora::{
    Factors, Noise,
    backend::{Clip, VbLoraBackend},
    ops::log_softmax,
    rng::Key,
};
use vblora_models::{
    Encoded, Encoder, EncoderConfig, EncoderInput, HostTensor, LmHead, PaddedBatch, pad,
};

use crate::{
    Result,
    recipes::AdamSettings,
    schedule::{Schedule, ScheduleKind},
    train::{AdamW, Gradients, RequireGrad, Rule},
};

/// The settings of a pretraining run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSettings {
    /// Seed for weights, order, masks and dropout.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: usize,
    /// Sentences per step.
    pub batch: usize,
    /// Peak learning rate. It is reached after `warmup` steps and falls linearly to zero.
    pub lr: f64,
    /// Warm-up steps.
    pub warmup: usize,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// Share of tokens to predict (BERT: 0.15).
    pub mask_share: f64,
    /// The maximum joint norm of the gradients.
    pub clip_norm: f64,
}

/// Token ids that masking needs.
#[derive(Debug, Clone, Copy)]
pub struct SpecialIds {
    /// `<mask>`
    pub mask: u32,
    /// Ids below this are special and are never predicted.
    pub first_ordinary: u32,
}

/// A masked batch: inputs, and the positions and ids to predict.
struct Masked {
    inputs: PaddedBatch,
    /// Row-major positions in the batch.
    places: Vec<i32>,
    targets: Vec<i32>,
}

/// A model and head in pretraining.
#[derive(Debug)]
pub struct Pretrainer<B: VbLoraBackend> {
    model: Encoder<Autodiff<B>>,
    head: LmHead<Autodiff<B>>,
    optimizer: AdamW<B>,
    settings: PretrainSettings,
    special: SpecialIds,
    device: B::Device,
}

impl<B: VbLoraBackend> Pretrainer<B> {
    /// Initializes the weights.
    ///
    /// # Errors
    /// A tensor is too large for the device.
    pub fn new(
        config: EncoderConfig,
        special: SpecialIds,
        settings: PretrainSettings,
        device: &B::Device,
    ) -> Result<Self> {
        let head = LmHead::random(&config, settings.seed, device)?;
        let model = Encoder::random(config, settings.seed, device)?;
        Ok(Self {
            model: Encoder::from_inner(model).map(&mut RequireGrad(true)),
            head: LmHead::from_inner(head).map(&mut RequireGrad(true)),
            optimizer: AdamW::new(AdamSettings {
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-6,
            }),
            settings,
            special,
            device: device.clone(),
        })
    }

    /// Trains step `step` on the sentences that (seed, step) selects. If `report`, it waits for the device and returns the mean loss per
    /// predicted token.
    pub fn step(&mut self, step: usize, sentences: &[Encoded], report: bool) -> Option<f64> {
        let key = Key::new(self.settings.seed)
            .name("pretrain")
            .index(step as u64);
        let per_epoch = (sentences.len() / self.settings.batch).max(1);
        let order = Key::new(self.settings.seed)
            .name("order")
            .index((step / per_epoch) as u64)
            .permutation(sentences.len());
        let start = (step % per_epoch) * self.settings.batch;
        let end = (start + self.settings.batch).min(sentences.len());
        let rows: Vec<&Encoded> = order[start..end].iter().map(|&i| &sentences[i]).collect();
        let masked = self.mask(&rows, key);
        let noise = Noise::new(self.settings.seed, step as u64, 0);
        let loss = loss(
            &self.model,
            &self.head,
            &masked,
            &Factors::none().with_noise(noise),
            &self.device,
        );
        let shown = loss.clone().inner();
        let mut graph = loss.backward();
        let mut grads = Gradients::new();
        grads.collect("model", &self.model, &mut graph);
        grads.collect("head", &self.head, &mut graph);
        self.update(step, grads);
        report.then(|| scalar(shown))
    }

    fn update(&mut self, step: usize, grads: Gradients<B>) {
        let PretrainSettings {
            steps,
            warmup,
            lr,
            weight_decay,
            clip_norm,
            ..
        } = self.settings;
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup_steps: warmup,
            total_steps: steps,
        };
        let lr = lr * schedule.factor(step + 1);
        let rule = |_: &str, rank: usize| Rule {
            lr,
            decay: if rank > 1 { weight_decay } else { 0.0 },
            selected: None,
        };
        // The norm stays on the device, so that no step waits for it.
        let norm = grads.squared_norm().map(Tensor::sqrt);
        self.optimizer.begin_step(norm.map(|norm| Clip {
            norm,
            limit: clip_norm,
        }));
        self.model = self
            .optimizer
            .apply("model", self.model.clone(), &grads, rule);
        self.head = self
            .optimizer
            .apply("head", self.head.clone(), &grads, rule);
    }

    /// BERT's masking: 80 % of the chosen tokens become `<mask>`, 10 % become a random token, 10 % stay.
    fn mask(&self, rows: &[&Encoded], key: Key) -> Masked {
        let mut inputs = pad(rows, self.model.config().pad_token_id);
        let vocabulary = self.model.config().vocab_size;
        let ordinary = i64::from(self.special.first_ordinary);
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (i, id) in inputs.ids.iter_mut().enumerate() {
            let draw = |part: u64, n: usize| key.index(i as u64).below(part, n);
            let chosen = draw(0, 1_000_000) < (self.settings.mask_share * 1e6) as usize;
            if inputs.mask[i] == 0 || *id < ordinary || !chosen {
                continue;
            }
            places.push(i as i32);
            targets.push(*id as i32);
            match draw(1, 10) {
                0..8 => *id = i64::from(self.special.mask),
                8 => {
                    *id =
                        ordinary + draw(2, vocabulary - self.special.first_ordinary as usize) as i64
                }
                _ => {}
            }
        }
        Masked {
            inputs,
            places,
            targets,
        }
    }

    /// The mean loss per predicted token on held-out sentences. The masks are the same each time.
    pub fn evaluate(&self, sentences: &[Encoded]) -> f64 {
        let (model, head) = (self.model.valid(), self.head.valid());
        let (mut sum, mut count) = (0.0, 0);
        for (i, rows) in sentences.chunks(self.settings.batch).enumerate() {
            let rows: Vec<&Encoded> = rows.iter().collect();
            let masked = self.mask(
                &rows,
                Key::new(self.settings.seed)
                    .name("held out")
                    .index(i as u64),
            );
            let n = masked.targets.len();
            sum += n as f64 * scalar(loss(&model, &head, &masked, &Factors::none(), &self.device));
            count += n;
        }
        sum / count.max(1) as f64
    }

    /// The encoder's and the head's tensors, named as in a RobertaForMaskedLM checkpoint.
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let mut tensors: Vec<_> = self
            .model
            .valid()
            .tensors()
            .into_iter()
            .map(|(name, t)| (format!("roberta.{name}"), t))
            .collect();
        tensors.extend(self.head.valid().tensors());
        tensors
    }
}

fn loss<B: VbLoraBackend>(
    model: &Encoder<B>,
    head: &LmHead<B>,
    masked: &Masked,
    factors: &Factors<B>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let input = EncoderInput::new(&masked.inputs, model.config(), device);
    let hidden = model.forward(&input, factors);
    let [n, t, d] = hidden.dims();
    let ints = |values: &[i32]| {
        Tensor::<B, 1, Int>::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
    };
    let chosen = hidden.reshape([n * t, d]).select(0, ints(&masked.places));
    let scores = log_softmax(head.forward(chosen, &model.embeddings));
    scores
        .gather(1, ints(&masked.targets).unsqueeze_dim(1))
        .mean()
        .neg()
}

fn scalar<B: VbLoraBackend>(tensor: Tensor<B, 1>) -> f64 {
    f64::from(
        tensor
            .into_data()
            .convert::<f32>()
            .into_vec::<f32>()
            .expect("converted to f32")[0],
    )
}
