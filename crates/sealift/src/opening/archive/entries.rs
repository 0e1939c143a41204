//! The entries of a tar file, one after the other, in bounded memory.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use super::{refused, unreadable};
use crate::failure::Failure;

/// What may stand in front of an entry's content: headers, long names, attributes. The library
/// holds it in memory, however long an archive says that it is.
const HEADERS_BYTES_MAX: u64 = 1024 * 1024;

/// Calls `visit` with each entry; what it does not read is passed over.
pub(super) fn each<R: Read>(
    reader: R,
    entries_max: usize,
    mut visit: impl FnMut(&mut tar::Entry<'_, Metered<R>>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (reader, left) = Metered::new(reader, 0);
    let mut archive = tar::Archive::new(reader);
    let mut entries = archive.entries().map_err(unreadable)?;
    for _ in 0..entries_max {
        left.set(HEADERS_BYTES_MAX);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(unreadable)?;
        left.set(u64::MAX);
        visit(&mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
    }
    left.set(HEADERS_BYTES_MAX);
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(refused("the archive has too many entries")),
    }
}

/// Reads so many bytes and no more.
pub(super) struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R> Metered<R> {
    /// The reader, and what it may still read.
    pub(super) fn new(inner: R, left: u64) -> (Self, Rc<Cell<u64>>) {
        let left = Rc::new(Cell::new(left));
        (Self { inner, left: Rc::clone(&left) }, left)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 && !buffer.is_empty() {
            return Err(io::Error::other("the name and attributes of an entry are too long"));
        }
        let length = self.inner.read(&mut buffer[..room])?;
        self.left.set(left - length as u64);
        Ok(length)
    }
}
