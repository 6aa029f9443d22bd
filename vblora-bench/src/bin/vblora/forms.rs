//! The forms that an adapter can be stored in, and their sizes.

use clap::ValueEnum;
use vblora::{
    ValidVbLora,
    count::{self, peft_index_bytes},
    storage::{Part, Precision, Precisions},
};

/// The form in which an adapter is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    PeftFull,
    PeftTopk,
    PeftLora,
    Compact,
    CompactF16,
    #[value(name = "compact-8bits")]
    Compact8bits,
    Codes,
    CodesF16,
    #[value(name = "codes-8bits")]
    Codes8bits,
}

impl Form {
    /// The form's name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or(String::new(), |value| value.get_name().to_owned())
    }

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::PeftFull => "tensors of a PEFT directory with all logits, to train on",
            Self::PeftTopk => "tensors of a PEFT directory, top-k only: bank and codes",
            Self::PeftLora => "tensors of a PEFT directory of LoRA with the same factors",
            Self::Compact => "compact file without loss",
            Self::CompactF16 => "compact file, bank and weights in half precision",
            Self::Compact8bits => "compact file, bank and weights in 8 bits",
            Self::Codes => "compact file of codes for a shared bank, without loss",
            Self::CodesF16 => "the same, weights in half precision",
            Self::Codes8bits => "the same, weights in 8 bits",
        }
    }

    /// The bytes of a whole compact file, or of the tensors of a PEFT directory.
    pub(crate) fn bytes(self, settings: &ValidVbLora) -> usize {
        let config = settings.config();
        let (h, b, k, s) = (
            config.bank,
            config.vector_length,
            config.topk,
            settings.sub_vectors(),
        );
        let compact = |part, precision| {
            let precisions = Precisions {
                bank: precision,
                weights: precision,
            };
            settings.compact_bytes(part, precisions, None)
        };
        match self {
            Self::PeftFull => 4 * (h * b + s * h),
            Self::PeftTopk => 4 * h * b + s * (k * peft_index_bytes(h) + 4 * (k - 1)),
            Self::PeftLora => {
                let sites = settings.plan().sites().iter();
                count::lora(config.rank, sites.map(|site| (site.d_in, site.d_out))).bytes
            }
            Self::Compact => compact(Part::Whole, Precision::F32),
            Self::CompactF16 => compact(Part::Whole, Precision::F16),
            Self::Compact8bits => compact(Part::Whole, Precision::Bits8),
            Self::Codes => compact(Part::Codes, Precision::F32),
            Self::CodesF16 => compact(Part::Codes, Precision::F16),
            Self::Codes8bits => compact(Part::Codes, Precision::Bits8),
        }
    }
}
