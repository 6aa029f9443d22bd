//! Reads references and outputs.

use std::{fs, path::Path};

use crate::{Error, Result};

/// The references of each instance. Instances are separated by empty lines.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn read_references(path: &Path) -> Result<Vec<Vec<String>>> {
    let lines = read_outputs(path)?;
    let blocks = lines.split(String::is_empty);
    Ok(blocks
        .filter(|block| !block.is_empty())
        .map(<[String]>::to_vec)
        .collect())
}

/// The outputs, one a line. An empty line is an empty output.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn read_outputs(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|cause| Error::read(path, cause))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}
