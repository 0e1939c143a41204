//! [`verify`]: is this the log that was written?

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use crate::record::{Head, LINE_BYTES_MAX, Record};

/// A whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of records.
    pub records: u64,
    /// Number of the last, which is of more where those before are elsewhere; 0 if there is none.
    pub seq: u64,
    /// Time of the first, RFC 3339. `None`: there is no record.
    pub first: Option<String>,
    /// Time of the last.
    pub last: Option<String>,
    /// Hash of the last, 64 zeroes if there is none. Keep it elsewhere: it is what tells this log
    /// from a shortened one.
    pub head: String,
}

/// A log that is not whole.
#[derive(Debug, thiserror::Error)]
#[error("{at}line {line} is broken", at = at(path.as_deref()))]
pub struct Broken {
    /// The file, if it was given as one.
    pub path: Option<PathBuf>,
    /// The first line that does not follow from those before, counted from 1 in each file.
    pub line: u64,
    /// What is wrong with it.
    #[source]
    pub why: Why,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// It ends without a newline: its writer was killed while writing it, or the file was cut.
    #[error("the record is torn")]
    Torn,
    /// It is longer than a record can be.
    #[error("the line is too long")]
    TooLong,
    /// It does not have a record's form.
    #[error("the line is not a record")]
    NotARecord,
    /// It was changed.
    #[error("the record does not match its hash")]
    WrongHash,
    /// Records are missing before it, or it was moved.
    #[error("the record has number {found}, but {expected} follows here")]
    WrongSequence {
        /// One more than the record before.
        expected: u64,
        /// Its number.
        found: u64,
    },
    /// The record before was replaced.
    #[error("the record does not follow the one before")]
    WrongPrevious,
    /// The file is shorter than it was.
    #[error("records are missing at the end")]
    Shortened,
    /// It cannot be read.
    #[error("the log cannot be read")]
    Unreadable(#[source] io::Error),
}

/// Checks every record of a log. Memory is bounded by the longest line.
pub fn verify(reader: impl BufRead) -> Result<Summary, Broken> {
    summarise(|each| follow(reader, Head::start(), each))
}

/// Counts what is followed.
pub(crate) fn summarise(
    follow: impl FnOnce(&mut dyn FnMut(&Record, u64)) -> Result<Head, Broken>,
) -> Result<Summary, Broken> {
    let (mut records, mut first, mut last) = (0, None, None);
    let Head { seq, hash: head } = follow(&mut |record, _| {
        records += 1;
        first.get_or_insert_with(|| record.time.clone());
        last = Some(record.time.clone());
    })?;
    Ok(Summary { records, seq, first, last, head })
}

fn at(path: Option<&Path>) -> String {
    path.map(|path| format!("{}: ", path.display())).unwrap_or_default()
}

/// Checks that what is read continues from `head`, and returns where it ends. `each` is
/// given every record with the length of its line.
pub(crate) fn follow(
    mut reader: impl BufRead,
    mut head: Head,
    mut each: impl FnMut(&Record, u64),
) -> Result<Head, Broken> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let broken = |why| Broken { path: None, line: number, why };
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut reader).take(limit).read_until(b'\n', &mut line);
        read.map_err(|error| broken(Why::Unreadable(error)))?;
        if line.is_empty() {
            break;
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(broken(Why::TooLong));
        }
        let line = line.strip_suffix(b"\n").ok_or_else(|| broken(Why::Torn))?;
        let record = Record::parse(line).map_err(broken)?;
        if record.seq != head.next() {
            return Err(broken(Why::WrongSequence { expected: head.next(), found: record.seq }));
        }
        if record.prev != head.hash {
            return Err(broken(Why::WrongPrevious));
        }
        each(&record, line.len() as u64 + 1);
        head = record.head();
    }
    Ok(head)
}
