//! A training loop by hand: a frozen RoBERTa, VB-LoRA on its query and value maps, and a PEFT directory as output.
//!
//! ```text
//! cargo run --release --example own_training_loop [DIRECTORY]
//! ```
#![forbid(unsafe_code)]

use anyhow::Result;
use burn::{
    backend::{Autodiff, Flex},
    module::AutodiffModule,
    optim::{AdamWConfig, GradientsParams, Optimizer},
};
use vblora::storage::{HostAdapter, peft::PeftAdapter};
use vblora::{Composition, Noise, VbLoraConfig};
use vblora_bench::train::{EncodedSplit, order, with_head};
use vblora_bench::{demo, program::say, tasks::SplitName};
use vblora_models::{
    ClassificationHead, Encoder, EncoderInput, HeadInit, TextTokenizer, encoder, loss,
};

const SEED: u64 = 42;

fn main() -> Result<()> {
    let device = Default::default();
    // For your own model: ModelFiles::open("path/to/roberta-base"), or vblora_models::resolve with a hub id.
    let files = demo::model_files();
    let base = Encoder::<Flex>::load(&files, &device)?.0;
    let base = Encoder::<Autodiff<Flex>>::from_inner(base);
    let tokenizer = TextTokenizer::from_files(&files)?.for_encoder(base.config())?;
    let split = EncodedSplit::new(&demo::split(SplitName::Train)?, &tokenizer, 64)?;

    // The base stays frozen. The optimizers see only the adapter and the head.
    let plan = encoder::targets("qv")?.select(&base.sites())?;
    let config = VbLoraConfig {
        vector_length: 64,
        ..VbLoraConfig::default()
    };
    let mut adapter = config.check(&plan)?.init::<Autodiff<Flex>>(SEED, &device);
    let d = base.config().hidden_size;
    let mut head = ClassificationHead::init(
        base.config().head_form(),
        [d, 2],
        0.1,
        HeadInit::Normal(0.02),
        SEED,
        &device,
    );
    let adamw = AdamWConfig::new().with_weight_decay(0.0);
    let (mut for_adapter, mut for_head) = (adamw.init(), adamw.init());

    let batches = order::shuffled(split.len(), SEED, 1, 32);
    for (step, rows) in batches.iter().enumerate() {
        let batch = split.batch(&rows, base.config().pad_token_id)?;
        let input = EncoderInput::new(&batch.inputs, base.config(), &device);
        // All factors are composed once per step, from one bank.
        let mut composition = Composition::new(&adapter);
        // Dropout draws its noise as a function of seed and step.
        let noise = Noise::new(SEED, step as u64, 0);
        let factors = composition.factors().clone().with_noise(noise);
        let scores = head.forward(base.for_head(&input, &factors), Some(noise));
        let loss = loss(scores, &batch.labels);
        let value = loss.clone().into_scalar();
        say(format!("step {step}: loss {value:.4}"));
        let mut gradients = loss.backward();
        composition.collect(&mut gradients);
        let gradients = GradientsParams::from_grads(gradients, &head);
        head = for_head.step(4e-3, head, gradients);
        let gradients = GradientsParams::from_grads(composition.push_back()?, &adapter);
        adapter = for_adapter.step(1e-2, adapter, gradients);
    }

    let dir = std::env::args().nth(1).unwrap_or("adapter".into());
    let peft = PeftAdapter::new(HostAdapter::TopK(adapter.valid().store()?));
    // The head goes along under the names that the model's family has for it.
    let peft = with_head(peft, &base.config().classifier(), &head.valid().tensors());
    peft.write(dir.as_ref())?;
    say(format!("Written to {dir}, which PEFT loads."));
    Ok(())
}
