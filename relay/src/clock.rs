//! The relay's clock: wall-clock time that never jumps while the process lives.
//!
//! Taken once from the system at start and carried on by the monotonic clock, so that an operator's (or NTP's) step of the
//! system clock neither makes lag appear nor disappear.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z by the relay's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub i64);

impl Micros {
    /// Now.
    pub fn now() -> Self {
        static START: OnceLock<(Instant, i64)> = OnceLock::new();
        let (instant, wall) = START.get_or_init(|| {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            (Instant::now(), i64::try_from(wall.as_micros()).unwrap_or(i64::MAX))
        });
        Self(wall.saturating_add(i64::try_from(instant.elapsed().as_micros()).unwrap_or(i64::MAX)))
    }

    /// Whole milliseconds from `earlier` to this moment, 0 if that lies in the future.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(0)
    }

    /// RFC 3339 with milliseconds, such as `2026-01-02T03:04:05.678Z`.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => format!("{t:.3}"),
            Err(_) => format!("{}us", self.0),
        }
    }
}
