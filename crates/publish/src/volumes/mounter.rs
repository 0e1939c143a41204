//! [`Mounter`]: who makes the place of a volume, shows it in one step, and removes it.

mod tmpfs;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::volumes::name::VolumeId;
use ::volumes::tree::Limits;

pub use self::tmpfs::Tmpfs;
use super::error::Error;
use super::layout::{NEW, VOLUMES, remove};
use super::record::Record;
use crate::dir::{Dir, is_dir};
use crate::preflight::pages;
use crate::system::Steps;

/// Makes and removes the places of volumes: `<root>/new/<id>` while nobody may see it,
/// `<root>/volumes/<id>` afterwards. Takes names and numbers only, so that it may live in another
/// process than the [`Store`](super::Store).
pub trait Mounter: Send + fmt::Debug {
    /// Makes an empty hidden place, of mode 0755, with so much room; whether what is in it may be
    /// run. Nothing of that name is there.
    fn create(&self, id: &VolumeId, may_run: bool, space: Space) -> Result<(), Error>;

    /// The same of a place that exists, hidden or visible.
    fn adjust(&self, id: &VolumeId, may_run: bool, space: Space) -> Result<(), Error>;

    /// Makes the hidden place the visible one, in one step.
    fn publish(&self, id: &VolumeId) -> Result<(), Error>;

    /// Removes what publishing may have left where the hidden place was.
    fn tidy(&self, id: &VolumeId) -> Result<(), Error>;

    /// Whether a place that was made here is visible.
    fn is_published(&self, id: &VolumeId) -> Result<bool, Error>;

    /// Removes both places with everything in them. Nothing there is success.
    fn remove(&self, id: &VolumeId) -> Result<(), Error>;
}

/// How much room a volume's filesystem needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes, a multiple of the page size.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl Space {
    /// Enough for `revisions` revisions and one that is being staged, none of which shares anything
    /// with another, and for what describes them.
    pub fn of(limits: Limits, revisions: u32) -> Self {
        let trees = u64::from(revisions) + 1;
        let entries = u64::from(limits.entries);
        // Each file may waste a page but for a byte. A link of more than 128 bytes takes a page;
        // those of the next revision are made while the others are there.
        let links = 2 * entries;
        // The record, and its successor in the making; also the tmpfs's own bookkeeping.
        let records = 3 * pages(Record::bytes_max(limits));
        let files = trees.saturating_mul(pages(limits.bytes).saturating_add(pages(1) * entries));
        Self {
            bytes: files.saturating_add(pages(1) * links).saturating_add(records),
            // The volume's root, `data`, `staging`, `records`, `links`, `..data`, its successor and
            // three records, with room.
            inodes: trees * (entries + 1) + links + 16,
        }
    }
}

/// The directories that the places are in.
pub(super) struct Places {
    pub(super) root: Dir,
    pub(super) new: Dir,
    pub(super) volumes: Dir,
}

impl Places {
    /// Opens `<root>`, `new/` and `volumes/`, making what is missing.
    pub(super) fn prepare(path: &Path, steps: Option<Arc<dyn Steps>>) -> Result<Self, Error> {
        let mut above = path;
        let mut missing = Vec::new();
        let mut root = loop {
            match Dir::open(above, false, steps.clone())? {
                Some(dir) => break dir,
                None => match (above.parent(), above.file_name()) {
                    (Some(parent), Some(name)) => {
                        missing.push(name);
                        above = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    }
                    _ => return Err(crate::Error::InTheWay { path: path.to_path_buf() }.into()),
                },
            }
        };
        while let Some(name) = missing.pop() {
            root = root.create_dir(name, 0o755)?;
        }
        let place = |name, mode| match root.mounted(name)? {
            Some(dir) => Ok(dir),
            None => root.create_dir(name, mode),
        };
        let (new, volumes) = (place(NEW, 0o700)?, place(VOLUMES, 0o755)?);
        Ok(Self { root, new, volumes })
    }

    pub(super) fn path(&self, place: &str, id: &VolumeId) -> PathBuf {
        self.root.shown().join(place).join(id.as_str())
    }
}

/// No mounts: places are directories of the root's filesystem, shown by a rename and without limits
/// of their own. For where nobody may mount, and for tests.
pub struct PlainDirectories(Places);

impl PlainDirectories {
    /// Below `root`, which is made if it is missing.
    pub fn prepare(root: &Path, steps: Option<Arc<dyn Steps>>) -> Result<Self, Error> {
        Ok(Self(Places::prepare(root, steps)?))
    }
}

impl Mounter for PlainDirectories {
    fn create(&self, id: &VolumeId, _: bool, _: Space) -> Result<(), Error> {
        self.0.new.create_dir(id.as_str(), 0o755)?;
        Ok(())
    }

    fn adjust(&self, _: &VolumeId, _: bool, _: Space) -> Result<(), Error> {
        Ok(())
    }

    fn publish(&self, id: &VolumeId) -> Result<(), Error> {
        let Places { new, volumes, .. } = &self.0;
        match new.shift(id.as_str(), volumes, id.as_str())? {
            true => Ok(()),
            false => Err(Error::Unknown { id: id.clone() }),
        }
    }

    fn tidy(&self, id: &VolumeId) -> Result<(), Error> {
        Ok(remove(&self.0.new, id.as_str())?)
    }

    fn is_published(&self, id: &VolumeId) -> Result<bool, Error> {
        Ok(self.0.volumes.stat(id.as_str())?.is_some_and(|stat| is_dir(&stat)))
    }

    fn remove(&self, id: &VolumeId) -> Result<(), Error> {
        let Places { new, volumes, .. } = &self.0;
        remove(new, id.as_str())?;
        // Out of sight in one step, then piece by piece.
        volumes.shift(id.as_str(), new, id.as_str())?;
        Ok(remove(new, id.as_str())?)
    }
}

impl fmt::Debug for PlainDirectories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlainDirectories").field(&self.0.root.shown()).finish()
    }
}
