//! Text from small random decoders of every family.

use std::ops::ControlFlow;

use vblora::{AdapterSet, Factors, backend::VbLoraBackend, storage::HostAdapter};
use vblora_models::{
    DecoderFamily, Result,
    decoder::{CachedLm, CausalLm},
    generate::{
        BeamSearch, Decoding, Ended, Generated, GenerationConfig, NextToken, Sampling, generate,
    },
};

use crate::support::products;

use super::decoders::{FAMILIES, TEXTS, adapter, model};

/// As many as the model has positions.
const CAPACITY: usize = 24;

/// Rows that end by stop tokens, by length, and at the model's last position.
fn settings() -> Vec<GenerationConfig> {
    let choices = [
        Decoding::Greedy,
        Decoding::Sample(Sampling {
            temperature: 0.7,
            top_k: 20,
            seed: 5,
            ..Sampling::default()
        }),
        Decoding::Beam(BeamSearch {
            beams: 3,
            ..BeamSearch::default()
        }),
    ];
    let of = |decoding| GenerationConfig {
        max_new_tokens: CAPACITY - 5,
        stop_tokens: vec![4, 9],
        no_repeat_ngram_size: 2,
        decoding,
        ..GenerationConfig::default()
    };
    choices.map(of).into()
}

fn run<B: VbLoraBackend>(
    model: &CausalLm<B>,
    factors: &Factors<B>,
    prompts: &[&[u32]],
    config: &GenerationConfig,
    device: &B::Device,
) -> Vec<Generated> {
    let mut decoding = CachedLm::new(model, factors.clone(), CAPACITY, device);
    generate(
        &mut decoding,
        prompts,
        config,
        |_| ControlFlow::Continue(()),
    )
    .unwrap()
}

fn row_of(config: &GenerationConfig, row: usize) -> GenerationConfig {
    let mut config = config.clone();
    if let Decoding::Sample(sampling) = &mut config.decoding {
        sampling.first_row = row as u64;
    }
    config
}

/// Prompts of three lengths, each row with an adapter of its own or none, up to the model's last position: as each row alone, and as
/// each alone with the adapter merged.
pub(crate) fn rows_are_given_what_they_are_given_alone<B: VbLoraBackend>(device: &B::Device) {
    if products(0.0) > 0.0 {
        println!("skipped: products in TF32 are not exact enough for tokens to be the same");
        return;
    }
    let mut ends = Vec::new();
    for family in FAMILIES {
        let model = model::<B>(family, device);
        let mut set = AdapterSet::<B>::new(device.clone());
        for (name, rule, seed) in [("all", "all", 3), ("qv", "qv", 4)] {
            let adapter = adapter(&model, rule, seed, device);
            let codes = HostAdapter::TopK(adapter.store().unwrap());
            set.load(name, &codes).unwrap();
        }
        let stack = set.stack(&["all", "qv"]).unwrap();
        let mixed = stack.assign(&[Some(1), None, Some(0)], device).unwrap();
        let of_rows = [
            set.factors("qv").unwrap(),
            Factors::none(),
            set.factors("all").unwrap(),
        ];
        for config in settings() {
            let together = run(&model, &mixed, &TEXTS, &config, device);
            for (row, (found, factors)) in together.iter().zip(&of_rows).enumerate() {
                let config = row_of(&config, row);
                let prompt = &TEXTS[row..=row];
                let alone = run(&model, factors, prompt, &config, device);
                assert_eq!(found, &alone[0], "{family:?} row {row} {config:?}");
                let merged = model.merged(factors);
                let alone = run(&merged, &Factors::none(), prompt, &config, device);
                assert_eq!(found, &alone[0], "{family:?} row {row} merged {config:?}");
                ends.push(found.ended);
            }
        }
    }
    // The cases are cases.
    for end in [Ended::StopToken, Ended::Length, Ended::Capacity] {
        assert!(ends.contains(&end), "{end:?} in {ends:?}");
    }
}

/// A model that keeps the logits that it gives, and may hear nothing of what is foreseen.
struct Heard<'a, B: VbLoraBackend> {
    model: CachedLm<'a, B>,
    foresees: bool,
    logits: Vec<Vec<f32>>,
}

impl<B: VbLoraBackend> NextToken for Heard<'_, B> {
    fn vocabulary(&self) -> usize {
        self.model.vocabulary()
    }

    fn capacity(&self) -> usize {
        self.model.capacity()
    }

    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>> {
        self.logits.push(self.model.start(prompts)?);
        Ok(self.logits[self.logits.len() - 1].clone())
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.logits.push(self.model.step(tokens)?);
        Ok(self.logits[self.logits.len() - 1].clone())
    }

    fn foresee(&mut self) {
        if self.foresees {
            self.model.foresee();
        }
    }

    fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.model.keep(rows)
    }
}

/// Steps that a device begins early give the logits of steps that it begins late, to the bit. Rows end one by one here, and a setting
/// forbids likeliest tokens.
pub(crate) fn foreseen_steps_change_nothing<B: VbLoraBackend>(device: &B::Device) {
    for family in [DecoderFamily::Llama, DecoderFamily::Gpt2] {
        let model = model::<B>(family, device);
        for no_repeat_ngram_size in [0, 2] {
            let config = GenerationConfig {
                no_repeat_ngram_size,
                ..settings().swap_remove(0)
            };
            let [early, late] = [true, false].map(|foresees| {
                let mut heard = Heard {
                    model: CachedLm::new(&model, Factors::none(), CAPACITY, device),
                    foresees,
                    logits: Vec::new(),
                };
                let found = generate(&mut heard, &TEXTS, &config, |_| ControlFlow::Continue(()));
                (found.unwrap(), heard.logits)
            });
            assert_eq!(early, late, "{family:?} {no_repeat_ngram_size}");
        }
    }
}
