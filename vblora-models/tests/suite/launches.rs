//! The launches that a new token asks a GPU for.

use vblora::{Adapter, Factors, backend::VbLoraBackend};
use vblora_models::{DecoderFamily, decoder::CachedLm, generate::NextToken};

use super::decoders::{adapter, model};
use crate::support::launches::mark;

/// A prompt, a token, and another one that is counted, of one row and two layers.
pub(crate) fn token<B: VbLoraBackend>(is_adapted: bool, device: &B::Device) {
    let model = model::<B>(DecoderFamily::Llama, device);
    let factors = match is_adapted {
        true => adapter(&model, "all", 23, device).factors(),
        false => Factors::none(),
    };
    let mut decoding = CachedLm::new(&model, factors, 20, device);
    decoding.start(&[&[2, 7, 40]]).unwrap();
    decoding.step(&[3]).unwrap();
    mark();
    decoding.step(&[4]).unwrap();
    mark();
}
