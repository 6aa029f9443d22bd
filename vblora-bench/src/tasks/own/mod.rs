//! Examples of the user's own data: found, scanned for labels, and read into one compact store.

mod files;
mod hold_out;
mod label;
mod notes;
mod read;
mod scan;
mod source;
mod store;

pub use files::{Files, find};
pub use label::Labelling;
pub use scan::{Given, scan};
pub use source::{Dev, OwnData, Splits};
pub use store::StoredSplit;

#[cfg(test)]
mod tests;
