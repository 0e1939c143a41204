//! Where bundles live: read ranges, list and write objects in a bucket of S3, Google or Azure, in
//! an artifact of a container registry, below an HTTP base URL, or in a directory.
//!
//! A [`Store`] is a [`Location`] that was opened with [`Settings`]; objects have clean relative
//! names below it. The place is not trusted: what it says about names, lengths and ranges is
//! checked, what it sends is counted, and what it holds back is timed. What the bytes *are* is
//! checked elsewhere, by whoever has the key.
//!
//! Nothing here tries again, but for single parts of an upload: the caller knows which range is
//! worth what, so each [`Error`] says whether trying again could help.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;

mod answer;
mod client;
mod error;
mod hdfs;
mod http;
mod hub;
mod local;
mod location;
mod name;
mod oci;
mod remote;
mod service;
mod settings;
mod share;
mod snapshot;
mod stream;
mod walk;
mod writer;

pub use client::http_client;
pub use error::{Cause, Error};
pub use location::Location;
pub use name::NAME_BYTES_MAX;
pub use settings::{Addressing, Settings};
pub use stream::ObjectStream;
pub use writer::{LocalAppender, ObjectWriter};

use location::Place;
use writer::Push;

/// What a store says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length in bytes.
    pub bytes: u64,
    /// The version, to be given to [`Store::stream`]. For a local file it is made from its identity
    /// and times.
    pub etag: Option<String>,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Name relative to the location: clean, so that it can be joined to a directory.
    pub name: String,
    /// Length in bytes, as the store says.
    pub bytes: u64,
    /// Its version, if the listing tells; see [`ObjectMeta::etag`].
    pub etag: Option<String>,
}

/// A part of a model in a registry that is more than a file of it: see [`Contents`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The object, to be read with [`Store::stream`].
    pub object: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it holds.
    pub contents: Contents,
    /// How that is compressed.
    pub packing: Packing,
    /// What the object's bytes must hash to (SHA-256).
    pub sha256: [u8; 32],
    /// What they must hash to when they are unpacked; only images say so.
    pub diff_id: Option<[u8; 32]>,
    /// The annotations that say how it is encrypted (`org.opencontainers.image.enc.…`), if it is.
    pub encryption: Option<BTreeMap<String, String>>,
}

/// What a layer holds of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Changes of a container image's file system, as a tar file (OCI image-spec, "Image Layer
    /// Filesystem Changeset").
    Changes,
    /// Files of the model, as a tar file (CNCF ModelPack, KitOps, `oras`).
    Files,
    /// The one file of this name.
    File(String),
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What becomes of a place's other objects when what was written is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The place holds just what was written.
    Gone,
    /// They stay as they were read before.
    Kept,
}

/// An opened location. Cloning is cheap and shares the connections.
#[derive(Clone)]
pub struct Store {
    location: Arc<Location>,
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    Remote(Box<remote::Remote>),
    Http(Box<http::Http>),
    Hub(Box<hub::Hub>),
    Oci(Box<oci::Oci>),
    Hdfs(Box<hdfs::Hdfs>),
    Share(Box<share::Share>),
    Local(local::Local),
}

impl Store {
    /// Prepares access; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for settings that cannot work, [`Error::Tls`] if no certificate authority
    /// can be loaded.
    pub fn open(location: &Location, settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let backend = match &location.0 {
            Place::Remote { service, prefix } => remote::Remote::open(service, prefix, settings)
                .map(|it| Backend::Remote(Box::new(it))),
            Place::Http(place) => {
                http::Http::open(place, settings).map(|it| Backend::Http(Box::new(it)))
            }
            Place::Hdfs { path } => {
                hdfs::Hdfs::open(path, settings).map(|it| Backend::Hdfs(Box::new(it)))
            }
            Place::Share { share, path } => {
                share::Share::open(share, path, settings).map(|it| Backend::Share(Box::new(it)))
            }
            Place::Hub(repo) => hub::Hub::open(repo, settings).map(|it| Backend::Hub(Box::new(it))),
            Place::Oci(reference) => {
                oci::Oci::open(reference, settings).map(|it| Backend::Oci(Box::new(it)))
            }
            Place::Local(path) => Ok(Backend::Local(local::Local::new(path.clone()))),
        };
        let backend = backend.map_err(|error| error.at(&location.to_string()))?;
        Ok(Self { location: Arc::new(location.clone()), backend })
    }

    /// The location this was opened from.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// A whole object, in memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above `bytes_max`, told before its bytes are read.
    pub async fn read(&self, object: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let mut stream = self.get(object, None, None).await?;
        let length = stream.remaining();
        if length > bytes_max {
            return Err(Error::TooLarge {
                object: self.address(object),
                limit: bytes_max,
                unit: "bytes",
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(frame) = stream.next().await {
            bytes.extend_from_slice(&frame?);
        }
        Ok(bytes)
    }

    /// Length and version of an object.
    ///
    /// # Errors
    /// The store's.
    pub async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        name::check(object)?;
        let result = match &self.backend {
            Backend::Remote(remote) => remote.stat(object).await,
            Backend::Http(http) => http.stat(object).await,
            Backend::Hub(hub) => hub.stat(object).await,
            Backend::Oci(oci) => oci.stat(object).await,
            Backend::Hdfs(hdfs) => hdfs.stat(object).await,
            Backend::Share(share) => share.stat(object).await,
            Backend::Local(local) => local.stat(object).await,
        };
        result.map_err(|error| error.at(&self.address(object)))
    }

    /// The bytes of `range`: exactly that many, of the version `etag` if one is given, or an error.
    ///
    /// # Errors
    /// [`Error::Changed`] if the object is another version, [`Error::Protocol`] if it ends before
    /// the range or the server does not honour ranges, or the store's.
    pub async fn stream(
        &self,
        object: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<ObjectStream, Error> {
        if range.start > range.end {
            return Err(Error::usage("the range ends before it begins"));
        }
        if range.is_empty() {
            name::check(object)?;
            return Ok(ObjectStream::empty(self.address(object)));
        }
        self.get(object, Some(range), etag).await
    }

    async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        etag: Option<&str>,
    ) -> Result<ObjectStream, Error> {
        name::check(object)?;
        let address = self.address(object);
        let result = match &self.backend {
            Backend::Remote(remote) => remote.get(object, range, etag, address.clone()).await,
            Backend::Http(http) => http.get(object, range, etag, address.clone()).await,
            Backend::Hub(hub) => hub.get(object, range, address.clone()).await,
            Backend::Oci(oci) => oci.get(object, range, address.clone()).await,
            Backend::Hdfs(hdfs) => hdfs.get(object, range, etag, address.clone()).await,
            Backend::Share(share) => share.get(object, range, etag, address.clone()).await,
            Backend::Local(local) => local.get(object, range, etag, address.clone()).await,
        };
        result.map_err(|error| error.at(&address))
    }

    /// The object as an open file, if this is a local place: whoever has large buffers of its own
    /// reads into them.
    ///
    /// # Errors
    /// The store's, inside of `Some`.
    #[must_use]
    pub fn local_file(&self, object: &str) -> Option<Result<std::fs::File, Error>> {
        let Backend::Local(local) = &self.backend else { return None };
        let opened = name::check(object).and_then(|()| local.open(object)).map(|(file, _)| file);
        Some(opened.map_err(|error| error.at(&self.address(object))))
    }

    /// Whether any part of an object can be asked for; where not, only what goes to its end. The
    /// object must not be empty.
    ///
    /// # Errors
    /// The store's.
    pub async fn has_ranges(&self, object: &str) -> Result<bool, Error> {
        name::check(object)?;
        match &self.backend {
            Backend::Http(http) => {
                http.has_ranges(object).await.map_err(|error| error.at(&self.address(object)))
            }
            _ => Ok(true),
        }
    }

    /// The SHA-256 by which the place names an object's content, where it does so. Nothing holds the
    /// bytes of a [`stream`](Self::stream) against it: that is the caller's, once it has them all,
    /// if nothing else tells it that they are right.
    ///
    /// # Errors
    /// The store's.
    pub async fn sha256(&self, object: &str) -> Result<Option<[u8; 32]>, Error> {
        name::check(object)?;
        let result = match &self.backend {
            Backend::Oci(oci) => oci.sha256(object).await.map(Some),
            Backend::Hub(hub) => hub.sha256(object).await,
            _ => Ok(None),
        };
        result.map_err(|error| error.at(&self.address(object)))
    }

    /// Whether the place is read at one state of its own, as it was published: a repository of a hub,
    /// an artifact of a registry. Upstream unpacks no archives of these.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        matches!(self.backend, Backend::Hub(_) | Backend::Oci(_))
    }

    /// The layers of a container image, the lowest first, if the place is one.
    ///
    /// # Errors
    /// The store's.
    pub async fn layers(&self) -> Result<Option<Vec<Layer>>, Error> {
        let Backend::Oci(oci) = &self.backend else { return Ok(None) };
        oci.layers().await.map_err(|error| error.at(&self.location.to_string()))
    }

    /// Whether a [`commit`](Self::commit) would take the place of something, whatever it is.
    ///
    /// # Errors
    /// The store's.
    pub async fn is_taken(&self) -> Result<bool, Error> {
        let Backend::Oci(oci) = &self.backend else { return Ok(false) };
        oci.exists().await.map_err(|error| error.at(&self.location.to_string()))
    }

    /// Makes what was written visible where a single object cannot be: an artifact of a registry
    /// changes as a whole. Elsewhere every object is visible already, and this does nothing.
    ///
    /// # Errors
    /// [`Error::Changed`] if the rest is to be kept and is not what was read any more, or the
    /// store's; then the place is as it was, unless the answer to the last request was lost.
    pub async fn commit(&self, rest: Rest) -> Result<(), Error> {
        let Backend::Oci(oci) = &self.backend else { return Ok(()) };
        oci.commit(rest).await.map_err(|error| error.at(&self.location.to_string()))
    }

    /// Whether the place keeps an object of this name beside those of its user: a hub puts
    /// `.gitattributes` and `README.md` into each repository.
    #[must_use]
    pub fn keeps(&self, object: &str) -> bool {
        matches!(&self.backend, Backend::Hub(hub) if hub.keeps(object))
    }

    /// Removes what killed uploads have left in a directory; elsewhere there is no such thing that
    /// could be seen. For those who alone write there.
    ///
    /// # Errors
    /// The directory's.
    pub async fn remove_unfinished(&self) -> Result<(), Error> {
        let Backend::Local(local) = &self.backend else { return Ok(()) };
        local.remove_unfinished().await.map_err(|error| error.at(&self.location.to_string()))
    }

    /// Whether the location is a directory of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.backend, Backend::Local(_))
    }

    /// Every object below the location, sorted by name.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above `entries_max`, [`Error::Protocol`] if a name is not clean or comes
    /// twice, [`Error::Unsupported`] over plain HTTP.
    pub async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        let listed = match &self.backend {
            Backend::Remote(remote) => remote.list(entries_max).await,
            Backend::Http(_) => {
                Err(Error::Unsupported { object: String::new(), what: "plain HTTP has no listing" })
            }
            Backend::Hub(hub) => hub.list(entries_max).await,
            Backend::Oci(oci) => oci.list(entries_max).await,
            Backend::Hdfs(hdfs) => hdfs.list(entries_max).await,
            Backend::Share(share) => share.list(entries_max).await,
            Backend::Local(local) => local.list(entries_max).await,
        };
        listed.and_then(clean).map_err(|error| error.at(&self.location.to_string()))
    }

    /// Begins an object of unknown length; at most 80 GB in a bucket. In an artifact of a registry it
    /// is there after [`Store::commit`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] over plain HTTP, or the store's.
    pub async fn writer(&self, object: &str) -> Result<ObjectWriter, Error> {
        self.begin(object, None).await
    }

    /// Begins an object of at most `bytes`; the parts of a multipart upload are chosen so that they
    /// suffice.
    ///
    /// # Errors
    /// As [`Store::writer`].
    pub async fn writer_sized(&self, object: &str, bytes: u64) -> Result<ObjectWriter, Error> {
        self.begin(object, Some(bytes)).await
    }

    async fn begin(&self, object: &str, bytes: Option<u64>) -> Result<ObjectWriter, Error> {
        name::check(object)?;
        let address = self.address(object);
        let result = match &self.backend {
            Backend::Remote(remote) => {
                ObjectWriter::remote(remote, object, bytes, address.clone()).await
            }
            Backend::Http(_) => Err(Error::Unsupported {
                object: String::new(),
                what: "plain HTTP is for reading only",
            }),
            Backend::Hdfs(hdfs) => {
                Ok(ObjectWriter::pushed(Push::Hdfs(hdfs.writer(object)), address.clone()))
            }
            Backend::Share(_) => Err(Error::Unsupported {
                object: String::new(),
                what: "Azure Files is for reading only: seal into a directory, and upload that",
            }),
            Backend::Hub(_) => Err(Error::Unsupported {
                object: String::new(),
                what: "the hub is for reading only: seal into a directory, and upload that",
            }),
            Backend::Oci(oci) => oci
                .writer(object)
                .map(|upload| ObjectWriter::pushed(Push::Oci(upload), address.clone())),
            Backend::Local(local) => ObjectWriter::local(local, object, address.clone()).await,
        };
        result.map_err(|error| error.at(&address))
    }

    fn address(&self, object: &str) -> String {
        self.location.address(object)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.location).finish()
    }
}

/// A listing whose names are clean and distinct, sorted.
fn clean(mut entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
    for entry in &entries {
        if let Some(fault) = name::fault(&entry.name) {
            return Err(Error::protocol(format!(
                "the listing holds {}, which {fault}",
                name::quoted(&entry.name)
            )));
        }
    }
    entries.sort();
    match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            Err(Error::protocol(format!("the listing holds {} twice", name::quoted(&pair[0].name))))
        }
        None => Ok(entries),
    }
}
