//! Where the host reaches this guest, and who may.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// A port of this virtual machine's vsock device.
    Vsock(u32),
}

impl Address {
    /// The port beside kata-agent's 1024.
    pub const VSOCK_PORT: u32 = 1027;
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
            _ => Err("unix:/PATH or vsock:PORT".into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock(port) => write!(f, "vsock:{port}"),
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
}

impl Listener {
    /// Binds. A socket file that nobody listens to any more is replaced.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                if let Err(error) = UnixStream::connect(path)
                    && error.kind() == io::ErrorKind::ConnectionRefused
                    && is_socket(path)
                {
                    std::fs::remove_file(path)?;
                }
                UnixListener::bind(path).map(Self::Unix)
            }
            Address::Vsock(port) => {
                VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, *port)).map(Self::Vsock)
            }
        }
    }

    /// The next connection of somebody who may have one: the host over vsock, root or this user
    /// over a socket file. Processes in the guest reach a vsock port too, by its own address; they
    /// are turned away.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                // Of a peer in another pid namespace there is nothing to know.
                let uid = socket_peercred(&stream).map(|peer| peer.uid);
                let known = uid.is_ok_and(|uid| uid.is_root() || uid == geteuid());
                Ok(known.then_some(Stream::Unix(stream)))
            }
            Self::Vsock(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((peer.cid() == VMADDR_CID_HOST).then_some(Stream::Vsock(stream)))
            }
        }
    }
}

/// Whether what is there is a socket, and not somebody's file.
fn is_socket(path: &std::path::Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over a socket file.
    Unix(UnixStream),
    /// Over vsock.
    Vsock(VsockStream),
}

impl Stream {
    /// Another handle, to close it from another thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Vsock(stream) => stream.try_clone().map(Self::Vsock),
        }
    }

    /// Ends it for both sides. Failing means that it has ended.
    pub fn close(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Vsock(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// How long one read may take; `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let kind = rustix::net::sockopt::Timeout::Recv;
        Ok(rustix::net::sockopt::set_socket_timeout(self.as_fd(), kind, timeout)?)
    }

    /// How long one write may take.
    pub fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        let kind = rustix::net::sockopt::Timeout::Send;
        Ok(rustix::net::sockopt::set_socket_timeout(self.as_fd(), kind, Some(timeout))?)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Vsock(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Vsock(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
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
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for address in [Address::Unix("/run/s.sock".into()), Address::Vsock(1027)] {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        for bad in ["", "unix", "unix:relative", "vsock:", "vsock:x", "vsock:4294967296", "tcp:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
