//! Number types in which weights of linear maps are held and multiplied.

use std::{fmt, str::FromStr};

use burn::tensor::{DType, FloatDType};
use serde::{Deserialize, Serialize};
use vblora::{Error, Result, backend::VbLoraBackend, nf4};

/// The form of the base's linear maps. Everything between their products stays in f32, and so does the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum BaseDtype {
    /// 32 bits, on every backend. GPUs with tensor cores may multiply with the 10 mantissa bits of TF32.
    #[default]
    F32,
    /// IEEE half precision: 10 bits of mantissa, values to 65,504.
    F16,
    /// bfloat16: 7 bits of mantissa, the range of f32.
    Bf16,
    /// 4-bit NormalFloat: dense maps are quantised while they are loaded. Embeddings and head stay in the compute dtype.
    Nf4(Nf4Settings),
    /// As the model's files have it: 4-bit maps in 4 bits, dense maps dense. `config.json` says so; no setting asks for it.
    Stored4Bit(ComputeDtype),
}

/// Settings of a base in 4 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nf4Settings {
    /// True if the scales are quantised too: 0.516 bytes a weight instead of 0.5625.
    pub double_quant: bool,
    /// The dtype that a weight is decoded to, and that products are computed in.
    pub compute: ComputeDtype,
}

impl Default for Nf4Settings {
    fn default() -> Self {
        Self {
            double_quant: true,
            compute: ComputeDtype::F32,
        }
    }
}

/// The dtype of products with weights in 4 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// 32 bits.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl BaseDtype {
    const DENSE: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Nf4(_) | Self::Stored4Bit(_) => "nf4",
        }
    }

    /// The form in which a base is held whose files have the form `files`.
    ///
    /// # Errors
    /// The files are in 4 bits, and half precision is asked for.
    pub fn settle(self, files: Self) -> Result<Self> {
        match (files, self) {
            (Self::Stored4Bit(_), Self::F32) => Ok(files),
            (Self::Stored4Bit(_), Self::Nf4(settings)) => Ok(Self::Stored4Bit(settings.compute)),
            (Self::Stored4Bit(_), _) => Err(self.contradicts()),
            (_, asked) => Ok(asked),
        }
    }

    /// [`settle`](Self::settle) of a form that a user asked for by name, f32 included.
    ///
    /// # Errors
    /// The files are in 4 bits, and another form is asked for.
    pub fn settle_named(self, files: Self) -> Result<Self> {
        match (files, self) {
            (Self::Stored4Bit(_), Self::F32) => Err(self.contradicts()),
            (_, _) => self.settle(files),
        }
    }

    fn contradicts(self) -> Error {
        let expected = "nf4, or none: the model's files are in 4 bits (`vblora dequantize` writes them in floats)";
        wrong(expected.into(), self.name())
    }

    /// The dtype of products and of token embeddings.
    pub(crate) fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
            Self::Nf4(Nf4Settings { compute, .. }) | Self::Stored4Bit(compute) => {
                compute.dense().dtype()
            }
        }
    }

    /// The form of maps that are never in 4 bits: the compute dtype.
    pub(crate) fn dense(self) -> Self {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => self,
            Self::Nf4(Nf4Settings { compute, .. }) | Self::Stored4Bit(compute) => compute.dense(),
        }
    }

    /// The form of maps beside the blocks: in 4 bits where files have them so, and in the compute dtype elsewhere.
    pub(crate) fn as_stored(self) -> Self {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Stored4Bit(_) => self,
            Self::Nf4(Nf4Settings { compute, .. }) => Self::Stored4Bit(compute),
        }
    }

    /// Bytes of one value of the token embeddings.
    pub fn bytes(self) -> usize {
        match self.dtype() {
            FloatDType::F16 | FloatDType::BF16 => 2,
            _ => 4,
        }
    }

    /// Bytes of a linear map of so many values. Files in 4 bits are taken to be double quantised, in all their maps.
    pub fn map_bytes(self, values: usize) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => self.bytes() * values,
            Self::Nf4(settings) => nf4::bytes(values, settings.double_quant),
            Self::Stored4Bit(_) => nf4::bytes(values, true),
        }
    }

    /// Asks the backend whether it computes in this dtype.
    ///
    /// # Errors
    /// It does not.
    pub fn check<B: VbLoraBackend>(self, device: &B::Device) -> Result<()> {
        let can = |dtype: Self| B::supports_dtype(device, DType::from(dtype.dtype()));
        if can(self) {
            return Ok(());
        }
        let able: Vec<_> = Self::DENSE
            .into_iter()
            .filter(|&d| can(d))
            .map(Self::name)
            .collect();
        let expected = format!(
            "a dtype that {} computes in ({})",
            B::name(device),
            able.join(", ")
        );
        Err(wrong(expected, self.dense().name()))
    }
}

impl ComputeDtype {
    fn dense(self) -> BaseDtype {
        match self {
            Self::F32 => BaseDtype::F32,
            Self::F16 => BaseDtype::F16,
            Self::Bf16 => BaseDtype::Bf16,
        }
    }
}

impl fmt::Display for BaseDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BaseDtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let nf4 = Self::Nf4(Nf4Settings::default());
        let mut all = Self::DENSE.into_iter().chain([nf4]);
        let found = all.find(|dtype| dtype.name() == text);
        found.ok_or_else(|| wrong("one of f32, f16, bf16, nf4".into(), text))
    }
}

impl TryFrom<String> for BaseDtype {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BaseDtype> for &'static str {
    fn from(dtype: BaseDtype) -> Self {
        dtype.name()
    }
}

fn wrong(expected: String, found: &str) -> Error {
    Error::Setting {
        setting: "base_dtype",
        expected,
        found: found.into(),
    }
}
