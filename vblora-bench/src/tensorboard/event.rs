//! `Event` of TensorFlow's `event.proto`, as far as scalars need it.
//!
//! | message | field | type |
//! | --- | --- | --- |
//! | Event | 1 `wall_time` | double |
//! | Event | 2 `step` | int64 |
//! | Event | 3 `file_version` | string |
//! | Event | 5 `summary` | Summary: 1 `value`, repeated |
//! | Value | 1 `tag`, 2 `simple_value` | string, float |

/// The version that a file begins with.
pub(super) const VERSION: &str = "brain.Event:2";

/// A value of a curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// The curve's name. A part before `/` groups curves.
    pub tag: String,
    /// The value.
    pub value: f32,
}

/// Scalars at one step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// Optimizer steps taken.
    pub step: u64,
    /// The format's version, in the first event of a file.
    pub version: Option<String>,
    /// The scalars.
    pub scalars: Vec<Scalar>,
}

/// Wire types of protocol buffers.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

impl Event {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        key(&mut out, 1, FIXED_64);
        out.extend(self.wall_time.to_le_bytes());
        if self.step > 0 {
            key(&mut out, 2, VARINT);
            varint(&mut out, self.step);
        }
        if let Some(version) = &self.version {
            bytes(&mut out, 3, version.as_bytes());
        }
        if !self.scalars.is_empty() {
            let mut summary = Vec::new();
            for Scalar { tag, value } in &self.scalars {
                let mut one = Vec::new();
                bytes(&mut one, 1, tag.as_bytes());
                key(&mut one, 2, FIXED_32);
                one.extend(value.to_le_bytes());
                bytes(&mut summary, 1, &one);
            }
            bytes(&mut out, 5, &summary);
        }
        out
    }

    /// Reads an event. Other fields are skipped; `None` if the bytes are no message.
    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let mut event = Self::default();
        let mut fields = Fields(data);
        while let Some(field) = fields.next()? {
            match field {
                (1, Field::Fixed64(bits)) => event.wall_time = f64::from_bits(bits),
                (2, Field::Varint(step)) => event.step = step,
                (3, Field::Bytes(text)) => {
                    event.version = Some(String::from_utf8_lossy(text).into_owned());
                }
                (5, Field::Bytes(summary)) => {
                    let mut values = Fields(summary);
                    while let Some(value) = values.next()? {
                        if let (1, Field::Bytes(value)) = value {
                            event.scalars.extend(scalar(value)?);
                        }
                    }
                }
                _ => {}
            }
        }
        Some(event)
    }
}

/// The scalar of a `Value`; `Some(None)` for a value of another kind.
fn scalar(data: &[u8]) -> Option<Option<Scalar>> {
    let (mut tag, mut value) = (String::new(), None);
    let mut fields = Fields(data);
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(text)) => tag = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Fixed32(bits)) => value = Some(f32::from_bits(bits)),
            _ => {}
        }
    }
    Some(value.map(|value| Scalar { tag, value }))
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend(value);
}

enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field with its number; `Some(None)` at the end, and `None` if the bytes are no message.
    fn next(&mut self) -> Option<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            VARINT => Field::Varint(self.varint()?),
            FIXED_64 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            BYTES => {
                let size = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(size)?)
            }
            FIXED_32 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some(Some((key >> 3, field)))
    }

    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let scalar = |tag: &str, value| Scalar {
            tag: tag.into(),
            value,
        };
        Event {
            wall_time: 1.75e9 + 0.5,
            step: 300,
            version: None,
            scalars: vec![scalar("train/loss", 0.25), scalar("lr/größe", -1e-30)],
        }
    }

    #[test]
    fn an_event_goes_round() {
        let first = Event {
            version: Some(VERSION.into()),
            ..Event::default()
        };
        let late = Event {
            step: u64::MAX,
            ..event()
        };
        for event in [first, event(), late] {
            assert_eq!(Event::decode(&event.encode()), Some(event));
        }
    }

    /// `google.protobuf`'s bytes of the same message.
    #[test]
    fn an_event_has_the_bytes_of_protocol_buffers() {
        let event = Event {
            wall_time: 1.5,
            step: 300,
            version: None,
            scalars: vec![Scalar {
                tag: "a".into(),
                value: 1.0,
            }],
        };
        let expected =
            b"\x09\0\0\0\0\0\0\xf8\x3f\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01a\x15\0\0\x80\x3f";
        assert_eq!(event.encode(), expected);
    }

    #[test]
    fn damaged_events_are_none_and_nothing_panics() {
        let whole = event().encode();
        for cut in 0..whole.len() {
            let _ = Event::decode(&whole[..cut]);
        }
        for damaged in [&[0xff; 11][..], &[0x2a, 0x7f], &[0x0b]] {
            assert_eq!(Event::decode(damaged), None);
        }
    }
}
