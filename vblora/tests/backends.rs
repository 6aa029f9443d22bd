//! The library's behaviour on every backend: each test is written once and instantiated for those that are compiled in.
#![allow(missing_docs, clippy::print_stdout)]

#[macro_use]
mod support;
mod suite;

mod admixture {
    use super::suite::admixture as tests;
    on_every_backend!(tests: matches_the_reference_on_random_shapes, gradients_match_finite_differences, paper_test_vector, many_rows_add_up_in_the_bank,
        ties_go_to_the_lowest_index, bad_input_is_an_error, strided_input);
}

mod selection {
    use super::suite::selection as tests;
    on_every_backend!(tests: matches_the_reference_on_random_shapes, gradients_match_finite_differences, large_noise_logits_stay_finite,
        an_adapter_draws_in_training_alone, stored_forms_serve_what_evaluation_does, a_gate_starts_from_the_base_and_opens, fixture_selection);
}

mod adapters {
    use super::suite::adapters as tests;
    on_every_backend!(tests: factors_lie_as_peft_lays_them, linear_equals_the_materialised_update, wide_maps_and_their_gradients, half_precision_rounds_the_product_alone, pushed_back_gradients_are_exact,
        lora_scales_and_starts_at_zero, one_bank_stays_one_and_the_base_stays_put, initial_values_are_the_same_everywhere,
        micro_batches_add_up, a_composition_without_gradients_is_an_error);
}

mod baselines {
    use super::suite::baselines as tests;
    on_every_backend!(tests: baselines_are_their_materialised_updates, baselines_come_back_from_host_memory, vera_starts_at_zero_on_one_projection,
        tied_lora_starts_at_zero_from_random_factors, lora_xs_starts_from_the_frozen_weights, lora_xs_refuses_what_its_weights_cannot_give);
}

mod operations {
    use super::suite::operations as tests;
    on_every_backend!(tests: dropout_masks_are_the_same_everywhere, gelu_and_its_gradient, softmax_and_its_gradient,
        log_softmax_and_its_gradient, cross_entropy_and_its_gradient,
        layer_norm_and_its_gradients, a_norm_goes_back_from_its_output, a_norm_of_a_sum_is_of_both_inputs, rows_of_any_width_and_number, rows_are_joined, attention_is_its_parts);
}

mod decoder_operations {
    use super::suite::decoder_operations as tests;
    on_every_backend!(tests: products_and_their_gradients, rms_norm_and_its_gradients, tanh_gelu_and_its_gradient, gated_units_and_their_gradients,
        rotation_and_its_gradient, causal_attention_and_its_gradients, remembered_keys_are_seen);
}

mod positions {
    use super::suite::positions as tests;
    on_every_backend!(tests: rotary_attention_is_its_parts, disentangled_attention_is_its_parts, units_of_halves_are_their_parts);
}

mod blocks {
    use super::suite::blocks as tests;
    on_every_backend!(tests: attention_of_joined_maps, units_of_joined_maps);
}

mod steps {
    use super::suite::steps as tests;
    on_every_backend!(tests: maps_of_a_step, half_weights_of_a_step, attention_of_a_step, a_cache_is_written_in_place_if_it_is_free);
}

mod nf4 {
    use super::suite::nf4 as tests;
    on_every_backend!(tests: maps_in_4_bits_are_the_maps_of_their_values, a_weight_in_4_bits_decodes_to_its_values,
        a_weight_in_4_bits_is_held_in_4_bits, decoding_is_that_of_plain_operations, products_are_those_of_the_decoded_matrix,
        no_dense_copy_stays, a_drawn_weight_has_its_deviation);
}

mod serving {
    use super::suite::serving as tests;
    on_every_backend!(tests: rows_take_their_own_adapter, a_set_switches_adapters_and_shares_their_bank, merging_keeps_the_base_to_the_bit,
        rows_without_an_adapter_are_untouched);
}

mod storage {
    use super::suite::storage as tests;
    on_every_backend!(tests: codes_compose_what_the_adapter_composed, mixtures_are_the_codes_with_all_weights,
        a_mixture_of_all_vectors_shows_the_heaviest, files_round_trip, broken_files_are_errors);
}

mod recorded {
    use super::suite::recorded as tests;
    on_every_backend!(tests: fixture_admixture, fixture_peft_linear);
}

mod recorded_baselines {
    use super::suite::recorded_baselines as tests;
    on_every_backend!(tests: fixture_peft_baselines, fixture_lora_xs, fixture_tied_lora);
}
