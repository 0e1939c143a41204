//! NRI's multiplexer: several connections over one socket. Pure: bytes in, frames out.
//!
//! | bytes | |
//! |---|---|
//! | 4 | connection, big-endian: 1 is the plugin's service, 2 the runtime's |
//! | 4 | length of the payload, big-endian |
//!
//! Payloads are pieces of a connection's stream, cut anywhere; what flows there is ttrpc.
//!
//! Source: containerd/nri, `pkg/net/multiplex/{mux,ttrpc}.go`. Its reader hands a payload to a buffered
//! reader of 4096 bytes and gives up if that is too small, so nothing longer is written.

use volumes::Error;
use volumes::wire::frame::{HEADER_BYTES as FRAME_HEADER_BYTES, Header as FrameHeader};

/// Length of a header.
pub const HEADER_BYTES: usize = 8;
/// Longest ttrpc payload: what ttrpc itself allows, since a runtime sends all it knows at once.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Longest payload that is accepted: `maxPayloadSize`, one whole ttrpc frame.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_HEADER_BYTES + MESSAGE_BYTES_MAX;
/// Longest payload that is written.
pub const WRITTEN_BYTES_MAX: usize = 4096;

/// One of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The runtime calls, we answer.
    Plugin,
    /// We call, the runtime answers.
    Runtime,
    /// One that nobody here has opened. Skipped, as upstream does.
    Other,
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where the payload belongs.
    pub connection: Connection,
    /// Its length, at most [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
}

impl Header {
    /// Reads a header, before anything is allocated for the payload.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Error> {
        let [a, b, c, d, e, f, g, h] = *bytes;
        let connection = match u32::from_be_bytes([a, b, c, d]) {
            1 => Connection::Plugin,
            2 => Connection::Runtime,
            _ => Connection::Other,
        };
        let found = u32::from_be_bytes([e, f, g, h]);
        let limit = PAYLOAD_BYTES_MAX as u64;
        match usize::try_from(found) {
            Ok(payload_bytes) if payload_bytes <= PAYLOAD_BYTES_MAX => {
                Ok(Self { connection, payload_bytes })
            }
            _ => Err(Error::Limit { what: "bytes multiplexed", found: found.into(), limit }),
        }
    }
}

/// `bytes` on their way over a connection.
pub fn encode(connection: Connection, bytes: &[u8]) -> Vec<u8> {
    let number: u32 = match connection {
        Connection::Plugin => 1,
        Connection::Runtime => 2,
        Connection::Other => 0,
    };
    let mut encoded = Vec::with_capacity(bytes.len() + HEADER_BYTES);
    for piece in bytes.chunks(WRITTEN_BYTES_MAX) {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        encoded.extend_from_slice(&number.to_be_bytes());
        encoded.extend_from_slice(&length.to_be_bytes());
        encoded.extend_from_slice(piece);
    }
    encoded
}

/// One connection's stream, put together again. Holds less than a frame and a payload.
#[derive(Debug, Default)]
pub struct Stream {
    bytes: Vec<u8>,
}

impl Stream {
    /// More of it. Take out what is complete before there is more.
    pub fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
    }

    /// The next frame, if it is complete.
    pub fn next_frame(&mut self) -> Result<Option<(FrameHeader, Vec<u8>)>, Error> {
        let Some(header) = self.bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let header = FrameHeader::parse_up_to(header, MESSAGE_BYTES_MAX)?;
        let end = FRAME_HEADER_BYTES + header.payload_bytes;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let rest = self.bytes.split_off(end);
        let mut frame = std::mem::replace(&mut self.bytes, rest);
        frame.drain(..FRAME_HEADER_BYTES);
        Ok(Some((header, frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use volumes::wire::frame::{Kind, frame};

    #[test]
    fn a_stream_is_the_same_however_it_was_cut() {
        let sent =
            [frame(Kind::Request, 1, b"first"), frame(Kind::Response, 3, &[7; 9000])].concat();
        for length in [1, 2, 9, 10, 11, 4096, sent.len()] {
            let (mut stream, mut found) = (Stream::default(), Vec::new());
            for piece in sent.chunks(length) {
                stream.push(piece);
                while let Some((header, payload)) = stream.next_frame().expect("a frame") {
                    found.push((header.kind, header.stream, payload));
                }
            }
            let wanted =
                [(Kind::Request, 1, b"first".to_vec()), (Kind::Response, 3, vec![7; 9000])];
            assert_eq!(found, wanted, "{length}");
        }
    }

    #[test]
    fn every_changed_byte_of_a_frame_is_survived() {
        let good = frame(Kind::Request, 1, b"payload");
        for position in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut stream = Stream::default();
                let mut bytes = good.clone();
                bytes[position] = value;
                stream.push(&bytes);
                let whole =
                    matches!(stream.next_frame(), Ok(Some((_, payload))) if payload.len() == 7);
                assert!(whole || position < FRAME_HEADER_BYTES, "{position} {value}");
            }
        }
    }

    #[test]
    fn what_is_written_fits_into_upstreams_reader() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let mut encoded = &encode(Connection::Runtime, &bytes)[..];
        let mut found = Vec::new();
        while let Some((header, rest)) = encoded.split_first_chunk() {
            let header = Header::parse(header).expect("a header");
            assert_eq!(header.connection, Connection::Runtime);
            assert!((1..=4096).contains(&header.payload_bytes), "{header:?}");
            let (payload, rest) = rest.split_at(header.payload_bytes);
            found.extend_from_slice(payload);
            encoded = rest;
        }
        assert_eq!(found, bytes);
    }

    #[test]
    fn nothing_is_allocated_for_what_is_too_long() {
        for (length, accepted) in
            [(0, true), (PAYLOAD_BYTES_MAX, true), (PAYLOAD_BYTES_MAX + 1, false)]
        {
            let length = u32::try_from(length).expect("a length");
            let bytes = (u64::from(length) | 1 << 32).to_be_bytes();
            assert_eq!(Header::parse(&bytes).is_ok(), accepted, "{length}");
        }
        assert!(Header::parse(&[0xff; 8]).is_err());
        let mut stream = Stream::default();
        stream.push(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]);
        assert!(stream.next_frame().is_err(), "a frame of 4 GiB");
    }
}
