//! Apache Parquet, with columns of text, numbers, truth values, and lists of them.

use std::{fs::File, path::Path, sync::Arc};

use ::parquet::{
    basic::{ConvertedType, LogicalType, Type as Physical},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
    schema::types::Type,
};
use vblora_models::contain;

use super::{Place, Row, Sink, cell::Cell, error, positions, stream};
use crate::{Error, Result};

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
        let positions = positions(path, columns, &names)?;
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
    let is_wanted = |name: &str| columns.contains(&name);
    let chunks = chunks.filter(|chunk| {
        let parts = chunk.column_path().parts();
        parts.first().is_some_and(|name| is_wanted(name))
    });
    let sizes = chunks.map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0));
    Ok(sizes.sum())
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = stream::open(path)?;
    SerializedFileReader::new(file).map_err(|e| broken(path, e))
}

/// The schema of the wanted columns.
fn wanted(reader: &SerializedFileReader<File>, path: &Path, columns: &[&str]) -> Result<Type> {
    let root = reader.metadata().file_metadata().schema();
    let fields = root.get_fields();
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    let positions = positions(path, columns, &names)?;
    for &at in &positions {
        check(&fields[at], path)?;
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
        true => format!(
            "{} ({})",
            column.get_physical_type(),
            column.get_basic_info().converted_type()
        ),
        false => "a group".into(),
    };
    Err(Error::Entry {
        file: path.display().to_string(),
        place: format!("column {:?}", column.name()),
        expected: "text, numbers, truth values or lists of them".into(),
        found,
    })
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
