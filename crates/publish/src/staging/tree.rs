//! [`Tree`]: the staging directory and the files in it.

use rustix::fs::OFlags;

use super::{Done, Journal};
use crate::destination::Destination;
use crate::dir::{Dir, File};
use crate::error::Error;
use crate::exact::{Wanted, exact};
use crate::layout::{OLD, STAGING, TREE};
use crate::plan::{Plan, directories};

/// The staging directory, complete: all files are there with their final sizes and modes, though
/// their content may not be.
pub(crate) struct Tree {
    pub(crate) staging: Dir,
    pub(crate) done: Done,
    /// Bytes that the filesystem has given the files, none counted beyond its planned pages.
    pub(crate) allocated: u64,
    tree: Dir,
}

impl Tree {
    /// Makes the staging directory. The journal comes last: a kill before leaves refuse.
    pub(crate) fn create(destination: &Destination, plan: &Plan) -> Result<Self, Error> {
        let staging = destination.dir().create_dir(STAGING, 0o700)?;
        staging.create_dir(OLD, 0o700)?;
        let tree = staging.create_dir(TREE, 0o755)?;
        let paths = plan.files.iter().map(|file| file.path.as_str());
        for path in directories(paths).into_keys().filter(|path| !path.is_empty()) {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            tree.existing(parent)?.create_dir(name, 0o755)?;
        }
        for planned in &plan.files {
            let file = tree.create_file(&planned.path, planned.mode)?;
            file.resize(planned.bytes)?;
            // The umask does not decide who reads a model.
            file.chmod(planned.mode)?;
        }
        let done = Done::create(&staging, &plan.files)?;
        Journal::new(plan).write(&staging, destination.is_durable())?;
        Ok(Self { staging, done, allocated: 0, tree })
    }

    /// The staging directory of an earlier run, if it is of this plan, in memory, and whole.
    pub(crate) fn resumable(destination: &Destination, plan: &Plan) -> Result<Option<Self>, Error> {
        match Self::read(destination, plan) {
            // Not as we left it.
            Err(Error::InTheWay { .. }) => Ok(None),
            other => other,
        }
    }

    fn read(destination: &Destination, plan: &Plan) -> Result<Option<Self>, Error> {
        if !destination.filesystem().is_memory() {
            return Ok(None);
        }
        let Some(staging) = destination.staging()? else { return Ok(None) };
        let journal = Journal::read(&staging)?;
        if journal.is_none_or(|journal| journal != Journal::new(plan)) {
            return Ok(None);
        }
        let Some(done) = Done::read(&staging, &plan.files)? else { return Ok(None) };
        let (Some(tree), Some(_)) = (staging.dir(TREE)?, staging.dir(OLD)?) else {
            return Ok(None);
        };
        match exact(&tree, wanted(plan), &[])? {
            Some(allocated) => Ok(Some(Self { staging, done, allocated, tree })),
            None => Ok(None),
        }
    }

    /// Refuses to publish anything but what was planned, whoever put it there.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), Error> {
        match exact(&self.tree, wanted(plan), &[])? {
            Some(_) => Ok(()),
            None => Err(Error::InTheWay { path: self.tree.shown().to_path_buf() }),
        }
    }

    /// Opens a file of the tree.
    pub(crate) fn open(&self, path: &str, access: OFlags) -> Result<File, Error> {
        let missing = || Error::InTheWay { path: self.tree.shown().join(path) };
        self.tree.file(path, access)?.ok_or_else(missing)
    }

    /// Flushes content and names of the tree to the device.
    pub(crate) fn sync(&self, plan: &Plan) -> Result<(), Error> {
        for planned in &plan.files {
            self.open(&planned.path, OFlags::RDONLY)?.sync()?;
        }
        let paths = plan.files.iter().map(|file| file.path.as_str());
        for path in directories(paths).into_keys() {
            self.tree.existing(path)?.sync()?;
        }
        Ok(())
    }
}

fn wanted(plan: &Plan) -> impl Iterator<Item = Wanted<'_>> {
    plan.files.iter().map(|file| (&*file.path, file.bytes, file.mode))
}
