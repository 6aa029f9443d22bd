//! Training on every backend: recorded PEFT runs, determinism, checks, and restored states.
#![allow(missing_docs, clippy::print_stderr, clippy::print_stdout)]

#[path = "../../vblora/tests/support/mod.rs"]
#[macro_use]
mod support;
mod suite;

mod recorded {
    use super::suite::recorded as tests;
    on_every_backend!(tests: fixture_train);
}

mod learner {
    use super::suite::learner as tests;
    on_every_backend!(tests: frozen_weights_stay_to_the_bit, micro_batches_equal_one_batch, weighted_micro_batches_equal_one_batch,
        micro_batches_of_any_order_make_the_same_step, a_step_begun_early_is_the_same_step, a_missing_micro_batch_is_no_step, a_bad_step_changes_nothing, each_method_trains_what_it_says, dropout_is_on_in_training_and_repeats, selections_draw_by_seed_and_step, a_gate_opens_first);
}

mod optimizer {
    use super::suite::optimizer as tests;
    on_every_backend!(tests: touched_elements_are_updated_as_if_all_were, parameters_are_updated_together_as_one_by_one,
        a_device_clips_as_the_host_does);
}

mod resume {
    use super::suite::resume as tests;
    on_every_backend!(tests: a_restored_learner_goes_on_as_if_nothing_had_happened, either_moments_train_alike, only_touched_logits_are_stored_unless_decay_moves_them_all,
        what_selections_touch_is_stored, the_state_of_another_learner_is_refused);
}

mod causal {
    use super::suite::causal as tests;
    on_every_backend!(tests: the_loss_is_torchs_cross_entropy, each_method_trains_what_it_says, micro_batches_equal_one_batch,
        packed_texts_train_as_padded_ones, recomputed_blocks_train_as_kept_ones, smoothing_and_prompt_labels_change_the_loss_alone,
        evaluation_does_not_depend_on_batches, a_restored_learner_goes_on_as_if_nothing_had_happened);
}

#[cfg(feature = "wgpu")]
mod launches {
    use super::{suite::launches, support::launches::are_at_most};

    /// A step of two layers with dropout. An H100 takes one product where wgpu takes a product and an update.
    #[test]
    fn a_step_asks_for_few() {
        are_at_most("launches::of_steps", 252, 146);
    }

    #[test]
    #[ignore = "run by the test above, in a process of its own"]
    fn of_steps() {
        launches::steps::<vblora::backend::Wgpu>(&Default::default());
    }
}
