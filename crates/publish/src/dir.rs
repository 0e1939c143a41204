//! [`Dir`] and [`File`]: every system call of this crate, relative to a directory's descriptor.
//!
//! A name is one component, a path is several; neither is ever resolved through a symbolic link,
//! upwards, or into another mount. Since the descriptor is held, it does not matter what anybody
//! does to the names above it meanwhile.

mod caller;
mod file;
mod links;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

pub(crate) use self::caller::Caller;
pub(crate) use self::file::File;
use crate::error::Error;
use crate::system::Steps;

/// Never waits for a FIFO's other end and never acquires a terminal, whatever was planted there.
const CAUTIOUS: OFlags =
    OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// How long a lock is waited for: one whose holder was killed is free a moment later, as is one of
/// which another thread is just starting a program with a copy.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const DIRECTORY: OFlags = CAUTIOUS.union(OFlags::DIRECTORY);
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A directory, held open.
pub(crate) struct Dir {
    fd: OwnedFd,
    caller: Caller,
}

impl Dir {
    /// Opens the directory at `path`; `follow` says whether that may be a symbolic link. Links above
    /// it are the caller's own configuration and are followed. `None`: nothing is there.
    pub(crate) fn open(
        path: &Path,
        follow: bool,
        steps: Option<Arc<dyn Steps>>,
    ) -> Result<Option<Self>, Error> {
        let caller = Caller { steps, shown: path.to_path_buf() };
        let flags = if follow { DIRECTORY.difference(OFlags::NOFOLLOW) } else { DIRECTORY };
        match caller.read("openat", || fs::open(path, flags, Mode::empty())) {
            Ok(fd) => Ok(Some(Self { fd, caller })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(caller.fail("openat", "")(errno)),
        }
    }

    /// A directory that the caller opened.
    pub(crate) fn from_fd(fd: BorrowedFd<'_>) -> Result<Self, Error> {
        let caller = Caller { steps: None, shown: PathBuf::from(".") };
        let fd = caller.read("fcntl", || rustix::io::fcntl_dupfd_cloexec(fd, 0));
        Ok(Self { fd: fd.map_err(caller.fail("fcntl", ""))?, caller })
    }

    /// Where this directory was when it was opened. For messages only.
    pub(crate) fn shown(&self) -> &Path {
        &self.caller.shown
    }

    /// Takes the lock that one process at a time may hold on a destination; held until the
    /// descriptor is closed, so also released by a kill.
    pub(crate) fn lock(&self) -> Result<(), Error> {
        let operation = fs::FlockOperation::NonBlockingLockExclusive;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.caller.read("flock", || fs::flock(&self.fd, operation)) {
                Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(LOCK_PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Busy { path: self.shown().to_path_buf() });
                }
                // Network filesystems may not lock directories; those are `allow_disk` only.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::BADF) => return Ok(()),
                Err(errno) => return Err(self.caller.fail("flock", "")(errno)),
            }
        }
    }

    /// Up to `max` of the names in here, in no order.
    pub(crate) fn names(&self, max: usize) -> Result<Vec<OsString>, Error> {
        let entries = self.caller.read("getdents64", || {
            let named = |entry: &Result<fs::DirEntry, _>| match entry {
                Ok(entry) => !matches!(entry.file_name().to_bytes(), b"." | b".."),
                Err(_) => true,
            };
            let entries = fs::Dir::read_from(&self.fd)?.filter(named).take(max);
            let name = |entry: fs::DirEntry| entry.file_name().to_bytes().to_vec();
            entries.map(|entry| entry.map(|entry| OsString::from_vec(name(entry)))).collect()
        });
        entries.map_err(self.caller.fail("getdents64", ""))
    }

    /// What is at `name`, itself and not what a link there points to. `None`: nothing.
    pub(crate) fn stat(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>, Error> {
        let name = name.as_ref();
        let stat = || fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        match self.caller.read("newfstatat", stat) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.caller.fail("newfstatat", name)(errno)),
        }
    }

    /// The directory at `path`, of which the empty one is this. `None`: nothing is there.
    pub(crate) fn dir(&self, path: impl AsRef<OsStr>) -> Result<Option<Self>, Error> {
        let path = path.as_ref();
        let opened = match path.is_empty() {
            true => {
                self.caller.read("openat", || fs::openat(&self.fd, ".", DIRECTORY, Mode::empty()))
            }
            false => self.resolve(path, DIRECTORY, Mode::empty()),
        };
        match opened {
            Ok(fd) => Ok(Some(Self { fd, caller: self.caller.at(path) })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.caller.fail("openat2", path)(errno)),
        }
    }

    /// The directory at `path`, which must be there.
    pub(crate) fn existing(&self, path: &str) -> Result<Self, Error> {
        self.dir(path)?.ok_or_else(|| self.caller.fail("openat2", path)(Errno::NOENT))
    }

    /// The regular file at `path`, of no other name. `None`: nothing is there. `access` is `RDONLY`
    /// or `RDWR`.
    pub(crate) fn file(&self, path: &str, access: OFlags) -> Result<Option<File>, Error> {
        let file = match self.resolve(OsStr::new(path), CAUTIOUS | access, Mode::empty()) {
            Ok(fd) => File { fd, caller: self.caller.at(path) },
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.caller.fail("openat2", path)(errno)),
        };
        match is_plain(&file.stat()?) {
            true => Ok(Some(file)),
            false => Err(Error::InTheWay { path: self.caller.at(path).shown }),
        }
    }

    /// All of the regular file at `name`. `None`: there is none, or it is longer than `bytes_max`.
    pub(crate) fn read(&self, name: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.file(name, OFlags::RDONLY) {
            Ok(Some(file)) => file.read(bytes_max),
            Ok(None) | Err(Error::InTheWay { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new file at `path`, open for reading and writing.
    pub(crate) fn create_file(&self, path: &str, mode: u32) -> Result<File, Error> {
        let flags = CAUTIOUS | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let created = self.resolve(OsStr::new(path), flags, Mode::from_raw_mode(mode));
        let fd = created.map_err(self.caller.fail("openat2", path))?;
        Ok(File { fd, caller: self.caller.at(path) })
    }

    /// A new directory at `name`, with exactly this mode whatever the umask.
    pub(crate) fn create_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Self, Error> {
        let (name, mode) = (name.as_ref(), Mode::from_raw_mode(mode));
        let made = self.caller.write("mkdirat", || fs::mkdirat(&self.fd, name, mode));
        made.map_err(self.caller.fail("mkdirat", name))?;
        let opened = || fs::openat(&self.fd, name, DIRECTORY, Mode::empty());
        let fd = self.caller.read("openat", opened).map_err(self.caller.fail("openat", name))?;
        let changed = self.caller.write("fchmod", || fs::fchmod(&fd, mode));
        changed.map_err(self.caller.fail("fchmod", name))?;
        Ok(Self { fd, caller: self.caller.at(name) })
    }

    /// Moves `name` to `new_name` in `to`, replacing nothing. False: there was nothing to move.
    pub(crate) fn shift(
        &self,
        name: impl AsRef<OsStr>,
        to: &Dir,
        new_name: impl AsRef<OsStr>,
    ) -> Result<bool, Error> {
        let (name, new_name) = (name.as_ref(), new_name.as_ref());
        let flags = RenameFlags::NOREPLACE;
        let keeping = || fs::renameat_with(&self.fd, name, &to.fd, new_name, flags);
        let mut moved = self.caller.write("renameat2", keeping);
        // Filesystems without the flag, which are disks on a network: look, then move.
        if matches!(moved, Err(Errno::INVAL | Errno::NOSYS)) {
            let plainly = || fs::renameat(&self.fd, name, &to.fd, new_name);
            moved = match to.stat(new_name)? {
                Some(_) => Err(Errno::EXIST),
                None => self.caller.write("renameat", plainly),
            };
        }
        match moved {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Err(Error::NotEmpty {
                path: to.shown().to_path_buf(),
                name: new_name.to_string_lossy().into_owned(),
            }),
            Err(errno) => Err(to.caller.fail("renameat2", new_name)(errno)),
        }
    }

    /// Moves `name` over `new_name`, both in here, in one step.
    pub(crate) fn replace(&self, name: &str, new_name: &str) -> Result<(), Error> {
        let rename = || fs::renameat(&self.fd, name, &self.fd, new_name);
        self.caller.write("renameat", rename).map_err(self.caller.fail("renameat", new_name))
    }

    /// Removes anything but a directory. False: it is a directory. Nothing there is success.
    pub(crate) fn unlink(&self, name: impl AsRef<OsStr>) -> Result<bool, Error> {
        let name = name.as_ref();
        match self.caller.write("unlinkat", || fs::unlinkat(&self.fd, name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(errno) => Err(self.caller.fail("unlinkat", name)(errno)),
        }
    }

    /// Removes an empty directory. False: it is not empty. Nothing there is success.
    pub(crate) fn rmdir(&self, name: impl AsRef<OsStr>) -> Result<bool, Error> {
        let name = name.as_ref();
        match self.caller.write("unlinkat", || fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(self.caller.fail("unlinkat", name)(errno)),
        }
    }

    /// The filesystem's magic number, and the device it is on.
    pub(crate) fn place(&self) -> Result<(u64, fs::Dev), Error> {
        let stat = self.caller.read("fstatfs", || fs::fstatfs(&self.fd));
        let kind = stat.map_err(self.caller.fail("fstatfs", ""))?.f_type;
        // Sign-extended where it is a signed word of 32 bits.
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let magic = kind as u64 & 0xffff_ffff;
        let stat = self.caller.read("fstat", || fs::fstat(&self.fd));
        Ok((magic, stat.map_err(self.caller.fail("fstat", ""))?.st_dev))
    }

    /// How much of the filesystem is free.
    pub(crate) fn space(&self) -> Result<fs::StatVfs, Error> {
        let space = self.caller.read("fstatfs", || fs::fstatvfs(&self.fd));
        space.map_err(self.caller.fail("fstatfs", ""))
    }

    /// Flushes the names in here to the device.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.caller.write("fsync", || fs::fsync(&self.fd)).map_err(self.caller.fail("fsync", ""))
    }

    /// Several components, confined to this directory's tree and mount.
    fn resolve(&self, path: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mutates = flags.contains(OFlags::CREATE);
        let open = || fs::openat2(&self.fd, path, flags, mode, CONFINED);
        match self.caller.make("openat2", mutates, open) {
            // Before Linux 5.6, or below a seccomp filter that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => self.walk(path, flags, mode),
            result => result,
        }
    }

    /// [`Self::resolve`] by hand: one component at a time, checking each.
    fn walk(&self, path: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let device = self.caller.read("fstat", || fs::fstat(&self.fd))?.st_dev;
        let components: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').collect();
        let mut parent = None::<OwnedFd>;
        for (index, name) in components.iter().enumerate() {
            if matches!(*name, b"" | b"." | b"..") {
                return Err(Errno::INVAL);
            }
            let last = index + 1 == components.len();
            let (flags, mode) = if last { (flags, mode) } else { (DIRECTORY, Mode::empty()) };
            let mutates = flags.contains(OFlags::CREATE);
            let at = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let fd = self.caller.make("openat", mutates, || fs::openat(at, *name, flags, mode))?;
            if self.caller.read("fstat", || fs::fstat(&fd))?.st_dev != device {
                return Err(Errno::XDEV);
            }
            parent = Some(fd);
        }
        parent.ok_or(Errno::INVAL)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether this is a directory.
pub(crate) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether this is a regular file with one name. A second may be anywhere, and what we write would
/// be seen there.
pub(crate) fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1
}
