//! The messages of `proto/volumes.proto`, and ttrpc's envelopes around them.
//!
//! A message exists only after its names, digests and counts were checked. Contents are borrowed
//! from the frame they came in.

use std::borrow::Cow;

use crate::Error;
use crate::name::{Category, TreePath, VolumeId};
use crate::refusal::{Reason, Refusal};
use crate::tree::{Digest, Limits, Meta, Node};
use crate::wire::frame::{Header, Kind};
use crate::wire::proto::{Encoder, Fields, Value};

/// The service, as ttrpc names it.
pub const SERVICE: &str = "sealift.volumes.v1.Volumes";
/// The protocol's version.
pub const VERSION: u32 = 1;
/// Most elements of one repeated field. A revision with more comes in several `Put`s.
pub const ELEMENTS_MAX: usize = 1024;

/// Something that goes into a frame.
pub trait Message<'a>: Sized {
    /// Reads it; refuses what breaks any rule.
    fn decode(bytes: &'a [u8]) -> Result<Self, Error>;
    /// Writes it.
    fn encode(&self) -> Vec<u8>;
}

/// ttrpc's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The service's name.
    pub service: &'a str,
    /// The method's.
    pub method: &'a str,
    /// The method's message.
    pub payload: &'a [u8],
    /// Nanoseconds that the caller waits; 0: it does not say.
    pub timeout_ns: u64,
}

impl<'a> Message<'a> for Request<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut request = Self { service: "", method: "", payload: &[], timeout_ns: 0 };
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => request.service = value.text()?,
                (2, value) => request.method = value.text()?,
                (3, value) => request.payload = value.bytes()?,
                (4, value) => request.timeout_ns = value.number()?,
                _ => {}
            }
        }
        Ok(request)
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .bytes(1, self.service)
            .bytes(2, self.method)
            .bytes(3, self.payload)
            .number(4, self.timeout_ns)
            .finish()
    }
}

/// ttrpc's response: a message, or a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a>(pub Result<&'a [u8], Refusal>);

impl<'a> Message<'a> for Response<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let (mut code, mut message, mut payload) = (0, "", &[][..]);
        for field in Fields::of(bytes) {
            match field? {
                (1, status) => {
                    for field in Fields::of(status.bytes()?) {
                        match field? {
                            (1, value) => code = value.number_u32()?,
                            (2, value) => message = value.text()?,
                            _ => {}
                        }
                    }
                }
                (2, value) => payload = value.bytes()?,
                _ => {}
            }
        }
        Ok(Self(if code == 0 { Ok(payload) } else { Err(Refusal::from_status(code, message)) }))
    }

    fn encode(&self) -> Vec<u8> {
        match &self.0 {
            Ok(payload) => Encoder::default().element(1, []).bytes(2, payload).finish(),
            Err(refusal) => {
                let status = Encoder::default()
                    .number(1, refusal.reason.status())
                    .bytes(2, refusal.to_string())
                    .finish();
                Encoder::default().element(1, status).finish()
            }
        }
    }
}

/// `Hello`: what do you hold?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloRequest {
    /// Of the client.
    pub version: u32,
    /// Volumes after this one.
    pub after: Option<VolumeId>,
}

impl Message<'_> for HelloRequest {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut message = Self { version: 0, after: None };
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => message.version = value.number_u32()?,
                (2, value) => message.after = optional_volume(value)?,
                _ => {}
            }
        }
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default().number(1, self.version).bytes(2, optional_text(&self.after)).finish()
    }
}

/// A volume that the guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub volume: VolumeId,
    /// Its kind.
    pub category: Category,
    /// The highest sequence that was committed; 0: none.
    pub sequence: u64,
    /// The revision that is visible; `None`: none yet.
    pub digest: Option<Digest>,
}

impl Message<'_> for Held {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut name, mut kind, mut sequence, mut digest) = (None, None, 0, None);
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => name = Some(volume(value)?),
                (2, value) => kind = Some(category(value)?),
                (3, value) => sequence = value.number()?,
                (4, value) => digest = optional_digest(value)?,
                _ => {}
            }
        }
        Ok(Self { volume: needed(name)?, category: needed(kind)?, sequence, digest })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .bytes(1, self.volume.as_str())
            .bytes(2, self.category.as_str())
            .number(3, self.sequence)
            .bytes(4, optional_bytes(&self.digest))
            .finish()
    }
}

/// The answer to `Hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloResponse {
    /// Of the guest.
    pub version: u32,
    /// Of this start of the guest agent.
    pub instance: [u8; 16],
    /// One page of what it holds.
    pub volumes: Vec<Held>,
    /// Whether there are more.
    pub more: bool,
}

impl Message<'_> for HelloResponse {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut message = Self { version: 0, instance: [0; 16], volumes: Vec::new(), more: false };
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => message.version = value.number_u32()?,
                (2, value) => {
                    message.instance = value
                        .bytes()?
                        .try_into()
                        .map_err(|_| Error::Message("an instance is 16 bytes"))?;
                }
                (3, value) => push(&mut message.volumes, Held::decode(value.bytes()?)?)?,
                (4, value) => message.more = value.number()? != 0,
                _ => {}
            }
        }
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.number(1, self.version).bytes(2, self.instance);
        for held in &self.volumes {
            encoder.element(3, held.encode());
        }
        encoder.number(4, self.more).finish()
    }
}

/// `Open`: here is a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    /// Its name.
    pub volume: VolumeId,
    /// Its kind.
    pub category: Category,
    /// What it may hold; zeros: as much as policy allows.
    pub limits: Limits,
}

impl Message<'_> for OpenRequest {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut name, mut kind, mut limits) = (None, None, Limits { entries: 0, bytes: 0 });
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => name = Some(volume(value)?),
                (2, value) => kind = Some(category(value)?),
                (3, value) => limits.entries = value.number_u32()?,
                (4, value) => limits.bytes = value.number()?,
                _ => {}
            }
        }
        Ok(Self { volume: needed(name)?, category: needed(kind)?, limits })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .bytes(1, self.volume.as_str())
            .bytes(2, self.category.as_str())
            .number(3, self.limits.entries)
            .number(4, self.limits.bytes)
            .finish()
    }
}

/// The answer to `Open`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenResponse {
    /// What is there already.
    pub held: Held,
    /// Where containers find it.
    pub path: String,
    /// What it may hold.
    pub limits: Limits,
}

impl Message<'_> for OpenResponse {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut held, mut path, mut limits) = (None, "", Limits { entries: 0, bytes: 0 });
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => held = Some(Held::decode(value.bytes()?)?),
                (2, value) => path = value.text()?,
                (3, value) => limits.entries = value.number_u32()?,
                (4, value) => limits.bytes = value.number()?,
                _ => {}
            }
        }
        Ok(Self { held: needed(held)?, path: path.to_owned(), limits })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .element(1, self.held.encode())
            .bytes(2, &self.path)
            .number(3, self.limits.entries)
            .number(4, self.limits.bytes)
            .finish()
    }
}

/// A directory or file, or the volume's own directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The volume's own directory.
    Root(Meta),
    /// What is at a path in it.
    At(TreePath, Node),
}

impl Entry {
    /// Where it is; `None`: it is the volume's own directory.
    pub fn path(&self) -> Option<&TreePath> {
        match self {
            Self::Root(_) => None,
            Self::At(path, _) => Some(path),
        }
    }
}

impl Message<'_> for Entry {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut path, mut kind, mut length, mut digest) = ("", 0, 0, None);
        let mut meta = Meta { mode: 0, uid: 0, gid: 0 };
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => path = value.text()?,
                (2, value) => kind = value.number()?,
                (3, value) => meta.mode = value.number_u32()?,
                (4, value) => meta.uid = value.number_u32()?,
                (5, value) => meta.gid = value.number_u32()?,
                (6, value) => length = value.number()?,
                (7, value) => digest = optional_digest(value)?,
                _ => {}
            }
        }
        let node = match (kind, digest) {
            (1, None) if length == 0 => Node::Directory(meta),
            (2, Some(digest)) => Node::File { meta, bytes: length, digest },
            _ => return Err(Error::Message("an entry that is neither a directory nor a file")),
        };
        match (path, node) {
            ("", Node::Directory(meta)) => Ok(Self::Root(meta)),
            _ => Ok(Self::At(TreePath::parse(path)?, node)),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (path, node) = match self {
            Self::Root(meta) => ("", Node::Directory(*meta)),
            Self::At(path, node) => (path.as_str(), *node),
        };
        let meta = node.meta();
        let mut encoder = Encoder::default();
        encoder.bytes(1, path);
        encoder.number(2, if matches!(node, Node::Directory(_)) { 1_u32 } else { 2 });
        encoder.number(3, meta.mode).number(4, meta.uid).number(5, meta.gid);
        if let Node::File { bytes, digest, .. } = node {
            encoder.number(6, bytes).bytes(7, digest.as_bytes());
        }
        encoder.finish()
    }
}

/// A piece of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Of the whole content. [`Digest::UNNAMED`]: the guest says it, once it has all of it.
    pub digest: Digest,
    /// Length of the whole content.
    pub total: u64,
    /// Where this piece begins.
    pub offset: u64,
    /// The piece.
    pub data: &'a [u8],
}

impl<'a> Message<'a> for Chunk<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let (mut digest, mut total, mut offset, mut data) = (None, 0, 0, &[][..]);
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => digest = optional_digest(value)?,
                (2, value) => total = value.number()?,
                (3, value) => offset = value.number()?,
                (4, value) => data = value.bytes()?,
                _ => {}
            }
        }
        Ok(Self { digest: digest.unwrap_or(Digest::UNNAMED), total, offset, data })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .bytes(1, optional_bytes(&Some(self.digest).filter(|named| *named != Digest::UNNAMED)))
            .number(2, self.total)
            .number(3, self.offset)
            .bytes(4, self.data)
            .finish()
    }
}

/// `Put`: a part of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest<'a> {
    /// The volume.
    pub volume: VolumeId,
    /// Which revision.
    pub sequence: u64,
    /// What is new or different.
    pub upserts: Vec<Entry>,
    /// What is gone.
    pub removals: Vec<TreePath>,
    /// Contents.
    pub chunks: Vec<Chunk<'a>>,
}

impl<'a> Message<'a> for PutRequest<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let (mut name, mut sequence) = (None, 0);
        let (mut upserts, mut removals, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => name = Some(volume(value)?),
                (2, value) => sequence = value.number()?,
                (3, value) => push(&mut upserts, Entry::decode(value.bytes()?)?)?,
                (4, value) => push(&mut removals, TreePath::parse(value.text()?)?)?,
                (5, value) => push(&mut chunks, Chunk::decode(value.bytes()?)?)?,
                _ => {}
            }
        }
        Ok(Self { volume: needed(name)?, sequence, upserts, removals, chunks })
    }

    fn encode(&self) -> Vec<u8> {
        self.pieces(0).concat()
    }
}

impl PutRequest<'_> {
    /// A frame with this request, into a buffer that is used again. It lacks the last `rest` bytes,
    /// which belong to the last content's data and follow from elsewhere.
    pub fn frame_into(&self, stream: u32, rest: usize, frame: &mut Vec<u8>) {
        let pieces = self.pieces(rest);
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>() + rest;
        let mut envelope = Encoder::default();
        let envelope = envelope.bytes(1, SERVICE).bytes(2, "Put").prefix(3, length).finish();
        let payload_bytes = envelope.len() + length;
        let header = Header { payload_bytes, stream, kind: Kind::Request };
        frame.clear();
        frame.extend_from_slice(&header.to_bytes());
        frame.extend_from_slice(&envelope);
        pieces.iter().for_each(|piece| frame.extend_from_slice(piece));
    }

    /// The message, with its contents where they are, and without the last `rest` bytes.
    fn pieces(&self, rest: usize) -> Vec<Cow<'_, [u8]>> {
        let mut encoder = Encoder::default();
        encoder.bytes(1, self.volume.as_str()).number(2, self.sequence);
        for entry in &self.upserts {
            encoder.element(3, entry.encode());
        }
        for path in &self.removals {
            encoder.element(4, path.as_str());
        }
        let mut pieces = vec![Cow::Owned(encoder.finish())];
        for (number, Chunk { digest, total, offset, data }) in (1..).zip(&self.chunks) {
            let bytes = data.len() + if number == self.chunks.len() { rest } else { 0 };
            encoder.bytes(1, digest.as_bytes()).number(2, *total).number(3, *offset);
            if bytes > 0 {
                encoder.prefix(4, bytes);
            }
            let before = encoder.finish();
            let prefix = encoder.prefix(5, before.len() + bytes).finish();
            pieces.extend([prefix.into(), before.into(), Cow::Borrowed(*data)]);
        }
        pieces
    }
}

/// The answer to `Put`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutResponse {
    /// Contents that the guest does not hold.
    pub missing: Vec<Digest>,
    /// Of contents without a name that came to their end in this request, in that order.
    pub named: Vec<Digest>,
}

impl Message<'_> for PutResponse {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut missing, mut named) = (Vec::new(), Vec::new());
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => push(&mut missing, needed(optional_digest(value)?)?)?,
                (2, value) => push(&mut named, needed(optional_digest(value)?)?)?,
                _ => {}
            }
        }
        Ok(Self { missing, named })
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for digest in &self.missing {
            encoder.element(1, digest.as_bytes());
        }
        for digest in &self.named {
            encoder.element(2, digest.as_bytes());
        }
        encoder.finish()
    }
}

/// `Commit`: make it visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRequest {
    /// The volume.
    pub volume: VolumeId,
    /// Which revision.
    pub sequence: u64,
    /// What its changes are made to; `None`: to nothing.
    pub base: Option<Digest>,
    /// What it is.
    pub digest: Digest,
}

impl Message<'_> for CommitRequest {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut name, mut sequence, mut base, mut digest) = (None, 0, None, None);
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => name = Some(volume(value)?),
                (2, value) => sequence = value.number()?,
                (3, value) => base = optional_digest(value)?,
                (4, value) => digest = optional_digest(value)?,
                _ => {}
            }
        }
        Ok(Self { volume: needed(name)?, sequence, base, digest: needed(digest)? })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .bytes(1, self.volume.as_str())
            .number(2, self.sequence)
            .bytes(3, optional_bytes(&self.base))
            .bytes(4, self.digest.as_bytes())
            .finish()
    }
}

/// The answer to `Commit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitResponse {
    /// What is visible now.
    pub held: Held,
}

impl Message<'_> for CommitResponse {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut held = None;
        for field in Fields::of(bytes) {
            if let (1, value) = field? {
                held = Some(Held::decode(value.bytes()?)?);
            }
        }
        Ok(Self { held: needed(held)? })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default().element(1, self.held.encode()).finish()
    }
}

/// `Drop`: the volume is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropRequest {
    /// The volume.
    pub volume: VolumeId,
}

impl Message<'_> for DropRequest {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut name = None;
        for field in Fields::of(bytes) {
            if let (1, value) = field? {
                name = Some(volume(value)?);
            }
        }
        Ok(Self { volume: needed(name)? })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default().bytes(1, self.volume.as_str()).finish()
    }
}

/// `Status`: how are you doing?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRequest {
    /// Volumes after this one.
    pub after: Option<VolumeId>,
}

impl Message<'_> for StatusRequest {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut after = None;
        for field in Fields::of(bytes) {
            if let (1, value) = field? {
                after = optional_volume(value)?;
            }
        }
        Ok(Self { after })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default().bytes(1, optional_text(&self.after)).finish()
    }
}

/// How one volume is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// What is visible.
    pub held: Held,
    /// Seconds since it became so.
    pub age_seconds: u64,
    /// Files and directories.
    pub entries: u32,
    /// Bytes of all files.
    pub bytes: u64,
    /// The last refusal since then; empty if there was none.
    pub failure: String,
}

impl Message<'_> for VolumeStatus {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut held, mut age_seconds, mut entries, mut length, mut failure) = (None, 0, 0, 0, "");
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => held = Some(Held::decode(value.bytes()?)?),
                (2, value) => age_seconds = value.number()?,
                (3, value) => entries = value.number_u32()?,
                (4, value) => length = value.number()?,
                (5, value) => failure = value.text()?,
                _ => {}
            }
        }
        let (held, failure) = (needed(held)?, failure.to_owned());
        Ok(Self { held, age_seconds, entries, bytes: length, failure })
    }

    fn encode(&self) -> Vec<u8> {
        Encoder::default()
            .element(1, self.held.encode())
            .number(2, self.age_seconds)
            .number(3, self.entries)
            .number(4, self.bytes)
            .bytes(5, &self.failure)
            .finish()
    }
}

/// The answer to `Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusResponse {
    /// One page.
    pub volumes: Vec<VolumeStatus>,
    /// Whether there are more.
    pub more: bool,
    /// Requests refused since the start.
    pub refused: u64,
}

impl Message<'_> for StatusResponse {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut message = Self { volumes: Vec::new(), more: false, refused: 0 };
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => push(&mut message.volumes, VolumeStatus::decode(value.bytes()?)?)?,
                (2, value) => message.more = value.number()? != 0,
                (3, value) => message.refused = value.number()?,
                _ => {}
            }
        }
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for volume in &self.volumes {
            encoder.element(1, volume.encode());
        }
        encoder.number(2, self.more).number(3, self.refused).finish()
    }
}

impl Refusal {
    /// As the other side understands it.
    fn from_status(code: u32, message: &str) -> Self {
        let known = message.split_once(": ");
        let known = known.and_then(|(word, what)| Some((Reason::parse(word)?, what)));
        let (reason, what) = known.unwrap_or((Reason::Other(code), message));
        Self::new(reason, what)
    }
}

fn volume(value: Value<'_>) -> Result<VolumeId, Error> {
    VolumeId::parse(value.text()?)
}

fn optional_volume(value: Value<'_>) -> Result<Option<VolumeId>, Error> {
    match value.text()? {
        "" => Ok(None),
        name => VolumeId::parse(name).map(Some),
    }
}

fn optional_text(volume: &Option<VolumeId>) -> &str {
    volume.as_ref().map_or("", VolumeId::as_str)
}

fn category(value: Value<'_>) -> Result<Category, Error> {
    Category::parse(value.text()?).ok_or(Error::Message("a category that does not exist"))
}

fn optional_digest(value: Value<'_>) -> Result<Option<Digest>, Error> {
    match value.bytes()? {
        [] => Ok(None),
        bytes => match bytes.try_into() {
            Ok(bytes) => Ok(Some(Digest::from_bytes(bytes))),
            Err(_) => Err(Error::Message("a digest is 32 bytes")),
        },
    }
}

fn optional_bytes(digest: &Option<Digest>) -> &[u8] {
    digest.as_ref().map_or(&[], |digest| digest.as_bytes())
}

fn needed<T>(field: Option<T>) -> Result<T, Error> {
    field.ok_or(Error::Message("a field that it needs is missing"))
}

fn push<T>(all: &mut Vec<T>, one: T) -> Result<(), Error> {
    if all.len() == ELEMENTS_MAX {
        let (found, limit) = (ELEMENTS_MAX as u64 + 1, ELEMENTS_MAX as u64);
        return Err(Error::Limit { what: "elements in a message", found, limit });
    }
    all.push(one);
    Ok(())
}

#[cfg(test)]
mod tests;
