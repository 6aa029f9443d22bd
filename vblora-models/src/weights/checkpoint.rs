//! A model's safetensors file, or its shards, opened and checked.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use safetensors::Dtype;
use serde::Deserialize;

use vblora::{
    nf4::Nf4Host,
    storage::{Entry, Header, strict_json, to_f32},
};

use super::{HostTensor, four_bit};
use crate::error::Misshapen;
use crate::files::{FileReader, is_file_name};
use crate::{Error, ModelFiles, Result};

/// The weights in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The table of a model whose weights are in several files.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Tensors are compared in pieces of so many bytes.
const COMPARED_BYTES: usize = 1 << 20;

/// The tensors of a Hugging Face checkpoint, read one at a time; remembers which were read.
#[derive(Debug)]
pub struct Checkpoint {
    /// The single file or the index, for messages.
    file: String,
    shards: Vec<Shard>,
    /// Tensor name to position in `shards`.
    shard_of: BTreeMap<String, usize>,
    used: BTreeSet<String>,
    /// Tensors in 4 bits, each with the name of the text that describes it.
    four_bit: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Shard {
    file: String,
    reader: FileReader,
    entries: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names. Headers are checked against the files; no tensor is
    /// converted yet.
    ///
    /// # Errors
    /// A file is missing or not valid safetensors. The index names an absent shard, a path, or a tensor that its shard does not hold. A
    /// tensor lies in two shards.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        if files.contains(SINGLE) {
            return Self::from_shards(files.describe(SINGLE), vec![Shard::open(files, SINGLE)?]);
        }
        if !files.contains(INDEX) {
            if let Some(name) = files.with_ending(".gguf") {
                return Err(Error::Safetensors {
                    file: files.describe(&name),
                    problem: "GGUF, whose weights are not read; convert them to safetensors (transformers' gguf_file and save_pretrained, or `amn remember` of anamnesis)".into(),
                });
            }
            return Err(files.no_file(&format!("{SINGLE} or {INDEX}")));
        }
        let file = files.describe(INDEX);
        let weight_map = weight_map(&files.read(INDEX)?, &file)?;
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        let shards = names
            .into_iter()
            .map(|name| Shard::open(files, name))
            .collect::<Result<Vec<_>>>()?;
        check_index(&weight_map, &shards, files)?;
        Self::from_shards(file, shards)
    }

    fn from_shards(file: String, shards: Vec<Shard>) -> Result<Self> {
        let mut shard_of: BTreeMap<String, usize> = BTreeMap::new();
        for (position, shard) in shards.iter().enumerate() {
            for name in shard.entries.keys() {
                if let Some(earlier) = shard_of.insert(name.clone(), position) {
                    let problem = format!("tensor {name:?} is in {} too", shards[earlier].file);
                    return Err(shard.invalid(problem));
                }
            }
        }
        let four_bit = four_bit::find(&file, shard_of.keys())?;
        Ok(Self {
            file,
            shards,
            shard_of,
            used: BTreeSet::new(),
            four_bit,
        })
    }

    /// The file, or the index of the shards, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    /// Returns true if there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.shard_of.contains_key(name)
    }

    /// The shape of a tensor, without reading its values.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let (_, entry) = self.find(name)?;
        Some(&entry.shape)
    }

    /// Returns true if a tensor is stored in 4 bits, as bitsandbytes stores it.
    pub fn is_4_bit(&self, name: &str) -> bool {
        self.four_bit.contains_key(name) && self.contains(name)
    }

    /// Returns true if any tensor is stored in 4 bits.
    pub fn has_4_bit(&self) -> bool {
        !self.four_bit.is_empty()
    }

    /// Reads a tensor that is stored in 4 bits and marks it as used.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Tensor`] that names the part at fault; [`Error::NoTensor`].
    pub fn nf4(&mut self, name: &str, out_in: &[usize]) -> Result<Nf4Host> {
        let weight = self.read_nf4(name, out_in)?;
        self.mark_used(name);
        Ok(weight)
    }

    pub(crate) fn read_nf4(&self, name: &str, out_in: &[usize]) -> Result<Nf4Host> {
        four_bit::read(self, name, self.state(name)?, out_in)
    }

    /// The shape of a tensor in 4 bits, and the type that it was quantised from.
    pub(crate) fn described(&self, name: &str) -> Result<(Vec<usize>, Dtype)> {
        four_bit::described(self, name, self.state(name)?)
    }

    /// The name of the text that describes a tensor in 4 bits.
    fn state(&self, name: &str) -> Result<&str> {
        let state = self.four_bit.get(name).map(String::as_str);
        state.ok_or_else(|| self.no_tensor(name))
    }

    fn no_tensor(&self, name: &str) -> Error {
        Error::NoTensor {
            file: self.file.clone(),
            tensor: name.to_owned(),
        }
    }

    /// Returns true if a tensor is a part of one in 4 bits.
    pub(crate) fn is_part(&self, name: &str) -> bool {
        four_bit::whole_of(name).is_some_and(|whole| self.is_4_bit(whole))
    }

    /// Reads a tensor as f32 and marks it as used. One in 4 bits is decoded.
    ///
    /// # Errors
    /// [`Error::NoTensor`]; [`Error::Tensor`] if it is not of a float type or has a value that is not finite.
    pub fn tensor(&mut self, name: &str) -> Result<HostTensor> {
        if self.is_4_bit(name) {
            let (shape, _) = self.described(name)?;
            let values = self.nf4(name, &shape)?.dequantise();
            return Ok(HostTensor { shape, values });
        }
        let tensor = self.read_floats(name)?;
        self.mark_used(name);
        Ok(tensor)
    }

    fn read_floats(&self, name: &str) -> Result<HostTensor> {
        let (shard, entry) = self.find(name).ok_or_else(|| self.no_tensor(name))?;
        let bytes = shard.bytes(entry)?;
        let values = to_f32(entry.dtype, &bytes).map_err(|problem| Error::Tensor {
            file: shard.file.clone(),
            tensor: name.to_owned(),
            problem,
        })?;
        let shape = entry.shape.clone();
        Ok(HostTensor { shape, values })
    }

    /// The values of a dense tensor that must have this shape.
    pub(crate) fn values(&self, name: &str, expected: &[usize]) -> Result<HostTensor> {
        self.check_shape(name, expected)?;
        self.read_floats(name)
    }

    /// As [`Checkpoint::tensor`], for a tensor that must have this shape.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor`], and [`Error::Shape`].
    pub fn tensor_shaped(&mut self, name: &str, expected: &[usize]) -> Result<HostTensor> {
        if self.is_4_bit(name) {
            let values = self.nf4(name, expected)?.dequantise();
            let shape = expected.to_vec();
            return Ok(HostTensor { shape, values });
        }
        self.check_shape(name, expected)?;
        self.tensor(name)
    }

    fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        match self.find(name) {
            Some((_, entry)) => self.expect(name, expected, &entry.shape),
            None => Ok(()),
        }
    }

    /// Refuses a tensor whose shape is another than expected.
    pub(crate) fn expect(&self, name: &str, expected: &[usize], found: &[usize]) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        let file = self.find(name).map_or(&self.file, |(shard, _)| &shard.file);
        Err(Error::Shape {
            file: file.clone(),
            tensor: Misshapen {
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: found.to_vec(),
            },
        })
    }

    /// Returns true if two tensors are the same to the byte.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn are_equal(&self, one: &str, other: &str) -> Result<bool> {
        let (Some(one), Some(other)) = (self.find(one), self.find(other)) else {
            return Ok(false);
        };
        if one.1.dtype != other.1.dtype || one.1.shape != other.1.shape {
            return Ok(false);
        }
        let piece = |(shard, entry): (&Shard, &Entry), from: usize| {
            let start = entry.bytes.start + from;
            let range = start..entry.bytes.end.min(start + COMPARED_BYTES);
            shard.reader.read(range).map_err(|cause| Error::Io {
                file: shard.file.clone(),
                cause,
            })
        };
        for from in (0..one.1.bytes.len()).step_by(COMPARED_BYTES) {
            if piece(one, from)? != piece(other, from)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Marks a tensor as used without reading it.
    pub(super) fn mark_used(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// Names of the tensors that were not read, sorted. Parts of a tensor in 4 bits go with it.
    pub fn unused(&self) -> Vec<String> {
        self.names()
            .filter(|name| !self.used.contains(*name) && !self.is_part(name))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(crate) fn find(&self, name: &str) -> Option<(&Shard, &Entry)> {
        let shard = &self.shards[*self.shard_of.get(name)?];
        Some((shard, shard.entries.get(name)?))
    }
}

impl Shard {
    /// The file's name, for messages.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The names of its tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The bytes of all its tensors.
    pub(crate) fn data_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.bytes.len()).sum()
    }

    /// The bytes of one of its tensors.
    pub(crate) fn bytes(&self, entry: &Entry) -> Result<Cow<'static, [u8]>> {
        let read = self.reader.read(entry.bytes.clone());
        read.map_err(|cause| Error::Io {
            file: self.file.clone(),
            cause,
        })
    }

    fn open(files: &ModelFiles, name: &str) -> Result<Self> {
        let reader = files.reader(name)?;
        let file = files.describe(name);
        let header = Header::read(&mut reader.start(), reader.size() as u64);
        match header {
            Ok((Header { tensors, .. }, _)) => Ok(Self {
                file,
                reader,
                entries: tensors,
            }),
            Err(problem) => Err(Error::Safetensors { file, problem }),
        }
    }

    fn invalid(&self, problem: String) -> Error {
        Error::Safetensors {
            file: self.file.clone(),
            problem,
        }
    }
}

/// The shard files that an index names, sorted, each a plain file name.
#[cfg(feature = "hub")]
pub(crate) fn shard_names(index: &[u8], file: &str) -> Result<BTreeSet<String>> {
    Ok(weight_map(index, file)?.into_values().collect())
}

fn weight_map(index: &[u8], file: &str) -> Result<BTreeMap<String, String>> {
    let json = |problem: String| Error::Json {
        file: file.to_owned(),
        problem,
    };
    let Index { weight_map } = strict_json::from_slice(index).map_err(json)?;
    if weight_map.is_empty() {
        return Err(json("weight_map is empty".to_owned()));
    }
    match weight_map.values().find(|name| !is_file_name(name)) {
        None => Ok(weight_map),
        Some(name) => Err(Error::NotAFileName {
            found_in: file.to_owned(),
            name: name.clone(),
        }),
    }
}

/// Every tensor of the index must be in the shard that the index says.
fn check_index(
    weight_map: &BTreeMap<String, String>,
    shards: &[Shard],
    files: &ModelFiles,
) -> Result<()> {
    let by_file: BTreeMap<&str, &Shard> = shards.iter().map(|s| (s.file.as_str(), s)).collect();
    for (tensor, name) in weight_map {
        let file = files.describe(name);
        let holds = by_file
            .get(file.as_str())
            .is_some_and(|shard| shard.entries.contains_key(tensor));
        if !holds {
            return Err(Error::NoTensor {
                file,
                tensor: tensor.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SaveDtype, save_safetensors};
    use std::path::Path;

    fn save(dir: &Path, file: &str, tensors: &[(&str, &[usize], &[f32])]) {
        save_safetensors(&dir.join(file), tensors, SaveDtype::F32).unwrap();
    }

    fn open(dir: &Path) -> Result<Checkpoint> {
        Checkpoint::open(&ModelFiles::open(dir).unwrap())
    }

    fn sharded(dir: &Path, index: &str) -> Result<Checkpoint> {
        save(dir, "one.safetensors", &[("a", &[2], &[1.0, 2.0])]);
        save(dir, "two.safetensors", &[("b", &[1, 1], &[3.0])]);
        std::fs::write(dir.join(INDEX), index).unwrap();
        open(dir)
    }

    #[test]
    fn tensors_are_read_by_name_and_shape_and_use_is_tracked() {
        let dir = tempfile::tempdir().unwrap();
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        save(
            dir.path(),
            SINGLE,
            &[("w", &[2, 3], &values), ("v", &[1], &[7.0])],
        );
        let mut checkpoint = open(dir.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["v", "w"]);
        let tensor = checkpoint.tensor_shaped("w", &[2, 3]).unwrap();
        assert_eq!((tensor.shape, tensor.values), (vec![2, 3], values.to_vec()));
        assert_eq!(checkpoint.unused(), ["v"]);
        let error = checkpoint.tensor_shaped("v", &[2]).unwrap_err().to_string();
        assert!(
            error.contains("\"v\": expected shape [2], found [1]"),
            "{error}"
        );
        let error = checkpoint.tensor("x").unwrap_err().to_string();
        assert!(
            error.contains("model.safetensors: no tensor \"x\""),
            "{error}"
        );
    }

    #[test]
    fn shards_read_like_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"metadata":{},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
        let mut checkpoint = sharded(dir.path(), index).unwrap();
        assert_eq!(checkpoint.tensor("a").unwrap().values, [1.0, 2.0]);
        assert_eq!(checkpoint.tensor("b").unwrap().shape, [1, 1]);
    }

    #[test]
    fn a_bad_index_is_an_error_that_names_the_cause() {
        let cases = [
            (
                r#"{"weight_map":{"a":"absent.safetensors"}}"#,
                "absent.safetensors",
            ),
            (
                r#"{"weight_map":{"c":"one.safetensors"}}"#,
                "one.safetensors: no tensor \"c\"",
            ),
            (
                r#"{"weight_map":{"a":"../one.safetensors"}}"#,
                "not a plain file name",
            ),
            (
                r#"{"weight_map":{"a":"/one.safetensors"}}"#,
                "not a plain file name",
            ),
            (r#"{"weight_map":{}}"#, "weight_map is empty"),
            (
                r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#,
                "key \"a\" is given twice",
            ),
            (r#"{"weights":{}}"#, "weight_map"),
            ("{", "index.json"),
        ];
        for (index, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            let error = sharded(dir.path(), index).unwrap_err().to_string();
            assert!(error.contains(expected), "{index}: {error}");
        }
    }

    #[test]
    fn a_tensor_in_two_shards_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"weight_map":{"a":"one.safetensors","z":"three.safetensors"}}"#;
        save(
            dir.path(),
            "three.safetensors",
            &[("a", &[1], &[0.5]), ("z", &[1], &[0.5])],
        );
        let error = sharded(dir.path(), index).unwrap_err().to_string();
        assert!(
            error.contains("\"a\"") && error.contains("one.safetensors"),
            "{error}"
        );
    }

    #[test]
    fn an_absent_checkpoint_names_what_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors or model.safetensors.index.json"));
        std::fs::write(dir.path().join("q4.gguf"), "GGUF").unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("q4.gguf") && error.contains("amn remember"),
            "{error}"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SINGLE);
        save(dir.path(), SINGLE, &[("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = open(dir.path()).unwrap_err();
            assert!(matches!(error, Error::Safetensors { .. }), "{length}");
            assert!(error.to_string().contains("model.safetensors"));
        }
    }

    #[test]
    fn a_value_that_is_not_finite_names_its_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SINGLE);
        save(dir.path(), SINGLE, &[("layer.w", &[2], &[1.0, 2.0])]);
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = open(dir.path()).unwrap().tensor("layer.w").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("\"layer.w\"") && error.contains("value 1"),
            "{error}"
        );
    }
}
