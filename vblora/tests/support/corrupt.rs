//! Files spoiled by a number: what readers of files that nobody vouches for are tested with.

use vblora::rng::Key;

/// Draws for one case.
struct Draw(Key, u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        self.0.below(self.1, n.max(1))
    }

    fn of<'a>(&mut self, choices: &[&'a [u8]]) -> &'a [u8] {
        choices[self.below(choices.len())]
    }
}

/// One to three of: a byte changed, the end cut off or repeated, the header's length changed, a number or word in the text replaced.
pub fn corrupt(file: &[u8], case: u64, name: &str) -> Vec<u8> {
    let mut draw = Draw(Key::new(case).name(name), 0);
    let mut bytes = file.to_vec();
    for _ in 0..=draw.below(3) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = draw.below(bytes.len());
        match draw.below(8) {
            0 => bytes[at] ^= 1 << draw.below(8),
            1 => bytes.truncate(at),
            2 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
            3 => bytes[draw.below(8).min(file.len() - 1).min(at)] = draw.below(256) as u8,
            // The text is what decides most; digits of numbers in it, whole numbers, whole words.
            4 | 5 => {
                let digits: Vec<_> = (0..bytes.len())
                    .filter(|&i| bytes[i].is_ascii_digit())
                    .collect();
                if let Some(&at) = digits.get(draw.below(digits.len())) {
                    let number = draw.of(&[
                        b"0",
                        b"9",
                        b"-1",
                        b"18446744073709551615",
                        b"1e9",
                        b"null",
                        b"4294967296",
                    ]);
                    bytes.splice(at..=at, number.iter().copied());
                }
            }
            6 => {
                let words: [&[u8]; 6] = [b"F32", b"U8", b"I8", b"topk", b"bank", b"shape"];
                let (from, to) = (
                    draw.of(&words),
                    draw.of(&[b"F16", b"I64", b"BF16", b"A", b""]),
                );
                if let Some(at) = bytes.windows(from.len()).position(|w| w == from) {
                    bytes.splice(at..at + from.len(), to.iter().copied());
                }
            }
            // The data, in place: values that are no numbers, indices beyond the bank.
            _ => {
                let value = draw.of(&[&[0xff; 4], &[0, 0, 0x80, 0x7f], &[0xff, 0xff, 0x7f, 0x7f]]);
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
        }
    }
    bytes
}
