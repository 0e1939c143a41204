//! A bucket that lies on purpose.
//!
//! [`Hostile`] serves objects over HTTP/1.1 or HTTPS on an ephemeral loopback port, as
//! `/<bucket>/<key>`: path-style S3 (`GET` and `HEAD` with ranges, `ListObjectsV2`, uploads in one
//! or many parts), and by the same paths a plain web server. Answers are written byte by byte, so
//! it can misbehave where a proper library would not let it; what goes wrong, and when, is a plan
//! of the test:
//!
//! ```
//! # use testkit::hostile::{Fault, Hostile};
//! # fn main() -> anyhow::Result<()> {
//! let server = Hostile::start()?;
//! server.put("models/llama/model.sealed", vec![7; 1_000_000]);
//! // The third request for each object is reset after 100 bytes.
//! server.plan(|seen| (seen.nth == 2).then_some(Fault::Reset { after: 100 }));
//! # Ok(())
//! # }
//! ```
//!
//! It runs on threads of its own, and so serves asynchronous and blocking tests, and other
//! processes. It keeps a log of every request with the bytes it was given, from which tests assert
//! what was *not* asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

mod answer;
mod serve;
mod upload;

/// What goes wrong with one answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    Cut {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// The connection is closed after so many bytes of the status line and headers.
    CutHead {
        /// Bytes that are sent.
        after: usize,
    },
    /// The connection is reset (RST) after so many bytes of the body.
    Reset {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// Nothing comes after so many bytes of the body, and the connection stays open.
    Stall {
        /// Bytes of the body that are sent.
        after: u64,
    },
    /// The body is something else from there on, at its right length.
    Garbage {
        /// Bytes of the body that are right.
        after: u64,
    },
    /// Random bytes instead of an HTTP answer.
    NotHttp,
    /// The body trickles.
    Slow {
        /// At this rate.
        bytes_per_second: u64,
    },
    /// An error status with an S3 error document; the object is not touched.
    Status {
        /// For instance 503.
        status: u16,
        /// For instance `SlowDown`; empty for no document.
        code: &'static str,
    },
    /// 503 `SlowDown`, and when to come again (`Retry-After`).
    Busy {
        /// Seconds.
        after: u32,
    },
    /// A 302 to this URL or path.
    Redirect {
        /// The `Location` header.
        to: String,
    },
    /// 200 and the whole object although a range was asked for.
    IgnoreRange,
    /// The range asked for is sent, but this is claimed as `Content-Range`.
    ClaimRange {
        /// The header's value.
        value: String,
    },
    /// The range that is sent, and said to be sent, lies so far beyond the one asked for.
    ShiftRange {
        /// Bytes to the right.
        by: u64,
    },
    /// `Content-Length` differs from the body's length by so much; the connection is closed after
    /// the body.
    ClaimLength {
        /// Added to the true length.
        off_by: i64,
    },
    /// The body comes in chunks and is longer than it should be.
    Longer {
        /// Bytes too many.
        by: u64,
    },
    /// The body never ends.
    Endless,
    /// Another `ETag` than the object has.
    ClaimEtag {
        /// The header's value.
        value: String,
    },
    /// A `Content-Encoding` that nobody asked for.
    ClaimEncoding {
        /// The header's value.
        value: &'static str,
    },
    /// A header of that length.
    HugeHeader {
        /// Length of its value.
        bytes: usize,
    },
    /// This body, with status 200, whatever was asked for: a listing that lies.
    Body {
        /// The body.
        bytes: Bytes,
    },
}

/// A request, as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Requests before this one, of any kind.
    pub index: usize,
    /// Requests before this one with the same method and object.
    pub nth: usize,
    /// `GET`, `HEAD`, ….
    pub method: String,
    /// The `Host` header.
    pub host: String,
    /// `bucket/key`, decoded.
    pub object: String,
    /// The query, as sent.
    pub query: String,
    /// The range asked for, if there is one of the form `bytes=a-b`.
    pub range: Option<Range<u64>>,
    /// `If-Match`, if there is one.
    pub if_match: Option<String>,
    /// `Authorization`, if there is one.
    pub authorization: Option<String>,
}

/// A request that was answered, and how many bytes of a body it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The request.
    pub request: Seen,
    /// Bytes of the body that were handed to the socket.
    pub bytes: u64,
}

type Plan = Arc<dyn Fn(&Seen) -> Option<Fault> + Send + Sync>;
type Make = Arc<dyn Fn(u64, usize) -> Bytes + Send + Sync>;

#[derive(Clone)]
struct Object {
    etag: String,
    bytes: u64,
    make: Make,
    headers: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Shared {
    objects: Mutex<BTreeMap<String, Object>>,
    versions: Mutex<u64>,
    uploads: Mutex<BTreeMap<String, upload::Parts>>,
    plan: Mutex<Option<Plan>>,
    log: Mutex<Vec<Served>>,
}

impl Shared {
    fn next_version(&self) -> u64 {
        let mut versions = lock(&self.versions);
        *versions += 1;
        *versions
    }

    fn put(&self, name: &str, bytes: u64, make: Make) {
        let etag = format!("\"v{}\"", self.next_version());
        let headers = Vec::new();
        lock(&self.objects).insert(name.to_owned(), Object { etag, bytes, make, headers });
    }

    fn put_bytes(&self, name: &str, bytes: Bytes) {
        let length = bytes.len() as u64;
        self.put(name, length, Arc::new(move |offset, room| slice(&bytes, offset, room)));
    }
}

/// The server; it ends when it is dropped.
pub struct Hostile {
    address: SocketAddr,
    shared: Arc<Shared>,
    secure: bool,
    runtime: Option<Runtime>,
}

impl Hostile {
    /// Starts an honest, empty server that speaks plain HTTP.
    ///
    /// # Errors
    /// If no socket or thread can be had.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// Starts one that speaks TLS; see [`crate::tls::Authority::server`].
    ///
    /// # Errors
    /// If no socket or thread can be had.
    pub fn start_tls(config: Arc<ServerConfig>) -> Result<Self> {
        Self::start_with(Some(TlsAcceptor::from(config)))
    }

    fn start_with(tls: Option<TlsAcceptor>) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let secure = tls.is_some();
        {
            let _inside = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(serve::run(listener, shared.clone(), tls));
        }
        Ok(Self { address, shared, secure, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:<port>`, for `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.address)
    }

    /// Adds or replaces an object; its `ETag` changes each time.
    pub fn put(&self, object: &str, bytes: impl Into<Bytes>) {
        self.shared.put_bytes(object, bytes.into());
    }

    /// Adds an object whose answers have these headers too.
    pub fn put_with(
        &self,
        object: &str,
        bytes: impl Into<Bytes>,
        headers: Vec<(&'static str, String)>,
    ) {
        self.put(object, bytes);
        if let Some(object) = lock(&self.shared.objects).get_mut(object) {
            object.headers = headers;
        }
    }

    /// Adds an object of any size whose bytes are made when asked for: `make(offset, length)` gives
    /// at most `length` bytes and at least one. A slice of one static buffer costs no copy, so a
    /// 100 GiB object costs nothing.
    pub fn put_made(
        &self,
        object: &str,
        bytes: u64,
        make: impl Fn(u64, usize) -> Bytes + Send + Sync + 'static,
    ) {
        self.shared.put(object, bytes, Arc::new(make));
    }

    /// The names of all objects, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared.objects).keys().cloned().collect()
    }

    /// Multipart uploads that were neither completed nor aborted.
    #[must_use]
    pub fn unfinished_uploads(&self) -> usize {
        lock(&self.shared.uploads).len()
    }

    /// Removes an object.
    pub fn remove(&self, object: &str) {
        lock(&self.shared.objects).remove(object);
    }

    /// What goes wrong from now on: called once for each request, before it is answered.
    pub fn plan(&self, plan: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.shared.plan) = Some(Arc::new(plan));
    }

    /// Every request so far, in the order of arrival.
    #[must_use]
    pub fn log(&self) -> Vec<Served> {
        lock(&self.shared.log).clone()
    }

    /// Forgets the requests so far; `index` and `nth` begin again.
    pub fn clear_log(&self) {
        lock(&self.shared.log).clear();
    }

    /// Requests so far for objects whose name ends so.
    #[must_use]
    pub fn requests(&self, suffix: &str) -> usize {
        self.log().iter().filter(|served| served.request.object.ends_with(suffix)).count()
    }

    /// Bytes of bodies handed out so far, of objects whose name ends so.
    #[must_use]
    pub fn bytes(&self, suffix: &str) -> u64 {
        self.log()
            .iter()
            .filter(|served| served.request.object.ends_with(suffix))
            .map(|served| served.bytes)
            .sum()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Hostile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hostile").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

/// A test that panics in its plan shall not hide that behind a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At most `room` of the bytes from `offset` on.
fn slice(bytes: &Bytes, offset: u64, room: usize) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(start..start.saturating_add(room).min(bytes.len()))
}
