//! Sockets: TLS, limits on size, time and number, and an orderly end.
//!
//! What a client sends is read completely, within its limits, before anything is done about it; the
//! answer is made on a thread that may block, since most of them read and sync files.

mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::error::Error;
use crate::refusal::{Kind, Refusal};
use crate::service::{Call, Service};
use tls::Tls;

/// What one client, and all of them, may take. The defaults suit a broker; tests shrink them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body, in bytes; more is 413.
    pub body_bytes: usize,
    /// Largest request head, in bytes; more is 431.
    pub head_bytes: usize,
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For a request's head, from when it is awaited: also ends idle connections.
    pub head: Duration,
    /// For a request's body; more is 408.
    pub body: Duration,
    /// For a connection as a whole, whatever it does.
    pub connection: Duration,
    /// For requests in flight when the broker is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 2 * 1024 * 1024,
            head_bytes: 32 * 1024,
            connections: 512,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(15),
            body: Duration::from_secs(15),
            connection: Duration::from_secs(120),
            drain: Duration::from_secs(10),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    limits: Limits,
}

impl Server {
    /// Listens where `config` says.
    pub async fn bind(config: &Config, limits: Limits) -> Result<Self, Error> {
        config.check()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        let fail = |source| Error::Listen { address: config.listen.to_string(), source };
        let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address, tls, limits })
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, then finishes what was begun.
    pub async fn run(self, service: Arc<Service>, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.accept(&places) => accepted,
            };
            match accepted {
                Ok((stream, client, place)) => {
                    let connection = Connection {
                        client,
                        tls: self.tls.as_ref().map(Tls::acceptor),
                        limits: self.limits.clone(),
                        service: service.clone(),
                        watcher: graceful.watcher(),
                        _place: place,
                    };
                    tokio::spawn(connection.serve(stream));
                }
                Err(error) => {
                    // Out of descriptors, mostly: waiting is all that helps.
                    error!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        info!("stopping");
        // Closed first: who connects now is refused and can turn to another replica.
        drop(self.listener);
        if timeout(self.limits.drain, graceful.shutdown()).await.is_err() {
            warn!("stopped with requests in flight");
        }
    }

    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, client) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, client, place))
    }
}

/// One client's connection.
struct Connection {
    client: SocketAddr,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    service: Arc<Service>,
    watcher: Watcher,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        self.service.count_connection(1.0);
        let service = self.service.clone();
        match self.tls.clone() {
            None => self.serve_http(stream).await,
            Some(tls) => match timeout(self.limits.handshake, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.serve_http(stream).await,
                Ok(Err(error)) => debug!(client = %self.client, %error, "no TLS handshake"),
                Err(_) => debug!(client = %self.client, "TLS handshake took too long"),
            },
        }
        service.count_connection(-1.0);
    }

    async fn serve_http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { client, limits, service, watcher, _place, .. } = self;
        let (time, body) = (limits.connection, (limits.body_bytes, limits.body));
        let answer = service_fn(move |request| answer(service.clone(), client, body, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(limits.head_bytes)
            .serve_connection(TokioIo::new(stream), answer);
        match timeout(time, watcher.watch(connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%client, %error, "connection ended"),
            Err(_) => debug!(%client, "connection took too long"),
        }
    }
}

async fn answer(
    service: Arc<Service>,
    client: SocketAddr,
    (bytes_max, time_max): (usize, Duration),
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match timeout(time_max, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let refusal = Refusal::new(Kind::PayloadTooLarge, "payload reached size limit");
            return Ok(refuse(&service, &head, &refusal, &client));
        }
        Ok(Err(error)) => {
            let refusal = Refusal::new(Kind::SerdeError, "the body did not arrive").because(error);
            return Ok(refuse(&service, &head, &refusal, &client));
        }
        Err(_) => {
            let refusal = Refusal::new(Kind::RequestTimeout, "the body did not arrive in time");
            return Ok(refuse(&service, &head, &refusal, &client));
        }
    };
    let call = Call {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        client,
    };
    if !Service::may_block(&call) {
        return Ok(service.handle(&call).map(Full::new));
    }
    let worker = service.clone();
    let response = match tokio::task::spawn_blocking(move || worker.handle(&call)).await {
        Ok(response) => response.map(Full::new),
        // A bug of ours, or the runtime is going: nothing was sent, so nothing was released.
        Err(error) => {
            let refusal = Refusal::new(Kind::PluginInternalError, "Plugin internal error");
            close(service.refuse(&refusal.because(error), &client))
        }
    };
    Ok(response)
}

/// A refusal before the request was complete: the connection is not used again, since the rest of
/// the body may still be on its way.
fn refuse(
    service: &Service,
    head: &Parts,
    refusal: &Refusal,
    client: &SocketAddr,
) -> Response<Full<Bytes>> {
    service.record_refused(&head.method, head.uri.path(), refusal, client);
    close(service.refuse(refusal, client))
}

fn close(response: Response<Bytes>) -> Response<Full<Bytes>> {
    let mut response = response.map(Full::new);
    let close = hyper::header::HeaderValue::from_static("close");
    response.headers_mut().insert(hyper::header::CONNECTION, close);
    response
}
