//! The files of a data set: one file, or a directory with files for each split.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use vblora::storage::is_own_stream;

use crate::{Error, Result, directory::names, tasks::table::Format};

/// The names of the development split, the first one preferred.
const DEV: [&str; 4] = ["dev", "validation", "valid", "val"];

/// The files of a data set. A split in shards has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The training files, at least one.
    pub train: Vec<PathBuf>,
    /// The development files; empty if there are none.
    pub dev: Vec<PathBuf>,
    /// The test files, which training does not read.
    pub test: Vec<PathBuf>,
}

/// Finds the files of a data set. `data` is a file, or a directory with `train.EXT`, and perhaps `dev.EXT` (also `validation`, `valid`, `val`)
/// and `test.EXT`. The hub's shards (`train-00000-of-00002.parquet`) are found too, also in a folder `data`.
///
/// # Errors
/// The path does not exist; the directory has no training file, or two for one split; shards are not as many as their names say.
pub fn find(data: &Path) -> Result<Files> {
    if is_own_stream(data) {
        let reason = "training reads its data twice, and a stream only once; expected a file";
        return Err(Error::read(data, std::io::Error::other(reason)));
    }
    if !data.is_dir() {
        // Reading the file reports what is wrong with it.
        return Ok(Files {
            train: vec![data.to_owned()],
            dev: Vec::new(),
            test: Vec::new(),
        });
    }
    let inner = data.join("data");
    let dir = match split(data, &names(data)?, "train")?.is_empty() && inner.is_dir() {
        true => inner,
        false => data.to_owned(),
    };
    let names = names(&dir)?;
    let train = split(&dir, &names, "train")?;
    if train.is_empty() {
        return Err(no_train(&dir, &names));
    }
    let mut dev = Vec::new();
    for name in DEV {
        let found = split(&dir, &names, name)?;
        if !found.is_empty() && !dev.is_empty() {
            return Err(Error::in_the_way(
                &found[0],
                "the directory has two development splits",
            ));
        }
        dev.extend(found);
    }
    let test = split(&dir, &names, "test")?;
    Ok(Files { train, dev, test })
}

fn no_train(dir: &Path, names: &[String]) -> Error {
    let found = match names {
        [] => "nothing".into(),
        names => names
            .iter()
            .take(20)
            .cloned()
            .collect::<Vec<_>>()
            .join(", "),
    };
    Error::Entry {
        file: dir.display().to_string(),
        place: "directory".into(),
        expected: format!(
            "train.EXT, with one of the extensions {}",
            Format::extensions()
        ),
        found,
    }
}

/// The files of a split: `NAME.EXT`, or all shards `NAME-*.EXT` in the order of their names.
fn split(dir: &Path, names: &[String], split: &str) -> Result<Vec<PathBuf>> {
    let of = |is_one: &dyn Fn(&str) -> bool| -> Vec<PathBuf> {
        let tables = names.iter().filter(|name| {
            let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
            Format::of(extension).is_some() && is_one(stem)
        });
        tables.map(|name| dir.join(name)).collect()
    };
    let whole = of(&|stem| stem == split);
    let shards = of(&|stem| {
        stem.strip_prefix(split)
            .is_some_and(|rest| rest.starts_with('-'))
    });
    match (whole.as_slice(), shards.is_empty()) {
        ([_], true) => Ok(whole),
        ([], _) => {
            check_shards(dir, &shards, split)?;
            Ok(shards)
        }
        ([_], false) | ([_, _, ..], _) => {
            let all: Vec<_> = whole
                .iter()
                .chain(&shards)
                .filter_map(|path| path.file_name())
                .collect();
            let all: Vec<_> = all.iter().map(|name| name.to_string_lossy()).collect();
            let reason = format!("{} are all the {split} split", all.join(", "));
            Err(Error::in_the_way(dir, reason))
        }
    }
}

/// Refuses shards `NAME-I-of-N` that are not one for each I below N, or that lie beside other shards.
fn check_shards(dir: &Path, shards: &[PathBuf], split: &str) -> Result<()> {
    let stems = shards.iter().filter_map(|path| path.file_stem());
    let stems: Vec<_> = stems.map(|stem| stem.to_string_lossy()).collect();
    let parts: Vec<_> = stems.iter().map(|stem| numbered(stem, split)).collect();
    let Some((first, of)) = parts.iter().flatten().next() else {
        return Ok(());
    };
    let is_other = |part: &Option<(&str, &str)>| part.is_none_or(|(_, count)| count != *of);
    let indices: BTreeSet<u64> = parts
        .iter()
        .flatten()
        .filter_map(|(index, _)| index.parse().ok())
        .collect();
    let count: u64 = of.parse().unwrap_or(u64::MAX);
    let missing = (0..count).find(|index| !indices.contains(index));
    let found = match (parts.iter().position(is_other), missing) {
        (Some(other), _) => format!("{} beside {split}-{first}-of-{of}", stems[other]),
        (None, Some(index)) => format!("no {split}-{index:0width$}-of-{of}", width = first.len()),
        (None, None) if indices.len() < shards.len() => "two files of one number".into(),
        (None, None) => return Ok(()),
    };
    Err(Error::Entry {
        file: dir.display().to_string(),
        place: "directory".into(),
        expected: format!("all {count} files of the {split} split and no others"),
        found,
    })
}

/// I and N in a name `SPLIT-I-of-N`.
fn numbered<'a>(stem: &'a str, split: &str) -> Option<(&'a str, &'a str)> {
    let rest = stem.strip_prefix(split)?.strip_prefix('-')?;
    let (index, count) = rest.split_once("-of-")?;
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    (is_number(index) && is_number(count)).then_some((index, count))
}
