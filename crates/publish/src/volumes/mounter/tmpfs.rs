//! [`Tmpfs`]: each volume is a filesystem in memory, with its own limits.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_bind, mount_change, mount_remount, move_mount, unmount,
};

use ::volumes::name::VolumeId;

use super::{Mounter, Places, Space};
use crate::dir::{Caller, Dir};
use crate::system::Steps;
use crate::volumes::error::Error;
use crate::volumes::layout::{NEW, VOLUMES, remove};

/// Most mounts on one place that are removed: ours is one, and a killed agent left at most another.
const STACKED_MAX: u32 = 8;

/// A tmpfs per volume: `nosuid`, `nodev`, `noexec` unless something may run, never swapped where the kernel knows
/// how, and with a size. Needs `CAP_SYS_ADMIN`.
pub struct Tmpfs {
    places: Places,
    caller: Caller,
}

impl Tmpfs {
    /// Makes `root` a private mount of its own, if it is none: mounts can be moved only below one
    /// that does not hand them on to others.
    pub fn prepare(root: &Path, steps: Option<Arc<dyn Steps>>) -> Result<Self, Error> {
        let caller = Caller { steps: steps.clone(), shown: root.to_path_buf() };
        let before = Places::prepare(root, steps.clone())?;
        if !before.root.is_mount("")? {
            let bind = || mount_bind(root, root);
            caller.write("mount", bind).map_err(caller.fail("mount", ""))?;
        }
        let private = || mount_change(root, MountPropagationFlags::PRIVATE);
        caller.write("mount", private).map_err(caller.fail("mount", ""))?;
        // What was opened before is below the mount, not in it.
        Ok(Self { places: Places::prepare(root, steps)?, caller })
    }

    /// A tmpfs that is mounted nowhere yet.
    fn detached(&self, may_run: bool, space: Space) -> Result<OwnedFd, Error> {
        let fail = |call| self.caller.fail(call, "tmpfs");
        let open = || fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC);
        let context = self.caller.read("fsopen", open).map_err(fail("fsopen"))?;
        let options = [
            ("source", "sealift".to_owned()),
            ("size", space.bytes.to_string()),
            ("nr_inodes", space.inodes.to_string()),
            ("mode", "0755".to_owned()),
        ];
        for (key, value) in options {
            let set = || fsconfig_set_string(context.as_fd(), key, value.as_str());
            self.caller.read("fsconfig", set).map_err(fail("fsconfig"))?;
        }
        // Linux 6.4 and later, and not for the root of a user namespace.
        let unswapped = || fsconfig_set_flag(context.as_fd(), "noswap");
        match self.caller.read("fsconfig", unswapped) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(fail("fsconfig")(errno).into()),
        }
        let create = || fsconfig_create(context.as_fd());
        self.caller.read("fsconfig", create).map_err(fail("fsconfig"))?;
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        if !may_run {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
        }
        let mount = || fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        Ok(self.caller.read("fsmount", mount).map_err(fail("fsmount"))?)
    }

    /// Takes our mount away and leaves those that containers have of the same filesystem.
    fn detach(&self, dir: &Dir, place: &str, id: &VolumeId) -> Result<(), Error> {
        for _ in 0..STACKED_MAX {
            if !dir.is_mount(id.as_str())? {
                break;
            }
            let path = through(dir).join(id.as_str());
            let detach = || unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            let fail = self.caller.fail("umount2", self.places.path(place, id));
            self.caller.write("umount2", detach).map_err(fail)?;
        }
        Ok(remove(dir, id.as_str())?)
    }
}

/// A path that leads to what is held open, for calls that know only paths. By name, whoever may
/// write below the root could have put a link in the way, to somebody else's mount.
fn through(dir: &Dir) -> PathBuf {
    format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()).into()
}

impl Mounter for Tmpfs {
    fn create(&self, id: &VolumeId, may_run: bool, space: Space) -> Result<(), Error> {
        let mount = self.detached(may_run, space)?;
        let new = &self.places.new;
        new.create_dir(id.as_str(), 0o755)?;
        let attach = || {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount.as_fd(), "", new.as_fd(), id.as_str(), flags)
        };
        let fail = self.caller.fail("move_mount", self.places.path(NEW, id));
        Ok(self.caller.write("move_mount", attach).map_err(fail)?)
    }

    fn adjust(&self, id: &VolumeId, may_run: bool, space: Space) -> Result<(), Error> {
        let Places { new, volumes, .. } = &self.places;
        let (above, place) = if self.is_published(id)? { (volumes, VOLUMES) } else { (new, NEW) };
        let unknown = || Error::Unknown { id: id.clone() };
        let dir = above.mounted(id.as_str())?.ok_or_else(unknown)?;
        if !dir.is_mount("")? {
            return Err(unknown());
        }
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::NOEXEC, !may_run);
        let options = format!("size={},nr_inodes={}", space.bytes, space.inodes);
        let remount = || mount_remount(through(&dir), flags, options.as_str());
        let fail = self.caller.fail("mount", self.places.path(place, id));
        Ok(self.caller.write("mount", remount).map_err(fail)?)
    }

    fn publish(&self, id: &VolumeId) -> Result<(), Error> {
        let Places { new, volumes, .. } = &self.places;
        // Left by an attempt that failed.
        volumes.rmdir(id.as_str())?;
        let show = || {
            let flags = MoveMountFlags::empty();
            move_mount(new.as_fd(), id.as_str(), volumes.as_fd(), id.as_str(), flags)
        };
        let fail = self.caller.fail("move_mount", self.places.path(VOLUMES, id));
        let shown = volumes
            .create_dir(id.as_str(), 0o755)
            .and_then(|_| self.caller.write("move_mount", show).map_err(fail));
        if let Err(error) = shown {
            // An empty directory at which no volume is; the next attempt removes it, too.
            let _ = volumes.rmdir(id.as_str());
            return Err(error.into());
        }
        Ok(())
    }

    fn tidy(&self, id: &VolumeId) -> Result<(), Error> {
        self.detach(&self.places.new, NEW, id)
    }

    fn is_published(&self, id: &VolumeId) -> Result<bool, Error> {
        Ok(self.places.volumes.is_mount(id.as_str())?)
    }

    fn remove(&self, id: &VolumeId) -> Result<(), Error> {
        self.detach(&self.places.volumes, VOLUMES, id)?;
        self.detach(&self.places.new, NEW, id)
    }
}

impl fmt::Debug for Tmpfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tmpfs").field(&self.places.root.shown()).finish()
    }
}
