//! Models in the layers of a registry: of container images, as KServe's modelcars are, what lies
//! below `models/` in the image's last state, layer over layer; of artifacts (ModelPack, KitOps,
//! `oras`) all that their layers hold, side by side.
//!
//! As with any archive, each layer is read twice, and each time to its end: both its digest and, of
//! an image, that of the tar file inside must hold before anything is published.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use aws_lc_rs::digest;
use flate2::read::MultiGzDecoder;
use publish::{PlannedFile, Staging};
use seal::manifest::Manifest;
use seal::name::BundlePath;
use seal::ocicrypt::{LayerKey, Opening};
use seal::segment::SEGMENT_BYTES;
use store::{Contents, Layer, Packing, Store};

use super::object::Object;
use super::zstd::Frames;
use super::{
    PADDING_BYTES_MAX, Unpack, Visit, blocking, changed, entries, refused, too_many, unreadable,
    walk_tar_entries,
};
use crate::code::Code;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::transfer::{Limits, plain_segments};

/// Most entries of one layer, those outside of `models/` included.
const ENTRIES_MAX: usize = 1_000_000;
/// The longest name of an entry below `models/`, in bytes.
const PATH_BYTES_MAX: usize = 4_096;
/// What a layer's file is called that removes one below it, and what follows that for all of a
/// directory (image-spec, "Whiteouts").
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..opq";

/// An image's model.
#[derive(Debug)]
pub(in crate::opening) struct Image {
    layers: Vec<Part>,
    /// Of each layer, the files that no other hides: where they are among `files`.
    visible: Vec<BTreeMap<String, usize>>,
    pub(in crate::opening) files: Vec<PlannedFile>,
}

/// A layer, and how to read it.
#[derive(Debug, Clone)]
struct Part {
    layer: Layer,
    object: Object,
    /// Of a layer that is encrypted.
    key: Option<Arc<LayerKey>>,
}

impl Image {
    /// Reads the layers' lists, and lays one over the other. With `only_encrypted`, what is not
    /// encrypted may say nothing of the model.
    pub(in crate::opening) async fn index(
        store: &Store,
        layers: Vec<(Layer, Option<LayerKey>)>,
        only_encrypted: bool,
        limits: &Limits,
    ) -> Result<Self, Failure> {
        let part = |(layer, key): (Layer, Option<LayerKey>)| {
            let (name, bytes) = (layer.object.clone(), layer.bytes);
            let object = Object { store: store.clone(), name, bytes, etag: None };
            Part { layer, object, key: key.map(Arc::new) }
        };
        let layers: Vec<_> = layers.into_iter().map(part).collect();
        let mut merged = Merged::default();
        for (number, part) in layers.iter().enumerate() {
            let read = part.clone();
            let changes = blocking(part.object.clone(), limits.clone(), move |reader| {
                let mut changes = Changes::default();
                walk(&read, reader, &mut changes)?;
                Ok(changes)
            });
            let changes = changes.await.map_err(|failure| failure.at(&part.object.name))?;
            if only_encrypted && part.key.is_none() && !changes.is_empty() {
                let what = "a layer that is not encrypted changes what is below models/";
                return Err(Failure::new(Code::NotSealed, what).at(&part.object.name));
            }
            match part.layer.contents {
                Contents::Changes => merged.lay(number, changes)?,
                Contents::Files | Contents::File(_) => merged.add(number, changes.files)?,
            }
        }
        let mut visible = vec![BTreeMap::new(); layers.len()];
        let mut files = Vec::with_capacity(merged.0.len());
        for (path, (layer, bytes, executable)) in merged.0 {
            visible[layer].insert(path.clone(), files.len());
            let mode = if executable { 0o755 } else { 0o644 };
            files.push(PlannedFile { path, mode, bytes, segments: plain_segments(bytes) });
        }
        match files.is_empty() {
            true => Err(Failure::new(Code::NotFound, "the layers hold nothing of a model")
                .hint("Of a container image, only what lies below models/ is the model")),
            false => Ok(Self { layers, visible, files }),
        }
    }

    /// Writes the contents into staging, which was planned with [`Image::files`].
    pub(in crate::opening) async fn unpack(
        self,
        staging: Arc<Staging>,
        limits: &Limits,
        progress: Arc<Progress>,
    ) -> Result<(), Failure> {
        for (part, visible) in self.layers.into_iter().zip(self.visible) {
            if visible.is_empty() {
                continue;
            }
            let name = part.object.name.clone();
            let unpack = Unpack {
                files: self.files.clone(),
                next: 0,
                staging: Arc::clone(&staging),
                progress: Arc::clone(&progress),
                buffer: vec![0; SEGMENT_BYTES],
            };
            let written = blocking(part.object.clone(), limits.clone(), move |reader| {
                let mut pick = Pick { visible, unpack };
                walk(&part, reader, &mut pick)?;
                if pick.visible.is_empty() { Ok(()) } else { Err(changed()) }
            });
            written.await.map_err(|failure| failure.at(&name))?;
        }
        Ok(())
    }
}

/// What one layer does below `models/`.
#[derive(Default)]
struct Changes {
    files: BTreeMap<String, (u64, bool)>,
    directories: BTreeSet<String>,
    /// Paths that are removed with all below them; the empty one is `models` itself.
    removed: Vec<String>,
    /// Directories of whose former content nothing stays.
    emptied: Vec<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.files.is_empty()
            && self.directories.is_empty()
            && self.removed.is_empty()
            && self.emptied.is_empty()
    }

    fn check_room(&self) -> Result<(), Failure> {
        let others = self.directories.len() + self.removed.len() + self.emptied.len();
        match self.files.len() >= Manifest::FILES_MAX || others >= Manifest::FILES_MAX {
            true => Err(too_many()),
            false => Ok(()),
        }
    }
}

/// The files so far, and of which layer each is.
#[derive(Default)]
struct Merged(BTreeMap<String, (usize, u64, bool)>);

impl Merged {
    /// Lays one more layer over the others.
    fn lay(&mut self, layer: usize, changes: Changes) -> Result<(), Failure> {
        for path in changes.removed.iter().chain(&changes.emptied) {
            self.remove_below(path);
        }
        for path in &changes.removed {
            self.0.remove(path);
        }
        for path in &changes.directories {
            self.0.remove(path);
        }
        for (path, (bytes, executable)) in changes.files {
            self.remove_below(&path);
            // Where there was a file there is a directory now.
            for (at, _) in path.match_indices('/') {
                if self.0.get(&path[..at]).is_some_and(|found| found.0 == layer) {
                    return Err(refused("a file of a layer is a directory of it, too"));
                }
                self.0.remove(&path[..at]);
            }
            self.0.insert(path, (layer, bytes, executable));
        }
        match self.0.len() > Manifest::FILES_MAX {
            true => Err(too_many()),
            false => Ok(()),
        }
    }

    /// Puts files beside the others.
    fn add(&mut self, layer: usize, files: BTreeMap<String, (u64, bool)>) -> Result<(), Failure> {
        for (path, (bytes, executable)) in files {
            let failure = refused("two layers hold this name").at(&path);
            if self.0.insert(path, (layer, bytes, executable)).is_some() {
                return Err(failure);
            }
        }
        match self.0.len() > Manifest::FILES_MAX {
            true => Err(too_many()),
            false => Ok(()),
        }
    }

    fn remove_below(&mut self, path: &str) {
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        let found = self.0.range(below.clone()..).map(|(name, _)| name);
        let found: Vec<_> = found.take_while(|name| name.starts_with(&below)).cloned().collect();
        for name in found {
            self.0.remove(&name);
        }
    }
}

/// What is done with the entries below `models/`, named without it.
trait Overlay {
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

impl Overlay for Changes {
    fn directory(&mut self, path: &str) -> Result<(), Failure> {
        self.directories.insert(path.to_owned());
        self.check_room()
    }

    fn remove(&mut self, path: &str) -> Result<(), Failure> {
        self.removed.push(path.to_owned());
        self.check_room()
    }

    fn empty(&mut self, path: &str) -> Result<(), Failure> {
        self.emptied.push(path.to_owned());
        self.check_room()
    }

    fn file(
        &mut self,
        path: &str,
        bytes: u64,
        executable: bool,
        _: &mut dyn Read,
    ) -> Result<(), Failure> {
        self.check_room()?;
        let path = BundlePath::parse(path)?;
        match self.files.insert(path.as_str().to_owned(), (bytes, executable)) {
            Some(_) => Err(refused("the layer holds this name twice")),
            None => Ok(()),
        }
    }
}

/// Writes the files that no layer hides.
struct Pick {
    visible: BTreeMap<String, usize>,
    unpack: Unpack,
}

impl Overlay for Pick {
    fn directory(&mut self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn remove(&mut self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn empty(&mut self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn file(
        &mut self,
        path: &str,
        bytes: u64,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), Failure> {
        let Some(index) = self.visible.remove(path) else { return Ok(()) };
        self.unpack.next = index;
        self.unpack.file(path, bytes, executable, content)
    }
}

/// One layer from its beginning to its end, held against its digests, and decrypted if need be.
fn walk(part: &Part, reader: impl Read, overlay: &mut impl Overlay) -> Result<(), Failure> {
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
