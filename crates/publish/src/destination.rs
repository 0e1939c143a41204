//! [`Destination`]: the directory that a tree is published into.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use crate::dir::{Dir, is_dir};
use crate::error::Error;
use crate::exact::exact;
use crate::filesystem::Filesystem;
use crate::layout::{JOURNAL, LOST_AND_FOUND, OLD_RECEIPT, RECEIPT, STAGING};
use crate::plan::{Plan, tops};
use crate::preflight::{Preflight, preflight};
use crate::receipt::Receipt;
use crate::staging::{Journal, Phase, Staging};
use crate::switch::roll_back;
use crate::system::System;
use crate::wipe;

/// Where plaintext may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Also on filesystems that are neither memory nor encrypted by this machine.
    pub allow_disk: bool,
}

/// An open directory to publish into. Cheap to clone.
#[derive(Clone)]
pub struct Destination(Arc<Inner>);

struct Inner {
    dir: Dir,
    filesystem: Filesystem,
    system: System,
}

impl Destination {
    /// Opens the directory at `path`, or makes it, with its parents. It must not be a symbolic link;
    /// what is above it is the caller's configuration and may contain some.
    pub fn open(path: &Path, policy: &Policy) -> Result<Self, Error> {
        Self::open_with(path, policy, System::default())
    }

    /// [`Self::open`] on a machine of the test's choice.
    pub fn open_with(path: &Path, policy: &Policy, system: System) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(|source| Error::Io {
            call: "getcwd",
            path: path.into(),
            source,
        })?;
        // Nothing is made on a filesystem that will be refused.
        let mut missing = Vec::new();
        // Without a slash at the end, which would follow a link.
        let mut above = path.components().as_path();
        let mut dir = loop {
            if let Some(dir) = Dir::open(above, !missing.is_empty(), system.steps.clone())? {
                break dir;
            }
            let (Some(parent), Some(name)) = (above.parent(), above.file_name()) else {
                return Err(Error::InTheWay { path: path.clone() });
            };
            missing.push(name);
            above = parent;
        };
        let filesystem = Filesystem::of(&dir, &system.sys)?;
        if !filesystem.is_confidential() && !policy.allow_disk {
            return Err(Error::NotMemoryBacked { path: path.clone(), filesystem });
        }
        while let Some(name) = missing.pop() {
            dir = dir.create_dir(name, 0o755)?;
        }
        Ok(Self(Arc::new(Inner { dir, filesystem, system })))
    }

    /// What the directory is on.
    pub fn filesystem(&self) -> Filesystem {
        self.0.filesystem
    }

    /// The receipt of the tree that is published here. `None`: there is none, or none of ours.
    pub fn receipt(&self) -> Result<Option<Receipt>, Error> {
        Receipt::read(self.dir(), RECEIPT)
    }

    /// Whether exactly the tree of this receipt is here: every file with its size and mode, and
    /// nothing else but the receipt itself. Content is not read.
    pub fn holds(&self, receipt: &Receipt) -> Result<bool, Error> {
        let mut others = vec![RECEIPT];
        if self.dir().stat(LOST_AND_FOUND)?.is_some() {
            others.push(LOST_AND_FOUND);
        }
        let files = receipt.files.iter().map(|file| (&*file.path, file.bytes, file.mode));
        Ok(exact(self.dir(), files, &others)?.is_some())
    }

    /// Brings the destination into one of the states that a run may begin in, whatever the last run
    /// was killed at; see the table in the crate's documentation. What is staged of the manifest
    /// `keep` stays, if it can be trusted; everything else of ours but a whole published tree goes.
    /// Takes the destination's lock and holds it until the last handle on it is dropped.
    pub fn recover(&self, keep: Option<[u8; 32]>) -> Result<(), Error> {
        self.dir().lock()?;
        let staging = self.staging()?;
        let journal = staging.as_ref().map(Journal::read).transpose()?.flatten();
        let receipt = self.receipt()?;

        let mut ours = receipt.as_ref().map(|receipt| tops(receipt.paths())).unwrap_or_default();
        let publishing = journal.as_ref().filter(|journal| journal.phase == Phase::Publishing);
        let moved_out = match (&staging, publishing) {
            (Some(staging), Some(_)) => Receipt::read(staging, OLD_RECEIPT)?,
            _ => None,
        };
        ours.extend(publishing.iter().flat_map(|journal| tops(journal.paths())));
        ours.extend(moved_out.iter().flat_map(|receipt| tops(receipt.paths())));
        self.refuse_foreign(&ours)?;

        if let (Some(staging), Some(journal)) = (&staging, publishing) {
            if receipt.is_some_and(|receipt| receipt.manifest_digest == journal.digest) {
                return self.wipe_staging();
            }
            roll_back(self.dir(), staging, &tops(journal.paths()), self.is_durable())?;
        }
        let resumable = |journal: &Journal| {
            self.filesystem().is_memory() && keep.map(hex::encode) == Some(journal.digest.clone())
        };
        match (&staging, journal) {
            (Some(staging), Some(mut journal)) if resumable(&journal) => {
                if journal.phase == Phase::Publishing {
                    journal.phase = Phase::Staging;
                    journal.write(staging, self.is_durable())?;
                }
            }
            _ => self.wipe_staging()?,
        }
        // A receipt that is not readable is of nothing, and there is nothing else here.
        if self.receipt()?.is_none() && !self.dir().unlink(RECEIPT)? {
            return Err(self.not_empty(RECEIPT));
        }
        Ok(())
    }

    /// Whether the tree fits. To be asked after [`recover`](Self::recover), which frees space.
    pub fn preflight(&self, plan: &Plan) -> Result<Preflight, Error> {
        preflight(self, plan)
    }

    /// Begins to fill a new tree beside what is published, or continues with one that an earlier run
    /// left. Recovers first, if that was not done.
    pub fn stage(&self, plan: &Plan) -> Result<Staging, Error> {
        plan.check()?;
        self.recover(Some(plan.digest))?;
        Staging::begin(self.clone(), plan)
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.0.dir
    }

    pub(crate) fn system(&self) -> &System {
        &self.0.system
    }

    /// Whether content has to be flushed to survive.
    pub(crate) fn is_durable(&self) -> bool {
        !self.filesystem().is_memory()
    }

    /// The staging directory, if there is one.
    pub(crate) fn staging(&self) -> Result<Option<Dir>, Error> {
        match self.dir().dir(STAGING) {
            Err(Error::InTheWay { .. }) => Ok(None),
            other => other,
        }
    }

    /// Refuses if there is anything here but our own names and `ours`.
    pub(crate) fn refuse_foreign(&self, ours: &BTreeSet<&str>) -> Result<(), Error> {
        // Ours, and one more that is not.
        let max = ours.len() + 4;
        for name in self.dir().names(max)? {
            let known = name.to_str().is_some_and(|name| {
                [STAGING, RECEIPT, LOST_AND_FOUND].contains(&name) || ours.contains(name)
            });
            if !known {
                return Err(self.not_empty(&name.to_string_lossy()));
            }
        }
        Ok(())
    }

    /// Removes the staging directory, the journal first: from then on the rest is refuse.
    pub(crate) fn wipe_staging(&self) -> Result<(), Error> {
        if let Some(staging) = self.staging()? {
            staging.unlink(JOURNAL)?;
            if self.is_durable() {
                staging.sync()?;
            }
            wipe::empty(&staging)?;
        }
        // By now it is an empty directory, or something else that was planted under our name.
        match self.dir().stat(STAGING)? {
            Some(stat) if is_dir(&stat) && !self.dir().rmdir(STAGING)? => {
                Err(Error::InTheWay { path: self.dir().shown().join(STAGING) })
            }
            Some(stat) if !is_dir(&stat) => self.dir().unlink(STAGING).map(drop),
            _ => Ok(()),
        }
    }

    fn not_empty(&self, name: &str) -> Error {
        Error::NotEmpty { path: self.dir().shown().to_path_buf(), name: name.to_owned() }
    }
}

impl AsFd for Destination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir().as_fd()
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("path", &self.dir().shown())
            .field("filesystem", &self.filesystem())
            .finish()
    }
}
