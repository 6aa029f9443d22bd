//! Byte-level BPE from `vocab.json` and `merges.txt`: RoBERTa's, and GPT-2's.

use std::collections::BTreeMap;

use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use vblora::storage::strict_json;

use super::{MERGES, VOCAB, unusable};
use crate::config::TokenizerSettings;
use crate::{Error, ModelFiles, Result};

/// With `<s>` in front of texts and `</s>` after them.
pub(super) fn roberta(files: &ModelFiles, settings: &TokenizerSettings) -> Result<Tokenizer> {
    let vocab = vocab(files)?;
    let file = files.describe(VOCAB);
    let frame = |name: &str, default: &str| {
        let named = settings.token(name);
        let token = named.map_or(default, |token| token.content.as_str());
        match vocab.get(token) {
            Some(&id) => Ok((token.to_owned(), id)),
            None => Err(unusable(
                &file,
                format!("it has no token {token:?}, which RoBERTa needs"),
            )),
        }
    };
    let (first, last) = (frame("cls_token", "<s>")?, frame("sep_token", "</s>")?);
    let mut tokenizer = assemble(files, vocab, settings)?;
    let processing = RobertaProcessing::new(last, first)
        .trim_offsets(true)
        .add_prefix_space(false);
    tokenizer.with_post_processor(Some(processing));
    Ok(tokenizer)
}

/// With nothing before texts or after them.
pub(super) fn gpt2(files: &ModelFiles, settings: &TokenizerSettings) -> Result<Tokenizer> {
    assemble(files, vocab(files)?, settings)
}

fn vocab(files: &ModelFiles) -> Result<BTreeMap<String, u32>> {
    read_vocab(&files.read(VOCAB)?, &files.describe(VOCAB))
}

fn assemble(
    files: &ModelFiles,
    vocab: BTreeMap<String, u32>,
    settings: &TokenizerSettings,
) -> Result<Tokenizer> {
    let merges = read_merges(&files.read(MERGES)?, &files.describe(MERGES))?;
    let vocab: Vocab = vocab.into_iter().collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .build()
        .map_err(|error| unusable(&files.describe(MERGES), error))?;
    let byte_level = ByteLevel::new(settings.add_prefix_space.unwrap_or(false), true, true);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_pre_tokenizer(Some(byte_level))
        .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
    Ok(tokenizer)
}

fn read_vocab(bytes: &[u8], file: &str) -> Result<BTreeMap<String, u32>> {
    strict_json::from_slice(bytes).map_err(|problem| Error::Json {
        file: file.to_owned(),
        problem,
    })
}

/// One merge a line: two tokens and a space between. The first line may be `#version: ...`.
fn read_merges(bytes: &[u8], file: &str) -> Result<Merges> {
    let text = std::str::from_utf8(bytes).map_err(|error| unusable(file, error))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"))
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right))
                if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
            {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => {
                let number = number + 1;
                let problem = format!("line {number}: expected two tokens, found {line:?}");
                Err(unusable(file, problem))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TextTokenizer;
    use std::path::Path;

    const VOCABULARY: &str = r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"<mask>":4,"l":5,"o":6,"w":7,"Ġ":8,"lo":9,"low":10,"Ġlow":11}"#;

    fn tokenizer(vocab: &str, merges: &str) -> Result<TextTokenizer> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(VOCAB), vocab).unwrap();
        std::fs::write(dir.path().join(MERGES), merges).unwrap();
        TextTokenizer::from_files(&ModelFiles::open(dir.path()).unwrap())
    }

    #[test]
    fn merges_apply_in_order_and_pairs_have_two_ends_between() {
        let merges = "#version: 0.2\nl o\nlo w\nĠ low\n";
        let tokenizer = tokenizer(VOCABULARY, merges).unwrap();
        let texts = [("low low", None), ("low", Some("lo")), ("low <mask>", None)];
        let encoded = tokenizer.encode_batch(&texts, 16).unwrap();
        assert_eq!(encoded[0].ids, [0, 10, 11, 2]);
        assert_eq!(encoded[1].ids, [0, 10, 2, 2, 9, 2]);
        assert_eq!(encoded[1].type_ids, [0; 6]);
        // The space before <mask> belongs to it.
        assert_eq!(encoded[2].ids, [0, 10, 4, 2]);
        assert_eq!(tokenizer.decode(&encoded[0].ids).unwrap(), "low low");
    }

    #[test]
    fn bad_files_are_named_with_line_or_token() {
        let cases = [
            (VOCABULARY, "l o\nlow\n", "merges.txt", "line 2"),
            (VOCABULARY, "l o w\n", "merges.txt", "line 1"),
            (VOCABULARY, "l x\n", "merges.txt", "x"),
            (r#"{"a":0,"</s>":1,"<pad>":2}"#, "", "vocab.json", "\"<s>\""),
            (r#"{"a":-1}"#, "", "vocab.json", "-1"),
            ("[", "", "vocab.json", "expected a map"),
        ];
        for (vocab, merges, file, cause) in cases {
            let error = tokenizer(vocab, merges).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(cause), "{error}");
        }
    }

    /// Values of the Python package `tokenizers` 0.23.3 on the same files.
    #[test]
    #[allow(clippy::print_stderr)] // The reason for a skip.
    fn matches_tokenizers_on_gpt2() {
        let dir = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/models/gpt2-tokenizer"
        ));
        let Ok(vocab) = std::fs::read_to_string(dir.join(VOCAB)) else {
            eprintln!("skipped: no {}", dir.display());
            return;
        };
        let merges = std::fs::read_to_string(dir.join(MERGES)).unwrap();
        let specials = r#","<s>":50257,"<pad>":50258,"</s>":50259}"#;
        let vocab = format!("{}{specials}", vocab.trim_end().strip_suffix('}').unwrap());
        let tokenizer = tokenizer(&vocab, &merges).unwrap();
        let texts = [("Hello world", None), ("I'm 42, naïve — 日本!  ok", None)];
        let encoded = tokenizer.encode_batch(&texts, 64).unwrap();
        assert_eq!(encoded[0].ids, [50257, 15496, 995, 50259]);
        let expected = [
            40, 1101, 5433, 11, 41492, 851, 10545, 245, 98, 17312, 105, 0, 220, 12876,
        ];
        assert_eq!(encoded[1].ids[1..15], expected);
        assert_eq!(tokenizer.decode(&encoded[1].ids).unwrap(), texts[1].0);
        assert_eq!(tokenizer.largest_id(), 50259);
    }
}
