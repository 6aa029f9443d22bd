//! Refusals name the row and the numbers.

use vblora_models::generate::{Decoding, EarlyStopping, GenerationConfig, Sampling};

use crate::toy::{Score, Toy, beam, run, sample, with};

fn error(model: &mut Toy, prompts: &[Vec<u32>], config: &GenerationConfig) -> String {
    run(model, prompts, config).unwrap_err().to_string()
}

#[test]
fn a_prompt_without_tokens_or_room_is_named_with_both_numbers() {
    let mut model = Toy {
        capacity: 4,
        ..Toy::new(10)
    };
    let config = GenerationConfig::default();
    let found = error(&mut model, &[vec![1], vec![]], &config);
    assert!(found.starts_with("text 1 is empty"), "{found}");
    for tokens in [4, 9] {
        let found = error(&mut model, &[vec![1], vec![1; tokens]], &config);
        assert_eq!(
            found,
            format!(
                "prompt 1 has {tokens} tokens, but the model takes 4 in a row, prompt and answer together"
            )
        );
    }
    assert!(model.batches.is_empty());
}

#[test]
fn a_prompt_token_beyond_the_vocabulary_is_named() {
    let config = GenerationConfig::default();
    let found = error(&mut Toy::new(10), &[vec![1], vec![9, 10]], &config);
    assert_eq!(
        found,
        "token id 10, but the model's vocabulary has 10 (ids 0 to 9)"
    );
}

#[test]
fn bad_settings_reach_the_caller_before_the_model_is_asked() {
    let mut model = Toy::new(10);
    let config = GenerationConfig {
        max_new_tokens: 0,
        ..GenerationConfig::default()
    };
    let found = error(&mut model, &[vec![1]], &config);
    assert_eq!(found, "max_new_tokens must be at least 1, found 0");
    let config = GenerationConfig {
        stop_strings: vec!["\n".into()],
        ..GenerationConfig::default()
    };
    let found = error(&mut model, &[vec![1]], &config);
    assert_eq!(
        found,
        "stop_strings must be empty where there is no tokenizer, found \"\\n\""
    );
    assert!(model.batches.is_empty());
}

#[test]
fn scores_that_are_no_numbers_are_named_with_row_and_step() {
    let nan = |_: u32, last: u32, token: u32| {
        if (last, token) == (2, 3) {
            f32::NAN
        } else {
            token as f32
        }
    };
    let infinite = |_: u32, last: u32, token: u32| {
        if (last, token) == (2, 3) {
            f32::INFINITY
        } else {
            token as f32
        }
    };
    for (score, name) in [(nan as Score, "NaN"), (infinite, "inf")] {
        for decoding in [
            Decoding::Greedy,
            sample(Sampling::default()),
            beam(2, 1.0, EarlyStopping::Likely),
        ] {
            let config = with(&GenerationConfig::default(), decoding);
            let found = error(
                &mut Toy::with_scores(5, score),
                &[vec![1], vec![2]],
                &config,
            );
            assert_eq!(found, format!("row 1: a logit of new token 0 is {name}"));
        }
    }
}

#[test]
fn no_prompts_give_no_rows() {
    let mut model = Toy::new(10);
    assert!(
        run(&mut model, &[], &GenerationConfig::default())
            .unwrap()
            .is_empty()
    );
    assert!(model.batches.is_empty());
}
