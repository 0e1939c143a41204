//! The objects of one bundle as its store shows them, asked for with patience.

use std::collections::BTreeMap;
use std::future::Future;

use futures::StreamExt;
use seal::bundle::{MANIFEST_BYTES_MAX, MANIFEST_OBJECT};
use seal::manifest::Manifest;
use store::{Entry, ObjectMeta, Store};

use crate::code::Code;
use crate::failure::Failure;
use crate::retry::Backoff;
use crate::transfer::Limits;

/// Most objects of one model: the manifest's files, itself, and room to name a few that are extra.
const OBJECTS_MAX: usize = Manifest::FILES_MAX + 64;

/// Requests in flight when each object must be asked for by itself.
const STATS_IN_FLIGHT: usize = 16;

/// A store, and how patient to be with it.
pub(crate) struct Objects<'a> {
    pub(crate) store: &'a Store,
    pub(crate) limits: &'a Limits,
}

impl Objects<'_> {
    /// `sealift.json`, or `None` if there is none.
    pub(crate) async fn manifest(&self) -> Result<Option<Vec<u8>>, Failure> {
        let read = || self.store.read(MANIFEST_OBJECT, MANIFEST_BYTES_MAX as u64);
        match self.retried(read).await {
            Ok(json) => Ok(Some(json)),
            Err(store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Every other object's name, size and version; `None` where the store does not tell.
    pub(crate) async fn list(&self) -> Result<Option<BTreeMap<String, ObjectMeta>>, Failure> {
        self.list_up_to(OBJECTS_MAX).await
    }

    /// The same where more objects than a bundle has may be.
    pub(crate) async fn list_up_to(
        &self,
        objects_max: usize,
    ) -> Result<Option<BTreeMap<String, ObjectMeta>>, Failure> {
        match self.retried(|| self.store.list(objects_max)).await {
            Ok(entries) => Ok(Some(by_name(entries))),
            // Web servers have no listing, and some buckets forbid it.
            Err(store::Error::Unsupported { .. } | store::Error::Denied { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Compares what the store holds with what the manifest names, before a byte is fetched:
    /// nothing missing, nothing longer or shorter, nothing else.
    pub(crate) async fn check(&self, manifest: &Manifest) -> Result<(), Failure> {
        let expected: BTreeMap<_, _> = manifest
            .files
            .iter()
            .map(|file| (file.path.object(), file.layout.ciphertext_bytes()))
            .collect();
        let found = match self.list().await? {
            Some(found) => found,
            None => self.stat_each(expected.keys()).await?,
        };
        for (object, bytes) in &expected {
            match found.get(object).map(|found| &found.bytes) {
                None => return Err(tampered(format!("{object} is missing"))),
                Some(found) if found != bytes => {
                    return Err(tampered(format!(
                        "{object} has {found} bytes, the manifest says {bytes}"
                    )));
                }
                Some(_) => {}
            }
        }
        let extra = found
            .keys()
            .filter(|name| !expected.contains_key(*name) && !self.store.keeps(name))
            .find(|name| !name.starts_with("sealift."));
        match extra {
            Some(name) => Err(tampered(format!("{name} is not in the manifest"))
                .hint("A bundle's prefix holds the bundle and nothing else: move or remove it")),
            None => Ok(()),
        }
    }

    async fn stat_each(
        &self,
        objects: impl Iterator<Item = &String>,
    ) -> Result<BTreeMap<String, ObjectMeta>, Failure> {
        let asked = objects.map(|object| async move {
            match self.retried(|| self.store.stat(object)).await {
                Ok(meta) => Ok(Some((object.clone(), meta))),
                Err(store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(Failure::from(error)),
            }
        });
        let answers: Vec<_> =
            futures::stream::iter(asked).buffer_unordered(STATS_IN_FLIGHT).collect().await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    /// A small request, again while the failure is transient.
    pub(crate) async fn retried<T, F: Future<Output = Result<T, store::Error>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, store::Error> {
        let mut backoff = Backoff::new();
        let mut attempt = 0;
        loop {
            let error = match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempt += 1;
            if attempt > self.limits.retries || !error.is_transient() {
                return Err(error);
            }
            let wish = error.overload().unwrap_or_default();
            tokio::time::sleep(backoff.next_delay(wish)).await;
        }
    }
}

fn by_name(entries: Vec<Entry>) -> BTreeMap<String, ObjectMeta> {
    entries
        .into_iter()
        .filter(|entry| entry.name != MANIFEST_OBJECT)
        .map(|Entry { name, bytes, etag }| (name, ObjectMeta { bytes, etag }))
        .collect()
}

fn tampered(what: String) -> Failure {
    Failure::new(Code::Tampered, what)
}
