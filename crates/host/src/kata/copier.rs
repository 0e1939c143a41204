//! `grpc.AgentService/CopyFile`: one entry a call.
//!
//! | field | type | is |
//! |---|---|---|
//! | 1 `path` | string | where |
//! | 2 `file_size` | int64 | of the whole file |
//! | 3 `file_mode` | uint32 | `st_mode`; its type decides what is made |
//! | 4 `dir_mode` | uint32 | of directories above it that are missing |
//! | 5 `uid`, 6 `gid` | int32 | its owner |
//! | 7 `offset` | int64 | where `data` belongs |
//! | 8 `data` | bytes | a piece of the file; a link's target |
//!
//! Source: kata-containers, `src/libs/protocols/protos/agent.proto`.

use volumes::refusal::Reason;
use volumes::tree::Meta;
use volumes::wire::proto::Encoder;

use crate::client::{Client, Error};

const SERVICE: &str = "grpc.AgentService";
const METHOD: &str = "CopyFile";

/// What is to be made.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Directory,
    Link(&'a str),
    /// A piece of a file.
    File {
        bytes: u64,
        offset: u64,
        data: &'a [u8],
    },
}

/// One call. One at a time: the agent works on the calls of a connection side by side.
pub(super) fn copy(
    client: &mut Client,
    path: &str,
    meta: Meta,
    content: &Content<'_>,
) -> Result<(), Error> {
    client.send_to(SERVICE, METHOD, &encode(path, meta, content))?;
    client.receive(|_| Ok(()))
}

/// Whether the guest's policy said no, and not the agent: `PERMISSION_DENIED`.
pub(super) fn is_policy(reason: Reason) -> bool {
    reason == Reason::Other(7)
}

pub(super) fn encode(path: &str, meta: Meta, content: &Content<'_>) -> Vec<u8> {
    const PARENT_MODE: u32 = 0o755;
    let (kind, bytes, offset, data) = match content {
        Content::Directory => (0o040_000, 0, 0, &[][..]),
        Content::Link(target) => (0o120_000, 0, 0, target.as_bytes()),
        Content::File { bytes, offset, data } => (0o100_000, *bytes, *offset, *data),
    };
    // protobuf's `int32` is as long as an `int64`, sign and all.
    let id = |id: u32| i64::from(id.cast_signed()).cast_unsigned();
    Encoder::default()
        .bytes(1, path)
        .number(2, bytes)
        .number(3, kind | meta.mode)
        .number(4, PARENT_MODE)
        .number(5, id(meta.uid))
        .number(6, id(meta.gid))
        .number(7, offset)
        .bytes(8, data)
        .finish()
}
