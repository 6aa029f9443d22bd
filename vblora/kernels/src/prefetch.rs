//! Hints to the processor to bring memory into a cache. They change no value.

#![allow(
    unsafe_code,
    reason = "the instruction takes a pointer; it reads nothing that a program can see, and never faults"
)]

use crate::LINE;

/// The cache that is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    /// The first level, for values that are written next.
    ToWrite,
    /// The second level, for values that are read later.
    Second,
}

/// Asks for every cache line of the values. Does nothing where Rust has no stable way to ask.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32], level: Level) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};

        let ask = |value: &f32| {
            let at = std::ptr::from_ref(value).cast();
            // SAFETY: the pointer is that of a value, and a prefetch is a hint that is valid for any address.
            unsafe {
                match level {
                    Level::ToWrite => _mm_prefetch::<_MM_HINT_ET0>(at),
                    Level::Second => _mm_prefetch::<_MM_HINT_T1>(at),
                }
            }
        };
        values.chunks(LINE).for_each(|line| ask(&line[0]));
        // It lies in another line if the values do not start at a line.
        values.last().into_iter().for_each(ask);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, level, LINE);
}
