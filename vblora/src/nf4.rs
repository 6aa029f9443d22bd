//! Matrices in 4 bits: NormalFloat with one scale a block, and scales that may be quantised again (QLoRA, arXiv 2305.14314).
//!
//! The form is that of bitsandbytes; [`vblora_kernels::nf4`] describes it.

pub use vblora_kernels::nf4::{
    BLOCK, NESTED_BLOCK, NF4, Nf4Host, Nf4Scales, QUANT_STATE, block_count, bytes, scale_codes,
    scale_map,
};
