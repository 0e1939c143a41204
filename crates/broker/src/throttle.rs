//! Log lines that a client can cause are bounded: so many a second, then a count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Lets the first lines of each period through.
#[derive(Debug)]
pub(crate) struct Throttle {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    period: u64,
    lines: u32,
}

impl Throttle {
    /// At most so many lines a period.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Whether a line may be written in this period, and how many were swallowed in the last busy
    /// one.
    pub(crate) fn admit(&self, period: u64) -> (bool, u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut swallowed = 0;
        if state.period != period {
            swallowed = state.lines.saturating_sub(self.most);
            *state = State { period, lines: 0 };
        }
        state.lines = state.lines.saturating_add(1);
        (state.lines <= self.most, swallowed)
    }
}

/// Audit records that anyone can cause are bounded too, and each says how many there are not.
#[derive(Debug)]
pub(crate) struct Sample {
    throttle: Throttle,
    left_out: AtomicU64,
}

impl Sample {
    /// At most so many records a period.
    pub(crate) fn new(most: u32) -> Self {
        Self { throttle: Throttle::new(most), left_out: AtomicU64::new(0) }
    }

    /// Has `record` make one, if it may, given how many were left out since the last. `None`: the log
    /// did not take it.
    pub(crate) fn take<T>(&self, period: u64, record: impl FnOnce(u64) -> Option<T>) {
        let (admitted, _) = self.throttle.admit(period);
        let left_out = if admitted { self.left_out.swap(0, Ordering::Relaxed) } else { 0 };
        if !admitted || record(left_out).is_none() {
            self.left_out.fetch_add(left_out.saturating_add(1), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let throttle = Throttle::new(20);
        let admitted = (0..1000).filter(|_| throttle.admit(1).0).count();
        assert_eq!(admitted, 20);
        assert_eq!(throttle.admit(2), (true, 980));
        assert_eq!(throttle.admit(3), (true, 0));
    }

    #[test]
    fn what_has_no_record_is_counted_in_the_next_one() {
        let sample = Sample::new(2);
        let seen = std::cell::RefCell::new(Vec::new());
        let taken = |left_out| {
            seen.borrow_mut().push(left_out);
            Some(())
        };
        (0..10).for_each(|_| sample.take(1, taken));
        // A log that takes nothing loses nothing of the count.
        sample.take(2, |left_out| (left_out != 8).then_some(()));
        sample.take(2, taken);
        sample.take(3, taken);
        assert_eq!(seen.take(), [0, 0, 9, 0]);
    }
}
