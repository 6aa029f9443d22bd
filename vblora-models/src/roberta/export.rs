//! The encoder's tensors under their Hugging Face names, for saving a model that this project trained.

use burn::{module::Param, tensor::Tensor};
use vblora::backend::VbLoraBackend;

use super::Roberta;
use crate::{HostTensor, parts::FrozenLayerNorm, upload::host_tensor};

impl<B: VbLoraBackend> Roberta<B> {
    /// Every tensor by its Hugging Face name without prefix, weights as torch stores them (`[d_out, d_in]`).
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let mut out = vec![
            (
                "embeddings.word_embeddings.weight".into(),
                self.embeddings.word.host(),
            ),
            (
                "embeddings.position_embeddings.weight".into(),
                host_tensor(self.embeddings.position.val()),
            ),
            (
                "embeddings.token_type_embeddings.weight".into(),
                host_tensor(self.embeddings.token_type.val()),
            ),
        ];
        let norm = |name: &str, norm: &FrozenLayerNorm<B>| {
            let values = |param: &Param<Tensor<B, 1>>| host_tensor(param.val());
            [
                (format!("{name}.weight"), values(&norm.gamma)),
                (format!("{name}.bias"), values(&norm.beta)),
            ]
        };
        out.extend(norm("embeddings.LayerNorm", &self.embeddings.norm));
        for (index, layer) in self.layers.iter().enumerate() {
            for linear in layer.linears() {
                let site = linear.site().name;
                out.push((
                    format!("{site}.weight"),
                    host_tensor(linear.weight.dense().transpose()),
                ));
                out.extend(
                    linear
                        .bias
                        .as_ref()
                        .map(|bias| (format!("{site}.bias"), host_tensor(bias.val()))),
                );
            }
            for (name, values) in layer.norms() {
                out.extend(norm(&format!("encoder.layer.{index}.{name}"), values));
            }
        }
        out
    }
}
