//! `cargo xtask checkpoint-sizes`: compares the size of a training checkpoint with all logits and their moments, and with the top-k file.

use anyhow::{Context, Result};
use burn::{
    backend::{Autodiff, Flex},
    module::AutodiffModule,
    tensor::{Tensor, TensorData},
};
use clap::Args;
use vblora::{
    Adapter, AdapterConfig, AnyAdapter, Targets, VbLora, VbLoraConfig,
    count::thousands,
    rng::Key,
    storage::{
        HostAdapter,
        checkpoint::{Form, ParameterState, parameters_to_bytes},
        peft::PeftAdapter,
    },
};
use vblora_bench::{
    program::say,
    recipes::{Recipe, Size},
    tasks::Task,
    train::{AdamW, Gradients, LabelledBatch, Learner, Rule, Trained},
};
use vblora_models::{
    ClassificationHead, DecoderConfig, Encoder, EncoderConfig, HeadForm, HeadInit, Labels,
    PaddedBatch, decoder::sites, encoder, host_tensor,
};

use vblora_bench::commands::progress;

const SEED: u64 = 1;

/// Measure the bytes of checkpoints at RoBERTa-base's and Llama-2-7B's shapes (random weights, flex)
#[derive(Args)]
pub(crate) struct Arguments {
    /// Number of optimizer steps before the checkpoint of RoBERTa-base
    #[arg(long, default_value_t = 200)]
    steps: usize,
    /// Number of optimizer steps before the checkpoint of Llama-2-7B, on random gradients of the factors. Each takes seconds, and all need
    /// 5 GB of memory; 0 leaves Llama-2-7B out
    #[arg(long, default_value_t = 200)]
    llama_steps: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut rows = vec![roberta_base(arguments.steps)?];
    if arguments.llama_steps > 0 {
        rows.push(llama_7b(arguments.llama_steps)?);
    }
    say("| bank and logits of | steps | logits touched | checkpoint | in full | PEFT, top-k |");
    say("| --- | ---: | ---: | ---: | ---: | ---: |");
    rows.iter().for_each(say);
    Ok(())
}

/// The adapter's part of a checkpoint after some steps, as a row of the table.
fn measure(
    name: &str,
    steps: usize,
    adapter: &VbLora<Autodiff<Flex>>,
    optimizer: &AdamW<Flex>,
) -> Result<String> {
    let (_, moments) = optimizer.state();
    let state = |path: &str, tensor: Tensor<Autodiff<Flex>, 2>| -> Result<ParameterState> {
        let moments = moments
            .get(path)
            .with_context(|| format!("{path}: no moments"))?;
        Ok(ParameterState {
            value: host_tensor(tensor.inner()).values,
            moments: Some(moments.to_whole().map(|m| host_tensor(m).values)),
        })
    };
    let path = |end: &str| moments.keys().find(|path| path.ends_with(end));
    let (bank, logits) = (
        path(".bank").context("no bank")?,
        path(".logits").context("no logits")?,
    );
    let states = [
        (bank.as_str(), state(bank, adapter.bank.val())?),
        (logits.as_str(), state(logits, adapter.logits.val())?),
    ];
    let write = |initial: &dyn Fn(&str) -> Option<Vec<f32>>| {
        parameters_to_bytes(states.iter().map(|(path, state)| (*path, state)), initial)
    };
    let (small, forms) =
        write(&|path| (path == logits.as_str()).then(|| adapter.settings().initial_logits(SEED)))?;
    let (full, _) = write(&|_| None)?;
    let Some((_, Form::Touched { elements, of })) = forms.last() else {
        anyhow::bail!("the logits were stored whole: {forms:?}");
    };
    let share = 100.0 * *elements as f64 / *of as f64;
    let [elements, of, steps] = [*elements, *of, steps].map(thousands);
    let [small, full, topk] = [small.len(), full.len(), topk_bytes(adapter)?].map(thousands);
    Ok(format!(
        "| {name} | {steps} | {elements} of {of} ({share:.1} %) | {small} | {full} | {topk} |"
    ))
}

fn topk_bytes(adapter: &VbLora<Autodiff<Flex>>) -> Result<usize> {
    let dir = std::env::temp_dir().join(format!("vblora-sizes-{}", std::process::id()));
    let stored = HostAdapter::TopK(adapter.valid().store()?);
    PeftAdapter::new(stored).write(&dir)?;
    let bytes = std::fs::metadata(dir.join("adapter_model.safetensors"))?.len();
    std::fs::remove_dir_all(&dir)?;
    Ok(bytes as usize)
}

/// Runs real steps on random weights, each on one sentence of 16 tokens.
fn roberta_base(steps: usize) -> Result<String> {
    let device = Default::default();
    let base = Encoder::<Flex>::random(EncoderConfig::roberta_base(), SEED, &device)?;
    let recipe = Recipe::builtin(Size::Base, &Task::mrpc())?;
    let plan = encoder::targets("all")?.select(&base.sites())?;
    let adapter = AdapterConfig::VbLora(recipe.vblora.clone());
    let adapter = Trained::Adapter(Box::new(adapter.init(&plan, SEED, &device)?));
    let head = ClassificationHead::init(
        HeadForm::ROBERTA,
        [768, 2],
        0.1,
        HeadInit::Normal(0.02),
        SEED,
        &device,
    );
    let mut learner: Learner<Flex> = Learner::new(&base, adapter, head, &recipe, SEED, &device);
    let bar = progress::bar(steps as u64, "RoBERTa-base");
    for step in 0..steps {
        learner.step(step, &[sentence(step)], 1.0)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Trained::Adapter(adapter) = learner.trained() else {
        unreachable!("made above")
    };
    let AnyAdapter::VbLora(adapter) = &**adapter else {
        unreachable!("made above")
    };
    measure(
        "RoBERTa-base, all linear maps, h = 90",
        steps,
        adapter,
        learner.optimizer(),
    )
}

fn sentence(step: usize) -> LabelledBatch {
    const TOKENS: usize = 16;
    let key = Key::new(SEED).name("tokens").index(step as u64);
    let inputs = PaddedBatch {
        ids: (0..TOKENS as u64)
            .map(|i| 5 + key.below(i, 50_000) as i64)
            .collect(),
        type_ids: vec![0; TOKENS],
        mask: vec![1; TOKENS],
        rows: 1,
        columns: TOKENS,
    };
    LabelledBatch {
        inputs,
        labels: Labels::Classes(vec![step % 2]),
    }
}

/// Gives every sub-vector of every linear map a random gradient in each step.
fn llama_7b(steps: usize) -> Result<String> {
    let device = Default::default();
    let config = VbLoraConfig {
        bank: 2048,
        ..Default::default()
    };
    let plan = Targets::all_linear().select(&sites(&DecoderConfig::llama_2_7b()))?;
    let mut adapter = config.check(&plan)?.init::<Autodiff<Flex>>(SEED, &device);
    let recipe = Recipe::builtin(Size::Base, &Task::mrpc())?;
    let mut optimizer = AdamW::<Flex>::new(recipe.adam);
    let rule = |path: &str, _: usize| Rule {
        lr: match path.ends_with(".bank") {
            true => recipe.lr.bank,
            false => recipe.lr.logits,
        },
        decay: 0.0,
        selected: path.ends_with(".logits").then_some(config.topk),
    };
    let bar = progress::bar(steps as u64, "Llama-2-7B");
    for step in 0..steps {
        let slab = adapter.slabs().remove(0);
        let shape = slab.dims();
        let gradient = Key::new(SEED).name("gradient").index(step as u64);
        let gradient = gradient.normal(shape[0] * shape[1], 1e-3);
        let gradient = Tensor::from_data(TensorData::new(gradient, shape), &device);
        let mut graph = (slab * gradient).sum().backward();
        let mut grads = Gradients::new();
        grads.collect("adapter", &adapter, &mut graph);
        optimizer.begin_step(None);
        adapter = optimizer.apply("adapter", adapter, &grads, rule);
        bar.inc(1);
    }
    bar.finish_and_clear();
    measure(
        "Llama-2-7B, all linear maps, h = 2,048",
        steps,
        &adapter,
        &optimizer,
    )
}
