//! Groups of trained parameters, by which an optimizer finds their learning rates and weight decay.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, backend::Backend},
};

/// Parameters that are trained by one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParameterGroup {
    /// VB-LoRA's bank, `[h, b]`.
    Bank,
    /// VB-LoRA's logits, `[S, h]`.
    Logits,
    /// The noise logits of the selection `noisy-topk`, `[S, h]`.
    NoiseLogits,
    /// The number that multiplies every update of a gated VB-LoRA, `[1]`.
    Gate,
    /// Matrices and vectors that factors are made of, in every other method.
    Factors,
}

impl ParameterGroup {
    /// True if sparse selections give these parameters a gradient in only a few columns of each row.
    pub fn is_selected(self) -> bool {
        match self {
            Self::Logits | Self::NoiseLogits => true,
            Self::Bank | Self::Gate | Self::Factors => false,
        }
    }
}

/// The path of every parameter of `module`, as Burn's visitors name it, with its group.
pub(super) fn groups<B: Backend, M: Module<B>>(
    module: &M,
    group: impl Fn(ParamId) -> ParameterGroup,
) -> BTreeMap<String, ParameterGroup> {
    let mut find = Find {
        path: Vec::new(),
        group,
        found: BTreeMap::new(),
    };
    module.visit(&mut find);
    find.found
}

struct Find<F> {
    path: Vec<String>,
    group: F,
    found: BTreeMap<String, ParameterGroup>,
}

impl<B: Backend, F: Fn(ParamId) -> ParameterGroup> ModuleVisitor<B> for Find<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let group = (self.group)(param.id);
        self.found.insert(self.path.join("."), group);
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::{Adapter, AdapterConfig, LoraConfig, Selection, Site, Targets, VbLoraConfig};

    fn groups_of(config: &AdapterConfig) -> Vec<(String, ParameterGroup)> {
        let site = Site::new("query", 4, 4);
        let plan = Targets::all_linear().select(&[site]).unwrap();
        let adapter = config.init::<Flex>(&plan, 1, &Default::default());
        adapter.unwrap().groups().into_iter().collect()
    }

    #[test]
    fn every_parameter_has_its_group() {
        let vblora = VbLoraConfig {
            bank: 3,
            vector_length: 2,
            rank: 1,
            selection: Selection::NoisyTopK,
            gate: true,
            ..Default::default()
        };
        let expected = [
            ("VbLora.bank", ParameterGroup::Bank),
            ("VbLora.gate", ParameterGroup::Gate),
            ("VbLora.logits", ParameterGroup::Logits),
            ("VbLora.noise_logits", ParameterGroup::NoiseLogits),
        ];
        let expected = expected.map(|(path, group)| (path.to_owned(), group));
        assert_eq!(groups_of(&AdapterConfig::VbLora(vblora)), expected);
        let lora = LoraConfig {
            rank: 1,
            ..Default::default()
        };
        let found = groups_of(&AdapterConfig::Lora(lora)).into_iter();
        let found: Vec<_> = found.map(|(_, group)| group).collect();
        assert_eq!(found, [ParameterGroup::Factors; 2]);
    }
}
