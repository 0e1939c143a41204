//! [`Snapshot`]: one revision of a volume, read whole through directory descriptors.
//!
//! Kubelet writes a revision into a new directory `..<time>`, renames a link to it over `..data`,
//! and then removes the directory of the revision before. So while `..data` names a directory,
//! nothing has been taken out of that yet, and a snapshot is
//!
//! 1. `..data` read, and the directory that it names opened and held;
//! 2. everything in that listed and looked at: kinds, names, modes, counts and sizes, before any
//!    file is opened;
//! 3. each file opened, found to be the one that was looked at, and hashed, unless its digest is
//!    known otherwise;
//! 4. everything looked at again, and `..data` found to name the directory that is held.
//!
//! Any difference begins a new attempt, of which there are [few](ATTEMPTS_MAX). A directory without
//! `..data`, which is no volume of kubelet's, is read the same way as it stands; there the second
//! look alone says that nothing changed, and Linux before 6.13 may miss a change within the same
//! tick of its clock as the first look.

mod walk;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::io::Errno;
use volumes::name::TreePath;
use volumes::tree::{Digest, Limits, Node, Tree};

use self::walk::{Failure, Walk};
pub(crate) use self::walk::{Named, Seen};
use crate::Error;
use crate::dir::{Calls, Dir, FILE, Mounts, resolve};

/// How often a volume is read that changes meanwhile.
pub const ATTEMPTS_MAX: u32 = 8;

/// How a volume is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Kubelet's: `..data` is a link to the revision's directory.
    Switched,
    /// A directory as it stands.
    Plain,
}

/// One revision of a volume, and the directory that holds it.
///
/// Drop it once its contents are sent: a held directory keeps its mount busy, so that kubelet cannot
/// unmount a Secret's tmpfs, and delays the news that the volume was removed.
/// [`Snapshot::into_tree`] keeps what the next difference needs.
pub struct Snapshot {
    tree: Tree,
    layout: Layout,
    dir: OwnedFd,
    seen: BTreeMap<TreePath, Seen>,
    path: PathBuf,
}

impl Snapshot {
    /// The current revision of kubelet's volume at `path`. No link leads there as the last component.
    /// `limits` above [`Limits::MAX`] are as those. [`Error::Unwritten`] until the first is there.
    pub fn of_volume(path: &Path, limits: Limits) -> Result<Self, Error> {
        take(path, limits, Accepted::Volumes, &|_| None, Calls::UNSEEN)
    }

    /// The same without reading the files that `named` has a digest for; [`Digest::UNNAMED`] for
    /// those that are to be [named](Self::name) later.
    pub(crate) fn lazily(path: &Path, limits: Limits, named: Named<'_>) -> Result<Self, Error> {
        take(path, limits, Accepted::Volumes, named, Calls::UNSEEN)
    }

    /// The files whose digests are still to be found out, and what they were like.
    pub(crate) fn unnamed(&self) -> impl Iterator<Item = (&TreePath, &Seen)> {
        self.tree.nodes().iter().filter_map(|(path, node)| match node {
            Node::File { digest: Digest::UNNAMED, .. } => Some((path, self.seen.get(path)?)),
            _ => None,
        })
    }

    /// Fills in digests of files.
    pub(crate) fn name(&mut self, digests: &BTreeMap<TreePath, Digest>) -> Result<(), Error> {
        let mut nodes = self.tree.nodes().clone();
        for (path, named) in digests {
            if let Some(Node::File { digest, .. }) = nodes.get_mut(path) {
                *digest = *named;
            }
        }
        let tree = Tree::new(self.tree.root(), nodes, Limits::MAX);
        self.tree = tree.map_err(|source| Error::Refused { path: self.path.clone(), source })?;
        Ok(())
    }

    /// The same of any directory; one without `..data` is taken as it stands. Not for volumes of
    /// kubelet's: those are empty for a moment before their first revision.
    pub fn of_directory(path: &Path, limits: Limits) -> Result<Self, Error> {
        take(path, limits, Accepted::Directories, &|_| None, Calls::UNSEEN)
    }

    /// What is in it. The root's meta is that of the revision's own directory.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is in it, letting go of the directory.
    pub fn into_tree(self) -> Tree {
        self.tree
    }

    /// How the volume is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The revision's directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The file at `path`, at its beginning: the one that was hashed, and unchanged until now.
    /// [`Error::Gone`] once kubelet has removed it, and [`Error::Changing`] if it is about to: take
    /// a new snapshot.
    pub fn open(&self, path: &TreePath) -> Result<File, Error> {
        let at = || self.path.join(path.as_str());
        let Some(Node::File { .. }) = self.tree.nodes().get(path) else {
            return Err(Error::Gone { path: at() });
        };
        let name = OsStr::new(path.as_str());
        let fd = match resolve(self.dir(), name, FILE, Mounts::Refused, Calls::UNSEEN) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(Error::Gone { path: at() }),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::NXIO) => {
                return Err(Error::Changing { path: at() });
            }
            Err(errno) => return Err(Error::io("openat2", &at(), errno)),
        };
        let file = File::from(fd);
        self.still(path, &file)?;
        Ok(file)
    }

    /// The next `buffer.len()` bytes of a file that was [opened](Self::open) here.
    /// [`Error::Changing`] if it has become shorter.
    pub(crate) fn read(
        &self,
        path: &TreePath,
        mut file: &File,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        file.read_exact(buffer).map_err(|source| {
            let path = self.path.join(path.as_str());
            match source.kind() {
                ErrorKind::UnexpectedEof => Error::Changing { path },
                _ => Error::Io { call: "read", path, source },
            }
        })
    }

    /// Whether `file`, opened from here, is still what it was when the snapshot was taken.
    pub(crate) fn still(&self, path: &TreePath, file: &File) -> Result<(), Error> {
        let at = || self.path.join(path.as_str());
        let found = fstat(file).map_err(|errno| Error::io("fstat", &at(), errno))?;
        match self.seen.get(path) == Some(&Seen::of(&found)) {
            true => Ok(()),
            false => Err(Error::Changing { path: at() }),
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("path", &self.path)
            .field("layout", &self.layout)
            .field("digest", &self.tree.digest())
            .finish_non_exhaustive()
    }
}

/// What may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    Volumes,
    Directories,
}

fn take(
    path: &Path,
    limits: Limits,
    accepted: Accepted,
    named: Named<'_>,
    calls: Calls<'_>,
) -> Result<Snapshot, Error> {
    for _ in 0..ATTEMPTS_MAX {
        match attempt(path, limits, accepted, named, calls) {
            Ok(snapshot) => return Ok(snapshot),
            Err(Failure::Changed) => {}
            Err(Failure::Refused(error)) => return Err(error),
        }
    }
    Err(Error::Changing { path: path.to_path_buf() })
}

fn attempt(
    path: &Path,
    limits: Limits,
    accepted: Accepted,
    named: Named<'_>,
    calls: Calls<'_>,
) -> Result<Snapshot, Failure> {
    let layout_error = |why| Error::Layout { path: path.to_path_buf(), why };
    let volume = match Dir::open(path, false, calls) {
        Ok(volume) => volume,
        Err(Errno::NOENT) => Err(Error::Gone { path: path.to_path_buf() })?,
        Err(Errno::NOTDIR | Errno::LOOP) => Err(layout_error("not a directory"))?,
        Err(errno) => Err(Error::io("openat", path, errno))?,
    };
    let (layout, dir, target) = match data(&volume, path)? {
        Some(target) => match volume.dir(&target, Mounts::Refused) {
            Ok(dir) => (Layout::Switched, dir, Some(target)),
            // Removed since, or never there.
            Err(Errno::NOENT) if data(&volume, path)?.as_ref() != Some(&target) => {
                return Err(Failure::Changed);
            }
            Err(Errno::NOENT) => Err(layout_error("`..data` points to nothing"))?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(layout_error("`..data` points to something that is not a directory"))?
            }
            Err(Errno::XDEV) => Err(layout_error("`..data` points to a mount"))?,
            Err(errno) => Err(Error::io("openat2", path, errno))?,
        },
        None if accepted == Accepted::Volumes => {
            let removed = volume.stat().is_ok_and(|stat| stat.st_nlink == 0);
            let path = path.to_path_buf();
            Err(if removed { Error::Gone { path } } else { Error::Unwritten { path } })?
        }
        None => {
            let same = volume.again().map_err(|errno| Error::io("fcntl", path, errno))?;
            (Layout::Plain, same, None)
        }
    };
    let walk = Walk::new(path, &dir, limits, calls);
    let seen = walk.list()?;
    let tree = walk.hash(&seen, named)?;
    walk.look_again(&seen)?;
    if data(&volume, path)? != target {
        return Err(Failure::Changed);
    }
    if let Some(target) = &target {
        // By inode, since a directory may have been removed and made again by that name; the held
        // one's number is not free for another.
        let named = volume.dir(target, Mounts::Refused).and_then(|dir| dir.stat());
        let named = named.map_err(|_| Failure::Changed)?;
        let held = dir.stat().map_err(|errno| Error::io("fstat", path, errno))?;
        if (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino) {
            return Err(Failure::Changed);
        }
    }
    let seen = seen.nodes;
    Ok(Snapshot { tree, layout, dir: dir.into_fd(), seen, path: path.to_path_buf() })
}

/// Where `..data` points to, if it is there: a name in the volume that begins as kubelet's own do.
fn data(volume: &Dir<'_>, path: &Path) -> Result<Option<OsString>, Error> {
    let refuse = |why| Err(Error::Layout { path: path.to_path_buf(), why });
    let target = match volume.link(DATA) {
        Ok(target) => target,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::INVAL) => return refuse("`..data` is not a link"),
        Err(errno) => return Err(Error::io("readlinkat", path, errno)),
    };
    match target.as_bytes() {
        b".." | b"..data" => refuse("`..data` points to itself or upwards"),
        name if name.contains(&b'/') => refuse("`..data` points out of the volume"),
        name if !name.starts_with(b"..") => refuse("`..data` points to what is not a revision"),
        _ => Ok(Some(target)),
    }
}

/// The link that kubelet switches.
pub(crate) const DATA: &str = "..data";

#[cfg(test)]
mod tests;
