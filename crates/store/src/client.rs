//! The HTTP client: trust, proxies, time limits and redirects are ours, for S3 and plain HTTP
//! alike.

use std::error::Error as StdError;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, NoProxy, Proxy, Response};

use crate::error::{Cause, chain};
use crate::{Error, Settings};

/// The largest CA bundle that is read, in bytes; the system's own is about 220 kB.
const CA_BUNDLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Idle connections kept: as many ranges as are ever in flight.
const POOL_IDLE_MAX: usize = 64;
const REDIRECTS_MAX: usize = 5;

/// How long to wait for what. reqwest's own read timeout is not used: it also runs while a part is
/// uploaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From the request to the head of the answer.
    pub(crate) answer: Duration,
    /// For the next bytes of a body.
    pub(crate) silence: Duration,
}

impl Limits {
    pub(crate) fn of(settings: &Settings) -> Self {
        let (connect, read) = (settings.connect_timeout, settings.read_timeout);
        Self { answer: connect.saturating_add(read), silence: read }
    }
}

/// The outcome of `work`, or [`Error::Timeout`].
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let cause = Cause::new(format!("no answer within {limit:?}"));
        Error::Timeout { object: String::new(), cause }
    })
}

/// Builds a client. Without `tls` no authorities are loaded, so that plain HTTP works in an image
/// that has none.
pub(crate) fn build(settings: &Settings, redirects: Policy, tls: bool) -> Result<Client, Error> {
    let mut builder = Client::builder()
        .user_agent(concat!("sealift/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects)
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(POOL_IDLE_MAX)
        .no_proxy();
    let direct = settings.no_proxy.as_deref().and_then(NoProxy::from_string);
    for (url, tls) in [(&settings.http_proxy, false), (&settings.https_proxy, true)] {
        if let Some(url) = url {
            let proxy = if tls { Proxy::https(url) } else { Proxy::http(url) };
            let proxy =
                proxy.map_err(|_| Error::usage("HTTP_PROXY or HTTPS_PROXY is not a proxy URL"))?;
            builder = builder.proxy(proxy.no_proxy(direct.clone()));
        }
    }
    if !settings.verify_tls {
        tracing::warn!(
            "S3_VERIFY_SSL is off: whoever sits on the network can read the store's credentials"
        );
        builder = builder.tls_danger_accept_invalid_certs(true);
    } else if let Some(path) = &settings.ca_bundle {
        builder = builder.tls_certs_only(authorities(path)?);
    } else if !tls {
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| match error.source() {
        // The only part of building that depends on the system.
        Some(cause) => Error::Tls { object: String::new(), cause: Cause::innermost(cause) },
        None => Error::usage("the HTTP client cannot be built from these settings"),
    })
}

/// A client with the trust, the proxies and the time limits of stores, for what is no store. It follows
/// no redirects.
pub fn http_client(settings: &Settings) -> Result<Client, Error> {
    // As for plain HTTP: an image may have no authorities, and the endpoint need none.
    build(settings, Policy::none(), true).or_else(|_| build(settings, Policy::none(), false))
}

/// Whether a URL's host is this machine, by its address or as `localhost`; other names are not
/// looked up.
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Redirects for plain HTTP: few, and never from TLS to clear text.
pub(crate) fn careful_redirects() -> Policy {
    Policy::custom(|attempt: Attempt<'_>| {
        let previous = attempt.previous();
        if previous.len() > REDIRECTS_MAX {
            return attempt.error("more than 5 redirects");
        }
        let was_tls = previous.last().is_some_and(|url| url.scheme() == "https");
        match (was_tls, attempt.url().scheme()) {
            (_, "https") | (false, "http") => attempt.follow(),
            _ => attempt.error("redirect from https to another scheme"),
        }
    })
}

/// Redirects where the request carries a secret of that host's: none to another.
pub(crate) fn redirects_within_the_host() -> Policy {
    Policy::custom(|attempt: Attempt<'_>| {
        let previous = attempt.previous();
        let origin = |url: &reqwest::Url| url.origin();
        match previous.first().map(origin) == Some(origin(attempt.url()))
            && previous.len() <= REDIRECTS_MAX
        {
            true => attempt.follow(),
            false => attempt.error("redirect to another host, which must not see these headers"),
        }
    })
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, Error> {
    let unusable = |why: &str| Error::usage(format!("AWS_CA_BUNDLE {}: {why}", path.display()));
    let bytes = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > CA_BUNDLE_BYTES_MAX => return Err(unusable("larger than 8 MiB")),
        Ok(_) => std::fs::read(path).map_err(|error| unusable(&error.to_string()))?,
        Err(error) => return Err(unusable(&error.to_string())),
    };
    match Certificate::from_pem_bundle(&bytes) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unusable("no PEM certificate inside")),
    }
}

/// A whole body of at most `bytes_max` bytes.
pub(crate) async fn body(response: Response, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut frames = pin!(frames(response));
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if bytes.len() + frame.len() > bytes_max {
            return Err(Error::protocol("the answer is longer than such an answer can be"));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

/// A body as the socket delivers it.
pub(crate) fn frames(
    response: Response,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    response.bytes_stream().map(|frame| frame.map_err(|error| failure(&error)))
}

/// What a failed request means. `reqwest::Error` itself is dropped: it holds the URL.
pub(crate) fn failure(error: &reqwest::Error) -> Error {
    let object = String::new();
    let cause = match error.source() {
        Some(source) => Cause::innermost(source),
        None => Cause::new("request failed"),
    };
    if error.is_connect() && chain(error).any(|error| error.is::<rustls::Error>()) {
        Error::Tls { object, cause }
    } else if error.is_timeout() {
        Error::Timeout { object, cause }
    } else if error.is_redirect() {
        Error::protocol(cause.to_string())
    } else if error.is_builder() {
        Error::usage(format!("request cannot be made: {cause}"))
    } else {
        Error::Network { object, cause }
    }
}
