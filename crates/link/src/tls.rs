//! TLS 1.3 (RFC 8446) with certificates on both sides, for agents that a network joins.
//!
//! Nothing arrives that nobody asked for, because the host takes a readable idle connection for one
//! that is over: no session tickets, so no resumption and no early data either. Certificates, keys
//! and CAs are read again for every connection, so that a rotation needs no restart; one that is
//! halfway refuses the connections of that moment, and the host tries again.

mod identity;
mod verify;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

pub use self::identity::{Files, Identity, Pem, check};
use self::identity::{parse, roots};
use self::verify::Named;
use crate::stream::{Socket, Stream};

/// Why a connection cannot even be tried: this side's own certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `tls:` address without anything to authenticate with.
    #[error("TLS needs a certificate, its private key and the other side's CA, and has none")]
    Unconfigured,
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is longer than any certificate.
    #[error("{0:?} is too long for certificates or a key")]
    TooLong(PathBuf),
    /// A private key that others than its owner may read or replace is not private.
    #[error(
        "private key {path:?} is open to others (mode {mode:04o}); allow only its owner: chmod 0400"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// An identity that does not come from files could not be had.
    #[error("the certificate's source failed")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No certificate, no key, or a broken one.
    #[error("{what} holds no {wanted} in PEM form")]
    Pem {
        /// The file, or the identity as it is shown.
        what: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("{what} cannot be used")]
    Unusable {
        /// The file, or the identity as it is shown.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// Of a file, or of an identity.
fn unusable<E: std::error::Error + Send + Sync + 'static>(
    what: impl fmt::Display,
) -> impl Fn(E) -> Error {
    move |error| Error::Unusable { what: what.to_string(), source: error.into() }
}

/// The guest's side: who it is, and whom it hears.
#[derive(Debug)]
pub struct Server {
    identity: Box<dyn Identity>,
    client_ca: PathBuf,
    client_names: Vec<String>,
}

impl Server {
    /// Hears who has a certificate of a CA in `client_ca`; if there are `client_names`, only with one
    /// of those among its DNS and URI names. All is read once, to fail early.
    pub fn new(
        identity: Box<dyn Identity>,
        client_ca: PathBuf,
        client_names: Vec<String>,
    ) -> Result<Self, Error> {
        let server = Self { identity, client_ca, client_names };
        server.check()?;
        Ok(server)
    }

    /// Whether everything can still be read that the next connection needs.
    pub fn check(&self) -> Result<(), Error> {
        self.config().map(drop)
    }

    fn config(&self) -> Result<ServerConfig, Error> {
        let (chain, key) = parse(&*self.identity)?;
        let provider = provider();
        let roots = Arc::new(roots(&self.client_ca)?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let verifier = Named::new(
            verifier.map_err(unusable(self.client_ca.display()))?,
            self.client_names.clone(),
        );
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable(&self.identity))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain, key)
            .map_err(unusable(&self.identity))?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// The handshake, before `until`.
    pub(crate) fn accept(&self, mut socket: Socket, until: Instant) -> io::Result<Stream> {
        prepare(&socket)?;
        let config = self.config().map_err(Error::into_io)?;
        let mut tls = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        socket.until = Some(until);
        tls.complete_io(&mut socket)?;
        socket.until = None;
        Ok(Stream::new(socket, Some(Connection::Server(tls))))
    }
}

/// The host's side: who it is, and which guests it believes.
#[derive(Debug)]
pub struct Client {
    identity: Box<dyn Identity>,
    guest_ca: PathBuf,
}

impl Client {
    /// Believes guests that have a certificate of a CA in `guest_ca`, in the name that is asked for.
    /// All is read once, to fail early.
    pub fn new(identity: Box<dyn Identity>, guest_ca: PathBuf) -> Result<Self, Error> {
        let client = Self { identity, guest_ca };
        client.config()?;
        Ok(client)
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let (chain, key) = parse(&*self.identity)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable(&self.identity))?
            .with_root_certificates(roots(&self.guest_ca)?)
            .with_client_auth_cert(chain, key)
            .map_err(unusable(&self.identity))?;
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    /// The handshake with the guest that has to be `name`, before `until`.
    pub(crate) fn connect(
        &self,
        stream: TcpStream,
        name: &str,
        until: Instant,
    ) -> io::Result<Stream> {
        let mut socket = Socket::new(stream, Some(until));
        prepare(&socket)?;
        sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let config = self.config().map_err(Error::into_io)?;
        let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        tls.complete_io(&mut socket)?;
        socket.until = None;
        Ok(Stream::new(socket, Some(Connection::Client(tls))))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A TCP socket that sends at once and notices that the other machine is gone, also while neither
/// side says anything.
fn prepare(socket: &Socket) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_LOST)?;
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

/// Silence after which a peer is asked whether it is there, how often, and how many unanswered
/// questions end the connection: 105 seconds in all.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_LOST: u32 = 3;
/// What the host's kernel takes in while the host is busy sending: the longest answers to all
/// requests on their way, or both sides would wait for the other to read.
const RECEIVE_BYTES: usize = 208 << 10;
