//! A base in 4 bits beside the same base in f32: greedy decoding of one row, and training steps. Weights are random. The two take turns, so
//! that another load on the machine meets both.
//!
//! `cargo bench -p vblora-bench --bench four_bits`, or with the names of some cases after `--`
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "a program; the table is output"
)]

use std::{ops::ControlFlow, time::Instant};

use burn::{
    backend::{Autodiff, Flex},
    tensor::Tensor,
};
use vblora::{Composition, Factors, SitePlan, VbLora, VbLoraConfig};
use vblora_models::{
    BaseDtype, DecoderConfig, Encoder, EncoderConfig, EncoderInput, Nf4Settings, PaddedBatch,
    decoder::{CachedLm, CausalBatch, CausalInput, CausalLm, Side, sites, targets},
    encoder,
    generate::{GenerationConfig, generate},
};

#[global_allocator]
static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;

type Ad = Autodiff<Flex>;

/// The two bases.
fn dtypes() -> [BaseDtype; 2] {
    [BaseDtype::F32, BaseDtype::Nf4(Nf4Settings::default())]
}

/// Runs both in turns. Prints the median times in milliseconds, and the median of the ratios of neighbours.
fn compare(name: &str, pairs: usize, mut runs: [Box<dyn FnMut()>; 2]) {
    let mut time = |i: usize| {
        let start = Instant::now();
        runs[i]();
        start.elapsed().as_secs_f64() * 1e3
    };
    time(0);
    time(1);
    let found: Vec<[f64; 2]> = (0..pairs).map(|_| [time(0), time(1)]).collect();
    let median = |of: &dyn Fn(&[f64; 2]) -> f64| {
        let mut values: Vec<f64> = found.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[pairs / 2]
    };
    println!(
        "{name}: f32 {:.1} ms, NF4 {:.1} ms, f32 / NF4 {:.3} (medians of {pairs} pairs)",
        median(&|times| times[0]),
        median(&|times| times[1]),
        median(&|times| times[0] / times[1]),
    );
}

/// Greedy decoding from one token on.
fn decode(name: &str, tokens: usize, pairs: usize, config: &DecoderConfig) {
    let device = Default::default();
    let runs = dtypes().map(|base_dtype| {
        let config = DecoderConfig {
            base_dtype,
            ..config.clone()
        };
        let model = CausalLm::<Flex>::random(config, 1, &device).expect("a model");
        let settings = GenerationConfig {
            max_new_tokens: tokens,
            ..GenerationConfig::default()
        };
        let run = move || {
            let mut cached =
                CachedLm::new(&model, Factors::none(), tokens + 1, &Default::default());
            let go_on = |_| ControlFlow::Continue(());
            generate(&mut cached, &[&[1]], &settings, go_on).expect("tokens");
        };
        Box::new(run) as Box<dyn FnMut()>
    });
    compare(name, pairs, runs);
}

fn adapter(plan: &SitePlan) -> VbLora<Ad> {
    let settings = VbLoraConfig {
        bank: 90,
        vector_length: 64,
        ..VbLoraConfig::default()
    };
    let checked = settings.check(plan).expect("fits");
    checked.init(1, &Default::default())
}

/// A step forward and backward, without the optimizer.
fn step(adapter: &VbLora<Ad>, loss: impl Fn(&Factors<Ad>) -> Tensor<Ad, 1>) {
    let mut step = Composition::new(adapter);
    let factors = step.factors().clone();
    step.collect(&mut loss(&factors).backward());
    step.push_back().map(drop).expect("gradients");
}

/// Rows of `columns` tokens.
fn ids(rows: usize, columns: usize) -> Vec<Vec<u32>> {
    let id = |i: usize| 5 + (i * 7919 % 20_000) as u32;
    let row = |row: usize| (0..columns).map(|i| id(row * columns + i)).collect();
    (0..rows).map(row).collect()
}

fn train_decoder(name: &str, [rows, columns]: [usize; 2], pairs: usize, config: &DecoderConfig) {
    let device = Default::default();
    let plan = targets("all").expect("targets");
    let plan = plan.select(&sites(config)).expect("sites");
    let runs = dtypes().map(|base_dtype| {
        let config = DecoderConfig {
            base_dtype,
            ..config.clone()
        };
        let model = CausalLm::<Ad>::random(config, 1, &device).expect("a model");
        let ids = ids(rows, columns);
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = CausalBatch::pad(&ids, 0, Side::Right);
        let input = CausalInput::new(&batch, model.config(), &device).expect("a batch");
        let adapter = adapter(&plan);
        let run = move || step(&adapter, |factors| model.forward(&input, factors).mean());
        Box::new(run) as Box<dyn FnMut()>
    });
    compare(name, pairs, runs);
}

fn train_encoder(name: &str, [rows, columns]: [usize; 2], pairs: usize) {
    let device = Default::default();
    let runs = dtypes().map(|base_dtype| {
        let config = EncoderConfig {
            base_dtype,
            ..EncoderConfig::roberta_base().without_dropout()
        };
        let model = Encoder::<Ad>::random(config, 1, &device).expect("a model");
        let plan = encoder::targets("all").expect("targets");
        let plan = plan.select(&model.sites()).expect("sites");
        let cells = rows * columns;
        let batch = PaddedBatch {
            ids: ids(rows, columns)
                .concat()
                .into_iter()
                .map(i64::from)
                .collect(),
            type_ids: vec![0; cells],
            mask: vec![1; cells],
            rows,
            columns,
        };
        let adapter = adapter(&plan);
        let run = move || {
            let input = EncoderInput::new(&batch, model.config(), &Default::default());
            step(&adapter, |factors| model.forward(&input, factors).mean());
        };
        Box::new(run) as Box<dyn FnMut()>
    });
    compare(name, pairs, runs);
}

/// One layer, and next to no head.
fn llama_layer() -> DecoderConfig {
    DecoderConfig {
        num_layers: 1,
        vocab_size: 64,
        ..DecoderConfig::llama_2_7b()
    }
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = asked.iter().filter(|name| !name.starts_with('-')).collect();
    let wanted =
        |name: &&str| names.is_empty() || names.iter().any(|asked| name.contains(asked.as_str()));
    let smollm2 = DecoderConfig::smollm2_135m;
    // The operations run in the pool, as in the program.
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    pool.install(|| {
        if let Some(name) = Some("decode-7b-layer").filter(wanted) {
            decode(name, 4, 31, &llama_layer());
        }
        if let Some(name) = Some("decode-smollm2-135m").filter(wanted) {
            decode(name, 8, 41, &smollm2());
        }
        if let Some(name) = Some("train-smollm2-135m").filter(wanted) {
            train_decoder(name, [4, 128], 15, &smollm2());
        }
        if let Some(name) = Some("train-roberta-base").filter(wanted) {
            train_encoder(name, [8, 128], 15);
        }
    });
}
