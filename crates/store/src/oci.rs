//! Artifacts of container registries: one layer for each file, named by an annotation. That is how
//! Sealift pushes a bundle, and how CNCF's ModelPack, KitOps and `oras` push plain files.
//!
//! A tag is resolved to its manifest once, and everything is read by the digests in it; so what is
//! read is one state, however long that takes and wherever the tag moves meanwhile. A manifest is
//! held against its digest here. A blob is not, since it is read in ranges: see
//! [`crate::Store::sha256`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use tokio::sync::OnceCell;

use crate::snapshot::{self, Files};
use crate::stream::ObjectStream;
use crate::{Entry, Error, Layer, ObjectMeta, Rest, Settings};

mod credentials;
mod manifest;
mod push;
mod reference;
mod registry;

use manifest::{Descriptor, Document, Part};
pub(crate) use push::Upload;
use reference::Sha256;
pub(crate) use reference::{Reference, Version};
use registry::Registry;

/// One artifact.
#[derive(Clone)]
pub(crate) struct Oci {
    registry: Arc<Registry>,
    reference: Reference,
    snapshot: Arc<OnceCell<Snapshot>>,
    written: push::Written,
}

/// What the reference means; for a tag, when it was asked for.
struct Snapshot {
    /// By name; where files are packed, the layers, named by their digests.
    files: Files<Descriptor>,
    layers: Option<Vec<Layer>>,
    manifest: Vec<u8>,
    digest: Sha256,
    /// It was chosen out of an index.
    chosen: bool,
}

impl snapshot::File for Descriptor {
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Oci {
    pub(crate) fn open(reference: &Reference, settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            registry: Arc::new(Registry::open(reference, settings)?),
            reference: reference.clone(),
            snapshot: Arc::default(),
            written: push::Written::default(),
        })
    }

    async fn snapshot(&self) -> Result<&Snapshot, Error> {
        self.snapshot.get_or_try_init(|| self.resolve()).await
    }

    async fn resolve(&self) -> Result<Snapshot, Error> {
        let (manifest, digest) = self.registry.manifest(&self.reference.version).await?;
        let chosen = match Document::parse(&manifest)? {
            Document::Index(chosen) => chosen,
            document => return self.snapshot_of(document, manifest, digest, false).await,
        };
        let (manifest, digest) = self.registry.manifest(&Version::Digest(chosen.digest)).await?;
        if chosen.bytes != manifest.len() as u64 {
            return Err(manifest::malformed("has another size than it should"));
        }
        self.snapshot_of(Document::parse(&manifest)?, manifest, digest, true).await
    }

    async fn snapshot_of(
        &self,
        document: Document,
        manifest: Vec<u8>,
        digest: Sha256,
        chosen: bool,
    ) -> Result<Snapshot, Error> {
        let (files, layers) = match document {
            Document::Artifact(files) => (files, None),
            Document::Packed(parts) => (by_digest(&parts), Some(layers(parts, Vec::new()))),
            Document::Image { config, layers: parts } => {
                let config = self.registry.small_blob(&config).await?;
                let ids = manifest::diff_ids(&config, parts.len())?;
                (by_digest(&parts), Some(layers(parts, ids)))
            }
            Document::Index(_) => {
                return Err(manifest::malformed("is an index inside of an index"));
            }
        };
        Ok(Snapshot { files: files.into(), layers, manifest, digest, chosen })
    }

    pub(crate) async fn layers(&self) -> Result<Option<Vec<Layer>>, Error> {
        Ok(self.snapshot().await?.layers.clone())
    }

    /// Whether the tag points to anything.
    pub(crate) async fn exists(&self) -> Result<bool, Error> {
        match self.registry.manifest(&self.reference.version).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        self.snapshot().await?.files.stat(object)
    }

    pub(crate) async fn sha256(&self, object: &str) -> Result<[u8; 32], Error> {
        Ok(self.snapshot().await?.files.get(object)?.digest.0)
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        let Snapshot { files, layers, .. } = self.snapshot().await?;
        if layers.is_some() {
            return Err(Error::Unsupported {
                object: String::new(),
                what: "what is packed lists layers and no files",
            });
        }
        files.list(entries_max)
    }

    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let (file, range) = self.snapshot().await?.files.part(object, range)?;
        if range.is_empty() {
            return Ok(ObjectStream::empty(address));
        }
        let response = self.registry.blob(file, &range).await?;
        Ok(ObjectStream::of_response(response, address, &range, self.registry.limits))
    }

    pub(crate) fn writer(&self, object: &str) -> Result<Upload, Error> {
        self.tag()?;
        Ok(Upload::new(&self.registry, &self.written, object))
    }

    fn tag(&self) -> Result<&str, Error> {
        match &self.reference.version {
            Version::Tag(tag) => Ok(tag),
            Version::Digest(_) => Err(Error::usage(
                "what an oci:// location names by its digest cannot be replaced: give a tag",
            )),
        }
    }

    /// Moves the tag to a manifest of what was written.
    pub(crate) async fn commit(&self, rest: Rest) -> Result<(), Error> {
        let written =
            std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        if written.is_empty() {
            return Ok(());
        }
        let tag = self.tag()?;
        let manifest = match rest {
            Rest::Gone => push::new_manifest(&self.registry, &written).await?,
            Rest::Kept => {
                let before = self.snapshot().await?;
                if before.chosen {
                    return Err(Error::Unsupported {
                        object: String::new(),
                        what: "one artifact out of an index cannot be replaced by itself",
                    });
                }
                // Registries have no conditional PUT: what is left is the time of one request.
                if self.registry.manifest(&self.reference.version).await?.1 != before.digest {
                    return Err(Error::Changed { object: String::new() });
                }
                push::replaced(&before.manifest, &written)?
            }
        };
        self.registry.push_manifest(tag, manifest).await
    }
}

fn by_digest(parts: &[Part]) -> BTreeMap<String, Descriptor> {
    parts.iter().map(|part| (part.blob.digest.to_string(), part.blob)).collect()
}

/// With the identities that an image's configuration gives them.
fn layers(parts: Vec<Part>, diff_ids: Vec<Sha256>) -> Vec<Layer> {
    let mut diff_ids = diff_ids.into_iter();
    let layer = |part: Part| Layer {
        object: part.blob.digest.to_string(),
        bytes: part.blob.bytes,
        contents: part.contents,
        packing: part.packing,
        sha256: part.blob.digest.0,
        diff_id: diff_ids.next().map(|id| id.0),
        encryption: part.encryption,
    };
    parts.into_iter().map(layer).collect()
}
