//! Predictions by several ranks: each computes every n-th batch, and rank 0 joins the outputs.

use std::{path::Path, time::Duration};

use vblora::{backend::BackendKind, storage::peft};
use vblora_models::ModelFiles;

use super::run::Text;
use crate::{
    Error, Result,
    group::{Group, Terms, head, hear_each, message},
    train::{HEAD_FILE, HEAD_SETTINGS, model_hash},
};

/// The terms of this rank: its program, its backend, its base, the adapter and head in `dir`, and the texts.
///
/// # Errors
/// A file cannot be read.
pub fn terms(
    backend: BackendKind,
    files: &ModelFiles,
    dir: &Path,
    texts: &[Text<'_>],
) -> Result<Terms> {
    let mut terms = Terms::new(backend)?;
    terms.set("set of model files", model_hash(files)?);
    for name in [peft::CONFIG, peft::TENSORS, HEAD_FILE, HEAD_SETTINGS] {
        let path = dir.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|cause| Error::read(&path, cause))?;
            terms.set_hash(name, [bytes]);
        }
    }
    // Every text after its length, and a second one after a mark, so that no two lists are alike.
    let pieces = texts.iter().flat_map(|(first, second)| {
        let sized = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let second = second.map_or_else(|| vec![0], |text| [vec![1], sized(text)].concat());
        [sized(first), second]
    });
    terms.set_hash("data", pieces);
    Ok(terms)
}

/// The outputs of all ranks for every text, on rank 0. The others send theirs, and have none then. A text of another rank has empty outputs.
///
/// # Errors
/// A rank does not answer, or sends outputs that are not its own.
pub fn join(
    group: &dyn Group,
    mut outputs: Vec<Vec<f32>>,
    patience: Duration,
) -> Result<Option<Vec<Vec<f32>>>> {
    if group.place().rank > 0 {
        let rows: Vec<usize> = (0..outputs.len())
            .filter(|&row| !outputs[row].is_empty())
            .collect();
        group.report(message(&rows, outputs.concat())?);
        return Ok(None);
    }
    hear_each(group, patience, "for its predictions", |from, found| {
        let rows: Vec<usize> = head(from, &found)?;
        let unfit = |found: String| Error::RankMessage {
            rank: from,
            expected: "outputs of its own texts".into(),
            found,
        };
        if rows.is_empty() {
            return Ok(());
        }
        let width = found.values.len() / rows.len();
        if width == 0 || found.values.len() != width * rows.len() {
            let (values, rows) = (found.values.len(), rows.len());
            return Err(unfit(format!("{values} values for {rows} texts")));
        }
        for (row, values) in rows.into_iter().zip(found.values.chunks(width)) {
            match outputs.get_mut(row) {
                Some(place) if place.is_empty() => *place = values.to_vec(),
                _ => return Err(unfit(format!("those of text {}", row + 1))),
            }
        }
        Ok(())
    })?;
    match outputs.iter().position(Vec::is_empty) {
        None => Ok(Some(outputs)),
        Some(row) => Err(Error::RankMessage {
            rank: 0,
            expected: "outputs for every text".into(),
            found: format!("none for text {} of any rank", row + 1),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::group::Threads;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// The outputs of three ranks for seven texts, joined by rank 0. Rank r has the texts r, r + 3, and so on, save those that `edit` takes.
    fn joined(edit: impl Fn(usize, &mut Vec<Vec<f32>>) + Sync) -> Result<Option<Vec<Vec<f32>>>> {
        let group = Threads::group(3);
        thread::scope(|scope| {
            let ranks = group.iter().enumerate().map(|(rank, seat)| {
                let edit = &edit;
                scope.spawn(move || {
                    let own = |row: usize| match row % 3 == rank {
                        true => vec![row as f32, 0.5],
                        false => Vec::new(),
                    };
                    let mut outputs: Vec<_> = (0..7).map(own).collect();
                    edit(rank, &mut outputs);
                    join(seat, outputs, PATIENCE)
                })
            });
            let ranks: Vec<_> = ranks.collect();
            let mut all = ranks.into_iter().map(|rank| rank.join().unwrap());
            let first = all.next().unwrap();
            assert!(all.all(|other| other.unwrap().is_none()));
            first
        })
    }

    #[test]
    fn every_text_gets_the_outputs_of_its_rank() {
        let expected: Vec<_> = (0..7).map(|row| vec![row as f32, 0.5]).collect();
        assert_eq!(joined(|_, _| ()).unwrap().unwrap(), expected);
        let error = joined(|rank, outputs| {
            if rank == 1 {
                outputs[4].clear();
            }
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("none for text 5 of any rank"), "{error}");
        let error = joined(|rank, outputs| {
            if rank == 2 {
                outputs[0] = vec![0.0, 0.0];
            }
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("rank 2 sent those of text 1"), "{error}");
    }

    #[test]
    fn terms_tell_backends_texts_and_files_apart() {
        let files = crate::demo::model_files();
        let dir = tempfile::tempdir().unwrap();
        let on = |backend, texts: &[Text<'_>]| terms(backend, &files, dir.path(), texts).unwrap();
        let of = |texts: &[Text<'_>]| on(BackendKind::Flex, texts);
        let (part, ..) = of(&[]).difference(&on(BackendKind::NdArray, &[])).unwrap();
        assert_eq!(part, "backend");
        assert_ne!(of(&[("a", Some("b"))]), of(&[("a", None), ("b", None)]));
        assert_ne!(of(&[("ab", None)]), of(&[("a", None), ("b", None)]));
        assert_eq!(of(&[("ab", Some("c"))]), of(&[("ab", Some("c"))]));
        std::fs::write(dir.path().join(HEAD_SETTINGS), "{}").unwrap();
        let before = of(&[]);
        std::fs::write(dir.path().join(HEAD_SETTINGS), "{ }").unwrap();
        let (part, ..) = before.difference(&of(&[])).unwrap();
        assert_eq!(part, HEAD_SETTINGS);
    }
}
