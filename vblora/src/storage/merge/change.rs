//! What happens to a tensor of the base, and the file written with it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use safetensors::Dtype;

use super::base::Shard;
use crate::{
    Error, Result,
    storage::{
        Entry, HostTensor,
        convert::{from_f32, to_f32},
    },
};

/// Rows are read, changed and written in blocks of about this many bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// What happens to one tensor.
pub(super) enum Change<'a> {
    /// `W[i, j] += scale sum_rho rows[rho, i] columns[rho, j]`, with factors `[rank, rows of W]` and `[rank, columns of W]`.
    Update {
        rows: &'a [f32],
        columns: &'a [f32],
        rank: usize,
        scale: f32,
    },
    /// These values in place of the old ones.
    Replace(&'a HostTensor),
}

impl Change<'_> {
    /// Refuses a tensor of another shape, or of a type that sums cannot be rounded to.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), String> {
        let expected = match self {
            Self::Update {
                rows,
                columns,
                rank,
                ..
            } => vec![rows.len() / rank, columns.len() / rank],
            Self::Replace(tensor) => tensor.shape.clone(),
        };
        if entry.shape != expected {
            return Err(format!(
                "the adapter is for shape {expected:?}, found {:?}",
                entry.shape
            ));
        }
        match entry.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            other => Err(format!(
                "type {other}, which nothing can be added to; expected F32, F16 or BF16"
            )),
        }
    }

    /// Changes the rows of width `columns` that begin at row `first`.
    fn apply(&self, first: usize, width: usize, values: &mut [f32]) {
        match self {
            Self::Replace(tensor) => {
                values.copy_from_slice(&tensor.values[first * width..][..values.len()]);
            }
            Self::Update {
                rows,
                columns,
                rank,
                scale,
            } => {
                let height = rows.len() / rank;
                let mut sum = vec![0.0; width];
                for (row, values) in values.chunks_exact_mut(width).enumerate() {
                    sum.fill(0.0);
                    for (rho, columns) in columns.chunks_exact(width).enumerate() {
                        let factor = rows[rho * height + first + row];
                        for (sum, column) in sum.iter_mut().zip(columns) {
                            *sum += factor * column;
                        }
                    }
                    for (value, sum) in values.iter_mut().zip(&sum) {
                        *value += scale * sum;
                    }
                }
            }
        }
    }
}

/// Writes a shard with some of its tensors changed; its header stays as it is.
pub(super) fn write_shard(
    shard: &Shard,
    changes: &BTreeMap<String, Change<'_>>,
    to: &Path,
) -> Result<()> {
    let blame = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Io { path, cause }
    };
    let mut from = File::open(shard.path()).map_err(blame(shard.path()))?;
    let behind = SeekFrom::Start(shard.front().len() as u64);
    from.seek(behind).map_err(blame(shard.path()))?;
    let mut out = BufWriter::new(File::create_new(to).map_err(blame(to))?);
    out.write_all(shard.front()).map_err(blame(to))?;
    for (name, entry) in shard.in_order() {
        let Some(change) = changes.get(name) else {
            copy(&mut from, entry.bytes.len() as u64, &mut out).map_err(blame(to))?;
            continue;
        };
        rewrite(&mut from, entry, change, &mut out)
            .map_err(blame(to))?
            .map_err(|problem| shard.error(format!("tensor {name:?}: {problem}")))?;
    }
    let file = out.into_inner().map_err(|e| blame(to)(e.into_error()))?;
    file.sync_all().map_err(blame(to))
}

fn copy(from: &mut File, bytes: u64, out: &mut impl Write) -> io::Result<()> {
    match io::copy(&mut from.take(bytes), out)? {
        copied if copied == bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The tensor's rows, changed, block by block; the inner result says what is wrong with the tensor.
fn rewrite(
    from: &mut File,
    entry: &Entry,
    change: &Change<'_>,
    out: &mut impl Write,
) -> io::Result<Result<(), String>> {
    let width = entry.shape.last().copied().unwrap_or(1);
    let row = width * entry.dtype.bitsize() / 8;
    let mut left = entry.bytes.len();
    let mut block = vec![0; left.min((BLOCK_BYTES / row.max(1)).max(1) * row)];
    let mut first = 0;
    while left > 0 {
        let bytes = left.min(block.len());
        let block = &mut block[..bytes];
        from.read_exact(block)?;
        let changed = to_f32(entry.dtype, block).and_then(|mut values| {
            change.apply(first, width, &mut values);
            from_f32(entry.dtype, &values)
        });
        match changed {
            Ok(bytes) => out.write_all(&bytes)?,
            Err(problem) => return Ok(Err(problem)),
        }
        first += bytes / row;
        left -= bytes;
    }
    Ok(Ok(()))
}
