//! Text piece by piece, and stop strings.

use std::ops::ControlFlow;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;
use vblora_models::TextTokenizer;
use vblora_models::generate::{
    Decoding, EarlyStopping, Ended, GeneratedText, GenerationConfig, Sampling, TextStream,
    generate_text,
};

use crate::toy::{Score, Toy, beam, sample, slices, with};

/// A tokenizer whose tokens are these, in this order; the special ones come last.
fn tokenizer(
    tokens: &[String],
    special: &[&str],
    byte_fallback: bool,
    decoder: Value,
) -> TextTokenizer {
    let ids = |first: usize, tokens: &[String]| -> Map<String, Value> {
        let numbered = tokens.iter().zip(first..);
        numbered
            .map(|(token, id)| (token.clone(), json!(id)))
            .collect()
    };
    let added: Vec<Value> = (tokens.len()..)
        .zip(special)
        .map(|(id, token)| {
            json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let file = json!({
        "added_tokens": added, "decoder": decoder,
        "model": {"type": "BPE", "vocab": ids(0, tokens), "merges": [], "byte_fallback": byte_fallback},
    });
    let tokenizer = Tokenizer::from_bytes(file.to_string()).unwrap();
    TextTokenizer::new(tokenizer, "made/tokenizer.json").unwrap()
}

/// The characters that stand for bytes in GPT-2's vocabulary.
fn byte_characters() -> Vec<String> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let mut shown = |byte| {
        if printable(&byte) {
            byte
        } else {
            others.next().unwrap()
        }
    };
    (0..256)
        .map(|byte| char::from_u32(shown(byte)).unwrap().to_string())
        .collect()
}

/// As GPT-2's: every byte, two longer tokens, one special token.
fn byte_level() -> TextTokenizer {
    let mut tokens = byte_characters();
    let parts = [tokens[0xe2].clone() + &tokens[0x82], "hello".to_owned()];
    tokens.extend(parts);
    tokenizer(
        &tokens,
        &["<|end|>"],
        false,
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}),
    )
}

const HALF_EURO: u32 = 256;
const HELLO: u32 = 257;
const END: u32 = 258;

/// As Llama's: pieces with spaces written as lower blocks, single bytes, the first space not shown.
fn sentence_pieces() -> TextTokenizer {
    let mut tokens: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(
        [
            "\u{2581}the",
            "\u{2581}",
            "cat",
            "\u{e9}",
            "\u{2581}\u{2581}",
        ]
        .map(str::to_owned),
    );
    let decoders = json!([
        {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]);
    tokenizer(
        &tokens,
        &["<s>", "</s>"],
        true,
        json!({"type": "Sequence", "decoders": decoders}),
    )
}

/// Every piece, that of the end last.
fn pieces(tokenizer: &TextTokenizer, stops: &[String], ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, stops);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    assert_eq!(stream.text(), pieces.concat());
    pieces
}

/// Ids of bytes that are often whole characters, often not.
fn ids(others: std::ops::Range<u32>) -> impl Strategy<Value = Vec<u32>> {
    let character = "[a-c ]|\u{e9}|\u{20ac}|\u{1f600}";
    let bytes = character.prop_map(|text| text.bytes().map(u32::from).collect::<Vec<_>>());
    let one = prop_oneof![
        bytes,
        (0..256u32).prop_map(|id| vec![id]),
        others.prop_map(|id| vec![id])
    ];
    prop::collection::vec(one, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pieces_join_to_the_text_of_all_tokens_bytes(ids in ids(256..259)) {
        let tokenizer = byte_level();
        prop_assert_eq!(pieces(&tokenizer, &[], &ids).concat(), tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn pieces_join_to_the_text_of_all_tokens_sentence_pieces(ids in ids(256..263)) {
        let tokenizer = sentence_pieces();
        prop_assert_eq!(pieces(&tokenizer, &[], &ids).concat(), tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn nothing_of_a_stop_string_is_given_out(ids in ids(256..259), stop in "[a-c\u{e9}]{1,3}") {
        let tokenizer = byte_level();
        let whole = tokenizer.decode(&ids).unwrap();
        let before = whole.split(&stop).next().unwrap();
        prop_assert_eq!(pieces(&tokenizer, std::slice::from_ref(&stop), &ids).concat(), before);
    }
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    let bytes = byte_level();
    let euro_and_a = [HALF_EURO, 0xac, END, u32::from(b'a'), HELLO];
    assert_eq!(
        pieces(&bytes, &[], &euro_and_a),
        ["", "\u{20ac}", "", "a", "hello", ""]
    );
    // Half a character, and another one begun after it.
    let broken = [HALF_EURO, u32::from(b'a'), HALF_EURO];
    assert_eq!(
        pieces(&bytes, &[], &broken),
        ["", "\u{fffd}a", "", "\u{fffd}"]
    );
    // Bytes after a whole character can take it back.
    let llama = sentence_pieces();
    let euro = [256, 0xe2, 0x82, 0xac, 261, 258];
    assert_eq!(
        pieces(&llama, &[], &euro),
        ["the", "", "", "", "", "\u{20ac}cat", ""]
    );
    assert_eq!(
        pieces(&llama, &[], &[261, 256, 256]),
        ["", "the", " the", ""]
    );
}

#[test]
fn what_may_begin_a_stop_string_waits() {
    let stops = ["\n\n".to_owned(), "lo wor".to_owned()];
    let letters = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let tokenizer = byte_level();
    let of = |ids: &[u32]| pieces(&tokenizer, &stops, ids);
    assert_eq!(of(&letters("a\nb\n\nc")), ["a", "", "\nb", "", "", "", ""]);
    assert_eq!(
        of(&[&[HELLO][..], &letters(" wo")].concat()),
        ["hel", "", "", "", "lo wo"]
    );
    assert_eq!(
        of(&[&[HELLO][..], &letters(" wor")].concat()).concat(),
        "hel"
    );
    // The first of several in one token counts.
    let several = ["lo", "el"].map(str::to_owned);
    assert_eq!(pieces(&tokenizer, &several, &[HELLO]), ["h", ""]);
    // A stop string of single bytes needs no token after it.
    let llama = sentence_pieces();
    let mut stream = TextStream::new(&llama, &stops);
    let given: Vec<String> = [258, 10, 10].map(|id| stream.push(id).unwrap()).to_vec();
    assert_eq!(given, ["cat", "", ""]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn a_decoder_that_takes_text_back_is_refused() {
    let decoders =
        json!([{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": "X"}]);
    let tokens = ["a", "b"].map(str::to_owned);
    let tokenizer = tokenizer(
        &tokens,
        &[],
        false,
        json!({"type": "Sequence", "decoders": decoders}),
    );
    let mut stream = TextStream::new(&tokenizer, &[]);
    assert_eq!(stream.push(0).unwrap(), "a");
    let error = stream.push(1).unwrap_err().to_string();
    assert!(
        error.contains("made/tokenizer.json") && error.contains("changed \"a\""),
        "{error}"
    );
}

/// Tokens a, b, c, and so on in turn.
fn alphabet(_: u32, last: u32, token: u32) -> f32 {
    if token == last + 1 { 5.0 } else { 0.0 }
}

fn run(
    score: Score,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
) -> (Vec<GeneratedText>, Vec<String>) {
    let mut streamed = vec![String::new(); prompts.len()];
    let mut model = Toy::with_scores(259, score);
    let tokenizer = byte_level();
    let rows = generate_text(
        &mut model,
        &tokenizer,
        &slices(prompts),
        config,
        |row, piece| {
            assert!(!piece.is_empty());
            streamed[row] += piece;
            ControlFlow::Continue(())
        },
    );
    (rows.unwrap(), streamed)
}

#[test]
fn a_stop_string_ends_its_row_across_tokens_and_is_not_in_the_text() {
    let config = GenerationConfig {
        max_new_tokens: 6,
        stop_strings: vec!["fg".into()],
        ..GenerationConfig::default()
    };
    let prompts = [
        vec![u32::from(b'b')],
        vec![u32::from(b'f')],
        vec![u32::from(b'e')],
    ];
    for decoding in [Decoding::Greedy, beam(3, 1.0, EarlyStopping::AtOnce)] {
        let (rows, streamed) = run(alphabet, &prompts, &with(&config, decoding));
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        // The prompt's f is not part of the text.
        assert_eq!(texts, ["cde", "ghijkl", ""]);
        assert_eq!(streamed, texts);
        assert_eq!(rows[0].tokens.len(), 5);
        let ended: Vec<Ended> = rows.iter().map(|row| row.ended).collect();
        assert_eq!(ended, [Ended::StopString, Ended::Length, Ended::StopString]);
    }
}

#[test]
fn a_stop_token_is_no_text_and_a_special_token_can_be_named_as_a_stop_string() {
    // After d comes the special token.
    let to_end = |_: u32, last: u32, token: u32| match last {
        100 => f32::from(u8::from(token == END)),
        _ => alphabet(0, last, token),
    };
    let by_token = GenerationConfig {
        stop_tokens: vec![u32::from(b'e')],
        ..GenerationConfig::default()
    };
    let by_name = GenerationConfig {
        stop_strings: vec!["<|end|>".into()],
        ..GenerationConfig::default()
    };
    let prompt = [vec![u32::from(b'b')]];
    let alphabet = run(alphabet, &prompt, &by_token);
    let special = run(to_end, &prompt, &by_name);
    for ((rows, streamed), last) in [(alphabet, u32::from(b'e')), (special, END)] {
        assert_eq!((rows[0].text.as_str(), streamed[0].as_str()), ("cd", "cd"));
        assert_eq!(rows[0].tokens.last(), Some(&last));
        assert_eq!(rows[0].ended, Ended::StopToken);
    }
}

#[test]
fn streamed_text_is_the_text_of_the_tokens() {
    let config = GenerationConfig {
        max_new_tokens: 60,
        ..GenerationConfig::default()
    };
    let prompts = [vec![1, 2], vec![200], vec![7, 7, 7]];
    let (rows, streamed) = run(
        crate::toy::mixed,
        &prompts,
        &with(&config, sample(Sampling::default())),
    );
    for (row, streamed) in rows.iter().zip(streamed) {
        assert_eq!(row.text, byte_level().decode(&row.tokens).unwrap());
        assert_eq!(row.text, streamed);
    }
}

#[test]
fn a_row_broken_off_has_the_text_that_was_given() {
    let config = GenerationConfig::default();
    let prompts = [vec![u32::from(b'b')]];
    let mut model = Toy::with_scores(259, alphabet);
    let rows = generate_text(
        &mut model,
        &byte_level(),
        &slices(&prompts),
        &config,
        |_, piece| match piece {
            "e" => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
    );
    let row = &rows.unwrap()[0];
    assert_eq!((row.text.as_str(), row.ended), ("cde", Ended::BrokenOff));
}
