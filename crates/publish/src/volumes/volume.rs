//! [`Volume`]: one volume, and how it goes from one revision to the next.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ::volumes::name::{Category, VolumeId};
use ::volumes::tree::{Digest, Limits, Node, Tree};

use super::error::{Error, within};
use super::layout::{
    CURRENT, CURRENT_NEW, DATA, LINKS, RECORDS, STAGING, link_target, parse_revision, remove,
    retain, revision_name, tops,
};
use super::mounter::{Mounter, Space};
use super::record::Record;
use super::revision::{Sources, build, check, lacking, lengths, sealed};
use super::staging::{Contents, Opened};
use super::{Committed, Options};
use crate::dir::Dir;
use crate::wipe::empty;

/// One volume.
pub(super) struct Volume {
    pub(super) id: VolumeId,
    pub(super) dir: Dir,
    /// `None`: its record was damaged, and it was not created again since.
    pub(super) kind: Option<(Category, Limits)>,
    pub(super) current: Current,
    /// Revisions that may still be held open somewhere, oldest first.
    pub(super) previous: Vec<Previous>,
    pub(super) contents: Contents,
    /// Something that is not of the current revision could not be removed, or a link not be made.
    pub(super) untidy: bool,
}

/// What is current.
pub(super) enum Current {
    /// Nothing yet; nobody sees the volume.
    Nothing,
    /// Something that can be read, but nobody knows what it should be.
    Damaged { sequence: u64 },
    /// A revision, the lengths on the wire of the contents in it, and what was sealed in them.
    Revision {
        sequence: u64,
        tree: Tree,
        lengths: HashMap<Digest, u64>,
        opened: HashMap<Digest, Opened>,
    },
}

/// A revision that was current.
pub(super) struct Previous {
    pub(super) sequence: u64,
    pub(super) until: Instant,
}

impl Current {
    pub(super) fn revision(sequence: u64, tree: Tree, opened: HashMap<Digest, Opened>) -> Self {
        Self::Revision { sequence, lengths: lengths(&tree), opened, tree }
    }

    /// What was sealed in contents of the revision; `None`: they are as they came.
    fn opened(&self, digest: &Digest) -> Option<&Opened> {
        match self {
            Self::Revision { opened, .. } => opened.get(digest),
            Self::Nothing | Self::Damaged { .. } => None,
        }
    }

    pub(super) fn lengths(&self) -> Option<&HashMap<Digest, u64>> {
        match self {
            Self::Revision { lengths, .. } => Some(lengths),
            Self::Nothing | Self::Damaged { .. } => None,
        }
    }

    pub(super) fn tree(&self) -> Option<&Tree> {
        match self {
            Self::Revision { tree, .. } => Some(tree),
            Self::Nothing | Self::Damaged { .. } => None,
        }
    }

    pub(super) fn sequence(&self) -> Option<u64> {
        match self {
            Self::Revision { sequence, .. } | Self::Damaged { sequence } => Some(*sequence),
            Self::Nothing => None,
        }
    }
}

impl Volume {
    pub(super) fn kind(&self) -> Result<(Category, Limits), Error> {
        self.kind.ok_or_else(|| Error::Damaged { id: self.id.clone() })
    }

    pub(super) fn staging(&self) -> Result<Dir, Error> {
        Ok(self.dir.existing(STAGING)?)
    }

    /// Makes `tree` the current revision.
    pub(super) fn commit(
        &mut self,
        sequence: u64,
        tree: &Tree,
        clock: &dyn Fn() -> Instant,
        options: &Options,
        mounter: &dyn Mounter,
    ) -> Result<Committed, Error> {
        let (category, limits) = self.kind()?;
        let digest = tree.digest();
        if let Current::Revision { sequence: held_sequence, tree: held, .. } = &self.current
            && *held_sequence == sequence
        {
            if held.digest() != digest {
                return Err(Error::Conflict { sequence, held: held.digest(), asked: digest });
            }
            self.tidy(mounter)?;
            return Ok(Committed::Already);
        }
        if let Some(held) = self.current.sequence().filter(|held| *held >= sequence) {
            return Err(Error::Stale { sequence, held });
        }
        within("entries", tree.nodes().len() as u64, u64::from(limits.entries))?;
        within("bytes", tree.bytes(), limits.bytes)?;
        let missing = lacking(self.current.lengths(), &self.contents, tree)?;
        if let Some(first) = missing.first() {
            return Err(Error::Lacking { count: missing.len(), first: *first });
        }
        let sealed = sealed(self.current.lengths(), &self.contents, tree);
        if let Some(first) = sealed.keys().next() {
            return Err(Error::Sealed { count: sealed.len(), first: *first });
        }
        let opened = self.opened(tree, limits)?;
        self.make_room(clock(), options)?;
        let runs = |tree: &Tree| category.may_run(tree.executable());
        if runs(tree) && !self.current.tree().map_or(category.may_run(false), runs) {
            let space = Space::of(limits, options.revisions_max.max(2));
            mounter.adjust(&self.id, true, space)?;
        }

        let bound =
            |(digest, opened): (&Digest, &Opened)| opened.only_at.is_some().then_some(*digest);
        let record = Record {
            id: self.id.clone(),
            category,
            limits,
            sequence,
            tree: tree.clone(),
            bound: opened.iter().filter_map(bound).collect(),
        };
        match self.switch(&record, mounter) {
            Ok(()) => {}
            Err(error) => {
                // The first error is the one to report. What cannot be removed now is removed by
                // the next commit or start; it is in no revision.
                let _ = self.undo(sequence);
                if let Some(held) = self.damaged()? {
                    // Nothing of it is taken over any more: what comes next has to be whole.
                    self.current = Current::Damaged { sequence: held };
                    return self.commit(sequence, tree, clock, options, mounter);
                }
                return Err(error);
            }
        }
        let old =
            std::mem::replace(&mut self.current, Current::revision(sequence, record.tree, opened));
        self.contents.clear();
        if let Some(sequence) = old.sequence() {
            // From now on, however long the building took: until now somebody may have opened it.
            self.previous.push(Previous { sequence, until: clock() + options.grace });
        }
        let finished = match old {
            Current::Revision { tree, .. } if !self.untidy => {
                self.finish(&tree, tree_of(&self.current))
            }
            // Its links were put there before anybody could see them.
            Current::Nothing => mounter.tidy(&self.id).and_then(|()| self.empty_staging()),
            _ => self.settle(),
        };
        self.untidy = finished.is_err();
        match finished {
            Ok(()) => Ok(Committed::New),
            Err(error) => Err(Error::Untidy { sequence, source: Box::new(error) }),
        }
    }

    /// The current revision's number, if somebody has changed what is in it.
    fn damaged(&self) -> Result<Option<u64>, Error> {
        let Current::Revision { sequence, tree, .. } = &self.current else { return Ok(None) };
        let whole = match self.dir.existing(DATA)?.dir(revision_name(*sequence)) {
            Ok(Some(revision)) => check(&revision, tree)?.is_some(),
            Ok(None) | Err(crate::Error::InTheWay { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        Ok((!whole).then_some(*sequence))
    }

    /// What was sealed in contents of `tree`, whose lengths count instead of their own, and which has
    /// to be where it may be.
    fn opened(&self, tree: &Tree, limits: Limits) -> Result<HashMap<Digest, Opened>, Error> {
        let (mut found, mut sum) = (HashMap::new(), 0_u64);
        for (path, node) in tree.nodes() {
            let Node::File { bytes, digest, .. } = node else { continue };
            let opened = self.current.opened(digest).or_else(|| self.contents.opened(digest));
            sum = sum.saturating_add(opened.map_or(*bytes, |opened| opened.bytes));
            let Some(opened) = opened else { continue };
            if let Some(only_at) = opened.only_at.as_ref().filter(|only_at| *only_at != path) {
                return Err(Error::Bound { path: path.clone(), only_at: only_at.clone() });
            }
            found.insert(*digest, opened.clone());
        }
        within("bytes when opened", sum, limits.bytes)?;
        Ok(found)
    }

    /// Removes revisions whose grace is over. Returns when the next one's is.
    pub(super) fn expire(&mut self, now: Instant) -> Result<Option<Instant>, Error> {
        let over = |previous: &Previous| previous.until <= now;
        if self.previous.iter().any(over) {
            let data = self.dir.existing(DATA)?;
            while let Some(index) = self.previous.iter().position(over) {
                remove(&data, revision_name(self.previous[index].sequence))?;
                self.previous.remove(index);
            }
        }
        Ok(self.previous.iter().map(|previous| previous.until).min())
    }

    /// Does what a commit left undone.
    pub(super) fn tidy(&mut self, mounter: &dyn Mounter) -> Result<(), Error> {
        if !self.untidy {
            return Ok(());
        }
        let sequence = self.current.sequence().unwrap_or_default();
        let settled = mounter.tidy(&self.id).and_then(|()| self.settle());
        settled.map_err(|error| Error::Untidy { sequence, source: Box::new(error) })?;
        self.untidy = false;
        Ok(())
    }

    fn make_room(&mut self, now: Instant, options: &Options) -> Result<(), Error> {
        let next = self.expire(now)?;
        let live = self.previous.len() + usize::from(self.current.sequence().is_some());
        match next {
            Some(next) if live >= options.revisions_max.max(2) as usize => {
                Err(Error::TooSoon { retry_after: next.saturating_duration_since(now) })
            }
            _ => Ok(()),
        }
    }

    /// Everything up to the rename after which the revision is current; of the first revision, up
    /// to the moment when the volume is seen. An error means that it is not.
    fn switch(&self, record: &Record, mounter: &dyn Mounter) -> Result<(), Error> {
        let Record { sequence, tree, .. } = record;
        let [data, staging, records] = [DATA, STAGING, RECORDS].map(|name| self.dir.existing(name));
        let (data, staging, records) = (data?, staging?, records?);
        let name = revision_name(*sequence);
        remove(&staging, &name)?;
        remove(&staging, LINKS)?;
        remove(&data, &name)?;

        let top = staging.create_dir(&name, 0o700)?;
        let current = match &self.current {
            Current::Revision { sequence, tree, .. } => {
                Some((data.existing(&revision_name(*sequence))?, tree))
            }
            Current::Nothing | Current::Damaged { .. } => None,
        };
        let sources = Sources {
            current: current.as_ref().map(|(dir, tree)| (dir, *tree)),
            staging: &staging,
        };
        build(&top, tree, &sources)?;
        write_record(&records, record)?;

        // Made where nobody sees them, so that afterwards there is only moving to be done: that
        // takes no space.
        let held = self.current.tree().map(tops).unwrap_or_default();
        let new: Vec<&str> = tops(tree).difference(&held).copied().collect();
        if !new.is_empty() {
            let links = staging.create_dir(LINKS, 0o700)?;
            for top in &new {
                links.symlink(&link_target(top), top)?;
            }
        }
        staging.shift(&name, &data, &name)?;
        let root = tree.root();
        top.own(root.uid, root.gid, root.mode)?;
        data.unlink(CURRENT_NEW)?;
        data.symlink(&name, CURRENT_NEW)?;
        data.replace(CURRENT_NEW, CURRENT)?;
        if let Current::Nothing = self.current {
            move_links(&staging, &data, &new)?;
            mounter.publish(&self.id)?;
        }
        Ok(())
    }

    /// Removes what [`Self::switch`] made before it failed.
    fn undo(&self, sequence: u64) -> Result<(), Error> {
        let [data, staging, records] = [DATA, STAGING, RECORDS].map(|name| self.dir.existing(name));
        let (data, staging, records) = (data?, staging?, records?);
        let name = revision_name(sequence);
        let undone = match &self.current {
            Current::Nothing => [empty(&data), empty(&records)],
            _ => [
                data.unlink(CURRENT_NEW).map(drop).and(remove(&data, &name)),
                remove_record(&records, sequence),
            ],
        };
        let staged = [remove(&staging, &name), remove(&staging, LINKS)];
        for result in undone.into_iter().chain(staged) {
            result?;
        }
        Ok(())
    }

    /// After the switch: adds the links of names that are new, removes those that dangle now, and
    /// what is not needed any more.
    fn finish(&self, old: &Tree, new: &Tree) -> Result<(), Error> {
        let data = self.dir.existing(DATA)?;
        let (old_tops, new_tops) = (tops(old), tops(new));
        let added: Vec<&str> = new_tops.difference(&old_tops).copied().collect();
        if !added.is_empty() {
            move_links(&self.staging()?, &data, &added)?;
        }
        for gone in old_tops.difference(&new_tops) {
            remove(&data, gone)?;
        }
        self.empty_staging()?;
        for previous in &self.previous {
            remove_record(&self.dir.existing(RECORDS)?, previous.sequence)?;
        }
        Ok(())
    }

    /// Brings all of the volume but the revisions themselves into the state that follows from what
    /// is current, whatever it is in.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let data = self.dir.existing(DATA)?;
        let current = self.current.sequence();
        let revision = |name: &[u8]| {
            parse_revision(name).is_some_and(|sequence| {
                let previous = self.previous.iter().any(|previous| previous.sequence == sequence);
                previous || Some(sequence) == current
            })
        };
        let mut missing = self.current.tree().map(tops);
        retain(&data, |name| {
            if name == CURRENT.as_bytes() || revision(name) {
                return Ok(true);
            }
            // Without a record, what is not of the layout itself may be a name of the revision.
            let Some(missing) = &mut missing else { return Ok(!name.starts_with(b"..")) };
            let Some(top) = str::from_utf8(name).ok().filter(|name| missing.contains(name)) else {
                return Ok(false);
            };
            let right =
                data.read_link(top)?.is_some_and(|link| link == link_target(top).as_bytes());
            if right {
                missing.remove(top);
            }
            Ok(right)
        })?;
        let links = self.staging()?.dir(LINKS)?;
        for top in missing.unwrap_or_default() {
            match &links {
                Some(links) if links.stat(top)?.is_some() => links.move_over(top, &data, top)?,
                _ => data.symlink(&link_target(top), top)?,
            }
        }
        self.empty_staging()?;
        let records = self.dir.existing(RECORDS)?;
        let own = current.map(|sequence| sequence.to_string()).unwrap_or_default();
        Ok(retain(&records, |name| Ok(name == own.as_bytes()))?)
    }

    /// Removes what is in `staging/` and not known to be staged.
    fn empty_staging(&self) -> Result<(), Error> {
        Ok(retain(&self.staging()?, |name| Ok(self.contents.knows(name)))?)
    }

    /// Forgets and removes what was staged.
    pub(super) fn discard(&mut self) -> Result<(), Error> {
        self.contents.clear();
        self.empty_staging()
    }

    /// When something is left to be done; `None`: nothing is.
    pub(super) fn deadline(&self, retry: Instant) -> Option<Instant> {
        let untidy = self.untidy.then_some(retry);
        self.previous.iter().map(|previous| previous.until).chain(untidy).min()
    }

    /// Puts off what could not be removed.
    pub(super) fn postpone(&mut self, now: Instant, delay: Duration) {
        for previous in self.previous.iter_mut().filter(|previous| previous.until <= now) {
            previous.until = now + delay;
        }
    }
}

fn tree_of(current: &Current) -> &Tree {
    current.tree().expect("it was set to a revision just before")
}

fn move_links(staging: &Dir, data: &Dir, names: &[&str]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let links = staging.existing(LINKS)?;
    names.iter().try_for_each(|name| Ok(links.move_over(name, data, name)?))
}

fn write_record(records: &Dir, record: &Record) -> Result<(), Error> {
    let name = record.sequence.to_string();
    let new = format!("{name}.new");
    records.unlink(&new)?;
    let file = records.create_file(&new, 0o600)?;
    file.write_at(&record.to_bytes(), 0)?;
    Ok(records.move_over(&new, records, &name)?)
}

fn remove_record(records: &Dir, sequence: u64) -> Result<(), crate::Error> {
    records.unlink(format!("{sequence}.new"))?;
    records.unlink(sequence.to_string()).map(drop)
}
