//! [`Agent`]: which volumes go to which guest, and how they are.
//!
//! One thread watches all volumes, one thread per guest keeps that guest's current; both do nothing
//! while nothing changes. What is attached survives a restart of the agent, in a file.

mod attachments;
mod guest;
mod report;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use link::dial::Address;
use link::tls;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use volumes::chain;
use volumes::name::VolumeId;
use volumes::report::GuestVolume;
use volumes::tree::Limits;

use self::attachments::{Attachment, Attachments};
pub use self::report::{Change, VolumeReport};
use crate::client::{self, Client};
use crate::guest::Guest;
use crate::kata::Left;
use crate::kubelet::{FoundVolume, Kubelet};
use crate::metrics::{self, Counters};
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use crate::sync::{Known, Volume};
use crate::token::Lifetime;
use crate::watch::{Event, Watch};
use crate::{lock, wait};

/// How long the memory of an agent that is just ending is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How the agent works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Holds what is attached, over restarts.
    pub state_dir: PathBuf,
    /// How long a connection may be silent in the middle of an answer.
    pub timeout: Duration,
    /// Every volume is looked at this often, whatever inotify says.
    pub rescan: Duration,
    /// The longest pause between two attempts.
    pub backoff_max: Duration,
    /// How this host and guests at `tls:` addresses know each other. `None`: there are none.
    pub tls: Option<Arc<tls::Client>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/sealift/host".into(),
            timeout: Duration::from_secs(30),
            rescan: Duration::from_secs(60),
            backoff_max: Duration::from_secs(30),
            tls: None,
        }
    }
}

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such volume is attached.
    #[error("{0} is not attached")]
    Unknown(VolumeId),
    /// It is attached to another guest.
    #[error("{volume} is attached to {guest}")]
    Elsewhere {
        /// The volume.
        volume: VolumeId,
        /// The guest that has it.
        guest: Guest,
    },
    /// Nothing is configured with which this host and that guest could know each other.
    #[error("{0} needs TLS, which this agent has no certificate for")]
    NoTls(Address),
    /// It is being removed from its guest. Attach it again when that is done.
    #[error("{0} is being detached")]
    Leaving(VolumeId),
    /// More than a node can have.
    #[error("more than {0} volumes")]
    TooMany(usize),
    /// It did not become current in time.
    #[error("{volume} is not current in the guest at {guest} after {waited:.1?}: {failure}")]
    NotCurrent {
        /// The volume.
        volume: VolumeId,
        /// The guest that should have it.
        guest: String,
        /// How long was waited.
        waited: Duration,
        /// What it failed with last.
        failure: String,
    },
    /// The volume cannot be read.
    #[error(transparent)]
    Volume(#[from] crate::Error),
    /// The agent's own files or threads.
    #[error("{what}")]
    Own {
        /// What was to be done.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The host agent.
#[derive(Debug, Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

/// What the threads share. Locks are taken in the order in which they stand here.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Of the directory where attachments are remembered.
    _lock: std::fs::File,
    pub(crate) options: Options,
    /// Held while the file of attachments is written, and by nobody else.
    saving: Mutex<()>,
    watch: Mutex<Watch>,
    pub(crate) table: Mutex<Table>,
    /// Somebody waits for a volume to become current.
    pub(crate) settled: Condvar,
    pub(crate) counters: Counters,
}

/// Guests and volumes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) guests: BTreeMap<Guest, Arc<Queue>>,
    pub(crate) volumes: BTreeMap<VolumeId, Attached>,
    /// How often a volume was attached so far.
    generations: u64,
}

/// A volume that is kept current.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) volume: Volume,
    pub(crate) path: PathBuf,
    pub(crate) guest: Guest,
    /// Which attachment this is: what a thread began for an earlier one of the same name is not
    /// about this.
    pub(crate) generation: u64,
    /// It is detached, and its guest has yet to be told.
    pub(crate) leaving: bool,
    pub(crate) known: Known,
    /// What it holds that it cannot be asked for.
    pub(crate) left: Left,
    /// Where containers find it in the guest.
    pub(crate) guest_path: Option<String>,
    pub(crate) state: State,
}

/// How a volume is.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    /// When a change was noticed that the guest does not have yet.
    pub(crate) behind_since: Option<Instant>,
    /// When the last one was.
    pub(crate) changed_at: Option<Instant>,
    /// When the guest last had what the host has.
    pub(crate) current_at: Option<SystemTime>,
    pub(crate) failure: Option<String>,
    pub(crate) failures: u32,
    /// How often in a row the guest said that it is opening sealed values.
    pub(crate) openings: u32,
    /// Why its changes are only noticed by rescanning.
    pub(crate) unwatched: Option<String>,
    /// Whether its guest could not be reached when that was tried last.
    pub(crate) unreachable: bool,
    /// Whether a file of it has a mode with which it may be run.
    pub(crate) executable: bool,
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
    pub(crate) token: Option<Lifetime>,
}

impl State {
    /// A change, or somebody who wants to know.
    fn changed(&mut self) {
        let now = Instant::now();
        self.behind_since.get_or_insert(now);
        self.changed_at = Some(now);
    }

    /// The guest has what the host had at `then`.
    pub(crate) fn settled(&mut self, then: Instant) {
        self.behind_since = self.changed_at.filter(|changed| *changed > then);
    }
}

impl Agent {
    /// Starts with what was attached when the agent ran last.
    pub fn start(options: Options) -> Result<Self, Error> {
        let lock = attachments::lock(&options.state_dir, LOCK_PATIENCE)?;
        let attachments = Attachments::load(&options.state_dir)?;
        let shared = Arc::new(Shared {
            _lock: lock,
            options,
            saving: Mutex::default(),
            watch: Mutex::new(Watch::new()?),
            table: Mutex::default(),
            settled: Condvar::new(),
            counters: Counters::default(),
        });
        let agent = Self { shared };
        let attachments = attachments.into_vec();
        attachments.iter().try_for_each(|attachment| agent.shared.keep(attachment))?;
        attachments.iter().for_each(|attachment| agent.shared.begin(attachment));
        let shared = Arc::downgrade(&agent.shared);
        spawn("watch", move || watch(&shared))?;
        Ok(agent)
    }

    /// From now on `volumes` are kept current in `guest`; all of them, or, if one cannot be, none.
    /// One that is in a guest which cannot be reached any more moves to this one.
    pub fn attach(&self, volumes: &[FoundVolume], guest: impl Into<Guest>) -> Result<(), Error> {
        let guest = &guest.into();
        if matches!(guest.address, Address::Tls { .. }) && self.shared.options.tls.is_none() {
            return Err(Error::NoTls(guest.address.clone()));
        }
        let attachment = |FoundVolume { id, category, path, .. }: &FoundVolume| Attachment {
            volume: id.clone(),
            category: *category,
            path: path.clone(),
            guest: guest.clone(),
            leaving: false,
            left: Left::default(),
        };
        let attachments: Vec<Attachment> = volumes.iter().map(attachment).collect();
        {
            let table = &mut *lock(&self.shared.table);
            for volume in volumes {
                match table.volumes.get(&volume.id) {
                    Some(old) if old.leaving => return Err(Error::Leaving(volume.id.clone())),
                    Some(old) if old.guest != *guest && !old.state.unreachable => {
                        let guest = old.guest.clone();
                        return Err(Error::Elsewhere { volume: volume.id.clone(), guest });
                    }
                    _ => {}
                }
            }
            if table.volumes.len() + volumes.len() > Kubelet::VOLUMES_MAX {
                return Err(Error::TooMany(Kubelet::VOLUMES_MAX));
            }
            attachments.iter().try_for_each(|one| self.shared.keep_in(table, one))?;
        }
        attachments.iter().for_each(|attachment| self.shared.begin(attachment));
        self.shared.remember()
    }

    /// From now on they are not. Waits a moment for their guests to remove them; one that cannot be
    /// reached is told when it can, or never, if it is gone.
    pub fn detach(&self, volumes: &[VolumeId]) -> Result<(), Error> {
        /// Enough for a guest that is there.
        const PATIENCE: Duration = Duration::from_secs(5);
        self.detach_within(volumes, PATIENCE)
    }

    /// The same, waiting no longer than `patience`.
    pub fn detach_within(&self, volumes: &[VolumeId], patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        let mut generations = Vec::new();
        {
            let mut table = lock(&self.shared.table);
            if let Some(unknown) = volumes.iter().find(|id| !table.volumes.contains_key(*id)) {
                return Err(Error::Unknown(unknown.clone()));
            }
            for volume in volumes {
                let Some(attached) = table.volumes.get_mut(volume) else { continue };
                attached.leaving = true;
                generations.push((volume, attached.generation));
            }
        }
        // Those who wait for them to become current learn that they will not.
        self.shared.settled.notify_all();
        let remembered = self.shared.remember();
        for volume in volumes {
            lock(&self.shared.watch).remove(volume);
            self.shared.push(volume);
        }
        let mut table = lock(&self.shared.table);
        let is_here = |table: &Table| {
            generations.iter().any(|(volume, generation)| {
                table.volumes.get(*volume).is_some_and(|here| here.generation == *generation)
            })
        };
        while is_here(&table) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if !patience.is_zero() {
                    tracing::warn!("a guest has not yet been told that volumes are gone");
                }
                break;
            }
            table = wait(&self.shared.settled, table, left);
        }
        remembered
    }

    /// Looks at a volume now, and waits until the guest has what the host has.
    pub fn sync(&self, volume: &VolumeId, patience: Duration) -> Result<(), Error> {
        {
            let mut table = lock(&self.shared.table);
            let attached = table.volumes.get_mut(volume);
            let attached = attached.ok_or_else(|| Error::Unknown(volume.clone()))?;
            attached.state.changed();
            table.push(volume);
        }
        self.settle(volume, patience)
    }

    /// Waits until the guest has what was noticed so far, by [`Agent::attach`] for one. A second look
    /// would read a large volume twice.
    pub fn settle(&self, volume: &VolumeId, patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        let mut table = lock(&self.shared.table);
        loop {
            let attached = table.volumes.get(volume).filter(|attached| !attached.leaving);
            let attached = attached.ok_or_else(|| Error::Unknown(volume.clone()))?;
            let state = &attached.state;
            if state.behind_since.is_none() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let failure = state.failure.clone().unwrap_or_else(|| "still under way".into());
                let (volume, guest) = (volume.clone(), attached.guest.to_string());
                return Err(Error::NotCurrent { volume, guest, waited: patience, failure });
            }
            table = wait(&self.shared.settled, table, left);
        }
    }

    /// How every volume is.
    pub fn status(&self) -> Vec<VolumeReport> {
        let table = lock(&self.shared.table);
        let attached = table.volumes.values().filter(|attached| !attached.leaving);
        attached.map(VolumeReport::of).collect()
    }

    /// How every volume is, and what was counted, as Prometheus reads it.
    pub fn metrics(&self) -> String {
        metrics::render(&self.status(), &self.shared.counters)
    }

    /// Whether it does its work: that no guest's absence changes. As an NRI plugin it is ready once the
    /// runtime takes it for one, since containers that are made before have no volumes of a guest's.
    ///
    /// # Errors
    /// What is missing, for a probe.
    pub fn ready(&self) -> Result<(), &'static str> {
        // Whoever holds it for ever has stopped the agent.
        drop(lock(&self.shared.table));
        match self.shared.counters.runtime.connected() {
            Some(false) => Err("the container runtime does not take the agent for its NRI plugin"),
            _ => Ok(()),
        }
    }

    /// What [`Agent::ready`] is to know of the runtime.
    pub(crate) fn set_runtime(&self, connected: bool) {
        self.shared.counters.runtime.set(connected);
    }

    /// How a guest says that its volumes are, asked over a connection of its own.
    pub fn ask(&self, guest: &Address) -> Result<Vec<GuestVolume>, client::Error> {
        let (mut client, _) = Client::connect(
            guest,
            self.shared.options.tls.as_deref(),
            self.shared.options.timeout,
        )?;
        Ok(client.status()?.into_iter().map(GuestVolume::from).collect())
    }

    /// How one volume is.
    pub fn report(&self, volume: &VolumeId) -> Option<VolumeReport> {
        let table = lock(&self.shared.table);
        table.volumes.get(volume).filter(|attached| !attached.leaving).map(VolumeReport::of)
    }

    /// What the host has and the guest has not, by path.
    pub fn diff(&self, volume: &VolumeId) -> Result<Vec<Change>, Error> {
        let (path, known) = {
            let table = lock(&self.shared.table);
            let attached = table.volumes.get(volume);
            let attached = attached.ok_or_else(|| Error::Unknown(volume.clone()))?;
            (attached.path.clone(), attached.known.tree().cloned())
        };
        let snapshot = Snapshot::of_volume(&path, Limits::MAX)?;
        Ok(report::changes(known.as_ref(), snapshot.tree()))
    }
}

impl Shared {
    fn keep(self: &Arc<Self>, attachment: &Attachment) -> Result<(), Error> {
        self.keep_in(&mut lock(&self.table), attachment)
    }

    /// Writes a volume into the table, with a thread for its guest. Nothing begins before
    /// [`Shared::begin`].
    fn keep_in(self: &Arc<Self>, table: &mut Table, attachment: &Attachment) -> Result<(), Error> {
        let Attachment { volume: id, category, path, guest, leaving, left } = attachment;
        if !table.guests.contains_key(guest) {
            let fail = |source| Error::Own { what: "cannot start a guest's thread", source };
            let queue = Arc::new(Queue::new().map_err(fail)?);
            let (shared, own, address) = (Arc::clone(self), Arc::clone(&queue), guest.clone());
            spawn("guest", move || guest::run(shared, &address, &own))?;
            table.guests.insert(guest.clone(), queue);
        }
        if let Some(same) = table.volumes.get_mut(id).filter(|old| old.guest == *guest) {
            // Kubelet's root may have moved.
            same.path.clone_from(path);
            return Ok(());
        }
        table.generations += 1;
        let attached = Attached {
            volume: Volume { id: id.clone(), category: *category },
            path: path.clone(),
            guest: guest.clone(),
            generation: table.generations,
            leaving: *leaving,
            known: Known::default(),
            left: left.clone(),
            guest_path: None,
            state: State { behind_since: Some(Instant::now()), ..State::default() },
        };
        if let Some(old) = table.volumes.insert(id.clone(), attached) {
            table.retire(&old.guest);
        }
        Ok(())
    }

    /// Has a volume watched, and then looked at: a switch in between is not lost.
    fn begin(&self, attachment: &Attachment) {
        self.watch_one(&attachment.volume, &attachment.path);
        look(self, &attachment.volume, true);
    }

    /// What cannot be watched is still looked at now and again, and says so.
    fn watch_one(&self, volume: &VolumeId, path: &Path) {
        let watched = lock(&self.watch).add(volume, path);
        let mut table = lock(&self.table);
        match table.volumes.get_mut(volume).filter(|attached| !attached.leaving) {
            Some(attached) => attached.state.unwatched = watched.err().map(|error| chain(&error)),
            // Detached in the meantime.
            None => {
                drop(table);
                lock(&self.watch).remove(volume);
            }
        }
    }

    /// Has a volume looked at by its guest's thread.
    fn push(&self, volume: &VolumeId) {
        lock(&self.table).push(volume);
    }

    /// Writes down what is about to be left in a guest.
    pub(crate) fn announce(
        &self,
        volume: &VolumeId,
        generation: u64,
        left: &Left,
    ) -> Result<(), crate::Error> {
        let mut table = lock(&self.table);
        if let Some(attached) = table.volumes.get_mut(volume)
            && attached.generation == generation
        {
            attached.left = left.clone();
        }
        drop(table);
        self.remember().map_err(|error| {
            let (call, path) = ("write", state_file(&self.options.state_dir));
            crate::Error::Io { call, path, source: io::Error::other(chain(&error)) }
        })
    }

    fn remember(&self) -> Result<(), Error> {
        let _saving = lock(&self.saving);
        // What is on disk is never older than what was in the table when the caller changed it.
        let attachments = Attachments::of(lock(&self.table).volumes.values());
        attachments.save(&self.options.state_dir)
    }
}

impl Table {
    fn push(&self, volume: &VolumeId) {
        let guest = self.volumes.get(volume).map(|attached| &attached.guest);
        if let Some(queue) = guest.and_then(|guest| self.guests.get(guest)) {
            queue.push(volume, Duration::ZERO);
        }
    }

    /// Ends the thread of a guest that has no volumes any more.
    pub(crate) fn retire(&mut self, guest: &Guest) {
        if !self.volumes.values().any(|attached| attached.guest == *guest)
            && let Some(queue) = self.guests.remove(guest)
        {
            queue.close();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        lock(&self.table).guests.values().for_each(|queue| queue.close());
    }
}

/// Hands each switch of a volume to its guest's thread, and everything to all now and again, as long
/// as there is an agent.
fn watch(shared: &Weak<Shared>) {
    let mut buffer = vec![0; 64 << 10];
    let mut rescan_at = None;
    loop {
        // The descriptor is as old as the agent: polling it needs no lock, and no agent.
        let (fd, rescan_every) = match shared.upgrade() {
            Some(shared) => (lock(&shared.watch).fd().try_clone_to_owned(), shared.options.rescan),
            None => return,
        };
        let at = *rescan_at.get_or_insert_with(|| Instant::now() + rescan_every);
        let timeout = Timespec::try_from(at.saturating_duration_since(Instant::now())).ok();
        let polled = fd.map_err(|error| error.to_string()).and_then(|fd| {
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => Ok(()),
                Err(errno) => Err(errno.to_string()),
            }
        });
        if let Err(error) = polled {
            tracing::error!(%error, "volumes cannot be watched; they are only rescanned");
            std::thread::sleep(rescan_every.min(Duration::from_secs(1)));
        }
        let Some(shared) = shared.upgrade() else { return };
        if at <= Instant::now() {
            rescan_at = None;
            rescan(&shared);
        }
        let events = lock(&shared.watch).read(&mut buffer);
        for event in events.unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "events were lost");
            vec![Event::Overflow]
        }) {
            match event {
                Event::Changed(volume) | Event::Gone(volume) => look(&shared, &volume, true),
                Event::Overflow => rescan(&shared),
            }
        }
    }
}

fn rescan(shared: &Shared) {
    let volumes: Vec<(VolumeId, PathBuf)> = {
        let table = lock(&shared.table);
        let path = |attached: &Attached| attached.path.clone();
        table.volumes.iter().map(|(id, attached)| (id.clone(), path(attached))).collect()
    };
    for (volume, path) in volumes {
        // It may be another directory by now, or be there again.
        shared.watch_one(&volume, &path);
        look(shared, &volume, false);
    }
}

/// Has `volume` looked at by its guest's thread; `changed` if it is known to differ.
fn look(shared: &Shared, volume: &VolumeId, changed: bool) {
    if changed && let Some(attached) = lock(&shared.table).volumes.get_mut(volume) {
        attached.state.changed();
    }
    shared.push(volume);
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    /// What the threads hold is on the heap.
    const STACK_BYTES: usize = 256 << 10;
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    let spawned = thread.spawn(run).map(drop);
    spawned.map_err(|source| Error::Own { what: "cannot start a thread", source })
}

/// The tree's tokens' earliest end.
pub(crate) fn token_of(snapshot: &Snapshot) -> Option<Lifetime> {
    let small = snapshot.tree().nodes().iter().filter_map(|(path, node)| match node {
        volumes::tree::Node::File { bytes, .. } if *bytes <= crate::token::BYTES_MAX => Some(path),
        _ => None,
    });
    let lifetimes = small.filter_map(|path| {
        let mut content = Vec::new();
        let file = snapshot.open(path).ok()?;
        let mut file = io::Read::take(file, crate::token::BYTES_MAX);
        io::Read::read_to_end(&mut file, &mut content).ok()?;
        Lifetime::of(&content)
    });
    lifetimes.min_by_key(|lifetime| lifetime.expires)
}

/// Where the agent keeps its files.
fn state_file(dir: &Path) -> PathBuf {
    dir.join("attached.json")
}
