//! How commands travel: one at a time over a character device or a unix socket, each answer within
//! a deadline and a length.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::TpmError;

/// Longest response: TPM 2.0's usual TPM_PT_MAX_RESPONSE_SIZE.
const RESPONSE_BYTES_MAX: usize = 4096;
/// Tag, size and response code.
pub(super) const HEADER_BYTES: usize = 10;
/// How long to wait before a command is sent again that the TPM was too busy for.
const PAUSES: [Duration; 7] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
];
/// TPM_RC_YIELDED, TPM_RC_CANCELED, TPM_RC_TESTING, TPM_RC_RETRY: send the command again.
const TRY_AGAIN: [u32; 4] = [0x908, 0x909, 0x90a, 0x922];

/// A TPM, opened when it is needed.
pub(super) struct Device {
    path: PathBuf,
    timeout: Duration,
    /// None before the first command, and after one whose answer did not come: it may still come,
    /// and must not be taken for the next one's.
    connection: Option<OwnedFd>,
}

impl Device {
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, connection: None }
    }

    /// Sends a command and gives back its response, whose header is complete and tells its true
    /// length. `command` is its name, for errors.
    pub(super) fn exchange(
        &mut self,
        command: &'static str,
        bytes: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let mut pauses = PAUSES.iter();
        loop {
            let response = self.exchange_once(command, bytes)?;
            let code = u32::from_be_bytes([response[6], response[7], response[8], response[9]]);
            match pauses.next() {
                Some(pause) if TRY_AGAIN.contains(&code) => thread::sleep(*pause),
                _ => return Ok(response),
            }
        }
    }

    fn exchange_once(&mut self, command: &'static str, bytes: &[u8]) -> Result<Vec<u8>, TpmError> {
        let failed = |path: &Path, timeout: Duration, source: io::Error| {
            if source.kind() == io::ErrorKind::TimedOut {
                TpmError::Timeout { command, after: timeout }
            } else {
                TpmError::Device { device: path.to_owned(), source }
            }
        };
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                connect(&self.path).map_err(|source| failed(&self.path, self.timeout, source))?
            }
        };
        let deadline = Instant::now() + self.timeout;
        let response = send(&connection, bytes, deadline)
            .and_then(|()| receive(&connection, deadline))
            .map_err(|source| failed(&self.path, self.timeout, source))?
            .map_err(|why| TpmError::Malformed { command, why })?;
        self.connection = Some(connection);
        Ok(response)
    }
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_socket() {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    } else if kind.is_char_device() {
        // Non-blocking: else the kernel works within write(2), and no deadline holds.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        Ok(file.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a character device nor a socket"))
    }
}

fn send(to: &OwnedFd, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The outer error is the transport's, the inner one the TPM's.
fn receive(from: &OwnedFd, deadline: Instant) -> io::Result<Result<Vec<u8>, &'static str>> {
    let mut response = vec![0; RESPONSE_BYTES_MAX + 1];
    let mut length = 0;
    loop {
        if let Some(size) = announced(&response[..length]) {
            match usize::try_from(size).unwrap_or(usize::MAX) {
                size if !(HEADER_BYTES..=RESPONSE_BYTES_MAX).contains(&size) => {
                    return Ok(Err("its length is out of bounds"));
                }
                size if length > size => return Ok(Err("it is longer than it says")),
                size if length == size => {
                    response.truncate(length);
                    return Ok(Ok(response));
                }
                _ => {}
            }
        }
        wait(from, PollFlags::IN, deadline)?;
        match rustix::io::read(from, &mut response[length..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => length += read,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The length in the header, once that is there.
fn announced(response: &[u8]) -> Option<u32> {
    let header = response.get(..HEADER_BYTES)?;
    Some(u32::from_be_bytes([header[2], header[3], header[4], header[5]]))
}

fn wait(on: &OwnedFd, what: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(on, what)], Some(&timeout)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        // Readiness and errors alike: the next read or write tells.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
