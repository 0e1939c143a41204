//! [`Parts`]: a log's files. What is full is renamed to `<name>.<number of its first record>`.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::record::{Head, Record};
use crate::verify::{Broken, Summary, Why, follow, summarise};

/// Digits in a part's name: as many as the greatest number has, so that names sort as parts do.
const DIGITS: usize = 20;
/// Most parts that are read as one log.
const PARTS_MAX: usize = 100_000;

/// The files of a log, oldest first.
#[derive(Debug, Clone)]
pub struct Parts {
    files: Vec<PathBuf>,
    after: Head,
}

impl Parts {
    /// Each of `logs` with its parts before it, one chain over all: a log, or parts of it that were
    /// moved elsewhere, before the log. A log that is missing is an error unless it has parts: it was
    /// being rotated.
    pub fn of(logs: &[PathBuf]) -> io::Result<Self> {
        let mut files = Vec::new();
        for log in logs {
            let at = |error| io::Error::other(format!("{}: {error}", log.display()));
            let mut parts = Vec::new();
            for sibling in siblings(log).map_err(at)? {
                if let Sibling::Part(first, path) = sibling.map_err(at)? {
                    if files.len() + parts.len() == PARTS_MAX {
                        return Err(at(io::Error::other(format!("more than {PARTS_MAX} parts"))));
                    }
                    parts.push((first, path));
                }
            }
            parts.sort();
            if log.try_exists().map_err(at)? {
                parts.push((u64::MAX, log.clone()));
            }
            if parts.is_empty() {
                return Err(at(io::ErrorKind::NotFound.into()));
            }
            files.extend(parts.into_iter().map(|(_, path)| path));
        }
        Ok(Self { files, after: Head::start() })
    }

    /// The same, whose first record follows this one, since those up to it are kept elsewhere.
    #[must_use]
    pub fn after(self, after: Head) -> Self {
        Self { after, ..self }
    }

    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Checks every record, as [`verify`](crate::verify) does.
    pub fn verify(&self) -> Result<Summary, Broken> {
        summarise(|each| self.follow(each))
    }

    pub(crate) fn follow(&self, mut each: impl FnMut(&Record, u64)) -> Result<Head, Broken> {
        let mut head = self.after.clone();
        for path in &self.files {
            let within = |broken| Broken { path: Some(path.clone()), ..broken };
            let unread = |error| Broken { path: None, line: 1, why: Why::Unreadable(error) };
            let file = File::open(path).map_err(unread).map_err(within)?;
            head = follow(BufReader::new(file), head, &mut each).map_err(within)?;
        }
        Ok(head)
    }
}

/// What the part of `log` is called that begins with this record.
pub(crate) fn part_path(log: &Path, first: u64) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{first:0DIGITS$}"));
    name.into()
}

/// Opens a part, to read it.
pub(crate) fn open_part(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("three of the low 31 bits");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// What an empty log continues, or would, had another program not moved it.
pub(crate) struct Before {
    /// The newest part.
    pub(crate) part: Option<PathBuf>,
    /// A file as logrotate makes them, or a part that was compressed since, which may hold records
    /// behind those of the newest part.
    pub(crate) foreign: Option<PathBuf>,
}

impl Before {
    pub(crate) fn of(log: &Path) -> io::Result<Self> {
        let (mut part, mut foreign) = (None, None);
        for sibling in siblings(log)? {
            match sibling? {
                Sibling::Part(first, path) => part = part.max(Some((first, path))),
                Sibling::Foreign(first, path) => foreign = foreign.max(Some((first, path))),
            }
        }
        let newest = part.as_ref().map_or(0, |(first, _)| *first);
        let foreign = foreign.filter(|(first, _)| *first > newest).map(|(_, path)| path);
        Ok(Self { part: part.map(|(_, path)| path), foreign })
    }
}

enum Sibling {
    /// Number of the first record.
    Part(u64, PathBuf),
    /// The same of what was a part; the greatest number of anything else.
    Foreign(u64, PathBuf),
}

/// The directory that a log is in.
pub(crate) fn directory(log: &Path) -> &Path {
    match log.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn siblings(log: &Path) -> io::Result<impl Iterator<Item = io::Result<Sibling>>> {
    let name = log.file_name().unwrap_or_default().to_owned();
    let log = log.to_owned();
    let entries = directory(&log).read_dir()?;
    Ok(entries.filter_map(move |entry| match entry {
        Ok(entry) => sibling(&log, &name, &entry.file_name()).map(Ok),
        Err(error) => Some(Err(error)),
    }))
}

fn sibling(log: &Path, name: &OsStr, other: &OsString) -> Option<Sibling> {
    let suffix = other.as_bytes().strip_prefix(name.as_bytes())?;
    let (separator, rest) = suffix.split_first()?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let path = log.with_file_name(other);
    let number = || std::str::from_utf8(&rest[..digits]).ok()?.parse().ok();
    match (separator, digits) {
        (b'.', DIGITS) if rest.len() == DIGITS => Some(Sibling::Part(number()?, path)),
        (b'.', DIGITS) => Some(Sibling::Foreign(number()?, path)),
        // `audit.log.1`, `audit.log.2.gz`, `audit.log-20260131`.
        (b'.', 1..) | (b'-', 8..) => Some(Sibling::Foreign(u64::MAX, path)),
        _ => None,
    }
}
