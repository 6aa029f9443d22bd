//! The encoders' behaviour on every backend: each test is written once and instantiated for those that are compiled in.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // The reason for a skip, and the case at hand.

#[path = "../../vblora/tests/support/mod.rs"]
#[macro_use]
mod support;
mod suite;

mod encoder {
    use super::suite::encoder as tests;
    on_every_backend!(tests: matches_the_plain_reference, adapters_act_on_their_sites, padding_changes_nothing,
        padding_may_be_left_out, only_padding_behind_tokens_is_left_out,
        positions_start_where_the_family_says, token_types_are_summed, half_precision_is_close_or_refused, every_family_may_be_in_4_bits, a_word_table_in_pieces_is_one_table,
        dropout_follows_the_attention_where_the_family_says);
}

mod heads {
    use super::suite::heads as tests;
    on_every_backend!(tests: classification_head_is_the_plain_one, losses_are_the_plain_ones, weighted_and_binary_losses_are_torchs, lm_head_is_the_plain_one);
}

mod saving {
    use super::suite::saving as tests;
    on_every_backend!(tests: saved_models_load_as_they_were, half_precision_rounds_once, a_wrong_checkpoint_is_refused_by_name);
}

mod serving {
    use super::suite::serving as tests;
    on_every_backend!(tests: a_multi_adapter_batch_is_its_rows_alone, merging_leaves_the_base_as_it_was, a_merged_directory_is_the_adapted_model);
}

mod training {
    use super::suite::training as tests;
    on_every_backend!(tests: dropout_is_a_function_of_its_keys, every_dropout_place_is_live, the_base_gets_no_gradient,
        gradients_match_finite_differences);
}

mod recorded {
    use super::suite::recorded as tests;
    on_every_backend!(tests: fixture_roberta, fixture_further_encoders);
}

mod recorded_baselines {
    use super::suite::recorded_baselines as tests;
    on_every_backend!(tests: fixture_peft_baselines, fixture_lora_xs, fixture_tied_lora);
}

mod decoders {
    use super::suite::decoders as tests;
    on_every_backend!(tests: a_batch_is_its_rows_alone, decoding_over_a_memory_is_reading_again, what_does_not_fit_is_refused,
        rows_decode_with_adapters_of_their_own, a_fused_map_may_be_three_sites, every_family_may_be_in_4_bits, recomputed_blocks_give_the_same_gradients,
        dropout_is_a_function_of_its_key, saved_models_load_as_they_were, a_length_that_divides_nothing_is_refused,
        the_inner_model_is_the_model);
}

/// A launch costs the host more than a small kernel costs the device, so launches limit decoding.
#[cfg(feature = "wgpu")]
mod launches {
    use super::{suite::launches, support::launches::are_at_most};

    /// A token after two layers: five launches a layer, and those of the embedding, the last norm and the head.
    #[test]
    fn a_token_asks_for_few() {
        are_at_most("launches::of_a_token", 13, 2);
    }

    /// Four more a layer, for the narrow products.
    #[test]
    fn a_token_of_an_adapter_asks_for_few() {
        are_at_most("launches::of_an_adapted_token", 21, 2);
    }

    #[test]
    #[ignore = "run by a test above, in a process of its own"]
    fn of_a_token() {
        launches::token::<vblora::backend::Wgpu>(false, &Default::default());
    }

    #[test]
    #[ignore = "run by a test above, in a process of its own"]
    fn of_an_adapted_token() {
        launches::token::<vblora::backend::Wgpu>(true, &Default::default());
    }
}

mod generation {
    use super::suite::generation as tests;
    on_every_backend!(tests: rows_are_given_what_they_are_given_alone, foreseen_steps_change_nothing);
}

mod recorded_decoders {
    use super::suite::recorded_decoders as tests;
    on_every_backend!(tests: fixture_gpt2, fixture_llama, fixture_mistral, fixture_gemma, fixture_further_families);
}

mod recorded_4_bit {
    use super::suite::recorded_4_bit as tests;
    on_every_backend!(tests: fixture_bnb_llama, fixture_quantised_while_loading, fixture_converted_directories,
        fixture_broken_parts_are_named);
}

/// Half a gigabyte of real weights: on the fastest CPU backend alone.
#[cfg(feature = "flex")]
mod real_decoders {
    use super::suite::real_decoders as tests;
    use burn::backend::Flex;

    #[test]
    fn fixture_smollm2() {
        tests::fixture_smollm2::<Flex>(&Default::default());
    }

    #[test]
    fn fixture_gsm8k() {
        tests::fixture_gsm8k::<Flex>(&Default::default());
    }

    #[test]
    fn fixture_iglm() {
        tests::fixture_iglm::<Flex>(&Default::default());
    }

    #[test]
    fn fixture_half_precision() {
        tests::fixture_half_precision::<Flex>(&Default::default());
    }
}

mod minilm {
    use super::suite::minilm as tests;
    on_every_backend!(tests: fixture_minilm);

    /// The whole check of real weights, a thousand sentences, on the fastest CPU backend alone.
    #[cfg(feature = "flex")]
    #[test]
    fn fixture_minilm_similarity() {
        tests::fixture_similarity::<burn::backend::Flex>(&Default::default());
    }
}
