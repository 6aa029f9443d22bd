//! Recordings of what VB-LoRA selects while it trains: which bank vectors each sub-vector mixes, every so many steps.
//!
//! A file is one line of JSON, the [`Header`], and blocks after it, appended as training goes on:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | n, the length of the payload, little-endian |
//! | 4 | CRC-32 of the payload, little-endian |
//! | n | payload: kind (1 byte), optimizer steps taken (8 bytes, little-endian), body |
//!
//! | kind | body |
//! | --- | --- |
//! | 0, a selection | the rows that differ from the selection before ([`Picks`]) |
//! | 1, the bank | `[h, b]` f32, little-endian |
//! | 2, the end | nothing: what follows was written because the run ended or was interrupted, and goes when it is resumed |
//!
//! A row of a selection is `2 gap + moved` as a LEB128 number (gap: unchanged rows since the row before), if `moved` its k indices as such
//! numbers, and its k weights in one byte each, in 255ths: off by half of one, 0.002, at most. The first selection has every row.
//! A cut-off or damaged file is read up to the damage.

mod block;
mod header;
mod picks;
mod recorder;
mod recording;

pub use header::Header;
pub use picks::{FULL_WEIGHT, Picks};
pub use recorder::Recorder;
pub(crate) use recording::{EXTENSION, FOLDER};
pub use recording::{Frame, Recording};

#[cfg(test)]
pub(crate) mod tests;
