//! What volumes need of a directory besides: links of both kinds, owners, and mounts.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid};
use rustix::io::Errno;

use super::{CAUTIOUS, DIRECTORY, Dir, File};
use crate::error::Error;

impl Dir {
    /// The directory at `name`, one component, also if something is mounted there. `None`: nothing
    /// is there.
    pub(crate) fn mounted(&self, name: &str) -> Result<Option<Self>, Error> {
        let open = || fs::openat(&self.fd, name, DIRECTORY, Mode::empty());
        match self.caller.read("openat", open) {
            Ok(fd) => Ok(Some(Self { fd, caller: self.caller.at(name) })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.caller.fail("openat", name)(errno)),
        }
    }

    /// Whether something is mounted at `name`; at the empty name, whether this is a mount's root.
    pub(crate) fn is_mount(&self, name: &str) -> Result<bool, Error> {
        let flags = match name.is_empty() {
            true => AtFlags::EMPTY_PATH,
            false => AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        };
        let stat = || fs::statx(&self.fd, name, flags, StatxFlags::TYPE);
        let mount = StatxAttributes::MOUNT_ROOT;
        match self.caller.read("statx", stat) {
            Ok(stat) if !stat.stx_attributes_mask.contains(mount) => {
                Err(self.caller.fail("statx", name)(Errno::NOSYS))
            }
            Ok(stat) => Ok(stat.stx_attributes.contains(mount)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.caller.fail("statx", name)(errno)),
        }
    }

    /// A new symbolic link at `name`.
    pub(crate) fn symlink(&self, target: &str, name: &str) -> Result<(), Error> {
        let made = self.caller.write("symlinkat", || fs::symlinkat(target, &self.fd, name));
        made.map_err(self.caller.fail("symlinkat", name))
    }

    /// Where the link at `name` points to. `None`: nothing is there, or something else.
    pub(crate) fn read_link(&self, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>, Error> {
        let name = name.as_ref();
        let read = || fs::readlinkat(&self.fd, name, Vec::new());
        match self.caller.read("readlinkat", read) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(self.caller.fail("readlinkat", name)(errno)),
        }
    }

    /// Gives the file at `name` a second name, `new_name` in `to`.
    pub(crate) fn link(&self, name: &str, to: &Dir, new_name: &str) -> Result<(), Error> {
        let link = || fs::linkat(&self.fd, name, &to.fd, new_name, AtFlags::empty());
        self.caller.write("linkat", link).map_err(to.caller.fail("linkat", new_name))
    }

    /// The regular file at `name`, whatever other names it has, to be read or given to an owner.
    /// `None`: nothing is there.
    pub(crate) fn linked_file(&self, name: &str) -> Result<Option<File>, Error> {
        let flags = CAUTIOUS | OFlags::RDONLY;
        let file = match self.resolve(OsStr::new(name), flags, Mode::empty()) {
            Ok(fd) => File { fd, caller: self.caller.at(name) },
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.caller.fail("openat2", name)(errno)),
        };
        match FileType::from_raw_mode(file.stat()?.st_mode) {
            FileType::RegularFile => Ok(Some(file)),
            _ => Err(Error::InTheWay { path: file.caller.shown }),
        }
    }

    /// Moves `name` to `new_name` in `to`, over whatever plain file or link is there.
    pub(crate) fn move_over(&self, name: &str, to: &Dir, new_name: &str) -> Result<(), Error> {
        let rename = || fs::renameat(&self.fd, name, &to.fd, new_name);
        self.caller.write("renameat", rename).map_err(to.caller.fail("renameat", new_name))
    }

    /// Gives this directory exactly this owner and mode.
    pub(crate) fn own(&self, uid: u32, gid: u32, mode: u32) -> Result<(), Error> {
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let changed = self.caller.write("fchown", || fs::fchown(&self.fd, owner, group));
        changed.map_err(self.caller.fail("fchown", ""))?;
        let raw = Mode::from_raw_mode(mode);
        let changed = self.caller.write("fchmod", || fs::fchmod(&self.fd, raw));
        changed.map_err(self.caller.fail("fchmod", ""))?;
        // Without CAP_FSETID the kernel leaves setgid out and reports success.
        if raw.contains(Mode::SGID) {
            let stat = self.caller.read("fstat", || fs::fstat(&self.fd));
            let found = stat.map_err(self.caller.fail("fstat", ""))?.st_mode & 0o7777;
            if found != mode {
                return Err(self.caller.fail("fchmod", "")(Errno::PERM));
            }
        }
        Ok(())
    }

    /// Says where this directory is after it was moved. For messages only.
    pub(crate) fn moved_to(&mut self, shown: PathBuf) {
        self.caller.shown = shown;
    }
}
