//! Tensors that were saved with an adapter and take the place of the base's.

use std::collections::BTreeMap;

use vblora::storage::{Tie, peft::PeftAdapter};

use super::HostTensor;
use crate::error::Misshapen;
use crate::{Error, Result};

/// The text between the name of an adapted module and the names of its frozen tensors.
const BASE_LAYER: &str = ".base_layer.";

/// The tensors of modules that an adapter saved whole: those of `modules_to_save`, and embeddings and heads that PEFT saves unasked.
///
/// A model that is loaded with them has them in place of the base's tensors. A tensor that belongs to no module of the model is an error
/// that names it.
#[derive(Debug, Default)]
pub struct SavedTensors {
    /// Their source, for messages.
    place: String,
    tensors: BTreeMap<String, Saved>,
    misshapen: Vec<Misshapen>,
}

#[derive(Debug)]
struct Saved {
    tensor: HostTensor,
    /// True for `modules_to_save`: PEFT gives such a module a copy of its own, which shares nothing with the module that it was tied to.
    is_own: bool,
}

impl SavedTensors {
    /// Takes the saved tensors out of an adapter; `place` is where it is from, for messages.
    ///
    /// # Errors
    /// Two of them are the same tensor of the model.
    pub fn take(adapter: &mut PeftAdapter, place: impl Into<String>) -> Result<Self> {
        let place = place.into();
        let mut tensors = BTreeMap::new();
        for (name, tensor) in std::mem::take(&mut adapter.saved) {
            let bare = name.strip_prefix(&*adapter.prefix).unwrap_or(&name);
            let bare = bare.replace(BASE_LAYER, ".");
            let module = bare.rsplit_once('.').map_or("", |(module, _)| module);
            let mut own = adapter.modules_to_save.iter();
            let is_own = own.any(|own| module.ends_with(own.as_str()));
            if tensors.insert(bare, Saved { tensor, is_own }).is_some() {
                return Err(Error::Safetensors {
                    file: place,
                    problem: format!("tensor {name:?} is there twice"),
                });
            }
        }
        Ok(Self {
            place,
            tensors,
            misshapen: Vec::new(),
        })
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.tensor.shape)
    }

    /// Returns true if the token embedding and the head of a tied base stay one table.
    ///
    /// # Errors
    /// The adapter saved two values of that table unasked.
    pub(super) fn keep_tie(&self, embedding: &str, head: &str) -> Result<bool> {
        let is_own = |name| Some(self.tensors.get(name)?.is_own);
        match Tie::of_saved([embedding, head].map(is_own), || {
            self.are_equal(embedding, head)
        }) {
            Tie::Kept => Ok(true),
            Tie::Broken => Ok(false),
            Tie::Contradiction => Err(Error::Safetensors {
                file: self.place.clone(),
                problem: format!(
                    "tensors {embedding:?} and {head:?} have different values, but they are one table in the base; modules_to_save must \
                     name the one that is the adapter's own"
                ),
            }),
        }
    }

    /// Gives a tensor another name.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(saved) = self.tensors.remove(from) {
            self.tensors.insert(to.to_owned(), saved);
        }
    }

    /// Leaves a tensor out.
    pub(super) fn discard(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// Returns true if two tensors have the same values.
    fn are_equal(&self, one: &str, other: &str) -> bool {
        let [one, other] = [one, other].map(|name| self.tensors.get(name));
        one.is_some_and(|one| other.is_some_and(|other| one.tensor == other.tensor))
    }

    /// The tensor of this name, once; `None` where there is none, or, noted, one of another shape.
    pub(super) fn find(&mut self, name: &str, shape: &[usize]) -> Option<Option<HostTensor>> {
        let Saved { tensor, .. } = self.tensors.remove(name)?;
        if tensor.shape == shape {
            return Some(Some(tensor));
        }
        self.misshapen.push(Misshapen {
            tensor: name.to_owned(),
            expected: shape.to_vec(),
            found: tensor.shape,
        });
        Some(None)
    }

    /// Refuses what no tensor of the model took.
    pub(super) fn finish(self) -> Result<()> {
        let unexpected: Vec<_> = self.tensors.into_keys().collect();
        match unexpected.is_empty() && self.misshapen.is_empty() {
            true => Ok(()),
            false => Err(Error::SavedTensors {
                place: self.place,
                unexpected,
                misshapen: self.misshapen,
            }),
        }
    }
}
