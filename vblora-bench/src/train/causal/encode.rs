//! Texts as token ids, and which of them are to be predicted.

use vblora::storage::sha256_hex;
use vblora_models::TextTokenizer;

use crate::{
    Error, Result,
    recipes::TooLong,
    tasks::causal::{Text, Texts},
};

/// How texts become tokens.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// The token that ends a response.
    pub end: u32,
    /// The most tokens of a text, special ones included.
    pub max_length: usize,
    /// What becomes of longer ones.
    pub too_long: TooLong,
    /// Whether the prompt is to be predicted too.
    pub on_prompt: bool,
}

/// One text after the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedText {
    /// Prompt, response and end.
    pub(super) ids: Vec<u32>,
    /// The first token that is to be predicted; at least 1, since nothing is before the first.
    pub(super) labelled_from: usize,
}

/// The texts of a split after the tokenizer; never empty.
#[derive(Debug)]
pub struct EncodedTexts {
    pub(super) texts: Vec<EncodedText>,
    /// The most tokens that a text may have.
    pub(super) max_length: usize,
    cut: u64,
    dropped: u64,
}

impl Encoding<'_> {
    /// The tokens of a prompt as training and generation have them: the special tokens that the tokenizer puts in front, and the text.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode_plain(&[prompt])?.concat();
        Ok([self.front()?, ids].concat())
    }

    /// The special tokens in front of every text.
    fn front(&self) -> Result<Vec<u32>> {
        let empty = self.tokenizer.encode_batch(&[("", None)], usize::MAX)?;
        let mut ids = empty.into_iter().next().map_or(Vec::new(), |e| e.ids);
        // A token that the tokenizer puts behind is not wanted between prompt and response.
        let is_behind = ids.len() > 1 && ids.last() == Some(&self.end);
        ids.truncate(ids.len() - usize::from(is_behind));
        Ok(ids)
    }

    /// Encodes the texts: prompt and response apart, so that a prompt has the same tokens without its response.
    ///
    /// # Errors
    /// A text that is too long, where that is to be refused; none that is left; a maximum that leaves no room.
    pub fn encode(&self, texts: &Texts) -> Result<EncodedTexts> {
        let front = self.front()?;
        let column = |of: fn(&Text) -> &str| -> Vec<&str> { texts.texts.iter().map(of).collect() };
        let prompts = self.tokenizer.encode_plain(&column(|t| &t.prompt))?;
        let responses = self.tokenizer.encode_plain(&column(|t| &t.response))?;
        let mut split = EncodedTexts {
            texts: Vec::with_capacity(prompts.len()),
            max_length: self.max_length,
            cut: 0,
            dropped: 0,
        };
        for (row, (prompt, response)) in prompts.into_iter().zip(responses).enumerate() {
            let length = front.len() + prompt.len() + response.len() + 1;
            let over = length.saturating_sub(self.max_length);
            if over > 0 && self.too_long == TooLong::Refuse {
                return Err(self.refuse(texts, row, length));
            }
            let is_kept = over == 0 || (self.too_long == TooLong::Cut && over <= prompt.len());
            if !is_kept {
                split.dropped += 1;
                continue;
            }
            split.cut += u64::from(over > 0);
            split
                .texts
                .push(self.join(&front, &prompt[over..], &response));
        }
        match split.texts.is_empty() {
            true => Err(self.nothing(texts)),
            false => Ok(split),
        }
    }

    fn join(&self, front: &[u32], prompt: &[u32], response: &[u32]) -> EncodedText {
        let before = front.len() + prompt.len();
        EncodedText {
            ids: [front, prompt, response, &[self.end]].concat(),
            labelled_from: if self.on_prompt { 1 } else { before.max(1) },
        }
    }

    fn refuse(&self, texts: &Texts, row: usize, length: usize) -> Error {
        Error::Entry {
            file: texts.source.display().to_string(),
            place: format!("text {}", row + 1),
            expected: format!("at most {} tokens", self.max_length),
            found: length.to_string(),
        }
    }

    fn nothing(&self, texts: &Texts) -> Error {
        Error::Setting {
            setting: "max_length".into(),
            expected: format!("room for a text of {}", texts.source.display()),
            found: format!(
                "{}, which leaves all {} out",
                self.max_length,
                texts.texts.len()
            ),
        }
    }
}

impl EncodedTexts {
    /// Texts that are tokens already, each with the first token that is to be predicted, which is at least 1 and within the text.
    pub fn from_tokens(
        texts: impl IntoIterator<Item = (Vec<u32>, usize)>,
        max_length: usize,
    ) -> Self {
        let text = |(ids, labelled_from)| EncodedText { ids, labelled_from };
        Self {
            texts: texts.into_iter().map(text).collect(),
            max_length,
            cut: 0,
            dropped: 0,
        }
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Texts whose prompt lost tokens.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Texts that were left out.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Tokens of each text.
    pub fn lengths(&self) -> Vec<usize> {
        self.texts.iter().map(|text| text.ids.len()).collect()
    }

    /// SHA-256 of every token and of where labels begin.
    pub fn sha256(&self) -> String {
        let one = |text: &EncodedText| {
            let head = [text.ids.len() as u64, text.labelled_from as u64];
            let head = head.iter().flat_map(|n| n.to_le_bytes());
            let ids = text.ids.iter().flat_map(|id| id.to_le_bytes());
            head.chain(ids).collect::<Vec<u8>>()
        };
        sha256_hex(self.texts.iter().map(one))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::demo;

    pub(in crate::train::causal) const END: u32 = 2;

    /// The bundled tokenizer, which puts `<s>` (0) in front and `</s>` (2) behind.
    pub(in crate::train::causal) fn tokenizer() -> TextTokenizer {
        TextTokenizer::from_files(&demo::model_files()).unwrap()
    }

    pub(in crate::train::causal) fn texts(pairs: &[(&str, &str)]) -> Texts {
        let text = |&(prompt, response): &(&str, &str)| Text {
            prompt: prompt.into(),
            response: response.into(),
        };
        Texts {
            texts: pairs.iter().map(text).collect(),
            source: "made".into(),
        }
    }

    fn encode(
        pairs: &[(&str, &str)],
        max_length: usize,
        too_long: TooLong,
    ) -> Result<EncodedTexts> {
        let tokenizer = tokenizer();
        let encoding = Encoding {
            tokenizer: &tokenizer,
            end: END,
            max_length,
            too_long,
            on_prompt: false,
        };
        encoding.encode(&texts(pairs))
    }

    #[test]
    fn labels_begin_with_the_response_and_go_to_its_end() {
        let tokenizer = tokenizer();
        let plain = |text| tokenizer.encode_plain(&[text]).unwrap().concat();
        let (prompt, response) = (plain("How many cats are there?"), plain(" Three cats."));
        let encoding = Encoding {
            tokenizer: &tokenizer,
            end: END,
            max_length: 64,
            too_long: TooLong::Refuse,
            on_prompt: false,
        };
        let pairs = texts(&[("How many cats are there?", " Three cats.")]);
        let encoded = encoding.encode(&pairs).unwrap();
        let expected = [&[0], &prompt[..], &response[..], &[END]].concat();
        assert_eq!(encoded.texts[0].ids, expected);
        assert_eq!(encoded.texts[0].labelled_from, 1 + prompt.len());
        let alone = encoding.prompt("How many cats are there?").unwrap();
        assert_eq!(
            alone,
            expected[..1 + prompt.len()],
            "generation sees what training saw"
        );
        let all = Encoding {
            on_prompt: true,
            ..encoding
        }
        .encode(&pairs)
        .unwrap();
        assert_eq!(
            (all.texts[0].labelled_from, &all.texts[0].ids),
            (1, &expected)
        );
        assert_ne!(all.sha256(), encoded.sha256());
        assert_eq!(encoded.sha256(), encoding.encode(&pairs).unwrap().sha256());
    }

    #[test]
    fn long_texts_are_cut_from_the_left_of_the_prompt_dropped_or_refused() {
        let pairs = [
            ("one two three four five six", " yes"),
            ("one", " yes"),
            ("one", " no, one two three four five six seven eight nine"),
        ];
        let whole = encode(&pairs, 64, TooLong::Refuse).unwrap();
        assert_eq!((whole.len(), whole.cut(), whole.dropped()), (3, 0, 0));
        let max = whole.lengths()[0] - 1;
        assert!(
            whole.lengths()[2] > max + 1,
            "the response alone is too long"
        );
        let cut = encode(&pairs, max, TooLong::Cut).unwrap();
        assert_eq!((cut.len(), cut.cut(), cut.dropped()), (2, 1, 1));
        let ids = &whole.texts[0].ids;
        assert_eq!(
            cut.texts[0].ids,
            [&ids[..1], &ids[2..]].concat(),
            "`<s>` stays"
        );
        assert_eq!(cut.texts[0].labelled_from, whole.texts[0].labelled_from - 1);
        assert_eq!(cut.texts[1], whole.texts[1]);
        let dropped = encode(&pairs, max, TooLong::Drop).unwrap();
        assert_eq!((dropped.len(), dropped.cut(), dropped.dropped()), (1, 0, 2));
        let error = encode(&pairs, max, TooLong::Refuse)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!(
                "made, text 1: expected at most {max} tokens, found {}",
                max + 1
            )
        );
        let error = encode(&pairs, 2, TooLong::Cut).unwrap_err().to_string();
        assert!(
            error.contains("max_length") && error.contains("leaves all 3 out"),
            "{error}"
        );
    }

    #[test]
    fn without_anything_in_front_the_first_token_is_no_label() {
        let text = EncodedText {
            ids: vec![7, END],
            labelled_from: 1,
        };
        let tokenizer = tokenizer();
        let encoding = Encoding {
            tokenizer: &tokenizer,
            end: END,
            max_length: 9,
            too_long: TooLong::Cut,
            on_prompt: false,
        };
        assert_eq!(encoding.join(&[], &[], &[7]), text);
        assert_eq!(encoding.join(&[0], &[], &[7]).labelled_from, 1);
    }
}
