//! The host agent: finds the volumes that kubelet keeps on this node, sees them switch, and brings
//! each revision to the guest that shares no filesystem with it. Sync, on Linux; a thread for each
//! guest, asleep while nothing changes (`docs/adr/0005-agents.md`).
//!
//! Everything found is taken for hostile: names are parsed, kinds are closed, links are never
//! followed, and each count, length and depth is checked before anything is allocated for it.
//!
//! | module | holds |
//! |---|---|
//! | [`kubelet`] | where volumes are, and which one a mount's source means |
//! | [`watch`] | one inotify instance for all of them |
//! | [`snapshot`] | one revision of one of them, read whole or not at all |
//! | [`guest`], [`client`] | a guest, and calls to it |
//! | [`sync`] | what a guest lacks, and nothing else |
//! | [`kata`] | the same for a guest that has only Kata's agent |
//! | [`nri`] | which pods run in a guest, and their containers' mounts |
//! | [`agent`] | which volumes go where, and how they are |
//! | [`api`] | the agent's own socket |
//! | [`confinement`] | what the agent gives up before its first thread |
//! | [`token`] | when a service-account token expires |

pub mod agent;
pub mod api;
pub mod client;
pub mod confinement;
mod dir;
mod error;
pub mod guest;
pub mod kata;
pub mod kubelet;
mod metrics;
pub mod nri;
mod queue;
pub mod snapshot;
pub mod sync;
pub mod token;
pub mod watch;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use error::{Error, Kind};

/// What a lock guards is replaced by single assignments: a thread that panicked has left it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the lock away until somebody notifies or `longest` is over. A poisoned one is as good as any
/// other, as with [`lock`].
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    longest: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, longest).unwrap_or_else(PoisonError::into_inner).0
}
