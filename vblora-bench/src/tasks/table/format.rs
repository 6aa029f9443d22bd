//! The formats of tables.

/// The format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// A JSON object in each line.
    JsonLines,
    /// A JSON array of objects, or JSON lines, which often have this extension.
    Json,
    /// Apache Parquet.
    Parquet,
}

const FORMATS: [(&str, Format); 6] = [
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("jsonl", Format::JsonLines),
    ("ndjson", Format::JsonLines),
    ("json", Format::Json),
    ("parquet", Format::Parquet),
];

impl Format {
    /// The format of files with this extension, in any case.
    pub fn of(extension: &str) -> Option<Self> {
        let mut formats = FORMATS.iter();
        let found = formats.find(|(known, _)| known.eq_ignore_ascii_case(extension));
        found.map(|(_, format)| *format)
    }

    /// The known extensions, for messages.
    pub fn extensions() -> String {
        FORMATS.map(|(name, _)| format!(".{name}")).join(", ")
    }
}
