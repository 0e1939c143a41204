//! [`Filesystem`]: where bytes written to a directory end up.

use std::fmt;
use std::path::Path;

use rustix::fs::{major, minor};

use crate::dir::Dir;
use crate::error::Error;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Device-mapper UUIDs of disks that encrypt with a key of this machine. Not every `CRYPT-` does:
/// verity and integrity targets store plaintext, and OPAL leaves encryption to the drive.
const ENCRYPTED: [&str; 3] = ["CRYPT-LUKS2-", "CRYPT-LUKS1-", "CRYPT-PLAIN-"];
const DRIVE_ENCRYPTED: &str = "CRYPT-LUKS2-OPAL-";

/// What kind of filesystem a directory is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// Memory, with limits of its own.
    Tmpfs,
    /// Memory that is never swapped, without limits.
    Ramfs,
    /// A disk encrypted by this machine: made directly on a dm-crypt device.
    DmCrypt,
    /// Anything else, by its magic number: to us a disk that others can read. Also overlayfs,
    /// whatever is below it.
    Other(u64),
}

impl Filesystem {
    /// Whether content is only in this machine's memory: then nothing has to be flushed, and what an
    /// earlier run staged is as good as what this run stages.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Tmpfs | Self::Ramfs)
    }

    /// Whether plaintext may be written here without `allow_disk`.
    pub fn is_confidential(self) -> bool {
        self.is_memory() || self == Self::DmCrypt
    }

    pub(crate) fn of(dir: &Dir, sys: &Path) -> Result<Self, Error> {
        let (magic, device) = dir.place()?;
        match magic {
            TMPFS_MAGIC => return Ok(Self::Tmpfs),
            RAMFS_MAGIC => return Ok(Self::Ramfs),
            _ => {}
        }
        let uuid = sys.join(format!("dev/block/{}:{}/dm/uuid", major(device), minor(device)));
        // No such file is the ordinary case of a disk that is not device-mapper's.
        let uuid = std::fs::read_to_string(uuid).unwrap_or_default();
        let encrypted = ENCRYPTED.iter().any(|prefix| uuid.starts_with(prefix))
            && !uuid.starts_with(DRIVE_ENCRYPTED);
        Ok(if encrypted { Self::DmCrypt } else { Self::Other(magic) })
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Ramfs => f.write_str("ramfs"),
            Self::DmCrypt => f.write_str("an encrypted disk"),
            Self::Other(magic) => match magic {
                0xef53 => f.write_str("ext4"),
                0x5846_5342 => f.write_str("xfs"),
                0x9123_683e => f.write_str("btrfs"),
                0x794c_7630 => f.write_str("overlayfs"),
                0x6969 => f.write_str("nfs"),
                0x6573_5546 => f.write_str("fuse or virtiofs"),
                0x0102_1997 => f.write_str("9p"),
                other => write!(f, "a filesystem of type {other:#x}"),
            },
        }
    }
}
