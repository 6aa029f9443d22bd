//! Hugging Face PEFT's adapter directories, `adapter_config.json` and `adapter_model.safetensors`, both ways.
//!
//! | method | tensors per module, under `base_model.model.MODULE.` | dtype and shape |
//! | --- | --- | --- |
//! | VB-LoRA, all logits | `vblora_logits_A`, `vblora_logits_B` | f32 `[r, d_in / b, h]`, `[d_out / b, r, h]` |
//! | VB-LoRA, top-k only | the same names and `_topk_indices`; and `_topk_weights` | u8, i16 or i32, last dimension k; f32, last dimension k - 1 |
//! | LoRA | `lora_A.weight`, `lora_B.weight` | f32 `[r, d_in]`, `[d_out, r]` |
//! | VeRA | `vera_lambda_d`, `vera_lambda_b` | f32 `[r]`, `[d_out]` |
//!
//! The file also holds the bank, `base_model.vblora_vector_bank` `[h, b]`, or VeRA's random matrices, `base_model.vera_A` `[r, largest
//! d_in]` and `base_model.vera_B` `[largest d_out, r]`. It holds the tensors of `modules_to_save`. PEFT saves embeddings and output layers
//! unasked if the vocabulary was resized or they are adapted. Unlike PEFT, this reader believes the tensors, not the flag
//! `save_only_topk_weights`. It refuses tensors that do not fit: see [`PeftDirectory`].
//!
//! Every field of PEFT 0.21's configurations is applied, known to change nothing, or refused by its name. A field that PEFT does not have
//! is refused unless it is empty.

mod config;
mod fields;
mod read;
mod rules;
mod tensors;
mod write;

pub use config::{PeftConfig, PeftMethod};
pub use read::PeftDirectory;

use super::{HostAdapter, HostTensor};

/// The file of an adapter's settings. A directory with it is an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// The file of an adapter's tensors.
pub const TENSORS: &str = "adapter_model.safetensors";
/// The prefix of every tensor of the model.
const ROOT: &str = "base_model.model.";
const BANK: &str = "base_model.vblora_vector_bank";

/// The parts of a module's adapter in each form, down factor first.
const FULL: &[&str] = &["vblora_logits_A", "vblora_logits_B"];
const TOPK: &[&str] = &[
    "vblora_logits_A_topk_indices",
    "vblora_logits_B_topk_indices",
    "vblora_logits_A_topk_weights",
    "vblora_logits_B_topk_weights",
];
const LORA: &[&str] = &["lora_A.weight", "lora_B.weight"];
const VERA: &[&str] = &["vera_lambda_d", "vera_lambda_b"];
/// The part between the name of an adapted module and the names of its frozen tensors.
const BASE_LAYER: &str = ".base_layer";
/// VeRA's random matrices.
const VERA_SHARED: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];

/// An adapter as a PEFT directory holds it, bound to a model's sites.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftAdapter {
    /// The adapter.
    pub adapter: HostAdapter,
    /// The prefix of the sites' names in the model that PEFT wraps, such as `roberta.`.
    pub prefix: String,
    /// The names that `modules_to_save` lists.
    pub modules_to_save: Vec<String>,
    /// The tensors of modules saved in full, shaped as torch stores them. Their names are those in the wrapped model, such as
    /// `classifier.dense.weight`. They are those of `modules_to_save`, and embeddings and output layers that PEFT saved unasked. They take
    /// the place of the base's. The weight of an adapted module may be among them; the update is then added to it.
    pub saved: Vec<(String, HostTensor)>,
    /// PEFT's task type, such as `SEQ_CLS`.
    pub task_type: Option<String>,
    /// The base's hub id or directory, as far as it is recorded.
    pub base_model: Option<String>,
    /// True if the base stores its weights `[d_in, d_out]`, as GPT-2 does.
    pub fan_in_fan_out: bool,
}

impl PeftAdapter {
    /// An adapter alone, on a model whose modules are named as the sites are.
    pub fn new(adapter: HostAdapter) -> Self {
        Self {
            adapter,
            prefix: String::new(),
            modules_to_save: Vec::new(),
            saved: Vec::new(),
            task_type: None,
            base_model: None,
            fan_in_fan_out: false,
        }
    }
}

/// The heads of PEFT's classification models. It lists both for each of them, and a model has one.
const HEADS: [&str; 2] = ["classifier", "score"];

/// True if a tensor belongs to a module whose name ends in `listed`, or to a module below such a one.
pub(super) fn is_of(listed: &str, tensor: &str) -> bool {
    let mut found = tensor.match_indices(listed);
    found.any(|(at, found)| tensor[at + found.len()..].starts_with('.'))
}

/// The first of `modules_to_save` that has none of the tensors.
fn unsaved<'a, 'b>(
    modules_to_save: &'a [String],
    tensors: impl Iterator<Item = &'b String> + Clone,
) -> Option<&'a str> {
    let has = |module: &str| tensors.clone().any(|tensor| is_of(module, tensor));
    let is_excused = |module: &str| HEADS.contains(&module) && HEADS.into_iter().any(&has);
    let mut listed = modules_to_save.iter().map(String::as_str);
    listed.find(|module| !has(module) && !is_excused(module))
}

/// Turns `[outer, inner, width]` into `[inner, outer, width]`. In PEFT's B the tiles come first, in this library's factors the rank does.
fn swap<T: Copy>(values: &[T], [outer, inner, width]: [usize; 3]) -> Vec<T> {
    (0..inner)
        .flat_map(|i| (0..outer).map(move |o| (o * inner + i) * width))
        .flat_map(|start| values[start..start + width].iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapping_twice_changes_nothing() {
        let values: Vec<u32> = (0..24).collect();
        let swapped = swap(&values, [2, 3, 4]);
        assert_eq!(swapped[..8], [0, 1, 2, 3, 12, 13, 14, 15]);
        assert_eq!(swap(&swapped, [3, 2, 4]), values);
        assert!(swap::<u32>(&[], [2, 3, 0]).is_empty());
    }
}
