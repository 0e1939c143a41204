//! One guest's thread: connects, exchanges digests, and brings each volume that is due to what the
//! host has.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use volumes::name::VolumeId;
use volumes::refusal::Reason;
use volumes::tree::Limits;
use volumes::wire::message::{DropRequest, Held, Message, PutResponse};

use super::{Attached, Shared, chain, token_of};
use crate::address::Address;
use crate::client::{self, Client};
use crate::lock;
use crate::queue::{Queue, Woken};
use crate::snapshot::Snapshot;
use crate::sync::{self, Known, Volume};

/// The pause before a second attempt; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(100);
/// The pause while the guest has too many revisions of a volume: it keeps each for two seconds.
const TOO_SOON: Duration = Duration::from_millis(100);

/// Until the queue is closed, or nobody else knows of the agent any more.
pub(super) fn run(shared: &Arc<Shared>, address: &Address, queue: &Queue) {
    let shared = Arc::downgrade(shared);
    let mut connection: Option<Client> = None;
    let mut failures = 0;
    loop {
        let due = match queue.wait(connection.as_ref().map(AsFd::as_fd)) {
            Ok(Woken::Due(due)) => due,
            Ok(Woken::Connection) => {
                tracing::info!(guest = %address, "the guest has closed the connection");
                connection = None;
                // It may have restarted: compare what it holds, at once.
                let Some(shared) = shared.upgrade() else { return };
                everything(&shared, address, queue, Duration::ZERO);
                continue;
            }
            Ok(Woken::Closed) => return,
            Err(error) => {
                tracing::error!(guest = %address, %error, "the guest's thread cannot wait");
                std::thread::sleep(BACKOFF);
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        let client = match connection.take() {
            Some(client) => client,
            None => match Client::connect(address, shared.options.timeout) {
                Ok((client, held)) => {
                    failures = 0;
                    learn(&shared, address, &held);
                    client
                }
                Err(error) => {
                    failures += 1;
                    let delay = backoff(failures, shared.options.backoff_max);
                    unreachable_guest(&shared, address, &error, failures);
                    everything(&shared, address, queue, delay);
                    queue.hold_off(delay);
                    continue;
                }
            },
        };
        connection = bring(&shared, client, queue, due);
        if connection.is_none() {
            everything(&shared, address, queue, BACKOFF);
        }
    }
}

/// Brings each volume of `due` up to date. `None`: the connection broke.
fn bring(shared: &Shared, mut client: Client, queue: &Queue, due: Vec<VolumeId>) -> Option<Client> {
    for id in due {
        let Some(mut task) = Task::of(shared, &id) else { continue };
        let noticed = Instant::now();
        let result = task.bring(&mut client);
        let broken =
            matches!(&result, Err(Failure::Sync(sync::Error::Guest(client::Error::Broken(_)))));
        let delay = settle(shared, task, result, noticed);
        if let Some(delay) = delay {
            queue.push(&id, delay);
        }
        if broken {
            return None;
        }
    }
    client.rest();
    Some(client)
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
    known: Known,
    guest_path: Option<String>,
}

/// What it is now.
struct Brought {
    changed: bool,
    snapshot: Snapshot,
}

impl Task {
    fn of(shared: &Shared, id: &VolumeId) -> Option<Self> {
        let table = lock(&shared.table);
        let attached = table.volumes.get(id)?;
        Some(Self {
            volume: attached.volume.clone(),
            path: attached.path.clone(),
            known: attached.known.clone(),
            guest_path: attached.guest_path.clone(),
        })
    }

    fn bring(&mut self, client: &mut Client) -> Result<Brought, Failure> {
        let snapshot = Snapshot::of_volume(&self.path, Limits::MAX).map_err(Failure::Snapshot)?;
        if self.known.digest.is_none() || self.guest_path.is_none() {
            let opened = self.volume.open(client).map_err(|error| Failure::Sync(error.into()))?;
            self.known.update(&opened.held);
            self.guest_path = Some(opened.path);
        }
        let synced = self.volume.sync(client, &snapshot, &mut self.known);
        Ok(Brought { changed: synced.map_err(Failure::Sync)?, snapshot })
    }
}

/// Writes down how it went; the pause before the next attempt, if there has to be one.
fn settle(
    shared: &Shared,
    task: Task,
    result: Result<Brought, Failure>,
    noticed: Instant,
) -> Option<Duration> {
    let token = match &result {
        Ok(brought) => token_of(&brought.snapshot, brought.snapshot.tree()),
        Err(_) => None,
    };
    let mut table = lock(&shared.table);
    let id = &task.volume.id;
    let attached = table.volumes.get_mut(id)?;
    (attached.known, attached.guest_path) = (task.known, task.guest_path);
    let state = &mut attached.state;
    let (text, delay) = match result {
        Ok(brought) => {
            let tree = brought.snapshot.tree();
            (state.entries, state.bytes, state.token) = (tree.nodes().len(), tree.bytes(), token);
            (state.failure, state.failures) = (None, 0);
            state.current_at = Some(SystemTime::now());
            if brought.changed {
                let lag = state.behind_since.map(|since| since.elapsed());
                tracing::info!(volume = %id, sequence = attached.known.sequence, lag = ?lag, "revision");
            }
            // What was noticed since this look began is still to come.
            if state.behind_since.is_some_and(|since| since <= noticed) {
                state.behind_since = None;
            }
            shared.settled.notify_all();
            return None;
        }
        Err(Failure::Snapshot(error @ crate::Error::Unwritten { .. })) => (chain(&error), None),
        Err(Failure::Snapshot(error)) => (chain(&error), Some(BACKOFF)),
        Err(Failure::Sync(error)) => {
            let delay = match &error {
                sync::Error::Guest(client::Error::Refused(refusal))
                    if refusal.reason == Reason::TooSoon =>
                {
                    // Not a failure: the newest revision follows in a moment.
                    return Some(TOO_SOON);
                }
                _ => BACKOFF,
            };
            (chain(&error), Some(delay))
        }
    };
    state.behind_since.get_or_insert(noticed);
    state.failures = state.failures.saturating_add(1);
    if state.failure.as_deref() != Some(&text) {
        tracing::warn!(volume = %id, failure = %text, "not current");
    }
    state.failure = Some(text);
    delay.map(|_| backoff(state.failures, shared.options.backoff_max))
}

/// What the guest says that it holds.
fn learn(shared: &Shared, address: &Address, held: &[Held]) {
    let mut table = lock(&shared.table);
    for attached in table.volumes.values_mut().filter(|attached| attached.guest == *address) {
        match held.iter().find(|held| held.volume == attached.volume.id) {
            Some(held) => attached.known.update(held),
            None => attached.known = Known::default(),
        }
    }
}

fn unreachable_guest(shared: &Shared, address: &Address, error: &client::Error, failures: u32) {
    let text = format!("guest {address}: {}", chain(error));
    if failures == 1 {
        tracing::warn!(guest = %address, error = %chain(error), "the guest cannot be reached");
    }
    let mut table = lock(&shared.table);
    for attached in table.volumes.values_mut().filter(|attached| attached.guest == *address) {
        attached.state.failure = Some(text.clone());
        attached.state.failures = failures;
        attached.state.behind_since.get_or_insert_with(Instant::now);
    }
}

/// Everything of this guest is to be looked at.
fn everything(shared: &Shared, address: &Address, queue: &Queue, delay: Duration) {
    let table = lock(&shared.table);
    for (id, attached) in &table.volumes {
        if attached.guest == *address {
            queue.push(id, delay);
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

/// Tells guests that volumes are gone. One that cannot be told keeps them until its pod's end, which
/// is near.
pub(super) fn drop_volumes(removed: &[Attached], timeout: Duration) {
    let guests: BTreeSet<&Address> = removed.iter().map(|attached| &attached.guest).collect();
    for guest in guests {
        let of_guest = removed.iter().filter(|attached| attached.guest == *guest);
        let dropped = || -> Result<(), client::Error> {
            let (mut client, _) = Client::connect(guest, timeout)?;
            for attached in of_guest {
                let request = DropRequest { volume: attached.volume.id.clone() };
                client.call::<PutResponse>("Drop", &request.encode())?;
            }
            Ok(())
        };
        if let Err(error) = dropped() {
            let error = chain(&error);
            tracing::warn!(%guest, %error, "the guest could not be told that volumes are gone");
        }
    }
}
