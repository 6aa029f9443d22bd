//! Errors of a model's files. Each text says enough for the reader to act.

use std::fmt;
use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure to find, read, understand or write a model's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The adapter library's error: a target rule, a tensor too large for a device, a device that failed.
    #[error(transparent)]
    Adapter(#[from] vblora::Error),

    /// The model's directory is not there.
    #[error("no such directory: {}", path.display())]
    NoDirectory {
        /// The path as given.
        path: PathBuf,
    },

    /// The model's path is there but is no directory.
    #[error("{} is not a directory; a model is a directory with config.json, model.safetensors and a tokenizer", path.display())]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
    },

    /// None of the files that would do is in the model.
    #[error("{place} has no {wanted}")]
    NoFile {
        /// Directory or label of the model.
        place: String,
        /// The file, or the alternatives, looked for.
        wanted: String,
    },

    /// A file name that is more than a name (a path, or `..`).
    #[error("{found_in}: {name:?} is not a plain file name")]
    NotAFileName {
        /// The file or flag that has the name.
        found_in: String,
        /// The name.
        name: String,
    },

    /// The operating system refused to read or write.
    #[error("{file}: {cause}")]
    Io {
        /// The file.
        file: String,
        /// The cause.
        cause: std::io::Error,
    },

    /// A JSON file that does not parse, or has another structure.
    #[error("{file}: not the JSON expected: {problem}")]
    Json {
        /// The file.
        file: String,
        /// The cause, with its line and column when known.
        problem: String,
    },

    /// A safetensors file whose header does not describe its contents.
    #[error("{file}: not a valid safetensors file: {problem}")]
    Safetensors {
        /// The file.
        file: String,
        /// The cause: header length, offsets, shape.
        problem: String,
    },

    /// A tensor is in none of the model's files.
    #[error("{file}: no tensor {tensor:?}")]
    NoTensor {
        /// The file or index searched.
        file: String,
        /// The tensor.
        tensor: String,
    },

    /// A tensor has another shape than the configuration asks for.
    #[error("{file}: {tensor}")]
    Shape {
        /// The file that holds the tensor.
        file: String,
        /// Name, expected and found shape.
        tensor: Misshapen,
    },

    /// A tensor that cannot be read as f32 values.
    #[error("{file}: tensor {tensor:?}: {problem}")]
    Tensor {
        /// The file that holds the tensor.
        file: String,
        /// The tensor.
        tensor: String,
        /// The cause: its type, or a value that is not finite.
        problem: String,
    },

    /// A checkpoint does not hold exactly the tensors of the model. Nothing was loaded.
    #[error("{file} does not fit the model:{}", Listing(.missing, .unexpected, .misshapen, .unreadable))]
    Weights {
        /// The checkpoint.
        file: String,
        /// Tensors the model needs and the checkpoint lacks.
        missing: Vec<String>,
        /// Tensors the checkpoint has and the model does not know.
        unexpected: Vec<String>,
        /// Tensors with another shape than the model's.
        misshapen: Vec<Misshapen>,
        /// Tensors that could not be read as f32, each with the cause.
        unreadable: Vec<String>,
    },

    /// Tensors that an adapter saved have no place in the model. Nothing was loaded.
    #[error("{place}: tensors saved with the adapter do not fit the model:{}", Listing(&[], .unexpected, .misshapen, &[]))]
    SavedTensors {
        /// The adapter.
        place: String,
        /// Tensors that the model does not have.
        unexpected: Vec<String>,
        /// Tensors with another shape than the model's.
        misshapen: Vec<Misshapen>,
    },

    /// `config.json` describes a model that this crate does not have.
    #[error(
        "{file}: config of another architecture: model_type is {found:?}, supported are {supported}"
    )]
    OtherArchitecture {
        /// The configuration file.
        file: String,
        /// Its `model_type`.
        found: String,
        /// The model types that can be loaded.
        supported: String,
    },

    /// A field of `config.json` is missing, of the wrong type, or has an impossible value.
    #[error("{file}: field {field:?}: {problem}")]
    Config {
        /// The configuration file.
        file: String,
        /// The field.
        field: String,
        /// The expected and the found value.
        problem: String,
    },

    /// A tokenizer file that cannot be used.
    #[error("{file}: not a usable tokenizer: {problem}")]
    Tokenizer {
        /// The tokenizer file.
        file: String,
        /// The cause.
        problem: String,
    },

    /// The tokenizer can give ids for which the model has no embedding.
    #[error(
        "{file}: the tokenizer does not fit the model: token {token:?} has id {id}, but the vocabulary size is {vocab_size} (ids 0 to {})",
        vocab_size.saturating_sub(1)
    )]
    TokenizerDoesNotFit {
        /// The tokenizer file.
        file: String,
        /// The token with the largest id.
        token: String,
        /// That id.
        id: u32,
        /// Rows of the model's token embedding.
        vocab_size: usize,
    },

    /// A text has a token for which the model has no embedding.
    #[error(
        "{file}: a text becomes token {token:?} with id {id}, but the model's vocabulary has {vocab_size} (ids 0 to {})",
        vocab_size.saturating_sub(1)
    )]
    TokenBeyondVocabulary {
        /// The tokenizer file.
        file: String,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's token embedding.
        vocab_size: usize,
    },

    /// A pair of texts has token types for which the model has no embedding.
    #[error(
        "{file}: gives texts the token type {found}, but the model has types 0 to {} (type_vocab_size {type_vocab_size} of config.json)",
        type_vocab_size.saturating_sub(1)
    )]
    TokenType {
        /// The tokenizer file.
        file: String,
        /// The highest token type.
        found: u32,
        /// Rows of the model's token-type embedding.
        type_vocab_size: usize,
    },

    /// The maximum length leaves no room for text.
    #[error("maximum length {max_length} leaves no room for text: {special} special tokens are added to each example, so it must be at least {}", special + 1)]
    MaxLength {
        /// The maximum length asked for, in tokens.
        max_length: usize,
        /// Special tokens that every example gets.
        special: usize,
    },

    /// A prompt that leaves no room for an answer.
    #[error(
        "prompt {row} has {tokens} tokens, but the model takes {capacity} in a row, prompt and answer together"
    )]
    PromptTooLong {
        /// Its number, from 0.
        row: usize,
        /// Its length.
        tokens: usize,
        /// The most tokens that a row can have.
        capacity: usize,
    },

    /// A chat template that does not parse, or that refuses the messages.
    #[error("{file}: chat template{}: {problem}", line.map_or(String::new(), |line| format!(", line {line}")))]
    ChatTemplate {
        /// The file.
        file: String,
        /// The template's line, when known.
        line: Option<usize>,
        /// The cause.
        problem: String,
    },

    /// The model gave a logit of the next token that is NaN or infinite.
    #[error("row {row}: a logit of new token {step} is {logit}")]
    Logits {
        /// The row, from 0.
        row: usize,
        /// New tokens before it.
        step: usize,
        /// NaN or infinity.
        logit: f32,
    },

    /// A text has more tokens than the model has positions for.
    #[error("a text of {length} tokens, but the model has positions for {limit}")]
    TooLong {
        /// Tokens of the text.
        length: usize,
        /// The model's positions, or the room of a memory.
        limit: usize,
    },

    /// A token that the model does not know.
    #[error("token id {id}, but the model's vocabulary has {vocab_size} (ids 0 to {})", vocab_size.saturating_sub(1))]
    NoSuchToken {
        /// The id.
        id: i64,
        /// Rows of the model's token embedding.
        vocab_size: usize,
    },

    /// A text without a token where at least one is needed.
    #[error("text {row} is empty; a model needs at least one token to go on from")]
    EmptyText {
        /// The number of the text, from 0.
        row: usize,
    },

    /// A model name that is neither an existing directory nor a hub id.
    #[error("{model:?} is neither a directory nor a hub id (\"owner/name\" or \"name\")")]
    NotAModel {
        /// The name as given.
        model: String,
    },

    /// A hub id was given to a build that cannot download.
    #[error("{model:?} is no directory here; to take it as a hub id, build with `--features hub`")]
    NoHubFeature {
        /// The name as given.
        model: String,
    },

    /// The hub did not give the model's files.
    #[error(
        "cannot get model {model:?} (revision {revision}) from the hub: {problem}; a local directory needs no network"
    )]
    Hub {
        /// The hub id.
        model: String,
        /// Branch, tag or commit.
        revision: String,
        /// The file asked for and the cause.
        problem: String,
    },
}

/// A tensor with another shape than the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name in the checkpoint.
    pub tensor: String,
    /// The model's shape.
    pub expected: Vec<usize>,
    /// The checkpoint's shape.
    pub found: Vec<usize>,
}

impl fmt::Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tensor,
            expected,
            found,
        } = self;
        write!(
            f,
            "tensor {tensor:?}: expected shape {expected:?}, found {found:?}"
        )
    }
}

/// How many items of each list are shown: a configuration of another model has every tensor in another shape.
const LISTED: usize = 20;

/// The non-empty lists of [`Error::Weights`], one item a line.
struct Listing<'a>(&'a [String], &'a [String], &'a [Misshapen], &'a [String]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        section(f, "missing", self.0)?;
        section(f, "unexpected", self.1)?;
        section(f, "misshapen", self.2)?;
        section(f, "unreadable", self.3)
    }
}

fn section<T: fmt::Display>(f: &mut fmt::Formatter<'_>, title: &str, items: &[T]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {title} ({}):", items.len())?;
    let mut listed = items.iter().take(LISTED);
    listed.try_for_each(|item| write!(f, "\n    {item}"))?;
    match items.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => write!(f, "\n    and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_error_lists_every_tensor_once_and_leaves_empty_sections_out() {
        let error = Error::Weights {
            file: "m/model.safetensors".into(),
            missing: vec!["a.weight".into(), "b.bias".into()],
            unexpected: vec![],
            misshapen: vec![Misshapen {
                tensor: "c".into(),
                expected: vec![2, 3],
                found: vec![3, 2],
            }],
            unreadable: vec![],
        };
        assert_eq!(
            error.to_string(),
            "m/model.safetensors does not fit the model:\n  missing (2):\n    a.weight\n    b.bias\n  misshapen (1):\n    tensor \"c\": expected shape [2, 3], found [3, 2]"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let error = Error::Weights {
            file: "m".into(),
            missing: (0..LISTED + 5).map(|i| format!("t{i}")).collect(),
            unexpected: vec![],
            misshapen: vec![],
            unreadable: vec![],
        };
        let text = error.to_string();
        assert!(
            text.contains("missing (25):") && text.ends_with("    t19\n    and 5 more"),
            "{text}"
        );
    }
}
