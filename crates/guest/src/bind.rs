//! A volume into a container's filesystem: a bind mount, read-only, `nosuid`, `nodev`, and `noexec`
//! where the volume is.
//!
//! It is made where nobody sees it and moved to its place when it is read-only: there is no moment
//! at which a container could write to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use volumes::name::VolumeId;

/// Why a volume was not bound. Nothing is mounted then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a volume's name.
    #[error(transparent)]
    Name(#[from] volumes::Error),
    /// No revision of the volume has come yet.
    #[error("no volume {0} is here yet")]
    Missing(VolumeId),
    /// A system call failed.
    #[error("cannot {call} {path:?}")]
    System {
        /// The system call.
        call: &'static str,
        /// What it was about.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

pub(crate) fn fail(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_path_buf();
    move |errno| Error::System { call, path, source: errno.into() }
}

/// Where containers find a volume in this guest.
pub fn data_dir(root: &Path, volume: &VolumeId) -> PathBuf {
    root.join("volumes").join(volume.as_str()).join("data")
}

/// Binds `volume` of the store at `root` onto `target`, an existing directory that is not a link.
/// Revisions that come later are seen there, too. Needs `CAP_SYS_ADMIN`.
pub fn bind(root: &Path, volume: &str, target: &Path) -> Result<(), Error> {
    let volume = VolumeId::parse(volume)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = open(target, flags, Mode::empty()).map_err(fail("open", target))?;
    bind_at(root, &volume, place.as_fd(), target)
}

/// The same onto a directory that is open already; `target` is its name in errors.
pub(crate) fn bind_at(
    root: &Path,
    volume: &VolumeId,
    place: BorrowedFd<'_>,
    target: &Path,
) -> Result<(), Error> {
    let data = data_dir(root, volume);
    // Past no link: who has taken the receiver over may write below the root, and this is root.
    let below = data.strip_prefix(root).unwrap_or(&data);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = open(root, flags, Mode::empty()).map_err(fail("open", root))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let source = match openat2(&above, below, flags, Mode::empty(), resolve) {
        Ok(source) => source,
        Err(Errno::NOENT) => return Err(Error::Missing(volume.clone())),
        Err(errno) => return Err(fail("openat2", &data)(errno)),
    };
    let hidden = Hidden::make(root)?;
    let stage = hidden.stage()?;
    let copy = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(source, "", copy).map_err(fail("open_tree", &data))?;
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", CWD, &stage, from).map_err(fail("move_mount", &stage))?;
    // A remount sets all flags, so the filesystem's own have to be said again.
    let own = statvfs(&stage).map_err(fail("statvfs", &stage))?.f_flag;
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::BIND;
    flags.set(MountFlags::NOEXEC, own.contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    mount_remount(&stage, flags, "").map_err(fail("mount", &stage))?;
    let onto = MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(CWD, &stage, place, "", onto).map_err(fail("move_mount", target))
}

/// A directory that nobody else looks into, removed with what is mounted on it.
struct Hidden(PathBuf);

impl Hidden {
    /// Process ids do not tell hooks apart: each container's are its own.
    fn make(root: &Path) -> Result<Self, Error> {
        let mut name = [0; 8];
        rand::fill(&mut name).expect("the system has random bytes");
        let path = root.join(format!("bind-{:016x}", u64::from_ne_bytes(name)));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(fail("mkdir", &path))?;
        Ok(Self(path))
    }

    /// A place to mount on and to move away from. The kernel moves nothing away from a mount that
    /// is shared, as everything below systemd's is: so it lies in a mount of its own.
    fn stage(&self) -> Result<PathBuf, Error> {
        mount_bind(&self.0, &self.0).map_err(fail("mount", &self.0))?;
        mount_change(&self.0, MountPropagationFlags::PRIVATE).map_err(fail("mount", &self.0))?;
        Ok(self.0.clone())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // After a move the one mount is left that holds nothing; after a failure two may be.
        while unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        let _ = rustix::fs::rmdir(&self.0);
    }
}
