//! Programs to copy from.
#![forbid(unsafe_code)]
