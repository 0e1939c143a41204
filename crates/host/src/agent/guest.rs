//! One guest's thread: connects, exchanges digests, and brings each volume that is due to what the
//! host has.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use volumes::chain;
use volumes::name::{Category, VolumeId};
use volumes::refusal::Reason;
use volumes::tree::Limits;
use volumes::wire::message::{DropRequest, Held, Message, PutResponse};

use super::{Attached, Shared, token_of};
use crate::client::{self, Client};
use crate::guest::{Guest, Protocol};
use crate::kata::{self, Kata, Left};
use crate::lock;
use crate::queue::{Queue, Woken};
use crate::snapshot::{Seen, Snapshot};
use crate::sync::{self, Known, Volume};

/// The pause before a second attempt; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(100);
/// The pause while the guest has too many revisions of a volume: it keeps each for two seconds.
const TOO_SOON: Duration = Duration::from_millis(100);
/// The first pause while the guest opens sealed values; it doubles with each, up to [`OPENING_MAX`].
const OPENING: Duration = Duration::from_millis(20);
/// The longest.
const OPENING_MAX: Duration = Duration::from_secs(1);
/// How often in a row, before it is a failure: 10 s.
const OPENINGS_MAX: u32 = 16;
/// How long that may last before it is a failure.
const TOO_SOON_MAX: Duration = Duration::from_secs(10);
/// A connection that lasted so long was no failure, however it ended.
const STEADY: Duration = Duration::from_secs(10);
/// After so many attempts in vain to reach it, a guest is not told any more what it should remove.
const FAREWELLS: u32 = 5;

/// A connection, and when it was made.
struct Connection {
    client: Client,
    since: Instant,
}

/// Until the queue is closed, or nobody else knows of the agent any more.
pub(super) fn run(shared: Arc<Shared>, address: &Guest, queue: &Queue) {
    let weak = Arc::downgrade(&shared);
    drop(shared);
    let mut connection: Option<Connection> = None;
    let mut failures: u32 = 0;
    loop {
        let fd = connection.as_ref().map(|connection| connection.client.as_fd());
        let due = match queue.wait(fd) {
            Ok(Woken::Due(due)) => Some(due),
            // It may have restarted: what it holds has to be compared.
            Ok(Woken::Connection) => None,
            Ok(Woken::Closed) => return,
            Err(error) => {
                tracing::error!(guest = %address, %error, "the guest's thread cannot wait");
                std::thread::sleep(BACKOFF);
                continue;
            }
        };
        let Some(shared) = weak.upgrade() else { return };
        let current = match (due, connection.take()) {
            (None, over) => Err((over.map(|over| over.since), None)),
            (Some(due), Some(current)) => Ok((due, current)),
            (Some(due), None) => match connect(&shared, address) {
                Ok(client) => Ok((due, Connection { client, since: Instant::now() })),
                Err(error) => {
                    unreachable_guest(&shared, address, &error, failures + 1);
                    Err((None, None))
                }
            },
        };
        let ended = match current {
            Ok((due, current)) => bring(&shared, address, current, queue, due),
            Err(ended) => Err(ended),
        };
        match ended {
            Ok(lasting) => connection = Some(lasting),
            Err((since, culprit)) => {
                if since.is_some_and(|since| since.elapsed() >= STEADY) {
                    failures = 0;
                }
                failures = failures.saturating_add(1);
                let delay = backoff(failures, shared.options.backoff_max);
                tracing::debug!(guest = %address, failures, ?delay, "the connection is over");
                queue.hold_off(delay);
                everything(&shared, address, queue, culprit.as_ref());
            }
        }
    }
}

/// Connects, and takes note of what the guest holds, if it can say so.
fn connect(shared: &Shared, guest: &Guest) -> Result<Client, client::Error> {
    let (timeout, tls) = (shared.options.timeout, shared.options.tls.as_deref());
    let (client, held) = match guest.protocol {
        Protocol::Sealift => Client::connect(&guest.address, tls, timeout)?,
        Protocol::Kata => (Client::open(&guest.address, tls, timeout)?, Vec::new()),
    };
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    learn(shared, guest, held);
    Ok(client)
}

/// A connection that is over: since when it was there, if it was, and the volume that it broke at.
type Ended = (Option<Instant>, Option<VolumeId>);

/// Brings each volume of `due` up to date.
fn bring(
    shared: &Shared,
    address: &Guest,
    mut connection: Connection,
    queue: &Queue,
    due: Vec<VolumeId>,
) -> Result<Connection, Ended> {
    let client = &mut connection.client;
    for id in due {
        let Some(mut task) = Task::of(shared, address, &id) else { continue };
        if task.leaving {
            match task.drop_from(address, client) {
                Ok(()) => forget(shared, address, &task),
                Err(error) => {
                    tracing::warn!(volume = %id, error = %chain(&error), "not removed");
                    if matches!(error, client::Error::Broken(_)) {
                        return Err((Some(connection.since), None));
                    }
                    queue.push(&id, backoff(u32::MAX, shared.options.backoff_max));
                }
            }
            continue;
        }
        let noticed = Instant::now();
        let result = task.bring(shared, address, client);
        let broken =
            matches!(&result, Err(Failure::Sync(sync::Error::Guest(client::Error::Broken(_)))));
        if let Some(delay) = settle(shared, address, task, result, noticed) {
            queue.push(&id, delay);
        }
        if broken {
            return Err((Some(connection.since), Some(id)));
        }
    }
    client.rest();
    Ok(connection)
}

/// Why a volume is not current.
enum Failure {
    /// The host's side.
    Snapshot(crate::Error),
    /// The way, or the guest's side.
    Sync(sync::Error),
}

/// A volume that is looked at.
struct Task {
    volume: Volume,
    path: PathBuf,
    generation: u64,
    leaving: bool,
    known: Known,
    left: Left,
    guest_path: Option<String>,
}

/// What it is now.
struct Brought {
    changed: bool,
    snapshot: Snapshot,
}

impl Task {
    /// `None`: the volume is not this guest's any more.
    fn of(shared: &Shared, address: &Guest, id: &VolumeId) -> Option<Self> {
        let table = lock(&shared.table);
        let attached = table.volumes.get(id).filter(|attached| attached.guest == *address)?;
        Some(Self {
            volume: attached.volume.clone(),
            path: attached.path.clone(),
            generation: attached.generation,
            leaving: attached.leaving,
            known: attached.known.clone(),
            left: attached.left.clone(),
            guest_path: attached.guest_path.clone(),
        })
    }

    /// Has the guest remove it. In order with everything else that this guest is told.
    fn drop_from(&self, guest: &Guest, client: &mut Client) -> Result<(), client::Error> {
        if guest.protocol == Protocol::Kata {
            return self.kata(client).drop(&self.left);
        }
        let request = DropRequest { volume: self.volume.id.clone() };
        client.call::<PutResponse>("Drop", &request.encode()).map(drop)
    }

    fn kata<'a>(&'a self, client: &'a mut Client) -> Kata<'a> {
        Kata { client, volume: &self.volume.id, category: self.volume.category }
    }

    fn bring(
        &mut self,
        shared: &Shared,
        guest: &Guest,
        client: &mut Client,
    ) -> Result<Brought, Failure> {
        if guest.protocol == Protocol::Kata {
            let snapshot = Snapshot::of_volume(&self.path, Limits::MAX);
            let snapshot = snapshot.map_err(Failure::Snapshot)?;
            let (mut known, mut left) = (self.known.clone(), self.left.clone());
            let mut announce =
                |left: &Left| shared.announce(&self.volume.id, self.generation, left);
            let synced = self.kata(client).sync(&snapshot, &mut known, &mut left, &mut announce);
            (self.known, self.left) = (known, left);
            self.guest_path = Some(kata::guest_path(&self.volume.id));
            return Ok(Brought { changed: synced.map_err(Failure::Sync)?, snapshot });
        }
        let named = |seen: &Seen| self.known.named(seen);
        let snapshot = Snapshot::lazily(&self.path, Limits::MAX, &named);
        let mut snapshot = snapshot.map_err(Failure::Snapshot)?;
        if self.known.digest.is_none() || self.guest_path.is_none() {
            let opened = self.volume.open(client).map_err(|error| Failure::Sync(error.into()))?;
            self.known.update(&opened.held);
            self.guest_path = Some(opened.path);
        }
        let synced = self.volume.sync(client, &mut snapshot, &mut self.known);
        Ok(Brought { changed: synced.map_err(Failure::Sync)?, snapshot })
    }
}

/// Writes down how it went; the pause before the next attempt, if there has to be one.
fn settle(
    shared: &Shared,
    address: &Guest,
    task: Task,
    result: Result<Brought, Failure>,
    noticed: Instant,
) -> Option<Duration> {
    let token = match &result {
        Ok(brought) if task.volume.category == Category::Projected => token_of(&brought.snapshot),
        _ => None,
    };
    let mut table = lock(&shared.table);
    let id = &task.volume.id;
    let attached = table
        .volumes
        .get_mut(id)
        .filter(|attached| attached.guest == *address && attached.generation == task.generation)?;
    if attached.leaving {
        // Detached in the meantime: now it can be removed.
        return Some(Duration::ZERO);
    }
    (attached.known, attached.left) = (task.known, task.left);
    attached.guest_path = task.guest_path;
    let state = &mut attached.state;
    let (text, delay) = match result {
        Ok(brought) => {
            let tree = brought.snapshot.tree();
            (state.entries, state.bytes, state.token) = (tree.nodes().len(), tree.bytes(), token);
            state.executable = tree.executable();
            (state.failure, state.failures, state.openings) = (None, 0, 0);
            state.current_at = Some(SystemTime::now());
            if brought.changed {
                let lag = state.behind_since.map(|since| since.elapsed());
                shared.counters.lag.observe(lag.unwrap_or_default());
                tracing::info!(volume = %id, sequence = attached.known.sequence, lag = ?lag, "revision");
            }
            // What was noticed since this look began is still to come.
            state.settled(noticed);
            shared.settled.notify_all();
            return None;
        }
        Err(Failure::Snapshot(error @ crate::Error::Unwritten { .. })) => (chain(&error), None),
        Err(Failure::Snapshot(error)) => (chain(&error), Some(BACKOFF)),
        Err(Failure::Sync(error)) => {
            let since = *state.behind_since.get_or_insert(noticed);
            if let Some(pause) = not_yet(&error, since, &mut state.openings) {
                // Not a failure: the newest revision follows in a moment.
                return Some(pause);
            }
            (chain(&error), Some(BACKOFF))
        }
    };
    state.behind_since.get_or_insert(noticed);
    state.failures = state.failures.saturating_add(1);
    shared.counters.failures.fetch_add(1, Ordering::Relaxed);
    if state.failure.as_deref() != Some(&text) {
        tracing::warn!(volume = %id, failure = %text, "not current");
    }
    state.failure = Some(text);
    delay.map(|_| backoff(state.failures, shared.options.backoff_max))
}

/// The pause before the same is said again, if that is all that the guest asks for.
fn not_yet(error: &sync::Error, since: Instant, openings: &mut u32) -> Option<Duration> {
    let sync::Error::Guest(client::Error::Refused(refusal)) = error else { return None };
    if refusal.reason != Reason::Opening {
        *openings = 0;
    }
    match refusal.reason {
        Reason::TooSoon if since.elapsed() < TOO_SOON_MAX => Some(TOO_SOON),
        Reason::Opening if *openings < OPENINGS_MAX => {
            let pause = OPENING.saturating_mul(1 << (*openings).min(16)).min(OPENING_MAX);
            *openings = openings.saturating_add(1);
            Some(pause)
        }
        _ => None,
    }
}

/// A volume has left its guest.
fn forget(shared: &Shared, address: &Guest, task: &Task) {
    {
        let mut table = lock(&shared.table);
        let same = |attached: &&Attached| {
            attached.guest == *address && attached.generation == task.generation
        };
        if table.volumes.get(&task.volume.id).filter(same).is_some() {
            table.volumes.remove(&task.volume.id);
            table.retire(address);
        }
    }
    shared.settled.notify_all();
    if let Err(error) = shared.remember() {
        tracing::warn!(error = %chain(&error), "a detached volume may be detached again");
    }
}

/// What the guest says that it holds. Kata's agent cannot say: it is sent everything again.
fn learn(shared: &Shared, address: &Guest, held: Vec<Held>) {
    let held: BTreeMap<VolumeId, Held> =
        held.into_iter().map(|held| (held.volume.clone(), held)).collect();
    let mut table = lock(&shared.table);
    for attached in table.volumes.values_mut().filter(|attached| attached.guest == *address) {
        attached.state.unreachable = false;
        match held.get(&attached.volume.id) {
            Some(held) => attached.known.update(held),
            None => {
                attached.known = Known::default();
                attached.left.doubt();
            }
        }
    }
}

fn unreachable_guest(shared: &Shared, address: &Guest, error: &client::Error, failures: u32) {
    shared.counters.unreachable.fetch_add(1, Ordering::Relaxed);
    let text = format!("guest {address}: {}", chain(error));
    if failures == 1 {
        tracing::warn!(guest = %address, error = %chain(error), "the guest cannot be reached");
    }
    let mut table = lock(&shared.table);
    for attached in table.volumes.values_mut().filter(|attached| attached.guest == *address) {
        let state = &mut attached.state;
        state.failure = Some(text.clone());
        state.unreachable = true;
        state.behind_since.get_or_insert_with(Instant::now);
    }
    let here = |attached: &Attached| attached.guest == *address && attached.leaving;
    // Also when it was given up long ago: what is detached later must not wait for it for ever.
    if failures >= FAREWELLS && table.volumes.values().any(here) {
        table.volumes.retain(|_, attached| !here(attached));
        table.retire(address);
        drop(table);
        shared.settled.notify_all();
        if let Err(error) = shared.remember() {
            tracing::warn!(error = %chain(&error), "a detached volume may be detached again");
        }
    }
}

/// Everything of this guest is to be looked at, as soon as it may; but for the volume that the
/// connection broke at, which has a pause of its own: the others come first.
fn everything(shared: &Shared, address: &Guest, queue: &Queue, but: Option<&VolumeId>) {
    let table = lock(&shared.table);
    for (id, attached) in &table.volumes {
        if attached.guest == *address && Some(id) != but {
            queue.push(id, Duration::ZERO);
        }
    }
}

/// Doubles with each failure, up to `longest`; spread by a quarter, so that guests which failed
/// together do not come back together.
fn backoff(failures: u32, longest: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let delay = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    let spread = RandomState::new().hash_one(failures) % 256;
    delay - delay / 1024 * u32::try_from(spread).unwrap_or(0)
}
