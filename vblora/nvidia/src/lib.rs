//! Products by NVIDIA's cuBLASLt on tensors of CubeCL, in CubeCL's order of work.
//!
//! The library is loaded by name when it is first asked for. Nothing of it is shipped, and a program runs without it.
//! This crate holds the `unsafe` code that C's interfaces need, so that the vblora crate has none.
#![cfg(feature = "library")]
#![allow(
    unsafe_code,
    reason = "the driver's and cuBLASLt's interfaces are those of C; each block says why it is sound"
)]

mod lane;
mod product;

pub use product::{Element, Product, is_present, submit};
