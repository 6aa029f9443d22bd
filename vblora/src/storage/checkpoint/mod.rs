//! Checkpoints of a training run: exact, small, and written as a whole or not at all. Nothing here knows a model or a task.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`FileSet`] | a directory of files under a manifest of sizes and SHA-256 that appears as a whole |
//! | [`Checkpoints`] | the sets of one run by step; the last few and the best stay |
//! | [`ParameterState`] | one parameter with its optimizer moments; if most elements still have their drawn values, only the others |

mod parameters;
mod rolling;
mod set;

pub use parameters::{Form, Forms, ParameterState, parameters_from_bytes, parameters_to_bytes};
pub use rolling::Checkpoints;
pub use set::{FileSet, MANIFEST, MAX_MANIFEST_BYTES, MAX_SET_BYTES, MAX_SET_FILES};
