//! [`Store`]: the guest's volumes, each always exactly one revision.
//!
//! ```text
//! <root>/new/<id>/            a volume that nobody sees yet, or no longer
//! <root>/volumes/<id>/        a volume: a filesystem of its own, or a directory
//!     data/                   what containers see, in the layout of Kubernetes' AtomicWriter
//!         ..data -> ..7       which revision is current: the one place that is switched
//!         ..7/                a revision: files and directories, owners and modes exact
//!         key -> ..data/key   one link for each name at the top of the revision
//!     staging/                contents that arrived (`blob-<digest>`), the revision in the making
//!     records/7               what revision 7 is
//! ```
//!
//! # States
//!
//! A commit builds `staging/..8` and `records/8`, makes the links of new names in `staging/links/`,
//! moves `..8` into `data/`, and replaces `..data` by one rename. Then it moves the new links in,
//! removes those of names that are gone, and empties `staging/`. A link is there before its name
//! only if the name was in the revision before, so nobody ever finds a name of both revisions
//! missing, or a link that dangles and will not.
//!
//! | found after a kill | then |
//! | --- | --- |
//! | anything in `new/` | it is removed |
//! | a volume without `..data` | it is removed |
//! | `..data` names 7, and 8 is anywhere | 8 is removed, with its record and what was staged |
//! | `..data` names 8, and 7 is there | links are completed; 7 is removed when its grace is over |
//!
//! So nothing becomes current by recovering, and nothing that was current ceases to be.
//!
//! # What is trusted
//!
//! The kernel, and the records. What a volume's directory holds beyond its record is removed, never
//! followed; contents are not verified again, since those that were sealed have changed.

mod error;
mod hash;
mod layout;
mod mounter;
mod record;
mod recover;
mod revision;
mod staging;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::volumes::name::{Category, TreePath, VolumeId};
use ::volumes::tree::{Digest, Limits, Tree};

pub use self::error::Error;
use self::error::within;
use self::layout::{DATA, NEW, RECORDS, STAGING, VOLUMES, remove};
use self::mounter::Places;
pub use self::mounter::{Mounter, PlainDirectories, Space, Tmpfs};
use self::recover::recover;
use self::revision::{is_empty, lacking, sealed};
use self::staging::Contents;
pub use self::staging::SEALED_PREFIX;
use self::volume::{Current, Volume};
use crate::dir::Dir;
use crate::system::Steps;

/// Most names that are looked at below the root.
const NAMES_MAX: usize = 65_536;

/// What is configured.
#[derive(Clone)]
pub struct Options {
    /// How long a revision stays after another one became current: for who holds a directory of it
    /// open.
    pub grace: Duration,
    /// Most revisions of a volume that may exist at once, at least 2: the current one and those
    /// within their grace.
    pub revisions_max: u32,
    /// Most volumes.
    pub volumes_max: usize,
    /// Told of every system call. `None` outside tests.
    pub steps: Option<Arc<dyn Steps>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { grace: Duration::from_secs(2), revisions_max: 3, volumes_max: 1_024, steps: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("grace", &self.grace)
            .field("revisions_max", &self.revisions_max)
            .field("volumes_max", &self.volumes_max)
            .field("steps", &self.steps.is_some())
            .finish()
    }
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The revision is current now.
    New,
    /// It was current already.
    Already,
}

/// A volume, as it is.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Its name.
    pub id: &'a VolumeId,
    /// What it is for and what it may hold. `None`: its record is damaged.
    pub kind: Option<(Category, Limits)>,
    /// What is current.
    pub state: HeldState<'a>,
    /// Earlier revisions that still exist.
    pub previous: usize,
    /// Contents that are staged, in whole or in part.
    pub staged: usize,
}

impl<'a> Held<'a> {
    fn of(volume: &'a Volume) -> Self {
        Self {
            id: &volume.id,
            kind: volume.kind,
            state: match &volume.current {
                Current::Nothing => HeldState::Nothing,
                Current::Damaged { sequence } => HeldState::Damaged { sequence: *sequence },
                Current::Revision { sequence, tree, .. } => {
                    HeldState::Revision { sequence: *sequence, digest: tree.digest(), tree }
                }
            },
            previous: volume.previous.len(),
            staged: volume.contents.count(),
        }
    }
}

/// What a volume holds.
#[derive(Debug, Clone, Copy)]
pub enum HeldState<'a> {
    /// Nothing: it was created, and nobody sees it.
    Nothing,
    /// A revision that can be read, but whose record cannot: the next commit replaces it.
    Damaged {
        /// Its sequence number; the next one's must be higher.
        sequence: u64,
    },
    /// A revision.
    Revision {
        /// Its sequence number.
        sequence: u64,
        /// The tree's digest.
        digest: Digest,
        /// What it holds, with lengths and digests as on the wire.
        tree: &'a Tree,
    },
}

/// What [`Store::expire`] did.
#[derive(Debug, Default)]
#[must_use = "says when to call again"]
pub struct Expiry {
    /// When to call again. `None`: not before the next commit.
    pub next: Option<Instant>,
    /// What could not be removed; it is tried again at `next`.
    pub failures: Vec<(VolumeId, Error)>,
}

/// All volumes below a root. One process at a time.
pub struct Store {
    places: Places,
    options: Options,
    mounter: Box<dyn Mounter>,
    volumes: BTreeMap<VolumeId, Volume>,
}

impl Store {
    /// Opens what is below `root`, which is made if it is missing, and brings each volume to exactly
    /// one revision; see the table in the module's documentation.
    pub fn open(
        root: &Path,
        options: Options,
        mounter: Box<dyn Mounter>,
        now: Instant,
    ) -> Result<Self, Error> {
        let places = Places::prepare(root, options.steps.clone())?;
        places.root.lock()?;
        let mut store = Self { places, options, mounter, volumes: BTreeMap::new() };
        for id in store.ids(NEW)? {
            store.hide_or_remove(&id)?;
        }
        for id in store.ids(VOLUMES)? {
            if let Some(volume) = store.recover(&id, now)? {
                store.volumes.insert(id, volume);
            } else {
                store.mounter.remove(&id)?;
            }
        }
        Ok(store)
    }

    fn recover(&self, id: &VolumeId, now: Instant) -> Result<Option<Volume>, Error> {
        if !self.mounter.is_published(id)? {
            return Ok(None);
        }
        let until = now + self.options.grace;
        match self.places.volumes.mounted(id.as_str())? {
            Some(dir) => recover(id, dir, until, self.options.revisions_max),
            None => Ok(None),
        }
    }

    /// The names in a place; what cannot be a volume's is removed.
    fn ids(&self, place: &str) -> Result<Vec<VolumeId>, Error> {
        let dir = if place == NEW { &self.places.new } else { &self.places.volumes };
        let mut ids = Vec::new();
        for name in dir.names(NAMES_MAX)? {
            match name.to_str().and_then(|name| VolumeId::parse(name).ok()) {
                Some(id) => ids.push(id),
                None => remove(dir, &name)?,
            }
        }
        Ok(ids)
    }

    /// Removes a hidden place, without touching a visible one of that name.
    fn hide_or_remove(&self, id: &VolumeId) -> Result<(), Error> {
        match self.mounter.is_published(id)? {
            // What is left of where it was before it was shown.
            true => self.mounter.tidy(id),
            false => self.mounter.remove(id),
        }
    }

    /// All volumes, by name.
    pub fn held(&self) -> impl Iterator<Item = Held<'_>> {
        self.volumes.values().map(Held::of)
    }

    /// One volume.
    pub fn get(&self, id: &VolumeId) -> Option<Held<'_>> {
        self.volumes.get(id).map(Held::of)
    }

    /// Whether contents are staged, complete, or part of the current revision.
    pub fn holds(&self, id: &VolumeId, digest: &Digest) -> bool {
        self.volumes.get(id).is_some_and(|volume| {
            let current = volume.current.lengths().is_some_and(|held| held.contains_key(digest));
            current || is_empty(digest) || volume.contents.complete(digest).is_some()
        })
    }

    /// Makes a volume, which nobody sees before its first commit. One that is there already, of the
    /// same category, gets these limits; a damaged one also the category.
    pub fn create(
        &mut self,
        id: &VolumeId,
        category: Category,
        limits: Limits,
    ) -> Result<(), Error> {
        within("entries of a volume", u64::from(limits.entries), u64::from(Limits::MAX.entries))?;
        within("bytes of a volume", limits.bytes, Limits::MAX.bytes)?;
        let space = Space::of(limits, self.options.revisions_max.max(2));
        if let Some(volume) = self.volumes.get_mut(id) {
            match volume.kind {
                Some(kind) if kind == (category, limits) => return Ok(()),
                Some((held, _)) if held != category => {
                    return Err(Error::OtherCategory { id: id.clone(), held, asked: category });
                }
                _ => {
                    let executable = volume.current.tree().is_some_and(Tree::executable);
                    self.mounter.adjust(id, category.may_run(executable), space)?;
                }
            }
            volume.kind = Some((category, limits));
            return Ok(());
        }
        let count = self.volumes.len() as u64 + 1;
        within("volumes", count, self.options.volumes_max as u64)?;
        // What a removal that failed may have left.
        self.mounter.remove(id)?;
        let made =
            self.mounter.create(id, category.may_run(false), space).and_then(|()| self.fill(id));
        let dir = made.inspect_err(|_| {
            // The first error is the one to report; the next start removes it, too.
            let _ = self.mounter.remove(id);
        })?;
        let volume = Volume {
            id: id.clone(),
            dir,
            kind: Some((category, limits)),
            current: Current::Nothing,
            previous: Vec::new(),
            contents: Contents::default(),
            untidy: false,
        };
        self.volumes.insert(id.clone(), volume);
        Ok(())
    }

    /// Makes a new volume's directories.
    fn fill(&self, id: &VolumeId) -> Result<Dir, Error> {
        let mut dir = self
            .places
            .new
            .mounted(id.as_str())?
            .ok_or_else(|| Error::Unknown { id: id.clone() })?;
        dir.create_dir(DATA, 0o755)?;
        dir.create_dir(STAGING, 0o700)?;
        dir.create_dir(RECORDS, 0o700)?;
        dir.moved_to(self.places.path(VOLUMES, id));
        Ok(dir)
    }

    /// Takes a piece of contents: `data` at `offset` of `bytes_total`. Pieces come in order; one at
    /// 0 begins again. Returns how many bytes are there now: with the last piece the digest is
    /// verified. Contents that are staged or current already need not be sent, and are not written.
    pub fn put(
        &mut self,
        id: &VolumeId,
        digest: Digest,
        bytes_total: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<u64, Error> {
        let volume = self.volume(id)?;
        let (_, limits) = volume.kind()?;
        let held = volume.current.lengths().and_then(|held| held.get(&digest).copied());
        match held.or(is_empty(&digest).then_some(0)) {
            Some(said) if said == bytes_total => return Ok(said),
            Some(said) => return Err(Error::Length { digest, found: bytes_total, said }),
            None => {}
        }
        let staging = volume.staging()?;
        let put = volume.contents.put(&staging, limits, digest, bytes_total, offset, data);
        put.map(|(written, _)| written)
    }

    /// The same for contents whose digest the sender does not know, one at a time. Returns it with
    /// the last piece; from then on they are as if they had been put under it.
    pub fn put_unnamed(
        &mut self,
        id: &VolumeId,
        bytes_total: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<Option<Digest>, Error> {
        let volume = self.volume(id)?;
        let (_, limits) = volume.kind()?;
        let staging = volume.staging()?;
        let unnamed = Digest::UNNAMED;
        let (_, named) =
            volume.contents.put(&staging, limits, unnamed, bytes_total, offset, data)?;
        let current = volume.current.lengths();
        if let Some(digest) = named.filter(|digest| {
            is_empty(digest) || current.is_some_and(|held| held.contains_key(digest))
        }) {
            volume.contents.forget(&staging, &digest);
        }
        Ok(named)
    }

    /// Staged contents that are complete, to be read. `None`: they are not staged.
    pub fn staged(&self, id: &VolumeId, digest: Digest) -> Result<Option<File>, Error> {
        let volume = self.volumes.get(id).ok_or_else(|| Error::Unknown { id: id.clone() })?;
        volume.contents.open(&volume.staging()?, &digest)
    }

    /// The contents of `tree` that are staged, begin with [`SEALED_PREFIX`], and have to be
    /// [replaced](Self::replace) before it can be committed; with their lengths.
    pub fn sealed(&self, id: &VolumeId, tree: &Tree) -> Result<BTreeMap<Digest, u64>, Error> {
        let volume = self.volumes.get(id).ok_or_else(|| Error::Unknown { id: id.clone() })?;
        Ok(sealed(volume.current.lengths(), &volume.contents, tree))
    }

    /// Exchanges staged contents by what was sealed in them, filed under the same digest. What was
    /// sealed may not be sealed again. With `only_at` no revision is committed, now or later, in
    /// which they are at another path.
    pub fn replace(
        &mut self,
        id: &VolumeId,
        digest: Digest,
        plaintext: &[u8],
        only_at: Option<TreePath>,
    ) -> Result<(), Error> {
        let volume = self.volume(id)?;
        let (_, limits) = volume.kind()?;
        let staging = volume.staging()?;
        volume.contents.replace(&staging, limits, digest, plaintext, only_at)
    }

    /// The contents that have to be [put](Self::put) before `tree` can be committed.
    pub fn lacks(&self, id: &VolumeId, tree: &Tree) -> Result<Vec<Digest>, Error> {
        let volume = self.volumes.get(id).ok_or_else(|| Error::Unknown { id: id.clone() })?;
        lacking(volume.current.lengths(), &volume.contents, tree)
    }

    /// Makes `tree` the current revision, in one step. On any error but [`Error::Untidy`] the one
    /// before stays current, whole and alone, and what is staged stays for another attempt.
    ///
    /// `clock` is [`Instant::now`] but in tests; it is read again when the grace of what was current
    /// begins.
    pub fn commit(
        &mut self,
        id: &VolumeId,
        sequence: u64,
        tree: &Tree,
        clock: impl Fn() -> Instant,
    ) -> Result<Committed, Error> {
        let volume = self.volumes.get_mut(id).ok_or_else(|| Error::Unknown { id: id.clone() })?;
        volume.commit(sequence, tree, &clock, &self.options, &*self.mounter)
    }

    /// Removes revisions whose grace is over, and what a commit could not tidy up.
    pub fn expire(&mut self, now: Instant) -> Expiry {
        let mut expiry = Expiry::default();
        let retry = now + self.options.grace;
        for volume in self.volumes.values_mut() {
            let tidied = volume.tidy(&*self.mounter);
            if let Err(error) = tidied.and_then(|()| volume.expire(now).map(drop)) {
                volume.postpone(now, self.options.grace);
                expiry.failures.push((volume.id.clone(), error));
            }
            expiry.next = expiry.next.into_iter().chain(volume.deadline(retry)).min();
        }
        expiry
    }

    /// Removes a volume. Containers that have it mounted keep what they see. Nothing there is
    /// success.
    pub fn remove(&mut self, id: &VolumeId) -> Result<(), Error> {
        // Closes it first: an open directory would keep its memory.
        drop(self.volumes.remove(id));
        self.mounter.remove(id)
    }

    /// Removes what is staged.
    pub fn discard(&mut self, id: &VolumeId) -> Result<(), Error> {
        self.volume(id)?.discard()
    }

    fn volume(&mut self, id: &VolumeId) -> Result<&mut Volume, Error> {
        self.volumes.get_mut(id).ok_or_else(|| Error::Unknown { id: id.clone() })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("mounter", &self.mounter)
            .field("options", &self.options)
            .field("volumes", &self.volumes.keys())
            .finish()
    }
}
