//! Where a guest's agent is, and the way there.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustls_pki_types::ServerName;
use vsock::{VsockAddr, VsockStream};

use crate::stream::{Stream, left};
use crate::tls;

/// A guest agent's address, in the forms in which Kata's shim names its agent (`GET /agent-url`),
/// with our port in place of 1024.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `unix:/PATH`: a socket file. For guests that are namespaces, and for tests.
    Unix(PathBuf),
    /// `vsock:CID:PORT`: the kernel's vsock (QEMU).
    Vsock {
        /// The virtual machine.
        cid: u32,
        /// The agent's port.
        port: u32,
    },
    /// `hvsock:/PATH:PORT`: hybrid vsock, a socket file of the VMM (Firecracker, Cloud Hypervisor,
    /// Dragonball, vhost-user).
    Hybrid {
        /// The VMM's socket file.
        path: PathBuf,
        /// The agent's port.
        port: u32,
    },
    /// `tls:HOST:PORT` or `tls:NAME@HOST:PORT`: TCP, for guests on another machine (peer pods).
    Tls {
        /// The DNS name or IP address that the guest's certificate has to have: `host`, unless the
        /// address says otherwise. Guests whose IP addresses come and go have a name of their own.
        name: String,
        /// The DNS name or IP address to connect to; IPv6 without its brackets.
        host: String,
        /// The agent's port.
        port: u16,
    },
}

/// Addresses of one host name that are tried.
const RESOLVED_MAX: usize = 8;

impl Address {
    /// Connects before `until`; a `tls:` address needs `tls`. Not bounded is only the resolution of
    /// a host's name, which has the system's own limits. What is returned has no deadline.
    ///
    /// Over TLS the guest has not looked at our certificate yet when this returns (RFC 8446, section
    /// 4.4): that it refuses it is seen by the first read.
    pub fn connect(&self, tls: Option<&tls::Client>, until: Instant) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => connect_unix(path, until).map(Stream::plain),
            Self::Vsock { cid, port } => {
                // The kernel gives up after two seconds.
                let stream = VsockStream::connect(&VsockAddr::new(*cid, *port))?;
                Ok(Stream::plain(stream))
            }
            Self::Hybrid { path, port } => {
                let mut stream = Stream::plain(connect_unix(path, until)?);
                stream.set_deadline(Some(until));
                greet_hybrid(&mut stream, *port)?;
                stream.set_deadline(None);
                Ok(stream)
            }
            Self::Tls { name, host, port } => {
                let tls = tls.ok_or_else(|| tls::Error::Unconfigured.into_io())?;
                tls.connect(connect_tcp(host, *port, until)?, name, until)
            }
        }
    }
}

/// As the standard library does it, but not for ever when nobody accepts.
fn connect_unix(path: &Path, until: Instant) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(left(until)?))?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(socket),
        // What the kernel calls "try again" when a socket's time is over.
        Err(Errno::AGAIN) => Err(io::ErrorKind::TimedOut.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// The first of the host's addresses that accepts.
fn connect_tcp(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()?.take(RESOLVED_MAX) {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Says `CONNECT <port>` and reads the line `OK <number>`, and not a byte more: what follows is the
/// guest's.
fn greet_hybrid(stream: &mut Stream, port: u32) -> io::Result<()> {
    /// `OK 4294967295\n`, with room.
    const LINE_BYTES_MAX: usize = 32;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::with_capacity(LINE_BYTES_MAX);
    let mut byte = [0];
    while byte != *b"\n" {
        if line.len() == LINE_BYTES_MAX {
            return Err(io::Error::other("the VMM's socket does not speak hybrid vsock"));
        }
        match stream.read(&mut byte)? {
            0 => {
                let what = format!("nobody listens on the guest's vsock port {port}");
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, what));
            }
            _ => line.push(byte[0]),
        }
    }
    match line.starts_with(b"OK ") {
        true => Ok(()),
        false => Err(io::Error::other("the VMM's socket does not speak hybrid vsock")),
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str =
            "unix:/PATH, vsock:CID:PORT, hvsock:/PATH:PORT, tls:HOST:PORT or tls:NAME@HOST:PORT";
        let (kind, rest) = text.split_once(':').ok_or(FORMS)?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?}: {FORMS}"));
        match kind {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "vsock" => {
                let (cid, port) = rest.split_once(':').ok_or(FORMS)?;
                Ok(Self::Vsock { cid: number(cid)?, port: number(port)? })
            }
            "hvsock" if rest.starts_with('/') => {
                let (path, port) = rest.rsplit_once(':').ok_or(FORMS)?;
                Ok(Self::Hybrid { path: path.into(), port: number(port)? })
            }
            "tls" => {
                let (name, place) =
                    rest.split_once('@').map_or((None, rest), |(name, place)| (Some(name), place));
                let (host, port) = place.rsplit_once(':').ok_or(FORMS)?;
                let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                    Some(v6) => v6.parse::<Ipv6Addr>().is_ok().then_some(v6).ok_or(FORMS)?,
                    None if host.contains(':') => return Err(FORMS.into()),
                    None => host,
                };
                let name = name.unwrap_or(host);
                for name in [name, host] {
                    if ServerName::try_from(name).is_err() {
                        return Err(format!("{name:?} is neither a host's name nor an IP address"));
                    }
                }
                let port = port.parse().map_err(|_| format!("{port:?}: {FORMS}"))?;
                Ok(Self::Tls { name: name.into(), host: host.into(), port })
            }
            _ => Err(FORMS.into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Hybrid { path, port } => write!(f, "hvsock:{}:{port}", path.display()),
            Self::Tls { name, host, port } => {
                f.write_str("tls:")?;
                if name != host {
                    write!(f, "{name}@")?;
                }
                match host.contains(':') {
                    true => write!(f, "[{host}]:{port}"),
                    false => write!(f, "{host}:{port}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown_and_as_kata_shows_them() {
        let hybrid = Address::Hybrid { path: "/run/vc/clh.sock".into(), port: 1027 };
        let tls = |name: &str, host: &str| Address::Tls {
            name: name.into(),
            host: host.into(),
            port: 1028,
        };
        for address in [
            Address::Unix("/a/b".into()),
            Address::Vsock { cid: 3, port: 1 },
            hybrid,
            tls("10.0.0.7", "10.0.0.7"),
            tls("fe80::1", "fe80::1"),
            tls("guest-7.pods.example", "fe80::1"),
            tls("10.0.0.7", "node.example"),
        ] {
            assert_eq!(address.to_string().parse(), Ok(address.clone()), "{address}");
        }
        let kata: Address = "hvsock:///run/kata/clh.sock:1024".parse().expect("Kata's form");
        assert_eq!(kata, Address::Hybrid { path: "/run/kata/clh.sock".into(), port: 1024 });
        let named: Address = "tls:guest-7@[fe80::1]:1028".parse().expect("a name of its own");
        assert_eq!(named, tls("guest-7", "fe80::1"));
        let bad = [
            "",
            "unix:a",
            "vsock:3",
            "vsock:a:1",
            "hvsock:/a",
            "hvsock:a:1",
            "remote:/a",
            "tls:",
            "tls:host",
            "tls:host:",
            "tls:host:65536",
            "tls::1028",
            "tls:fe80::1:1028",
            "tls:[host]:1028",
            "tls:[fe80::1:1028",
            "tls:@host:1028",
            "tls:a b@host:1028",
            "tls:*.example@host:1028",
            "tls:host/path:1028",
        ];
        for bad in bad {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_waits_for_a_socket_that_accepts_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmm.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        rustix::net::listen(&listener, 0).expect("a backlog of none");
        let address = Address::Unix(path);
        let until = || Instant::now() + Duration::from_millis(100);
        let mut waiting = Vec::new();
        let refused = (0..10).any(|_| match address.connect(None, until()) {
            Ok(stream) => {
                waiting.push(stream);
                false
            }
            Err(_) => true,
        });
        assert!(refused, "the backlog is full by now");
        // One that was accepted by the kernel alone never answers.
        waiting[0].set_deadline(Some(until()));
        assert!(waiting[0].read(&mut [0]).is_err());
    }

    #[test]
    fn hybrid_vsock_is_greeted_and_its_answers_are_checked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmm.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let address = Address::Hybrid { path, port: 1027 };
        let answers =
            ["OK 1073741824\nrest", "NO\n", "", "OK 1", &"x".repeat(100)].map(String::from);
        let server = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut line = [0; 13];
                stream.read_exact(&mut line).expect("the greeting");
                assert_eq!(&line, b"CONNECT 1027\n");
                stream.write_all(answer.as_bytes()).expect("the answer");
            }
        });
        let until = Instant::now() + Duration::from_secs(10);
        let mut rest = String::new();
        let mut stream = address.connect(None, until).expect("OK");
        stream.read_to_string(&mut rest).expect("the rest");
        assert_eq!(rest, "rest", "nothing of the guest's is swallowed");
        for _ in 0..4 {
            assert!(address.connect(None, until).is_err());
        }
        server.join().expect("the server's own checks");
    }
}
