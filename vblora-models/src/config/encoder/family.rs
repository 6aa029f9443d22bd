//! The families of encoders, and the features in which they differ.

use super::{
    features::HeadActivation,
    layout::{self, EncoderLayout},
};
use crate::Activation;

/// The model that the settings belong to. Code outside the configuration follows the features that the methods give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// RoBERTa (arXiv 1907.11692): positions start at the padding id + 1.
    Roberta,
    /// BERT (arXiv 1810.04805): positions start at 0.
    Bert,
    /// XLM-RoBERTa (arXiv 1911.02116): RoBERTa for a hundred languages.
    XlmRoberta,
    /// DistilBERT (arXiv 1910.01108): BERT without token types.
    DistilBert,
    /// ELECTRA (arXiv 2003.10555): BERT whose embeddings may be narrower than its blocks.
    Electra,
    /// ModernBERT (arXiv 2412.13663): norms before, rotary positions, gated MLPs, local and global layers.
    ModernBert,
    /// DeBERTa-v3 (arXiv 2111.09543), whose `model_type` is `deberta-v2`: scores of relative positions.
    DebertaV2,
}

/// How tokens get rows of the position embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Columns count from 0, padding included.
    Columns,
    /// Tokens that are not padding count from the padding id + 1. Padding stays at the padding id.
    Tokens,
}

/// The names in transformers of an encoder with a classification head of two maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifierNames {
    /// The class of the model.
    pub class: &'static str,
    /// The prefix of the encoder's sites and tensors; empty where their names have it already.
    pub prefix: &'static str,
    /// The prefix of the head's first map.
    pub dense: &'static str,
    /// The prefix of the head's last map.
    pub output: &'static str,
    /// The modules that hold the maps, for PEFT's `modules_to_save`.
    pub modules: &'static [&'static str],
    /// True if the first map is trained with the head; else it is a frozen part of the base.
    pub has_dense: bool,
    /// The setting of the head's dropout in `config.json`.
    pub dropout: &'static str,
}

/// The prefixes of the maps of a [`ClassificationHead`](crate::ClassificationHead).
const HEAD: [&str; 2] = ["classifier.dense.", "classifier.out_proj."];

impl ClassifierNames {
    /// The name in transformers of a tensor of a [`ClassificationHead`](crate::ClassificationHead).
    pub fn written(&self, tensor: &str) -> String {
        let own = [self.dense, self.output];
        renamed(tensor, HEAD, own).unwrap_or_else(|| tensor.to_owned())
    }

    /// The name in a [`ClassificationHead`](crate::ClassificationHead) of a tensor of transformers' model. Other names stay.
    pub fn read(&self, tensor: &str) -> String {
        let own = [self.dense, self.output];
        renamed(tensor, own, HEAD).unwrap_or_else(|| tensor.to_owned())
    }
}

/// The name of a map's weight or bias with another prefix; `None` for any other tensor.
fn renamed(tensor: &str, from: [&str; 2], to: [&str; 2]) -> Option<String> {
    from.into_iter().zip(to).find_map(|(from, to)| {
        let leaf = tensor.strip_prefix(from)?;
        ["weight", "bias"]
            .contains(&leaf)
            .then(|| format!("{to}{leaf}"))
    })
}

/// The names of settings in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) hidden_size: &'static str,
    pub(super) num_layers: &'static str,
    pub(super) num_heads: &'static str,
    pub(super) intermediate_size: &'static str,
    pub(super) activation: &'static str,
    pub(super) hidden_dropout: &'static str,
    pub(super) attention_dropout: &'static str,
    pub(super) classifier_dropout: &'static str,
    /// `None` where code fixes it.
    pub(super) norm_eps: Option<&'static str>,
}

/// BERT's.
const KEYS: Keys = Keys {
    hidden_size: "hidden_size",
    num_layers: "num_hidden_layers",
    num_heads: "num_attention_heads",
    intermediate_size: "intermediate_size",
    activation: "hidden_act",
    hidden_dropout: "hidden_dropout_prob",
    attention_dropout: "attention_probs_dropout_prob",
    classifier_dropout: "classifier_dropout",
    norm_eps: Some("layer_norm_eps"),
};

impl Family {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Roberta,
        Self::Bert,
        Self::XlmRoberta,
        Self::DistilBert,
        Self::Electra,
        Self::ModernBert,
        Self::DebertaV2,
    ];

    pub(in crate::config) fn from_model_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The list of all names, for messages.
    pub(super) fn names() -> String {
        let names = Self::ALL.map(|family| format!("{:?}", family.name()));
        let (last, others) = names.split_last().expect("there are families");
        format!("{} and {last}", others.join(", "))
    }

    /// The `model_type` of its configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Roberta => "roberta",
            Self::Bert => "bert",
            Self::XlmRoberta => "xlm-roberta",
            Self::DistilBert => "distilbert",
            Self::Electra => "electra",
            Self::ModernBert => "modernbert",
            Self::DebertaV2 => "deberta-v2",
        }
    }

    /// The class of its masked language model in transformers.
    pub(super) fn masked_lm(self) -> &'static str {
        match self {
            Self::Roberta => "RobertaForMaskedLM",
            Self::Bert => "BertForMaskedLM",
            Self::XlmRoberta => "XLMRobertaForMaskedLM",
            Self::DistilBert => "DistilBertForMaskedLM",
            Self::Electra => "ElectraForMaskedLM",
            Self::ModernBert => "ModernBertForMaskedLM",
            Self::DebertaV2 => "DebertaV2ForMaskedLM",
        }
    }

    pub(crate) fn layout(self) -> EncoderLayout {
        match self {
            Self::Roberta | Self::XlmRoberta => layout::ROBERTA,
            Self::Bert => layout::BERT,
            Self::DistilBert => layout::DISTILBERT,
            Self::Electra => layout::ELECTRA,
            Self::ModernBert => layout::MODERNBERT,
            Self::DebertaV2 => layout::DEBERTA,
        }
    }

    pub(super) fn keys(self) -> Keys {
        match self {
            Self::Roberta | Self::Bert | Self::XlmRoberta | Self::Electra => KEYS,
            Self::DistilBert => Keys {
                hidden_size: "dim",
                num_layers: "n_layers",
                num_heads: "n_heads",
                intermediate_size: "hidden_dim",
                activation: "activation",
                hidden_dropout: "dropout",
                attention_dropout: "attention_dropout",
                classifier_dropout: "seq_classif_dropout",
                norm_eps: None,
            },
            Self::ModernBert => Keys {
                activation: "hidden_activation",
                hidden_dropout: "mlp_dropout",
                attention_dropout: "attention_dropout",
                norm_eps: Some("norm_eps"),
                ..KEYS
            },
            Self::DebertaV2 => Keys {
                classifier_dropout: "cls_dropout",
                ..KEYS
            },
        }
    }

    pub(super) fn default_pad(self) -> u32 {
        match self {
            Self::Roberta | Self::XlmRoberta => 1,
            Self::Bert | Self::DistilBert | Self::Electra | Self::DebertaV2 => 0,
            Self::ModernBert => 50_283,
        }
    }

    pub(super) fn default_eps(self) -> f64 {
        match self {
            Self::Roberta | Self::Bert | Self::XlmRoberta | Self::DistilBert | Self::Electra => {
                1e-12
            }
            Self::ModernBert => 1e-5,
            Self::DebertaV2 => 1e-7,
        }
    }

    pub(super) fn default_dropout(self) -> f64 {
        match self {
            Self::ModernBert => 0.0,
            Self::Roberta
            | Self::Bert
            | Self::XlmRoberta
            | Self::DistilBert
            | Self::Electra
            | Self::DebertaV2 => 0.1,
        }
    }

    /// The number of token types where a configuration does not say it; `None` where it must.
    pub(super) fn default_types(self) -> Option<usize> {
        match self {
            Self::Roberta | Self::Bert | Self::XlmRoberta => None,
            Self::Electra => Some(2),
            Self::DistilBert | Self::ModernBert | Self::DebertaV2 => Some(0),
        }
    }

    /// Returns true if a configuration may give it token types.
    pub(super) fn has_types(self) -> bool {
        !matches!(self, Self::DistilBert | Self::ModernBert)
    }

    /// Returns true if its configurations say how wide the embeddings are.
    pub(super) fn writes_embedding_size(self) -> bool {
        self == Self::Electra
    }

    /// The lowest `pad_token_id` that stands for "no token".
    pub(super) fn lowest_pad(self, vocab_size: usize) -> i64 {
        match self.positions() {
            Positions::Tokens => -1,
            Positions::Columns => -(vocab_size as i64),
        }
    }

    /// How tokens get their positions.
    pub fn positions(self) -> Positions {
        match self {
            Self::Roberta | Self::XlmRoberta => Positions::Tokens,
            Self::Bert | Self::DistilBert | Self::Electra | Self::ModernBert | Self::DebertaV2 => {
                Positions::Columns
            }
        }
    }

    /// Row of the position embedding that the first token gets.
    pub fn position_offset(self, pad_token_id: u32) -> usize {
        match self.positions() {
            Positions::Tokens => pad_token_id as usize + 1,
            Positions::Columns => 0,
        }
    }

    /// Returns true if the tokenizer gives token types to a model with `types` of them. A RoBERTa with one type gets none.
    pub(crate) fn takes_types(self, types: usize) -> bool {
        match self {
            Self::Roberta | Self::XlmRoberta => types != 1,
            Self::Bert | Self::Electra => true,
            Self::DistilBert | Self::ModernBert => false,
            Self::DebertaV2 => types > 0,
        }
    }

    /// The function after the head's first map where no setting names one.
    pub(super) fn head_activation(self) -> HeadActivation {
        match self {
            Self::Roberta | Self::Bert | Self::XlmRoberta => HeadActivation::Tanh,
            Self::DistilBert => HeadActivation::Of(Activation::Relu),
            Self::Electra | Self::ModernBert | Self::DebertaV2 => {
                HeadActivation::Of(Activation::Gelu)
            }
        }
    }

    /// Returns true if dropout comes before the head's first map too. BERT's pooler has none in transformers; as the trained head of RoBERTa's
    /// form it has.
    pub(super) fn drops_head_input(self) -> bool {
        match self {
            Self::Roberta | Self::Bert | Self::XlmRoberta | Self::Electra => true,
            Self::DistilBert | Self::ModernBert | Self::DebertaV2 => false,
        }
    }

    /// The names of a classifier whose two maps are trained. BERT's pooler holds the head's first map, which is the same without dropout.
    pub fn classifier(self) -> ClassifierNames {
        let names = ClassifierNames {
            class: "RobertaForSequenceClassification",
            prefix: self.classifier_prefix(),
            dense: "classifier.dense.",
            output: "classifier.out_proj.",
            modules: &["classifier"],
            has_dense: true,
            dropout: self.keys().classifier_dropout,
        };
        match self {
            Self::Roberta => names,
            Self::XlmRoberta => ClassifierNames {
                class: "XLMRobertaForSequenceClassification",
                ..names
            },
            Self::Electra => ClassifierNames {
                class: "ElectraForSequenceClassification",
                ..names
            },
            Self::Bert => ClassifierNames {
                class: "BertForSequenceClassification",
                dense: "bert.pooler.dense.",
                output: "classifier.",
                modules: &["pooler", "classifier"],
                ..names
            },
            Self::DistilBert => ClassifierNames {
                class: "DistilBertForSequenceClassification",
                dense: "pre_classifier.",
                output: "classifier.",
                modules: &["pre_classifier", "classifier"],
                ..names
            },
            Self::DebertaV2 => ClassifierNames {
                class: "DebertaV2ForSequenceClassification",
                dense: "pooler.dense.",
                output: "classifier.",
                modules: &["pooler", "classifier"],
                ..names
            },
            Self::ModernBert => ClassifierNames {
                class: "ModernBertForSequenceClassification",
                dense: "head.dense.",
                output: "classifier.",
                ..names
            },
        }
    }

    fn classifier_prefix(self) -> &'static str {
        let layout = self.layout();
        match layout.full_sites {
            true => "",
            false => layout.prefix,
        }
    }
}
