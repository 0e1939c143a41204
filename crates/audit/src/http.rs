//! [`Posts`]: records to an HTTP collector.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::builderstates::WantsProtocols1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};

use crate::error::NotAccepted;

/// From connecting to the head of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// For connecting alone, so that a collector that is gone is told from one that is slow.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Answers of who does not look at the lines: who asks, where, how much and when is wrong. Any other,
/// such as 400, 500 or a proxy's 502, may follow a part that was accepted.
const TURNED_AWAY: [StatusCode; 6] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// Lines in, one POST out when they are flushed, and an error unless that was answered with 2xx.
///
/// The requests are made by a thread of its own, since records are written from within runtimes and
/// without any.
#[derive(Debug)]
pub(crate) struct Posts {
    lines: Vec<u8>,
    to: Sender<Post>,
}

/// Lines, and whom to tell.
type Post = (Vec<u8>, Sender<io::Result<()>>);

impl Posts {
    /// No other machine is sent records in the clear; there is no proxy, and no redirect is followed.
    pub(crate) fn to(url: &str) -> io::Result<Self> {
        let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
        let url: Uri = url.parse().map_err(|_| refuse("not a URL"))?;
        let local = ["localhost", "127.0.0.1", "[::1]"].map(Some).contains(&url.host());
        let connector = match url.scheme_str() {
            // No TLS, so no need to load the system's certificates, nor to have any.
            Some("http") if local => with_roots(RootCertStore::empty())?,
            Some("https") => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(default_provider())?
                .https_only(),
            _ => return Err(refuse("http:// is for a collector on this machine: use https://")),
        };
        let mut sockets = HttpConnector::new();
        sockets.enforce_http(false);
        sockets.set_connect_timeout(Some(CONNECT_PATIENCE));
        let connector = connector.enable_http1().wrap_connector(sockets);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (to, posts) = channel();
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || runtime.block_on(post_all(&client, &url, &posts)))?;
        Ok(Self { lines: Vec::new(), to })
    }
}

impl Write for Posts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (tell, told) = channel();
        self.to.send((std::mem::take(&mut self.lines), tell)).map_err(|_| gone())?;
        told.recv().map_err(|_| gone())?
    }
}

fn with_roots(roots: RootCertStore) -> io::Result<HttpsConnectorBuilder<WantsProtocols1>> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http())
}

async fn post_all(client: &HttpClient, url: &Uri, posts: &Receiver<Post>) {
    // Nothing else runs here, so it may block.
    while let Ok((lines, tell)) = posts.recv() {
        let result = tokio::time::timeout(PATIENCE, post(client, url, lines)).await;
        let _ = tell.send(result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

async fn post(client: &HttpClient, url: &Uri, lines: Vec<u8>) -> io::Result<()> {
    let request = Request::post(url)
        .header("content-type", "application/x-ndjson")
        .header("user-agent", concat!("sealift/", env!("CARGO_PKG_VERSION")))
        .body(Full::from(lines))
        .map_err(io::Error::other)?;
    let status = match client.request(request).await {
        Ok(answer) => answer.status(),
        // Nothing was sent yet.
        Err(error) if error.is_connect() => {
            return Err(NotAccepted::because(&io::Error::other(chain(&error))));
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    let answered = io::Error::other(format!("it answered {status}"));
    match status {
        status if status.is_success() => Ok(()),
        status if TURNED_AWAY.contains(&status) => Err(NotAccepted::because(&answered)),
        _ => Err(answered),
    }
}

/// An error and its sources: hyper's own words are `client error (Connect)`.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}
