//! Places with an API of their own: signing, listing and multipart upload are opendal's; the
//! transport below it is ours.

use std::error::Error as StdError;
use std::ops::Range;
use std::time::Duration;

use futures::StreamExt;
use opendal::{ErrorKind, HttpTransporter, OperationContext, Operator};
use reqwest::redirect::Policy;

use crate::client::Limits;
use crate::error::{Cause, chain};
use crate::location::joined;
use crate::service::Service;
use crate::stream::ObjectStream;
use crate::{Entry, Error, ObjectMeta, Settings, client, name};

mod azure;
mod gcs;
mod identity;
mod s3;
mod transport;

pub(crate) use azure::Identity as AzureIdentity;

/// A listing of the largest bundle is 17 pages. A server that answers with empty pages for ever
/// ends here.
const LIST_TIME_MAX: Duration = Duration::from_secs(300);

/// A prefix of a bucket or container.
#[derive(Clone)]
pub(crate) struct Remote {
    operator: Operator,
    prefix: String,
    version: Version,
    parts: Parts,
    limits: Limits,
}

/// How a service takes an object in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    /// It takes no more of them.
    pub(crate) count_max: u64,
}

/// What names one version of an object in this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Etag,
    /// Google's; its ETags differ from one API to the other.
    Generation,
}

/// A service that is ready to be talked to.
struct Opened {
    operator: Operator,
    version: Version,
    /// Whether anything, credentials included, is fetched over TLS.
    tls: bool,
    parts: Parts,
}

impl Remote {
    pub(crate) fn open(
        service: &Service,
        prefix: &str,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let opened = match service {
            Service::S3 { bucket } => s3::open(bucket, settings)?,
            Service::S3Cloud { cloud, bucket } => s3::open_cloud(*cloud, bucket, settings)?,
            Service::Gcs { bucket } => gcs::open(bucket, settings)?,
            Service::Azure(container) => azure::open(container, settings)?,
        };
        let limits = Limits::of(settings);
        let verified = settings.verified();
        let own = if matches!(service, Service::S3 { .. }) { settings } else { &verified };
        let transport = transport::Transport::new(
            limits,
            client::build(own, Policy::none(), opened.tls)?,
            client::build(&verified, Policy::none(), opened.tls)?,
            identity::metadata_client(settings)?,
        );
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport));
        Ok(Self {
            operator: opened.operator.with_context(context),
            prefix: prefix.to_owned(),
            version: opened.version,
            parts: opened.parts,
            limits,
        })
    }

    pub(crate) fn parts(&self) -> Parts {
        self.parts
    }

    fn key(&self, object: &str) -> String {
        joined(&self.prefix, object)
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        let meta = self.operator.stat(&self.key(object)).await.map_err(|error| failure(&error))?;
        Ok(ObjectMeta { bytes: meta.content_length(), etag: self.version_of(&meta) })
    }

    fn version_of(&self, meta: &opendal::Metadata) -> Option<String> {
        let version = match self.version {
            Version::Etag => meta.etag(),
            Version::Generation => meta.version(),
        };
        version.map(str::to_owned)
    }

    /// The whole object without a range, or one range of it. The request is made before this
    /// returns.
    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        etag: Option<&str>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let key = self.key(object);
        let mut reader = self.operator.reader_with(&key);
        if let Some(etag) = etag {
            reader = match self.version {
                Version::Etag => reader.if_match(etag),
                Version::Generation => reader.if_version_match(etag),
            };
        }
        let reader = reader.await.map_err(|error| failure(&error))?;
        let mut stream = match range.clone() {
            Some(range) => reader.into_bytes_stream(range).await,
            None => reader.into_bytes_stream(..).await,
        }
        .map_err(|error| failure(&error))?;
        let whole = stream.metadata().await.map_err(|error| failure(&error))?.content_length();
        let frames = stream.map(|frame| frame.map_err(|error| failure(&error)));
        Ok(ObjectStream::new(
            Box::pin(frames),
            address,
            &range.unwrap_or(0..whole),
            Some(self.limits.silence),
        ))
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        tokio::time::timeout(LIST_TIME_MAX, self.pages(entries_max))
            .await
            .map_err(|_| Error::protocol("the listing does not end"))?
    }

    async fn pages(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        let folder =
            if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let mut listing = self
            .operator
            .lister_with(if folder.is_empty() { "/" } else { &folder })
            .recursive(true)
            .await
            .map_err(|error| failure(&error))?;
        let mut entries = Vec::new();
        let mut seen = 0_usize;
        while let Some(entry) = listing.next().await {
            let entry = entry.map_err(|error| failure(&error))?;
            seen += 1;
            if seen > entries_max {
                return Err(too_many(entries_max));
            }
            let Some(name) = entry.path().strip_prefix(&folder) else {
                return Err(Error::protocol(format!(
                    "the listing holds {}, which is outside of the prefix",
                    name::quoted(entry.path())
                )));
            };
            // Zero-byte objects that consoles make to show a folder.
            if name.is_empty() || name.ends_with('/') {
                continue;
            }
            let (bytes, etag) =
                (entry.metadata().content_length(), self.version_of(entry.metadata()));
            entries.push(Entry { name: name.to_owned(), bytes, etag });
        }
        Ok(entries)
    }

    pub(crate) async fn writer(
        &self,
        object: &str,
        part_bytes: usize,
    ) -> Result<opendal::Writer, Error> {
        self.operator
            .writer_with(&self.key(object))
            .content_type("application/octet-stream")
            .chunk(part_bytes)
            .concurrent(crate::writer::PARTS_IN_FLIGHT)
            .await
            .map_err(|error| failure(&error))
    }
}

pub(crate) fn too_many(entries_max: usize) -> Error {
    Error::TooLarge {
        object: String::new(),
        limit: entries_max as u64,
        unit: "entries in the listing",
    }
}

/// What an opendal error means. Ours travel inside of it, and so do those of reqwest, which come
/// while a body is read, and of the credential sources.
pub(crate) fn failure(error: &(dyn StdError + 'static)) -> Error {
    let mut credentials = None;
    let mut opendal = None;
    for error in chain(error) {
        if let Some(error) = error.downcast_ref::<Error>() {
            return error.clone();
        }
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            return client::failure(error);
        }
        credentials = credentials.or(error.downcast_ref::<reqsign_core::Error>());
        opendal = opendal.or(error.downcast_ref::<opendal::Error>());
    }
    if let Some(error) = credentials {
        return identity::failure(error);
    }
    let object = String::new();
    let cause = Cause::innermost(error);
    match opendal {
        Some(error) if error.kind() == ErrorKind::NotFound => {
            Error::NotFound { object, bucket: false }
        }
        Some(error) if error.kind() == ErrorKind::ConfigInvalid => {
            Error::usage(format!("settings of the store: {cause}"))
        }
        Some(error) if error.is_temporary() => Error::Network { object, cause },
        _ => Error::protocol(format!("the server's answer makes no sense: {cause}")),
    }
}
