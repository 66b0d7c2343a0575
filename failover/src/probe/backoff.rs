//! Pauses between attempts: doubled up to a bound, with jitter so that many do not come at once.

use std::time::Duration;

use rand::Rng;

/// Least pause.
const LEAST: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Up to `most`.
    pub(crate) fn new(most: Duration) -> Self {
        Self { next: LEAST, most }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = LEAST;
    }

    /// The pause after another failure: between half and all of what it has grown to.
    pub(crate) fn pause(&mut self) -> Duration {
        let full = self.next.min(self.most);
        self.next = (full * 2).min(self.most);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..10).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= LEAST && pauses[0] >= LEAST / 2);
        assert!(pauses[9] <= Duration::from_secs(1) && pauses[9] >= Duration::from_millis(500));
        backoff.reset();
        assert!(backoff.pause() <= LEAST);
    }
}
