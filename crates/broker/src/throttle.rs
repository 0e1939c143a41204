//! Log lines that a client can cause are bounded: so many a second, then a count.

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
}
