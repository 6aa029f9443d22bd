//! The families of encoders, and the features in which they differ.

/// The model that the settings belong to. Code outside the configuration follows the features that the methods give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// RoBERTa (arXiv 1907.11692): positions start at the padding id + 1.
    Roberta,
    /// BERT (arXiv 1810.04805): positions start at 0.
    Bert,
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
    /// The prefix of the encoder's tensors.
    pub prefix: &'static str,
    /// The prefix of the head's first map.
    pub dense: &'static str,
    /// The prefix of the head's last map.
    pub output: &'static str,
    /// The modules that hold the maps, for PEFT's `modules_to_save`.
    pub modules: &'static [&'static str],
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

impl Family {
    pub(super) fn from_model_type(name: &str) -> Option<Self> {
        [Self::Roberta, Self::Bert]
            .into_iter()
            .find(|family| family.name() == name)
    }

    /// The `model_type` of its configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Roberta => "roberta",
            Self::Bert => "bert",
        }
    }

    /// The class of its masked language model in transformers.
    pub(super) fn masked_lm(self) -> &'static str {
        match self {
            Self::Roberta => "RobertaForMaskedLM",
            Self::Bert => "BertForMaskedLM",
        }
    }

    pub(super) fn default_pad(self) -> u32 {
        match self {
            Self::Roberta => 1,
            Self::Bert => 0,
        }
    }

    /// The lowest `pad_token_id` that stands for "no token".
    pub(super) fn lowest_pad(self, vocab_size: usize) -> i64 {
        match self {
            Self::Roberta => -1,
            Self::Bert => -(vocab_size as i64),
        }
    }

    /// How tokens get their positions.
    pub fn positions(self) -> Positions {
        match self {
            Self::Roberta => Positions::Tokens,
            Self::Bert => Positions::Columns,
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
            Self::Roberta => types != 1,
            Self::Bert => true,
        }
    }

    /// The names of a classifier. BERT's pooler holds the head's first map, which is the same without dropout.
    pub fn classifier(self) -> ClassifierNames {
        match self {
            Self::Roberta => ClassifierNames {
                class: "RobertaForSequenceClassification",
                prefix: "roberta.",
                dense: "classifier.dense.",
                output: "classifier.out_proj.",
                modules: &["classifier"],
            },
            Self::Bert => ClassifierNames {
                class: "BertForSequenceClassification",
                prefix: "bert.",
                dense: "bert.pooler.dense.",
                output: "classifier.",
                modules: &["pooler", "classifier"],
            },
        }
    }
}
