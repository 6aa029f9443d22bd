//! The files that a command writes are none of its other files.

use std::path::Path;

use anyhow::{Result, bail};

use crate::directory::is_same;

/// A file under the flag that names it.
pub(super) type Named<'a> = (&'a str, &'a Path);

/// Refuses a written file that another flag names too. `read` are the files that are only read.
pub(super) fn check_apart(written: &[Named<'_>], read: &[Named<'_>]) -> Result<()> {
    for (at, (flag, path)) in written.iter().enumerate() {
        let mut others = written[at + 1..].iter().chain(read);
        if let Some((other, _)) = others.find(|(_, other)| is_same(path, other)) {
            bail!("{flag} and {other} name the same file: {}", path.display());
        }
    }
    Ok(())
}
