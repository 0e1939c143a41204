//! Models in the layers of a registry: of container images, as KServe's modelcars are, what lies
//! below `models/` in the image's last state, layer over layer; of artifacts (ModelPack, KitOps,
//! `oras`) all that their layers hold, side by side.
//!
//! As with any archive, each layer is read twice, and each time to its end: both its digest and, of
//! an image, that of the tar file inside must hold before anything is published.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use publish::{PlannedFile, Staging};
use seal::manifest::Manifest;
use seal::name::BundlePath;
use seal::ocicrypt::LayerKey;
use seal::segment::SEGMENT_BYTES;
use store::{Contents, Layer, Store};

use super::layer::{Overlay, Part, walk};
use super::object::Object;
use super::{Unpack, Visit, blocking, changed, refused, too_many};
use crate::code::Code;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::transfer::{Limits, plain_segments};

/// An image's model.
#[derive(Debug)]
pub(in crate::opening) struct Image {
    layers: Vec<Part>,
    /// Of each layer, the files that no other hides: where they are among `files`.
    visible: Vec<BTreeMap<String, usize>>,
    pub(in crate::opening) files: Vec<PlannedFile>,
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
