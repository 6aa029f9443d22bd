//! Memory that starts where a line of the processor's caches does. A vector register that is read across two lines takes twice as long, and a
//! `Vec<f32>` starts anywhere.

use std::ops::{Deref, DerefMut};

/// Values of a line of the cache: 64 bytes.
const LINE: usize = 16;

/// Some f32 values from the start of a line on.
#[derive(Debug, Default)]
pub(in crate::backend) struct Aligned {
    room: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// So many zeros.
    pub(in crate::backend) fn zeros(len: usize) -> Self {
        let room = vec![0.0; len + LINE - 1];
        // The offset may be unknown, by the letter of the function; then the values start at the first.
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
