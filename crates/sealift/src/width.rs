//! How many requests a source is asked at a time: what it bears, found by trying.
//!
//! As TCP finds a path's width (RFC 5681): a few requests to begin with, one more for each that went
//! well until the first sign of too much, from then on one more per round; half as many at each
//! such sign. A sign is 408, 425, 429, 5xx, `SlowDown`, or silence; a connection that breaks is none.
//! Whoever was under way when the width was halved does not halve it again. Where the source says
//! how long it wants to be left alone, nobody begins another request before.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Requests before anything is known of the source.
const FIRST: usize = 4;

/// What a source bears at the moment.
#[derive(Debug)]
pub(crate) struct Width {
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    /// Requests that may be in flight; the fraction is the way to the next one.
    allowed: f64,
    in_flight: usize,
    /// Nothing was too much yet.
    fast: bool,
    /// When it was last halved.
    halved: Option<Instant>,
    /// Nobody begins before.
    not_before: Option<Instant>,
}

impl Width {
    /// A source of which nothing is known; never more than `most` requests.
    pub(crate) fn new(most: usize) -> Self {
        let state = State {
            allowed: FIRST.min(most).max(1) as f64,
            in_flight: 0,
            fast: true,
            halved: None,
            not_before: None,
        };
        Self { most: most.max(1), state: Mutex::new(state), freed: Notify::new() }
    }

    /// Waits until one more request is borne.
    pub(crate) async fn enter(&self) -> Turn<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on: what happens between the look and the wait is not missed.
            freed.as_mut().enable();
            let until = {
                let mut state = self.state();
                let now = Instant::now();
                match state.not_before.filter(|until| *until > now) {
                    None if (state.in_flight as f64) < state.allowed.floor() => {
                        state.in_flight += 1;
                        return Turn { width: self, began: now };
                    }
                    until => until,
                }
            };
            match until {
                Some(until) => sleep_until(until).await,
                None => freed.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the width panics")
    }
}

/// One request in flight. Dropped without a word, it says nothing about the source.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    width: &'a Width,
    began: Instant,
}

impl Turn<'_> {
    /// All that was asked for arrived.
    pub(crate) fn went_well(self) {
        let mut state = self.width.state();
        let step = if state.fast { 1.0 } else { 1.0 / state.allowed };
        state.allowed = (state.allowed + step).min(self.width.most as f64);
    }

    /// The source wants fewer requests, and none for `wish`.
    pub(crate) fn was_too_much(self, wish: Duration) {
        let mut state = self.width.state();
        let now = Instant::now();
        if state.halved.is_none_or(|halved| self.began >= halved) {
            state.allowed = (state.allowed / 2.0).max(1.0);
            (state.fast, state.halved) = (false, Some(now));
            tracing::info!(
                requests = state.allowed.floor(),
                "the source is asked for less at a time"
            );
        }
        state.not_before = state.not_before.max(Some(now + wish));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.width.state().in_flight -= 1;
        self.width.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Turns until no other is given at once.
    fn fill(width: &Width) -> Vec<Turn<'_>> {
        std::iter::from_fn(|| width.enter().now_or_never()).collect()
    }

    fn round(width: &Width) -> usize {
        let turns = fill(width);
        let count = turns.len();
        turns.into_iter().for_each(Turn::went_well);
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_strong_source_is_filled_in_three_rounds() {
        let width = Width::new(16);
        assert_eq!([0; 4].map(|_| round(&width)), [4, 8, 16, 16]);
        assert_eq!(round(&Width::new(2)), 2);
        assert_eq!(round(&Width::new(0)), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_overload_halves_it_once_however_many_notice() {
        let width = Width::new(16);
        let grown = [0; 3].map(|_| round(&width));
        assert_eq!(grown, [4, 8, 16]);
        for turn in fill(&width) {
            tokio::time::advance(Duration::from_millis(1)).await;
            turn.was_too_much(Duration::ZERO);
        }
        assert_eq!([0; 3].map(|_| round(&width)), [8, 8, 9]);
        for _ in 0..9 {
            width.enter().await.was_too_much(Duration::ZERO);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(round(&width), 1, "never less than one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_wants_to_be_left_alone_is() {
        let width = Width::new(16);
        let (first, second) = (width.enter().await, width.enter().await);
        let began = Instant::now();
        first.was_too_much(Duration::from_secs(7));
        second.was_too_much(Duration::ZERO);
        drop(width.enter().await);
        assert_eq!(began.elapsed().as_secs(), 7);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_who_leaves() {
        let width = Width::new(1);
        let turn = width.enter().await;
        assert!(width.enter().now_or_never().is_none());
        let (next, ()) = tokio::join!(width.enter(), async { drop(turn) });
        next.went_well();
    }
}
