//! Reads files of references and outputs as e2e-metrics' `measure_scores.py` does.
//!
//! Lines end where Python's `str.splitlines` ends them, and lose white space at both ends. Where the reference program stops with an
//! exception, the error here names the line.

mod lines;
mod table;

use std::{collections::HashMap, path::Path};

use lines::{Line, read_lines};
use table::{Row, read_table};

use crate::{Error, Result};

/// Outputs, and the references of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// The meaning representation of each output; empty in a file without them.
    pub sources: Vec<String>,
    /// The outputs.
    pub outputs: Vec<String>,
    /// The references of each output, of which each has at least one.
    pub references: Vec<Vec<String>>,
}

/// A file of references.
#[derive(Debug)]
pub struct References {
    file: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The references of each instance.
    Blocks(Vec<Vec<String>>),
    /// Rows of a meaning representation and a reference.
    Rows(Vec<Row>),
}

impl References {
    /// Reads a file of references. `.csv` and `.tsv` files have a meaning representation and a reference in each row. In other files an
    /// empty line ends the references of an instance; without an empty line, each line is an instance.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is empty. There are two empty lines between references. A row lacks a column.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let content = if is_table(path) {
            Content::Rows(read_table(path, &table::REFERENCES)?)
        } else {
            Content::Blocks(blocks(read_lines(path)?, &file)?)
        };
        Ok(Self { file, content })
    }

    /// Reads a file of outputs for these references. `.csv` and `.tsv` files have a meaning representation and an output in each row. In
    /// other files each line is an output, and an empty line an empty one.
    ///
    /// References in a table are found by the meaning representation, or are those of consecutive rows if the outputs have none.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is empty. A row lacks a column. Outputs and references differ in number. A meaning
    /// representation has no reference, no output, or two outputs.
    pub fn with_outputs(&self, path: &Path) -> Result<Corpus> {
        let file = path.display().to_string();
        let rows = if is_table(path) {
            read_table(path, &table::OUTPUTS)?
        } else {
            let lines = read_lines(path)?.into_iter();
            lines
                .map(|line| Row {
                    number: line.number,
                    source: String::new(),
                    text: line.text,
                })
                .collect()
        };
        let references = self.of(&rows, &file)?;
        if references.len() != rows.len() {
            return Err(Error::Entry {
                file,
                place: format!("line {}", rows.last().map_or(1, |row| row.number)),
                expected: format!(
                    "{} outputs, one for each instance of {}",
                    references.len(),
                    self.file
                ),
                found: rows.len().to_string(),
            });
        }
        let (sources, outputs) = rows.into_iter().map(|row| (row.source, row.text)).unzip();
        Ok(Corpus {
            sources,
            outputs,
            references,
        })
    }

    fn of(&self, outputs: &[Row], file: &str) -> Result<Vec<Vec<String>>> {
        match &self.content {
            Content::Blocks(blocks) => Ok(blocks.clone()),
            Content::Rows(rows) if outputs.iter().all(|row| row.source.is_empty()) => {
                let groups = rows.chunk_by(|one, next| one.source == next.source);
                Ok(groups
                    .map(|group| group.iter().map(|row| row.text.clone()).collect())
                    .collect())
            }
            Content::Rows(rows) => self.by_source(rows, outputs, file),
        }
    }

    /// The references of each output by its meaning representation. Each has one output.
    fn by_source(&self, rows: &[Row], outputs: &[Row], file: &str) -> Result<Vec<Vec<String>>> {
        let mut groups: HashMap<&str, Vec<String>> = HashMap::new();
        for row in rows {
            let group = groups.entry(&row.source).or_default();
            group.push(row.text.clone());
        }
        let error = |file: &str, row: &Row, expected: String, found: String| Error::Entry {
            file: file.to_owned(),
            place: format!("line {}", row.number),
            expected,
            found,
        };
        let mut lines = HashMap::new();
        let mut references = Vec::with_capacity(outputs.len());
        for row in outputs {
            let source = row.source.as_str();
            let Some(group) = groups.get(source) else {
                let expected = format!("a meaning representation of {}", self.file);
                return Err(error(file, row, expected, format!("{source:?}")));
            };
            if let Some(first) = lines.insert(source, row.number) {
                let expected = "one output for each meaning representation".into();
                let found = format!("the one of line {first} again, {source:?}");
                return Err(error(file, row, expected, found));
            }
            references.push(group.clone());
        }
        if let Some(row) = rows.iter().find(|row| !lines.contains_key(&*row.source)) {
            let expected = format!("an output in {file} for {:?}", row.source);
            let (some, all) = (lines.len(), groups.len());
            let found = format!("outputs for {some} of {all} meaning representations");
            return Err(error(&self.file, row, expected, found));
        }
        Ok(references)
    }
}

fn is_table(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ["csv", "tsv"].contains(&ending.to_ascii_lowercase().as_str()))
}

/// The references of each instance, from lines with an empty one between instances.
fn blocks(mut lines: Vec<Line>, file: &str) -> Result<Vec<Vec<String>>> {
    while lines.last().is_some_and(|line| line.text.is_empty()) {
        lines.pop();
    }
    let mut blocks = Vec::new();
    for block in lines.split(|line| line.text.is_empty()) {
        if block.is_empty() {
            return Err(empty_block(&lines, blocks.len(), file));
        }
        blocks.push(
            block
                .iter()
                .map(|line| line.text.clone())
                .collect::<Vec<_>>(),
        );
    }
    match blocks.as_mut_slice() {
        [single] => Ok(single.drain(..).map(|line| vec![line]).collect()),
        _ => Ok(blocks),
    }
}

/// The error for an instance without references, after `before` instances that have some.
fn empty_block(lines: &[Line], before: usize, file: &str) -> Error {
    let mut empty = lines.iter().filter(|line| line.text.is_empty());
    Error::Entry {
        file: file.to_owned(),
        place: format!("line {}", empty.nth(before).map_or(1, |line| line.number)),
        expected: "a reference".to_owned(),
        found: format!("an empty line, so that instance {} has none", before + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Reads references and outputs from files of these names and contents.
    fn read(references: (&str, &[u8]), outputs: (&str, &[u8])) -> Result<Corpus> {
        let dir = tempfile::tempdir().unwrap();
        let write = |(name, bytes): (&str, &[u8])| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let outputs = write(outputs);
        References::read(&write(references))?.with_outputs(&outputs)
    }

    fn error(references: (&str, &[u8]), outputs: (&str, &[u8])) -> String {
        let message = read(references, outputs).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message.rsplit('/').next().unwrap().to_owned()
    }

    #[test]
    fn text_has_instances_between_empty_lines() {
        let corpus = read(("r.txt", b" a b \nc\n\nd\n\n"), ("o.txt", b"x\n\n")).unwrap();
        assert_eq!(corpus.references, [vec!["a b", "c"], vec!["d"]]);
        assert_eq!(corpus.outputs, ["x", ""]);
        let single = read(("r.txt", b"a\nb"), ("o.txt", b"x\ny")).unwrap();
        assert_eq!(single.references, [["a"], ["b"]]);
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        let outputs = "a\u{2028}b\u{b}c\r\nd\re\u{85}f".as_bytes();
        let corpus = read(("r.txt", b"1\n2\n3\n4\n5\n6"), ("o.txt", outputs)).unwrap();
        assert_eq!(corpus.outputs, ["a", "b", "c", "d", "e", "f"]);
    }

    #[test]
    fn tables_are_mended_and_matched_by_meaning() {
        let references =
            "\u{feff}\"mr\",\"ref\"\n\na[b],\"Cafã© £5, ok\"\na[b],two\nc[d],Ł20 Â£30\n".as_bytes();
        let outputs = b"MR\toutput\nc[d]\t\"x\"\"y\"\na[b]\tz w\n";
        let corpus = read(("r.csv", references), ("o.TSV", outputs)).unwrap();
        assert_eq!(corpus.sources, ["c[d]", "a[b]"]);
        assert_eq!(corpus.outputs, ["x\"y", "z w"]);
        assert_eq!(
            corpus.references,
            [vec!["£20 £30"], vec!["Café £5, ok", "two"]]
        );
        let by_order = read(("r.csv", references), ("o.txt", b"p\nq")).unwrap();
        assert_eq!(
            by_order.references,
            [vec!["Café £5, ok", "two"], vec!["£20 £30"]]
        );
        // Within a line a quoted field may go on after its quote, as in the reference program.
        let goes_on = b"MR,output\na[b],\"The\" 5\" pipe\nc[d],z";
        let goes_on = read(("r.csv", references), ("o.csv", goes_on)).unwrap();
        assert_eq!(goes_on.outputs, ["The 5\" pipe", "z"]);
        let no_header = read(("r.tsv", b"m\ta\nm\tb"), ("o.txt", b"p")).unwrap();
        assert_eq!(no_header.references, [["a", "b"]]);
    }

    #[test]
    fn wrong_files_are_named_with_their_lines() {
        let refs: (&str, &[u8]) = ("r.txt", b"a\n\nb\n");
        for (found, expected) in [
            (error(refs, ("o.txt", b"x\ny\nz")), "r.txt, found 3"),
            (
                error(refs, ("o.txt", b"")),
                "o.txt, line 1: expected text, found an empty file",
            ),
            (
                error(("r.txt", b"\n \n"), ("o.txt", b"x")),
                "r.txt, line 1: expected text, found an empty file",
            ),
            (
                error(refs, ("o.txt", b"x\n\xff")),
                "o.txt, line 2: expected UTF-8 text, found byte 0xff",
            ),
            (
                error(("r.txt", b"a\n\n\nb"), ("o.txt", b"x")),
                "r.txt, line 3: expected a reference, found an empty line, so that instance 2 has none",
            ),
            (
                error(("r.csv", b"mr,ref\nm,a"), ("o.csv", b"mr,output\nm\n")),
                "o.csv, line 2: expected 2 columns as in line 1, found 1",
            ),
            (
                error(("r.csv", b"mr,ref\nm,a"), ("o.csv", b"mr,output\nq,x\n")),
                "r.csv, found \"q\"",
            ),
            (
                error(
                    ("r.csv", b"mr,ref\nm,a\nn,b\nn,c"),
                    ("o.csv", b"mr,output\nm,x\n"),
                ),
                "for \"n\", found outputs for 1 of 2 meaning representations",
            ),
            (
                error(
                    ("r.csv", b"mr,ref\nm,a\nn,b"),
                    ("o.csv", b"mr,output\nm,x\nn,y\nm,z\n"),
                ),
                "o.csv, line 4: expected one output for each meaning representation, found the one of line 2 again, \"m\"",
            ),
            (
                error(
                    ("r.csv", b"mr,ref\nm,a\nn,b"),
                    ("o.tsv", b"mr\toutput\n\nm\t\"Oh\nn\ty"),
                ),
                "o.tsv, line 3: expected a quote at the end of the quoted field, found the end of the file",
            ),
            (
                error(
                    ("r.csv", b"mr,ref\nm,a\nn,b"),
                    ("o.tsv", b"mr\toutput\nm\t\"Oh\n\nn\t\"No\" he said"),
                ),
                "o.tsv, line 2: expected a quoted field that ends with its closing quote, found text after that quote in line 4",
            ),
            (
                error(("r.csv", b"mr,ref,reference\nm,a,b"), ("o.txt", b"x")),
                "r.csv, line 1: expected one column mr and one column ref, found columns mr, ref, reference",
            ),
            (
                error(("r.csv", b"a,b,c\nm,a,b"), ("o.txt", b"x")),
                "r.csv, line 1: expected one column mr and one column ref, found columns a, b, c",
            ),
            (
                error(("r.csv", b"mr,ref\n"), ("o.txt", b"x")),
                "r.csv, line 1: expected rows, found only a header",
            ),
        ] {
            assert!(found.ends_with(expected), "{found}");
        }
        let missing = References::read(Path::new("no/such.txt")).unwrap_err();
        assert!(
            missing.to_string().starts_with("cannot read no/such.txt"),
            "{missing}"
        );
    }
}
