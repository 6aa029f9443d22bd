//! TensorBoard's event files: scalars by tag and step, in a file that grows and that a killed process may cut off.
//!
//! A file is a sequence of records (`record`), and each record is an event (`event`). The crates that write such files are not kept
//! (tensorboard-rs had its last release in 2021), so this module does. Its format is TensorFlow's `TFRecord` and `event.proto`, of which a
//! writer of scalars needs six fields.

mod event;
mod file;
mod record;

pub use event::{Event, Scalar};
pub use file::{EventFile, FILE_NAME, read_events};
