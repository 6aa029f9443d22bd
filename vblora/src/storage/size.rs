//! The size of a compact file before it is written.

use safetensors::Dtype;
use sha2::{Digest as _, Sha256};

use super::{
    Precisions,
    compact::{KEY, description},
    hash::hex,
    tensors::header_bytes,
};
use crate::{
    Selection, ValidVbLora,
    count::{Precision, bank_bytes, index_bits, packed_bytes},
};

/// The parts that a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Bank and codes.
    Whole,
    /// The bank alone.
    Bank,
    /// The codes alone.
    Codes,
}

impl ValidVbLora {
    /// The size in bytes of a compact file with these settings, metadata included, before it is written.
    pub fn compact_bytes(&self, part: Part, precisions: Precisions, recipe: Option<&str>) -> usize {
        let settings = self.stored();
        let (config, s) = (settings.config(), settings.sub_vectors());
        let (h, b, k) = (config.bank, config.vector_length, config.topk);
        let (mut shapes, mut data) = (Vec::new(), 0);
        if part != Part::Codes {
            shapes.push(("bank", bank_type(precisions.bank), vec![h, b]));
            if precisions.bank == Precision::Bits8 {
                shapes.push(("bank_scale", Dtype::F32, vec![h]));
            }
            data += bank_bytes(h, b, precisions.bank);
        }
        if part != Part::Bank {
            shapes.push(("weights", weight_type(precisions.weights), vec![s, k - 1]));
            data += precisions.weights.bytes() * s * (k - 1);
            if config.selection != Selection::SelectAll {
                let packed = packed_bytes(s * k, index_bits(h));
                shapes.push(("indices", Dtype::U8, vec![packed]));
                data += packed;
            }
            if config.gate {
                shapes.push(("gate", Dtype::F32, vec![1]));
                data += 4;
            }
        }
        // Every hash has the same number of digits.
        let hash = hex(Sha256::new());
        let codes = (part != Part::Bank).then_some((&settings, recipe));
        header_bytes(&shapes, (KEY, &description(hash, codes))) + data
    }
}

fn bank_type(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
        Precision::Bits8 => Dtype::I8,
    }
}

fn weight_type(precision: Precision) -> Dtype {
    match precision {
        Precision::Bits8 => Dtype::U8,
        other => bank_type(other),
    }
}
