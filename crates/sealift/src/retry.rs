//! Backoff with full jitter: retries of many pods must not arrive together.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Delays between attempts: uniformly random below a bound that doubles from 200 ms to 10 s.
#[derive(Debug)]
pub struct Backoff {
    bound: Duration,
}

impl Backoff {
    /// Starts at the shortest bound.
    pub fn new() -> Self {
        Self { bound: FIRST }
    }

    /// The next delay, and not less than `wish`: what the server asked for.
    pub fn next_delay(&mut self, wish: Duration) -> Duration {
        let mut random = [0; 4];
        // Without randomness the delay is the whole bound: later, never sooner.
        let fraction = match aws_lc_rs::rand::fill(&mut random) {
            Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        };
        let delay = self.bound.mul_f64(fraction);
        self.bound = (self.bound * 2).min(LONGEST);
        delay.max(wish)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
