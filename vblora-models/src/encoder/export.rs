//! The encoder's tensors under their Hugging Face names, for saving a model that this project trained.

use vblora::{FrozenLinear, backend::VbLoraBackend};

use super::Encoder;
use crate::{
    HostTensor,
    config::{FINAL_NORM, POSITION, RELATIVE, TOKEN_TYPE},
    upload::host_tensor,
};

type Named = Vec<(String, HostTensor)>;

impl<B: VbLoraBackend> Encoder<B> {
    /// Every tensor by its Hugging Face name, weights as torch stores them (`[d_out, d_in]`). Names have the prefix that the model's sites
    /// have.
    pub fn tensors(&self) -> Named {
        let layout = self.config.layout();
        let embeddings = &self.embeddings;
        let mut out = vec![(layout.word.to_owned(), embeddings.word.host())];
        let tables = [
            (POSITION, embeddings.position.as_ref()),
            (TOKEN_TYPE, embeddings.token_type.as_ref()),
            (RELATIVE[0], self.relative.as_ref().map(|r| &r.table)),
        ];
        let tables = tables
            .into_iter()
            .filter_map(|(name, table)| Some((name, table?)));
        out.extend(tables.map(|(name, table)| (name.to_owned(), host_tensor(table.val()))));
        out.extend(embeddings.norm.tensors(layout.embedding_norm));
        for (norm, name) in [
            (self.relative.as_ref().map(|r| &r.norm), RELATIVE[1]),
            (self.final_norm.as_ref(), FINAL_NORM),
        ] {
            out.extend(norm.into_iter().flat_map(|norm| norm.tensors(name)));
        }
        // Sites have the prefix in their names where they have one.
        let prefix = layout.site_prefix();
        for (name, _) in &mut out {
            name.insert_str(0, prefix);
        }
        out.extend(embeddings.project.iter().flat_map(map_tensors));
        let names = [layout.attention_norm, layout.mlp_norm];
        for (index, layer) in self.layers.iter().enumerate() {
            out.extend(layer.linears().flat_map(map_tensors));
            for (name, norm) in names.into_iter().zip(layer.norms()) {
                let name = format!("{prefix}{}", layout.in_block(index, name));
                out.extend(norm.into_iter().flat_map(|norm| norm.tensors(&name)));
            }
        }
        out.extend(self.head.iter().flat_map(|head| map_tensors(&head.dense)));
        let norm = self.head.as_ref().and_then(|head| head.norm.as_ref());
        let named = norm.zip(layout.head.and_then(|(_, norm)| norm));
        out.extend(
            named
                .into_iter()
                .flat_map(|(norm, name)| norm.tensors(name)),
        );
        out
    }
}

fn map_tensors<B: VbLoraBackend>(linear: &FrozenLinear<B>) -> Named {
    let site = linear.site().name;
    let weight = host_tensor(linear.weight.dense().transpose());
    let bias = linear.bias.as_ref();
    let bias = bias.map(|bias| (format!("{site}.bias"), host_tensor(bias.val())));
    std::iter::once((format!("{site}.weight"), weight))
        .chain(bias)
        .collect()
}
