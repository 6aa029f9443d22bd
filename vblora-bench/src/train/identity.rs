//! The identity that binds a checkpoint to its backend, base, data, recipe and bank. All but the backend are hashes.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Int, Tensor},
};
use serde::{Deserialize, Serialize};
use vblora::{
    FrozenWeight,
    backend::VbLoraBackend,
    storage::{Bank, sha256_hex},
};
use vblora_models::host_tensor;

use crate::{Result, recipes::Recipe};

/// The name of the data among the parts of an identity.
pub(super) const DATA: &str = "data";

/// The properties of a run that must be unchanged when it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The backend's name. Another backend rounds differently.
    pub backend: String,
    /// SHA-256 of the base's parameter names, shapes, and a sample of values.
    pub base: String,
    /// SHA-256 of the encoded training and development split.
    pub data: String,
    /// SHA-256 of the recipe.
    pub recipe: String,
    /// SHA-256 of the bank that adapters start from.
    pub bank: Option<String>,
    /// SHA-256 of a recipe that asks for the same under another name. It is not stored.
    #[serde(skip)]
    pub(super) same_recipe: Option<String>,
}

impl Identity {
    /// Computes the identity of a session's training. `splits` are the hashes of the encoded training and development split.
    ///
    /// # Errors
    /// The recipe cannot be serialized.
    pub fn new<B: VbLoraBackend, M: Module<B>>(
        base: &M,
        splits: [String; 2],
        recipe: &Recipe,
        bank: Option<&Bank>,
        device: &B::Device,
    ) -> Result<Self> {
        Ok(Self {
            backend: B::name(device),
            base: module_hash(base),
            data: sha256_hex(splits),
            recipe: sha256_hex([recipe.to_toml()?]),
            bank: bank.map(Bank::sha256),
            same_recipe: None,
        })
    }

    /// The identity that also accepts checkpoints of a recipe that asks for the same under another name.
    pub(super) fn or_of(self, recipe: &Recipe) -> Result<Self> {
        let same_recipe = Some(sha256_hex([recipe.to_toml()?]));
        Ok(Self {
            same_recipe,
            ..self
        })
    }

    /// The first part in which another identity differs, with both values.
    pub(super) fn difference<'a>(
        &'a self,
        other: &'a Self,
    ) -> Option<(&'static str, &'a str, &'a str)> {
        let bank = |of: &'a Self| of.bank.as_deref().unwrap_or("none");
        let recipe = match &self.same_recipe {
            Some(same) if *same == other.recipe => same,
            _ => &self.recipe,
        };
        [
            ("backend", other.backend.as_str(), self.backend.as_str()),
            ("base model", &other.base, &self.base),
            (DATA, &other.data, &self.data),
            ("recipe", &other.recipe, recipe),
            ("bank", bank(other), bank(self)),
        ]
        .into_iter()
        .find(|(_, there, here)| there != here)
    }
}

/// The number of values at the start and at the end of each parameter that are hashed. Differently trained models differ in nearly all
/// values. All of RoBERTa-base would be half a gigabyte to read back.
const SAMPLE: usize = 64;

/// SHA-256 of the names, shapes and a sample of the values of a module's parameters.
fn module_hash<B: VbLoraBackend, M: Module<B>>(module: &M) -> String {
    let mut sample = Sample {
        path: Vec::new(),
        is_whole: false,
        pieces: Vec::new(),
    };
    module.visit(&mut sample);
    sha256_hex(sample.pieces)
}

struct Sample {
    path: Vec<String>,
    /// True inside a weight in 4 bits, of which every byte is hashed: the same values may be quantised in several ways.
    is_whole: bool,
    pieces: Vec<Vec<u8>>,
}

impl<B: VbLoraBackend> ModuleVisitor<B> for Sample {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.path.push(name.to_owned());
        self.is_whole |= kind == FrozenWeight::<B>::NF4_MODULE;
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.is_whole = false;
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<B, D, Int>>) {
        let value = param.val();
        let described = format!("{} {:?};", self.path.join("."), value.dims());
        let words = value.into_data().convert::<i32>().into_vec::<i32>();
        let words = words.expect("converted to i32 just above");
        let bytes = words.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.pieces.extend([described.into_bytes(), bytes]);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let value = param.val();
        let described = format!("{} {:?};", self.path.join("."), value.dims());
        self.pieces.push(described.into_bytes());
        let n = value.shape().num_elements();
        let flat = value.reshape([n]);
        let few = if self.is_whole { n } else { SAMPLE.min(n) };
        for range in [0..few, n - few..n] {
            let values = host_tensor(flat.clone().slice([range])).values;
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.pieces.push(bytes);
        }
    }
}

/// True for backends on CPUs. Sums of a GPU have no fixed order, even on one device.
pub(super) fn has_fixed_sums(backend: &str) -> bool {
    ["flex", "ndarray"].contains(&backend)
}
