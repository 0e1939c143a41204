//! What a guest's thread has to do, and how it is woken.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use volumes::name::VolumeId;

use crate::lock;

/// Volumes that have to be looked at, each with the time from which on.
#[derive(Debug)]
pub(crate) struct Queue {
    wake: OwnedFd,
    due: Mutex<Due>,
}

#[derive(Debug, Default)]
struct Due {
    volumes: BTreeMap<VolumeId, Instant>,
    /// Nothing is due earlier: the guest cannot be reached.
    not_before: Option<Instant>,
    closed: bool,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// These are due.
    Due(Vec<VolumeId>),
    /// The connection has something to say that nobody asked for: it is over.
    Connection,
    /// There is nothing more to do, ever.
    Closed,
}

impl Queue {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wake, due: Mutex::default() })
    }

    /// `volume` is to be looked at after `delay`, or earlier if that was so already.
    pub(crate) fn push(&self, volume: &VolumeId, delay: Duration) {
        let at = Instant::now() + delay;
        {
            let mut due = lock(&self.due);
            let known = due.volumes.entry(volume.clone()).or_insert(at);
            *known = at.min(*known);
        }
        self.wake();
    }

    /// Nothing is done earlier than `delay` from now, also what comes meanwhile: the guest cannot be
    /// reached.
    pub(crate) fn hold_off(&self, delay: Duration) {
        lock(&self.due).not_before = Some(Instant::now() + delay);
    }

    pub(crate) fn close(&self) {
        lock(&self.due).closed = true;
        self.wake();
    }

    fn wake(&self) {
        // It can only fail when it is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits until something is due, or `connection` becomes readable.
    pub(crate) fn wait(&self, connection: Option<BorrowedFd<'_>>) -> io::Result<Woken> {
        loop {
            let next = {
                let mut due = lock(&self.due);
                if due.closed {
                    return Ok(Woken::Closed);
                }
                let now = Instant::now();
                let held_off = due.not_before.is_some_and(|at| at > now);
                let ready: Vec<VolumeId> = due
                    .volumes
                    .iter()
                    .filter(|(_, at)| **at <= now)
                    .map(|(volume, _)| volume.clone())
                    .collect();
                if !ready.is_empty() && !held_off {
                    due.volumes.retain(|_, at| *at > now);
                    return Ok(Woken::Due(ready));
                }
                due.volumes
                    .values()
                    .min()
                    .copied()
                    .max(due.volumes.values().next().and(due.not_before))
            };
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            // Rounded up, so that it does not wake just before.
            let left = left.map(|left| left + Duration::from_millis(1));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
            fds.extend(connection.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
                return Ok(Woken::Connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> VolumeId {
        VolumeId::parse(name).expect("an id")
    }

    #[test]
    fn what_is_due_is_handed_out_once_and_earlier_wins() {
        let queue = Queue::new().expect("an eventfd");
        queue.push(&id("later"), Duration::from_secs(3600));
        queue.push(&id("a"), Duration::from_secs(3600));
        queue.push(&id("a"), Duration::ZERO);
        queue.push(&id("a"), Duration::from_secs(3600));
        assert_eq!(queue.wait(None).expect("poll"), Woken::Due(vec![id("a")]));
        queue.push(&id("b"), Duration::from_millis(1));
        assert_eq!(queue.wait(None).expect("poll"), Woken::Due(vec![id("b")]));
        queue.close();
        assert_eq!(queue.wait(None).expect("poll"), Woken::Closed);
    }

    #[test]
    fn nothing_is_due_while_the_guest_is_left_alone() {
        let queue = Queue::new().expect("an eventfd");
        let begin = Instant::now();
        queue.hold_off(Duration::from_millis(60));
        queue.push(&id("a"), Duration::ZERO);
        assert_eq!(queue.wait(None).expect("poll"), Woken::Due(vec![id("a")]));
        assert!(begin.elapsed() >= Duration::from_millis(60));
    }

    #[test]
    fn a_connection_that_ends_is_noticed_while_nothing_is_due() {
        let queue = Queue::new().expect("an eventfd");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        queue.push(&id("later"), Duration::from_secs(3600));
        drop(theirs);
        assert_eq!(queue.wait(Some(ours.as_fd())).expect("poll"), Woken::Connection);
    }
}
