//! The encoder's tensors under their Hugging Face names, for saving a model that this project trained.

use burn::{module::Param, tensor::Tensor};
use vblora::backend::VbLoraBackend;

use super::Roberta;
use crate::HostTensor;

impl<B: VbLoraBackend> Roberta<B> {
    /// Every tensor by its Hugging Face name without prefix, weights as torch stores them (`[d_out, d_in]`).
    pub fn tensors(&self) -> Vec<(String, HostTensor)> {
        let mut out = vec![
            ("embeddings.word_embeddings.weight".into(), self.word_rows()),
            (
                "embeddings.position_embeddings.weight".into(),
                host_tensor(self.embeddings.position.val()),
            ),
            (
                "embeddings.token_type_embeddings.weight".into(),
                host_tensor(self.embeddings.token_type.val()),
            ),
        ];
        let norm = |name: &str, norm: &super::FrozenLayerNorm<B>| {
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
                    host_tensor(linear.weight.val().transpose()),
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

    /// The whole word table. Its pieces meet on the host: together they may be more than the device can hold in one tensor.
    fn word_rows(&self) -> HostTensor {
        let mut table = HostTensor {
            shape: vec![0, self.config.hidden_size],
            values: Vec::new(),
        };
        for piece in &self.embeddings.word {
            let piece = host_tensor(piece.val());
            table.shape[0] += piece.shape[0];
            table.values.extend(piece.values);
        }
        table
    }
}

/// A tensor's values on the host.
pub fn host_tensor<B: VbLoraBackend, const D: usize>(tensor: Tensor<B, D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let values = tensor
        .into_data()
        .convert::<f32>()
        .into_vec()
        .expect("converted to f32 just above");
    HostTensor { shape, values }
}
