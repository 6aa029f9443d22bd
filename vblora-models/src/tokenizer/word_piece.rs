//! BERT's tokenizer from `vocab.txt` alone.

use tokenizers::Tokenizer;
use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::{WORDS, unusable};
use crate::config::TokenizerSettings;
use crate::{ModelFiles, Result};

/// A token a line; its id is the number of the line, from 0.
pub(super) fn from_files(files: &ModelFiles, settings: &TokenizerSettings) -> Result<Tokenizer> {
    let file = files.describe(WORDS);
    let bytes = files.read(WORDS)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(&file, error))?;
    let vocab: Vocab = text.lines().map(str::to_owned).zip(0..).collect();
    let named = settings.token("unk_token");
    let unknown = named.map_or("[UNK]", |token| token.content.as_str());
    if !vocab.contains_key(unknown) {
        return Err(unusable(
            &file,
            format!("it has no token {unknown:?}, which stands for unknown words"),
        ));
    }
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unknown.to_owned())
        .build()
        .map_err(|error| unusable(&file, error))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(Decoder::default()));
    Ok(tokenizer)
}
