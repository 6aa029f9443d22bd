//! `TFRecord`: a length, its checksum, the bytes and their checksum.

/// The bytes before and after the data of a record: length and checksum, and checksum.
const AROUND: usize = 8 + 4 + 4;

/// The data with its frame.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + AROUND);
    out.extend(length);
    out.extend(checksum(&length).to_le_bytes());
    out.extend(data);
    out.extend(checksum(data).to_le_bytes());
    out
}

/// The first record of the bytes and its length with frame; `None` if it is cut off or damaged.
pub(super) fn first(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let (of_length, rest) = rest.split_at_checked(4)?;
    if checksum(length).to_le_bytes() != of_length {
        return None;
    }
    let size = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (data, rest) = rest.split_at_checked(size)?;
    let (of_data, _) = rest.split_at_checked(4)?;
    (checksum(data).to_le_bytes() == of_data).then_some((data, size + AROUND))
}

/// CRC-32C, masked as TensorFlow does: a checksum of bytes that hold checksums is weak otherwise.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_damaged_one_does_not() {
        for data in [&b""[..], b"x", &[7; 300]] {
            let mut bytes = framed(data);
            assert_eq!(first(&bytes), Some((data, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(first(&bytes[..cut]), None);
            }
            for at in 0..bytes.len() {
                bytes[at] ^= 4;
                assert_eq!(first(&bytes), None, "byte {at}");
                bytes[at] ^= 4;
            }
        }
    }

    /// A record of TensorBoard's own writer, `tensorboard.summary.writer.record_writer`.
    #[test]
    fn a_record_has_the_bytes_of_tensorboard() {
        let data = b"\x09\0\0\0\0\0\0\xf8\x3f\x1a\x0dbrain.Event:2";
        let bytes = framed(data);
        assert_eq!(bytes[..8], [24, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..12], *b"\xa3\x7fK\"");
        assert_eq!(bytes[36..], *b"*(dl");
    }
}
