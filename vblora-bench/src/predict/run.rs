//! Runs a classifier over texts, on a backend that is chosen at run time.

use vblora::{
    Factors,
    backend::{BackendJob, BackendKind, VbLoraBackend},
    storage::HostAdapter,
};
use vblora_models::{ClassificationHead, Encoded, Encoder, ModelFiles, TextTokenizer};

use super::classifier::Classifier;
use crate::{
    Result,
    train::{Turns, outputs},
};

/// The number of texts that are encoded and sorted by length at a time. It bounds the memory that tokens take.
const CHUNK: usize = 1 << 16;

/// A text, and the second one of a pair.
pub type Text<'a> = (&'a str, Option<&'a str>);

/// The outputs of the head for each text, in the order of the texts, and the number of texts that were cut. `go_on` is called with the
/// number of new rows after each batch; once it returns false the work ends, and there are no outputs. The texts that are not of `turns` have
/// empty outputs.
///
/// # Errors
/// The base cannot be loaded; the head does not fit it; the tokenizer refuses a text; an output is not finite; the device does not work.
pub fn run(
    backend: BackendKind,
    device: usize,
    classifier: &Classifier,
    files: &ModelFiles,
    texts: &[Text<'_>],
    turns: Turns,
    go_on: &mut (dyn FnMut(usize) -> bool + Send),
) -> Result<Option<(Vec<Vec<f32>>, u64)>> {
    let job = Job {
        classifier,
        files,
        texts,
        turns,
        go_on,
    };
    backend.dispatch(device, job)?
}

struct Job<'a> {
    classifier: &'a Classifier,
    files: &'a ModelFiles,
    texts: &'a [Text<'a>],
    turns: Turns,
    go_on: &'a mut (dyn FnMut(usize) -> bool + Send),
}

impl BackendJob for Job<'_> {
    type Output = Result<Option<(Vec<Vec<f32>>, u64)>>;

    fn run<B: VbLoraBackend>(self, device: B::Device) -> Self::Output {
        let Classifier {
            config,
            head,
            place,
            ..
        } = self.classifier;
        let tokenizer = TextTokenizer::from_files(self.files)?.for_encoder(config)?;
        // Dropout is off without noise.
        let head =
            ClassificationHead::<B>::from_tensors(config.head_form(), place, head, 0.0, &device)?;
        let (base, _) = Encoder::<B>::load_with(config.clone(), self.files, &device)?;
        let adapter = self.classifier.adapter.as_ref();
        let factors =
            adapter.map_or_else(Factors::none, |found| HostAdapter::factors(found, &device));
        let (length, batch) = (
            self.classifier.max_length(),
            self.classifier.settings.evaluation_batch(),
        );
        let (mut all, mut cut) = (Vec::with_capacity(self.texts.len()), 0);
        for texts in self.texts.chunks(CHUNK) {
            let encoded: Vec<Encoded> = tokenizer.encode_batch(texts, length)?;
            cut += encoded.iter().filter(|text| text.truncated).count() as u64;
            let first = all.len();
            match outputs(
                &base,
                &head,
                &factors,
                &encoded,
                (batch, first, self.turns),
                &device,
                self.go_on,
            )? {
                Some(outputs) => all.extend(outputs),
                None => return Ok(None),
            }
        }
        Ok(Some((all, cut)))
    }
}
