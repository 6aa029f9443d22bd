//! Reader of BLiMP as one table: tab-separated, one minimal pair per row, gzipped or plain.
//!
//! BLiMP is Warstadt et al. 2020 (TACL 8), CC BY 4.0; the table is its `data/*.jsonl` with the
//! columns `UID, field, term, pair, good, bad`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;

const HEADER: &str = "UID\tfield\tterm\tpair\tgood\tbad";

/// Two sentences that differ in one place, which makes the second unacceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The paradigm, BLiMP's `UID`.
    pub(crate) paradigm: String,
    /// The pair's number within its paradigm.
    pub(crate) number: u32,
    /// The acceptable sentence.
    pub(crate) good: String,
    /// The unacceptable sentence.
    pub(crate) bad: String,
}

/// Reads every pair of the file, in the file's order.
pub(crate) fn read(path: &Path) -> Result<Vec<Pair>> {
    parse(&text(path)?).with_context(|| format!("in {}", path.display()))
}

/// The pairs of each paradigm. Paradigms are sorted by name.
pub(crate) fn by_paradigm<'a>(
    pairs: impl IntoIterator<Item = &'a Pair>,
) -> BTreeMap<&'a str, Vec<&'a Pair>> {
    let mut groups: BTreeMap<&str, Vec<&Pair>> = BTreeMap::new();
    for pair in pairs {
        groups.entry(&pair.paradigm).or_default().push(pair);
    }
    groups
}

/// The file's text, decompressed if its name ends in `.gz`.
pub(crate) fn text(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        MultiGzDecoder::new(file).read_to_string(&mut text)
    } else {
        file.read_to_string(&mut text)
    }
    .with_context(context)?;
    Ok(text)
}

fn parse(text: &str) -> Result<Vec<Pair>> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    ensure!(
        header == HEADER,
        "line 1: expected the header {HEADER:?}, found {header:?}"
    );
    lines
        .enumerate()
        .map(|(index, line)| parse_row(line).with_context(|| format!("line {}", index + 2)))
        .collect()
}

fn parse_row(line: &str) -> Result<Pair> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [paradigm, _field, _term, number, good, bad] = fields[..] else {
        bail!("expected 6 columns, found {}", fields.len());
    };
    for (column, value) in [("UID", paradigm), ("good", good), ("bad", bad)] {
        ensure!(!value.trim().is_empty(), "column {column} is empty");
    }
    Ok(Pair {
        paradigm: paradigm.to_owned(),
        number: number
            .parse()
            .with_context(|| format!("column pair: expected a number, found {number:?}"))?,
        good: good.trim().to_owned(),
        bad: bad.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_ordinary_characters() {
        let text = format!("{HEADER}\nwh\tsyntax\tislands\t7\tA \"cat sleeps.\tCat a sleeps.\n");
        let pairs = parse(&text).unwrap();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].number, 7);
        assert_eq!(pairs[0].good, "A \"cat sleeps.");
    }

    #[test]
    fn a_bad_row_is_named() {
        let row = |row: &str| format!("{:#}", parse(&format!("{HEADER}\n{row}")).unwrap_err());
        assert_eq!(row("wh\tsyntax"), "line 2: expected 6 columns, found 2");
        assert_eq!(row("wh\ts\tt\t0\tGood.\t "), "line 2: column bad is empty");
        assert!(row("wh\ts\tt\tx\tGood.\tBad.").starts_with("line 2: column pair: expected"));
    }

    #[test]
    fn another_table_is_refused() {
        let error = parse("sentence\tlabel\n").unwrap_err().to_string();
        assert!(
            error.contains("line 1: expected the header \"UID"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("no/such/blimp.tsv.gz")).unwrap_err();
        assert!(error.to_string().contains("no/such/blimp.tsv.gz"));
    }
}
