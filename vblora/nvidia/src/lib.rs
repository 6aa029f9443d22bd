//! NVIDIA's libraries on tensors of CubeCL, in CubeCL's order of work: products by cuBLASLt, sums and copies among processes by NCCL.
//!
//! A library is loaded by name when it is first asked for. Nothing of it is shipped, and a program runs without it.
//! This crate holds the `unsafe` code that C's interfaces need, so that the vblora crate has none.
#![cfg(feature = "cuda")]
#![allow(
    unsafe_code,
    reason = "the interfaces of the driver and of the libraries are those of C; each block says why it is sound"
)]

mod collective;
mod lane;
#[cfg(feature = "cublaslt")]
mod product;

pub use collective::{Collective, Pair};
#[cfg(feature = "cublaslt")]
pub use product::{Element, Product, is_present, submit};
