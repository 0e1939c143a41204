//! [`Agent`]: the store behind the sessions, with the policy in front of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use aws_lc_rs::rand;
use publish::volumes::{Error, HeldState, Mounter, Options, Store};
use volumes::chain;
use volumes::name::{Category, TreePath, VolumeId};
use volumes::refusal::{Reason, Refusal};
use volumes::session::{Current, Volumes};
use volumes::tree::{Digest, Tree};
use volumes::wire::message::{Chunk, Held, OpenRequest, OpenResponse, VolumeStatus};

use crate::bind::data_dir;
use crate::policy::Policy;
use crate::server::lock;
use crate::unseal::{Opener, Unsealer, hopeless};

/// Memory that a content takes which is staged: how far it has come, and what opening it needs.
const CONTENT_BYTES: usize = 512;

/// The volumes of this guest.
#[derive(Debug)]
pub struct Agent {
    pub(crate) store: Store,
    pub(crate) unsealer: Option<Unsealer>,
    policy: Policy,
    root: PathBuf,
    instance: [u8; 16],
    notes: BTreeMap<VolumeId, Note>,
    /// The newest session that works with what is staged of a volume.
    claims: BTreeMap<VolumeId, u64>,
    /// Memory that sessions' drafts take.
    drafts: BTreeMap<u64, usize>,
    refusals: u64,
    /// When the first of the earlier revisions has to go.
    expires: Option<Instant>,
    keeper: Arc<Keeper>,
}

/// What is remembered of a volume beside its content.
#[derive(Debug)]
struct Note {
    committed: Instant,
    failure: String,
}

/// Wakes the thread that removes earlier revisions, when there is one to remove.
#[derive(Debug, Default)]
struct Keeper {
    due: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Agent {
    /// Opens the volumes below `root`, as they were left.
    pub fn open(
        root: &Path,
        policy: Policy,
        options: Options,
        mounter: Box<dyn Mounter>,
    ) -> Result<Self, Error> {
        let options = Options { volumes_max: policy.volumes, ..options };
        let now = Instant::now();
        let mut instance = [0; 16];
        rand::fill(&mut instance).expect("the system has random bytes");
        let mut agent = Self {
            store: Store::open(root, options, mounter, now)?,
            unsealer: None,
            policy,
            root: root.to_path_buf(),
            instance,
            notes: BTreeMap::new(),
            claims: BTreeMap::new(),
            drafts: BTreeMap::new(),
            refusals: 0,
            expires: None,
            keeper: Arc::default(),
        };
        for id in agent.store.held().map(|held| held.id.clone()).collect::<Vec<_>>() {
            agent.note(&id).committed = now;
        }
        agent.expire();
        Ok(agent)
    }

    /// Removes earlier revisions as their grace ends, for ever, on the calling thread; asleep while
    /// there is none.
    pub fn keep(agent: &Mutex<Self>) {
        let keeper = Arc::clone(&lock(agent).keeper);
        loop {
            let mut due = lock(&keeper.due);
            loop {
                let left = due.map(|due| due.saturating_duration_since(Instant::now()));
                due = match left {
                    Some(left) if left.is_zero() => break,
                    Some(left) => {
                        let waited = keeper.changed.wait_timeout(due, left);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => keeper.changed.wait(due).unwrap_or_else(PoisonError::into_inner),
                };
            }
            *due = None;
            drop(due);
            lock(agent).expire();
        }
    }

    fn expire(&mut self) {
        let expiry = self.store.expire(Instant::now());
        for (volume, error) in expiry.failures {
            tracing::warn!(%volume, error = %chain(&error), "an earlier revision remains");
        }
        self.expires = expiry.next;
        *lock(&self.keeper.due) = self.expires;
        self.keeper.changed.notify_one();
    }

    fn note(&mut self, volume: &VolumeId) -> &mut Note {
        let fresh = || Note { committed: Instant::now(), failure: String::new() };
        self.notes.entry(volume.clone()).or_insert_with(fresh)
    }

    /// At most `max` after `after`, and whether there are more.
    fn page<T>(
        &self,
        after: Option<&VolumeId>,
        max: usize,
        row: impl Fn(&publish::volumes::Held<'_>) -> T,
    ) -> (Vec<T>, bool) {
        let mut later = self.store.held().filter(|held| after.is_none_or(|after| held.id > after));
        let page = later.by_ref().take(max).map(|held| row(&held)).collect();
        (page, later.next().is_some())
    }

    fn forget_sealed(&mut self, volume: &VolumeId) {
        if let Some(unsealer) = &mut self.unsealer {
            unsealer.forget(volume);
        }
    }

    /// Files what was sealed in staged contents in their place. An error says why, for people.
    pub(crate) fn opened(
        &mut self,
        volume: &VolumeId,
        digest: Digest,
        plaintext: &[u8],
        only_at: Option<TreePath>,
    ) -> Result<(), String> {
        match self.store.replace(volume, digest, plaintext, only_at) {
            // Gone in the meantime: nobody waits for it.
            Ok(()) | Err(Error::Unknown { .. } | Error::Lacking { .. }) => Ok(()),
            Err(Error::Sealed { .. }) => Err("what is sealed in it is sealed again".into()),
            Err(error) => Err(refusal(&error).to_string()),
        }
    }

    /// Refuses a revision with sealed contents that are not opened yet, and sees to it that they are.
    fn unsealed(&mut self, volume: &VolumeId, tree: &Tree) -> Result<(), Refusal> {
        let sealed = self.store.sealed(volume, tree).map_err(|error| refusal(&error))?;
        if sealed.is_empty() {
            return Ok(());
        }
        let refused = hopeless(self.unsealer.is_some(), tree, &sealed);
        let unsealer = self.unsealer.as_mut();
        let opening = || unsealer.map(|unsealer| unsealer.open(volume, tree, &sealed));
        refused.or_else(opening).map_or(Ok(()), Err)
    }

    fn stored(&self, volume: &VolumeId) -> Option<publish::volumes::Held<'_>> {
        self.store.get(volume)
    }
}

/// Bytes that are known of a volume's entries and contents.
fn memory(held: &publish::volumes::Held<'_>) -> usize {
    let tree = match held.state {
        HeldState::Revision { tree, .. } => tree.memory(),
        HeldState::Nothing | HeldState::Damaged { .. } => 0,
    };
    tree + held.staged * CONTENT_BYTES
}

/// As the wire has it.
fn held(held: &publish::volumes::Held<'_>) -> Held {
    let (sequence, digest) = match held.state {
        HeldState::Nothing => (0, None),
        HeldState::Damaged { sequence } => (sequence, None),
        HeldState::Revision { sequence, digest, .. } => (sequence, Some(digest)),
    };
    // Of a damaged one the kind is unknown; the host says it again when it opens the volume.
    let category = held.kind.map_or(Category::Projected, |(category, _)| category);
    Held { volume: held.id.clone(), category, sequence, digest }
}

impl Volumes for Agent {
    fn instance(&self) -> [u8; 16] {
        self.instance
    }

    fn held(&self, after: Option<&VolumeId>, max: usize) -> (Vec<Held>, bool) {
        self.page(after, max, held)
    }

    fn held_one(&self, volume: &VolumeId) -> Option<Held> {
        self.stored(volume).as_ref().map(held)
    }

    fn status(&self, after: Option<&VolumeId>, max: usize) -> (Vec<VolumeStatus>, bool) {
        self.page(after, max, |stored| {
            let note = self.notes.get(stored.id);
            let (entries, bytes) = match stored.state {
                HeldState::Revision { tree, .. } => (tree.nodes().len(), tree.bytes()),
                _ => (0, 0),
            };
            VolumeStatus {
                held: held(stored),
                age_seconds: note.map_or(0, |note| note.committed.elapsed().as_secs()),
                entries: u32::try_from(entries).unwrap_or(u32::MAX),
                bytes,
                failure: note.map_or(String::new(), |note| note.failure.clone()),
            }
        })
    }

    fn open(&mut self, request: &OpenRequest) -> Result<OpenResponse, Refusal> {
        let (volume, category) = (&request.volume, request.category);
        if !self.policy.categories.contains(&category) {
            let what = format!("this guest takes no {category}");
            return Err(Refusal::new(Reason::Policy, what));
        }
        let limits = self.policy.grant(request.limits);
        self.store.create(volume, category, limits).map_err(|error| refusal(&error))?;
        // From now on its refusals are told, also before its first revision.
        self.note(volume);
        let held = self.held_one(volume).ok_or_else(|| {
            Refusal::new(Reason::Internal, "the volume is gone as soon as it was made")
        })?;
        let path = data_dir(&self.root, volume).to_string_lossy().into_owned();
        Ok(OpenResponse { held, path, limits })
    }

    fn current(&self, volume: &VolumeId) -> Option<Current<'_>> {
        let stored = self.stored(volume)?;
        let (category, limits) = stored.kind?;
        // Policy may have changed since the volume was made.
        if !self.policy.categories.contains(&category) {
            return None;
        }
        let limits = self.policy.grant(limits);
        Some(match stored.state {
            HeldState::Nothing => Current { sequence: 0, revision: None, limits },
            HeldState::Damaged { sequence } => Current { sequence, revision: None, limits },
            HeldState::Revision { sequence, digest, tree } => {
                Current { sequence, revision: Some((tree, digest)), limits }
            }
        })
    }

    fn holds(&self, volume: &VolumeId, content: &Digest) -> bool {
        self.store.holds(volume, content)
    }

    fn room(&self) -> usize {
        let volumes = self.store.held().map(|held| memory(&held));
        let taken: usize = volumes.chain(self.drafts.values().copied()).sum();
        self.policy.memory.saturating_sub(taken)
    }

    fn drafted(&mut self, session: u64, bytes: usize) {
        match bytes {
            0 => self.drafts.remove(&session),
            _ => self.drafts.insert(session, bytes),
        };
    }

    fn put(&mut self, volume: &VolumeId, chunk: &Chunk<'_>) -> Result<Option<Digest>, Refusal> {
        let Chunk { digest, total, offset, data } = *chunk;
        if offset == 0 && self.room() < CONTENT_BYTES {
            let what = "too many contents are on their way to all volumes together";
            return Err(Refusal::new(Reason::Limit, what));
        }
        let put = match digest == Digest::UNNAMED {
            true => self.store.put_unnamed(volume, total, offset, data),
            false => self.store.put(volume, digest, total, offset, data).map(|_| None),
        };
        put.map_err(|error| refusal(&error))
    }

    fn commit(&mut self, volume: &VolumeId, sequence: u64, tree: Tree) -> Result<Held, Refusal> {
        // What it takes the place of.
        let replaced = self.stored(volume).map_or(0, |held| memory(&held));
        if tree.memory() > self.room() + replaced {
            let what = "the names in all volumes together are too long";
            return Err(Refusal::new(Reason::Limit, what));
        }
        self.unsealed(volume, &tree)?;
        let committed = self.store.commit(volume, sequence, &tree, Instant::now);
        self.expire();
        match committed {
            Ok(_) => {}
            Err(error @ Error::Untidy { .. }) => {
                tracing::warn!(%volume, error = %chain(&error), "a commit left something behind");
            }
            Err(error) => return Err(refusal(&error)),
        }
        *self.note(volume) = Note { committed: Instant::now(), failure: String::new() };
        tracing::info!(%volume, sequence, "revision");
        self.held_one(volume)
            .ok_or_else(|| Refusal::new(Reason::Internal, "the volume is gone after its commit"))
    }

    fn claim(&mut self, volume: &VolumeId, session: u64) {
        let newest = self.claims.entry(volume.clone()).or_default();
        *newest = session.max(*newest);
    }

    fn discard(&mut self, volume: &VolumeId, session: u64) {
        if self.claims.get(volume).is_some_and(|newest| *newest > session) {
            return;
        }
        self.claims.remove(volume);
        self.forget_sealed(volume);
        match self.store.discard(volume) {
            Ok(()) | Err(Error::Unknown { .. }) => {}
            Err(error) => {
                tracing::warn!(%volume, error = %chain(&error), "staged contents remain");
            }
        }
    }

    fn remove(&mut self, volume: &VolumeId) -> Result<(), Refusal> {
        self.notes.remove(volume);
        self.claims.remove(volume);
        self.forget_sealed(volume);
        let held = self.stored(volume).is_some();
        self.store.remove(volume).map_err(|error| refusal(&error))?;
        if held {
            tracing::info!(%volume, "removed");
        }
        Ok(())
    }

    fn refused(&mut self, volume: Option<&VolumeId>, refusal: &Refusal) {
        if refusal.reason == Reason::Opening {
            // Nothing is wrong yet.
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        // Only volumes that exist: the host must not fill memory with names.
        let known = volume.filter(|volume| self.notes.contains_key(*volume)).cloned();
        if let Some(volume) = known {
            self.note(&volume).failure = refusal.to_string();
        }
        // The host decides how often this happens: powers of two are a few lines for any flood.
        if self.refusals.is_power_of_two() {
            tracing::warn!(count = self.refusals, %refusal, "refused");
        }
    }

    fn refusals(&self) -> u64 {
        self.refusals
    }
}

/// What the host may do about it, and what it may know.
fn refusal(error: &Error) -> Refusal {
    let reason = match error {
        Error::Unknown { .. } | Error::Damaged { .. } => Reason::Unknown,
        Error::OtherCategory { .. } => Reason::Conflict,
        Error::Limit { .. } => Reason::Limit,
        Error::Length { .. } | Error::Offset { .. } => Reason::Invalid,
        Error::Digest { .. } => Reason::Digest,
        Error::Lacking { .. } => Reason::Missing,
        Error::Sealed { .. } | Error::Bound { .. } => Reason::Sealed,
        Error::Stale { .. } => Reason::Stale,
        Error::Conflict { .. } => Reason::Conflict,
        Error::TooSoon { .. } => Reason::TooSoon,
        Error::Full(_) => Reason::NoSpace,
        _ => Reason::Internal,
    };
    if reason == Reason::Internal {
        // The host learns that it failed; how is for those in the guest.
        tracing::error!(error = %chain(error), "the store failed");
        return Refusal::new(reason, "the guest's store failed");
    }
    Refusal::new(reason, error.to_string())
}

/// The thread that removes earlier revisions; see [`Agent::keep`].
pub fn spawn_keeper(agent: &Arc<Mutex<Agent>>) -> io::Result<()> {
    let agent = Arc::clone(agent);
    let thread = std::thread::Builder::new().name("keeper".into()).stack_size(128 << 10);
    thread.spawn(move || Agent::keep(&agent)).map(drop)
}

/// From now on sealed contents are opened.
pub fn unseal_by(agent: &Arc<Mutex<Agent>>, opener: impl Into<Opener>) {
    let unsealer = Unsealer::new(agent, opener.into());
    lock(agent).unsealer = Some(unsealer);
}
