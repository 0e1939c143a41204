//! [`Error`]: why an event is not recorded, so that nothing may follow it.

use std::io;
use std::path::PathBuf;

use crate::verify::Why;

/// Why a log cannot be opened, or an event not be recorded. In either case: do not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log's path names a directory, a device, a FIFO or a symbolic link. Log to a stream instead.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The log.
        path: PathBuf,
    },
    /// The log ends in half a record: the process that wrote it was killed. Look at it, then remove
    /// everything from this offset on.
    #[error(
        "{path} ends in a torn record; keep a copy, then truncate the file to {offset} bytes",
        path = path.display()
    )]
    Torn {
        /// The log.
        path: PathBuf,
        /// Where the torn record begins.
        offset: u64,
    },
    /// The end of the log is not what a log ends in, or no longer what we wrote. Move it away to
    /// begin another, and find out who changed it.
    #[error("{path} was not written by us alone", path = path.display())]
    Broken {
        /// The log.
        path: PathBuf,
        /// What is wrong.
        #[source]
        why: Why,
    },
    /// The log is empty or missing, and beside it is what another program makes of one that it rotates
    /// (logrotate), or a part that was compressed: it may hold the records that this log continues.
    #[error(
        "{path} is empty beside {other}, which another program may have rotated out of it; \
         move that into another directory to begin a new log",
        path = path.display(), other = other.display()
    )]
    MovedByOther {
        /// The log.
        path: PathBuf,
        /// The other file.
        other: PathBuf,
    },
    /// Another process has held the log's lock for too long.
    #[error("{path} is locked by another process", path = path.display())]
    Locked {
        /// The log.
        path: PathBuf,
    },
    /// The event does not fit on a line, even with its texts shortened.
    #[error("an event of {bytes} bytes is too long for the audit log")]
    TooLong {
        /// Length of the line that it would need.
        bytes: usize,
    },
    /// The sink did not accept the record.
    #[error("the audit log {sink} cannot be written")]
    Sink {
        /// The log's path, or `stream`.
        sink: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An earlier record may be in the sink, or a part of it, so none can follow it: only a new chain.
    #[error(
        "the audit log {sink} failed before, and what became of its record {seq} is not known; see \
         whether the log has it, then start this process anew, which begins another chain"
    )]
    FailedBefore {
        /// The log's path, or `stream`.
        sink: String,
        /// Number of the first record that may or may not be there.
        seq: u64,
    },
}

/// What a sink's error says that has certainly accepted nothing of what it was given: the next record
/// may take its place.
#[derive(Debug, thiserror::Error)]
#[error("nothing was accepted, and it will be tried again with the next record: {0}")]
pub(crate) struct NotAccepted(String);

impl NotAccepted {
    /// With the kind that `source` has.
    pub(crate) fn because(source: &io::Error) -> io::Error {
        io::Error::new(source.kind(), Self(source.to_string()))
    }

    pub(crate) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}
