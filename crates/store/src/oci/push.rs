//! Writing an artifact: blobs first, each on its own, and at last the manifest that names them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http::HeaderName;
use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use url::Url;

use super::manifest::{Descriptor, MANIFEST_TYPE, TITLE, file_name};
use super::reference::{Hash, Sha256};
use super::registry::{MANIFEST_BYTES_MAX, Registry};
use crate::{Error, answer};

/// Bytes of a blob that are sent at once.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// The largest chunk that a registry may ask for.
const CHUNK_BYTES_MAX: usize = 64 * 1024 * 1024;
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const BUNDLE_TYPE: &str = "application/vnd.sealift.bundle.v1+json";
const OBJECT_TYPE: &str = "application/vnd.sealift.object.v1";
/// An artifact has no configuration; this stands for it (image-spec, "empty descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// What a layer takes in the manifest besides its name, in bytes.
const LAYER_BYTES: usize = 256;

/// The blobs that are there and wait for their manifest, by name.
pub(super) type Written = Arc<Mutex<BTreeMap<String, Descriptor>>>;

/// One blob on its way.
pub(crate) struct Upload {
    registry: Arc<Registry>,
    written: Written,
    name: String,
    /// Where it goes on; `None` before the first request.
    location: Option<Url>,
    buffer: BytesMut,
    chunk: usize,
    sent: u64,
    hash: Hash,
}

impl Upload {
    pub(super) fn new(registry: &Arc<Registry>, written: &Written, name: &str) -> Self {
        Self {
            registry: Arc::clone(registry),
            written: Arc::clone(written),
            name: name.to_owned(),
            location: None,
            buffer: BytesMut::new(),
            chunk: CHUNK_BYTES,
            sent: 0,
            hash: Hash::default(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() > self.chunk {
            if self.location.is_none() {
                self.begin().await?;
                continue;
            }
            let chunk = self.buffer.split_to(self.chunk).freeze();
            self.patch(chunk).await?;
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let (location, response) = self.registry.begin_upload().await?;
        let least = answer::text(response.headers(), &CHUNK_MIN).and_then(|text| text.parse().ok());
        self.chunk = least.unwrap_or(0).clamp(CHUNK_BYTES, CHUNK_BYTES_MAX);
        self.location = Some(location);
        Ok(())
    }

    async fn patch(&mut self, chunk: Bytes) -> Result<(), Error> {
        let end = self.sent + chunk.len() as u64;
        let range = format!("{}-{}", self.sent, end - 1);
        let edit = |request: RequestBuilder| {
            request.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_RANGE, &range)
        };
        let location = self.location.clone().ok_or_else(ended)?;
        let response = self.registry.push(Method::PATCH, location, chunk, &edit).await?;
        self.location = Some(self.registry.next(&response)?);
        self.sent = end;
        Ok(())
    }

    /// Ends the blob; it is found by its digest from then on, and by its name after the commit.
    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        if self.location.is_none() {
            self.begin().await?;
        }
        let digest = self.hash.clone().finish();
        let bytes = self.sent + self.buffer.len() as u64;
        let mut rest = self.buffer.split().freeze();
        if self.sent > 0 && !rest.is_empty() {
            // The last chunk in a request of its own: not every registry takes it with the end.
            self.patch(std::mem::take(&mut rest)).await?;
        }
        let mut location = self.location.take().ok_or_else(ended)?;
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let edit =
            |request: RequestBuilder| request.header(CONTENT_TYPE, "application/octet-stream");
        self.registry.push(Method::PUT, location, rest, &edit).await?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(self.name.clone(), Descriptor { digest, bytes });
        // Rather here than after hours of uploads.
        let manifest: usize = written.keys().map(|name| name.len() + LAYER_BYTES).sum();
        match manifest > MANIFEST_BYTES_MAX {
            true => Err(too_large()),
            false => Ok(()),
        }
    }

    /// Removes what was sent so far.
    pub(crate) async fn abort(&mut self) -> Result<(), Error> {
        let Some(location) = self.location.take() else { return Ok(()) };
        self.registry.push(Method::DELETE, location, Bytes::new(), &|it| it).await.map(drop)
    }
}

fn ended() -> Error {
    Error::protocol("the upload was ended before")
}

fn too_large() -> Error {
    Error::TooLarge {
        object: String::new(),
        limit: MANIFEST_BYTES_MAX as u64,
        unit: "bytes of the artifact's manifest: there are too many files for one",
    }
}

/// The manifest of these blobs alone.
pub(super) async fn new_manifest(
    registry: &Arc<Registry>,
    written: &BTreeMap<String, Descriptor>,
) -> Result<Vec<u8>, Error> {
    let mut config = Upload::new(registry, &Written::default(), "config");
    config.write(EMPTY).await?;
    config.finish().await?;
    let layers: Vec<Value> = written
        .iter()
        .map(|(name, blob)| {
            json!({
                "mediaType": OBJECT_TYPE,
                "digest": blob.digest.to_string(),
                "size": blob.bytes,
                "annotations": { TITLE: name },
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": BUNDLE_TYPE,
        "config": {
            "mediaType": EMPTY_TYPE,
            "digest": Sha256::of(EMPTY).to_string(),
            "size": EMPTY.len(),
        },
        "layers": layers,
    });
    bounded(manifest)
}

/// The manifest `before` with these blobs in place of those of the same names.
pub(super) fn replaced(
    before: &[u8],
    written: &BTreeMap<String, Descriptor>,
) -> Result<Vec<u8>, Error> {
    let mut manifest: Value = serde_json::from_slice(before)
        .map_err(|_| Error::protocol("the registry's manifest is no JSON document"))?;
    let mut waiting = written.clone();
    for layer in manifest["layers"].as_array_mut().into_iter().flatten() {
        if let Some(blob) = waiting.remove(file_name(layer)?) {
            layer["digest"] = blob.digest.to_string().into();
            layer["size"] = blob.bytes.into();
        }
    }
    match waiting.is_empty() {
        true => bounded(manifest),
        false => Err(Error::usage("only what an artifact holds can be replaced in it")),
    }
}

fn bounded(manifest: Value) -> Result<Vec<u8>, Error> {
    let json = manifest.to_string().into_bytes();
    if json.len() > MANIFEST_BYTES_MAX { Err(too_large()) } else { Ok(json) }
}
