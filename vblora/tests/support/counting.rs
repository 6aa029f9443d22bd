//! The memory that a piece of work takes, measured by an allocator that counts. A test that uses it is alone in its process, and the only
//! one there, so that nothing else is counted.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    reason = "an allocator cannot be written without"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The allocator.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Bytes that `work` leaves behind, and the most that it held at a time.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, [usize; 2]) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let made = work();
    let grown = [&NOW, &PEAK].map(|of| of.load(Ordering::Relaxed).saturating_sub(before));
    (made, grown)
}
