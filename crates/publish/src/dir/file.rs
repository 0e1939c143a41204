//! [`File`]: a regular file, held open.

use std::os::fd::OwnedFd;

use rustix::fs::{self, Gid, Mode, Stat, Uid};
use rustix::io::{Errno, pread, pwrite};

use super::caller::Caller;
use crate::error::Error;

/// How much one call copies.
const COPY_BYTES: usize = 1 << 20;

/// A regular file, held open.
pub(crate) struct File {
    pub(super) fd: OwnedFd,
    pub(super) caller: Caller,
}

impl File {
    pub(crate) fn stat(&self) -> Result<Stat, Error> {
        self.caller.read("fstat", || fs::fstat(&self.fd)).map_err(self.caller.fail("fstat", ""))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written =
                self.caller.write("pwrite64", || match pwrite(&self.fd, bytes, offset)? {
                    0 => Err(Errno::IO),
                    written => Ok(written),
                });
            let written = written.map_err(self.caller.fail("pwrite64", ""))?;
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }

    /// All of the file; `None` if it is longer than `bytes_max`.
    pub(crate) fn read(&self, bytes_max: usize) -> Result<Option<Vec<u8>>, Error> {
        let size = usize::try_from(self.stat()?.st_size).unwrap_or(usize::MAX);
        if size > bytes_max {
            return Ok(None);
        }
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            let rest = &mut bytes[filled..];
            let read = self.caller.read("pread64", || pread(&self.fd, &mut *rest, filled as u64));
            match read.map_err(self.caller.fail("pread64", ""))? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(Some(bytes))
    }

    /// Sets the size; what was not written reads as zeroes and takes no space.
    pub(crate) fn resize(&self, size: u64) -> Result<(), Error> {
        let resized = self.caller.write("ftruncate", || fs::ftruncate(&self.fd, size));
        resized.map_err(self.caller.fail("ftruncate", ""))
    }

    /// Sets the permission bits, whatever the umask.
    pub(crate) fn chmod(&self, mode: u32) -> Result<(), Error> {
        let mode = Mode::from_raw_mode(mode);
        let changed = self.caller.write("fchmod", || fs::fchmod(&self.fd, mode));
        changed.map_err(self.caller.fail("fchmod", ""))
    }

    /// Gives the file to an owner. The kernel takes setuid and setgid away, so before
    /// [`Self::chmod`].
    pub(crate) fn chown(&self, uid: u32, gid: u32) -> Result<(), Error> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let changed = self.caller.write("fchown", || fs::fchown(&self.fd, uid, gid));
        changed.map_err(self.caller.fail("fchown", ""))
    }

    /// Appends all of `from` to this, which is empty, without its passing through our memory.
    pub(crate) fn copy_from(&self, from: &File) -> Result<(), Error> {
        let mut offset = 0;
        loop {
            let send = || fs::sendfile(&self.fd, &from.fd, Some(&mut offset), COPY_BYTES);
            match self.caller.write("sendfile", send).map_err(self.caller.fail("sendfile", ""))? {
                0 => return Ok(()),
                _ => continue,
            }
        }
    }

    /// The open file, for the caller to read.
    pub(crate) fn into_std(self) -> std::fs::File {
        self.fd.into()
    }

    /// Flushes the content to the device.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.caller.write("fsync", || fs::fsync(&self.fd)).map_err(self.caller.fail("fsync", ""))
    }
}
