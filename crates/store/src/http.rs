//! Bundles behind plain HTTP: a base URL and object names below it. Reading only.

use std::ops::Range;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, IF_MATCH, RANGE};
use reqwest::{Method, Response, StatusCode};

use crate::answer::{self, Asked};
use crate::client::Limits;
use crate::location::{HttpBase, object_url};
use crate::stream::ObjectStream;
use crate::{Error, ObjectMeta, Settings, client};

/// A base URL.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    base: HttpBase,
    headers: HeaderMap,
    limits: Limits,
}

impl Http {
    pub(crate) fn open(base: &HttpBase, settings: &Settings) -> Result<Self, Error> {
        let headers = base.url.host_str().and_then(|host| settings.headers.get(host)).cloned();
        if headers.is_some() && base.url.scheme() != "https" && !client::is_loopback(&base.url) {
            return Err(Error::usage("headers for a web server are sent over https:// only"));
        }
        let redirects = || match headers {
            Some(_) => client::redirects_within_the_host(),
            None => client::careful_redirects(),
        };
        // A redirect may lead from http to https.
        let client = client::build(settings, redirects(), true).or_else(|error| {
            if base.url.scheme() == "https" {
                return Err(error);
            }
            client::build(settings, redirects(), false)
        })?;
        let headers = headers.unwrap_or_default();
        Ok(Self { client, base: base.clone(), headers, limits: Limits::of(settings) })
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        let response = self.request(Method::HEAD, object, &Asked::default()).await?;
        answer::meta(response.headers())
    }

    /// The whole object without a range, or one range of it.
    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        etag: Option<&str>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let asked = Asked { range: range.clone(), etag };
        let response = self.request(Method::GET, object, &asked).await?;
        let ignored = response.status() == StatusCode::OK;
        let range = match range {
            Some(range) => range,
            None => 0..answer::length(response.headers())?,
        };
        if !ignored {
            return Ok(ObjectStream::of_response(response, address, &range, self.limits));
        }
        let frames = Box::pin(from(range.start, client::frames(response)));
        Ok(ObjectStream::new(frames, address, &range, Some(self.limits.silence)))
    }

    /// Whether the server keeps to ranges of this object, which must not be empty.
    pub(crate) async fn has_ranges(&self, object: &str) -> Result<bool, Error> {
        let asked = Asked { range: Some(0..1), etag: None };
        let response = self.send(Method::GET, object, &asked).await?;
        Ok(response.status() == StatusCode::PARTIAL_CONTENT)
    }

    async fn request(
        &self,
        method: Method,
        object: &str,
        asked: &Asked<'_>,
    ) -> Result<Response, Error> {
        let response = self.send(method, object, asked).await?;
        // Some servers know no ranges. What ends with the object can be had from them all the same.
        let whole = answer::text(response.headers(), &CONTENT_LENGTH)
            .and_then(|length| length.parse::<u64>().ok());
        let ends = asked.range.as_ref().is_some_and(|range| Some(range.end) == whole);
        let asked = match response.status() == StatusCode::OK && ends {
            true => &Asked { range: None, etag: asked.etag },
            false => asked,
        };
        answer::check(asked, response.status(), response.headers())?;
        Ok(response)
    }

    async fn send(
        &self,
        method: Method,
        object: &str,
        asked: &Asked<'_>,
    ) -> Result<Response, Error> {
        let mut url = object_url(&self.base.url, object);
        url.set_query(self.base.query.as_deref());
        let mut request = self.client.request(method, url).headers(self.headers.clone());
        if let Some(range) = &asked.range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        // A weak validator never matches `If-Match` (RFC 9110, 13.1.1); it is compared in the
        // answer only.
        if let Some(etag) = asked.etag.filter(|etag| !etag.starts_with("W/")) {
            request = request.header(IF_MATCH, etag);
        }
        let response = client::within(self.limits.answer, request.send())
            .await?
            .map_err(|error| client::failure(&error))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(answer::refusal(response.status(), response.headers(), b"")),
        }
    }
}

/// What of these frames lies behind the first `skip` bytes.
fn from(
    mut skip: u64,
    frames: impl Stream<Item = Result<Bytes, Error>> + Send,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    frames.filter_map(move |frame| {
        let rest = frame.map(|mut frame| {
            let before = usize::try_from(skip).unwrap_or(usize::MAX).min(frame.len());
            skip -= before as u64;
            frame.split_off(before)
        });
        let seen = !matches!(&rest, Ok(rest) if rest.is_empty());
        std::future::ready(seen.then_some(rest))
    })
}
