//! Just enough of protobuf's encoding: varints, and bytes with a length.
//!
//! Decoding borrows from the input and allocates nothing. Unknown fields are skipped, as proto3
//! wants; fields of the wrong type, groups, and numbers that do not end are refused.

use crate::Error;

/// One field, as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Varint(u64),
    /// Bytes, a string, or a message.
    Bytes(&'a [u8]),
    /// A type that no message of ours has.
    Other,
}

impl<'a> Value<'a> {
    /// The number.
    pub fn number(self) -> Result<u64, Error> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(Error::Message("a field of another type, where a number belongs")),
        }
    }

    /// The number, if it is small enough.
    pub fn number_u32(self) -> Result<u32, Error> {
        u32::try_from(self.number()?).map_err(|_| Error::Message("a number above 2^32 - 1"))
    }

    /// The bytes.
    pub fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::Message("a field of another type, where bytes belong")),
        }
    }

    /// The text.
    pub fn text(self) -> Result<&'a str, Error> {
        str::from_utf8(self.bytes()?).map_err(|_| Error::Message("a text that is not UTF-8"))
    }
}

/// The fields of a message, in the order in which they come.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Of `message`.
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn next_field(&mut self) -> Result<(u32, Value<'a>), Error> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Error::Message("a field number"))?;
        if number == 0 {
            return Err(Error::Message("field number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| TRUNCATED)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Error::Message("a group, or a type that does not exist")),
        };
        Ok((number, value))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut number: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::Message("a number of more than 64 bits"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }
}

const TRUNCATED: Error = Error::Message("it ends in the middle of a field");

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Writes a message. Fields of proto3's default value are left out.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// A number.
    pub fn number(&mut self, field: u32, value: impl Into<u64>) -> &mut Self {
        let value = value.into();
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// Bytes or a text.
    pub fn bytes(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Self {
        match value.as_ref() {
            [] => self,
            value => self.element(field, value),
        }
    }

    /// A message, or an element of a repeated field: written even if it is empty.
    pub fn element(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.prefix(field, value.len());
        self.bytes.extend_from_slice(value);
        self
    }

    /// The beginning of an element of so many bytes, which the caller puts behind it.
    pub fn prefix(&mut self, field: u32, bytes: usize) -> &mut Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes as u64);
        self
    }

    /// What was written.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_are_written() {
        for number in [1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let bytes = Encoder::default().number(7, number).bytes(9, "text").finish();
            let fields: Result<Vec<_>, _> = Fields::of(&bytes).collect();
            assert_eq!(fields, Ok(vec![(7, Value::Varint(number)), (9, Value::Bytes(b"text"))]));
        }
    }

    #[test]
    fn what_is_not_protobuf_is_refused() {
        let endless = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let large = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let cases: [&[u8]; 8] =
            [&[0x00], &[0x08], &[0x12, 5, 1], &[0x0b], &[0x0e, 0], &[0x0d, 1, 2], &endless, &large];
        for bytes in cases {
            assert!(Fields::of(bytes).any(|field| field.is_err()), "{bytes:?}");
        }
        // A length beyond what any machine can hold.
        let lie = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(Fields::of(&lie).any(|field| field.is_err()));
    }
}
