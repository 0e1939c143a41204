//! [`LogFile`]: a log that several processes append to.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::OFlags;

use crate::error::Error;
use crate::event::Event;
use crate::record::{Head, LINE_BYTES_MAX, Record};
use crate::verify::{Why, follow};

/// Longest log file: a few million records.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// A lock is held for one write and flush; a disk that takes longer is as good as broken.
const LOCK_TRIES_MAX: u32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    /// Where the last record that we know ends.
    end: u64,
    head: Head,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(flags.bits()).expect("three of the low 31 bits"))
            .open(path);
        let not_a_file = || Error::NotAFile { path: path.to_path_buf() };
        let file = file.map_err(|source| match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::LOOP | rustix::io::Errno::ISDIR) => not_a_file(),
            _ => sink_error(path, source),
        })?;
        let mut log = Self { file, path: path.to_path_buf(), end: 0, head: Head::start() };
        if !log.file.metadata().map_err(|source| log.fail(source))?.is_file() {
            return Err(not_a_file());
        }
        log.locked(|log| {
            log.find_end()?;
            match log.end {
                0 => log.sync_name().map_err(|source| log.fail(source)),
                _ => Ok(()),
            }
        })?;
        Ok(log)
    }

    /// Appends these records, or leaves the file as it was.
    pub(super) fn append(&mut self, entries: &[(Timestamp, Event)]) -> Result<Vec<Head>, Error> {
        self.locked(|log| {
            log.catch_up()?;
            let (lines, heads) = log.head.append_all(entries)?;
            let end = log.end + lines.len() as u64;
            if end > FILE_BYTES_MAX {
                return Err(Error::Full { path: log.path.clone() });
            }
            let written = log.file.write_all(lines.as_bytes()).and_then(|()| log.file.sync_data());
            if let Err(source) = written {
                // If this fails too, half a record stays and the next append refuses.
                let _ = log.file.set_len(log.end);
                return Err(log.fail(source));
            }
            log.end = end;
            if let Some(last) = heads.last() {
                log.head = last.clone();
            }
            Ok(heads)
        })
    }

    /// Finds the last record of a file that others have written, and verifies it.
    fn find_end(&mut self) -> Result<(), Error> {
        let size = self.size()?;
        let start = size.saturating_sub(2 * LINE_BYTES_MAX as u64);
        let tail = self.read(start, size)?;
        let Some(whole) = tail.strip_suffix(b"\n") else {
            return match (size, tail.iter().rposition(|byte| *byte == b'\n')) {
                (0, _) => Ok(()),
                (_, Some(newline)) => Err(self.torn(start + newline as u64 + 1)),
                (_, None) if start == 0 => Err(self.torn(0)),
                (_, None) => Err(self.broken(Why::TooLong)),
            };
        };
        let line = match whole.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => &whole[newline + 1..],
            None if start == 0 => whole,
            None => return Err(self.broken(Why::TooLong)),
        };
        let record = Record::parse(line).map_err(|why| self.broken(why))?;
        (self.end, self.head) = (size, record.head());
        Ok(())
    }

    /// Verifies what other processes have appended since.
    fn catch_up(&mut self) -> Result<(), Error> {
        let size = self.size()?;
        if size < self.end {
            return Err(self.broken(Why::Shortened));
        }
        if size > self.end {
            (&self.file).seek(SeekFrom::Start(self.end)).map_err(|source| self.fail(source))?;
            let added = BufReader::new((&self.file).take(size - self.end));
            let mut last = self.end;
            let head =
                follow(added, self.head.clone(), |_, bytes| last += bytes).map_err(|broken| {
                    match broken.why {
                        Why::Torn => self.torn(last),
                        Why::Unreadable(source) => self.fail(source),
                        why => self.broken(why),
                    }
                })?;
            (self.end, self.head) = (size, head);
        }
        Ok(())
    }

    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let mut tries = 1;
        loop {
            match self.file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries < LOCK_TRIES_MAX => sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked { path: self.path.clone() });
                }
                Err(TryLockError::Error(source)) => return Err(self.fail(source)),
            }
            tries += 1;
        }
        let result = work(self);
        // Closing the file would release it as well; there is nothing to be done about an error.
        let _ = self.file.unlock();
        result
    }

    fn size(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(|source| self.fail(source))?.len())
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = (&self.file)
            .seek(SeekFrom::Start(start))
            .and_then(|_| (&self.file).take(end - start).read_to_end(&mut bytes));
        read.map_err(|source| self.fail(source))?;
        Ok(bytes)
    }

    /// Flushes the directory, so that a new log survives a power loss.
    fn sync_name(&self) -> io::Result<()> {
        let parent = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()
    }

    fn fail(&self, source: io::Error) -> Error {
        sink_error(&self.path, source)
    }

    fn torn(&self, offset: u64) -> Error {
        Error::Torn { path: self.path.clone(), offset }
    }

    fn broken(&self, why: Why) -> Error {
        Error::Broken { path: self.path.clone(), why }
    }
}

fn sink_error(path: &Path, source: io::Error) -> Error {
    Error::Sink { sink: path.display().to_string(), source }
}
