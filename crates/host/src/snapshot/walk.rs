//! [`Walk`]: one attempt at everything in a directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::{Errno, read};
use volumes::name::TreePath;
use volumes::tree::{Digest, Limits, Meta, Node, Tree};

use crate::dir::{Calls, Dir, FILE, LOOK, Mounts};
use crate::{Error, Kind};

/// Bytes read from a file at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why an attempt came to nothing.
pub(super) enum Failure {
    /// Something was not as it had been a moment before: try again.
    Changed,
    /// Trying again would not help.
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The digest of a file that need not be read for it.
pub(crate) type Named<'a> = &'a dyn Fn(&Seen) -> Option<Digest>;

/// What tells whether a file or directory is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    place: (u64, u64),
    mode: u32,
    uid: u32,
    gid: u32,
    bytes: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Seen {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            place: (stat.st_dev, stat.st_ino),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            bytes: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    fn meta(&self) -> Meta {
        const MODE: u32 = 0o7777;
        Meta { mode: self.mode & MODE, uid: self.uid, gid: self.gid }
    }

    /// The file's length.
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }
}

/// What a directory held at the first look.
pub(super) struct Listing {
    root: Seen,
    pub(super) nodes: BTreeMap<TreePath, Seen>,
    /// Of all files together.
    bytes: u64,
}

/// One attempt at everything in a directory.
pub(super) struct Walk<'a> {
    /// The volume, for messages.
    path: &'a Path,
    dir: &'a Dir<'a>,
    limits: Limits,
    calls: Calls<'a>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(path: &'a Path, dir: &'a Dir<'a>, limits: Limits, calls: Calls<'a>) -> Self {
        let limits = Limits {
            entries: limits.entries.min(Limits::MAX.entries),
            bytes: limits.bytes.min(Limits::MAX.bytes),
        };
        Self { path, dir, limits, calls }
    }

    /// Looks at everything, and opens nothing but directories.
    pub(super) fn list(&self) -> Result<Listing, Failure> {
        let root = self.dir.stat().map_err(|errno| self.fail("fstat", "", errno))?;
        let mut listing = Listing { root: Seen::of(&root), nodes: BTreeMap::new(), bytes: 0 };
        // A directory's turn comes after everything beside it, so one descriptor is enough.
        let mut pending = self.list_one(self.dir, None, &mut listing)?;
        while let Some(path) = pending.pop() {
            let opened = self.dir.dir(OsStr::new(path.as_str()), Mounts::Refused);
            let dir = opened.map_err(|errno| self.fail("openat2", path.as_str(), errno))?;
            pending.extend(self.list_one(&dir, Some(&path), &mut listing)?);
        }
        Ok(listing)
    }

    /// Adds what is in `dir`, which is at `at`. Returns the directories among it.
    fn list_one(
        &self,
        dir: &Dir<'_>,
        at: Option<&TreePath>,
        listing: &mut Listing,
    ) -> Result<Vec<TreePath>, Failure> {
        let shown = at.map_or("", TreePath::as_str);
        let limit = self.limits.entries as usize;
        let left = limit.saturating_sub(listing.nodes.len());
        let names = dir.names(left + 1).map_err(|errno| self.fail("getdents64", shown, errno))?;
        if names.len() > left {
            return Err(self.over("entries", limit as u64 + 1, limit as u64));
        }
        let mut directories = Vec::new();
        for name in names {
            let path = self.join(at, &name)?;
            let stat = dir.stat_at(&name);
            let stat = stat.map_err(|errno| self.fail("newfstatat", path.as_str(), errno))?;
            let seen = Seen::of(&stat);
            if let Some(kind) = Kind::refused(seen.kind()) {
                return Err(Error::Irregular { path: path.to_string(), kind }.into());
            }
            match seen.kind() {
                FileType::RegularFile => {
                    listing.bytes = listing.bytes.saturating_add(seen.bytes());
                }
                _ => directories.push(path.clone()),
            }
            if listing.bytes > self.limits.bytes {
                return Err(self.over("bytes", listing.bytes, self.limits.bytes));
            }
            listing.nodes.insert(path, seen);
        }
        Ok(directories)
    }

    /// The bytes of what was listed. A file that `named` has something to say of is not read.
    pub(super) fn hash(&self, listing: &Listing, named: Named<'_>) -> Result<Tree, Failure> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut nodes = BTreeMap::new();
        for (path, seen) in &listing.nodes {
            let node = match seen.kind() {
                FileType::RegularFile => Node::File {
                    meta: seen.meta(),
                    bytes: seen.bytes(),
                    digest: match named(seen) {
                        Some(digest) => digest,
                        None => self.hash_file(path, seen, &mut chunk)?,
                    },
                },
                _ => Node::Directory(seen.meta()),
            };
            nodes.insert(path.clone(), node);
        }
        let tree = Tree::new(listing.root.meta(), nodes, self.limits);
        tree.map_err(|source| self.refuse(source))
    }

    fn hash_file(&self, path: &TreePath, seen: &Seen, chunk: &mut [u8]) -> Result<Digest, Failure> {
        let file = self.same(path, seen, FILE)?;
        let mut context = Context::new(&SHA256);
        let mut left = seen.bytes();
        loop {
            let count = self.calls.make("read", || read(&file, &mut *chunk));
            let count = count.map_err(|errno| self.fail("read", path.as_str(), errno))?;
            match (left.checked_sub(count as u64), count) {
                // More than it was, and maybe without end.
                (None, _) => return Err(Failure::Changed),
                (Some(0), 0) => return Ok(Digest::finished(context.finish())),
                (Some(_), 0) => return Err(Failure::Changed),
                (Some(rest), _) => left = rest,
            }
            context.update(&chunk[..count]);
        }
    }

    /// Whether everything listed is still as it was, and nothing more is there.
    pub(super) fn look_again(&self, listing: &Listing) -> Result<(), Failure> {
        for (path, seen) in &listing.nodes {
            self.same(path, seen, LOOK)?;
        }
        let root = self.dir.stat().map_err(|errno| self.fail("fstat", "", errno))?;
        if Seen::of(&root) == listing.root { Ok(()) } else { Err(Failure::Changed) }
    }

    /// What is at `path`, if that is still what was seen.
    fn same(&self, path: &TreePath, seen: &Seen, flags: OFlags) -> Result<OwnedFd, Failure> {
        let opened = self.dir.resolve(OsStr::new(path.as_str()), flags, Mounts::Refused);
        let fd = opened.map_err(|errno| self.fail("openat2", path.as_str(), errno))?;
        let stat = self.calls.make("fstat", || fstat(&fd));
        let stat = stat.map_err(|errno| self.fail("fstat", path.as_str(), errno))?;
        if Seen::of(&stat) == *seen { Ok(fd) } else { Err(Failure::Changed) }
    }

    /// A name in a directory of the volume, proven to be one.
    fn join(&self, at: Option<&TreePath>, name: &OsStr) -> Result<TreePath, Failure> {
        let refused = |why| {
            let name = name.to_string_lossy().chars().take(64).collect();
            self.refuse(volumes::Error::Name { name, why })
        };
        let name = name.to_str().ok_or_else(|| refused("not UTF-8"))?;
        // Legal for Kubernetes, but nobody means it, and it ends up in logs on both sides.
        if name.chars().any(char::is_control) {
            return Err(refused("a control character"));
        }
        let path = match at {
            Some(at) => TreePath::parse(&format!("{at}/{name}")),
            None => TreePath::parse(name),
        };
        path.map_err(|source| self.refuse(source))
    }

    /// What an errno means for something that was there a moment ago.
    fn fail(&self, call: &'static str, at: &str, errno: Errno) -> Failure {
        match errno {
            // If another kind of file is there by now, the next attempt says so.
            Errno::NOENT | Errno::STALE | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                Failure::Changed
            }
            Errno::XDEV => Error::Irregular { path: at.to_owned(), kind: Kind::Mount }.into(),
            _ if at.is_empty() => Error::io(call, self.path, errno).into(),
            _ => Error::io(call, &self.path.join(at), errno).into(),
        }
    }

    fn over(&self, what: &'static str, found: u64, limit: u64) -> Failure {
        self.refuse(volumes::Error::Limit { what, found, limit })
    }

    fn refuse(&self, source: volumes::Error) -> Failure {
        Error::Refused { path: self.path.to_path_buf(), source }.into()
    }
}
