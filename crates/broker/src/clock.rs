//! The time, as an argument.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time in seconds since 1970 UTC.
///
/// The broker's clock decides when sessions and tokens end. A clock that is set back prolongs those
/// that are out by as much; nothing else depends on it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    // Before 1970 everything is expired, which refuses.
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |now| now.as_secs()))
}
