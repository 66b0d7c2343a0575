//! How long to wait before the next attempt: doubling with jitter, bounded, reset by success.

use std::time::Duration;

/// Doubling waits between a first and a longest one.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next wait: between half of the step and the step, so that many do not knock at once.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.longest);
        step.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    /// Begins again with the first wait.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again() {
        let mut b = Backoff::new(Duration::from_millis(10), Duration::from_millis(60));
        for bound in [10, 20, 40, 60, 60] {
            let wait = b.next_wait();
            assert!(
                wait <= Duration::from_millis(bound) && wait >= Duration::from_millis(bound / 2),
                "{wait:?} of {bound}"
            );
        }
        b.reset();
        assert!(b.next_wait() <= Duration::from_millis(10));
    }
}
