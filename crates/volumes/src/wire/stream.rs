//! Frames over anything that reads and writes.

use std::io::{self, Read, Write};

use crate::Error;
use crate::wire::frame::{HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, frame};

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The peer is gone, or was silent for too long.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer sent something else. The connection is of no use any more.
    #[error(transparent)]
    Protocol(#[from] Error),
}

/// Reads one frame's header and payload into `payload`, which is used again and again. `None`: the
/// peer has closed the connection, between two frames.
pub fn read_frame(stream: &mut impl Read, payload: &mut Vec<u8>) -> Result<Option<Header>, Broken> {
    read_frame_up_to(stream, payload, PAYLOAD_BYTES_MAX)
}

/// The same for an API with a limit of its own.
pub fn read_frame_up_to(
    stream: &mut impl Read,
    payload: &mut Vec<u8>,
    payload_bytes_max: usize,
) -> Result<Option<Header>, Broken> {
    let mut header = [0; HEADER_BYTES];
    let first = loop {
        match stream.read(&mut header[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..])?;
    let header = Header::parse_up_to(&header, payload_bytes_max)?;
    payload.resize(header.payload_bytes, 0);
    stream.read_exact(payload)?;
    Ok(Some(header))
}

/// Writes one frame, with one call.
pub fn write_frame(
    stream: &mut impl Write,
    kind: Kind,
    stream_number: u32,
    payload: &[u8],
) -> io::Result<()> {
    stream.write_all(&frame(kind, stream_number, payload))?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written_and_every_cut_is_an_error() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Kind::Request, 1, b"first").expect("a vector takes it");
        let first = bytes.len();
        write_frame(&mut bytes, Kind::Response, 3, b"").expect("a vector takes it");
        let mut payload = Vec::new();
        for end in 0..=bytes.len() {
            let mut rest = &bytes[..end];
            let mut read = || Ok::<_, Broken>(read_frame(&mut rest, &mut payload)?.is_some());
            let outcome = (read(), read());
            let whole = match outcome {
                (Ok(false), _) => 0,
                (Ok(true), Ok(false)) => first,
                (Ok(true), Ok(true)) => bytes.len(),
                _ => usize::MAX,
            };
            assert_eq!(whole == end, [0, first, bytes.len()].contains(&end), "{end}");
        }
    }
}
