//! A few pages over HTTP/1: metrics, health. Read-only, one request a connection, for peers that may be
//! slow or hostile: what is read is bounded, and so is how long it takes and how many there are.

use std::fmt;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::stream::Socket;

/// Longest request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Longest page that is read.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// From the connection to its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time; one more is closed.
const CONNECTIONS_MAX: usize = 8;
/// Stack of a connection's thread.
const STACK_BYTES: usize = 128 << 10;

/// Where pages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:/PATH`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.strip_prefix("unix:"), text.parse()) {
            (Some(path), _) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            (None, Ok(address)) => Ok(Self::Tcp(address)),
            _ => Err("IP:PORT or unix:/PATH".into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub media_type: &'static str,
    /// Its text.
    pub text: String,
    /// Whether it is answered with 200; otherwise with 503, as who probes expects.
    pub available: bool,
}

impl Page {
    /// The metrics that `text` is.
    pub fn metrics(text: String) -> Self {
        Self { media_type: crate::exposition::MEDIA_TYPE, text, available: true }
    }

    /// The answer to a probe.
    pub fn probe(text: &str, available: bool) -> Self {
        Self { media_type: "text/plain; charset=utf-8", text: format!("{text}\n"), available }
    }
}

/// A bound address.
#[derive(Debug)]
pub enum Pages {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a socket file.
    Unix(UnixListener),
}

impl Pages {
    /// Binds.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => TcpListener::bind(address).map(Self::Tcp),
            Address::Unix(path) => {
                let listener = crate::local::bind(path)?;
                // Whoever may read the directory may connect, but for this.
                std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
                Ok(Self::Unix(listener))
            }
        }
    }

    /// Answers for ever, each peer on a thread of its own. `page` has the page at a path.
    pub fn serve(self, page: impl Fn(&str) -> Option<Page> + Send + Sync + 'static) -> ! {
        let (page, threads) = (Arc::new(page), Arc::new(AtomicUsize::new(0)));
        loop {
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().map(|(stream, _)| OwnedFd::from(stream)),
                Self::Unix(listener) => listener.accept().map(|(stream, _)| OwnedFd::from(stream)),
            };
            let fd = match accepted {
                Ok(fd) if threads.load(Ordering::SeqCst) < CONNECTIONS_MAX => fd,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a reader of metrics");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let mut peer = Socket::new(fd, Some(Instant::now() + PATIENCE));
            let (page, own) = (Arc::clone(&page), Arc::clone(&threads));
            threads.fetch_add(1, Ordering::SeqCst);
            let thread = std::thread::Builder::new().name("pages".into()).stack_size(STACK_BYTES);
            let spawned = thread.spawn(move || {
                if let Err(error) = answer(&mut peer, &*page) {
                    tracing::debug!(%error, "a reader of metrics");
                }
                own.fetch_sub(1, Ordering::SeqCst);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for a reader of metrics");
                threads.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// The text of the page at `path` of who listens at `address`.
pub fn get(address: &Address, path: &str) -> io::Result<String> {
    let fd = match address {
        Address::Tcp(address) => OwnedFd::from(TcpStream::connect_timeout(address, PATIENCE)?),
        Address::Unix(file) => OwnedFd::from(UnixStream::connect(file)?),
    };
    let mut peer = Socket::new(fd, Some(Instant::now() + PATIENCE));
    write!(peer, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    peer.take(PAGE_BYTES_MAX).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, text)) if head.starts_with("HTTP/1.1 200 ") => Ok(text.to_owned()),
        _ => Err(io::Error::other(format!("no page {path} is there"))),
    }
}

fn answer(peer: &mut (impl Read + Write), page: &dyn Fn(&str) -> Option<Page>) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    let answer = loop {
        if request.windows(4).any(|end| end == b"\r\n\r\n") {
            break reply(&request, page);
        }
        if request.len() > REQUEST_BYTES_MAX {
            break plain("431 Request Header Fields Too Large");
        }
        match peer.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&piece[..count]),
        }
    };
    peer.write_all(answer.as_bytes())
}

/// Of a request's line only the method and the path matter (RFC 9112 §3).
fn reply(request: &[u8], page: &dyn Fn(&str) -> Option<Page>) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = str::from_utf8(line).unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    match (method, page(path)) {
        ("GET", Some(Page { media_type, text, available })) => {
            let (length, status) =
                (text.len(), if available { "200 OK" } else { "503 Service Unavailable" });
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{text}"
            )
        }
        ("GET", None) => plain("404 Not Found"),
        _ => plain("405 Method Not Allowed"),
    }
}

fn plain(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(Page::metrics("up 1\n".into())),
            "/readyz" => Some(Page::probe("not ready", false)),
            _ => None,
        }
    }

    #[test]
    fn a_page_is_found_by_its_path() {
        let status = |request: &str| {
            let answer = reply(request.as_bytes(), &page);
            answer.split("\r\n").next().unwrap_or_default().to_owned()
        };
        assert_eq!(status("GET /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK");
        assert_eq!(status("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), "HTTP/1.1 200 OK");
        assert_eq!(status("GET /readyz HTTP/1.1\r\n\r\n"), "HTTP/1.1 503 Service Unavailable");
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status("\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
        assert!(reply(b"GET /metrics HTTP/1.1\r\n\r\n", &page).ends_with("\r\n\r\nup 1\n"));
    }

    #[test]
    fn an_endless_request_is_cut() {
        struct Endless(Vec<u8>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(b'x');
                Ok(buffer.len())
            }
        }
        impl Write for Endless {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut peer = Endless(Vec::new());
        assert!(answer(&mut peer, &page).is_ok());
        assert!(peer.0.starts_with(b"HTTP/1.1 431 "));
    }

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!("unix:/run/m.sock".parse(), Ok(Address::Unix("/run/m.sock".into())));
        assert!("127.0.0.1:9464".parse::<Address>().is_ok());
        for bad in ["", "unix:m", "9464", "localhost:1", "/run/m.sock"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
