//! Memory aligned to the processor's cache lines. Reading a vector register across two lines takes twice as long, and a `Vec<f32>` starts
//! anywhere.

use std::ops::{Deref, DerefMut};

/// The number of values in a cache line of 64 bytes.
pub(crate) const LINE: usize = 16;

/// f32 values that start at a cache line.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    room: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let room = vec![0.0; len + LINE - 1];
        // The contract of `align_offset` allows it to fail. The values then start at the first element.
        let start = room.as_ptr().align_offset(4 * LINE);
        Self {
            start: if start < LINE { start } else { 0 },
            room,
            len,
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.room[self.start..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_start_at_a_line() {
        for len in [0, 1, 15, 16, 17, 1000, 100_000] {
            let values = Aligned::zeros(len);
            assert_eq!(values.len(), len);
            assert_eq!(values.as_ptr() as usize % 64, 0, "{len}");
            assert!(values.iter().all(|&value| value == 0.0));
        }
    }
}
