//! [`Stream`]: a connection, whatever is below it.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};
use rustls::Connection;

/// What is read of a file before it is encrypted.
const FILE_BUFFER_BYTES: u64 = 64 << 10;

/// A connection whose peer is known.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<Connection>>,
}

/// For `poll`, while nothing is to be read: readable means that the peer has hung up, or said
/// something that nobody asked for.
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }
}

impl Stream {
    /// Over a socket that is connected, whose peer is known. It has no deadline.
    pub fn plain(fd: impl Into<OwnedFd>) -> Self {
        Self::new(Socket::new(fd, None), None)
    }

    pub(crate) fn new(socket: Socket, tls: Option<Connection>) -> Self {
        Self { socket, tls: tls.map(Box::new) }
    }

    /// When all that is read and written from now on has to be done, however the peer drips; after
    /// that it fails with `TimedOut`. `None`: never. A read that failed so may be tried again.
    pub fn set_deadline(&mut self, until: Option<Instant>) {
        self.socket.until = until;
    }

    /// A handle with which another thread can end the connection.
    pub fn closer(&self) -> io::Result<Closer> {
        self.socket.closer()
    }

    /// Writes the next `bytes` bytes of a file; without copying them, where nothing encrypts them.
    /// `UnexpectedEof`: the file ended before that, and the peer has got only a part.
    pub fn write_file(&mut self, mut file: &File, bytes: u64) -> io::Result<()> {
        if self.tls.is_none() {
            return self.socket.write_file(file, bytes);
        }
        let mut buffer = vec![0; bytes.min(FILE_BUFFER_BYTES) as usize];
        let mut left = bytes;
        while left > 0 {
            let (piece, _) = buffer.split_at_mut(left.min(FILE_BUFFER_BYTES) as usize);
            file.read_exact(piece)?;
            self.write_all(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Ends it for both sides, as dropping it does. Failing means that it has ended.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            // RFC 8446, section 6.1. It does not wait for a peer that reads nothing.
            tls.send_close_notify();
            let mut alert = Vec::new();
            let _ = tls.write_tls(&mut alert);
            let _ = send(&self.socket.fd, &alert, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tls.complete_io(&mut self.socket)?;
                }
                // Without a farewell, as plain sockets end: frames tell whether something is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        let taken = tls.writer().write(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(taken)
    }

    /// What is written is sent already.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends a [`Stream`] from another thread.
#[derive(Debug)]
pub struct Closer(OwnedFd);

impl Closer {
    /// Ends it for both sides; who waits to read or write is woken.
    pub fn close(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

/// A socket with a deadline.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    pub(crate) until: Option<Instant>,
}

impl Socket {
    pub(crate) fn new(fd: impl Into<OwnedFd>, until: Option<Instant>) -> Self {
        Self { fd: fd.into(), until }
    }

    pub(crate) fn closer(&self) -> io::Result<Closer> {
        self.fd.try_clone().map(Closer)
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = shutdown(&self.fd, how);
    }

    fn write_file(&self, file: &File, bytes: u64) -> io::Result<()> {
        // There is no flag for a single call, and no other call of ours waits in the kernel.
        ioctl_fionbio(&self.fd, true)?;
        let mut left = bytes;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX);
            match self.patiently(PollFlags::OUT, || sendfile(&self.fd, file, None, piece))? {
                0 => {
                    let what = "a file became shorter while it was sent";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                }
                sent => left -= sent as u64,
            }
        }
        Ok(())
    }

    /// Tries until it is done or the deadline is over; that is looked at each time, so that a peer
    /// who always has one more byte does not outlive it.
    fn patiently(
        &self,
        ready: PollFlags,
        mut attempt: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let timeout = self.until.map(left).transpose()?;
            match attempt() {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                done => return Ok(done?),
            }
            let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.fd, ready)], timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::IN, || {
            recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(_, count)| count)
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.patiently(PollFlags::OUT, || send(&self.fd, bytes, flags))
    }

    /// All TLS records with one call; also an alert that stands behind another record, which rustls
    /// writes with a single attempt.
    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.patiently(PollFlags::OUT, || {
            sendmsg(&self.fd, bytes, &mut SendAncillaryBuffer::default(), flags)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long until then; an error if it is over.
pub(crate) fn left(until: Instant) -> io::Result<Duration> {
    match until.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}
