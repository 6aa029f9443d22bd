//! Properties for any prompts and settings.

use std::collections::HashSet;
use std::ops::ControlFlow;

use proptest::prelude::*;
use vblora_models::generate::{
    Decoding, EarlyStopping, Ended, GenerationConfig, Sampling, Step, generate,
};

use crate::toy::{Toy, beam, run, sample, slices, tokens, with};

const VOCABULARY: u32 = 30;

fn prompts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let prompt = prop::collection::vec(0..VOCABULARY, 1..8);
    prop::collection::vec(prompt, 1..5)
}

fn config() -> impl Strategy<Value = GenerationConfig> {
    let stop_tokens = prop::collection::vec(0..VOCABULARY, 0..4);
    (1usize..20, stop_tokens, 0usize..4).prop_map(|(max_new_tokens, stop_tokens, n)| {
        GenerationConfig {
            max_new_tokens,
            stop_tokens,
            no_repeat_ngram_size: n,
            ..GenerationConfig::default()
        }
    })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (0.3..3.0, 0usize..10, 0.1..1.0, any::<u64>()).prop_map(|(temperature, top_k, top_p, seed)| {
        Sampling {
            temperature,
            top_k,
            top_p,
            seed,
            first_row: 0,
        }
    })
}

fn search() -> impl Strategy<Value = Decoding> {
    let modes = [
        EarlyStopping::AtOnce,
        EarlyStopping::Likely,
        EarlyStopping::Certain,
    ];
    (1usize..5, -1.0..2.0, prop::sample::select(modes.to_vec()))
        .prop_map(|(beams, penalty, mode)| beam(beams, penalty, mode))
}

fn toy() -> Toy {
    Toy::new(VOCABULARY as usize)
}

/// Returns true if any sequence of `n` tokens that ends after `prompt` comes twice.
fn repeats(whole: &[u32], prompt: usize, n: usize) -> bool {
    let mut seen = HashSet::new();
    let fresh = |(at, window): (usize, &[u32])| seen.insert(window.to_vec()) || at + n <= prompt;
    n > 0 && !whole.windows(n).enumerate().all(fresh)
}

proptest! {
    #[test]
    fn one_beam_is_greedy(prompts in prompts(), config in config(), penalty in -1.0..2.0) {
        let greedy = run(&mut toy(), &prompts, &config).unwrap();
        let one = with(&config, beam(1, penalty, EarlyStopping::AtOnce));
        prop_assert_eq!(run(&mut toy(), &prompts, &one).unwrap(), greedy);
    }

    #[test]
    fn a_batch_gives_each_row_what_it_gets_alone(
        prompts in prompts(), config in config(), sampling in sampling(), search in search(),
    ) {
        for decoding in [Decoding::Greedy, sample(sampling), search] {
            let together = run(&mut toy(), &prompts, &with(&config, decoding.clone())).unwrap();
            for (row, (prompt, of_batch)) in prompts.iter().zip(&together).enumerate() {
                let mut decoding = decoding.clone();
                if let Decoding::Sample(sampling) = &mut decoding {
                    sampling.first_row = row as u64;
                }
                let alone = run(&mut toy(), std::slice::from_ref(prompt), &with(&config, decoding)).unwrap();
                prop_assert_eq!(&alone[0], of_batch);
            }
        }
    }

    #[test]
    fn the_best_token_alone_is_greedy(prompts in prompts(), config in config(), mut sampling in sampling()) {
        sampling.top_k = 1;
        let greedy = run(&mut toy(), &prompts, &config).unwrap();
        prop_assert_eq!(run(&mut toy(), &prompts, &with(&config, sample(sampling))).unwrap(), greedy);
    }

    #[test]
    fn no_sequence_of_n_tokens_comes_twice(
        prompts in prompts(), mut config in config(), sampling in sampling(), search in search(), n in 1usize..4,
    ) {
        config.no_repeat_ngram_size = n;
        config.max_new_tokens = 40;
        for decoding in [Decoding::Greedy, sample(sampling), search] {
            let new = tokens(&mut toy(), &prompts, &with(&config, decoding));
            for (prompt, new) in prompts.iter().zip(new) {
                prop_assert!(!repeats(&[prompt.clone(), new].concat(), prompt.len(), n));
            }
        }
    }

    #[test]
    fn steps_are_the_tokens_of_the_result_and_the_last_says_why(
        prompts in prompts(), config in config(), sampling in sampling(), search in search(),
    ) {
        for decoding in [Decoding::Greedy, sample(sampling), search] {
            let mut steps: Vec<Vec<Step>> = vec![Vec::new(); prompts.len()];
            let rows = generate(&mut toy(), &slices(&prompts), &with(&config, decoding), |step| {
                steps[step.row].push(step);
                ControlFlow::Continue(())
            }).unwrap();
            for (row, steps) in rows.iter().zip(steps) {
                prop_assert!(steps.iter().map(|step| step.token).eq(row.tokens.iter().copied()));
                let said: Vec<Ended> = steps.iter().filter_map(|step| step.ended).collect();
                let expected = if row.ended == Ended::NothingLeft { vec![] } else { vec![row.ended] };
                prop_assert_eq!(said, expected);
            }
        }
    }

    #[test]
    fn a_row_ends_for_the_reason_it_gives(
        prompts in prompts(), config in config(), capacity in 8usize..24, search in search(),
    ) {
        for decoding in [Decoding::Greedy, search] {
            let mut model = Toy { capacity, ..toy() };
            let rows = run(&mut model, &prompts, &with(&config, decoding)).unwrap();
            for (prompt, row) in prompts.iter().zip(rows) {
                let stops = |token: &u32| config.stop_tokens.contains(token);
                let (last, before) = row.tokens.split_last().unwrap();
                let full = row.tokens.len() == config.max_new_tokens;
                prop_assert!(!before.iter().any(stops));
                prop_assert_eq!(row.ended == Ended::StopToken, stops(last));
                prop_assert_eq!(row.ended == Ended::Length, full && !stops(last));
                let whole = prompt.len() + row.tokens.len();
                prop_assert!(whole <= capacity);
                prop_assert_eq!(row.ended == Ended::Capacity, whole == capacity && !full && !stops(last));
            }
        }
    }
}

#[test]
fn repeats_are_seen() {
    assert!(repeats(&[1, 2, 3, 1, 2], 3, 2));
    assert!(!repeats(&[1, 2, 1, 2, 3], 4, 2));
    assert!(!repeats(&[1, 2, 3, 1, 2], 3, 3));
}

#[test]
fn a_seed_repeats_its_draws_and_another_does_not() {
    let config = GenerationConfig {
        max_new_tokens: 40,
        ..GenerationConfig::default()
    };
    let prompts = vec![vec![1, 2]; 3];
    let of = |seed, first_row| {
        let sampling = Sampling {
            seed,
            first_row,
            ..Sampling::default()
        };
        tokens(&mut toy(), &prompts, &with(&config, sample(sampling)))
    };
    let (drawn, other) = (of(7, 0), of(8, 0));
    assert_eq!(drawn, of(7, 0));
    assert!(drawn.iter().zip(&other).all(|(a, b)| a != b));
    // Rows of one prompt differ, and go on counting from batch to batch.
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2]);
    assert_eq!(of(7, 1)[..2], drawn[1..]);
}

#[test]
fn draws_are_as_frequent_as_their_probabilities() {
    const DRAWS: usize = 20_000;
    let score = |_, _, token| [0.0, 1.5, -1.0, 2.0, 0.5, f32::NEG_INFINITY][token as usize];
    let mut model = Toy::with_scores(6, score);
    let config = GenerationConfig {
        max_new_tokens: DRAWS / 10,
        ..GenerationConfig::default()
    };
    let temperature = 1.3;
    let sampling = Sampling {
        temperature,
        seed: 3,
        ..Sampling::default()
    };
    model.capacity = DRAWS;
    let rows = tokens(
        &mut model,
        &vec![vec![0]; 10],
        &with(&config, sample(sampling)),
    );
    let weights: Vec<f64> = (0..6)
        .map(|token| (f64::from(score(0, 0, token)) / temperature).exp())
        .collect();
    let mut counts = [0.0; 6];
    rows.iter()
        .flatten()
        .for_each(|&token| counts[token as usize] += 1.0);
    let expected = |token: usize| DRAWS as f64 * weights[token] / weights.iter().sum::<f64>();
    let chi_square: f64 = (0..5)
        .map(|token| (counts[token] - expected(token)).powi(2) / expected(token))
        .sum();
    // Four degrees of freedom: 18.5 is passed by one seed in a thousand. A temperature of 1.2 gives about 50.
    assert!(chi_square < 18.5, "{chi_square}: {counts:?}");
    assert_eq!(counts[5], 0.0);
}

#[test]
fn rows_that_end_leave_the_batch() {
    // A row of token t ends after t steps: its tokens count down to the stop token 0.
    let down = |_, last: u32, token: u32| if token + 1 == last { 1.0 } else { 0.0 };
    let mut model = Toy::with_scores(10, down);
    let config = GenerationConfig {
        stop_tokens: vec![0],
        ..GenerationConfig::default()
    };
    let prompts = [vec![3], vec![1], vec![9, 5], vec![3]];
    let new = tokens(&mut model, &prompts, &config);
    assert_eq!(
        new,
        [vec![2, 1, 0], vec![0], vec![4, 3, 2, 1, 0], vec![2, 1, 0]]
    );
    assert_eq!(model.batches, [4, 3, 3, 1, 1]);
}

#[test]
fn a_broken_off_row_ends_and_the_others_go_on() {
    let config = GenerationConfig {
        max_new_tokens: 5,
        ..GenerationConfig::default()
    };
    let prompts = [vec![1, 2], vec![3, 4]];
    for decoding in [Decoding::Greedy, beam(2, 1.0, EarlyStopping::Likely)] {
        let config = with(&config, decoding);
        let whole = tokens(&mut toy(), &prompts, &config);
        let mut seen = 0;
        let rows = generate(&mut toy(), &slices(&prompts), &config, |step| {
            seen += usize::from(step.row == 0);
            match (step.row, seen) {
                (0, 2) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
        .unwrap();
        assert_eq!(rows[0].tokens, whole[0][..2]);
        assert_eq!((rows[0].ended, seen), (Ended::BrokenOff, 2));
        assert_eq!((&rows[1].tokens, rows[1].ended), (&whole[1], Ended::Length));
        // All rows end before the next token, also those of a beam search, which hands out none before its end.
        let mut model = toy();
        model.most = 2;
        let rows = generate(&mut model, &slices(&prompts), &config, |_| {
            ControlFlow::Continue(())
        });
        let ended = rows
            .unwrap()
            .into_iter()
            .map(|row| (row.tokens.len(), row.ended));
        assert_eq!(ended.collect::<Vec<_>>(), [(2, Ended::BrokenOff); 2]);
        assert_eq!(model.batches.len(), 2);
    }
}

#[test]
fn a_row_whose_every_next_token_is_a_repeat_ends() {
    let config = GenerationConfig {
        no_repeat_ngram_size: 1,
        ..GenerationConfig::default()
    };
    for decoding in [
        Decoding::Greedy,
        sample(Sampling::default()),
        beam(3, 1.0, EarlyStopping::Certain),
    ] {
        let rows = run(
            &mut Toy::new(5),
            &[vec![3], vec![0, 1, 2, 3, 4]],
            &with(&config, decoding),
        )
        .unwrap();
        let lengths: Vec<usize> = rows.iter().map(|row| row.tokens.len()).collect();
        assert_eq!(lengths, [4, 0]);
        assert!(rows.iter().all(|row| row.ended == Ended::NothingLeft));
    }
}
