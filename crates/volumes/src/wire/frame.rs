//! ttrpc's frames: a header of ten bytes and a payload.
//!
//! | bytes | |
//! |---|---|
//! | 4 | length of the payload, big-endian |
//! | 4 | stream: which call this belongs to, big-endian; clients use odd numbers |
//! | 1 | 1 request, 2 response |
//! | 1 | flags; 0, as there are no streaming calls |
//!
//! Source: containerd's ttrpc, `PROTOCOL.md`.

use crate::Error;

/// Length of a header.
pub const HEADER_BYTES: usize = 10;
/// Longest payload that is accepted: a sixteenth of what ttrpc itself allows.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the client.
    Request,
    /// From the server.
    Response,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload, within the limit that it was parsed with.
    pub payload_bytes: usize,
    /// Which call it belongs to.
    pub stream: u32,
    /// What it carries.
    pub kind: Kind,
}

impl Header {
    /// Reads a header, before anything is allocated for the payload.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Error> {
        Self::parse_within(bytes, PAYLOAD_BYTES_MAX)
    }

    /// The same for a peer whose payloads may have `limit` bytes.
    pub fn parse_within(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Self, Error> {
        let [a, b, c, d, e, f, g, h, kind, flags] = *bytes;
        let payload_bytes = u32::from_be_bytes([a, b, c, d]);
        let stream = u32::from_be_bytes([e, f, g, h]);
        let limit = limit as u64;
        if u64::from(payload_bytes) > limit {
            let found = u64::from(payload_bytes);
            return Err(Error::Limit { what: "bytes in a frame", found, limit });
        }
        if stream % 2 == 0 {
            return Err(Error::Frame("an even stream number"));
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            _ => return Err(Error::Frame("neither a request nor a response")),
        };
        if flags != 0 {
            return Err(Error::Frame("flags, of which unary calls have none"));
        }
        Ok(Self { payload_bytes: payload_bytes as usize, stream, kind })
    }

    /// The bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.payload_bytes).unwrap_or(u32::MAX).to_be_bytes();
        let stream = self.stream.to_be_bytes();
        let kind = match self.kind {
            Kind::Request => 1,
            Kind::Response => 2,
        };
        let [a, b, c, d] = length;
        let [e, f, g, h] = stream;
        [a, b, c, d, e, f, g, h, kind, 0]
    }
}

/// A whole frame.
pub fn frame(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { payload_bytes: payload.len(), stream, kind };
    [&header.to_bytes()[..], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        for (payload_bytes, stream, kind) in
            [(0, 1, Kind::Request), (PAYLOAD_BYTES_MAX, u32::MAX, Kind::Response)]
        {
            let header = Header { payload_bytes, stream, kind };
            assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }
    }

    /// Every value of every byte of a header: accepted only where the table above allows it.
    #[test]
    fn no_other_header_is_accepted() {
        let good = Header { payload_bytes: 5, stream: 3, kind: Kind::Request }.to_bytes();
        for position in 0..HEADER_BYTES {
            for value in 0..=u8::MAX {
                let mut bytes = good;
                bytes[position] = value;
                let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
                let allowed = length <= PAYLOAD_BYTES_MAX
                    && bytes[7] % 2 == 1
                    && (bytes[8] == 1 || bytes[8] == 2)
                    && bytes[9] == 0;
                assert_eq!(Header::parse(&bytes).is_ok(), allowed, "{bytes:?}");
            }
        }
    }
}
