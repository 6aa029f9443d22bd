//! Frozen transformers whose linear maps take VB-LoRA adapters.
//!
//! The crate turns the files of a Hugging Face model into what training, generation and merging need. It knows no task and no training.
//!
//! | part | what it holds |
//! | --- | --- |
//! | [`ModelFiles`], [`resolve`] | a directory, files in the binary, or a hub id |
//! | [`EncoderConfig`], [`DecoderConfig`] | `config.json`, checked; of a decoder its features |
//! | [`encoder`], [`decoder`] | the models: every encoder and every causal model ([`Family`] and [`DecoderFamily`] list the families) |
//! | [`ClassificationHead`], [`LmHead`] | what stands on an encoder |
//! | [`generate`] | greedy and sampled rows, beam search, stops, text as it grows |
//! | [`TextTokenizer`], [`ChatTemplate`], [`template`] | text to token ids, conversations to prompts, templates within limits |
//! | [`Checkpoint`], [`Loader`], [`save_model`] | safetensors weights, in which every tensor is used or reported |
//! | [`WeightSource`], [`RandomWeights`] | where a model's weights come from |
//! | [`limits`] | the limits of files and settings |
//!
//! # A model, an adapter, a text
//!
//! ```
//! use std::ops::ControlFlow;
//! use vblora::{Adapter, VbLoraConfig};
//! use vblora_models::{
//!     DecoderConfig,
//!     decoder::{CachedLm, CausalBatch, CausalInput, CausalLm, Side, targets},
//!     generate::{GenerationConfig, generate},
//! };
#![cfg_attr(feature = "flex", doc = "type B = burn::backend::Flex;")]
#![cfg_attr(not(feature = "flex"), doc = "type B = burn::backend::NdArray;")]
//!
//! // `CausalLm::load(&ModelFiles::open(folder)?, &device)?` reads a model from files; this one is a tiny Llama with random weights.
//! let device = Default::default();
//! let config = DecoderConfig {
//!     hidden_size: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2, head_size: 8, intermediate_size: 64, vocab_size: 100,
//!     ..DecoderConfig::llama_2_7b()
//! };
//! let model = CausalLm::<B>::random(config, 1, &device)?;
//!
//! let plan = targets("qv")?.select(&model.sites())?;
//! let settings = VbLoraConfig { bank: 24, vector_length: 16, ..Default::default() };
//! let factors = settings.check(&plan)?.init::<B>(2, &device).factors();
//!
//! let prompt: &[u32] = &[1, 5, 9];
//! let input = CausalInput::new(&CausalBatch::pad(&[prompt], 0, Side::Right), model.config(), &device)?;
//! assert_eq!(model.forward(&input, &factors).dims(), [1, 3, 32]);
//!
//! let mut cached = CachedLm::new(&model, factors, 16, &device);
//! let settings = GenerationConfig { max_new_tokens: 4, ..Default::default() };
//! let texts = generate(&mut cached, &[prompt], &settings, |_| ControlFlow::Continue(()))?;
//! assert_eq!(texts[0].tokens.len(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing here panics on bad files. Every failure is an [`Error`] that names the file and the tensor, field or token at fault.
#![forbid(unsafe_code)]

mod chat;
mod config;
mod contain;
mod convert;
pub mod decoder;
mod dtype;
pub mod encoder;
mod error;
mod files;
pub mod generate;
mod heads;
mod hub;
mod lm_head;
mod notice;
mod parts;
mod source;
pub mod template;
mod tokenizer;
mod upload;
mod weights;

/// Limits of `config.json`, tokenizer files and generation. `docs/limits.md` lists all limits.
pub mod limits {
    pub use crate::{
        config::{MAX_LAYERS, MAX_ROWS, MAX_WEIGHT_VALUES, MAX_WIDTH},
        files::MAX_TOKENIZER_BYTES,
        generate::{MAX_BEAMS, MAX_NEW_TOKENS},
    };
}

pub use chat::{Answer, ChatTemplate, Message, Rendered};
pub use config::{
    Activation, AttentionScale, ClassifierNames, DecoderConfig, DecoderFamily, EmbeddingScale,
    EncoderConfig, EncoderPositions, Family, HeadActivation, HeadForm, LayerSet, Layout, Mlp,
    NormForm, Pooling, Positions, QkNorm, RelativeBuckets, RopeScaling, RotaryConfig, RotaryLayers,
    stop_tokens,
};
pub use contain::contain;
pub use convert::{Converted, DecodedDtype, dequantize, quantize};
pub use dtype::{BaseDtype, ComputeDtype, Nf4Settings};
pub use encoder::{Encoder, EncoderInput, Padding};
pub use error::{Error, Misshapen, Result};
pub use files::{FileReader, ModelFiles};
pub use heads::{ClassificationHead, HeadInit, Labels, loss};
pub use hub::{resolve, resolve_config};
pub use lm_head::LmHead;
pub use parts::{FrozenLayerNorm, FrozenNorm, FrozenRmsNorm, TokenEmbedding};
pub use source::{RandomWeights, WeightSource};
pub use tokenizer::{Continued, Encoded, Marked, PaddedBatch, TextTokenizer, pad};
pub use upload::host_tensor;
pub use weights::{
    Checkpoint, HostTensor, LoadReport, Loader, MapWeight, SIDE_FILES, SaveDtype, SavedTensors,
    config_with, save_config, save_model, save_safetensors, save_tensors,
};
