//! Apache Parquet, with columns of text, numbers, truth values, and lists of them.

use std::{fs::File, path::Path, sync::Arc};

use ::parquet::{
    basic::{Compression, ConvertedType, LogicalType, Type as Physical},
    errors::ParquetError,
    file::{
        metadata::ColumnChunkMetaData,
        reader::{FileReader, SerializedFileReader},
    },
    record::Field,
    schema::types::Type,
};
use vblora_models::contain;

use super::{Place, Row, Sink, cell::Cell, error, positions, stream};
use crate::{Error, Result};

/// Where the names of columns are.
const PLACE: &str = "schema";

/// Reads the columns, row by row.
pub(super) fn read(path: &Path, columns: &[&str], sink: &mut Sink<'_>) -> Result<()> {
    // The library panics on some broken files.
    let read = contain(|| read_rows(path, columns, sink));
    read.unwrap_or_else(|panic| Err(broken(path, panic)))
}

fn read_rows(path: &Path, columns: &[&str], sink: &mut Sink<'_>) -> Result<()> {
    let reader = open(path)?;
    let schema = wanted(&reader, path, columns)?;
    let rows = reader
        .get_row_iter(Some(schema))
        .map_err(|e| broken(path, e))?;
    for (number, row) in (1..).zip(rows) {
        let place = Place::Row(number);
        let fields = row.map_err(|e| unreadable(path, place, &e))?.into_columns();
        let names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
        let positions = positions(path, PLACE, columns, &names)?;
        let cells = positions
            .into_iter()
            .map(|at| cell(&fields[at].1))
            .collect();
        sink(Row { place, cells })?;
    }
    Ok(())
}

/// The bytes of the columns without compression.
pub(super) fn text_bytes(path: &Path, columns: &[&str]) -> Result<u64> {
    let sum = contain(|| sum_bytes(path, columns));
    sum.unwrap_or_else(|panic| Err(broken(path, panic)))
}

fn sum_bytes(path: &Path, columns: &[&str]) -> Result<u64> {
    let reader = open(path)?;
    let groups = reader.metadata().row_groups().iter();
    let chunks = groups.flat_map(|group| group.columns());
    let chunks = chunks.filter(|chunk| columns.contains(&root(chunk)));
    let sizes = chunks.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0));
    Ok(sizes.sum())
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = stream::open(path)?;
    SerializedFileReader::new(file).map_err(|e| broken(path, e))
}

/// The name of the column that a chunk is of.
fn root(chunk: &ColumnChunkMetaData) -> &str {
    let parts = chunk.column_path().parts();
    parts.first().map_or("", String::as_str)
}

/// The schema of the wanted columns.
fn wanted(reader: &SerializedFileReader<File>, path: &Path, columns: &[&str]) -> Result<Type> {
    let root = reader.metadata().file_metadata().schema();
    let fields = root.get_fields();
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    let positions = positions(path, PLACE, columns, &names)?;
    for &at in &positions {
        check(&fields[at], path)?;
        check_codec(reader, &names[at], path)?;
    }
    let kept = (0..fields.len()).filter(|at| positions.contains(at));
    let kept: Vec<Arc<Type>> = kept.map(|at| fields[at].clone()).collect();
    let schema = Type::group_type_builder(root.name())
        .with_fields(kept)
        .build();
    schema.map_err(|e| broken(path, e))
}

/// Refuses columns of dates, decimals, bytes, objects and such.
fn check(column: &Type, path: &Path) -> Result<()> {
    if is_plain(column) || is_list(column) {
        return Ok(());
    }
    let found = match column.is_primitive() {
        true => kind(column),
        false => "a group".into(),
    };
    let expected = "text, numbers, truth values or lists of them";
    Err(wrong_column(path, column.name(), expected, found))
}

/// The type of a column, by the name that says most.
fn kind(column: &Type) -> String {
    let (physical, info) = (column.get_physical_type(), column.get_basic_info());
    match (info.converted_type(), info.logical_type_ref()) {
        (ConvertedType::NONE, Some(LogicalType::Unknown)) => "nulls alone".into(),
        (ConvertedType::NONE, Some(logical)) => {
            // A name, perhaps with fields behind it.
            let logical = format!("{logical:?}");
            let name = logical.split(|c: char| !c.is_alphanumeric()).next();
            format!("{physical} ({})", name.unwrap_or_default())
        }
        (ConvertedType::NONE, None) => physical.to_string(),
        (converted, _) => format!("{physical} ({converted})"),
    }
}

/// Refuses a column in a compression that this program is built without.
fn check_codec(reader: &SerializedFileReader<File>, name: &str, path: &Path) -> Result<()> {
    let groups = reader.metadata().row_groups().iter();
    let chunks = groups.flat_map(|group| group.columns());
    let mut codecs = chunks
        .filter(|chunk| root(chunk) == name)
        .map(|chunk| chunk.compression());
    let is_known = |codec: &Compression| {
        matches!(
            codec,
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)
        )
    };
    match codecs.find(|codec| !is_known(codec)) {
        None => Ok(()),
        Some(codec) => {
            let codec = format!("{codec:?}").to_lowercase();
            let found = codec.split('(').next().unwrap_or_default().to_owned();
            let expected = "no compression, snappy or zstd";
            Err(wrong_column(path, name, expected, found))
        }
    }
}

fn wrong_column(path: &Path, name: &str, expected: &str, found: String) -> Error {
    Error::Entry {
        file: path.display().to_string(),
        place: format!("column {name:?}"),
        expected: expected.into(),
        found,
    }
}

fn is_plain(column: &Type) -> bool {
    if !column.is_primitive() {
        return false;
    }
    let info = column.get_basic_info();
    match column.get_physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::INT32 | Physical::INT64 => matches!(
            (info.logical_type_ref(), info.converted_type()),
            (Some(LogicalType::Integer(_)), _)
                | (
                    None,
                    ConvertedType::NONE
                        | ConvertedType::INT_8
                        | ConvertedType::INT_16
                        | ConvertedType::INT_32
                        | ConvertedType::INT_64
                        | ConvertedType::UINT_8
                        | ConvertedType::UINT_16
                        | ConvertedType::UINT_32
                        | ConvertedType::UINT_64
                )
        ),
        Physical::BYTE_ARRAY => matches!(
            info.converted_type(),
            ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
        ),
        Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => false,
    }
}

/// A list: a group with a repeated group with one plain element.
fn is_list(column: &Type) -> bool {
    if column.is_primitive() || column.get_basic_info().converted_type() != ConvertedType::LIST {
        return false;
    }
    let [repeated] = column.get_fields() else {
        return false;
    };
    match repeated.is_primitive() {
        true => is_plain(repeated),
        false => matches!(repeated.get_fields(), [element] if is_plain(element)),
    }
}

fn cell(field: &Field) -> Cell {
    match field {
        Field::Null => Cell::Missing,
        Field::Bool(value) => Cell::Bool(*value),
        Field::Byte(number) => Cell::Integer((*number).into()),
        Field::Short(number) => Cell::Integer((*number).into()),
        Field::Int(number) => Cell::Integer((*number).into()),
        Field::Long(number) => Cell::Integer((*number).into()),
        Field::UByte(number) => Cell::Integer((*number).into()),
        Field::UShort(number) => Cell::Integer((*number).into()),
        Field::UInt(number) => Cell::Integer((*number).into()),
        Field::ULong(number) => Cell::Integer((*number).into()),
        Field::Float16(number) => Cell::Float(number.to_f64()),
        // The shortest digits that give this value, as other files write it.
        Field::Float(number) => Cell::Float(number.to_string().parse().unwrap_or(f64::NAN)),
        Field::Double(number) => Cell::Float(*number),
        Field::Str(text) => Cell::Text(text.clone()),
        Field::ListInternal(list) => Cell::List(list.elements().iter().map(cell).collect()),
        Field::Decimal(_) => Cell::Other("a decimal"),
        Field::Bytes(_) => Cell::Other("bytes"),
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Cell::Other("a date or time"),
        Field::Group(_) | Field::MapInternal(_) => Cell::Other("an object"),
    }
}

fn unreadable(path: &Path, place: Place, cause: &ParquetError) -> Error {
    error(path, place, "a row of Parquet", cause.to_string())
}

fn broken(path: &Path, cause: impl ToString) -> Error {
    Error::Entry {
        file: path.display().to_string(),
        place: "file".into(),
        expected: "Apache Parquet, without compression or with snappy or zstd".into(),
        found: cause.to_string(),
    }
}
