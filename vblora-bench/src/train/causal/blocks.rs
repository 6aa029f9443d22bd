//! Documents as blocks of the same length.

use super::encode::{EncodedText, EncodedTexts, Encoding};
use crate::{Result, tasks::causal::Texts};

impl Encoding<'_> {
    /// Joins documents and cuts them into blocks of the maximum length. Each document has the tokenizer's special tokens in front and an end
    /// token behind. All tokens of a block are predicted except its first. The last block is shorter.
    ///
    /// This is what `run_clm.py` of transformers does (`group_texts`), except for the end tokens and for the last block, which it drops.
    pub(super) fn blocks(&self, texts: &Texts) -> Result<EncodedTexts> {
        let (front, _) = self.tokenizer.frame()?;
        let documents: Vec<_> = texts.texts.iter().map(|t| t.response.as_str()).collect();
        let mut split = EncodedTexts::new(self.max_length);
        let mut joined = Vec::new();
        for ids in self.tokenizer.encode_plain(&documents)? {
            let bare = ids.strip_prefix(front.as_slice()).unwrap_or(&ids);
            let ended = self.ended(bare)?;
            let is_framed = !front.is_empty() && bare.len() < ids.len();
            split.rendered += u64::from(is_framed || ended.len() <= bare.len());
            joined.extend([front.as_slice(), &ended].concat());
        }
        // A single token predicts nothing.
        let blocks = joined
            .chunks(self.max_length)
            .filter(|block| block.len() > 1);
        let texts = blocks.map(|ids| EncodedText::new(ids.to_vec(), 1));
        split.texts = texts.collect();
        Ok(split)
    }
}
