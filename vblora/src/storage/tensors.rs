//! Safetensors files of adapters: read with every value checked, written all or nothing.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use safetensors::{
    Dtype, View,
    tensor::{Metadata, TensorInfo},
};

use super::{
    convert::{to_f32, to_u32},
    files::{RegularFile, too_large},
    header::{Entry, Header},
    write_atomically,
};
use crate::{Error, Result};

/// A larger file of an adapter is refused before it is read. PEFT's largest with all logits (Llama-2-13B, h = 2,048, all linear maps) has 0.5 GB.
pub const MAX_FILE_BYTES: u64 = 4 << 30;

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its values in row-major order, as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// A safetensors file whose header has been read and checked. Its tensors have not been read.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    contents: Contents,
    header: Header,
}

#[derive(Debug)]
enum Contents {
    File(RegularFile),
    Memory(Vec<u8>),
}

impl TensorFile {
    /// Opens a file and checks its header. Tensors are read on request. So nothing is allocated for a shape in the header before it has
    /// been compared with the expected one.
    ///
    /// # Errors
    /// The file cannot be read, is larger than [`MAX_FILE_BYTES`], or is not a safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |cause| Error::Io {
            path: path.to_owned(),
            cause,
        };
        let file = RegularFile::open(path).map_err(io)?;
        let size = file.size();
        if size > MAX_FILE_BYTES {
            return Err(io(too_large(size, MAX_FILE_BYTES)));
        }
        let header = Header::read(&mut file.stream(), size);
        let header = header.map(|(header, _)| header);
        Self::checked(path, Contents::File(file), header)
    }

    /// The same for a file that was read before; `path` names it in messages.
    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let header = Header::parse(&bytes);
        Self::checked(path, Contents::Memory(bytes), header)
    }

    fn checked(path: &Path, contents: Contents, header: Result<Header, String>) -> Result<Self> {
        let path = path.to_owned();
        match header {
            Ok(header) => Ok(Self {
                path,
                contents,
                header,
            }),
            Err(reason) => Err(Error::Format { path, reason }),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// A text beside the tensors.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header
            .tensors
            .get(name)
            .map(|entry| entry.shape.as_slice())
    }

    /// The element type of a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.header.tensors.get(name).map(|entry| entry.dtype)
    }

    /// A tensor of floats, widened to f32.
    ///
    /// # Errors
    /// There is none of this name, it is of another type, or a value is not finite.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        self.convert(name, to_f32)
    }

    /// A tensor of integers that are not negative.
    ///
    /// # Errors
    /// There is none of this name, it is of another type, or a value is negative or beyond u32.
    pub fn integers(&self, name: &str) -> Result<Vec<u32>> {
        self.convert(name, to_u32)
    }

    /// The bytes of a tensor of single bytes.
    ///
    /// # Errors
    /// There is none of this name, or it is of another type.
    pub(super) fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.header.tensors.get(name) {
            None => Err(self.error(format!("no tensor {name:?}"))),
            Some(entry) if matches!(entry.dtype, Dtype::U8 | Dtype::I8) => self.part(entry),
            Some(entry) => Err(self.error(format!(
                "tensor {name:?}: expected single bytes, found {}",
                entry.dtype
            ))),
        }
    }

    fn convert<T>(
        &self,
        name: &str,
        read: impl Fn(Dtype, &[u8]) -> Result<Vec<T>, String>,
    ) -> Result<Vec<T>> {
        let Some(entry) = self.header.tensors.get(name) else {
            return Err(self.error(format!("no tensor {name:?}")));
        };
        read(entry.dtype, &self.part(entry)?)
            .map_err(|problem| self.error(format!("tensor {name:?}: {problem}")))
    }

    /// A tensor's bytes.
    fn part(&self, entry: &Entry) -> Result<Cow<'_, [u8]>> {
        match &self.contents {
            Contents::Memory(bytes) => Ok(Cow::Borrowed(&bytes[entry.bytes.clone()])),
            Contents::File(file) => match file.read(entry.bytes.clone()) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(cause) => Err(Error::Io {
                    path: self.path.clone(),
                    cause,
                }),
            },
        }
    }

    /// An error about this file.
    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Format {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

/// A tensor as it will be stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StoredTensor {
    pub(super) fn floats(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.into(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// Refuses floats that a reader would refuse.
    pub(super) fn check_finite(&self) -> Result<(), String> {
        match self.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => {
                to_f32(self.dtype, &self.bytes).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn bytes(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self {
            dtype,
            shape: shape.into(),
            bytes,
        }
    }

    /// Integers that fit the type, which is one of U8, I16, U16, I32, U32.
    pub(super) fn integers(dtype: Dtype, shape: &[usize], values: &[u32]) -> Self {
        let width = dtype.bitsize() / 8;
        Self {
            dtype,
            shape: shape.into(),
            bytes: values
                .iter()
                .flat_map(|v| v.to_le_bytes().into_iter().take(width))
                .collect(),
        }
    }
}

impl View for &StoredTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The number of bytes in front of the tensors in a file that [`write_tensors`] would write with these names, types and shapes.
pub(super) fn header_bytes(shapes: &[(&str, Dtype, Vec<usize>)], metadata: (&str, &str)) -> usize {
    let mut shapes = shapes.to_vec();
    // The order must be that of the data, because the offsets' digits depend on it.
    shapes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut end = 0;
    let tensors = shapes.into_iter().map(|(name, dtype, shape)| {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let data_offsets = (start, end);
        let info = TensorInfo {
            dtype,
            shape,
            data_offsets,
        };
        (name.to_owned(), info)
    });
    let metadata = HashMap::from([(metadata.0.to_owned(), metadata.1.to_owned())]);
    let header = Metadata::new(Some(metadata), tensors.collect());
    let header = header.expect("consecutive offsets that fit shapes and types");
    let text = serde_json::to_string(&header).expect("texts and numbers");
    8 + text.len().next_multiple_of(8)
}

/// Writes tensors and one metadata entry as a safetensors file, atomically.
pub(super) fn write_tensors(
    path: &Path,
    tensors: &[(String, StoredTensor)],
    metadata: (&str, &str),
) -> Result<()> {
    let bytes = tensor_bytes(tensors, Some(metadata)).map_err(|reason| Error::Format {
        path: path.to_owned(),
        reason,
    })?;
    write_atomically(path, &bytes)
}

/// Tensors and one metadata entry as the bytes of a safetensors file.
///
/// # Errors
/// The cause alone.
pub(super) fn tensor_bytes(
    tensors: &[(String, StoredTensor)],
    metadata: Option<(&str, &str)>,
) -> Result<Vec<u8>, String> {
    let metadata = metadata.map(|(key, text)| HashMap::from([(key.to_owned(), text.to_owned())]));
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::serialize(views, metadata).map_err(|error| error.to_string())
}
