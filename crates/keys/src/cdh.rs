//! [`Cdh`]: keys from the guest's Confidential Data Hub.
//!
//! `GET /cdh/resource/<repository>/<type>/<tag>` on api-server-rest, 127.0.0.1:8006. The hub
//! attests, asks the KBS, and hands over the resource's bytes in the clear: inside the guest, on
//! loopback.
//!
//! Since the key itself is in the answer, this client is built from hyper's connection and nothing
//! above it. There is no proxy, redirect, name lookup, TLS or connection pool to configure wrongly,
//! and the connection's buffers are small enough for [`secret::WipeOnFree`] to wipe, and freed
//! before [`Cdh::release`] returns. Ordinary clients keep the last answer in an idle connection.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use seal::name::ResourceUri;
use secret::Secret;
use tokio::net::TcpStream;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::error::{Cause, printable};
use crate::http::{Body, LOOPBACK, REFUSAL_BYTES_MAX, is_loopback, join, parse_base};
use crate::{Error, HttpSettings, KeySource};

/// The Confidential Data Hub of this guest.
#[derive(Debug)]
pub struct Cdh {
    base: Url,
    name: String,
    timeout: Duration,
}

/// Size of the connection's read buffer: hyper's least.
const BUFFER_BYTES: usize = 8 * 1024;

impl Cdh {
    /// Where api-server-rest listens unless it is told otherwise.
    pub const BASE_DEFAULT: &str = "http://127.0.0.1:8006";

    /// The hub at `base`: plain HTTP on a loopback address, whatever the settings allow, since a
    /// hub elsewhere would send the key out of the guest.
    pub fn new(base: &str, settings: &HttpSettings) -> Result<Self, Error> {
        let base = parse_base(base)?;
        let name = base.origin().ascii_serialization();
        if base.scheme() != "http" || !is_loopback(&base) {
            let why = format!("the data hub is asked by http:// on this machine, not at {name}");
            return Err(Error::Usage(why));
        }
        Ok(Self { base, name, timeout: settings.timeout })
    }
}

impl KeySource for Cdh {
    fn kind(&self) -> &'static str {
        "cdh"
    }

    async fn release(&self, resource: &ResourceUri) -> Result<Secret, Error> {
        let asked = Instant::now();
        let exchange = tokio::time::timeout(self.timeout, self.get(resource));
        let (status, mut body) =
            exchange.await.map_err(|elapsed| self.unreachable("timed out", elapsed))??;
        if status != StatusCode::OK {
            let detail = printable(&String::from_utf8_lossy(&body));
            return Err(self.refused(status, detail, resource, asked));
        }
        if body.is_empty() {
            return Err(Error::Empty { resource: resource.into() });
        }
        Secret::take(&mut body).map_err(|error| Error::protocol(&self.name, error.to_string()))
    }
}

impl Cdh {
    /// The answer to one request on a connection of its own.
    async fn get(&self, resource: &ResourceUri) -> Result<(StatusCode, Zeroizing<Vec<u8>>), Error> {
        let url = join(&self.base, &format!("/cdh/resource/{}", resource.path()));
        let request = Request::get(url.path())
            .header(HOST, self.base.authority())
            .body(String::new())
            .map_err(|error| Error::Usage(error.to_string()))?;
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;

        // The connection is driven here, and not by a task of its own, so that it ends here.
        let mut connection = pin!(connection);
        let mut exchange = pin!(async {
            let response = sender.send_request(request).await.map_err(|e| self.broken(e))?;
            self.read(response).await
        });
        tokio::select! {
            answer = &mut exchange => answer,
            // It may end, well or not, before its last bytes were taken.
            _ = &mut connection => exchange.await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        let port = self.base.port_or_known_default().unwrap_or_default();
        let addresses: Vec<SocketAddr> = match self.base.host() {
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            _ => LOOPBACK.iter().map(|address| (address.ip(), port).into()).collect(),
        };
        let stream = TcpStream::connect(&*addresses).await;
        stream.map_err(|error| self.unreachable("cannot connect", error))
    }

    /// The status, and the body. Of a refusal only a short body is of interest, if any.
    async fn read(
        &self,
        response: Response<Incoming>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), Error> {
        let (head, incoming) = response.into_parts();
        let body = match head.status {
            StatusCode::OK => self.body(incoming, Secret::BYTES_MAX).await?,
            _ => self.body(incoming, REFUSAL_BYTES_MAX).await.unwrap_or_default(),
        };
        Ok((head.status, body))
    }

    async fn body(
        &self,
        mut incoming: Incoming,
        bytes_max: usize,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut body = Body::new(&self.name, incoming.size_hint().exact(), bytes_max)?;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            if let Ok(chunk) = frame.map_err(|error| self.broken(error))?.into_data() {
                body.push(&chunk)?;
            }
        }
        Ok(body.finish())
    }

    /// Upstream answers 500 to everything that goes wrong behind it. The other codes are what the
    /// REST server says itself, or what a hub says that tells more than upstream's.
    fn refused(
        &self,
        status: StatusCode,
        detail: String,
        resource: &ResourceUri,
        asked: Instant,
    ) -> Error {
        let resource = resource.into();
        match status.as_u16() {
            500 => Error::Opaque { resource, elapsed: asked.elapsed() },
            401 | 403 => Error::Denied { resource, detail },
            404 => Error::NotFound { resource, detail },
            code @ (408 | 429 | 501..) => Error::Unreachable {
                endpoint: self.name.clone(),
                why: format!("status {code} {detail}"),
                source: None,
            },
            code => Error::protocol(&self.name, format!("status {code} {detail}")),
        }
    }

    fn broken(&self, error: hyper::Error) -> Error {
        self.unreachable("the connection broke", error)
    }

    fn unreachable(&self, why: &str, source: impl Into<Cause>) -> Error {
        let source = Some(source.into());
        Error::Unreachable { endpoint: self.name.clone(), why: why.to_owned(), source }
    }
}
