//! Where a guest's agent listens, and the way there.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vsock::{VsockAddr, VsockStream};

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
}

impl Address {
    /// Connects before `until`.
    pub fn connect(&self, until: Instant) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => connect_unix(path, until).map(Stream::Unix),
            Self::Vsock { cid, port } => {
                // The kernel gives up after two seconds.
                VsockStream::connect(&VsockAddr::new(*cid, *port)).map(Stream::Vsock)
            }
            Self::Hybrid { path, port } => {
                let stream = Stream::Unix(connect_unix(path, until)?);
                greet_hybrid(&mut stream.until(until), *port)?;
                Ok(stream)
            }
        }
    }
}

/// As the standard library does it, but not for ever when nobody accepts.
fn connect_unix(path: &Path, until: Instant) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(left(until)?))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn left(until: Instant) -> io::Result<Duration> {
    match until.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Says `CONNECT <port>` and reads the line `OK <number>`, and not a byte more: what follows is the
/// guest's.
fn greet_hybrid(stream: &mut Until<'_>, port: u32) -> io::Result<()> {
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
        const FORMS: &str = "unix:/PATH, vsock:CID:PORT or hvsock:/PATH:PORT";
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
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over a socket file.
    Unix(UnixStream),
    /// Over vsock.
    Vsock(VsockStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Vsock(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// The same with a deadline for everything that is read and written through it, however the
    /// other side drips.
    pub fn until(&self, until: Instant) -> Until<'_> {
        Until { stream: self, until }
    }
}

/// A connection with a deadline.
#[derive(Debug)]
pub struct Until<'a> {
    stream: &'a Stream,
    until: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        set_socket_timeout(self.stream.as_fd(), Timeout::Recv, Some(left(self.until)?))?;
        match self.stream {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Vsock(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        set_socket_timeout(self.stream.as_fd(), Timeout::Send, Some(left(self.until)?))?;
        match self.stream {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Vsock(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown_and_as_kata_shows_them() {
        let hybrid = Address::Hybrid { path: "/run/vc/clh.sock".into(), port: 1027 };
        for address in [Address::Unix("/a/b".into()), Address::Vsock { cid: 3, port: 1 }, hybrid] {
            assert_eq!(address.to_string().parse(), Ok(address.clone()));
        }
        let kata: Address = "hvsock:///run/kata/clh.sock:1024".parse().expect("Kata's form");
        assert_eq!(kata, Address::Hybrid { path: "/run/kata/clh.sock".into(), port: 1024 });
        for bad in ["", "unix:a", "vsock:3", "vsock:a:1", "hvsock:/a", "hvsock:a:1", "remote:/a"] {
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
        let refused = (0..10).any(|_| match address.connect(until()) {
            Ok(stream) => {
                waiting.push(stream);
                false
            }
            Err(_) => true,
        });
        assert!(refused, "the backlog is full by now");
        // One that was accepted by the kernel alone never answers.
        let mut byte = [0];
        assert!(waiting[0].until(until()).read(&mut byte).is_err());
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
        let stream = address.connect(until).expect("OK");
        stream.until(until).read_to_string(&mut rest).expect("the rest");
        assert_eq!(rest, "rest", "nothing of the guest's is swallowed");
        for _ in 0..4 {
            assert!(address.connect(until).is_err());
        }
        server.join().expect("the server's own checks");
    }
}
