//! Frozen transformers whose linear maps are sites for VB-LoRA adapters.
//!
//! This crate turns the files of a Hugging Face model into what training needs, and knows no task:
//!
//! - [`ModelFiles`]: a directory, or files bundled in the binary; [`resolve`] also takes a hub id.
//! - [`EncoderConfig`]: `config.json` of RoBERTa and BERT; [`DecoderConfig`]: of GPT-2, Llama, Mistral and Gemma.
//! - [`Roberta`] and [`decoder::CausalLm`]: the models; [`generate`]: text from the latter.
//! - [`TextTokenizer`]: text to token ids, truncated and padded.
//! - [`ChatTemplate`]: a conversation to the text of a prompt; [`stop_tokens`]: what ends the answer. [`template`]: both this and the templates
//!   of data run within limits.
//! - [`Checkpoint`] and [`Loader`]: safetensors weights, every tensor used or reported.
//!
//! Nothing here panics on bad files: every failure is an [`Error`] that names the file and the
//! tensor, field or token at fault.
#![forbid(unsafe_code)]

mod chat;
mod config;
mod contain;
pub mod decoder;
mod dtype;
mod error;
mod files;
pub mod generate;
mod heads;
mod hub;
mod lm_head;
mod notice;
mod parts;
pub mod roberta;
mod source;
pub mod template;
mod tokenizer;
mod upload;
mod weights;

/// What `config.json`, tokenizer files and generation are held to. `docs/limits.md` lists all limits.
pub mod limits {
    pub use crate::{
        config::{MAX_LAYERS, MAX_ROWS, MAX_WEIGHT_VALUES, MAX_WIDTH},
        files::MAX_TOKENIZER_BYTES,
        generate::{MAX_BEAMS, MAX_NEW_TOKENS},
    };
}

pub use chat::{ChatTemplate, Message};
pub use config::{Activation, DecoderConfig, DecoderFamily, EncoderConfig, Family, stop_tokens};
pub use dtype::BaseDtype;
pub use error::{Error, Misshapen, Result};
pub use files::{FileReader, ModelFiles};
pub use heads::{ClassificationHead, HeadInit, Labels, head_parameters, loss};
pub use hub::{resolve, resolve_config};
pub use lm_head::LmHead;
pub use parts::{FrozenLayerNorm, FrozenRmsNorm, TokenEmbedding};
pub use roberta::{EncoderInput, Padding, Roberta};
pub use source::{RandomWeights, WeightSource};
pub use tokenizer::{Continued, Encoded, PaddedBatch, TextTokenizer, pad};
pub use upload::host_tensor;
pub use weights::{
    Checkpoint, HostTensor, LoadReport, Loader, SIDE_FILES, SaveDtype, SavedTensors, save_model,
    save_safetensors, save_tensors,
};
