//! The two calls of the Confidential Data Hub's API that are of use here, byte for byte: opening a
//! sealed secret, and a resource of the key broker. Spoken inside the guest over a unix socket, by
//! upstream's data hub and by `sealift unsealer` alike.
//!
//! | service | method | request | answer |
//! |---|---|---|---|
//! | `api.SealedSecretService` | `UnsealSecret` | 1: the sealed text; 2: 1 from who keeps to the file that it is for | 1: what was sealed in it |
//! | `api.GetResourceService` | `GetResource` | 1: `kbs:///<repository>/<type>/<tag>` | 1: its bytes |
//!
//! Field 2 is ours, and upstream passes over it: a secret that is for [one file](crate::audience) is
//! opened by `sealift unsealer` only for who says to put it nowhere else.
//!
//! Source: guest-components, `confidential-data-hub/api.proto`. Answers carry secrets: they are built
//! and read without a copy that the caller does not know of.

use crate::Error;
use crate::wire::frame::{HEADER_BYTES, Header, Kind};
use crate::wire::message::{Message, Request};
use crate::wire::proto::{Encoder, Fields};

/// Longest sealed text, and longest secret: what Kubernetes allows for a whole Secret.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longest payload of a frame, either way: a value and the envelopes around it.
pub const PAYLOAD_BYTES_MAX: usize = VALUE_BYTES_MAX + (4 << 10);
/// What an upstream error begins with.
pub const ERROR_PREFIX: &str = "[CDH] [ERROR]: ";

const SEALED_SECRETS: (&str, &str) = ("api.SealedSecretService", "UnsealSecret");
const RESOURCES: (&str, &str) = ("api.GetResourceService", "GetResource");

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    /// Opens a sealed secret.
    Unseal(&'a [u8]),
    /// The same, for who makes it no other file than the one that it is for.
    UnsealForItsFile(&'a [u8]),
    /// Fetches a resource of the key broker.
    Resource(&'a str),
    /// Something of the API that nobody here serves.
    Other,
}

impl<'a> Call<'a> {
    /// Reads a request frame's payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        let request = Request::decode(payload)?;
        let (mut argument, mut for_its_file) = (None, None);
        for field in Fields::of(request.payload) {
            match field? {
                (1, value) => argument = Some(value),
                (2, value) => for_its_file = Some(value),
                _ => {}
            }
        }
        Ok(match (request.service, request.method) {
            SEALED_SECRETS => {
                let sealed = argument.map_or(Ok(&[][..]), |value| value.bytes())?;
                match for_its_file.map_or(Ok(0), |value| value.number_u32())? {
                    1 => Self::UnsealForItsFile(sealed),
                    _ => Self::Unseal(sealed),
                }
            }
            RESOURCES => Self::Resource(argument.map_or(Ok(""), |value| value.text())?),
            _ => Self::Other,
        })
    }

    /// The payload of a request frame; the server may give up after `timeout_ns` nanoseconds.
    pub fn encode(&self, timeout_ns: u64) -> Vec<u8> {
        let ((service, method), argument) = match self {
            Self::Unseal(sealed) | Self::UnsealForItsFile(sealed) => (SEALED_SECRETS, *sealed),
            Self::Resource(name) => (RESOURCES, name.as_bytes()),
            Self::Other => (("", ""), &[][..]),
        };
        let mut payload = Encoder::default();
        payload.bytes(1, argument);
        if let Self::UnsealForItsFile(_) = self {
            payload.number(2, 1_u32);
        }
        let payload = &payload.finish();
        Request { service, method, payload, timeout_ns }.encode()
    }
}

/// A call that was not answered with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The `google.rpc.Code`.
    pub code: u32,
    /// For people. Not trusted: long, perhaps, and of any characters.
    pub message: String,
}

impl Status {
    /// The payload of a response frame.
    pub fn encode(&self) -> Vec<u8> {
        let status = Encoder::default().number(1, self.code).bytes(2, &self.message).finish();
        Encoder::default().element(1, status).finish()
    }
}

/// The value in a response frame's payload.
pub fn decode_answer(payload: &[u8]) -> Result<Result<&[u8], Status>, Error> {
    let (mut status, mut message) = (Status { code: 0, message: String::new() }, &[][..]);
    for field in Fields::of(payload) {
        match field? {
            (1, value) => {
                for field in Fields::of(value.bytes()?) {
                    match field? {
                        (1, value) => status.code = value.number_u32()?,
                        (2, value) => status.message = value.text()?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, value) => message = value.bytes()?,
            _ => {}
        }
    }
    if status.code != 0 {
        return Ok(Err(status));
    }
    let mut found = &[][..];
    for field in Fields::of(message) {
        if let (1, value) = field? {
            found = value.bytes()?;
        }
    }
    Ok(Ok(found))
}

/// All of the response frame before the value, which the caller puts behind it: secrets are copied
/// once.
pub fn answer_head(stream: u32, value_bytes: usize) -> Vec<u8> {
    let field = Encoder::default().prefix(1, value_bytes).finish();
    let envelope = Encoder::default().element(1, []).prefix(2, field.len() + value_bytes).finish();
    let payload_bytes = envelope.len() + field.len() + value_bytes;
    let header = Header { payload_bytes, stream, kind: Kind::Response }.to_bytes();
    let mut head = Vec::with_capacity(HEADER_BYTES + payload_bytes - value_bytes);
    head.extend_from_slice(&header);
    head.extend_from_slice(&envelope);
    head.extend_from_slice(&field);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_answers_are_read_as_they_are_written() {
        let long = vec![b'x'; VALUE_BYTES_MAX];
        for call in [
            Call::Unseal(b"sealed.a.b.c"),
            Call::UnsealForItsFile(&long),
            Call::Resource("kbs:///a/b/c"),
        ] {
            let bytes = call.encode(7);
            assert!(bytes.len() <= PAYLOAD_BYTES_MAX);
            assert_eq!(Call::decode(&bytes), Ok(call));
        }
        assert_eq!(Call::decode(&Call::Other.encode(0)), Ok(Call::Other));
        for value in [&b""[..], b"s", &[7; 300], &long] {
            let frame = [answer_head(5, value.len()), value.to_vec()].concat();
            let (header, payload) = frame.split_first_chunk().expect("a header");
            let header = Header::parse_up_to(header, PAYLOAD_BYTES_MAX).expect("ours");
            assert_eq!((header.stream, header.payload_bytes), (5, payload.len()));
            assert_eq!(decode_answer(payload), Ok(Ok(value)));
        }
        let status = Status { code: 13, message: format!("{ERROR_PREFIX}Unseal Secret failed") };
        assert_eq!(decode_answer(&status.encode()), Ok(Err(status)));
    }

    /// Protobuf's own encoding of upstream's messages, written by hand from `api.proto`.
    #[test]
    fn the_bytes_are_upstreams() {
        let mut expected = b"\x0a\x17api.SealedSecretService\x12\x0cUnsealSecret".to_vec();
        expected.extend(b"\x1a\x0a\x0a\x08sealed.x\x20\x05");
        assert_eq!(Call::Unseal(b"sealed.x").encode(5), expected);
        let mut expected = b"\x0a\x17api.SealedSecretService\x12\x0cUnsealSecret".to_vec();
        expected.extend(b"\x1a\x0c\x0a\x08sealed.x\x10\x01\x20\x05");
        assert_eq!(Call::UnsealForItsFile(b"sealed.x").encode(5), expected);
        let answer = b"\x0a\x00\x12\x08\x0a\x06secret";
        assert_eq!(decode_answer(answer), Ok(Ok(&b"secret"[..])));
        assert_eq!(answer_head(1, 6)[HEADER_BYTES..], answer[..6]);
    }
}
