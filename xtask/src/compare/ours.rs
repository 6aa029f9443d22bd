//! Our side of the comparison.

use std::{
    marker::PhantomData,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use burn::{
    backend::Autodiff,
    tensor::{Distribution, FloatDType, Tensor},
};
use vblora::{
    AdapterConfig, AnyAdapter, Composition, Factors, backend::VbLoraBackend, ops::frozen_product,
    rng::Key,
};
use vblora_bench::{
    recipes::{Recipe, Size},
    tasks::Task as GlueTask,
    train::{
        Classification, LabelledBatch, Learner, Objective, StepSum, Trained,
        causal::{Causal, EncodedTexts},
    },
};
use vblora_models::{
    BaseDtype, ClassificationHead, ComputeDtype, DecoderConfig, Encoder as FrozenEncoder,
    EncoderConfig, EncoderInput, HeadInit, Labels, Nf4Settings, PaddedBatch,
    decoder::{self, CachedLm, CausalInput, CausalLm},
    encoder,
    generate::{GenerationConfig, generate},
};

use super::work::{
    ADDED, Decoder, Dtype, Encoder, PROMPT, Pass, Shape, Shapes, Task, Work, prompts,
};

/// The pause of the thread that looks at the device's memory.
const BETWEEN_LOOKS: Duration = Duration::from_micros(50);

/// Runs works on one device.
pub(super) struct Ours<B: VbLoraBackend> {
    device: B::Device,
    /// The last encoder that was built. Works of one encoder follow each other, and a large one takes long to initialize.
    built: Option<FrozenEncoder<B>>,
    /// The last decoder that was built.
    decoder: Option<CausalLm<B>>,
    /// The number type of products with a base in 4 bits.
    compute: ComputeDtype,
}

/// A work that is ready to run.
pub(super) enum Job<B: VbLoraBackend> {
    Forward(Box<(FrozenEncoder<B>, EncoderInput<B>)>),
    Step(Box<Steps<B, Classification>>),
    Score(Box<(CausalLm<B>, CausalInput<B>)>),
    CausalStep(Box<Steps<B, Causal>>),
    Decode(Box<CausalLm<B>>, Vec<Vec<u32>>, B::Device),
    Compose(Box<Composing<B>>),
    Product([Tensor<B, 2>; 2]),
}

impl<B: VbLoraBackend> Ours<B> {
    pub(super) fn new(device: B::Device, compute: ComputeDtype) -> Self {
        Self {
            device,
            built: None,
            decoder: None,
            compute,
        }
    }

    /// Prepares a work. The device memory of the previous work is released first.
    pub(super) fn prepare(&mut self, work: Work) -> Result<Job<B>> {
        self.release(work);
        match work.task {
            Task::Encoder(encoder, pass, shape) => self.encoder(encoder, pass, shape, work.dtype),
            Task::Decoder(decoder, pass, shape) => {
                self.decoder_pass(decoder, pass, shape, work.dtype)
            }
            Task::Decode(decoder, rows) => {
                let model = self.decoder(decoder, work.dtype)?;
                let (prompts, device) = (prompts(rows), self.device.clone());
                Ok(Job::Decode(Box::new(model), prompts, device))
            }
            Task::Compose(shapes) => Ok(Job::Compose(Box::new(Composing::new(
                shapes,
                &self.device,
            )?))),
            Task::Product(n) => self.product(n, work.dtype),
        }
    }

    fn release(&mut self, next: Work) {
        let wanted = match next.task {
            Task::Encoder(encoder, ..) => Some(encoder_config(encoder, next.dtype, self.compute)),
            _ => None,
        };
        self.built
            .take_if(|base| Some(base.config()) != wanted.as_ref());
        let wanted = match next.task {
            Task::Decode(decoder, _) | Task::Decoder(decoder, ..) => {
                Some(decoder_config(decoder, next.dtype, self.compute))
            }
            _ => None,
        };
        self.decoder
            .take_if(|model| Some(model.config()) != wanted.as_ref());
        B::memory_cleanup(&self.device);
    }

    fn decoder(&mut self, decoder: Decoder, dtype: Dtype) -> Result<CausalLm<B>> {
        let model = match self.decoder.take() {
            Some(model) => model,
            None => {
                let config = decoder_config(decoder, dtype, self.compute);
                match decoder.is_large() {
                    true => CausalLm::drawn(config, &self.device)?,
                    false => CausalLm::random(config, 1, &self.device)?,
                }
            }
        };
        self.decoder = Some(model.clone());
        Ok(model)
    }

    fn encoder(
        &mut self,
        encoder: Encoder,
        pass: Pass,
        shape: Shape,
        dtype: Dtype,
    ) -> Result<Job<B>> {
        let base = match self.built.take() {
            Some(base) => base,
            None => FrozenEncoder::random(
                encoder_config(encoder, dtype, self.compute),
                1,
                &self.device,
            )?,
        };
        self.built = Some(base.clone());
        let inputs = shape.batch(base.config().pad_token_id);
        if pass == Pass::FrozenForward {
            let input = EncoderInput::new(&inputs, base.config(), &self.device);
            return Ok(Job::Forward(Box::new((base, input))));
        }
        let adapter = encoder.adapter(pass);
        let (learner, batch) = encoder_step(&base, adapter, inputs, &self.device)?;
        Ok(Job::Step(Box::new(Steps::new(learner, batch))))
    }

    fn decoder_pass(
        &mut self,
        decoder: Decoder,
        pass: Pass,
        shape: Shape,
        dtype: Dtype,
    ) -> Result<Job<B>> {
        let base = self.decoder(decoder, dtype)?;
        ensure!(!shape.is_padded(), "decoders are compared without padding");
        let inputs = shape.batch(0);
        let ids = inputs.ids.iter().map(|&id| id as u32 % 30_000);
        let ids: Vec<u32> = ids.collect();
        let texts = ids.chunks(inputs.columns).map(|ids| (ids.to_vec(), 1));
        let texts = EncodedTexts::from_tokens(texts, inputs.columns);
        let rows: Vec<_> = (0..inputs.rows).map(|row| vec![row]).collect();
        let batch = texts.batch(&rows, 0);
        let Some((adapter, targets)) = decoder.adapter(pass) else {
            let input = CausalInput::new(&batch.inputs, base.config(), &self.device)?;
            return Ok(Job::Score(Box::new((base, input))));
        };
        let plan = decoder::targets(targets)?.select(&base.sites())?;
        let adapter: AnyAdapter<Autodiff<B>> = adapter.init(&plan, 1, &self.device)?;
        let mut recipe = Recipe::builtin(Size::Base, &GlueTask::mrpc())?;
        recipe.text.recompute = shape.is_recomputed();
        let trained = Trained::Adapter(Box::new(adapter));
        let learner = Learner::new(&base, trained, PhantomData, &recipe, 1, &self.device);
        Ok(Job::CausalStep(Box::new(Steps::new(learner, batch))))
    }

    fn product(&self, n: usize, dtype: Dtype) -> Result<Job<B>> {
        base_dtype(dtype, self.compute).check::<B>(&self.device)?;
        let float = match dtype {
            Dtype::F32 => FloatDType::F32,
            Dtype::Bf16 => FloatDType::BF16,
            Dtype::Nf4 => bail!("a product has no base that could be in 4 bits"),
        };
        let draw =
            || Tensor::<B, 2>::random([n, n], Distribution::Default, &self.device).cast(float);
        Ok(Job::Product([draw(), draw()]))
    }

    /// Milliseconds for `repetitions` of the job, until the device has finished.
    pub(super) fn time(&self, job: &mut Job<B>, repetitions: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..repetitions {
            job.run()?;
        }
        B::sync(&self.device).map_err(|e| anyhow!("the device failed: {e:?}"))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

impl<B: VbLoraBackend> Ours<B> {
    /// The most MiB that the job's tensors take on the device, seen by a thread that looks while the repetitions run. `None` if the backend
    /// does not count them.
    pub(super) fn allocated(&self, job: &mut Job<B>, repetitions: usize) -> Result<Option<f64>> {
        let Some(meter) = B::memory_meter(&self.device) else {
            return Ok(None);
        };
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let meter = meter;
                let mut most = None;
                while !is_done.load(Ordering::Relaxed) {
                    most = most.max(meter());
                    thread::sleep(BETWEEN_LOOKS);
                }
                most
            });
            let ran = self.time(job, repetitions);
            is_done.store(true, Ordering::Relaxed);
            let most = watch.join().map_err(|_| anyhow!("the meter failed"))?;
            ran.map(|_| most.map(|bytes| bytes as f64 / f64::from(1 << 20)))
        })
    }
}

impl<B: VbLoraBackend> Job<B> {
    fn run(&mut self) -> Result<()> {
        match self {
            Self::Forward(job) => drop(job.0.forward(&job.1, &Factors::none())),
            Self::Step(job) => job.run()?,
            Self::Score(job) => {
                let hidden = job.0.forward(&job.1, &Factors::none());
                let [n, t, d] = hidden.dims();
                drop(job.0.logits(hidden.reshape([n * t, d])));
            }
            Self::CausalStep(job) => job.run()?,
            Self::Decode(model, prompts, device) => decode(model, prompts, device)?,
            Self::Compose(job) => job.run()?,
            Self::Product([a, b]) => drop(frozen_product(a.clone(), b.clone())),
        }
        Ok(())
    }
}

/// Training steps over one batch, begun early as in a training.
pub(super) struct Steps<B: VbLoraBackend, O: Objective<B>> {
    learner: Learner<B, O>,
    batch: [O::Batch; 1],
    /// The number of the next step, and its gradients if a GPU has begun it.
    next: (usize, Option<StepSum<B>>),
}

impl<B: VbLoraBackend, O: Objective<B>> Steps<B, O> {
    fn new(learner: Learner<B, O>, batch: O::Batch) -> Self {
        Self {
            learner,
            batch: [batch],
            next: (1, None),
        }
    }

    fn run(&mut self) -> Result<()> {
        let Self {
            learner,
            batch,
            next,
        } = self;
        let (step, begun) = (next.0, next.1.take());
        let sum = match begun {
            Some(sum) => sum,
            None => learner.gradients(step, batch)?,
        };
        let (report, begun) = learner.finish_then(sum, 1.0, |learner| {
            let begins = learner.begins_early();
            begins.then(|| learner.gradients(step + 1, batch))
        })?;
        ensure!(report.is_finite(), "step {step}: {report:?}");
        *next = (step + 1, begun.flatten().transpose()?);
        Ok(())
    }
}

/// The learner and the batch with labels for a training pass of an encoder.
pub(crate) fn encoder_step<B: VbLoraBackend>(
    base: &FrozenEncoder<B>,
    adapter: Option<(AdapterConfig, &str)>,
    inputs: PaddedBatch,
    device: &B::Device,
) -> Result<(Learner<B>, LabelledBatch)> {
    let (adapter, targets) = adapter.ok_or_else(|| anyhow!("a forward pass trains nothing"))?;
    let plan = encoder::targets(targets)?.select(&base.sites())?;
    let adapter: AnyAdapter<Autodiff<B>> = adapter.init(&plan, 1, device)?;
    let mut recipe = Recipe::builtin(Size::Base, &GlueTask::mrpc())?;
    recipe.head.dropout = 0.0;
    let d = base.config().hidden_size;
    let head = ClassificationHead::init(
        base.config().head_form(),
        [d, 2],
        0.0,
        HeadInit::Normal(0.02),
        1,
        device,
    );
    let trained = Trained::Adapter(Box::new(adapter));
    let learner = Learner::new(base, trained, head, &recipe, 1, device);
    let labels = Labels::Classes((0..inputs.rows).map(|row| row % 2).collect());
    Ok((learner, LabelledBatch { inputs, labels }))
}

/// Generates greedily after each prompt.
fn decode<B: VbLoraBackend>(
    model: &CausalLm<B>,
    prompts: &[Vec<u32>],
    device: &B::Device,
) -> Result<()> {
    let mut cached = CachedLm::new(model, Factors::none(), PROMPT + ADDED, device);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let settings = GenerationConfig {
        max_new_tokens: ADDED,
        ..GenerationConfig::default()
    };
    let texts = generate(&mut cached, &prompts, &settings, |_| {
        ControlFlow::Continue(())
    })?;
    ensure!(texts.iter().all(|text| text.tokens.len() == ADDED));
    Ok(())
}

/// Composes all factors of an adapter, and propagates given gradients back to bank and logits.
pub(super) struct Composing<B: VbLoraBackend> {
    adapter: AnyAdapter<Autodiff<B>>,
    /// One gradient for every down factor and every up factor.
    grads: Vec<(String, [Tensor<B, 2>; 2])>,
}

impl<B: VbLoraBackend> Composing<B> {
    fn new(shapes: Shapes, device: &B::Device) -> Result<Self> {
        let (plan, config) = shapes.vblora()?;
        let rank = config.rank;
        let adapter = AdapterConfig::VbLora(config).init(&plan, 1, device)?;
        let draw = |name: &str, shape: [usize; 2]| {
            let values = Key::new(2).name(name).normal(shape[0] * shape[1], 1e-3);
            Tensor::<B, 1>::from_floats(values.as_slice(), device).reshape(shape)
        };
        let grads = plan.sites().iter().map(|site| {
            let down = draw(&site.name, [site.d_in, rank]);
            let up = draw(&site.name, [rank, site.d_out]);
            (site.name.clone(), [down, up])
        });
        Ok(Self {
            grads: grads.collect(),
            adapter,
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut composition = Composition::new(&self.adapter);
        let loss = self.grads.iter().filter_map(|(name, [down, up])| {
            let pair = composition.factors().get(name)?;
            let given = |grad: &Tensor<B, 2>| Tensor::from_inner(grad.clone());
            let (down, up) = (pair.down.clone() * given(down), pair.up.clone() * given(up));
            Some(down.sum() + up.sum())
        });
        let loss = loss
            .reduce(|a, b| a + b)
            .ok_or_else(|| anyhow!("an adapter without sites"))?;
        composition.collect(&mut loss.backward());
        composition.push_back()?;
        Ok(())
    }
}

/// The number type of products with a base in 4 bits, by the kind of device.
pub(crate) fn compute_dtype(is_gpu: bool) -> ComputeDtype {
    match is_gpu {
        true => ComputeDtype::Bf16,
        false => ComputeDtype::F32,
    }
}

fn base_dtype(dtype: Dtype, compute: ComputeDtype) -> BaseDtype {
    match dtype {
        Dtype::F32 => BaseDtype::F32,
        Dtype::Bf16 => BaseDtype::Bf16,
        Dtype::Nf4 => BaseDtype::Nf4(Nf4Settings {
            double_quant: true,
            compute,
        }),
    }
}

pub(crate) fn encoder_config(
    encoder: Encoder,
    dtype: Dtype,
    compute: ComputeDtype,
) -> EncoderConfig {
    EncoderConfig {
        base_dtype: base_dtype(dtype, compute),
        ..encoder.config()
    }
}

pub(crate) fn decoder_config(
    decoder: Decoder,
    dtype: Dtype,
    compute: ComputeDtype,
) -> DecoderConfig {
    DecoderConfig {
        base_dtype: base_dtype(dtype, compute),
        ..decoder.config()
    }
}
