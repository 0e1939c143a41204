//! [`Error`]: what the caller can decide on.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{Bound, Filesystem};

/// Why a tree was not published. Nothing half-published is left behind by any of them, unless the
/// process was killed: then the next [`Destination::recover`](crate::Destination::recover) clears it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The destination would write plaintext to a disk. Mount memory there, or allow the disk.
    #[error("{path} is on {filesystem}, which is neither memory nor an encrypted disk", path = path.display())]
    NotMemoryBacked {
        /// The destination, or the directory that it would be created in.
        path: PathBuf,
        /// What is mounted there.
        filesystem: Filesystem,
    },
    /// Something that we did not publish is in the destination. Nothing was touched.
    #[error("{path} holds {name:?}, which is not ours", path = path.display())]
    NotEmpty {
        /// The destination.
        path: PathBuf,
        /// The first such name found.
        name: String,
    },
    /// The tree does not fit, as known before its first byte is fetched.
    #[error("{need} {of} needed, but only {have} left")]
    TooSmall {
        /// Bytes, or inodes if `of` is [`Bound::Inodes`], that are still to be allocated.
        need: u64,
        /// The same unit, available now.
        have: u64,
        /// What there is too little of.
        of: Bound,
    },
    /// The filesystem ran out of space, inodes or quota while we wrote.
    #[error("no space left for {path}", path = path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A symbolic link, a mount point or another kind of file is where ours should be. Never followed.
    #[error("something other than a plain file or directory of ours is at {path}", path = path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
    },
    /// Another process is publishing into this destination. Try again when it is done.
    #[error("another process is publishing into {path}", path = path.display())]
    Busy {
        /// The destination.
        path: PathBuf,
    },
    /// The plan or the receipt breaks a rule of this crate: a mistake of the caller.
    #[error("the plan is not publishable: {0}")]
    InvalidPlan(String),
    /// A segment was never written, so nothing may be published.
    #[error("segment {segment} of {path} was never written")]
    Incomplete {
        /// Path of the file, relative to the destination.
        path: String,
        /// Index of the first missing segment.
        segment: u32,
    },
    /// Bytes beyond the planned end of a file, or a segment that it does not have.
    #[error("segment {segment} of {path} lies outside the file")]
    OutOfRange {
        /// Path of the file, relative to the destination.
        path: String,
        /// Index of the segment.
        segment: u32,
    },
    /// A write after the tree was published or discarded.
    #[error("{path} is no longer staged")]
    Closed {
        /// Path of the file, relative to the destination.
        path: String,
    },
    /// The tree *is* published, complete and with its receipt, but what it replaced could not all be
    /// removed and still takes space. Running again removes it.
    #[error("published, but what was replaced could not be removed")]
    Residue(#[source] Box<Error>),
    /// The system refused a call.
    #[error("cannot {call} {path}", path = path.display())]
    Io {
        /// The system call.
        call: &'static str,
        /// What it was about.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn of(call: &'static str, path: &Path, errno: Errno) -> Self {
        let path = path.to_path_buf();
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::Full { path, source: errno.into() },
            // `NXIO` is a socket, or the writing end of a FIFO that nobody reads.
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::ISDIR | Errno::NXIO => {
                Self::InTheWay { path }
            }
            _ => Self::Io { call, path, source: errno.into() },
        }
    }
}
