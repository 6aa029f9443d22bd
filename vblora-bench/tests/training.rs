//! Training on every backend: recorded PEFT runs, determinism, guards, flat memory.
#![allow(missing_docs, clippy::print_stdout)]

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
    on_every_backend!(tests: frozen_weights_stay_to_the_bit, micro_batches_equal_one_batch, a_bad_step_changes_nothing,
        each_method_trains_what_it_says, dropout_is_on_in_training_and_repeats);
}
