//! What key sources' HTTP has in common: how to be configured, which addresses may be asked, and
//! the limits. [`Endpoint`] is the client for brokers.

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::Error;

/// How to talk to a key source.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// The only certificate authorities to trust (PEM). `None`: the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Limit on one request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Allows `http://` to a key broker on another machine. For development: the key itself stays
    /// encrypted to this guest, but nothing says who the broker is.
    pub insecure_dev: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { ca_bundle: None, timeout: Duration::from_secs(30), insecure_dev: false }
    }
}

/// Limit on connecting alone: an address that swallows packets should not use up a whole attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer of a failing server that is read, for its explanation.
pub const REFUSAL_BYTES_MAX: usize = 4096;

/// A key broker's address, and a client that follows no redirect, sends plain text to no other
/// machine unless told so, and reads bounded answers.
#[derive(Debug)]
pub struct Endpoint {
    base: Url,
    name: String,
    client: Client,
}

impl Endpoint {
    /// The broker at `base`: `https://`, or `http://` on this machine or where the settings allow it.
    pub fn new(base: &str, settings: &HttpSettings) -> Result<Self, Error> {
        let base = parse_base(base)?;
        let name = base.origin().ascii_serialization();
        if base.scheme() == "http" && !is_loopback(&base) && !settings.insecure_dev {
            let why = format!("{name} is not on this machine, so it must be https://");
            return Err(Error::Usage(why));
        }
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout));
        if base.scheme() == "http" || is_loopback(&base) {
            // The host of a confidential guest may set `http_proxy`, and writes `/etc/hosts`. Only
            // `https://` to another machine may use a proxy, which then sees a TLS tunnel.
            builder = builder.no_proxy().resolve_to_addrs("localhost", &LOOPBACK);
        }
        if base.scheme() == "http" {
            // No TLS, so no need to load the system's certificates, nor to have any.
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = &settings.ca_bundle {
            builder = builder.tls_certs_only(read_bundle(path)?);
        }
        let client = builder
            .build()
            .map_err(|error| Error::Tls { endpoint: name.clone(), source: error.into() })?;
        Ok(Self { base, name, client })
    }

    /// Scheme, host and port, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of `path`, which begins with a slash and may have a query.
    pub fn url(&self, path: &str) -> Url {
        join(&self.base, path)
    }

    /// A request for `path`, to be completed and sent with [`Endpoint::send`].
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    /// The same with a body to come.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// The head of the answer, whatever its status.
    pub async fn send_unfiltered(&self, request: RequestBuilder) -> Result<Response, Error> {
        request.send().await.map_err(|error| self.failure(error))
    }

    /// The head of the answer, whatever its status, unless it is a redirect.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = self.send_unfiltered(request).await?;
        if response.status().is_redirection() {
            return Err(Error::protocol(&self.name, "a redirect, which is never followed"));
        }
        Ok(response)
    }

    /// The whole body, of at most `bytes_max`.
    pub async fn body(
        &self,
        mut response: Response,
        bytes_max: usize,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut body = Body::new(&self.name, response.content_length(), bytes_max)?;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(error))? {
            body.push(&chunk)?;
        }
        Ok(body.finish())
    }

    /// What a failing server says, as far as it can be read. Not trusted, not printable yet.
    pub async fn refusal(&self, response: Response) -> Zeroizing<Vec<u8>> {
        self.body(response, REFUSAL_BYTES_MAX).await.unwrap_or_default()
    }

    fn failure(&self, error: reqwest::Error) -> Error {
        let endpoint = self.name.clone();
        let error = error.without_url();
        if is_tls(&error) {
            return Error::Tls { endpoint, source: error.into() };
        }
        let why = match () {
            () if error.is_timeout() => "timed out",
            () if error.is_connect() => "cannot connect",
            () => "the connection broke",
        };
        Error::Unreachable { endpoint, why: why.to_owned(), source: Some(error.into()) }
    }
}

/// An answer's body while it arrives.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    endpoint: &'a str,
    bytes_max: usize,
    bytes: Zeroizing<Vec<u8>>,
}

impl<'a> Body<'a> {
    /// `announced`: its length, if the server says. All memory is allocated here, since growing
    /// would leave copies behind.
    pub(crate) fn new(
        endpoint: &'a str,
        announced: Option<u64>,
        bytes_max: usize,
    ) -> Result<Self, Error> {
        let announced = announced.map_or(bytes_max, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let bytes = Zeroizing::new(Vec::with_capacity(announced.min(bytes_max)));
        let body = Self { endpoint, bytes_max, bytes };
        if announced > bytes_max { Err(body.too_large()) } else { Ok(body) }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let space = self.bytes.capacity().min(self.bytes_max) - self.bytes.len();
        if chunk.len() > space {
            return Err(self.too_large());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }

    fn too_large(&self) -> Error {
        Error::TooLarge { what: format!("the answer of {}", self.endpoint), limit: self.bytes_max }
    }
}

/// What `localhost` is, without asking anybody. Port 0 stands for the URL's.
pub(crate) const LOOPBACK: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// An address to build request paths on: `http` or `https`, a host, perhaps a path.
pub(crate) fn parse_base(text: &str) -> Result<Url, Error> {
    let usage = |why: &str| Error::Usage(format!("key source address {why}"));
    let base = Url::parse(text).map_err(|error| usage(&format!("does not parse: {error}")))?;
    if base.host().is_none() || !matches!(base.scheme(), "http" | "https") {
        return Err(usage("must begin with https:// or http://"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(usage("must not hold credentials"));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(usage("must not have a query or a fragment"));
    }
    Ok(base)
}

/// `path` below `base`, and its query, if it has one.
pub(crate) fn join(base: &Url, path: &str) -> Url {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, q)| (path, Some(q)));
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(query);
    url
}

/// Whether it is this machine: by address, or as `localhost`, which nobody is asked about.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn read_bundle(path: &Path) -> Result<Vec<Certificate>, Error> {
    let pem =
        std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let certificates = Certificate::from_pem_bundle(&pem)
        .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
    if certificates.is_empty() {
        return Err(Error::Usage(format!("{} holds no certificate", path.display())));
    }
    Ok(certificates)
}

/// Whether the cause, however deep, is TLS itself. `io::Error` hides the error that it wraps from
/// `source()`, so that is looked at too.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .is_some_and(|inner| is_tls(inner));
    wrapped || error.source().is_some_and(is_tls)
}
