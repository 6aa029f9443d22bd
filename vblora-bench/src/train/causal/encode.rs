//! Encodes texts as token ids, and marks the tokens to predict.

use std::ops::Range;

use vblora::storage::sha256_hex;
use vblora_models::{Continued, TextTokenizer};

use super::turns::Conversation;
use crate::{
    Error, Result,
    recipes::TooLong,
    tasks::causal::{Layout, Question, Texts},
};

/// The settings with which texts become tokens.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// The token that ends a response.
    pub end: u32,
    /// The maximum number of tokens of a text, including special tokens.
    pub max_length: usize,
    /// The treatment of longer texts.
    pub too_long: TooLong,
    /// True if the loss includes the prompt's tokens.
    pub on_prompt: bool,
}

/// One tokenized text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedText {
    /// Prompt, response and end.
    pub(super) ids: Vec<u32>,
    /// The tokens to predict, ascending and apart. They start at 1 at least, because the first token has no predecessor.
    pub(super) labels: Vec<Range<usize>>,
}

impl EncodedText {
    /// A text whose tokens are predicted from one on.
    pub(super) fn new(ids: Vec<u32>, from: usize) -> Self {
        let labels = std::iter::once(from..ids.len()).collect();
        Self { ids, labels }
    }
}

/// A text with all its tokens, and what is left of it within the maximum length.
struct Found {
    /// The number of all its tokens.
    length: usize,
    /// The text, as far as it fits.
    text: Option<EncodedText>,
    /// True if the prompt, encoded alone, has other tokens.
    is_moved: bool,
    /// True if a text that is no conversation has its special tokens already.
    is_rendered: bool,
}

/// The tokenized texts of a split, at least one.
#[derive(Debug)]
pub struct EncodedTexts {
    pub(super) texts: Vec<EncodedText>,
    /// The maximum number of tokens of a text.
    pub(super) max_length: usize,
    cut: u64,
    dropped: u64,
    moved: u64,
    pub(super) rendered: u64,
}

impl Encoding<'_> {
    /// Encodes a prompt for training and generation: the tokenizer's special tokens in front, then the text. A text that already begins
    /// with them does not get them twice.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode_plain(&[prompt])?.concat();
        let (front, _) = self.tokenizer.frame()?;
        Ok(match ids.starts_with(&front) {
            true => ids,
            false => [front, ids].concat(),
        })
    }

    /// Encodes the prompt of a question. A prompt that a chat template wrote has all its special tokens.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn question(&self, question: &Question<'_>) -> Result<Vec<u32>> {
        match question.is_rendered {
            true => Ok(self.tokenizer.encode_plain(&[question.prompt])?.concat()),
            false => self.prompt(question.prompt),
        }
    }

    /// Encodes the texts. Prompt and response are encoded as one text ([`TextTokenizer::encode_continued`]), as in generation. A response
    /// that already ends with an end token gets no second one, and blanks after that token are dropped.
    ///
    /// A conversation has the tokens that its chat template wrote, up to the end of its last answer. Documents are cut into blocks.
    ///
    /// # Errors
    /// A text is too long and `too_long` refuses it; no text is left; the maximum is too small.
    pub fn encode(&self, texts: &Texts) -> Result<EncodedTexts> {
        let split = match texts.layout {
            Layout::Examples => self.examples(texts)?,
            Layout::Blocks => self.blocks(texts)?,
        };
        match split.texts.is_empty() {
            true => Err(self.nothing(texts)),
            false => Ok(split),
        }
    }

    fn examples(&self, texts: &Texts) -> Result<EncodedTexts> {
        let (front, _) = self.tokenizer.frame()?;
        let pairs = texts.texts.iter().filter(|text| text.turns.is_none());
        let pairs: Vec<(&str, &str)> = pairs
            .map(|text| (text.prompt.as_str(), text.response.as_str()))
            .collect();
        let mut pairs = self.tokenizer.encode_continued(&pairs)?.into_iter();
        let mut conversations = self.conversations(&texts.texts)?.into_iter();
        let prompts: Vec<_> = texts
            .texts
            .iter()
            .map(|text| text.prompt.as_str())
            .collect();
        let prompts = self.tokenizer.encode_plain(&prompts)?;
        let mut split = EncodedTexts::new(self.max_length);
        for (row, (text, prompt)) in texts.texts.iter().zip(prompts).enumerate() {
            let found = match text.turns {
                None => pairs.next().map(|pair| self.pair(pair, &front, &prompt)),
                Some(_) => conversations
                    .next()
                    .map(|turns| Ok(self.turns(&turns, &prompt))),
            };
            // Each text has its tokens.
            if let Some(found) = found {
                let found = found?;
                if found.length > self.max_length && self.too_long == TooLong::Refuse {
                    return Err(self.refuse(texts, row, found.length));
                }
                split.add(found, self.too_long);
            }
        }
        Ok(split)
    }

    /// A prompt and its response. Tokens go from the left of the prompt if they do not all fit.
    fn pair(&self, text: Continued, front: &[u32], prompt: &[u32]) -> Result<Found> {
        let Continued { ids, seam } = text;
        let is_moved = ids[..seam] != *prompt;
        // The text itself begins with the tokenizer's special tokens.
        let framed = ids.strip_prefix(front).filter(|_| !front.is_empty());
        let (ids, seam) = match framed {
            Some(rest) => (rest, seam.saturating_sub(front.len())),
            None => (ids.as_slice(), seam),
        };
        let (prompt, response) = ids.split_at(seam);
        let ended = self.ended(response)?;
        let is_rendered = framed.is_some()
            || ended.len() <= response.len()
            || ids
                .first()
                .is_some_and(|&id| self.tokenizer.is_special_id(id));
        let length = front.len() + prompt.len() + ended.len();
        let over = length.saturating_sub(self.max_length);
        let text = (over <= prompt.len()).then(|| self.join(front, &prompt[over..], &ended));
        Ok(Found {
            length,
            text,
            is_moved,
            is_rendered,
        })
    }

    /// A conversation. Turns go from its end if they do not all fit.
    fn turns(&self, turns: &Conversation, prompt: &[u32]) -> Found {
        let whole = self.until(turns, turns.answers.len());
        let length = whole.ids.len();
        let seam = turns.answers.first().map_or(0, |answer| answer.start);
        let texts = (1..turns.answers.len()).rev().map(|n| self.until(turns, n));
        let mut texts = std::iter::once(whole).chain(texts);
        // A tokenizer may make nothing of an answer.
        let fits = |text: &EncodedText| (1..=self.max_length).contains(&text.ids.len());
        Found {
            length,
            text: texts.find(fits),
            is_moved: turns.ids[..seam] != *prompt,
            is_rendered: false,
        }
    }

    /// Appends the end token to a response, unless it already has one.
    pub(super) fn ended(&self, response: &[u32]) -> Result<Vec<u32>> {
        if let Some(at) = response.iter().rposition(|&id| self.is_end(id)) {
            let (text, after) = response.split_at(at + 1);
            let after = self.tokenizer.decode_with_special_tokens(after)?;
            if after.trim().is_empty() {
                return Ok(text.to_vec());
            }
        }
        Ok([response, &[self.end]].concat())
    }

    pub(super) fn is_end(&self, id: u32) -> bool {
        id == self.end || self.tokenizer.is_end(id)
    }

    fn join(&self, front: &[u32], prompt: &[u32], response: &[u32]) -> EncodedText {
        let before = front.len() + prompt.len();
        let ids = [front, prompt, response].concat();
        let from = if self.on_prompt { 1 } else { before.max(1) };
        EncodedText::new(ids, from)
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
    /// Creates texts from tokens. Each comes with the index of the first token to predict, which is at least 1 and inside the text.
    pub fn from_tokens(
        texts: impl IntoIterator<Item = (Vec<u32>, usize)>,
        max_length: usize,
    ) -> Self {
        let text = |(ids, from)| EncodedText::new(ids, from);
        Self {
            texts: texts.into_iter().map(text).collect(),
            ..Self::new(max_length)
        }
    }

    pub(super) fn new(max_length: usize) -> Self {
        Self {
            texts: Vec::new(),
            max_length,
            cut: 0,
            dropped: 0,
            moved: 0,
            rendered: 0,
        }
    }

    /// Takes a text that is not refused.
    fn add(&mut self, found: Found, too_long: TooLong) {
        let is_over = found.length > self.max_length;
        match found.text.filter(|_| !is_over || too_long == TooLong::Cut) {
            None => self.dropped += 1,
            Some(text) => {
                self.texts.push(text);
                self.cut += u64::from(is_over);
                self.moved += u64::from(found.is_moved);
                self.rendered += u64::from(found.is_rendered);
            }
        }
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns true if there are no texts.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The number of texts whose prompt lost tokens, and of conversations that lost turns.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// The number of texts that were left out.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The number of texts whose prompt has other tokens when encoded alone, as in generation.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// The number of texts that begin or end with special tokens of the model already, and did not get these twice. Conversations are not
    /// counted.
    pub fn rendered(&self) -> u64 {
        self.rendered
    }

    /// The number of tokens of each text.
    pub fn lengths(&self) -> Vec<usize> {
        self.texts.iter().map(|text| text.ids.len()).collect()
    }

    /// SHA-256 of every token and of the places of each text's labels.
    pub fn sha256(&self) -> String {
        let one = |text: &EncodedText| {
            let (length, labels) = (text.ids.len() as u64, &text.labels);
            let head = match labels.as_slice() {
                // One number for labels up to the end, as sessions before conversations had it.
                [Range { start, end }] if *end == text.ids.len() => vec![length, *start as u64],
                labels => {
                    let places = labels.iter().flat_map(|range| [range.start, range.end]);
                    let places = places.map(|place| place as u64);
                    let head = [length, u64::MAX, labels.len() as u64];
                    head.into_iter().chain(places).collect()
                }
            };
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
    use crate::{demo, tasks::causal::Text};

    pub(in crate::train::causal) const END: u32 = 2;

    /// The bundled tokenizer, which adds `<s>` (0) before a text and `</s>` (2) after it.
    pub(in crate::train::causal) fn tokenizer() -> TextTokenizer {
        TextTokenizer::from_files(&demo::model_files()).unwrap()
    }

    pub(in crate::train::causal) fn texts(pairs: &[(&str, &str)]) -> Texts {
        let text = |&(prompt, response): &(&str, &str)| Text {
            prompt: prompt.into(),
            response: response.into(),
            ..Text::default()
        };
        Texts {
            texts: pairs.iter().map(text).collect(),
            source: "made".into(),
            ..Texts::default()
        }
    }

    /// The first token to predict of a text whose labels go to its end.
    fn labelled_from(text: &EncodedText) -> usize {
        assert_eq!(text.labels.len(), 1);
        assert_eq!(text.labels[0].end, text.ids.len());
        text.labels[0].start
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
        assert_eq!(labelled_from(&encoded.texts[0]), 1 + prompt.len());
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
            (labelled_from(&all.texts[0]), &all.texts[0].ids),
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
        assert_eq!(
            labelled_from(&cut.texts[0]),
            labelled_from(&whole.texts[0]) - 1
        );
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
        let text = EncodedText::new(vec![7, END], 1);
        let tokenizer = tokenizer();
        let encoding = Encoding {
            tokenizer: &tokenizer,
            end: END,
            max_length: 9,
            too_long: TooLong::Cut,
            on_prompt: false,
        };
        assert_eq!(encoding.join(&[], &[], &[7, END]), text);
        assert_eq!(labelled_from(&encoding.join(&[0], &[], &[7, END])), 1);
    }

    /// A tokenizer like Llama-2's: it adds a blank mark before the text, and encodes blanks as marks.
    fn pieces() -> TextTokenizer {
        let words = [
            "<unk>", "<s>", "</s>", "▁", "a", "b", ":", "▁a", "▁b", "a:", ".", "\n",
        ];
        let vocab: serde_json::Map<_, _> = words
            .iter()
            .enumerate()
            .map(|(id, word)| ((*word).to_owned(), id.into()))
            .collect();
        let special = |id: usize| {
            serde_json::json!({"id": id, "content": words[id], "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        };
        let json = serde_json::json!({
            "added_tokens": [special(0), special(1), special(2)],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            },
            "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab,
                "merges": [["▁", "a"], ["▁", "b"], ["a", ":"]]},
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let files = vblora_models::ModelFiles::open(dir.path()).unwrap();
        TextTokenizer::from_files(&files).unwrap()
    }

    fn encode_with(
        tokenizer: &TextTokenizer,
        pairs: &[(&str, &str)],
        max_length: usize,
    ) -> EncodedTexts {
        let encoding = Encoding {
            tokenizer,
            end: END,
            max_length,
            too_long: TooLong::Cut,
            on_prompt: false,
        };
        encoding.encode(&texts(pairs)).unwrap()
    }

    #[test]
    fn a_response_has_the_tokens_that_it_has_behind_its_prompt() {
        let tokenizer = pieces();
        let encoded = encode_with(&tokenizer, &[("b:", " a.")], 64);
        // <s> ▁b : | ▁a . </s>, while the response alone would be ▁ ▁a .
        assert_eq!(encoded.texts[0].ids, [1, 8, 6, 7, 10, END]);
        assert_eq!(labelled_from(&encoded.texts[0]), 3);
        assert_eq!(encoded.moved(), 0);
        let alone = tokenizer.encode_plain(&[" a."]).unwrap().concat();
        assert_eq!(alone, [3, 7, 10]);
    }

    #[test]
    fn a_token_on_both_sides_of_the_seam_is_the_responses() {
        let tokenizer = pieces();
        // <s> ▁b ▁b | a: . </s>, while the prompt alone is ▁b ▁b a.
        let encoded = encode_with(&tokenizer, &[("b ba", ":.")], 64);
        assert_eq!(encoded.texts[0].ids, [1, 8, 8, 9, 10, END]);
        assert_eq!(labelled_from(&encoded.texts[0]), 3);
        assert_eq!(encoded.moved(), 1);
    }

    #[test]
    fn what_begins_and_ends_a_text_already_does_not_come_twice() {
        let tokenizer = pieces();
        let plain = encode_with(&tokenizer, &[("b:", " a.")], 64);
        for pair in [("<s>b:", " a."), ("b:", " a.</s>"), ("<s>b:", " a.</s>\n")] {
            let marked = encode_with(&tokenizer, &[pair], 64);
            assert_eq!(marked.texts, plain.texts, "{pair:?}");
        }
        // An end token inside a response does not end it. The first token stays if the prompt is cut.
        let inside = encode_with(&tokenizer, &[("b:", "a</s>a")], 64);
        assert_eq!(inside.texts[0].ids.last(), Some(&END));
        assert_eq!(
            inside.texts[0].ids.iter().filter(|id| **id == END).count(),
            2
        );
        let cut = encode_with(&tokenizer, &[("<s>b:", " a.")], 5);
        assert_eq!(
            (&cut.texts[0].ids[..], cut.cut()),
            (&[1, 6, 7, 10, END][..], 1)
        );
    }

    /// Default runs keep their tokens: byte-level BPE splits words before the blank at the start of a response.
    #[test]
    fn the_bundled_texts_have_the_same_tokens_in_one_piece_and_apart() {
        let tokenizer = TextTokenizer::from_files(&demo::decoder_files()).unwrap();
        let texts = demo::texts(crate::tasks::SplitName::Dev).unwrap();
        let whole = Encoding {
            tokenizer: &tokenizer,
            end: END,
            max_length: 4096,
            too_long: TooLong::Refuse,
            on_prompt: false,
        };
        let whole = whole.encode(&texts).unwrap();
        assert_eq!(whole.moved(), 0);
        for (text, encoded) in texts.texts.iter().zip(&whole.texts) {
            let parts = tokenizer
                .encode_plain(&[&text.prompt, &text.response])
                .unwrap();
            let apart = [&[0], &parts[0][..], &parts[1], &[END]].concat();
            assert_eq!(encoded.ids, apart, "{text:?}");
            assert_eq!(labelled_from(encoded), 1 + parts[0].len());
        }
    }
}
