//! One layer of a registry, read to its end: decrypted, unpacked, held against its digests.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use aws_lc_rs::digest;
use flate2::read::MultiGzDecoder;
use seal::ocicrypt::{LayerKey, Opening};
use store::{Contents, Layer, Packing};

use super::object::Object;
use super::zstd::Frames;
use super::{PADDING_BYTES_MAX, Visit, entries, refused, unreadable, walk_tar_entries};
use crate::failure::Failure;

/// Most entries of one layer, those outside of `models/` included.
const ENTRIES_MAX: usize = 1_000_000;
/// The longest name of an entry below `models/`, in bytes.
const PATH_BYTES_MAX: usize = 4_096;
/// What a layer's file is called that removes one below it, and what follows that for all of a
/// directory (image-spec, "Whiteouts").
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..opq";

/// A layer, and how to read it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) layer: Layer,
    pub(super) object: Object,
    /// Of a layer that is encrypted.
    pub(super) key: Option<Arc<LayerKey>>,
}

/// What is done with the entries below `models/`, named without it.
pub(super) trait Overlay {
    fn directory(&mut self, path: &str) -> Result<(), Failure>;
    fn remove(&mut self, path: &str) -> Result<(), Failure>;
    fn empty(&mut self, path: &str) -> Result<(), Failure>;
    fn file(
        &mut self,
        path: &str,
        bytes: u64,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), Failure>;
}

/// One layer from its beginning to its end, held against its digests, and decrypted if need be.
pub(super) fn walk(
    part: &Part,
    reader: impl Read,
    overlay: &mut impl Overlay,
) -> Result<(), Failure> {
    let Part { layer, key, .. } = part;
    let mut packed = Hashing::new(reader);
    let unpacked = match key {
        None => unpack(layer, &mut packed, overlay)?,
        Some(key) => {
            let mut decrypting = Decrypting::new(&mut packed, key.opening());
            let unpacked = unpack(layer, &mut decrypting, overlay)?;
            decrypting.opening.finish(&unpacked)?;
            unpacked
        }
    };
    let as_named =
        layer.diff_id.is_none_or(|diff_id| diff_id == unpacked) && layer.sha256 == packed.finish();
    match as_named {
        true => Ok(()),
        false => Err(refused("the layer is not what its digest names")),
    }
}

/// What a layer holds, to its end; the SHA-256 of what it unpacks to.
fn unpack(
    layer: &Layer,
    packed: impl Read,
    overlay: &mut impl Overlay,
) -> Result<[u8; 32], Failure> {
    let buffered = BufReader::with_capacity(256 * 1024, packed);
    let plain: Box<dyn Read + '_> = match layer.packing {
        Packing::None => Box::new(buffered),
        Packing::Gzip => Box::new(MultiGzDecoder::new(buffered)),
        Packing::Zstd => Box::new(Frames::new(buffered)),
    };
    let mut plain = Hashing::new(plain);
    match &layer.contents {
        Contents::Changes => walk_entries(&mut plain, overlay)?,
        Contents::Files => walk_tar_entries(&mut plain, &mut Beside(overlay))?,
        Contents::File(name) => {
            overlay
                .file(name, layer.bytes, false, &mut plain)
                .map_err(|failure| failure.at(name))?;
            // What nobody wanted to see is hashed all the same.
            io::copy(&mut plain, &mut io::sink()).map_err(unreadable)?;
        }
    }
    let padding = io::copy(&mut (&mut plain).take(PADDING_BYTES_MAX + 1), &mut io::sink());
    match padding.map_err(unreadable)? > PADDING_BYTES_MAX {
        true => Err(refused("the layer goes on after its end")),
        false => Ok(plain.finish()),
    }
}

/// Decrypts what is read through it; whether that is authentic, its end tells.
struct Decrypting<R> {
    inner: R,
    opening: Opening,
    ciphertext: Vec<u8>,
    plaintext: Vec<u8>,
}

impl<R> Decrypting<R> {
    fn new(inner: R, opening: Opening) -> Self {
        const BUFFER_BYTES: usize = 64 * 1024;
        let ciphertext = vec![0; BUFFER_BYTES];
        let plaintext = vec![0; BUFFER_BYTES + Opening::ROOM_BYTES];
        Self { inner, opening, ciphertext, plaintext }
    }
}

impl<R: Read> Read for Decrypting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.ciphertext.len());
        let length = self.inner.read(&mut self.ciphertext[..room])?;
        let opened = self.opening.update(&self.ciphertext[..length], &mut self.plaintext);
        buffer[..length].copy_from_slice(opened);
        Ok(length)
    }
}

/// Files of an archive that is no image's: they lie beside those of other layers.
struct Beside<'a, O>(&'a mut O);

impl<O: Overlay> Visit for Beside<'_, O> {
    fn file(
        &mut self,
        name: &str,
        bytes: u64,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), Failure> {
        self.0.file(name.strip_prefix("./").unwrap_or(name), bytes, executable, content)
    }
}

fn walk_entries(reader: impl Read, overlay: &mut impl Overlay) -> Result<(), Failure> {
    entries::each(reader, ENTRIES_MAX, |entry| {
        let path = entry.path_bytes().into_owned();
        let Some(path) = below_models(&path) else { return Ok(()) };
        if path.len() > PATH_BYTES_MAX {
            return Err(refused("an entry's name is longer than any path"));
        }
        let path =
            std::str::from_utf8(path).map_err(|_| refused("an entry's name is not UTF-8"))?;
        let path = path.trim_end_matches('/').to_owned();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let kind = entry.header().entry_type();
        let result = match name.strip_prefix(WHITEOUT) {
            Some(OPAQUE) => overlay.empty(parent),
            Some(hidden) => {
                let slash = if parent.is_empty() { "" } else { "/" };
                overlay.remove(&format!("{parent}{slash}{hidden}"))
            }
            None if kind.is_dir() => overlay.directory(&path),
            None if kind.is_file() => {
                let mode = entry.header().mode().map_err(unreadable)?;
                let bytes = entry.size();
                overlay.file(&path, bytes, mode & 0o100 != 0, entry)
            }
            None => Err(refused("an entry below models/ is neither a file nor a directory")),
        };
        result.map_err(|failure| failure.at(format!("models/{path}")))
    })
}

/// The part of an entry's name below `models/`; empty for that directory itself. What removes it is
/// given as the whiteout of all: the image's root is nobody's but ours to look at.
fn below_models(path: &[u8]) -> Option<&[u8]> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    match path {
        b".wh.models" | b".wh..wh..opq" => Some(b".wh..wh..opq"),
        b"models" => Some(b""),
        _ => path.strip_prefix(b"models/"),
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: digest::Context,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: digest::Context::new(&digest::SHA256) }
    }

    fn finish(self) -> [u8; 32] {
        self.hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}
