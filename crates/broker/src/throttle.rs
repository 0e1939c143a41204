//! Log lines that a client can cause are bounded: so many a second, then a count.

use std::sync::{Mutex, PoisonError};

/// Most lines in a second.
const LINES_PER_SECOND: u32 = 20;

/// Lets the first lines of each second through.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    second: u64,
    lines: u32,
}

impl Throttle {
    /// Whether a line may be written now, and how many were swallowed in the last busy second.
    pub(crate) fn admit(&self, now: u64) -> (bool, u32) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut swallowed = 0;
        if state.second != now {
            swallowed = state.lines.saturating_sub(LINES_PER_SECOND);
            *state = State { second: now, lines: 0 };
        }
        state.lines = state.lines.saturating_add(1);
        (state.lines <= LINES_PER_SECOND, swallowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let throttle = Throttle::default();
        let admitted = (0..1000).filter(|_| throttle.admit(1).0).count();
        assert_eq!(admitted, LINES_PER_SECOND as usize);
        assert_eq!(throttle.admit(2), (true, 1000 - LINES_PER_SECOND));
        assert_eq!(throttle.admit(3), (true, 0));
    }
}
