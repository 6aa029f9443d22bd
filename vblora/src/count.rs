//! Counts of trained and stored parameters, as the paper counts them, and of real bytes.
//!
//! | model, targets | h, r | computed here | printed in the paper |
//! | --- | --- | --- | --- |
//! | RoBERTa-base, query and value | 90, 4 | 23,904 | 0.023M (agrees only if truncated) |
//! | RoBERTa-base, all | 90, 4 | 26,928 | 0.027M |
//! | RoBERTa-large, query and value | 90, 4 | 25,344 | 0.024M (does not agree: 0.025M) |
//! | RoBERTa-large, all | 90, 4 | 33,408 | 0.033M |
//! | GPT-2 M, all, q, k, v apart | 256, 4 | 75,904 | 0.076M |
//! | LoRA r = 8, query and value, base / large | | 294,912 / 786,432 | 0.295M / 0.786M |
//! | VeRA, query and value, base r = 1024 / large r = 256 | | 43,008 / 61,440 | 0.043M / 0.061M |
//! | VeRA, all, base r = 1024 / large r = 256 | | 156,672 / 258,048 | 0.157M / 0.258M |
//! | Tied-LoRA, query and value, base r = 8 / large r = 4 | | 43,200 / 65,728 | 0.043M / 0.066M |
//! | LoRA-XS r = 64, all linear maps, Mistral-7B / Gemma-7B | | 917,504 / 802,816 | 0.92M / 0.80M |
//!
//! For h > 256 the paper's figures fit an index counted as a whole float (3 per sub-vector at k = 2). No integer type of such a bank needs
//! that much. Here an index has the width of the smallest unsigned integer that holds h - 1, the paper's own rule of section 3.4.

use std::{fmt, ops::Add};

use serde::{Deserialize, Serialize};

/// The cost of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Parameters that receive gradients, without the task head.
    pub trained: usize,
    /// Stored parameters in float32 equivalents (a one-byte index counts a quarter; paper, section 3.4).
    pub stored: f64,
    /// Bytes of the stored tensors in float32 with indices at their real width, without the file's header.
    pub bytes: usize,
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            trained: self.trained + other.trained,
            stored: self.stored + other.stored,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trained,
            stored,
            bytes,
        } = self;
        write!(
            f,
            "{} trained, {} stored parameters, {} bytes",
            thousands(*trained),
            float_thousands(*stored),
            thousands(*bytes)
        )
    }
}

/// Bytes of one index into a bank of `h` vectors: 1 up to h = 256, 2 up to 65,536, else 4.
pub fn index_bytes(h: usize) -> usize {
    match h {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

/// Bytes of one index in PEFT's top-k form, whose types are u8, i16 and i32: a bank of 256 takes two.
pub fn peft_index_bytes(h: usize) -> usize {
    match h {
        0..=255 => 1,
        256..=32_767 => 2,
        _ => 4,
    }
}

/// The number of bits for a value in a compact file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32 bits, without loss.
    #[default]
    F32,
    /// Half precision.
    F16,
    /// 8 bits; a bank has a scale for each vector.
    Bits8,
}

impl Precision {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Bits8 => 1,
        }
    }
}

/// Bits of a packed index into a bank of `h` vectors: `ceil(log2 h)`, none for a single vector.
pub fn index_bits(h: usize) -> usize {
    h.max(1).next_power_of_two().trailing_zeros() as usize
}

/// Bytes of `n` packed numbers of `bits` bits.
pub fn packed_bytes(n: usize, bits: usize) -> usize {
    n.saturating_mul(bits).div_ceil(8)
}

/// Bytes of a bank `[h, b]` in a compact file, without the file's header.
pub fn bank_bytes(h: usize, b: usize, precision: Precision) -> usize {
    let scales = if precision == Precision::Bits8 {
        4 * h
    } else {
        0
    };
    precision.bytes() * h * b + scales
}

/// Bytes of the codes of `s` sub-vectors in a compact file, without the file's header.
pub fn codes_bytes(h: usize, s: usize, k: usize, weights: Precision) -> usize {
    packed_bytes(s * k, index_bits(h)) + weights.bytes() * s * (k - 1)
}

/// VB-LoRA: a bank `[h, b]` and `s` sub-vectors of `k` indices and `k - 1` weights (paper, section 3.4).
///
/// `stored = h b + s (k beta / 4 + k - 1)` with `beta` bytes per index.
pub fn vblora(h: usize, b: usize, s: usize, k: usize) -> Count {
    let bytes = 4 * h * b + s * (k * index_bytes(h) + 4 * (k - 1));
    Count {
        trained: h * b + s * h,
        stored: bytes as f64 / 4.0,
        bytes,
    }
}

/// The codes of [`vblora`] if every vector is selected: h - 1 weights per sub-vector and no indices.
pub fn select_all_codes(h: usize, s: usize) -> Count {
    let stored = s * (h - 1);
    Count {
        trained: s * h,
        ..dense(stored)
    }
}

/// `n` parameters that are trained and not stored.
pub fn trained_only(n: usize) -> Count {
    Count {
        trained: n,
        ..dense(0)
    }
}

/// VB-LoRA on a bank that is trained and stored elsewhere: logits and codes alone.
pub fn vblora_codes(h: usize, s: usize, k: usize) -> Count {
    let bytes = s * (k * index_bytes(h) + 4 * (k - 1));
    Count {
        trained: s * h,
        stored: bytes as f64 / 4.0,
        bytes,
    }
}

/// LoRA: `rank (d_in + d_out)` per site, all of it trained and stored.
pub fn lora(rank: usize, dims: impl IntoIterator<Item = (usize, usize)>) -> Count {
    let n = dims
        .into_iter()
        .map(|(d_in, d_out)| rank * (d_in + d_out))
        .sum();
    dense(n)
}

/// VeRA: `rank + d_out` per site. The random matrices come from a seed, which is a setting. PEFT's directories hold the matrices too.
pub fn vera(rank: usize, d_out: impl IntoIterator<Item = usize>) -> Count {
    dense(d_out.into_iter().map(|d_out| rank + d_out).sum())
}

/// `n` float32 parameters that are trained and stored as they are: a head, a fully trained model.
pub fn dense(n: usize) -> Count {
    Count {
        trained: n,
        stored: n as f64,
        bytes: 4 * n,
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn float_thousands(x: f64) -> String {
    let fraction = x.fract();
    let whole = thousands(x.trunc() as usize);
    if fraction == 0.0 {
        whole
    } else {
        format!("{whole}{}", &format!("{fraction}")[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Selection, Site, Targets, VbLoraConfig};

    fn encoder(layers: usize, d: usize) -> Vec<Site> {
        let roles = [
            ("query", d, d),
            ("key", d, d),
            ("value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", d, 4 * d),
            ("output.dense", 4 * d, d),
        ];
        (0..layers)
            .flat_map(|n| roles.map(|(role, i, o)| Site::new(format!("layer.{n}.{role}"), i, o)))
            .collect()
    }

    fn stored(layers: usize, d: usize, targets: &str, h: usize) -> f64 {
        let plan = targets
            .parse::<Targets>()
            .unwrap()
            .select(&encoder(layers, d))
            .unwrap();
        vblora(h, 256, plan.sub_vectors(4, 256), 2).stored
    }

    fn lora_qv(layers: usize, d: usize) -> usize {
        let plan = "query,value"
            .parse::<Targets>()
            .unwrap()
            .select(&encoder(layers, d))
            .unwrap();
        lora(8, plan.sites().iter().map(|s| (s.d_in, s.d_out))).trained
    }

    /// The worked counts of the paper notes, section 1.9.
    #[test]
    fn published_counts_that_reproduce() {
        assert_eq!(stored(12, 768, "query,value", 90), 23_904.0);
        assert_eq!(stored(12, 768, "all-linear", 90), 26_928.0);
        assert_eq!(stored(24, 1024, "query,value", 90), 25_344.0);
        assert_eq!(stored(24, 1024, "all-linear", 90), 33_408.0);
        // GPT-2 M has the same six shapes per layer when q, k and v are apart.
        assert_eq!(stored(24, 1024, "all-linear", 256), 75_904.0);
        assert_eq!((lora_qv(12, 768), lora_qv(24, 1024)), (294_912, 786_432));
    }

    fn vera_of(layers: usize, d: usize, targets: &str, rank: usize) -> usize {
        let targets: Targets = targets.parse().unwrap();
        let plan = targets.select(&encoder(layers, d)).unwrap();
        vera(rank, plan.sites().iter().map(|s| s.d_out)).trained
    }

    #[test]
    fn published_counts_of_vera_reproduce() {
        let qv = "query,value";
        assert_eq!(vera_of(12, 768, qv, 1024), 43_008);
        assert_eq!(vera_of(12, 768, "all-linear", 1024), 156_672);
        assert_eq!(vera_of(24, 1024, qv, 256), 61_440);
        assert_eq!(vera_of(24, 1024, "all-linear", 256), 258_048);
        // GPT-2 M and L, and all linear maps of Llama-2-7B.
        assert_eq!(vera_of(24, 1024, qv, 1024), 98_304);
        assert_eq!(vera_of(36, 1280, qv, 1024), 165_888);
        let llama = [4096, 4096, 4096, 4096, 11_008, 11_008, 4096];
        assert_eq!(vera(1024, [llama; 32].concat()).trained, 1_589_248);
    }

    /// Paper notes, section 4: RoBERTa-large, query and value, h = 90. Training also has noise logits and a gate.
    #[test]
    fn selections_are_stored_by_their_rule() {
        let plan = "query,value".parse::<Targets>().unwrap();
        let plan = plan.select(&encoder(24, 1024)).unwrap();
        let count = |selection, gate| {
            let config = VbLoraConfig {
                selection,
                gate,
                ..Default::default()
            };
            let Count {
                trained,
                stored,
                bytes,
            } = config.check(&plan).unwrap().count();
            assert_eq!(4.0 * stored, bytes as f64);
            (trained, stored)
        };
        let (bank, logits) = (90 * 256, 1536 * 90);
        assert_eq!(
            count(Selection::SelectAll, false),
            (bank + logits, 159_744.0)
        );
        assert_eq!(
            count(Selection::NoisyTopK, false),
            (bank + 2 * logits, 25_344.0)
        );
        for selection in [
            Selection::TopK,
            Selection::GumbelSoftmax,
            Selection::StraightThrough,
        ] {
            assert_eq!(count(selection, false), (bank + logits, 25_344.0));
            assert_eq!(count(selection, true), (bank + logits + 1, 25_345.0));
        }
    }

    #[test]
    fn trained_counts_bank_and_all_logits() {
        assert_eq!(vblora(90, 256, 1536, 2).trained, 161_280);
        assert_eq!(vblora(90, 256, 6912, 2).trained, 645_120);
    }

    #[test]
    fn index_width_changes_where_the_type_does() {
        assert_eq!(
            [1, 256, 257, 65_536, 65_537].map(index_bytes),
            [1, 1, 2, 2, 4]
        );
    }

    #[test]
    fn packed_indices_take_no_more_bits_than_their_bank_needs() {
        let banks = [1, 2, 3, 90, 128, 129, 256, 257, 2048, 65_537];
        assert_eq!(banks.map(index_bits), [0, 1, 2, 7, 7, 8, 8, 9, 11, 17]);
    }

    /// PEFT needs 109 kB and 2.53 MB for these: RoBERTa-base, query and value, and the codes of Llama-2-7B, all linear maps.
    #[test]
    fn compact_files_are_a_fraction_of_pefts() {
        use Precision::{Bits8, F16};
        let (bank, codes) = (bank_bytes(90, 256, Bits8), codes_bytes(90, 576, 2, Bits8));
        assert_eq!((bank, codes), (23_400, 1_584));
        assert_eq!(
            bank_bytes(90, 256, F16) + codes_bytes(90, 576, 2, F16),
            48_240
        );
        let codes = codes_bytes(2048, 39_040, 2, Bits8);
        assert_eq!(codes, 146_400);
        assert_eq!(codes + bank_bytes(2048, 256, Bits8), 678_880);
        assert_eq!(codes_bytes(2048, 39_040, 2, F16), 185_440);
    }

    #[test]
    fn one_of_k_stores_no_weight() {
        assert_eq!(
            vblora(90, 8, 10, 1),
            Count {
                trained: 720 + 900,
                stored: 722.5,
                bytes: 2890
            }
        );
        assert_eq!(
            vblora(90, 8, 10, 1).to_string(),
            "1,620 trained, 722.5 stored parameters, 2,890 bytes"
        );
    }
}
