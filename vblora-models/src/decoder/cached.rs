//! One token at a time over a cache of keys and values.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use vblora::{Factors, backend::VbLoraBackend};

use super::{CausalBatch, CausalInput, CausalLm, Side, kv_cache::KvCache};
use crate::{Error, Result, generate::NextToken};

/// A model that reads prompts and goes on, with an adapter, none, or one for each row.
#[derive(Debug)]
pub struct CachedLm<'a, B: Backend> {
    model: &'a CausalLm<B>,
    /// As given, for the rows of the next prompts.
    all: Factors<B>,
    /// Those of the rows at hand.
    factors: Factors<B>,
    cache: Option<KvCache<B>>,
    /// The tokens of each row, where keys are made again in long texts; empty elsewhere.
    texts: Vec<Vec<u32>>,
    capacity: usize,
    device: B::Device,
    /// Ends the rows once it is set.
    interrupted: Option<&'a AtomicBool>,
    /// True if another step will follow the next call, and probably add the likeliest tokens.
    is_followed: bool,
    ahead: Option<Ahead<B>>,
}

/// A step that the device began before anyone had asked for it. Its tokens are in the cache.
#[derive(Debug)]
struct Ahead<B: Backend> {
    /// The likeliest token of each row.
    tokens: Vec<u32>,
    logits: Tensor<B, 2>,
}

impl<'a, B: VbLoraBackend> CachedLm<'a, B> {
    /// Room for `capacity` tokens a row, at most the model's positions.
    pub fn new(
        model: &'a CausalLm<B>,
        factors: Factors<B>,
        capacity: usize,
        device: &B::Device,
    ) -> Self {
        Self {
            model,
            all: factors.clone(),
            factors,
            cache: None,
            texts: Vec::new(),
            capacity: capacity.min(model.config.max_positions),
            device: device.clone(),
            interrupted: None,
            is_followed: false,
            ahead: None,
        }
    }

    /// The same model, whose rows are broken off between two tokens once the flag is set.
    #[must_use]
    pub fn interrupted_by(self, flag: &'a AtomicBool) -> Self {
        Self {
            interrupted: Some(flag),
            ..self
        }
    }

    /// Reads whole texts into a new cache; gives the logits after the last column.
    fn read_all(&mut self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let batch = CausalBatch::pad(texts, 0, Side::Left);
        let starts = texts.iter().map(|text| batch.columns - text.len());
        // So that the shortest row's text, which starts last, can be as long as any.
        let padding = starts.clone().max().unwrap_or(0);
        let config = &self.model.config;
        let width = config.num_kv_heads * config.head_size;
        // Two caches are never alive at once.
        self.ahead = None;
        self.cache = None;
        self.cache = Some(KvCache::new(
            config.num_layers,
            starts.collect(),
            [self.capacity + padding, width],
            &self.device,
        )?);
        self.read(&batch)
    }

    /// Adds a token to each row's text. Returns true if a text turns by other frequencies from now on, so that its keys must be made again.
    fn grows_long(&mut self, tokens: &[u32]) -> bool {
        let texts = self.texts.iter_mut().zip(tokens);
        texts.for_each(|(text, &token)| text.push(token));
        let from = self.model.config.long_from();
        let has_grown = |text: &Vec<u32>| from.is_some_and(|from| text.len() == from + 1);
        self.texts.iter().any(has_grown)
    }

    /// Reads tokens after those remembered; gives the logits after the last column.
    fn read(&mut self, batch: &CausalBatch) -> Result<Vec<f32>> {
        let logits = self.ask(batch, None)?;
        self.give(logits)
    }

    /// Asks for the logits after the last column. Tokens that the device knows take the place of the batch's.
    fn ask(
        &mut self,
        batch: &CausalBatch,
        tokens: Option<Tensor<B, 2, Int>>,
    ) -> Result<Tensor<B, 2>> {
        let length = self.longest() + batch.columns;
        if length > self.capacity {
            return Err(Error::TooLong {
                length,
                limit: self.capacity,
            });
        }
        let cache = self.cache.as_mut().expect("started");
        let config = &self.model.config;
        let mut input = CausalInput::after(cache.filled, batch, config, &self.device)?;
        if let Some(tokens) = tokens {
            input.ids = tokens;
        }
        let hidden = self.model.run(&input, Some(cache), &self.factors, |_| ());
        cache.filled += batch.columns;
        let [n, t, d] = hidden.dims();
        let last = hidden.narrow(1, t - 1, 1).reshape([n, d]);
        Ok(self.model.adapted_logits(last, &self.factors))
    }

    /// Tokens of the longest row.
    fn longest(&self) -> usize {
        let cache = self.cache.as_ref().expect("started");
        cache.filled - cache.starts.iter().min().copied().unwrap_or(0)
    }

    /// Waits for logits. If another step will follow, the device gets it first, with the likeliest tokens.
    fn give(&mut self, logits: Tensor<B, 2>) -> Result<Vec<f32>> {
        // Where keys may have to be made again, the host must know the tokens first.
        let goes_on = std::mem::take(&mut self.is_followed)
            && self.texts.is_empty()
            && self.longest() < self.capacity;
        let Some(read_later) = B::read_later().filter(|_| goes_on) else {
            return read_back(logits);
        };
        let [rows, _] = logits.dims();
        let logits = logits.into_primitive().tensor();
        let likeliest = B::top_k_indices(logits.clone(), 1);
        let reading = read_later(vec![logits], vec![likeliest.clone()]);
        let batch = self.next_column(&vec![0; rows]);
        let next = self.ask(&batch, Some(Tensor::from_primitive(likeliest)))?;
        let [logits, tokens] = <[TensorData; 2]>::try_from(reading().map_err(failed)?)
            .expect("as many as were asked for");
        let tokens = tokens.convert::<i32>().into_vec::<i32>();
        let tokens = tokens.map_err(|e| failed(format!("{e:?}")))?;
        self.ahead = Some(Ahead {
            tokens: tokens.into_iter().map(|token| token as u32).collect(),
            logits: next,
        });
        values(logits)
    }

    /// Forgets a step that nobody asked for. The next one writes to the same column of the cache.
    fn go_back(&mut self) {
        if self.ahead.take().is_some() {
            self.cache.as_mut().expect("started").filled -= 1;
        }
    }

    /// One more token of each row.
    fn next_column(&self, tokens: &[u32]) -> CausalBatch {
        let cache = self.cache.as_ref().expect("started");
        let starts = cache.starts.iter().map(|&start| start as i64);
        CausalBatch {
            ids: tokens.iter().map(|&id| i64::from(id)).collect(),
            positions: starts
                .clone()
                .map(|start| cache.filled as i64 - start)
                .collect(),
            first: starts.collect(),
            rows: tokens.len(),
            columns: 1,
        }
    }
}

fn failed(reason: String) -> Error {
    Error::from(vblora::Error::DeviceFailed {
        during: "generating".into(),
        reason,
    })
}

fn read_back<B: VbLoraBackend>(logits: Tensor<B, 2>) -> Result<Vec<f32>> {
    let data = logits.try_into_data();
    values(data.map_err(|e| failed(format!("{e:?}")))?)
}

fn values(logits: TensorData) -> Result<Vec<f32>> {
    let values = logits.convert::<f32>().into_vec();
    values.map_err(|e| failed(format!("{e:?}")))
}

impl<B: VbLoraBackend> NextToken for CachedLm<'_, B> {
    fn is_broken_off(&self) -> bool {
        self.interrupted
            .is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn vocabulary(&self) -> usize {
        self.model.config.vocab_size
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<f32>> {
        if let Some(row) = prompts.iter().position(|prompt| prompt.is_empty()) {
            return Err(Error::EmptyText { row });
        }
        self.factors = self.all.clone();
        self.texts = match self.model.config.long_from() {
            Some(_) => prompts.iter().map(|prompt| prompt.to_vec()).collect(),
            None => Vec::new(),
        };
        self.read_all(prompts)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if self.grows_long(tokens) {
            let texts = std::mem::take(&mut self.texts);
            let borrowed: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let logits = self.read_all(&borrowed);
            self.texts = texts;
            return logits;
        }
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.tokens == tokens) {
            return self.give(ahead.logits);
        }
        self.go_back();
        self.read(&self.next_column(tokens))
    }

    fn foresee(&mut self) {
        self.is_followed = true;
    }

    fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.go_back();
        let cache = self.cache.as_mut().expect("started");
        // Beams that stay where they are.
        if rows.iter().copied().eq(0..cache.starts.len()) {
            return Ok(());
        }
        cache.keep(rows, &self.device)?;
        self.factors = self.factors.of_rows(rows);
        if !self.texts.is_empty() {
            self.texts = rows.iter().map(|&row| self.texts[row].clone()).collect();
        }
        Ok(())
    }
}
