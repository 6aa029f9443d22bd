//! Tests of own data.
