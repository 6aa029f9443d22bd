//! Recordings of VB-LoRA's selections during training: the bank vectors that each sub-vector mixes, at regular steps.
//!
//! A file is one line of JSON, the [`Header`], and then blocks that training appends:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | n, the length of the payload, little-endian |
//! | 4 | CRC-32 of the payload, little-endian |
//! | n | payload: kind (1 byte), optimizer steps taken (8 bytes, little-endian), body |
//!
//! | kind | body |
//! | --- | --- |
//! | 0, a selection | the rows that differ from the previous selection ([`Picks`]) |
//! | 1, the bank | `[h, b]` f32, little-endian |
//! | 2, the end | empty. The blocks after it were written when the run ended or was interrupted; a resumed run removes them |
//!
//! A row of a selection starts with the LEB128 number `2 gap + moved`, where the gap counts unchanged rows since the last stored row. If
//! `moved`, its k indices follow as LEB128 numbers. Its k weights follow in one byte each, in 255ths, with an error of at most 0.002. The
//! first selection has every row. A cut-off or damaged file is read up to the damage.

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
