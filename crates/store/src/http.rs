//! Bundles behind plain HTTP: a base URL and object names below it. Reading only.

use std::ops::Range;

use futures::StreamExt;
use http::header::{CONTENT_LENGTH, ETAG, IF_MATCH, RANGE};
use reqwest::{Method, Response};

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
    limits: Limits,
}

impl Http {
    pub(crate) fn open(base: &HttpBase, settings: &Settings) -> Result<Self, Error> {
        // A redirect may lead from http to https.
        let client =
            client::build(settings, client::careful_redirects(), true).or_else(|error| {
                if base.url.scheme() == "https" {
                    return Err(error);
                }
                client::build(settings, client::careful_redirects(), false)
            })?;
        Ok(Self { client, base: base.clone(), limits: Limits::of(settings) })
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        let response = self.request(Method::HEAD, object, &Asked::default()).await?;
        let bytes = answer::text(response.headers(), &CONTENT_LENGTH)
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| Error::protocol("the server does not say how long the object is"))?;
        Ok(ObjectMeta { bytes, etag: answer::text(response.headers(), &ETAG).map(str::to_owned) })
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
        let range = match range {
            Some(range) => range,
            None => {
                let whole = response.content_length();
                0..whole.ok_or_else(|| {
                    Error::protocol("the server does not say how long the object is")
                })?
            }
        };
        let frames =
            response.bytes_stream().map(|frame| frame.map_err(|error| client::failure(&error)));
        Ok(ObjectStream::new(Box::pin(frames), address, &range, Some(self.limits.silence)))
    }

    async fn request(
        &self,
        method: Method,
        object: &str,
        asked: &Asked<'_>,
    ) -> Result<Response, Error> {
        let mut url = object_url(&self.base.url, object);
        url.set_query(self.base.query.as_deref());
        let mut request = self.client.request(method, url);
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
        if response.status().is_success() {
            answer::check(asked, response.status(), response.headers())?;
            Ok(response)
        } else {
            Err(answer::refusal(response.status(), response.headers(), b""))
        }
    }
}
