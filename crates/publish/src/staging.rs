//! [`Staging`]: the new tree while it is being filled.

mod done;
mod journal;
mod tree;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::OFlags;

pub(crate) use self::done::Done;
pub(crate) use self::journal::{Journal, Phase, to_json, write_file};
pub(crate) use self::tree::Tree;
use crate::destination::Destination;
use crate::dir::File;
use crate::error::Error;
use crate::layout::{NEW_RECEIPT, RECEIPT};
use crate::plan::{Plan, PlannedFile, tops};
use crate::receipt::Receipt;
use crate::switch::{roll_back, switch};

/// A tree being filled in `.sealift-staging/` of a destination, where nobody but its owner can read.
///
/// Ends in one of three ways: [`publish`](Self::publish), [`discard`](Self::discard) or
/// [`keep`](Self::keep). If the process ends before, the next one's
/// [`recover`](Destination::recover) decides.
#[must_use = "what is staged takes space until it is published or discarded"]
pub struct Staging {
    destination: Destination,
    plan: Plan,
    shared: Arc<Shared>,
    resumed_bytes: u64,
}

/// What the writers of the files share.
struct Shared {
    tree: Tree,
    /// Whether segments may still be written. Writers hold it for reading while they write, so that
    /// none is in the middle of it when the tree is published.
    open: RwLock<bool>,
}

impl Staging {
    /// Continues with what `recover` left of this plan, or begins.
    pub(crate) fn begin(destination: Destination, plan: &Plan) -> Result<Self, Error> {
        let (tree, resumed) = match Tree::resumable(&destination, plan)? {
            Some(tree) => (tree, true),
            None => {
                destination.wipe_staging()?;
                let tree = Tree::create(&destination, plan).inspect_err(|_| {
                    // The first error is the one to report; what is left is refuse by definition.
                    let _ = destination.wipe_staging();
                })?;
                (tree, false)
            }
        };
        let resumed_bytes = if resumed { done_bytes(&tree.done, plan) } else { 0 };
        let shared = Arc::new(Shared { tree, open: RwLock::new(true) });
        Ok(Self { destination, plan: plan.clone(), shared, resumed_bytes })
    }

    /// Bytes that an earlier run staged, to within a segment per file. For progress.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// Whether a segment is written. False for one that does not exist.
    pub fn is_done(&self, file: usize, segment: u32) -> bool {
        let exists = self.plan.files.get(file).is_some_and(|file| segment < file.segments);
        exists && self.shared.tree.done.is_set(file, segment)
    }

    /// Opens a file, by its index in the plan, to write segments. May be done several times.
    pub fn open_file(&self, file: usize) -> Result<StagedFile, Error> {
        let planned = self.planned(file)?;
        Ok(StagedFile {
            file: self.shared.tree.open(&planned.path, OFlags::RDWR)?,
            index: file,
            path: planned.path.clone(),
            bytes: planned.bytes,
            segments: planned.segments,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Opens a file, by its index in the plan, to read what is staged of it.
    pub fn read_file(&self, file: usize) -> Result<std::fs::File, Error> {
        let planned = self.planned(file)?;
        Ok(self.shared.tree.open(&planned.path, OFlags::RDONLY)?.into_std())
    }

    fn planned(&self, file: usize) -> Result<&PlannedFile, Error> {
        let planned = self.plan.files.get(file);
        planned.ok_or_else(|| Error::InvalidPlan(format!("it has no file {file}")))
    }

    /// Makes the tree visible, in place of what was published before, and removes that.
    ///
    /// Refuses if a segment is missing. On any error but [`Error::Residue`] the destination is as it
    /// was, and what was staged is gone.
    pub fn publish(self, receipt: &Receipt) -> Result<(), Error> {
        self.close();
        match self.try_publish(receipt) {
            Ok(()) => {
                self.destination.wipe_staging().map_err(|error| Error::Residue(Box::new(error)))
            }
            Err(error) => {
                // If undoing fails too, the journal still says what to undo, and the next
                // `recover` does. The first error is the one to report.
                let _ = self.undo().and_then(|()| self.destination.wipe_staging());
                Err(error)
            }
        }
    }

    fn try_publish(&self, receipt: &Receipt) -> Result<(), Error> {
        let Self { destination, plan, shared, .. } = self;
        let tree = &shared.tree;
        plan.check_receipt(receipt)?;
        self.check_complete()?;
        tree.check(plan)?;
        let previous = destination.receipt()?;
        let old = previous.as_ref().map(|receipt| tops(receipt.paths())).unwrap_or_default();
        destination.refuse_foreign(&old)?;

        let durable = destination.is_durable();
        if durable {
            tree.sync(plan)?;
        }
        write_file(&tree.staging, NEW_RECEIPT, &to_json(receipt)?, 0o644, durable)?;
        let mut journal = Journal::new(plan);
        journal.phase = Phase::Publishing;
        journal.write(&tree.staging, durable)?;
        switch(destination.dir(), &tree.staging, &old, &tops(journal.paths()), durable)
    }

    fn undo(&self) -> Result<(), Error> {
        let destination = self.destination.dir();
        let staging = &self.shared.tree.staging;
        match Journal::read(staging)? {
            Some(journal) if journal.phase == Phase::Publishing => {
                // The flush after the last move can fail too.
                if staging.stat(NEW_RECEIPT)?.is_none() {
                    destination.shift(RECEIPT, staging, NEW_RECEIPT)?;
                }
                let new = tops(journal.paths());
                roll_back(destination, staging, &new, self.destination.is_durable())
            }
            _ => Ok(()),
        }
    }

    fn check_complete(&self) -> Result<(), Error> {
        for (index, file) in self.plan.files.iter().enumerate() {
            for segment in 0..file.segments {
                if !self.shared.tree.done.is_set(index, segment) {
                    return Err(Error::Incomplete { path: file.path.clone(), segment });
                }
            }
        }
        Ok(())
    }

    /// Removes everything staged. What was published before stays.
    pub fn discard(self) -> Result<(), Error> {
        self.close();
        self.destination.wipe_staging()
    }

    /// Leaves what is staged for a later run to resume; on a disk, where somebody could change it
    /// meanwhile, discards it.
    pub fn keep(self) {
        self.close();
        if !self.destination.filesystem().is_memory() {
            // What cannot be removed now is removed by the next run.
            let _ = self.destination.wipe_staging();
        }
    }

    /// Waits for writes in progress and refuses those to come.
    fn close(&self) {
        *self.shared.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging")
            .field("destination", &self.destination)
            .field("files", &self.plan.files.len())
            .field("resumed_bytes", &self.resumed_bytes)
            .finish_non_exhaustive()
    }
}

/// A staged file, open for writing. Several threads may write different segments at once.
pub struct StagedFile {
    file: File,
    index: usize,
    path: String,
    bytes: u64,
    segments: u32,
    shared: Arc<Shared>,
}

impl StagedFile {
    /// Writes all of a segment's bytes at `offset` in the file, then marks the segment done.
    pub fn write_segment(&self, segment: u32, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = offset.checked_add(bytes.len() as u64);
        if segment >= self.segments || end.is_none_or(|end| end > self.bytes) {
            return Err(Error::OutOfRange { path: self.path.clone(), segment });
        }
        let open = self.shared.open.read().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return Err(Error::Closed { path: self.path.clone() });
        }
        self.file.write_at(bytes, offset)?;
        self.shared.tree.done.set(self.index, segment)
    }
}

impl fmt::Debug for StagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How much of the plan is done, taking a file's segments as equally long.
fn done_bytes(done: &Done, plan: &Plan) -> u64 {
    let of_file = |(index, file): (usize, &PlannedFile)| {
        let segments = (0..file.segments).filter(|segment| done.is_set(index, *segment)).count();
        let bytes = u128::from(file.bytes) * segments as u128 / u128::from(file.segments.max(1));
        u64::try_from(bytes).unwrap_or(file.bytes)
    };
    plan.files.iter().enumerate().map(of_file).sum()
}
