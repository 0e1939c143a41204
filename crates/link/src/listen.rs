//! Where a guest's agent listens, and who may connect.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener};

use crate::local;
use crate::stream::{Closer, Socket, Stream};
use crate::tls;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:/PATH`: a socket file.
    Unix(PathBuf),
    /// `vsock:PORT`: a port of this virtual machine's vsock device.
    Vsock(u32),
    /// `tls:IP:PORT`: a TCP port, TLS, and certificates on both sides.
    Tls(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("vsock", port)) => match port.parse() {
                Ok(port) => Ok(Self::Vsock(port)),
                Err(_) => Err(format!("{port:?} is no port number")),
            },
            Some(("tls", rest)) => match rest.parse() {
                Ok(address) => Ok(Self::Tls(address)),
                Err(_) => Err(format!("{rest:?} is not IP:PORT, as 0.0.0.0:1028 or [::]:1028")),
            },
            _ => Err("unix:/PATH, vsock:PORT or tls:IP:PORT".into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock(port) => write!(f, "vsock:{port}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
        }
    }
}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A socket file's.
    Unix(UnixListener),
    /// A vsock port's.
    Vsock(VsockListener),
    /// A TCP port's, and how its peers are told.
    Tls(TcpListener, Arc<tls::Server>),
}

impl Listener {
    /// Binds. A socket file that nobody listens to any more is replaced. A `tls:` address needs
    /// `tls`.
    pub fn bind(address: &Address, tls: Option<&Arc<tls::Server>>) -> io::Result<Self> {
        match address {
            Address::Unix(path) => local::bind(path).map(Self::Unix),
            Address::Vsock(port) => {
                VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, *port)).map(Self::Vsock)
            }
            Address::Tls(address) => {
                let tls = tls.ok_or_else(|| tls::Error::Unconfigured.into_io())?;
                Ok(Self::Tls(TcpListener::bind(address)?, Arc::clone(tls)))
            }
        }
    }

    /// Where a `tls:` listener is: of port 0 the system has made another.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tls(listener, _) => listener.local_addr().ok(),
            Self::Unix(_) | Self::Vsock(_) => None,
        }
    }

    /// The next connection of somebody who may have one, or who has yet to prove it. Over a socket
    /// file that is root or this user, over vsock the host: processes in the guest reach a vsock
    /// port too, by its own address, and are turned away (`None`). Never waits for a peer.
    pub fn accept(&self) -> io::Result<Option<Incoming>> {
        let known = |socket| Incoming { socket, stranger: None };
        match self {
            Self::Unix(listener) => {
                Ok(local::accept(listener)?.map(|stream| known(Socket::new(stream, None))))
            }
            Self::Vsock(listener) => {
                let (stream, peer) = listener.accept()?;
                let host = peer.cid() == VMADDR_CID_HOST;
                Ok(host.then(|| known(Socket::new(stream, None))))
            }
            Self::Tls(listener, tls) => {
                let (stream, peer) = listener.accept()?;
                let stranger = Some((peer.ip().to_canonical(), Arc::clone(tls)));
                Ok(Some(Incoming { socket: Socket::new(stream, None), stranger }))
            }
        }
    }
}

/// A connection that was accepted. Nothing has been read from it.
#[derive(Debug)]
pub struct Incoming {
    socket: Socket,
    stranger: Option<(IpAddr, Arc<tls::Server>)>,
}

impl Incoming {
    /// Where it comes from, if [`Incoming::authenticate`] has to tell who it is; `None`: that is
    /// known already.
    pub fn stranger(&self) -> Option<IpAddr> {
        self.stranger.as_ref().map(|(address, _)| *address)
    }

    /// A handle with which another thread can end it, also while it is being authenticated.
    pub fn closer(&self) -> io::Result<Closer> {
        self.socket.closer()
    }

    /// Waits for a stranger's certificate, at most until `until`. What is returned has no deadline.
    pub fn authenticate(self, until: Instant) -> io::Result<Stream> {
        match self.stranger {
            None => Ok(Stream::new(self.socket, None)),
            Some((_, tls)) => tls.accept(self.socket, until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        let v6 = Address::Tls("[::]:1028".parse().expect("an address"));
        for address in [Address::Unix("/run/s.sock".into()), Address::Vsock(1027), v6] {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        let bad = [
            "",
            "unix",
            "unix:relative",
            "vsock:",
            "vsock:x",
            "vsock:4294967296",
            "tcp:1",
            "tls:1028",
            "tls:localhost:1028",
            "tls:0.0.0.0:65536",
            "tls:::1028",
        ];
        for bad in bad {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tls_without_certificates_is_not_bound() {
        let address = "tls:127.0.0.1:0".parse().expect("an address");
        assert!(Listener::bind(&address, None).is_err());
    }
}
