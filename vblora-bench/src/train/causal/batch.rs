//! Batches of texts, and the tokens to predict.

use vblora_models::decoder::CausalBatch;

use super::encode::{EncodedText, EncodedTexts};

/// A batch of texts, one or several per row, and the tokens to predict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextBatch {
    /// Ids, positions, and the tokens that each token attends to.
    pub inputs: CausalBatch,
    /// Tokens of the texts, without padding.
    pub tokens: usize,
    /// The positions in `inputs` (row-major, ascending) of tokens whose next token is predicted.
    pub places: Vec<i32>,
    /// The next token at each of these positions.
    pub targets: Vec<i32>,
}

impl EncodedTexts {
    /// Builds a batch. Each row is a list of texts, padded at its end to the longest row. `pad_id` is never attended to and never
    /// predicted.
    pub fn batch(&self, rows: &[Vec<usize>], pad_id: u32) -> TextBatch {
        let texts = |row: &Vec<usize>| row.iter().map(|&i| &self.texts[i]).collect::<Vec<_>>();
        let rows: Vec<_> = rows.iter().map(texts).collect();
        let length = |row: &Vec<&EncodedText>| row.iter().map(|t| t.ids.len()).sum();
        let lengths: Vec<usize> = rows.iter().map(length).collect();
        let columns = lengths.iter().copied().max().unwrap_or(0);
        let ids: Vec<Vec<&[u32]>> = rows
            .iter()
            .map(|row| row.iter().map(|text| text.ids.as_slice()).collect())
            .collect();
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (row, texts) in rows.iter().enumerate() {
            let mut start = row * columns;
            for text in texts {
                for at in text.labels.iter().cloned().flatten() {
                    places.push((start + at - 1) as i32);
                    targets.push(text.ids[at] as i32);
                }
                start += text.ids.len();
            }
        }
        TextBatch {
            inputs: CausalBatch::pack(&ids, columns, pad_id),
            tokens: lengths.iter().sum(),
            places,
            targets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recipes::TooLong,
        train::causal::{
            Encoding,
            encode::tests::{END, texts, tokenizer},
        },
    };

    const PAD: u32 = 1;

    fn split(on_prompt: bool) -> EncodedTexts {
        let tokenizer = tokenizer();
        let encoding = Encoding {
            tokenizer: &tokenizer,
            end: END,
            max_length: 64,
            too_long: TooLong::Refuse,
            on_prompt,
        };
        let pairs = [
            ("one two", " three"),
            ("", " four"),
            ("five six seven", " eight nine"),
        ];
        encoding.encode(&texts(&pairs)).unwrap()
    }

    /// The predictions as (row, column of the token before, token).
    fn labels(batch: &TextBatch) -> Vec<(usize, usize, i32)> {
        let columns = batch.inputs.columns;
        let places = batch.places.iter().map(|&place| place as usize);
        let pairs = places.zip(&batch.targets);
        pairs
            .map(|(p, &target)| (p / columns, p % columns, target))
            .collect()
    }

    #[test]
    fn each_label_is_the_token_behind_its_place_and_of_the_same_text() {
        for on_prompt in [false, true] {
            let split = split(on_prompt);
            let batches = [
                split.batch(&[vec![0], vec![1], vec![2]], PAD),
                split.batch(&[vec![2, 1], vec![0]], PAD),
            ];
            let expected: usize = split
                .texts
                .iter()
                .flat_map(|t| &t.labels)
                .map(ExactSizeIterator::len)
                .sum();
            for batch in batches {
                let inputs = &batch.inputs;
                assert_eq!(batch.targets.len(), expected);
                assert_eq!(batch.tokens, split.lengths().iter().sum::<usize>());
                assert!(batch.places.is_sorted());
                for (row, column, target) in labels(&batch) {
                    let at = row * inputs.columns + column + 1;
                    assert_eq!(inputs.ids[at], i64::from(target));
                    assert_eq!(
                        inputs.first[at],
                        inputs.first[at - 1],
                        "the text begins at {column}"
                    );
                    assert!(inputs.positions[at] > 0);
                }
                let ends = batch.targets.iter().filter(|&&t| t == END as i32).count();
                assert_eq!(ends, 3, "each text's end is predicted");
            }
        }
    }

    #[test]
    fn packed_texts_have_the_labels_that_they_have_alone() {
        let split = split(false);
        let (first, second) = (split.lengths()[2], split.lengths()[1]);
        let packed = split.batch(&[vec![2, 1]], PAD);
        assert_eq!(
            (packed.inputs.rows, packed.inputs.columns),
            (1, first + second)
        );
        let alone = |i: usize, shift: usize| {
            let batch = split.batch(&[vec![i]], PAD);
            let moved = labels(&batch)
                .into_iter()
                .map(move |(_, c, t)| (0, c + shift, t));
            moved.collect::<Vec<_>>()
        };
        assert_eq!(labels(&packed), [alone(2, 0), alone(1, first)].concat());
    }
}
