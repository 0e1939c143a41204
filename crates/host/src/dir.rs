//! [`Dir`]: every look at a volume, relative to a directory's descriptor.
//!
//! A path below it is never resolved through a symbolic link, upwards, or into another mount unless
//! asked to, so it does not matter what anybody does to the names meanwhile.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Never waits for a FIFO's other end and never acquires a terminal, whatever was planted there.
const CAUTIOUS: OFlags =
    OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// For a directory.
pub(crate) const DIRECTORY: OFlags = CAUTIOUS.union(OFlags::DIRECTORY);
/// For a file's bytes.
pub(crate) const FILE: OFlags = CAUTIOUS.union(OFlags::RDONLY);
/// For a look that opens nothing.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// How often one call is made again because a signal interrupted it.
const INTERRUPTIONS_MAX: u32 = 1_000;

/// Whether a path may lead into a file system that is mounted below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Kubelet mounts a tmpfs on each Secret's directory.
    Entered,
    /// Nothing is mounted within a volume.
    Refused,
}

/// Sees each system call before it is made. Tests change the world here, or let the call fail.
#[derive(Clone, Copy)]
pub(crate) struct Calls<'a>(pub(crate) Option<&'a dyn Fn(&'static str) -> Result<(), Errno>>);

impl Calls<'_> {
    /// Nobody looks.
    pub(crate) const UNSEEN: Self = Self(None);

    pub(crate) fn make<T>(
        self,
        name: &'static str,
        mut run: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        for _ in 0..INTERRUPTIONS_MAX {
            let allowed = self.0.map_or(Ok(()), |before| before(name));
            match allowed.and_then(|()| run()) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::INTR)
    }
}

/// A directory, held open.
pub(crate) struct Dir<'a> {
    fd: OwnedFd,
    calls: Calls<'a>,
}

impl<'a> Dir<'a> {
    /// The directory at `path`, which is not a link itself unless it may be. Links above it are the
    /// node's own configuration.
    pub(crate) fn open(path: &Path, follow: bool, calls: Calls<'a>) -> Result<Self, Errno> {
        let flags = if follow { DIRECTORY.difference(OFlags::NOFOLLOW) } else { DIRECTORY };
        let fd = calls.make("openat", || fs::open(path, flags, Mode::empty()))?;
        Ok(Self { fd, calls })
    }

    /// The directory at `path`, below this.
    pub(crate) fn dir(&self, path: &OsStr, mounts: Mounts) -> Result<Self, Errno> {
        let fd = self.resolve(path, DIRECTORY, mounts)?;
        Ok(Self { fd, calls: self.calls })
    }

    /// Whatever is at `path`, below this.
    pub(crate) fn resolve(
        &self,
        path: &OsStr,
        flags: OFlags,
        mounts: Mounts,
    ) -> Result<OwnedFd, Errno> {
        resolve(self.fd.as_fd(), path, flags, mounts, self.calls)
    }

    /// Where the link `name` points to.
    pub(crate) fn link(&self, name: &str) -> Result<OsString, Errno> {
        let read = || fs::readlinkat(&self.fd, name, Vec::new());
        Ok(OsString::from_vec(self.calls.make("readlinkat", read)?.into_bytes()))
    }

    /// What this is.
    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        self.calls.make("fstat", || fs::fstat(&self.fd))
    }

    /// What is at `name`, itself and not what a link there points to.
    pub(crate) fn stat_at(&self, name: &OsStr) -> Result<Stat, Errno> {
        self.calls.make("newfstatat", || fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// The names in here, in no order, but not more than `max`: so ask for one more than is allowed.
    pub(crate) fn names(&self, max: usize) -> Result<Vec<OsString>, Errno> {
        self.calls.make("getdents64", || {
            let named = |entry: &Result<fs::DirEntry, _>| match entry {
                Ok(entry) => !matches!(entry.file_name().to_bytes(), b"." | b".."),
                Err(_) => true,
            };
            let name = |entry: fs::DirEntry| entry.file_name().to_bytes().to_vec();
            let entries = fs::Dir::read_from(&self.fd)?.filter(named).take(max);
            entries.map(|entry| entry.map(|entry| OsString::from_vec(name(entry)))).collect()
        })
    }

    /// The same directory.
    pub(crate) fn again(&self) -> Result<Self, Errno> {
        let fd = self.calls.make("fcntl", || rustix::io::fcntl_dupfd_cloexec(&self.fd, 0))?;
        Ok(Self { fd, calls: self.calls })
    }

    /// To hold on to it.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// Whatever is at `path`, confined to the tree below `dir`.
pub(crate) fn resolve(
    dir: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    mounts: Mounts,
    calls: Calls<'_>,
) -> Result<OwnedFd, Errno> {
    let mut how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if mounts == Mounts::Refused {
        how |= ResolveFlags::NO_XDEV;
    }
    match calls.make("openat2", || fs::openat2(dir, path, flags, Mode::empty(), how)) {
        // Before Linux 5.6, or below a seccomp filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(dir, path, flags, mounts, calls),
        result => result,
    }
}

/// [`resolve`] by hand: one component at a time, checking each. A bind mount of the same file
/// system is not noticed.
fn step_by_step(
    dir: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    mounts: Mounts,
    calls: Calls<'_>,
) -> Result<OwnedFd, Errno> {
    let device = calls.make("fstat", || fs::fstat(dir))?.st_dev;
    let mut components = path.as_bytes().split(|byte| *byte == b'/').peekable();
    let mut parent = None::<OwnedFd>;
    while let Some(name) = components.next() {
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        let flags = if components.peek().is_none() { flags } else { DIRECTORY };
        let at = parent.as_ref().map_or(dir, AsFd::as_fd);
        let fd = calls.make("openat", || fs::openat(at, name, flags, Mode::empty()))?;
        let entered = calls.make("fstat", || fs::fstat(&fd))?.st_dev != device;
        if entered && mounts == Mounts::Refused {
            return Err(Errno::XDEV);
        }
        parent = Some(fd);
    }
    parent.ok_or(Errno::INVAL)
}
