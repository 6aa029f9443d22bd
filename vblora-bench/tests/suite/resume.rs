//! Saving and restoring a learner's state.

use std::path::Path;

use vblora::{Selection, backend::VbLoraBackend, rng::Key, storage::checkpoint::Form};
use vblora_bench::{
    recipes::Recipe,
    train::{Learner, Method, StepReport},
};

use super::{
    is_exact,
    learner::{batch, learner_of, recipe},
};
use crate::support::assert_close;

/// The adapter's seed, with which logits can be drawn again.
const SEED: u64 = 4;

/// The relative difference of losses that is allowed on GPUs, where the order of sums varies.
const TOLERANCE: f64 = 1e-3;

/// The number of logits from which on moments are stored only for selected logits. With 0 they always are, with the maximum never.
const MANY: [usize; 2] = [0, usize::MAX];

/// Every method, and VB-LoRA with random draws, noise logits and a gate, with both kinds of moments.
fn cases() -> Vec<(Method, Recipe, usize)> {
    let drawing = [Selection::NoisyTopK, Selection::StraightThrough].map(|selection| {
        let mut recipe = recipe();
        (recipe.vblora.selection, recipe.vblora.gate) = (selection, true);
        (Method::VbLora, recipe)
    });
    let plain = Method::ALL.iter().map(|&kind| (kind, recipe()));
    let all = plain.chain(drawing);
    all.flat_map(|(kind, recipe)| {
        let many = if kind == Method::VbLora {
            &MANY[..]
        } else {
            &MANY[..1]
        };
        many.iter().map(move |&many| (kind, recipe.clone(), many))
    })
    .collect()
}

fn learner<B: VbLoraBackend>(kind: Method, device: &B::Device) -> Learner<B> {
    learner_of(&recipe(), kind, 0.2, SEED, device)
}

/// Two micro-batches with dropout, and a falling factor of the schedule.
fn step<B: VbLoraBackend>(learner: &mut Learner<B>, step: usize) -> StepReport {
    let batches = [batch(8 * (step % 3), 5), batch(8 * (step % 3) + 5, 3)];
    learner
        .step(step, &batches, 1.0 / (1.0 + step as f64))
        .unwrap()
}

pub(crate) fn a_restored_learner_goes_on_as_if_nothing_had_happened<B: VbLoraBackend>(
    device: &B::Device,
) {
    const STEPS: usize = 7;
    for (kind, recipe, many) in cases() {
        let fresh =
            || learner_of::<B>(&recipe, kind, 0.2, SEED, device).moments_of_selected_from(many);
        let mut whole = fresh();
        let mut states = vec![whole.state().unwrap().0];
        let mut losses = Vec::new();
        for i in 0..STEPS {
            losses.push(step(&mut whole, i).loss);
            states.push(whole.state().unwrap().0);
        }
        for stop in [0, 1, 2 + Key::new(kind as u64).below(0, STEPS - 2)] {
            let mut resumed = fresh();
            // The state before must not matter.
            step(&mut resumed, 9);
            resumed
                .restore(Path::new("state"), states[stop].clone())
                .unwrap();
            assert!(
                resumed.state().unwrap().0 == states[stop],
                "{kind:?} {stop}"
            );
            for i in stop..STEPS {
                let loss = step(&mut resumed, i).loss;
                if is_exact::<B>(device) {
                    assert_eq!(loss.to_bits(), losses[i].to_bits(), "{kind:?} {stop} {i}");
                    assert!(
                        resumed.state().unwrap().0 == states[i + 1],
                        "{kind:?} {stop} {i}"
                    );
                } else {
                    assert_close("loss", &[loss], &[losses[i]], TOLERANCE);
                }
            }
        }
    }
}

pub(crate) fn either_moments_train_alike<B: VbLoraBackend>(device: &B::Device) {
    for (kind, recipe, _) in cases()
        .into_iter()
        .filter(|(kind, _, many)| *kind == Method::VbLora && *many == MANY[0])
    {
        let [(losses, state), (expected, of_all)] = MANY.map(|many| {
            let learner = learner_of::<B>(&recipe, kind, 0.2, SEED, device);
            let mut learner = learner.moments_of_selected_from(many);
            let losses: Vec<_> = (0..5).map(|i| step(&mut learner, i).loss).collect();
            (losses, learner.state().unwrap().0)
        });
        let selection = recipe.vblora.selection;
        if is_exact::<B>(device) {
            assert_eq!(losses, expected, "{selection}");
            assert!(state == of_all, "{selection}");
        } else {
            assert_close("losses", &losses, &expected, TOLERANCE);
        }
    }
}

pub(crate) fn only_touched_logits_are_stored_unless_decay_moves_them_all<B: VbLoraBackend>(
    device: &B::Device,
) {
    for many in MANY {
        check_stored_logits::<B>(many, device);
    }
}

fn check_stored_logits<B: VbLoraBackend>(many: usize, device: &B::Device) {
    let logits = |decay: f64| {
        let mut recipe = recipe();
        recipe.weight_decay.logits = decay;
        let learner = learner_of::<B>(&recipe, Method::VbLora, 0.2, SEED, device);
        let mut learner = learner.moments_of_selected_from(many);
        let at_start = learner.state().unwrap();
        for i in 0..3 {
            step(&mut learner, i);
        }
        let after = learner.state().unwrap();
        [at_start, after].map(|(_, forms)| {
            let whole = forms
                .iter()
                .filter(|(_, form)| *form == Form::Whole)
                .count();
            let logits = forms.iter().find(|(path, _)| path.ends_with(".logits"));
            (logits.unwrap().1, forms.len() - whole)
        })
    };
    let [
        (Form::Touched { elements, of }, 1),
        (
            Form::Touched {
                elements: later, ..
            },
            1,
        ),
    ] = logits(0.0)
    else {
        panic!("{:?}", logits(0.0))
    };
    assert_eq!(elements, 0, "nothing is touched before the first step");
    assert!(later > 0 && later * 2 < of, "{later} of {of}");
    assert_eq!(logits(0.1), [(Form::Whole, 0); 2]);
}

/// Logits that no step selects keep their initial values, including noise logits. If they have a gradient nonetheless, all are stored.
pub(crate) fn what_selections_touch_is_stored<B: VbLoraBackend>(device: &B::Device) {
    for (selection, many) in Selection::ALL
        .into_iter()
        .flat_map(|s| MANY.map(|many| (s, many)))
    {
        let mut recipe = recipe();
        recipe.vblora.selection = selection;
        let learner = learner_of::<B>(&recipe, Method::VbLora, 0.2, SEED, device);
        let mut learner = learner.moments_of_selected_from(many);
        for i in 0..3 {
            step(&mut learner, i);
        }
        let (_, forms) = learner.state().unwrap();
        let logits: Vec<_> = forms
            .iter()
            .filter(|(path, _)| path.ends_with("logits"))
            .collect();
        let expected = if selection == Selection::NoisyTopK {
            2
        } else {
            1
        };
        assert_eq!(logits.len(), expected, "{selection}");
        for (path, form) in logits {
            let is_part = matches!(form, Form::Touched { elements, of } if elements * 2 < *of);
            assert_eq!(
                is_part,
                selection.is_sparse(),
                "{selection} {path}: {form:?}"
            );
        }
    }
}

pub(crate) fn the_state_of_another_learner_is_refused<B: VbLoraBackend>(device: &B::Device) {
    let state = |kind| learner::<B>(kind, device).state().unwrap().0;
    for (there, here) in [
        (Method::VbLora, Method::Lora),
        (Method::Lora, Method::Head),
        (Method::Head, Method::Full),
    ] {
        let mut learner = learner::<B>(here, device);
        let before = learner.state().unwrap().0;
        let error = learner
            .restore(Path::new("the/file"), state(there))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the/file: "), "{error}");
        assert!(learner.state().unwrap().0 == before, "nothing has changed");
    }
}
