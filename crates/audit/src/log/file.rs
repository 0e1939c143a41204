//! [`LogFile`]: a log that several processes append to, in parts of a certain size.
//!
//! The lock is the named file's. Whoever holds it appends, or renames the full file and leaves the
//! name to a new one; whoever gets the lock of a file that is no longer the named one goes on to that.
//! An empty file continues the newest part, so it does not matter where between the renaming and the
//! first record a process was killed.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use crate::error::Error;
use crate::event::Event;
use crate::parts::{Before, directory, open_part, part_path};
use crate::record::{Head, LINE_BYTES_MAX, Record};
use crate::verify::{Broken, Why, follow};

/// Size of a part unless another is asked for: some hundred thousand records.
pub const PART_BYTES_DEFAULT: u64 = 64 << 20;
/// Smallest size of a part: one record fits, whatever it is.
pub const PART_BYTES_MIN: u64 = LINE_BYTES_MAX as u64;
/// Largest size of a part.
pub const PART_BYTES_MAX: u64 = 1 << 30;

/// A lock is held for one write and flush; a disk that takes longer is as good as broken.
const LOCK_TRIES_MAX: u32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How often others may rotate the log between our opening it and our locking it.
const ROTATIONS_MAX: u32 = 1_000;

pub(super) struct LogFile {
    file: File,
    /// Its device and inode.
    identity: (u64, u64),
    path: PathBuf,
    part_bytes: u64,
    /// Where the last record that we know ends.
    end: u64,
    head: Head,
}

impl LogFile {
    pub(super) fn open(path: &Path, part_bytes: u64) -> Result<Self, Error> {
        Self::named(path, part_bytes.clamp(PART_BYTES_MIN, PART_BYTES_MAX), None)
    }

    /// Number of the next record, if nobody else wrote one.
    pub(super) fn next(&self) -> u64 {
        self.head.next()
    }

    /// Appends these records, or leaves the log as it was.
    pub(super) fn append(&mut self, entries: &[(Timestamp, Event)]) -> Result<Vec<Head>, Error> {
        for _ in 0..ROTATIONS_MAX {
            if let Some(heads) = self.locked(|log| log.append_if_named(entries))? {
                return Ok(heads);
            }
            self.go_on()?;
        }
        Err(self.busy())
    }

    /// `None`: the file is a part now. A single write may be longer than a part, in a file of its own:
    /// it is as long as those are many who record at the same time.
    fn append_if_named(
        &mut self,
        entries: &[(Timestamp, Event)],
    ) -> Result<Option<Vec<Head>>, Error> {
        if !self.is_named()? {
            return Ok(None);
        }
        self.catch_up()?;
        let (lines, heads) = self.head.append_all(entries)?;
        let end = self.end + lines.len() as u64;
        if end > self.part_bytes && self.end > 0 {
            self.rotate()?;
            return Ok(None);
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // If this fails too, half a record stays and the next append refuses.
            let _ = self.file.set_len(self.end);
            return Err(self.fail(source));
        }
        self.end = end;
        if let Some(last) = heads.last() {
            self.head = last.clone();
        }
        Ok(Some(heads))
    }

    /// Gives the file its name as a part.
    fn rotate(&self) -> Result<(), Error> {
        let begin = self.read(0, self.end.min(LINE_BYTES_MAX as u64))?;
        let first = begin.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = Record::parse(first).map_err(|why| self.broken(why))?;
        let part = part_path(&self.path, first.seq);
        // Records of a process that was killed before it flushed them are not behind those of the
        // next file, whatever happens to the machine; nor is the name.
        self.file.sync_all().map_err(|source| self.fail(source))?;
        renameat_with(CWD, &self.path, CWD, &part, RenameFlags::NOREPLACE)
            .map_err(|errno| sink_error(&part, errno.into()))?;
        self.sync_name()
    }

    /// Turns to the file that has the name now.
    fn go_on(&mut self) -> Result<(), Error> {
        // Nobody appends to a part, so this needs no lock, nor does most of what is between.
        self.catch_up()?;
        let known = follow_parts(&self.path, self.head.clone())?;
        *self = Self::named(&self.path, self.part_bytes, Some(known))?;
        Ok(())
    }

    /// Opens the file that has the name, or makes it. `known`: it must continue from there.
    fn named(path: &Path, part_bytes: u64, known: Option<Head>) -> Result<Self, Error> {
        for _ in 0..ROTATIONS_MAX {
            let mut log = Self::open_file(path, part_bytes)?;
            if log.locked(|log| log.begin(known.as_ref()))? {
                return Ok(log);
            }
        }
        Err(Error::Locked { path: path.to_path_buf() })
    }

    fn open_file(path: &Path, part_bytes: u64) -> Result<Self, Error> {
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
        let opened = file.metadata().map_err(|source| sink_error(path, source))?;
        let (path, head) = (path.to_path_buf(), Head::start());
        match opened.is_file() {
            true => Ok(Self { file, identity: identity(&opened), path, part_bytes, end: 0, head }),
            false => Err(not_a_file()),
        }
    }

    /// Finds where to go on; `false`: the file is a part now.
    fn begin(&mut self, known: Option<&Head>) -> Result<bool, Error> {
        if !self.is_named()? {
            return Ok(false);
        }
        match last(&self.file, &self.path)? {
            Some((end, head)) => (self.end, self.head) = (end, head),
            None => {
                self.head = self.head_before(known.is_some())?;
                self.sync_name()?;
            }
        }
        let Some(known) = known else { return Ok(true) };
        let known = follow_parts(&self.path, known.clone())?;
        let head = self.follow(0, self.end, known)?;
        match head == self.head {
            true => Ok(true),
            false => Err(self.broken(Why::Shortened)),
        }
    }

    /// What an empty file continues.
    fn head_before(&self, is_known: bool) -> Result<Head, Error> {
        let Before { part, foreign } =
            Before::of(&self.path).map_err(|source| self.fail(source))?;
        if let (false, Some(other)) = (is_known, foreign) {
            return Err(Error::MovedByOther { path: self.path.clone(), other });
        }
        let Some(part) = part else { return Ok(Head::start()) };
        let file = open_part(&part).map_err(|source| sink_error(&part, source))?;
        match last(&file, &part)? {
            Some((_, head)) => Ok(head),
            None => Err(Error::Broken { path: part, why: Why::Shortened }),
        }
    }

    /// Verifies what other processes have appended since.
    fn catch_up(&mut self) -> Result<(), Error> {
        let size = self.file.metadata().map_err(|source| self.fail(source))?.len();
        if size < self.end {
            return Err(self.broken(Why::Shortened));
        }
        if size > self.end {
            self.head = self.follow(self.end, size, self.head.clone())?;
            self.end = size;
        }
        Ok(())
    }

    /// Verifies that what is between continues from `head`.
    fn follow(&self, start: u64, end: u64, head: Head) -> Result<Head, Error> {
        (&self.file).seek(SeekFrom::Start(start)).map_err(|source| self.fail(source))?;
        let added = BufReader::new((&self.file).take(end - start));
        let mut last = start;
        follow(added, head, |_, bytes| last += bytes)
            .map_err(|broken| refuse(&self.path, last, broken))
    }

    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let mut tries = 1;
        loop {
            match self.file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries < LOCK_TRIES_MAX => sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(self.busy()),
                Err(TryLockError::Error(source)) => return Err(self.fail(source)),
            }
            tries += 1;
        }
        let result = work(self);
        // Closing the file would release it as well; there is nothing to be done about an error.
        let _ = self.file.unlock();
        result
    }

    /// Whether the file still has the log's name. Its inode is ours as long as it is open.
    fn is_named(&self) -> Result<bool, Error> {
        match self.path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            named => Ok(identity(&named.map_err(|source| self.fail(source))?) == self.identity),
        }
    }

    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, Error> {
        read(&self.file, start, end).map_err(|source| self.fail(source))
    }

    /// Flushes the directory, so that new names survive a power loss.
    fn sync_name(&self) -> Result<(), Error> {
        let synced = File::open(directory(&self.path)).and_then(|directory| directory.sync_all());
        synced.map_err(|source| self.fail(source))
    }

    fn busy(&self) -> Error {
        Error::Locked { path: self.path.clone() }
    }

    fn fail(&self, source: io::Error) -> Error {
        sink_error(&self.path, source)
    }

    fn broken(&self, why: Why) -> Error {
        Error::Broken { path: self.path.clone(), why }
    }
}

/// Verifies the parts that follow `head`, and returns where they end.
fn follow_parts(log: &Path, mut head: Head) -> Result<Head, Error> {
    loop {
        let path = part_path(log, head.next());
        let part = match open_part(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(head),
            part => part.map_err(|source| sink_error(&path, source))?,
        };
        let (before, mut end) = (head.seq, 0);
        head = follow(BufReader::new(part), head, |_, bytes| end += bytes)
            .map_err(|broken| refuse(&path, end, broken))?;
        if head.seq == before {
            return Err(Error::Broken { path, why: Why::Shortened });
        }
    }
}

/// Finds the last record of a file that others have written, and verifies it; `None`: it is empty.
fn last(file: &File, path: &Path) -> Result<Option<(u64, Head)>, Error> {
    let fail = |source| sink_error(path, source);
    let broken = |why| Error::Broken { path: path.to_path_buf(), why };
    let torn = |offset| Error::Torn { path: path.to_path_buf(), offset };
    let size = file.metadata().map_err(fail)?.len();
    if size == 0 {
        return Ok(None);
    }
    let start = size.saturating_sub(2 * LINE_BYTES_MAX as u64);
    let tail = read(file, start, size).map_err(fail)?;
    let newline = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
    let Some(whole) = tail.strip_suffix(b"\n") else {
        return Err(match newline(&tail) {
            Some(newline) => torn(start + newline as u64 + 1),
            None if start == 0 => torn(0),
            None => broken(Why::TooLong),
        });
    };
    let line = match newline(whole) {
        Some(newline) => &whole[newline + 1..],
        None if start == 0 => whole,
        None => return Err(broken(Why::TooLong)),
    };
    let record = Record::parse(line).map_err(broken)?;
    Ok(Some((size, record.head())))
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// What is between, which is at most two lines long.
fn read(mut file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(length);
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Why records do not follow, the whole ones among which end at `end`.
fn refuse(path: &Path, end: u64, broken: Broken) -> Error {
    match broken.why {
        Why::Torn => Error::Torn { path: path.to_path_buf(), offset: end },
        Why::Unreadable(source) => sink_error(path, source),
        why => Error::Broken { path: path.to_path_buf(), why },
    }
}

fn sink_error(path: &Path, source: io::Error) -> Error {
    Error::Sink { sink: path.display().to_string(), source }
}
