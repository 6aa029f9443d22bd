//! `config.json` of the encoders (`encoder.rs`) and of the decoders (`decoder.rs`).

mod checks;
mod decoder;
mod encoder;
mod fields;
mod generation;
mod presets;
mod quantization;
mod side_files;
mod tokens;

pub(crate) use decoder::QK_NORMS;
pub use decoder::{
    AttentionScale, DecoderConfig, DecoderFamily, EmbeddingScale, LayerSet, Layout, Mlp, NormForm,
    QkNorm, RopeScaling, RotaryConfig,
};
pub use encoder::{
    ClassifierNames, EncoderConfig, EncoderPositions, Family, HeadActivation, HeadForm, Pooling,
    Positions, RelativeBuckets, RotaryLayers,
};
pub(crate) use encoder::{EncoderLayout, FINAL_NORM, POSITION, PROJECT, RELATIVE, TOKEN_TYPE};
pub use generation::GenerationDefaults;
pub(crate) use side_files::{TokenizerClass, TokenizerSettings};
pub use tokens::stop_tokens;
pub(crate) use tokens::{End, chat_template, ends, special_tokens};

use crate::Error;

const FILE: &str = "config.json";
/// Over any published encoder (XLM-R XXL has width 4,096 and 48 layers); stops sizes that are typing errors.
pub const MAX_WIDTH: usize = 1 << 16;
/// The most layers.
pub const MAX_LAYERS: usize = 1 << 10;
/// The most rows of a table: words, positions, types.
pub const MAX_ROWS: usize = 1 << 24;
/// Values of the largest single weight, 4 GiB in f32: a wrong size is refused before it is allocated.
pub const MAX_WEIGHT_VALUES: usize = 1 << 30;

/// The non-linearity between the two linear maps of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)` with the exact normal distribution function (`gelu`).
    Gelu,
    /// Its approximation by tanh (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)` (`relu`).
    Relu,
}

impl Activation {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_new",
            Self::Relu => "relu",
        }
    }
}

fn wrong(file: &str, field: &str, problem: String) -> Error {
    Error::Config {
        file: file.to_owned(),
        field: field.to_owned(),
        problem,
    }
}
