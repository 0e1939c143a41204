//! Connections to the one socket file that the agent speaks to, the key source's: the mounter makes
//! them, and the receiver gets them. A process that may connect may connect to every socket file
//! that root may, and those who listen there start programs for root; Landlock up to version 6
//! does not cover it.
//!
//! They have a socket pair of their own, as threads ask for them while the store asks for mounts.
//! [`REQUEST`] is the only message; the answer is an errno, big-endian, and with 0 the connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use link::Stream;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    recvmsg, send, sendmsg, socket_with,
};

use super::server::Ended;
use crate::cdh::Dial;
use crate::server::lock;

/// Connect.
const REQUEST: &[u8] = b"c";

/// The mounter's end.
#[derive(Debug)]
pub struct Switchboard {
    socket: OwnedFd,
    path: PathBuf,
}

impl Switchboard {
    /// Connects to `path`, and nowhere else, as often as the receiver at the other end of `socket`
    /// says so.
    pub fn new(socket: OwnedFd, path: PathBuf) -> Self {
        Self { socket, path }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// One request, which is there.
    pub(super) fn answer(&self) -> Result<(), Ended> {
        let mut message = [0; REQUEST.len() + 1];
        let receive = || recv(&self.socket, &mut message[..], RecvFlags::empty());
        match retry_on_intr(receive) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Err(Ended::Gone),
            Ok((bytes, _)) if message[..bytes] != *REQUEST => {
                return Err(Ended::Malformed { bytes });
            }
            Ok(_) => {}
            Err(errno) => return Err(Ended::Socket(errno.into())),
        }
        let connection = self.connect();
        let errno = connection.as_ref().map_or_else(|errno| errno.raw_os_error(), |_| 0);
        let errno = u16::try_from(errno).unwrap_or(u16::MAX).to_be_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = connection.as_ref().ok().map(|connection| [connection.as_fd()]);
        if let Some(passed) = &passed {
            // There is room for one.
            control.push(SendAncillaryMessage::ScmRights(passed));
        }
        let text = [IoSlice::new(&errno)];
        match retry_on_intr(|| sendmsg(&self.socket, &text, &mut control, SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Ended::Gone),
            Err(errno) => Err(Ended::Socket(errno.into())),
        }
    }

    /// Without waiting: mounts are not to wait for a key source that takes no more connections.
    fn connect(&self) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        Ok(socket)
    }
}

/// The receiver's end: the connections that the mounter makes for it.
#[derive(Debug)]
pub struct Passed(Mutex<OwnedFd>);

impl Passed {
    /// Over the receiver's end of the second socket pair, which nobody else uses.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }
}

impl Dial for Passed {
    /// A listener whose backlog is full is an error, [`io::ErrorKind::WouldBlock`].
    fn dial(&self, _: Instant) -> io::Result<Stream> {
        // One at a time: else one thread could get another one's answer.
        let socket = lock(&self.0);
        retry_on_intr(|| send(&*socket, REQUEST, SendFlags::NOSIGNAL))?;
        let mut errno = [0; 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            let text = &mut [IoSliceMut::new(&mut errno)];
            recvmsg(&*socket, text, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let connection = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
            _ => None,
        });
        match (received.bytes, u16::from_be_bytes(errno), connection) {
            (2, 0, Some(connection)) => Ok(Stream::plain(connection)),
            // As when the descriptors are all in use.
            (2, 0, None) => Err(Errno::MFILE.into()),
            (2, errno, _) => Err(io::Error::from_raw_os_error(errno.into())),
            _ => Err(Errno::PIPE.into()),
        }
    }
}
