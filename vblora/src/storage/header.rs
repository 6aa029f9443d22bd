//! The header of a safetensors file, checked against the file before a tensor is touched.
//!
//! The `safetensors` crate checks the same rules, but its errors name neither the tensor nor the offsets at fault. It takes the last of two
//! tensors of one name, and can overflow when it adds up the sizes of a lying header.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;

use safetensors::Dtype;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::strict_json::OnceEach;

/// Bytes of the length in front of the header.
const LENGTH_BYTES: usize = 8;
/// The limit of the reference implementation; a real header has about 100 bytes per tensor.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// A tensor with a longer name is refused; real names have some 100 bytes.
pub const MAX_NAME_BYTES: usize = 1 << 10;
/// The one key that is no tensor.
const METADATA: &str = "__metadata__";

/// The type, shape and place of one tensor in its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Byte range in the whole file.
    pub bytes: Range<usize>,
}

/// The contents of a safetensors header.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Header {
    /// Its tensors by name; at least one.
    pub tensors: BTreeMap<String, Entry>,
    /// The free text beside them.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Described {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header's text, read key by key. A value that describes no tensor is refused before it is held. So is a key given twice, because
/// readers disagree which of the two counts.
#[derive(Default)]
struct Table {
    tensors: BTreeMap<String, Described>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor)
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Table, A::Error> {
        let mut table = Table::default();
        let mut has_metadata = false;
        while let Some(name) = entries.next_key::<String>()? {
            check_name(&name).map_err(A::Error::custom)?;
            let is_metadata = name == METADATA;
            if table.tensors.contains_key(&name) || (is_metadata && has_metadata) {
                return Err(A::Error::custom(format_args!(
                    "key {name:?} is given twice"
                )));
            }
            if is_metadata {
                has_metadata = true;
                let OnceEach(metadata) = entries
                    .next_value()
                    .map_err(|error| A::Error::custom(format_args!("{METADATA}: {error}")))?;
                table.metadata = metadata;
                continue;
            }
            let tensor = entries
                .next_value()
                .map_err(|error| A::Error::custom(format_args!("tensor {name:?}: {error}")))?;
            table.tensors.insert(name, tensor);
        }
        Ok(table)
    }
}

impl Header {
    /// Reads the header of a whole file and checks it against the file. Every tensor must lie inside and have the bytes that its shape
    /// needs. Together the tensors must cover the data once.
    ///
    /// # Errors
    /// The cause alone; the caller knows the file's name.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let length = text_length(file.first_chunk().copied(), file.len())?;
        Self::from_text(&file[LENGTH_BYTES..][..length], file.len())
    }

    /// As [`parse`](Self::parse), but reads only the front of a file of `size` bytes. Returns the bytes that were read, too.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), or the system's error.
    pub fn read(file: &mut impl Read, size: u64) -> Result<(Self, Vec<u8>), String> {
        let size = usize::try_from(size).map_err(|_| format!("{size} bytes are too many"))?;
        let mut read = |bytes: usize| {
            let mut front = vec![0; bytes];
            let done = file.read_exact(&mut front);
            done.map(|()| front).map_err(|error| error.to_string())
        };
        let mut front = read(LENGTH_BYTES.min(size))?;
        let length = text_length(front.first_chunk().copied(), size)?;
        front.extend(read(length)?);
        let header = Self::from_text(&front[LENGTH_BYTES..], size)?;
        Ok((header, front))
    }

    fn from_text(text: &[u8], file_end: usize) -> Result<Self, String> {
        let data_start = LENGTH_BYTES + text.len();
        let Table { tensors, metadata } =
            serde_json::from_slice(text).map_err(|error| format!("header: {error}"))?;
        if tensors.is_empty() {
            return Err("it holds no tensors".to_owned());
        }
        let placed = |(name, tensor): (String, Described)| {
            let entry = place(tensor, data_start, file_end)
                .map_err(|problem| format!("tensor {name:?}: {problem}"))?;
            Ok((name, entry))
        };
        let tensors = tensors.into_iter().map(placed);
        let tensors = tensors.collect::<Result<BTreeMap<_, _>, String>>()?;
        check_cover(&tensors, data_start, file_end)?;
        Ok(Self { tensors, metadata })
    }
}

/// Reads the length of the header's text from the first bytes of a file of `size` bytes.
fn text_length(first: Option<[u8; LENGTH_BYTES]>, size: usize) -> Result<usize, String> {
    let Some(first) = first else {
        return Err(format!(
            "it has {size} bytes, too few for the {LENGTH_BYTES}-byte header length (empty or truncated)"
        ));
    };
    let length = u64::from_le_bytes(first);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "header length {length} is over the limit of {MAX_HEADER_BYTES} bytes"
        ));
    }
    let rest = size - LENGTH_BYTES;
    match length as usize {
        length if length <= rest => Ok(length),
        length => Err(format!(
            "header length {length}, but only {rest} bytes follow (truncated?)"
        )),
    }
}

/// Refuses a name too long to be shown.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let start: String = name.chars().take(40).collect();
    let bytes = name.len();
    Err(format!(
        "the name {start:?}... has {bytes} bytes, over the limit of {MAX_NAME_BYTES}"
    ))
}

/// Checks one tensor's offsets against its shape and the end of the file.
fn place(tensor: Described, data_start: usize, file_end: usize) -> Result<Entry, String> {
    let Described {
        dtype,
        shape,
        data_offsets: (start, end),
    } = tensor;
    let data = file_end - data_start;
    if start > end || end > data {
        return Err(format!(
            "offsets {start}..{end} are outside the {data} bytes of data (truncated?)"
        ));
    }
    let needed = byte_size(dtype, &shape)
        .ok_or_else(|| format!("shape {shape:?} of {dtype} has no possible size"))?;
    if needed != end - start {
        return Err(format!(
            "shape {shape:?} of {dtype} needs {needed} bytes, but its offsets {start}..{end} give {}",
            end - start
        ));
    }
    Ok(Entry {
        dtype,
        shape,
        bytes: data_start + start..data_start + end,
    })
}

fn byte_size(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The tensors must cover the data exactly once: no overlap, no hole, nothing after the last.
fn check_cover(
    entries: &BTreeMap<String, Entry>,
    data_start: usize,
    file_end: usize,
) -> Result<(), String> {
    let mut in_order: Vec<_> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
    let mut reached = data_start;
    for (name, entry) in in_order {
        if entry.bytes.start != reached {
            let what = if entry.bytes.start < reached {
                "overlaps the tensor before it"
            } else {
                "leaves a hole before it"
            };
            let start = entry.bytes.start - data_start;
            return Err(format!("tensor {name:?} at offset {start} {what}"));
        }
        reached = entry.bytes.end;
    }
    match file_end - reached {
        0 => Ok(()),
        rest => Err(format!("{rest} bytes at the end belong to no tensor")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    }

    fn problem(header: &str, data: usize) -> String {
        Header::parse(&file(header, data)).unwrap_err()
    }

    #[test]
    fn a_good_header_gives_ranges_in_the_file() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[3],"data_offsets":[8,14]},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
        let entries = Header::parse(&file(header, 14)).unwrap().tensors;
        let start = 8 + header.len();
        assert_eq!(entries["a"].bytes, start..start + 8);
        assert_eq!(entries["b"].bytes, start + 8..start + 14);
        assert_eq!(entries["b"].shape, [3]);
    }

    #[test]
    fn truncated_or_overlong_headers_are_named() {
        assert!(Header::parse(b"").unwrap_err().contains("it has 0 bytes"));
        assert!(
            Header::parse(b"abc")
                .unwrap_err()
                .contains("it has 3 bytes")
        );
        let short = [100u64.to_le_bytes().as_slice(), b"{}"].concat();
        let error = Header::parse(&short).unwrap_err();
        assert!(error.contains("header length 100") && error.contains("only 2 bytes"));
        let error = Header::parse(&u64::MAX.to_le_bytes()).unwrap_err();
        assert!(error.contains("over the limit"), "{error}");
    }

    #[test]
    fn headers_that_are_not_a_tensor_table_are_named() {
        assert!(problem("{nonsense", 0).contains("header: "));
        assert!(problem("[1]", 0).contains("header: "));
        assert!(problem("{}", 0).contains("holds no tensors"));
        assert!(problem(r#"{"__metadata__":{}}"#, 0).contains("holds no tensors"));
        for wrong in [
            r#"{"w":3}"#,
            r#"{"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"F32","shape":[1]}}"#,
            r#"{"w":{"dtype":"F64","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}"#,
        ] {
            assert!(problem(wrong, 4).contains("tensor \"w\""), "{wrong}");
        }
        assert!(Header::parse(&[&4u64.to_le_bytes()[..], &[0xff; 4]].concat()).is_err());
    }

    #[test]
    fn a_key_twice_is_named() {
        let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        for (header, key) in [
            (format!(r#"{{"w":{tensor},"w":{tensor}}}"#), "\"w\""),
            (format!(r#"{{"w":{tensor},"\u0077":{tensor}}}"#), "\"w\""),
            (
                format!(r#"{{"__metadata__":{{}},"w":{tensor},"__metadata__":{{}}}}"#),
                "\"__metadata__\"",
            ),
            (
                format!(r#"{{"__metadata__":{{"a":"1","a":"2"}},"w":{tensor}}}"#),
                "\"a\"",
            ),
        ] {
            let error = problem(&header, 4);
            let expected = format!("key {key} is given twice");
            assert!(error.contains(&expected), "{header}: {error}");
        }
    }

    #[test]
    fn long_names_and_deep_texts_are_refused() {
        let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let name = "w".repeat(65_536);
        let error = problem(&format!(r#"{{"{name}":{tensor}}}"#), 4);
        assert!(
            error.contains("has 65536 bytes, over the limit of 1024"),
            "{error}"
        );
        assert!(error.len() < 200, "{error}");
        let good = "w".repeat(MAX_NAME_BYTES);
        Header::parse(&file(&format!(r#"{{"{good}":{tensor}}}"#), 4)).unwrap();
        let deep = "[".repeat(1 << 20);
        for header in [
            format!(r#"{{"w":{deep}"#),
            format!(r#"{{"__metadata__":{deep}"#),
            format!(r#"{{"__metadata__":{{"a":{deep}"#),
            format!(r#"{{"w":{{"x":{deep}"#),
            deep,
        ] {
            assert!(problem(&header, 4).starts_with("header: "));
        }
    }

    #[test]
    fn tensors_without_values_have_a_place_of_their_own() {
        let header = r#"{"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[4,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"c":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
        let found = Header::parse(&file(header, 4)).unwrap();
        assert_eq!(found.tensors["a"].bytes.len(), 0);
        let huge = header.replace("[0,9", "[1,9");
        assert!(problem(&huge, 4).contains("no possible size"));
    }

    #[test]
    fn lying_offsets_are_named() {
        let one = |shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        assert!(problem(&one("[2]", "[0,8]"), 7).contains("outside the 7 bytes"));
        assert!(problem(&one("[2]", "[8,0]"), 8).contains("outside"));
        assert!(problem(&one("[3]", "[0,8]"), 8).contains("needs 12 bytes"));
        assert!(problem(&one("[1]", "[4,8]"), 8).contains("hole"));
        assert!(problem(&one("[2]", "[0,8]"), 11).contains("3 bytes at the end"));
        let huge = one("[4611686018427387904,8]", "[0,8]");
        assert!(problem(&huge, 8).contains("no possible size"));
    }

    #[test]
    fn overlapping_tensors_are_named() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        let error = problem(header, 12);
        assert!(error.contains("\"b\"") && error.contains("overlaps"));
    }

    #[test]
    fn sizes_that_overflow_when_summed_are_an_error() {
        let header: Vec<String> = (0..9u64)
            .map(|i| {
                let start = i * (1 << 60);
                let end = start + (1 << 60);
                format!(
                    r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
                    1u64 << 60
                )
            })
            .collect();
        assert!(problem(&format!("{{{}}}", header.join(",")), 8).contains("outside"));
    }
}
