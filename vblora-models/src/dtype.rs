//! Number types in which weights of linear maps are held and multiplied.

use std::{fmt, str::FromStr};

use burn::tensor::{DType, FloatDType};
use serde::{Deserialize, Serialize};
use vblora::{Error, Result, backend::VbLoraBackend};

/// The dtype of the base's linear maps. Everything between their products stays in f32, and so does the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseDtype {
    /// 32 bits, on every backend. GPUs with tensor cores may multiply with the 10 mantissa bits of TF32.
    #[default]
    F32,
    /// IEEE half precision: 10 bits of mantissa, values to 65,504.
    F16,
    /// bfloat16: 7 bits of mantissa, the range of f32.
    Bf16,
}

impl BaseDtype {
    const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub(crate) fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
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
        let able: Vec<_> = Self::ALL
            .into_iter()
            .filter(|&d| can(d))
            .map(Self::name)
            .collect();
        let expected = format!(
            "a dtype that {} computes in ({})",
            B::name(device),
            able.join(", ")
        );
        Err(wrong(expected, self.name()))
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
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| wrong("one of f32, f16, bf16".into(), text))
    }
}

fn wrong(expected: String, found: &str) -> Error {
    Error::Setting {
        setting: "base_dtype",
        expected,
        found: found.into(),
    }
}
