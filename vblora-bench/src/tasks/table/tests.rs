//! Every format gives the same cells, and every broken file one clear line.

use std::{path::Path, sync::Arc};

use ::parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};

use super::*;

/// A file in a directory.
fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> Table {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    Table::open(&path).unwrap()
}

fn cells(table: &Table, columns: &[&str]) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    table.read(columns, &mut |row| {
        rows.push(row.cells);
        Ok(())
    })?;
    Ok(rows)
}

fn message(name: &str, bytes: impl AsRef<[u8]>, columns: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let table = put(dir.path(), name, bytes);
    let error = cells(&table, columns).unwrap_err().to_string();
    error.replace(&format!("{}/", dir.path().display()), "")
}

fn text(text: &str) -> Cell {
    Cell::Text(text.into())
}

/// Texts with a quote, a line break, a comma and another alphabet; whole numbers, numbers, truth values and lists.
const ROWS: [(&str, i64, f64, bool, &[&str]); 3] = [
    ("he said \"no\"", 3, 0.5, true, &["a", "b"]),
    ("two\nlines, and a comma", -1, 2.0, false, &[]),
    (
        "\u{65e5}\u{672c}\u{8a9e}\tand a tab",
        12,
        -1e-3,
        true,
        &["c"],
    ),
];

/// The rows as Parquet, also with a column of dates.
pub(crate) fn parquet_file(path: &Path, compression: Compression) {
    let schema = "message rows {
        required binary text (UTF8);
        optional int64 whole;
        required double number;
        required boolean truth;
        required group list (LIST) { repeated group list { required binary element (UTF8); } }
        required int32 day (DATE);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut write = |write: &dyn Fn(&mut SerializedColumnWriter<'_>)| {
        let mut column = group.next_column().unwrap().unwrap();
        write(&mut column);
        column.close().unwrap();
    };
    write(&|column| {
        let texts: Vec<ByteArray> = ROWS.iter().map(|row| row.0.into()).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&texts, None, None)
            .unwrap();
    });
    write(&|column| {
        let values: Vec<i64> = ROWS.iter().map(|row| row.1).collect();
        column
            .typed::<Int64Type>()
            .write_batch(&values, Some(&[1; 3]), None)
            .unwrap();
    });
    write(&|column| {
        let values: Vec<f64> = ROWS.iter().map(|row| row.2).collect();
        column
            .typed::<DoubleType>()
            .write_batch(&values, None, None)
            .unwrap();
    });
    write(&|column| {
        let values: Vec<bool> = ROWS.iter().map(|row| row.3).collect();
        column
            .typed::<BoolType>()
            .write_batch(&values, None, None)
            .unwrap();
    });
    write(&|column| {
        let values: Vec<ByteArray> = ["a", "b", "c"].map(Into::into).to_vec();
        let (definition, repetition) = ([1, 1, 0, 1], [0, 1, 0, 0]);
        let column = column.typed::<ByteArrayType>();
        column
            .write_batch(&values, Some(&definition), Some(&repetition))
            .unwrap();
    });
    write(&|column| {
        let column = column.typed::<::parquet::data_type::Int32Type>();
        column.write_batch(&[1, 2, 3], None, None).unwrap();
    });
    group.close().unwrap();
    writer.close().unwrap();
}

/// A field, quoted as pandas quotes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn separated(separator: &str, end: &str) -> String {
    let mut file = ["other", "text", "whole", "number", "truth"].join(separator) + end;
    for (text, whole, number, truth, _) in ROWS {
        let text = quoted(text);
        let row = [
            "x".into(),
            text,
            whole.to_string(),
            format!("{number:?}"),
            truth.to_string(),
        ];
        file += &(row.join(separator) + end);
    }
    file
}

fn objects() -> Vec<String> {
    let object = |(text, whole, number, truth, list): (&str, i64, f64, bool, &[&str])| {
        let value = serde_json::json!({
            "text": text, "whole": whole, "number": number, "truth": truth, "list": list, "more": {"a": [1]}
        });
        value.to_string()
    };
    ROWS.map(object).to_vec()
}

#[test]
fn every_format_gives_the_same_texts_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, compression) in [
        ("plain.parquet", Compression::UNCOMPRESSED),
        ("snappy.parquet", Compression::SNAPPY),
        ("zstd.parquet", Compression::ZSTD(Default::default())),
    ] {
        parquet_file(&dir.join(name), compression);
    }
    let lines = objects().join("\n");
    let tables = [
        put(dir, "a.csv", separated(",", "\n")),
        put(
            dir,
            "mark.csv",
            format!("\u{feff}{}", separated(",", "\r\n")),
        ),
        put(dir, "a.TSV", separated("\t", "\n").trim_end()),
        put(dir, "a.jsonl", format!("\u{feff}{lines}\r\n\r\n")),
        put(dir, "lines.json", format!("\n{lines}")),
        put(dir, "a.json", format!(" \n[{}]\n", objects().join(",\n"))),
        Table::open(&dir.join("plain.parquet")).unwrap(),
        Table::open(&dir.join("snappy.parquet")).unwrap(),
        Table::open(&dir.join("zstd.parquet")).unwrap(),
    ];
    let columns = ["truth", "text", "number", "whole"];
    for table in &tables {
        let found = cells(table, &columns).unwrap();
        assert_eq!(found.len(), ROWS.len());
        for (found, row) in found.iter().zip(ROWS) {
            let texts: Vec<_> = found.iter().map(|cell| cell.text().unwrap()).collect();
            let number = format!("{:?}", row.2);
            let (truth, whole) = (row.3.to_string(), row.1.to_string());
            assert_eq!(texts, [&*truth, row.0, &number, &whole], "{table:?}");
            assert_eq!(found[2].number(), Some(row.2));
        }
        assert!(table.text_bytes(&["text"]).unwrap() > 40);
    }
    for table in tables
        .iter()
        .filter(|table| table.format != Format::Csv && table.format != Format::Tsv)
    {
        let found = cells(table, &["list"]).unwrap();
        let lists = ROWS.map(|row| vec![Cell::List(row.4.iter().map(|name| text(name)).collect())]);
        assert_eq!(found, lists, "{table:?}");
    }
}

#[test]
fn a_quote_within_a_field_is_text() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = "a,b\n5\" pipe,\"\"\n\"6\"\" pipe\",x\"y\"\n\"two\r\nlines\",\"\"\"\"";
    let table = put(dir.path(), "a.csv", bytes);
    let expected = [
        ["5\" pipe", ""],
        ["6\" pipe", "x\"y\""],
        ["two\r\nlines", "\""],
    ];
    assert_eq!(
        cells(&table, &["a", "b"]).unwrap(),
        expected.map(|row| row.map(text).to_vec())
    );
    // Faults are found far behind the first buffer, and the rows before them are read.
    let rows = "x,1\n".repeat(100_000);
    let table = put(dir.path(), "b.csv", format!("a,b\n{rows}\"y,1\nz,1\n"));
    let mut count = 0;
    let error = table.read(&["a"], &mut |_| {
        count += 1;
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert!(
        count == 100_000 && error.contains("line 100002"),
        "{count} {error}"
    );
}

#[test]
fn rows_have_the_place_where_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    let places = |table: Table| {
        let mut places = Vec::new();
        table
            .read(&["a"], &mut |row| {
                places.push(row.place.to_string());
                Ok(())
            })
            .unwrap();
        places
    };
    let csv = put(dir.path(), "a.csv", "a\n\"1\n2\"\n3\n");
    assert_eq!(places(csv), ["line 2", "line 4"]);
    let crlf = put(dir.path(), "b.csv", "a\r\n1\r\n2\r\n");
    assert_eq!(places(crlf), ["line 2", "line 3"]);
    let lines = put(dir.path(), "a.jsonl", "{\"a\": 1}\n\n{\"a\": null}\n");
    assert_eq!(places(lines), ["line 1", "line 3"]);
    let array = put(dir.path(), "a.json", "[{\"a\": 1},\n {\"a\": 2}]");
    assert_eq!(places(array), ["item 1", "item 2"]);
}

#[test]
fn broken_files_are_named_with_their_row() {
    for (name, bytes, expected) in [
        (
            "a.csv",
            &b"text,label\nx,1\nx\n"[..],
            "a.csv, line 3: expected 2 fields, as many as the header has, found 1",
        ),
        (
            "a.csv",
            b"text,label\r\nx,1\r\nx\r\n",
            "a.csv, line 3: expected 2 fields, as many as the header has, found 1",
        ),
        (
            "a.csv",
            b"text,label\nx,\"1\nx,2\n",
            "a.csv, line 2: expected a quote at the end of the quoted field, found the end of the file",
        ),
        (
            "a.csv",
            b"text,label\nx,1\n\"open,1\ny,1\nz,1\n\"a quoted one\",2\n",
            "a.csv, line 3: expected a quoted field that ends with its closing quote, found text after that quote in line 6",
        ),
        (
            "a.tsv",
            b"text\tlabel\r\nx\t1\r\n\"Oh no, she said.\t1\r\n\"Fine.\" he said.\t1\r\n",
            "a.tsv, line 3: expected a quoted field that ends with its closing quote, found text after that quote in line 4",
        ),
        (
            "a.csv",
            b"text,label\n\"very\" good,1\n",
            "a.csv, line 2: expected a quoted field that ends with its closing quote, found text after that quote",
        ),
        (
            "a.csv",
            b"text,label\nx,1\nlast film,\"pos",
            "a.csv, line 3: expected a quote at the end of the quoted field, found the end of the file",
        ),
        (
            "a.csv",
            b"text,\"label\nx,1\n",
            "a.csv, line 1: expected a quote at the end of the quoted field, found the end of the file",
        ),
        (
            "a.csv",
            b"text,label\nx\n\"y\" z,1\n",
            "a.csv, line 2: expected 2 fields, as many as the header has, found 1",
        ),
        (
            "a.csv",
            b"text,label\nx,\xff1\n",
            "a.csv, line 2: expected UTF-8 text, found invalid utf-8: invalid UTF-8 in field 1 near byte index 0",
        ),
        (
            "a.csv",
            b"text,text,label\n",
            "a.csv, line 1: expected one column \"text\", found two of that name",
        ),
        (
            "a.csv",
            b"text;label\nx;1\n",
            "a.csv: no column \"text\", found \"text;label\"",
        ),
        (
            "a.csv",
            b"",
            "a.csv: the split is empty, expected at least one example",
        ),
        (
            "a.tsv",
            b"text,label\nx,1\n",
            "a.tsv: no column \"text\", found \"text,label\"",
        ),
        (
            "a.jsonl",
            b"{\"label\": 1, \"Text\": 2}\n",
            "a.jsonl: no column \"text\", found \"label\", \"Text\"",
        ),
        (
            "a.jsonl",
            b"{\"text\": 1, \"label\": 2}\n{\"text\": 2}\n",
            "a.jsonl, line 2: expected a field \"label\", found text",
        ),
        (
            "a.jsonl",
            b"{\"text\": 1, \"label\": 2}\n[1]\n",
            "a.jsonl, line 2: expected a JSON object, found invalid type: sequence",
        ),
        (
            "a.jsonl",
            b"{\"text\": 1, \"text\": 2}\n",
            "a.jsonl, line 1: expected a JSON object, found field \"text\" twice",
        ),
        (
            "a.jsonl",
            b"{\"text\": NaN, \"label\": 2}\n",
            "a.jsonl, line 1: expected a JSON object, found expected value at column 10: {\"text\": NaN, \"label\": 2}",
        ),
        (
            "a.json",
            b"\n\"text\"",
            "a.json, line 2: expected an array of JSON objects, or JSON lines, found \"text\"",
        ),
        (
            "a.json",
            b"\n[{\"text\": 1, \"label\": 2},\n{\"text\": ]",
            "a.json, line 3: expected an array of JSON objects, found expected value at column 10",
        ),
        (
            "a.json",
            b" ",
            "a.json: the split is empty, expected at least one example",
        ),
        (
            "a.parquet",
            b"PAR1 and no more",
            "a.parquet, file: expected Apache Parquet, without compression or with snappy or zstd, found ",
        ),
    ] {
        let found = message(name, bytes, &["text", "label"]);
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn names_without_a_known_extension_are_refused() {
    for name in ["reviews.xlsx", "reviews"] {
        let error = Table::open(Path::new(name)).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains(".parquet"),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let table = Table::open(&dir.path().join("none.csv")).unwrap();
    let error = cells(&table, &["a"]).unwrap_err().to_string();
    assert!(
        error.contains("none.csv") && error.contains("cannot read"),
        "{error}"
    );
}

#[test]
fn parquet_columns_that_are_no_text_and_no_number_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    parquet_file(&path, Compression::SNAPPY);
    let table = Table::open(&path).unwrap();
    let error = cells(&table, &["day"]).unwrap_err().to_string();
    assert!(
        error.contains("column \"day\"") && error.contains("DATE"),
        "{error}"
    );
    // The codec of a column behind its name: snappy's, and gzip's in its place.
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"\x04text\x15\x02";
    let at = bytes.windows(name.len()).position(|part| part == name);
    bytes[at.unwrap() + name.len() - 1] = 4;
    std::fs::write(&path, bytes).unwrap();
    let error = cells(&table, &["text"]).unwrap_err().to_string();
    assert!(
        error.ends_with("column \"text\": expected no compression, snappy or zstd, found gzip"),
        "{error}"
    );
    let error = cells(&table, &["review"]).unwrap_err().to_string();
    assert!(
        error.contains("no column \"review\", found \"text\", \"whole\""),
        "{error}"
    );
}
