//! The tensors of a trained head: inside an adapter, in a file beside it, or in the base.

use std::path::Path;

use vblora::storage::{HostTensor, TensorFile, peft::PeftAdapter};
use vblora_models::{Checkpoint, ClassifierNames, Family, ModelFiles};

use crate::{
    Error, Result,
    train::{HEAD_FILE, with_head},
};

/// Tensors by their names.
type Named = Vec<(String, HostTensor)>;

/// The tensors of a head's maps, by the names of [`vblora_models::ClassificationHead`].
const DENSE: [&str; 2] = ["classifier.dense.weight", "classifier.dense.bias"];
const OUTPUT: [&str; 2] = ["classifier.out_proj.weight", "classifier.out_proj.bias"];

/// The head of a directory whose adapter saved these tensors. The base has the tensors that the adapter lacks, such as BERT's pooler; a
/// whole model (`is_whole`) has all of them.
///
/// # Errors
/// There is no head, or a tensor of it is missing or cannot be read.
pub(super) fn find(
    dir: &Path,
    saved: Named,
    names: &ClassifierNames,
    (base, is_whole): (&ModelFiles, bool),
) -> Result<Named> {
    let no_head = |found: String| Err(no_head(&dir.display().to_string(), names, found));
    let read = |(name, tensor): (String, _)| (names.read(&name), tensor);
    let mut head: Named = saved.into_iter().map(read).collect();
    if head.is_empty() {
        head = beside(dir)?;
    }
    let has = |head: &Named, name: &str| head.iter().any(|(found, _)| found == name);
    let dense = DENSE.iter().filter(|_| names.has_dense);
    let tensors = dense.chain(&OUTPUT).copied();
    if !is_whole && !tensors.clone().any(|name| has(&head, name)) {
        return no_head("a directory without one".into());
    }
    let missing = tensors.filter(|name| !has(&head, name));
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Ok(head);
    }
    let mut checkpoint = Checkpoint::open(base)?;
    for name in missing {
        let written = names.written(name);
        let bare = written.strip_prefix(names.prefix).unwrap_or(&written);
        let mut places = [written.as_str(), bare].into_iter();
        let Some(place) = places.find(|place| checkpoint.contains(place)) else {
            let base = match is_whole {
                true => String::new(),
                false => format!(" in it or in {}", base.place()),
            };
            return no_head(format!("no tensor {written:?}{base}"));
        };
        head.push((name.to_owned(), checkpoint.tensor(place)?));
    }
    Ok(head)
}

pub(super) fn no_head(place: &str, names: &ClassifierNames, found: String) -> Error {
    let [dense, output] = [names.dense, names.output].map(|name| name.trim_end_matches('.'));
    let maps = match names.has_dense {
        true => format!("two maps ({dense}, {output})"),
        false => format!("one map ({output})"),
    };
    Error::Setting {
        setting: place.to_owned(),
        expected: format!("a directory with a head of {maps}, as training writes it"),
        found,
    }
}

/// The tensors of the file beside an adapter, or of a run that trained the head alone; none without such a file.
fn beside(dir: &Path) -> Result<Named> {
    let file = dir.join(HEAD_FILE);
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let tensors = TensorFile::read(&file)?;
    let head = tensors.names().map(|name| {
        let tensor = HostTensor {
            shape: tensors.shape(name).unwrap_or_default().to_vec(),
            values: tensors.floats(name)?,
        };
        Ok((name.to_owned(), tensor))
    });
    head.collect()
}

/// The adapter of a directory with the head that older versions wrote beside a BERT's adapter ([`HEAD_FILE`]), as newer ones write both.
/// `None` if no head lies beside the adapter.
///
/// # Errors
/// The file cannot be read.
pub fn with_head_beside(dir: &Path, adapter: &PeftAdapter) -> Result<Option<PeftAdapter>> {
    let head = match adapter.saved.is_empty() {
        true => beside(dir)?,
        false => Vec::new(),
    };
    let is_old = !head.is_empty();
    Ok(is_old.then(|| with_head(adapter.clone(), &Family::Bert.classifier(), &head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_head_is_named_as_the_family_names_it() {
        let said = |names: &ClassifierNames| no_head("run", names, "none".into()).to_string();
        let error = said(&Family::DistilBert.classifier());
        assert!(
            error.contains("two maps (pre_classifier, classifier)"),
            "{error}"
        );
        let of_base = ClassifierNames {
            has_dense: false,
            ..Family::ModernBert.classifier()
        };
        let error = said(&of_base);
        assert!(error.contains("one map (classifier)"), "{error}");
    }
}
