//! The compact file of VB-LoRA: bank and codes of all sites in a few tensors of one safetensors file, indices packed to `ceil(log2 h)` bits.
//!
//! | tensor | dtype and shape | what |
//! | --- | --- | --- |
//! | `bank` | f32, f16 or i8 `[h, b]` | the vectors |
//! | `bank_scale` | f32 `[h]` | the factor of each i8 row |
//! | `indices` | u8 `[ceil(S k ceil(log2 h) / 8)]` | the k indices of each sub-vector, lowest bit first |
//! | `weights` | f32, f16 or u8 `[S, k - 1]` | all weights but the last; u8 counts 255ths |
//! | `gate` | f32 `[1]` | the factor of every update; only if the settings have a gate |
//!
//! If every vector is selected, the rows of `weights` are in the bank's order and there are no `indices`.
//!
//! The metadata entry `vblora` is a JSON object. It has the format's version (`format`) and the bank's SHA-256 (`bank_sha256`). With codes
//! it has settings and sites (`settings`), the sites' SHA-256 (`base_sha256`, [`sites_sha256`]) and, if given, the recipe of the training
//! (`recipe`). A file may hold the bank alone or the codes alone, so that many adapters share one bank.

use std::{collections::BTreeSet, path::Path};

use burn::tensor::{Tensor, TensorData};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Codes, StoredVbLora,
    bits::{
        from_8_bits, pack, to_8_bits, to_16_bits, unpack, weight_from_8_bits, weight_to_8_bits,
    },
    hash::hex,
    header::check_name,
    identity::sites_sha256,
    strict_json,
    tensors::{StoredTensor, TensorFile, write_tensors},
};
use crate::{
    Result, Selection, SitePlan, ValidVbLora,
    admixture::check_values,
    backend::VbLoraBackend,
    count::{Precision, index_bits, packed_bytes},
    limits::factor_values,
};

/// The metadata key of [`Description`].
pub(super) const KEY: &str = "vblora";

/// More sub-vectors than this are refused before anything is allocated for them; Llama-2-13B with r = 4 and b = 256 has 61,000.
pub const MAX_SUB_VECTORS: usize = 1 << 26;

/// A compact file whose factors would have more values is refused, because its codes stand for 2,000 times their size. Llama-2-13B with r =
/// 256 has 1.0e9.
pub const MAX_STORED_FACTORS: u64 = 1 << 30;

/// A site with a larger dimension is refused.
pub const MAX_DIMENSION: usize = 1 << 24;

/// The version of the format; a reader refuses others. Version 1, never released, did not name the sites of the codes.
const FORMAT: u32 = 2;

/// The precision of each part of a file. The default loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Precisions {
    /// The bank's.
    pub bank: Precision,
    /// The weights'.
    pub weights: Precision,
}

/// The loss of a lower precision, over all factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// The largest change of an entry.
    pub largest_change: f32,
    /// The largest magnitude of an entry, to compare with.
    pub largest_entry: f32,
}

/// A vector bank apart from codes, to be shared by many adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct Bank {
    shape: [usize; 2],
    values: Vec<f32>,
}

/// The version in a file's metadata. Another version may have other entries.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// The file's metadata.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    /// SHA-256 over the bank's two dimensions as u64, then its values as f32, little-endian.
    bank_sha256: String,
    /// The codes' settings; absent if the file holds a bank alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<ValidVbLora>,
    /// SHA-256 of the sites; there with the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<String>,
}

impl Bank {
    /// A bank `[h, b]`, row-major.
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn new(shape: [usize; 2], values: Vec<f32>) -> Result<Self> {
        check_values("bank", shape, &values)?;
        Ok(Self { shape, values })
    }

    /// `[h, b]`
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The vectors, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The bank on a device.
    ///
    /// # Shapes
    /// - output: `[h, b]`
    pub(crate) fn upload<B: VbLoraBackend>(&self, device: &B::Device) -> Tensor<B, 2> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.shape), device)
    }

    /// SHA-256 of shape and values, in hexadecimal. Codes are bound to it.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for side in self.shape {
            hash.update((side as u64).to_le_bytes());
        }
        for value in &self.values {
            hash.update(value.to_le_bytes());
        }
        hex(hash)
    }

    /// The bank as a reader gets it from a file of this precision.
    ///
    /// # Errors
    /// A value is not finite in this precision.
    pub fn rounded(&self, precision: Precision) -> Result<Self> {
        let [_, b] = self.shape;
        let values = match precision {
            Precision::F32 => self.values.clone(),
            Precision::F16 => self.values.iter().map(|&v| half(v)).collect(),
            Precision::Bits8 => {
                let (small, scales) = to_8_bits(&self.values, b);
                from_8_bits(&small, &scales, b)
            }
        };
        Self::new(self.shape, values)
    }

    /// Writes the bank alone and returns it as readers will get it. Codes must be bound to that form.
    ///
    /// # Errors
    /// A value is not finite in this precision; the operating system refuses.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<Self> {
        let rounded = self.rounded(precision)?;
        write(path, self.tensors(precision), &rounded, None)?;
        Ok(rounded)
    }

    /// Reads a bank, from a file that may hold codes too.
    ///
    /// # Errors
    /// The file cannot be read, is no compact file, holds no bank, or holds a bank that differs from its hash.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let description = describe(&file)?;
        Self::read(&file, &description)
    }

    fn read(file: &TensorFile, description: &Description) -> Result<Self> {
        let Some(&[h, b]) = file.shape("bank") else {
            return Err(file.error(format!(
                "no bank [h, b] in it: these are codes for the bank with SHA-256 {}",
                description.bank_sha256
            )));
        };
        let values = match file.dtype("bank") {
            Some(Dtype::I8) => {
                let small: Vec<i8> = file.bytes("bank")?.iter().map(|&v| v as i8).collect();
                let scales = file.floats("bank_scale")?;
                check_values("bank_scale", [h, 1], &scales)
                    .map_err(|e| file.error(e.to_string()))?;
                from_8_bits(&small, &scales, b)
            }
            _ => file.floats("bank")?,
        };
        let bank = Self::new([h, b], values).map_err(|e| file.error(e.to_string()))?;
        let found = bank.sha256();
        if found != description.bank_sha256 {
            return Err(file.error(format!(
                "the bank has SHA-256 {found}, but the file records {}: it is damaged",
                description.bank_sha256
            )));
        }
        Ok(bank)
    }

    fn tensors(&self, precision: Precision) -> Vec<(&'static str, StoredTensor)> {
        let [_, b] = self.shape;
        match precision {
            Precision::F32 => vec![("bank", StoredTensor::floats(&self.shape, &self.values))],
            Precision::F16 => vec![("bank", halves(&self.shape, &self.values))],
            Precision::Bits8 => {
                let (small, scales) = to_8_bits(&self.values, b);
                let bytes = small.into_iter().map(|v| v as u8).collect();
                vec![
                    ("bank", StoredTensor::bytes(Dtype::I8, &self.shape, bytes)),
                    ("bank_scale", StoredTensor::floats(&[scales.len()], &scales)),
                ]
            }
        }
    }
}

impl StoredVbLora {
    /// Writes bank and codes as one file without loss.
    ///
    /// # Errors
    /// The operating system refuses; nothing is left half-written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.save_as(path, Precisions::default()).map(|_| ())
    }

    /// Writes bank and codes as one file, and returns the loss of these precisions.
    ///
    /// # Errors
    /// A value is not finite in this precision; the operating system refuses, and nothing is left half-written.
    pub fn save_as(&self, path: &Path, precisions: Precisions) -> Result<Loss> {
        let bank = self.own_bank();
        let rounded = self.rounded(precisions)?;
        let mut tensors = bank.tensors(precisions.bank);
        tensors.extend(self.code_tensors(precisions.weights));
        write(path, tensors, &rounded.own_bank(), Some(self))?;
        Ok(self.loss(&rounded))
    }

    /// Writes the codes alone, bound to a bank in a file of its own ([`Bank::save`] returns it). Returns the loss of both precisions.
    ///
    /// # Errors
    /// The bank has another shape; the operating system refuses.
    pub fn save_codes(&self, path: &Path, bank: &Bank, weights: Precision) -> Result<Loss> {
        let codes = self.rounded_codes(weights);
        let rounded = self.with_values(bank.values.clone(), codes)?;
        write(path, self.code_tensors(weights), bank, Some(self))?;
        Ok(self.loss(&rounded))
    }

    /// Reads a file with bank and codes, checking every value.
    ///
    /// # Errors
    /// The file cannot be read, is no compact file, lacks a part, or holds values that do not fit its settings.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let description = describe(&file)?;
        let bank = Bank::read(&file, &description)?;
        Self::read(&file, &description, &bank)
    }

    /// Reads the codes of a file for a bank that lies elsewhere.
    ///
    /// # Errors
    /// As [`load`](Self::load); the codes are bound to another bank.
    pub fn load_codes(path: &Path, bank: &Bank) -> Result<Self> {
        let file = TensorFile::read(path)?;
        Self::read(&file, &describe(&file)?, bank)
    }

    fn read(file: &TensorFile, description: &Description, bank: &Bank) -> Result<Self> {
        if bank.sha256() != description.bank_sha256 {
            return Err(file.error(format!(
                "these codes are bound to the bank with SHA-256 {}, not to {}",
                description.bank_sha256,
                bank.sha256()
            )));
        }
        let Some(found) = &description.settings else {
            return Err(file.error("a bank alone, no codes"));
        };
        check_sites(found.plan()).map_err(|problem| file.error(problem))?;
        let base_sha256 = sites_sha256(found.plan().sites());
        if description.base_sha256.as_ref() != Some(&base_sha256) {
            return Err(file.error(format!(
                "the sites have SHA-256 {base_sha256}, but the file records {}: it is damaged",
                description.base_sha256.as_deref().unwrap_or("none")
            )));
        }
        // The settings of a file are checked like any others.
        let settings = found
            .config()
            .check(found.plan())
            .map_err(|e| file.error(e.to_string()))?
            .stored();
        let (h, k, rows) = (
            settings.config().bank,
            settings.config().topk,
            settings.sub_vectors(),
        );
        let factors = factor_values(settings.config().rank, settings.plan());
        if factors > MAX_STORED_FACTORS {
            return Err(file.error(format!(
                "codes for factors of {factors} values, over the limit of {MAX_STORED_FACTORS}"
            )));
        }
        if rows > MAX_SUB_VECTORS {
            return Err(file.error(format!(
                "{rows} sub-vectors, over the limit of {MAX_SUB_VECTORS}"
            )));
        }
        let indices = match settings.config().selection {
            Selection::SelectAll => None,
            _ => Some(read_indices(file, h, rows, k)?),
        };
        let weights = match file.dtype("weights") {
            Some(Dtype::U8) => {
                let bytes = file.bytes("weights")?;
                bytes.iter().map(|&v| weight_from_8_bits(v)).collect()
            }
            _ => file.floats("weights")?,
        };
        if weights.len() != rows.saturating_mul(k - 1) {
            return Err(file.error(format!(
                "tensor \"weights\": expected {rows} x {} values, found {}",
                k - 1,
                weights.len()
            )));
        }
        let mut codes = Codes {
            topk: k,
            // The check above has shown that the weights of every row are in memory.
            indices: indices.unwrap_or_else(|| (0..rows * h).map(|i| (i % h) as u32).collect()),
            weights,
        };
        if file.dtype("weights") != Some(Dtype::F32) {
            codes.bring_sums_to_one();
        }
        let is_gated = settings.config().gate;
        let stored = Self::new(settings, bank.values.clone(), codes)
            .and_then(|stored| stored.with_recipe(description.recipe.clone()))
            .map_err(|e| file.error(e.to_string()))?;
        match is_gated {
            true => read_gate(file, stored),
            false => Ok(stored),
        }
    }

    /// The bank apart from the codes.
    pub fn own_bank(&self) -> Bank {
        let config = self.settings().config();
        Bank {
            shape: [config.bank, config.vector_length],
            values: self.bank().to_vec(),
        }
    }

    /// The adapter as a reader gets it from a file of these precisions.
    ///
    /// # Errors
    /// A value is not finite in this precision.
    pub fn rounded(&self, precisions: Precisions) -> Result<Self> {
        let bank = self.own_bank().rounded(precisions.bank)?;
        let codes = self.rounded_codes(precisions.weights);
        self.with_values(bank.values, codes)
    }

    /// The same adapter with another bank and other codes.
    fn with_values(&self, bank: Vec<f32>, codes: Codes) -> Result<Self> {
        let other = Self::new(self.settings().clone(), bank, codes)?
            .with_recipe(self.recipe().map(str::to_owned))?;
        match self.settings().config().gate {
            true => other.with_gate(self.gate()),
            false => Ok(other),
        }
    }

    fn rounded_codes(&self, precision: Precision) -> Codes {
        let mut codes = self.codes().clone();
        for weight in &mut codes.weights {
            *weight = match precision {
                Precision::F32 => *weight,
                Precision::F16 => half(*weight),
                Precision::Bits8 => weight_from_8_bits(weight_to_8_bits(*weight)),
            };
        }
        if precision != Precision::F32 {
            codes.bring_sums_to_one();
        }
        codes
    }

    fn code_tensors(&self, precision: Precision) -> Vec<(&'static str, StoredTensor)> {
        let Codes {
            topk,
            indices,
            weights,
        } = self.codes();
        let shape = [self.settings().sub_vectors(), topk - 1];
        let weights = match precision {
            Precision::F32 => StoredTensor::floats(&shape, weights),
            Precision::F16 => halves(&shape, weights),
            Precision::Bits8 => {
                let small = weights.iter().map(|&w| weight_to_8_bits(w)).collect();
                StoredTensor::bytes(Dtype::U8, &shape, small)
            }
        };
        let mut tensors = vec![("weights", weights)];
        let config = self.settings().config();
        if config.selection != Selection::SelectAll {
            let packed = pack(indices, index_bits(config.bank));
            let indices = StoredTensor::bytes(Dtype::U8, &[packed.len()], packed);
            tensors.push(("indices", indices));
        }
        if config.gate {
            tensors.push(("gate", StoredTensor::floats(&[1], &[self.gate()])));
        }
        tensors
    }

    fn loss(&self, rounded: &Self) -> Loss {
        let mut loss = Loss {
            largest_change: 0.0,
            largest_entry: 0.0,
        };
        let entries = |adapter: &Self| {
            let factors = adapter.host_factors().into_iter();
            factors.flat_map(|(down, up)| down.into_iter().chain(up))
        };
        for (before, after) in entries(self).zip(entries(rounded)) {
            loss.largest_change = loss.largest_change.max((before - after).abs());
            loss.largest_entry = loss.largest_entry.max(before.abs());
        }
        loss
    }
}

/// The indices of `rows` sub-vectors.
fn read_indices(file: &TensorFile, h: usize, rows: usize, k: usize) -> Result<Vec<u32>> {
    let bytes = file.bytes("indices")?;
    let count = rows.saturating_mul(k);
    if bytes.len() != packed_bytes(count, index_bits(h)) {
        return Err(file.error(format!(
            "tensor \"indices\": expected {} bytes for {rows} sub-vectors of {k} indices of {} bits, found {}",
            packed_bytes(count, index_bits(h)),
            index_bits(h),
            bytes.len()
        )));
    }
    Ok(unpack(&bytes, index_bits(h), count))
}

fn read_gate(file: &TensorFile, stored: StoredVbLora) -> Result<StoredVbLora> {
    match file.floats("gate")?[..] {
        [gate] => stored
            .with_gate(gate)
            .map_err(|e| file.error(e.to_string())),
        ref found => Err(file.error(format!(
            "tensor \"gate\": expected 1 value, found {}",
            found.len()
        ))),
    }
}

fn half(value: f32) -> f32 {
    half::f16::from_le_bytes(to_16_bits(value)).to_f32()
}

fn halves(shape: &[usize], values: &[f32]) -> StoredTensor {
    let bytes = values.iter().flat_map(|&v| to_16_bits(v)).collect();
    StoredTensor::bytes(Dtype::F16, shape, bytes)
}

/// The metadata of a file with this bank's hash and, if it holds codes, their settings and recipe.
pub(super) fn description(
    bank_sha256: String,
    codes: Option<(&ValidVbLora, Option<&str>)>,
) -> String {
    let description = Description {
        format: FORMAT,
        bank_sha256,
        base_sha256: codes.map(|(settings, _)| sites_sha256(settings.plan().sites())),
        recipe: codes.and_then(|(_, recipe)| recipe.map(str::to_owned)),
        settings: codes.map(|(settings, _)| settings.clone()),
    };
    serde_json::to_string(&description).expect("texts and finite numbers")
}

fn write(
    path: &Path,
    tensors: Vec<(&'static str, StoredTensor)>,
    bank: &Bank,
    codes: Option<&StoredVbLora>,
) -> Result<()> {
    let codes = codes.map(|stored| (stored.settings(), stored.recipe()));
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect();
    write_tensors(path, &tensors, (KEY, &description(bank.sha256(), codes)))
}

/// Checks rules that [`Targets`](crate::Targets) ensures and a plan from a file may break.
fn check_sites(plan: &SitePlan) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for site in plan.sites() {
        check_name(&site.name)?;
        let dims = [site.d_in, site.d_out];
        if dims.iter().any(|dim| !(1..=MAX_DIMENSION).contains(dim)) {
            return Err(format!(
                "site {:?}: dimensions {dims:?}, expected from 1 to {MAX_DIMENSION}",
                site.name
            ));
        }
        if !names.insert(&site.name) {
            return Err(format!("site {:?} is there twice", site.name));
        }
    }
    match names.is_empty() {
        true => Err("codes without a site".to_owned()),
        false => Ok(()),
    }
}

fn describe(file: &TensorFile) -> Result<Description> {
    let text = file.metadata(KEY).ok_or_else(|| {
        file.error(format!(
            "no metadata entry {KEY:?}: not a compact VB-LoRA file"
        ))
    })?;
    let read: Result<Description, String> = strict_json::from_slice(text.as_bytes());
    let format = match &read {
        Ok(description) => description.format,
        Err(_) => {
            let version = strict_json::from_slice(text.as_bytes());
            version.map_or(FORMAT, |version: Version| version.format)
        }
    };
    if format != FORMAT {
        return Err(file.error(format!(
            "format {format}, this program reads format {FORMAT}"
        )));
    }
    let description = read.map_err(|e| file.error(format!("metadata {KEY:?}: {e}")))?;
    check_tensors(file, &description)?;
    Ok(description)
}

/// Refuses a tensor that a file with these settings does not have.
fn check_tensors(file: &TensorFile, description: &Description) -> Result<()> {
    let mut expected = vec!["bank"];
    if file.dtype("bank") == Some(Dtype::I8) {
        expected.push("bank_scale");
    }
    if let Some(settings) = &description.settings {
        expected.push("weights");
        if settings.config().selection != Selection::SelectAll {
            expected.push("indices");
        }
        if settings.config().gate {
            expected.push("gate");
        }
    }
    let mut names = file.names();
    match names.find(|name| !expected.contains(name)) {
        None => Ok(()),
        Some(name) => Err(file.error(format!(
            "expected the tensors {} alone by its settings, found {name:?}",
            expected.join(", ")
        ))),
    }
}
