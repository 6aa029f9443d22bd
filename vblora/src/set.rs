//! Loads, unloads and switches adapters, by name, beside one resident base.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use derive_new::new;

use crate::{
    Error, Factors, Result, Stack, ValidVbLora,
    backend::VbLoraBackend,
    storage::{HostAdapter, StoredVbLora, compose},
};

/// Adapters by name, ready to be used on one resident base.
///
/// VB-LoRA adapters with equal banks (by SHA-256) share one copy of it on the device. Their codes, a few kilobytes each, stay in host
/// memory. [`factors`](Self::factors) moves the codes to the device and composes there, so a switch costs one mixture and no weights.
/// Adapters of other methods stay on the device as their composed factors. The base is not touched.
///
/// [`new`](Self::new) makes a set without adapters on a device.
#[derive(Debug, new)]
pub struct AdapterSet<B: VbLoraBackend> {
    device: B::Device,
    /// Banks by SHA-256. A bank stays as long as an adapter needs it.
    #[new(default)]
    banks: BTreeMap<String, Tensor<B, 2>>,
    #[new(default)]
    adapters: BTreeMap<String, Resident<B>>,
}

#[derive(Debug)]
enum Resident<B: VbLoraBackend> {
    Codes {
        settings: ValidVbLora,
        bank: String,
        indices: Vec<u32>,
        /// All k weights of each sub-vector.
        weights: Vec<f32>,
        gate: f32,
    },
    Composed(Factors<B>),
}

impl<B: VbLoraBackend> AdapterSet<B> {
    /// Adds an adapter. VB-LoRA's bank goes to the device unless it is there already.
    ///
    /// # Errors
    /// An adapter has this name already.
    pub fn load(&mut self, name: &str, adapter: &HostAdapter) -> Result<()> {
        if self.adapters.contains_key(name) {
            return Err(Error::setting("adapter", "a new name", format!("{name:?}")));
        }
        let resident = match adapter.store() {
            Some(stored) => self.codes(&stored),
            None => Resident::Composed(adapter.factors(&self.device)),
        };
        self.adapters.insert(name.to_owned(), resident);
        Ok(())
    }

    fn codes(&mut self, stored: &StoredVbLora) -> Resident<B> {
        let (bank, device) = (stored.own_bank(), &self.device);
        let sha256 = bank.sha256();
        let upload = || bank.upload(device);
        self.banks.entry(sha256.clone()).or_insert_with(upload);
        Resident::Codes {
            settings: stored.settings().clone(),
            bank: sha256,
            indices: stored.codes().indices.clone(),
            weights: stored.codes().full_weights(),
            gate: stored.gate(),
        }
    }

    /// Removes an adapter, and its bank if no other adapter needs it.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn unload(&mut self, name: &str) -> Result<()> {
        self.find(name)?;
        self.adapters.remove(name);
        let adapters = &self.adapters;
        self.banks.retain(|sha256, _| {
            let needs = |adapter: &Resident<B>| matches!(adapter, Resident::Codes { bank, .. } if bank == sha256);
            adapters.values().any(needs)
        });
        Ok(())
    }

    /// The adapters' names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapters.keys().map(String::as_str)
    }

    /// The number of banks on the device.
    pub fn banks(&self) -> usize {
        self.banks.len()
    }

    /// The factors of an adapter, for a forward pass.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn factors(&self, name: &str) -> Result<Factors<B>> {
        Ok(match self.find(name)? {
            Resident::Composed(factors) => factors.clone(),
            Resident::Codes {
                settings,
                bank,
                indices,
                weights,
                gate,
            } => {
                let bank = self.banks[bank].clone();
                compose(settings, bank, indices, weights.clone(), *gate)
            }
        })
    }

    /// Several adapters side by side, in this order, for batches whose rows use different ones.
    ///
    /// # Errors
    /// One of these names has no adapter.
    pub fn stack(&self, names: &[&str]) -> Result<Stack<B>> {
        let factors = names.iter().map(|name| self.factors(name));
        Ok(Stack::new(&factors.collect::<Result<Vec<_>>>()?))
    }

    fn find(&self, name: &str) -> Result<&Resident<B>> {
        self.adapters.get(name).ok_or_else(|| {
            let names: Vec<_> = self.names().collect();
            let expected = format!("one of {names:?}");
            Error::setting("adapter", expected, format!("{name:?}"))
        })
    }
}
