//! Strict loading: all problems of a checkpoint in one error, and nothing loads half.

use std::collections::BTreeMap;

use vblora::nf4::Nf4Host;

use super::{Checkpoint, HostTensor, SavedTensors};
use crate::error::Misshapen;
use crate::{Error, Result};

/// Old checkpoints call a layer norm's weight and bias by these names.
const OLD_NAMES: [(&str, &str); 2] = [(".weight", ".gamma"), (".bias", ".beta")];

/// The weight of a linear map as its source has it.
#[derive(Debug, Clone, PartialEq)]
pub enum MapWeight {
    /// Floats, in the shape that was asked for.
    Dense(HostTensor),
    /// 4 bits, always `[d_out, d_in]`.
    Nf4(Nf4Host),
}

/// Takes a model's tensors out of a [`Checkpoint`] and collects what is wrong with them.
///
/// A model asks for all its tensors with [`Loader::take`], which never fails. For a tensor that is missing, misshapen or unreadable it notes
/// the fault and gives a single zero of as many dimensions. So a false shape in a configuration allocates nothing. [`Loader::finish`] then
/// vouches for all tensors, or gives one error that lists every fault, and the model built from zeros is dropped.
#[derive(Debug)]
pub struct Loader {
    checkpoint: Checkpoint,
    prefix: String,
    /// The prefix in the model that an adapter names its tensors by.
    full_prefix: String,
    /// True while names are those beside the model, without a prefix.
    at_root: bool,
    saved: SavedTensors,
    /// Tensors that are read from another one of the file.
    read_from: BTreeMap<String, String>,
    ignored: Vec<String>,
    taken: usize,
    values: usize,
    missing: Vec<String>,
    misshapen: Vec<Misshapen>,
    unreadable: Vec<String>,
}

/// The report of a finished load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// The prefix of the model's tensors in the checkpoint: `"roberta."`, `"bert."` or none.
    pub prefix: String,
    /// Tensors taken.
    pub tensors: usize,
    /// Values in the tensors taken.
    pub values: usize,
    /// Tensors left aside because a pattern of [`Loader::ignore`] matched them.
    pub ignored: Vec<String>,
}

impl Loader {
    /// A loader for names as they stand in the checkpoint.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            prefix: String::new(),
            full_prefix: String::new(),
            at_root: false,
            saved: SavedTensors::default(),
            read_from: BTreeMap::new(),
            ignored: Vec::new(),
            taken: 0,
            values: 0,
            missing: Vec::new(),
            misshapen: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// Picks the first of `prefixes` with which the tensor `probe` is in the checkpoint; every name given to
    /// [`Loader::take`] gets it. If none fits, names stay as they are.
    pub fn with_prefix(mut self, prefixes: &[&str], probe: &str) -> Self {
        self.full_prefix = prefixes.first().map_or("", |first| first).to_owned();
        let fits = |prefix: &&&str| {
            let name = format!("{prefix}{probe}");
            stored_name(&self.checkpoint, &name).is_some()
        };
        self.prefix = prefixes
            .iter()
            .find(fits)
            .map_or("", |found| found)
            .to_owned();
        self
    }

    /// Gives these tensors in place of the file's. Their names have the first of the prefixes of [`Loader::with_prefix`] in front.
    pub fn with_saved(self, saved: SavedTensors) -> Self {
        Self { saved, ..self }
    }

    /// Decides by the tensors whether a model's head is its token embedding. `said` is the configuration's word, `words` and `head` are
    /// the names of the two tables, the head's without a prefix. Tensors that stand for both, or for one another, are then read so.
    ///
    /// As in transformers 5 a file that holds the two with different values has two, and one that holds either has one. As in PEFT a table
    /// that an adapter saved unasked takes the place of both, and one of `modules_to_save` leaves the other as it was.
    ///
    /// # Errors
    /// The file cannot be read; an adapter saved two values of one table unasked.
    pub fn find_tie(&mut self, said: bool, words: &str, head: &str) -> Result<bool> {
        let stored = format!("{}{words}", self.prefix);
        let full = format!("{}{words}", self.full_prefix);
        let mut is_tied = said;
        let mut base = stored.clone();
        if said {
            let checkpoint = &self.checkpoint;
            match [&stored, head].map(|name| checkpoint.contains(name)) {
                [true, true] if !checkpoint.are_equal(&stored, head)? => {
                    tracing::warn!(
                        "{}: tie_word_embeddings is true, but {stored} and {head} differ: each is used as it is",
                        checkpoint.file()
                    );
                    is_tied = false;
                }
                [false, true] => {
                    base = head.to_owned();
                    self.read_from.insert(full.clone(), base.clone());
                }
                _ => {}
            }
        }
        if !is_tied {
            return Ok(false);
        }
        is_tied = self.saved.keep_tie(&full, head)?;
        match is_tied {
            true => {
                if self.saved.shape(&full).is_none() {
                    self.saved.rename(head, &full);
                }
                // The head holds the same values.
                self.saved.discard(head);
                self.ignore(head);
                self.ignore(&stored);
            }
            // An unsaved tensor is as it was before the two became different.
            false => {
                self.read_from.insert(head.to_owned(), base.clone());
                self.ignore(head);
                self.ignore(&base);
            }
        }
        Ok(is_tied)
    }

    /// The prefix that [`Loader::with_prefix`] picked.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Decides whether names from now on stand beside the model, without its prefix.
    pub(crate) fn set_at_root(&mut self, at_root: bool) {
        self.at_root = at_root;
    }

    /// The name of a tensor in the file.
    fn stored(&self, name: &str) -> String {
        match self.at_root {
            true => name.to_owned(),
            false => format!("{}{name}", self.prefix),
        }
    }

    /// The name of a tensor in an adapter.
    fn full(&self, name: &str) -> String {
        match self.at_root {
            true => name.to_owned(),
            false => format!("{}{name}", self.full_prefix),
        }
    }

    /// Returns true if a tensor of the model is there, under its prefix.
    pub fn contains(&self, name: &str) -> bool {
        self.contains_at_root(&self.stored(name))
    }

    /// Returns true if a tensor is there under exactly this name (heads stand beside the model, without its prefix).
    pub fn contains_at_root(&self, name: &str) -> bool {
        stored_name(&self.checkpoint, name).is_some()
    }

    /// Takes a tensor of the model, under its prefix; a single zero, and a note, if that cannot be done.
    /// A layer norm's old names `gamma` and `beta` stand in for `weight` and `bias`.
    pub fn take<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        self.take_as(&self.stored(name), &self.full(name), shape)
    }

    /// As [`Loader::take`], without the prefix.
    pub fn take_at_root<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> HostTensor {
        self.take_as(name, name, shape)
    }

    /// Returns true if an adapter saved this tensor of the model.
    pub(crate) fn is_saved(&self, name: &str) -> bool {
        self.saved.shape(&self.full(name)).is_some()
    }

    /// As [`Loader::take`], for the weight of a linear map, which the file may hold in 4 bits. `out_in` is its shape then; a dense one has
    /// `shape`.
    pub fn take_map(&mut self, name: &str, shape: [usize; 2], out_in: [usize; 2]) -> MapWeight {
        let stored = self.stored(name);
        if self.is_saved(name) || !self.checkpoint.is_4_bit(&stored) {
            return MapWeight::Dense(self.take(name, shape));
        }
        match self.checkpoint.nf4(&stored, &out_in) {
            Ok(weight) => {
                self.taken += 1;
                self.values += out_in[0] * out_in[1];
                MapWeight::Nf4(weight)
            }
            Err(error) => {
                self.note(&stored, error);
                MapWeight::Dense(HostTensor {
                    shape: vec![1; 2],
                    values: vec![0.0],
                })
            }
        }
    }

    /// The tensor that an adapter names `full` and the file `name`.
    fn take_as<const D: usize>(&mut self, name: &str, full: &str, shape: [usize; D]) -> HostTensor {
        let name = self
            .read_from
            .get(full)
            .map_or(name, |from| from)
            .to_owned();
        let taken = match self.saved.find(full, &shape) {
            Some(saved) => {
                if let Some(stored) = stored_name(&self.checkpoint, &name) {
                    self.checkpoint.mark_used(&stored);
                }
                self.taken += 1;
                self.values += saved.as_ref().map_or(0, |saved| saved.values.len());
                saved
            }
            None => self.try_take(&name, &shape),
        };
        taken.unwrap_or_else(|| HostTensor {
            shape: vec![1; D],
            values: vec![0.0],
        })
    }

    fn try_take(&mut self, name: &str, shape: &[usize]) -> Option<HostTensor> {
        let Some(stored) = stored_name(&self.checkpoint, name) else {
            self.missing.push(name.to_owned());
            return None;
        };
        match self.checkpoint.tensor_shaped(&stored, shape) {
            Ok(tensor) => {
                self.taken += 1;
                self.values += tensor.values.len();
                Some(tensor)
            }
            Err(error) => {
                self.note(&stored, error);
                None
            }
        }
    }

    /// Notes what is wrong with a tensor. It is known by name, so it must not be listed as unexpected as well.
    fn note(&mut self, stored: &str, error: Error) {
        match error {
            Error::Shape { tensor, .. } => self.misshapen.push(tensor),
            Error::Tensor {
                tensor, problem, ..
            } => self.unreadable.push(format!("{tensor}: {problem}")),
            other => self.unreadable.push(other.to_string()),
        }
        self.checkpoint.mark_used(stored);
    }

    /// Lets tensors of this name stay unused; a pattern ending in `*` matches every name that starts so.
    /// Patterns match with and without the prefix: `pooler.*` also means `bert.pooler.*`.
    pub fn ignore(&mut self, pattern: &str) {
        self.ignored.push(pattern.to_owned());
    }

    /// Ends the load.
    ///
    /// # Errors
    /// [`Error::Weights`] if a tensor was missing, misshapen or unreadable, or if one is left that was
    /// neither taken nor ignored.
    pub fn finish(self) -> Result<LoadReport> {
        let (ignored, unexpected): (Vec<_>, Vec<_>) = self
            .checkpoint
            .unused()
            .into_iter()
            .partition(|name| self.is_ignored(name));
        let clean = self.missing.is_empty()
            && self.misshapen.is_empty()
            && self.unreadable.is_empty()
            && unexpected.is_empty();
        if !clean {
            return Err(Error::Weights {
                file: self.checkpoint.file().to_owned(),
                missing: self.missing,
                unexpected,
                misshapen: self.misshapen,
                unreadable: self.unreadable,
            });
        }
        self.saved.finish()?;
        Ok(LoadReport {
            prefix: self.prefix,
            tensors: self.taken,
            values: self.values,
            ignored,
        })
    }

    fn is_ignored(&self, name: &str) -> bool {
        let bare = name.strip_prefix(self.prefix.as_str()).unwrap_or(name);
        self.ignored
            .iter()
            .any(|pattern| matches(pattern, name) || matches(pattern, bare))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// The name under which a tensor is stored: its own, or the old one.
fn stored_name(checkpoint: &Checkpoint, name: &str) -> Option<String> {
    if checkpoint.contains(name) {
        return Some(name.to_owned());
    }
    OLD_NAMES.iter().find_map(|(new, old)| {
        let stored = format!("{}{old}", name.strip_suffix(new)?);
        checkpoint.contains(&stored).then_some(stored)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelFiles, SaveDtype, save_safetensors};

    fn loader(tensors: &[(&str, &[usize], &[f32])]) -> Loader {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        save_safetensors(&path, tensors, SaveDtype::F32).unwrap();
        Loader::new(Checkpoint::open(&ModelFiles::open(dir.path()).unwrap()).unwrap())
    }

    #[test]
    fn the_prefix_is_found_by_the_probe() {
        let prefixes = ["roberta.", "bert.", ""];
        for prefix in prefixes {
            let name = format!("{prefix}e.weight");
            let mut loader =
                loader(&[(&name, &[2], &[1.0, 2.0])]).with_prefix(&prefixes, "e.weight");
            assert_eq!(loader.prefix(), prefix);
            assert_eq!(loader.take("e.weight", [2]).values, [1.0, 2.0]);
            let report = loader.finish().unwrap();
            assert_eq!((report.tensors, report.values), (1, 2));
        }
    }

    #[test]
    fn all_problems_come_in_one_error() {
        let mut loader = loader(&[
            ("a", &[2, 1], &[1.0, 2.0]),
            ("good", &[1], &[3.0]),
            ("stranger.one", &[1], &[4.0]),
            ("stranger.two", &[1], &[4.0]),
        ]);
        // As large as the configuration says, these would not fit into any memory.
        assert_eq!(loader.take("a", [1 << 20, 1 << 40]).shape, [1, 1]);
        assert_eq!(loader.take("good", [1]).values, [3.0]);
        assert_eq!(loader.take("gone", [usize::MAX]).values, [0.0]);
        let Err(Error::Weights {
            missing,
            unexpected,
            misshapen,
            unreadable,
            ..
        }) = loader.finish()
        else {
            panic!("not a weights error")
        };
        assert_eq!(missing, ["gone"]);
        assert_eq!(unexpected, ["stranger.one", "stranger.two"]);
        assert_eq!(misshapen.len(), 1);
        assert_eq!(
            (
                misshapen[0].expected.as_slice(),
                misshapen[0].found.as_slice()
            ),
            (&[1 << 20, 1 << 40][..], &[2, 1][..])
        );
        assert!(unreadable.is_empty());
    }

    #[test]
    fn old_layer_norm_names_are_accepted() {
        let mut loader = loader(&[
            ("bert.LayerNorm.gamma", &[1], &[2.0]),
            ("bert.LayerNorm.beta", &[1], &[3.0]),
        ])
        .with_prefix(&["roberta.", "bert."], "LayerNorm.weight");
        assert_eq!(loader.take("LayerNorm.weight", [1]).values, [2.0]);
        assert_eq!(loader.take("LayerNorm.bias", [1]).values, [3.0]);
        loader.finish().unwrap();
    }

    #[test]
    fn ignored_tensors_are_reported_not_refused() {
        let mut loader = loader(&[
            ("bert.w", &[1], &[1.0]),
            ("bert.pooler.dense.bias", &[1], &[1.0]),
            ("cls.bias", &[1], &[1.0]),
            ("classifier", &[1], &[1.0]),
        ])
        .with_prefix(&["bert."], "w");
        loader.take("w", [1]);
        for pattern in ["pooler.*", "cls.*", "classifier"] {
            loader.ignore(pattern);
        }
        let report = loader.finish().unwrap();
        assert_eq!(
            report.ignored,
            ["bert.pooler.dense.bias", "classifier", "cls.bias"]
        );
    }

    #[test]
    fn heads_are_taken_without_the_prefix() {
        let mut loader = loader(&[("roberta.w", &[1], &[1.0]), ("head.w", &[1], &[5.0])])
            .with_prefix(&["roberta."], "w");
        assert!(loader.contains("w") && !loader.contains("head.w"));
        assert!(loader.contains_at_root("head.w"));
        loader.take("w", [1]);
        assert_eq!(loader.take_at_root("head.w", [1]).values, [5.0]);
        loader.finish().unwrap();
    }

    #[test]
    fn integer_tensors_may_be_ignored_but_not_taken() {
        let header = r#"{"position_ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let dir = tempfile::tempdir().unwrap();
        let bytes = [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &[0; 8],
        ]
        .concat();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let open =
            || Loader::new(Checkpoint::open(&ModelFiles::open(dir.path()).unwrap()).unwrap());
        let mut ignoring = open();
        ignoring.ignore("position_ids");
        assert_eq!(ignoring.finish().unwrap().ignored, ["position_ids"]);
        let mut taking = open();
        taking.take("position_ids", [1]);
        let error = taking.finish().unwrap_err().to_string();
        assert!(
            error.contains("unreadable (1)") && error.contains("position_ids: type I64"),
            "{error}"
        );
        assert!(!error.contains("unexpected"), "{error}");
    }
}
