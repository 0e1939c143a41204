//! The transport below opendal: checks each answer before opendal sees it, bounds what opendal
//! reads into memory and how long it waits, and repeats the one request whose repetition is nobody
//! else's business, the upload of a part.

use std::time::Duration;

use bytes::BytesMut;
use futures::stream;
use http::header::{AUTHORIZATION, IF_MATCH, RANGE};
use http::{HeaderValue, Method, Request, Response};
use opendal::raw::Operation;
use opendal::raw::oio::ReadStream;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::{failure, identity};
use crate::Error;
use crate::answer::{self, Asked};
use crate::client::{Limits, within};
use crate::stream::RATE_MIN;

/// An S3 error document is below 1 KiB; what follows is not read.
const ERROR_BODY_BYTES_MAX: usize = 16 * 1024;
/// A page of 1 000 keys of 1 024 bytes, each escaped at worst to six times its length, is below 7
/// MB.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// S3 puts the parts of a large object together while it sends blanks, "several minutes" by its
/// documentation.
const COMPLETE_TIME_MAX: Duration = Duration::from_secs(600);
/// How often one part is sent. The caller cannot send it again: it has moved on.
const PART_ATTEMPTS_MAX: u32 = 4;
const PART_BACKOFF: Duration = Duration::from_millis(200);

pub(super) struct Transport {
    limits: Limits,
    store: ReqwestTransport,
    /// For services that give tokens: never without checking who they are.
    tokens: ReqwestTransport,
    /// For link-local credential services: no proxy.
    metadata: ReqwestTransport,
}

impl Transport {
    pub(super) fn new(
        limits: Limits,
        store: reqwest::Client,
        tokens: reqwest::Client,
        metadata: reqwest::Client,
    ) -> Self {
        Self { limits, store: store.into(), tokens: tokens.into(), metadata: metadata.into() }
    }

    /// One request of the service itself.
    async fn exchange(
        &self,
        request: Request<Buffer>,
        operation: Operation,
    ) -> opendal::Result<Response<HttpBody>> {
        let header = |name| request.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (range, etag) = (header(RANGE), header(IF_MATCH));
        let asked =
            Asked { range: range.as_deref().and_then(answer::asked_range), etag: etag.as_deref() };
        let body_time = match *request.method() {
            Method::POST => COMPLETE_TIME_MAX,
            _ => self.limits.silence,
        };
        let sending = Duration::from_secs(request.body().len() as u64 / RATE_MIN);
        let answer_time = self.limits.answer.saturating_add(sending);

        let response = within(answer_time, self.store.fetch(request)).await.map_err(carry)??;
        let (parts, mut body) = response.into_parts();
        if !parts.status.is_success() {
            let (start, _) = collect(&mut body, ERROR_BODY_BYTES_MAX, body_time).await?;
            return Err(carry(answer::refusal(parts.status, &parts.headers, &start)));
        }
        if operation == Operation::Read {
            answer::check(&asked, parts.status, &parts.headers).map_err(carry)?;
            return Ok(Response::from_parts(parts, body));
        }
        match collect(&mut body, ANSWER_BYTES_MAX, body_time).await? {
            (_, false) => Err(carry(too_long())),
            (whole, true) => Ok(Response::from_parts(parts, in_memory(whole))),
        }
    }

    /// A request for credentials; its library wants to see refusals itself.
    async fn credentials(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
        let via = if https { &self.tokens } else { &self.metadata };
        let response = within(self.limits.answer, via.fetch(request)).await.map_err(carry)??;
        let (parts, mut body) = response.into_parts();
        match collect(&mut body, ERROR_BODY_BYTES_MAX, self.limits.silence).await? {
            (_, false) => Err(carry(too_long())),
            (whole, true) => Ok(Response::from_parts(parts, in_memory(whole))),
        }
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, mut request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let nobody = |value: &HeaderValue| {
            value.as_bytes().strip_prefix(b"Bearer ") == Some(identity::NOBODY.as_bytes())
        };
        if request.headers().get(AUTHORIZATION).is_some_and(nobody) {
            request.headers_mut().remove(AUTHORIZATION);
        }
        let Some(operation) = request.extensions().get::<Operation>().copied() else {
            return self.credentials(request).await;
        };
        // A PUT is idempotent, and its signature holds for 15 minutes.
        let repeats = operation == Operation::Write && request.method() == Method::PUT;
        let mut attempt = 1;
        loop {
            match self.exchange(request.clone(), operation).await {
                Err(error)
                    if repeats && attempt < PART_ATTEMPTS_MAX && failure(&error).is_transient() =>
                {
                    let error = failure(&error);
                    tracing::debug!(attempt, %error, "a part is sent again");
                    let wish = error.overload().unwrap_or_default();
                    tokio::time::sleep(wish.max(PART_BACKOFF * 4_u32.pow(attempt - 1))).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// Wraps our error so that it survives the way through opendal; [`failure`] unwraps it.
fn carry(error: Error) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, "refused").set_source(error)
}

fn too_long() -> Error {
    Error::protocol("the answer is longer than such an answer can be")
}

/// The first `bytes_max` bytes of a body, and whether that was all of it.
async fn collect(
    body: &mut HttpBody,
    bytes_max: usize,
    time_max: Duration,
) -> opendal::Result<(BytesMut, bool)> {
    let reading = async {
        let mut start = BytesMut::new();
        loop {
            let frame = body.read().await?.to_bytes();
            if frame.is_empty() {
                return Ok((start, true));
            }
            let room = bytes_max - start.len();
            start.extend_from_slice(&frame[..frame.len().min(room)]);
            if frame.len() > room {
                return Ok((start, false));
            }
        }
    };
    within(time_max, reading).await.map_err(carry)?
}

fn in_memory(bytes: BytesMut) -> HttpBody {
    let length = bytes.len() as u64;
    HttpBody::new(stream::iter([Ok(Buffer::from(bytes.freeze()))]), Some(length))
}
