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

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use volumes::name::VolumeId;
use volumes::tree::{Limits, Tree};

use self::attachments::Attachments;
pub use self::report::{Change, VolumeReport};
use crate::address::Address;
use crate::kubelet::FoundVolume;
use crate::lock;
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use crate::sync::{Known, Volume};
use crate::token::Lifetime;
use crate::watch::{Event, Watch};

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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/sealift/host".into(),
            timeout: Duration::from_secs(30),
            rescan: Duration::from_secs(60),
            backoff_max: Duration::from_secs(30),
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
        guest: Address,
    },
    /// It did not become current in time.
    #[error("{volume} is not current after {waited:?}: {failure}")]
    NotCurrent {
        /// The volume.
        volume: VolumeId,
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
    pub(crate) options: Options,
    watch: Mutex<Watch>,
    pub(crate) table: Mutex<Table>,
    /// Somebody waits for a volume to become current.
    pub(crate) settled: Condvar,
}

/// Guests and volumes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) guests: BTreeMap<Address, Arc<Queue>>,
    pub(crate) volumes: BTreeMap<VolumeId, Attached>,
}

/// A volume that is kept current.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) volume: Volume,
    pub(crate) path: PathBuf,
    pub(crate) guest: Address,
    pub(crate) known: Known,
    /// Where containers find it in the guest.
    pub(crate) guest_path: Option<String>,
    pub(crate) state: State,
}

/// How a volume is.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    /// When a change was noticed that the guest does not have yet.
    pub(crate) behind_since: Option<Instant>,
    /// When the guest last had what the host has.
    pub(crate) current_at: Option<SystemTime>,
    pub(crate) failure: Option<String>,
    pub(crate) failures: u32,
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
    pub(crate) token: Option<Lifetime>,
}

impl Agent {
    /// Starts with what was attached when the agent ran last.
    pub fn start(options: Options) -> Result<Self, Error> {
        let attachments = Attachments::load(&options.state_dir)?;
        let shared = Arc::new(Shared {
            options,
            watch: Mutex::new(Watch::new()?),
            table: Mutex::default(),
            settled: Condvar::new(),
        });
        let agent = Self { shared };
        for attachment in attachments.into_vec() {
            let volume = Volume { id: attachment.volume, category: attachment.category };
            agent.keep(volume, attachment.path, attachment.guest)?;
        }
        let shared = Arc::downgrade(&agent.shared);
        spawn("watch", move || watch(&shared))?;
        Ok(agent)
    }

    /// From now on `volumes` are kept current in `guest`; all of them, or, if one is elsewhere, none.
    pub fn attach(&self, volumes: &[FoundVolume], guest: &Address) -> Result<(), Error> {
        {
            let table = lock(&self.shared.table);
            for volume in volumes {
                if let Some(attached) = table.volumes.get(&volume.id)
                    && attached.guest != *guest
                {
                    let guest = attached.guest.clone();
                    return Err(Error::Elsewhere { volume: volume.id.clone(), guest });
                }
            }
        }
        for FoundVolume { id, category, path, .. } in volumes {
            let volume = Volume { id: id.clone(), category: *category };
            self.keep(volume, path.clone(), guest.clone())?;
        }
        self.remember()
    }

    fn keep(&self, volume: Volume, path: PathBuf, guest: Address) -> Result<(), Error> {
        let id = volume.id.clone();
        let watched = lock(&self.shared.watch).add(&id, &path);
        let mut table = lock(&self.shared.table);
        let queue = match table.guests.get(&guest) {
            Some(queue) => Arc::clone(queue),
            None => {
                let fail = |source| Error::Own { what: "cannot start a guest's thread", source };
                let queue = Arc::new(Queue::new().map_err(fail)?);
                let (shared, own) = (Arc::clone(&self.shared), Arc::clone(&queue));
                let address = guest.clone();
                spawn("guest", move || guest::run(&shared, &address, &own))?;
                table.guests.insert(guest.clone(), Arc::clone(&queue));
                queue
            }
        };
        let attached = table.volumes.entry(id.clone()).or_insert_with(|| Attached {
            volume,
            path,
            guest,
            known: Known::default(),
            guest_path: None,
            state: State { behind_since: Some(Instant::now()), ..State::default() },
        });
        // What cannot be watched is still looked at now and again, and says so.
        attached.state.failure = watched.err().map(|error| chain(&error));
        queue.push(&id, Duration::ZERO);
        Ok(())
    }

    /// From now on they are not. Their guests remove them, if they can be reached.
    pub fn detach(&self, volumes: &[VolumeId]) -> Result<(), Error> {
        let mut removed = Vec::new();
        for volume in volumes {
            lock(&self.shared.watch).remove(volume);
            let mut table = lock(&self.shared.table);
            let attached = table.volumes.remove(volume);
            let attached = attached.ok_or_else(|| Error::Unknown(volume.clone()))?;
            if let Some(queue) = table.guests.get(&attached.guest) {
                queue.forget(volume);
            }
            if !table.volumes.values().any(|other| other.guest == attached.guest)
                && let Some(queue) = table.guests.remove(&attached.guest)
            {
                queue.close();
            }
            removed.push(attached);
        }
        self.remember()?;
        guest::drop_volumes(&removed, self.shared.options.timeout);
        Ok(())
    }

    /// Looks at a volume now, and waits until the guest has what the host has.
    pub fn sync(&self, volume: &VolumeId, patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        let mut table = lock(&self.shared.table);
        let attached = table.volumes.get_mut(volume);
        let attached = attached.ok_or_else(|| Error::Unknown(volume.clone()))?;
        attached.state.behind_since.get_or_insert_with(Instant::now);
        let guest = attached.guest.clone();
        if let Some(queue) = table.guests.get(&guest) {
            queue.push(volume, Duration::ZERO);
        }
        loop {
            let attached = table.volumes.get(volume);
            let state = &attached.ok_or_else(|| Error::Unknown(volume.clone()))?.state;
            if state.behind_since.is_none() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let failure = state.failure.clone().unwrap_or_else(|| "still under way".into());
                let volume = volume.clone();
                return Err(Error::NotCurrent { volume, waited: patience, failure });
            }
            table = match self.shared.settled.wait_timeout(table, left) {
                Ok((table, _)) => table,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// How every volume is.
    pub fn status(&self) -> Vec<VolumeReport> {
        let table = lock(&self.shared.table);
        table.volumes.values().map(VolumeReport::of).collect()
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

    fn remember(&self) -> Result<(), Error> {
        let table = lock(&self.shared.table);
        Attachments::of(table.volumes.values()).save(&self.shared.options.state_dir)
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
        let watched = lock(&shared.watch).add(&volume, &path);
        if let Err(error) = watched {
            tracing::debug!(%volume, error = %chain(&error), "not watched");
        }
        look(shared, &volume, false);
    }
}

/// Has `volume` looked at by its guest's thread; `changed` if it is known to differ.
fn look(shared: &Shared, volume: &VolumeId, changed: bool) {
    let mut table = lock(&shared.table);
    let Some(attached) = table.volumes.get_mut(volume) else { return };
    if changed {
        attached.state.behind_since.get_or_insert_with(Instant::now);
    }
    let guest = attached.guest.clone();
    if let Some(queue) = table.guests.get(&guest) {
        queue.push(volume, Duration::ZERO);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    /// What the threads hold is on the heap.
    const STACK_BYTES: usize = 256 << 10;
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    let spawned = thread.spawn(run).map(drop);
    spawned.map_err(|source| Error::Own { what: "cannot start a thread", source })
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += ": ";
        text += &error.to_string();
        cause = error.source();
    }
    text
}

/// The tree's tokens' earliest end.
pub(crate) fn token_of(snapshot: &Snapshot, tree: &Tree) -> Option<Lifetime> {
    let small = tree.nodes().iter().filter_map(|(path, node)| match node {
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
