//! `train-tokenizer`: trains a byte-level BPE tokenizer in RoBERTa's layout on a text of one sentence per line.
//!
//! It writes the files that the `tokenizers` and `transformers` libraries read: `tokenizer.json`, `tokenizer_config.json` and
//! `special_tokens_map.json`. The same text gives the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};
use vblora_bench::program::say;

use vblora_bench::commands::progress::with_spinner;

/// RoBERTa's special tokens. The index in the list is the token's id.
const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// A pair of tokens that occurs only once is not merged.
const MIN_FREQUENCY: u64 = 2;

type RobertaTokenizer =
    TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, RobertaProcessing, ByteLevel>;

/// Train a byte-level BPE tokenizer in RoBERTa's layout
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Text to train on, one sentence per line
    #[arg(long)]
    corpus: PathBuf,
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
    /// Size of the vocabulary, including the 5 special tokens and the 256 bytes
    #[arg(long, default_value_t = 2000)]
    vocab: usize,
    /// Maximum number of tokens of an input, for the tokenizer's configuration
    #[arg(long, default_value_t = 128)]
    model_max_length: usize,
    /// Task whose sentences are counted in tokens after training
    #[arg(long, default_value = "vblora-bench/assets/demo")]
    demo: PathBuf,
    /// Print the ids of the first N dev sentences, to compare with another implementation
    #[arg(long, default_value_t = 0)]
    show: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let context = || format!("cannot read {}", arguments.corpus.display());
    let text = fs::read_to_string(&arguments.corpus).with_context(context)?;
    let tokenizer = with_spinner("training", || train(&text, arguments.vocab))?;
    write(&tokenizer, arguments)?;
    let sentences = demo_sentences(&arguments.demo)?;
    report(&tokenizer, &sentences)?;
    for sentence in sentences.iter().take(arguments.show) {
        say(format!(
            "{:?}\t{sentence}",
            ids(&tokenizer, sentence, true)?
        ));
    }
    Ok(())
}

fn train(text: &str, vocabulary: usize) -> Result<RobertaTokenizer> {
    let mut tokenizer = untrained()?;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocabulary)
        .min_frequency(MIN_FREQUENCY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special_tokens())
        .build();
    tokenizer
        .train(&mut trainer, text.lines())
        .map_err(|error| anyhow!("training failed: {error}"))?;
    let found = tokenizer.get_vocab_size(true);
    ensure!(
        found == vocabulary,
        "expected a vocabulary of {vocabulary}, found {found}: the least is {} (bytes and special \
         tokens), and more needs more text",
        SPECIAL.len() + ByteLevel::alphabet().len()
    );
    Ok(tokenizer)
}

/// The parts around the merges: no normalization, and GPT-2's split into words and bytes. One sentence becomes `<s> A </s>`, two become
/// `<s> A </s></s> B </s>`.
fn untrained() -> Result<RobertaTokenizer> {
    let bytes = ByteLevel::default().add_prefix_space(false);
    let token = |id: u32| (SPECIAL[id as usize].to_owned(), id);
    TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(
            RobertaProcessing::new(token(2), token(0)).add_prefix_space(false),
        ))
        .with_decoder(Some(bytes))
        .build()
        .map_err(|error| anyhow!("cannot assemble the tokenizer: {error}"))
}

/// `<mask>` takes the blank before it, as in RoBERTa: it replaces a word and its blank.
fn special_tokens() -> Vec<AddedToken> {
    SPECIAL
        .iter()
        .map(|&token| AddedToken::from(token, true).lstrip(token == "<mask>"))
        .collect()
}

fn write(tokenizer: &RobertaTokenizer, arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let text = tokenizer
        .to_string(true)
        .map_err(|error| anyhow!("cannot serialise the tokenizer: {error}"))?;
    write_text(&out.join("tokenizer.json"), &text)?;
    let names = special_names();
    write_json(&out.join("special_tokens_map.json"), &names)?;
    write_json(
        &out.join("tokenizer_config.json"),
        &configuration(names, arguments.model_max_length),
    )
}

fn special_names() -> Value {
    let [begin, pad, end, unknown, mask] = SPECIAL;
    json!({
        "bos_token": begin,
        "cls_token": begin,
        "eos_token": end,
        "sep_token": end,
        "pad_token": pad,
        "unk_token": unknown,
        "mask_token": {
            "content": mask,
            "lstrip": true,
            "normalized": false,
            "rstrip": false,
            "single_word": false,
        },
    })
}

fn configuration(mut names: Value, model_max_length: usize) -> Value {
    names["mask_token"]["__type"] = json!("AddedToken");
    names["mask_token"]["special"] = json!(true);
    names["tokenizer_class"] = json!("RobertaTokenizer");
    names["add_prefix_space"] = json!(false);
    names["trim_offsets"] = json!(true);
    names["model_max_length"] = json!(model_max_length);
    names
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_text(path, &format!("{value:#}\n"))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    say(format!("{} bytes  {}", text.len(), path.display()));
    Ok(())
}

/// The sentences of dev, then those of train, each in the file's order.
fn demo_sentences(folder: &Path) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for name in ["dev.tsv", "train.tsv"] {
        sentences.extend(crate::make_demo_task::sentences(&folder.join(name))?);
    }
    Ok(sentences)
}

fn report(tokenizer: &RobertaTokenizer, sentences: &[String]) -> Result<()> {
    let mut lengths = Vec::with_capacity(sentences.len());
    for sentence in sentences {
        lengths.push(ids(tokenizer, sentence, false)?.len());
    }
    let total: usize = lengths.iter().sum();
    say(format!(
        "{} demo sentences: {:.2} tokens in the mean, {} at most (without <s> and </s>)",
        lengths.len(),
        total as f64 / lengths.len().max(1) as f64,
        lengths.iter().max().unwrap_or(&0)
    ));
    Ok(())
}

fn ids(tokenizer: &RobertaTokenizer, sentence: &str, special: bool) -> Result<Vec<u32>> {
    tokenizer
        .encode(sentence, special)
        .map(|encoding| encoding.get_ids().to_vec())
        .map_err(|error| anyhow!("cannot encode {sentence:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "The cat sleeps on the mat.\nThe cats sleep on the mats.\nWho sleeps here?\n";

    #[test]
    fn special_tokens_have_robertas_places() {
        let tokenizer = train(TEXT, 270).unwrap();
        for (id, token) in SPECIAL.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32), "{token}");
        }
        let ids = ids(&tokenizer, "Who sleeps<mask>?", true).unwrap();
        assert_eq!((ids[0], *ids.last().unwrap()), (0, 2));
        assert!(ids.contains(&4));
    }

    #[test]
    fn two_sentences_are_joined_as_robertas_are() {
        let tokenizer = train(TEXT, 270).unwrap();
        let pair = tokenizer.encode(("a", "b"), true).unwrap();
        let (a, b) = (pair.get_ids()[1], pair.get_ids()[4]);
        assert_eq!(pair.get_ids(), [0, a, 2, 2, b, 2]);
        assert_ne!(a, b);
    }

    #[test]
    fn any_text_comes_back_from_its_ids() {
        let tokenizer = train(TEXT, 270).unwrap();
        let text = "Der Bär — “naïve” 猫 <\u{1f600}>";
        let ids = ids(&tokenizer, text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn training_twice_gives_the_same_bytes() {
        let json = || train(TEXT, 275).unwrap().to_string(true).unwrap();
        assert_eq!(json(), json());
    }

    #[test]
    fn a_vocabulary_the_text_cannot_fill_is_refused() {
        let error = train(TEXT, 5000).unwrap_err().to_string();
        assert!(
            error.starts_with("expected a vocabulary of 5000, found"),
            "{error}"
        );
        let error = train(TEXT, 100).unwrap_err().to_string();
        assert!(error.contains("the least is 261"), "{error}");
    }

    #[test]
    fn transformers_files_name_every_special_token() {
        let names = configuration(special_names(), 64).to_string();
        for token in SPECIAL {
            assert!(names.contains(token), "{token}");
        }
        assert!(names.contains("\"model_max_length\":64"));
    }
}
