//! Publishers with one bug each, as seen in the field: a checker that misses one is no checker.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::kills::{Outcome, Publisher};
use crate::oracle::{Model, segments};

/// The bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Writes straight to the final names, then the receipt.
    InPlace,
    /// Writes the receipt before the files are in place.
    ReceiptFirst,
    /// Publishes each file as soon as that one is whole.
    FileByFile,
    /// Removes the old model, then writes the new one.
    DeleteThenCreate,
    /// Leaves the old receipt while it exchanges the files.
    KeepsOldReceipt,
    /// Never removes its staging directory.
    LeavesResidue,
    /// Stages where everybody can read.
    OpenStaging,
    /// Uses a staging directory that was there before, whatever it is.
    FollowsLinks,
    /// Takes the first file that it finds staged for whole.
    TrustsResidue,
}

impl Planted {
    /// Each bug that a single kill shows, with the words in which the oracle must complain of it.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::InPlace, "is of no whole model"),
        (Self::ReceiptFirst, "a receipt, but"),
        (Self::FileByFile, "before the whole new model was there"),
        (Self::DeleteThenCreate, "before the whole new model was there"),
        (Self::KeepsOldReceipt, "a receipt, but"),
        (Self::LeavesResidue, "residue"),
        (Self::OpenStaging, "anybody can read it"),
        (Self::FollowsLinks, "outside was touched"),
        (Self::TrustsResidue, "is not of its model"),
    ];
}

/// A publisher as one would first write it: stages, switches by renames, receipt last. It survives
/// any one kill, but forgets what an interrupted switch had moved, so not any two.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    /// What else is wrong with it.
    pub bug: Option<Planted>,
}

impl Publisher for Plain {
    fn run(&self, destination: &Path, new: &Model, kill_at: Option<u64>) -> Outcome {
        let mut run = Run { bug: self.bug, destination, new, steps: 0, kill_at };
        match run.publish() {
            Ok(()) => Outcome::Done,
            Err(_) if Some(run.steps) == kill_at => Outcome::Killed,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

struct Run<'a> {
    bug: Option<Planted>,
    destination: &'a Path,
    new: &'a Model,
    steps: u64,
    kill_at: Option<u64>,
}

impl Run<'_> {
    fn has(&self, bug: Planted) -> bool {
        self.bug == Some(bug)
    }

    /// One step. A kill is an error that nothing handles.
    fn step(&mut self) -> anyhow::Result<()> {
        self.steps += 1;
        anyhow::ensure!(Some(self.steps) != self.kill_at, "killed");
        Ok(())
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let staging = self.destination.join(".sealift-staging");
        let tree = staging.join("tree");
        if self.has(Planted::InPlace) {
            self.write(self.destination)?;
            return self.receipt(self.destination);
        }
        if self.has(Planted::DeleteThenCreate) {
            self.remove_published()?;
        }
        let trusts = self.has(Planted::FollowsLinks) || self.has(Planted::TrustsResidue);
        if !trusts && staging.symlink_metadata().is_ok() {
            self.step()?;
            if staging.is_symlink() {
                fs::remove_file(&staging)?;
            } else {
                fs::remove_dir_all(&staging)?;
            }
        }

        self.step()?;
        let mode = if self.has(Planted::OpenStaging) { 0o755 } else { 0o700 };
        fs::DirBuilder::new().mode(mode).recursive(true).create(&staging)?;
        fs::DirBuilder::new().recursive(true).create(staging.join("old"))?;
        if !self.has(Planted::FileByFile) {
            self.write(&tree)?;
        }
        if self.has(Planted::ReceiptFirst) {
            self.receipt(&staging)?;
        }
        let receipt = self.destination.join(".sealift-receipt.json");
        let keeps = self.has(Planted::KeepsOldReceipt) || self.has(Planted::ReceiptFirst);
        if !keeps && receipt.exists() {
            self.step()?;
            fs::rename(&receipt, staging.join("old-receipt.json"))?;
        }
        self.move_out(&staging)?;
        match self.has(Planted::FileByFile) {
            true => self.write(self.destination)?,
            false => self.move_in(&tree)?,
        }
        self.receipt(&staging)?;
        if !self.has(Planted::LeavesResidue) {
            self.step()?;
            fs::remove_dir_all(&staging)?;
        }
        Ok(())
    }

    fn write(&mut self, top: &Path) -> anyhow::Result<()> {
        for (path, (mode, content)) in &self.new.files {
            let path = top.join(path);
            if self.has(Planted::TrustsResidue) && path.exists() {
                continue;
            }
            self.step()?;
            fs::create_dir_all(path.parent().expect("it is below the destination"))?;
            let mut file = fs::OpenOptions::new();
            let mut file = file.write(true).create(true).truncate(true).mode(*mode).open(path)?;
            for (_, _, bytes) in segments(content) {
                self.step()?;
                file.write_all(bytes)?;
            }
        }
        Ok(())
    }

    /// Writes the receipt in `at`, then moves it into place.
    fn receipt(&mut self, at: &Path) -> anyhow::Result<()> {
        let new = at.join("receipt.json");
        self.step()?;
        fs::write(&new, serde_json::to_vec(&self.new.receipt())?)?;
        self.step()?;
        Ok(fs::rename(new, self.destination.join(".sealift-receipt.json"))?)
    }

    fn published(&self) -> anyhow::Result<Vec<std::ffi::OsString>> {
        let names = fs::read_dir(self.destination)?.map(|entry| Ok(entry?.file_name()));
        let ours = |name: &std::ffi::OsString| !name.to_string_lossy().starts_with(".sealift");
        Ok(names.collect::<std::io::Result<Vec<_>>>()?.into_iter().filter(ours).collect())
    }

    fn remove_published(&mut self) -> anyhow::Result<()> {
        self.step()?;
        let _ = fs::remove_file(self.destination.join(".sealift-receipt.json"));
        for name in self.published()? {
            self.step()?;
            let path = self.destination.join(name);
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }

    fn move_out(&mut self, staging: &Path) -> anyhow::Result<()> {
        for name in self.published()? {
            self.step()?;
            fs::rename(self.destination.join(&name), staging.join("old").join(name))?;
        }
        Ok(())
    }

    fn move_in(&mut self, tree: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(tree)? {
            let name = entry?.file_name();
            self.step()?;
            fs::rename(tree.join(&name), self.destination.join(name))?;
        }
        Ok(())
    }
}
