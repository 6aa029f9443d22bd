use proptest::prelude::*;
use vblora::{Site, Targets, ValidVbLora, VbLoraConfig, adapter::Mixture, rng::Key};

use super::{
    Frame, Header, Picks, Recording,
    block::{self, Kind},
};

/// Two layers of two roles. With r = 1 and b = 4 each site has 2 sub-vectors in its down factor and 1 in its up factor.
pub(crate) fn settings(h: usize, k: usize) -> ValidVbLora {
    let name = |layer: usize, role: &str| Site::new(format!("layer.{layer}.{role}"), 8, 4);
    let sites = [0, 1].map(|layer| ["query", "value"].map(|role| name(layer, role)));
    let plan = Targets::all_linear().select(&sites.concat()).unwrap();
    let config = VbLoraConfig {
        bank: h,
        vector_length: 4,
        rank: 1,
        topk: k,
        ..Default::default()
    };
    config.check(&plan).unwrap()
}

pub(crate) fn header(h: usize, k: usize) -> Header {
    Header::new(
        "vblora seed 1".into(),
        "demo".into(),
        settings(h, k),
        5,
        200,
    )
}

/// A selection of weights in 255ths.
pub(crate) fn picks(k: usize, indices: &[u32], weights: &[u8]) -> Picks {
    let weights = weights.iter().map(|&w| f32::from(w) / 255.0).collect();
    Picks::new(&Mixture {
        topk: k,
        indices: indices.to_vec(),
        weights,
    })
}

/// The file of a run: bank, selections by step, end, bank.
pub(crate) fn file(header: &Header, frames: &[Frame], banks: [&[f32]; 2]) -> Vec<u8> {
    let mut bytes = header.to_line();
    let bank = |values: &[f32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<_>>()
    };
    bytes.extend(block::to_bytes(Kind::Bank, 0, &bank(banks[0])));
    let mut before = None;
    for Frame { step, picks } in frames {
        let body = picks.difference(before);
        bytes.extend(block::to_bytes(Kind::Picks, *step, &body));
        before = Some(picks);
    }
    let step = frames.last().map_or(0, |frame| frame.step);
    bytes.extend(block::to_bytes(Kind::End, step, &[]));
    bytes.extend(block::to_bytes(Kind::Bank, step, &bank(banks[1])));
    bytes
}

/// Selections of 12 sub-vectors. Few of them change from one selection to the next.
pub(crate) fn frames(h: usize, k: usize, steps: usize, seed: u64) -> Vec<Frame> {
    let key = Key::new(seed);
    let mut logits = key.normal(12 * h, 1.0);
    let frame = |step: usize| {
        let drift = key
            .name("drift")
            .name(&step.to_string())
            .normal(12 * h, 0.2);
        logits.iter_mut().zip(drift).for_each(|(l, d)| *l += d);
        let codes = vblora::storage::Codes::from_logits(&logits, h, k);
        let weights = codes.full_weights();
        let mixture = Mixture {
            topk: k,
            indices: codes.indices,
            weights,
        };
        Frame {
            step: 3 * step as u64,
            picks: Picks::new(&mixture),
        }
    };
    (0..steps).map(frame).collect()
}

fn banks(h: usize) -> [Vec<f32>; 2] {
    [1, 2].map(|seed| Key::new(seed).normal(4 * h, 1.0))
}

proptest! {
    #[test]
    fn a_file_reads_back_as_it_was_written(h in 1..200_usize, k in 1..6_usize, steps in 1..8_usize, seed: u64) {
        let k = k.min(h);
        let (frames, banks) = (frames(h, k, steps, seed), banks(h));
        let bytes = file(&header(h, k), &frames, [&banks[0], &banks[1]]);
        let found = Recording::from_bytes(bytes).unwrap();
        prop_assert_eq!(found.damage(), None);
        prop_assert_eq!(found.header(), &header(h, k));
        prop_assert_eq!(found.frames().collect::<Vec<_>>(), frames);
        let [first, last] = banks;
        prop_assert_eq!(found.banks(), vec![(0, first), (found.last().step, last)]);
    }

    #[test]
    fn a_cut_off_file_reads_up_to_the_cut(steps in 2..6_usize, seed: u64, cut: prop::sample::Index) {
        let (frames, banks) = (frames(30, 2, steps, seed), banks(30));
        let bytes = file(&header(30, 2), &frames, [&banks[0], &banks[1]]);
        let cut = cut.index(bytes.len());
        match Recording::from_bytes(bytes[..cut].to_vec()) {
            Ok(found) => {
                let read: Vec<_> = found.frames().collect();
                prop_assert_eq!(&read[..], &frames[..read.len()]);
            }
            Err(reason) => prop_assert!(!reason.is_empty()),
        }
    }

    #[test]
    fn damage_is_seen_and_never_panics(seed: u64, at: prop::sample::Index, flip in 1..=255_u8) {
        let (frames, banks) = (frames(30, 3, 4, seed), banks(30));
        let header = header(30, 3);
        let mut bytes = file(&header, &frames, [&banks[0], &banks[1]]);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(found) = Recording::from_bytes(bytes) {
            let read: Vec<_> = found.frames().collect();
            prop_assert_eq!(&read[..], &frames[..read.len()]);
            // A changed header can still be valid. A changed block never is.
            prop_assert!(found.damage().is_some() || at < header.to_line().len());
        }
    }

    #[test]
    fn blocks_of_any_bytes_are_refused_or_fit(bodies in prop::collection::vec((0..4_u8, 0..9_u64, prop::collection::vec(any::<u8>(), 0..90)), 0..5)) {
        let header = header(30, 2);
        let mut bytes = header.to_line();
        for (kind, step, body) in bodies {
            let mut block = block::to_bytes(Kind::Picks, step, &body);
            block[8] = kind;
            let sum = crc32fast::hash(&block[8..]);
            block[4..8].copy_from_slice(&sum.to_le_bytes());
            bytes.extend(block);
        }
        if let Ok(found) = Recording::from_bytes(bytes) {
            for frame in found.frames() {
                prop_assert!(frame.picks.indices().iter().all(|&i| i < 30));
            }
        }
    }
}

#[test]
fn a_weight_is_off_by_half_a_255th_at_most() {
    let weights: Vec<f32> = (0..=1000).map(|i| i as f32 / 1000.0).collect();
    let mixture = Mixture {
        topk: 1,
        indices: vec![0; weights.len()],
        weights: weights.clone(),
    };
    let picks = Picks::new(&mixture);
    for ((_, found), weight) in picks.entries().zip(weights) {
        assert!((found - f64::from(weight)).abs() <= 1.0 / 510.0 + 1e-7);
    }
}

#[test]
fn what_does_not_change_takes_no_bytes() {
    let before = picks(2, &[1, 0, 2, 0, 3, 1], &[200, 55, 130, 125, 128, 127]);
    let after = picks(2, &[1, 0, 2, 0, 0, 1], &[200, 55, 131, 124, 128, 127]);
    assert!(before.difference(Some(&before)).is_empty());
    // Row 1: a gap of one row and new weights; row 2: new indices as well.
    assert_eq!(
        after.difference(Some(&before)),
        [2, 131, 124, 1, 0, 1, 128, 127]
    );
}

#[test]
fn what_goes_on_from_a_step_has_no_end_and_nothing_later() {
    let (frames, banks) = (frames(30, 2, 4, 1), banks(30));
    let bytes = file(&header(30, 2), &frames, [&banks[0], &banks[1]]);
    let until = |step| Recording::from_bytes(bytes.clone()).unwrap().until(step);
    for (step, count) in [(0, 1), (5, 2), (9, 4), (100, 4)] {
        let kept = until(step).unwrap();
        let again = Recording::from_bytes(kept.bytes().to_vec()).unwrap();
        assert_eq!(again.frames().collect::<Vec<_>>(), frames[..count]);
        assert_eq!((again.banks().len(), again.damage()), (1, None));
    }
}

#[test]
fn headers_that_fit_no_model_are_refused() {
    let line = String::from_utf8(header(30, 2).to_line()).unwrap();
    for (of, by, word) in [
        ("selections 1", "selections 2", "selections 2"),
        ("\"steps_per_epoch\":5", "\"steps_per_epoch\":0", "0 steps"),
        (
            "\"steps\":200",
            "\"steps\":9999999999999",
            "9999999999999 in all",
        ),
        ("\"topk\":2", "\"topk\":31", "topk"),
        ("\"bank\":30", "\"bank\":99999999", "larger"),
        ("\"d_in\":8", "\"d_in\":9", "d_in = 9"),
        ("\"d_in\":8", "\"d_in\":99999999", "larger"),
        (
            "\"vector_length\":4",
            "\"vector_length\":0",
            "vector_length",
        ),
        ("\n", "", "first line"),
    ] {
        assert!(line.contains(of), "{of}");
        let reason = Recording::from_bytes(line.replacen(of, by, 1).into_bytes()).unwrap_err();
        assert!(reason.contains(word), "{of}: {reason}");
    }
}
