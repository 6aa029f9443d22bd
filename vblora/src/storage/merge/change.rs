//! The files with the merged weights.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use safetensors::tensor::{Metadata, TensorInfo};

use super::{base::Shard, plan::Output};
use crate::{
    Error, Result,
    storage::{
        Entry, HostTensor,
        convert::{from_f32, to_f32},
    },
};

/// Rows are read, changed and written in blocks of about this many bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// The source of a tensor's values.
pub(super) enum Source<'a> {
    /// The base's file.
    Base(&'a Entry),
    /// The adapter.
    Saved(&'a HostTensor),
}

/// `W[i, j] += scale sum_rho rows[rho, i] columns[rho, j]`, with factors `[rank, rows of W]` and `[rank, columns of W]`.
pub(super) struct Update<'a> {
    pub(super) rows: &'a [f32],
    pub(super) columns: &'a [f32],
    pub(super) rank: usize,
    pub(super) scale: f32,
}

impl Update<'_> {
    /// The shape of the weight.
    pub(super) fn shape(&self) -> Vec<usize> {
        vec![self.rows.len() / self.rank, self.columns.len() / self.rank]
    }

    /// Adds to the rows of this width that begin at row `first`.
    fn add(&self, first: usize, width: usize, values: &mut [f32]) {
        let height = self.rows.len() / self.rank;
        let mut sum = vec![0.0; width];
        for (row, values) in values.chunks_exact_mut(width).enumerate() {
            sum.fill(0.0);
            for (rho, columns) in self.columns.chunks_exact(width).enumerate() {
                let factor = self.rows[rho * height + first + row];
                for (sum, column) in sum.iter_mut().zip(columns) {
                    *sum += factor * column;
                }
            }
            for (value, sum) in values.iter_mut().zip(&sum) {
                *value += self.scale * sum;
            }
        }
    }
}

/// Writes a file of the base with its tensors as planned. If all names and shapes stay, the header stays as it is.
pub(super) fn write_shard(shard: &Shard, outputs: &[Output<'_>], to: &Path) -> Result<()> {
    let blame = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Io { path, cause }
    };
    let mut from = File::open(shard.path()).map_err(blame(shard.path()))?;
    let mut out = BufWriter::new(File::create_new(to).map_err(blame(to))?);
    let front = front(shard, outputs).map_err(|problem| shard.error(problem))?;
    out.write_all(&front).map_err(blame(to))?;
    for output in outputs {
        write(&mut from, output, &mut out)
            .map_err(blame(to))?
            .map_err(|problem| shard.error(format!("tensor {:?}: {problem}", output.name)))?;
    }
    let file = out.into_inner().map_err(|e| blame(to)(e.into_error()))?;
    file.sync_all().map_err(blame(to))
}

/// The header's length, and the header.
fn front(shard: &Shard, outputs: &[Output<'_>]) -> Result<Vec<u8>, String> {
    let before = shard.in_order();
    let is_as_before = before.len() == outputs.len()
        && before.iter().zip(outputs).all(|((name, entry), output)| {
            *name == output.name && entry.shape == output.shape && entry.dtype == output.dtype
        });
    if is_as_before {
        return Ok(shard.front().to_vec());
    }
    let mut end = 0;
    let tensors = outputs.iter().map(|output| {
        let start = end;
        end += output.bytes();
        let info = TensorInfo {
            dtype: output.dtype,
            shape: output.shape.clone(),
            data_offsets: (start, end),
        };
        (output.name.clone(), info)
    });
    let metadata: HashMap<_, _> = shard.metadata().clone().into_iter().collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let header = Metadata::new(metadata, tensors.collect()).map_err(|e| e.to_string())?;
    let mut text = serde_json::to_string(&header).map_err(|e| e.to_string())?;
    let padded = text.len().next_multiple_of(8);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    let mut front = (text.len() as u64).to_le_bytes().to_vec();
    front.extend(text.into_bytes());
    Ok(front)
}

/// Writes a tensor's rows block by block. The inner result tells an error of the tensor.
fn write(
    from: &mut File,
    output: &Output<'_>,
    out: &mut impl Write,
) -> io::Result<Result<(), String>> {
    if let Source::Base(entry) = output.source {
        from.seek(SeekFrom::Start(entry.bytes.start as u64))?;
        if output.update.is_none() {
            let bytes = entry.bytes.len() as u64;
            return match io::copy(&mut from.take(bytes), out)? {
                copied if copied == bytes => Ok(Ok(())),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
    let width = output.shape.last().copied().unwrap_or(1);
    let row = width * output.dtype.bitsize() / 8;
    let mut left = output.bytes();
    let mut block = vec![0; left.min((BLOCK_BYTES / row.max(1)).max(1) * row)];
    let mut first = 0;
    while left > 0 {
        let bytes = left.min(block.len());
        let rows = bytes / row;
        let values = match output.source {
            Source::Saved(tensor) => Ok(tensor.values[first * width..][..rows * width].to_vec()),
            Source::Base(_) => {
                from.read_exact(&mut block[..bytes])?;
                to_f32(output.dtype, &block[..bytes])
            }
        };
        let changed = values.and_then(|mut values| {
            if let Some(update) = &output.update {
                update.add(first, width, &mut values);
            }
            from_f32(output.dtype, &values)
        });
        match changed {
            Ok(bytes) => out.write_all(&bytes)?,
            Err(problem) => return Ok(Err(problem)),
        }
        first += rows;
        left -= bytes;
    }
    Ok(Ok(()))
}
