//! Files that are there completely or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::rand;
use rustix::fs::{FlockOperation, OFlags, flock};

/// Begins the name of a file that is still being written. Never a resource's name: those do not
/// begin with a dot.
const UNFINISHED: &str = ".new-";

/// Tells one state of a file from another: it is replaced, not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that `path` leads to.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// What to do with a file that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is replaced in one step.
    Replace,
    /// It stays; writing fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// Writes a file that only its owner may read: readers see what was there before, or all of
/// `bytes`, also after a power failure.
pub(crate) fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let unfinished = dir.join(format!("{UNFINISHED}{}", random_name()));
    let written = write_unfinished(&unfinished, bytes).and_then(|()| match existing {
        Existing::Replace => fs::rename(&unfinished, path),
        // Unlike a rename, a link fails if the name is taken.
        Existing::Keep => fs::hard_link(&unfinished, path),
    });
    if written.is_err() || existing == Existing::Keep {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    sync_dir(dir)
}

fn write_unfinished(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a whole file of at most `bytes_max` bytes. A symbolic link at the end is followed:
/// Kubernetes mounts keys and certificates as such.
pub(crate) fn read(path: &Path, bytes_max: usize) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    read_open(File::open(path)?, bytes_max)
}

/// Like [`read`], for files of our own: a symbolic link is refused.
pub(crate) fn read_own(path: &Path, bytes_max: usize) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    read_open(OpenOptions::new().read(true).custom_flags(flags).open(path)?, bytes_max)
}

fn read_open(file: File, bytes_max: usize) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // One byte more than allowed, reserved at once: growing would leave copies behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than it may be"));
    }
    Ok(bytes)
}

/// Removes a file, durably.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Creates a directory, and those above it, that only its owner may enter.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes what a killed writer left in `dir`. Only under [`lock`]: no writer is at work then.
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Keeps other writers out, of this process and of others, until the returned file is dropped.
pub(crate) fn lock(dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(".lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn random_name() -> String {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("aws-lc's generator aborts rather than fail after start");
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_written_file_is_complete_private_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"one", Existing::Keep).unwrap();
        write(&path, b"two", Existing::Replace).unwrap();
        assert_eq!(*read_own(&path, 3).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn keeping_what_exists_leaves_it_and_no_residue() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"one", Existing::Keep).unwrap();
        let refused = write(&path, b"two", Existing::Keep).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(*read_own(&path, 3).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_its_limit_and_a_link_in_our_own_tree_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"1234", Existing::Keep).unwrap();
        assert!(read(&path, 4).is_ok());
        assert!(read(&path, 3).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, 4).is_ok());
        assert!(read_own(&link, 4).is_err());
        assert!(read(dir.path(), 4).is_err());
    }
}
