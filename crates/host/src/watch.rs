//! [`Watch`]: one inotify instance that tells which volumes switched.
//!
//! | kernel | means |
//! |---|---|
//! | `..data` moved into, or made in, the volume's directory | [`Event::Changed`] |
//! | the directory was removed, moved away or unmounted | [`Event::Gone`] |
//! | the queue overflowed | [`Event::Overflow`] |
//! | anything else | nothing |
//!
//! A volume that did not change causes no wake-up. Add a volume first and take its snapshot then:
//! a switch in between is reported, and the other way round would be lost.

mod record;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, read};
use volumes::name::VolumeId;

use self::record::Records;
use crate::Error;
use crate::snapshot::DATA;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The volume has another revision. Several switches in a row may be one event.
    Changed(VolumeId),
    /// The volume's directory is not there any more, and is no longer watched. If something else is
    /// at its path, as when a tmpfs was unmounted, it can be added again.
    Gone(VolumeId),
    /// Events were lost: every volume may have changed, or be gone.
    Overflow,
}

/// Watches the directories of volumes, thousands with one descriptor. Per volume it holds the name
/// twice and one inotify watch.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    /// Two paths may lead to one directory, which has one descriptor.
    volumes: HashMap<i32, Vec<VolumeId>>,
    descriptors: HashMap<VolumeId, i32>,
}

impl Watch {
    /// The shortest buffer for [`Watch::read`], in bytes: one event with the longest name. 64 KiB
    /// hold some thousand.
    pub const BUFFER_BYTES_MIN: usize = record::HEADER_BYTES + 256;

    /// One inotify instance. [`Error::InstancesExhausted`] if there is none left.
    pub fn new() -> Result<Self, Error> {
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(fd) => Ok(Self { fd, volumes: HashMap::new(), descriptors: HashMap::new() }),
            Err(Errno::MFILE | Errno::NFILE) => Err(Error::InstancesExhausted),
            Err(errno) => Err(Error::io("inotify_init1", Path::new("inotify"), errno)),
        }
    }

    /// Watches the volume's directory at `path`, which is not a link. Adding a volume again makes
    /// sure that it is the directory now at `path` that is watched: after an overflow, or when
    /// kubelet may have mounted a tmpfs there in the meantime.
    pub fn add(&mut self, volume: &VolumeId, path: &Path) -> Result<(), Error> {
        let descriptor =
            inotify::add_watch(&self.fd, path, WATCHED).map_err(|errno| refused(errno, path))?;
        if self.descriptors.get(volume) != Some(&descriptor) {
            self.remove(volume);
            self.descriptors.insert(volume.clone(), descriptor);
            self.volumes.entry(descriptor).or_default().push(volume.clone());
        }
        Ok(())
    }

    /// Watches it no longer. False: it was not watched.
    pub fn remove(&mut self, volume: &VolumeId) -> bool {
        let Some(descriptor) = self.descriptors.remove(volume) else { return false };
        if let Some(sharing) = self.volumes.get_mut(&descriptor) {
            sharing.retain(|other| other != volume);
            if sharing.is_empty() {
                self.volumes.remove(&descriptor);
                // The kernel has removed it already if the directory is gone.
                let _ = inotify::remove_watch(&self.fd, descriptor);
            }
        }
        true
    }

    /// How many volumes are watched.
    pub fn len(&self) -> usize {
        self.descriptors.len()
    }

    /// Whether none is watched.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// For polling: readable when there is something to [read](Self::read).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What happened since, as far as it fits into `buffer`; the rest stays readable. Each volume is
    /// in it once at most. Empty if nothing of interest happened; never waits. A buffer shorter than
    /// [`Watch::BUFFER_BYTES_MIN`] may be refused with [`Error::Io`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Vec<Event>, Error> {
        loop {
            match read(&self.fd, &mut *buffer) {
                Ok(count) => return Ok(self.understand(&buffer[..count])),
                Err(Errno::AGAIN) => return Ok(Vec::new()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("read", Path::new("inotify"), errno)),
            }
        }
    }

    /// What the kernel's records mean.
    fn understand(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut overflow = false;
        let mut changed = BTreeSet::new();
        let mut gone = Vec::new();
        for record in Records::new(bytes) {
            // A record that makes no sense hides others.
            let Some(record) = record else {
                overflow = true;
                break;
            };
            if record.happened.contains(ReadFlags::QUEUE_OVERFLOW) {
                overflow = true;
            } else if record.happened.intersects(VANISHED) {
                changed.remove(&record.descriptor);
                gone.extend(self.forget(record.descriptor));
            } else if record.happened.intersects(APPEARED) && record.name == DATA.as_bytes() {
                changed.insert(record.descriptor);
            }
        }
        let volumes = changed.iter().filter_map(|descriptor| self.volumes.get(descriptor));
        let changed = volumes.flatten().cloned().map(Event::Changed);
        let overflow = overflow.then_some(Event::Overflow);
        overflow.into_iter().chain(changed).chain(gone.into_iter().map(Event::Gone)).collect()
    }

    fn forget(&mut self, descriptor: i32) -> Vec<VolumeId> {
        let volumes = self.volumes.remove(&descriptor).unwrap_or_default();
        for volume in &volumes {
            self.descriptors.remove(volume);
        }
        if !volumes.is_empty() {
            // Of one that was only moved away.
            let _ = inotify::remove_watch(&self.fd, descriptor);
        }
        volumes
    }
}

/// Why a directory is not watched.
fn refused(errno: Errno, path: &Path) -> Error {
    match errno {
        Errno::NOSPC => Error::WatchesExhausted,
        Errno::NOENT => Error::Gone { path: path.to_path_buf() },
        Errno::NOTDIR | Errno::LOOP => {
            Error::Layout { path: path.to_path_buf(), why: "not a directory" }
        }
        errno => Error::io("inotify_add_watch", path, errno),
    }
}

const WATCHED: WatchFlags = WatchFlags::MOVED_TO
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);
const APPEARED: ReadFlags = ReadFlags::MOVED_TO.union(ReadFlags::CREATE);
/// `IGNORED` is the last record of a watch, also of one that we removed and know no more.
const VANISHED: ReadFlags = ReadFlags::DELETE_SELF
    .union(ReadFlags::MOVE_SELF)
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::IGNORED);

#[cfg(test)]
mod tests;
