//! The memory allocator of the programs: mimalloc, set to keep freed memory.
//!
//! By default mimalloc returns memory to the system one second after it was freed. A training step frees hundreds of megabytes, and the
//! next step takes them again. The system then clears those pages in every step, which takes up to a fifth of a step's time.
//!
//! A program that does several jobs shows the peak memory of the largest one. The environment variable `MIMALLOC_PURGE_DELAY=1000` (in
//! milliseconds) brings the default back: the environment takes precedence.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: vblora_allocator::Keeping = vblora_allocator::Keeping;
//! # fn main() {}
//! ```

#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::c_long,
    sync::atomic::{AtomicBool, Ordering},
};

use libmimalloc_sys::{mi_option_get, mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h. Its number is the same in versions 2 and 3; the bindings leave it out.
const PURGE_DELAY: mi_option_t = 15;

/// The option's value for "never".
const NEVER: c_long = -1;

/// mimalloc, set to keep freed memory before the program first allocates.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keeping;

/// True if the option is set.
static IS_SET: AtomicBool = AtomicBool::new(false);

/// Milliseconds after which freed memory goes back to the system. A negative value means never.
pub fn purge_delay() -> c_long {
    // SAFETY: the call reads one entry of a static table, and the index is in range.
    unsafe { mi_option_get(PURGE_DELAY) }
}

impl Keeping {
    #[inline]
    fn set_up() {
        if !IS_SET.load(Ordering::Relaxed) {
            Self::set();
        }
    }

    #[cold]
    fn set() {
        // SAFETY: writes one entry of a static table, within it, and takes no memory. A value from the environment stays. A second thread
        // that comes here at the same time writes the same value.
        unsafe { mi_option_set_default(PURGE_DELAY, NEVER) };
        IS_SET.store(true, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to mimalloc unchanged.
unsafe impl GlobalAlloc for Keeping {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::set_up();
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::set_up();
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { MiMalloc.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { MiMalloc.realloc(memory, layout, size) }
    }
}
