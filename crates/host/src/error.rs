//! [`Error`]: what the caller can decide on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

/// Why a volume was not found, read or watched. Paths are quoted when shown: whoever wrote the
/// volume chose them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that no volume holds is in it. It was not opened, and nothing of the volume is used.
    #[error("{path:?} is a {kind}, not a file or directory")]
    Irregular {
        /// Where, in the volume.
        path: String,
        /// What it is.
        kind: Kind,
    },
    /// The volume is not laid out as kubelet does it.
    #[error("{path:?} is not a volume of kubelet's: {why}")]
    Layout {
        /// The volume.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A name, a mode, or a count in the volume breaks a rule.
    #[error("volume {path:?} breaks a rule")]
    Refused {
        /// The volume.
        path: PathBuf,
        /// The rule.
        #[source]
        source: volumes::Error,
    },
    /// Kubelet has made the directory and not yet written its first revision. Wait for the switch.
    #[error("volume {path:?} has no revision yet")]
    Unwritten {
        /// The volume.
        path: PathBuf,
    },
    /// The volume changed faster than it could be read. Try again after the next switch.
    #[error("{path:?} changed while it was read")]
    Changing {
        /// The volume, or the file in it.
        path: PathBuf,
    },
    /// The volume, or this revision of it, has been removed. Take a new snapshot.
    #[error("{path:?} is gone")]
    Gone {
        /// The volume, or the file in it.
        path: PathBuf,
    },
    /// More than any node has.
    #[error("{path:?} holds more than {limit} {what}")]
    TooMany {
        /// Where.
        path: PathBuf,
        /// What was counted.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// The kernel watches no more for this user. The node's configuration must change.
    #[error("no more directories can be watched: raise sysctl fs.inotify.max_user_watches")]
    WatchesExhausted,
    /// The kernel gives this user no further inotify instance, or this process no descriptor.
    #[error(
        "no inotify instance left: raise sysctl fs.inotify.max_user_instances, or the limit of open files"
    )]
    InstancesExhausted,
    /// The system refused a call.
    #[error("cannot {call} {path:?}")]
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
    pub(crate) fn io(call: &'static str, path: &Path, errno: Errno) -> Self {
        Self::Io { call, path: path.to_path_buf(), source: errno.into() }
    }
}

/// What a volume must not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A file or directory of another mount.
    Mount,
    /// None that Linux knows today.
    Unknown,
}

impl Kind {
    /// `None`: a file or a directory.
    pub(crate) fn refused(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile | FileType::Directory => return None,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharacterDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => Self::Unknown,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symlink => "symbolic link",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Mount => "mount point",
            Self::Unknown => "thing of unknown kind",
        })
    }
}
