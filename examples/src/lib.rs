//! Programs to copy from
