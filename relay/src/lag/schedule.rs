//! When a replica is asked next. Pure: time comes in as durations.

use std::time::Duration;

/// First question after a new head: a replica that keeps up has applied it by then.
const QUICK: Duration = Duration::from_millis(2);
/// Room for an answer to come before its sample is overdue.
const ANSWER: Duration = Duration::from_millis(100);
/// Longest pause between attempts to reach a replica.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Least time between two questions for the threads' state.
const THREADS_MIN: Duration = Duration::from_millis(250);
/// Time between two such questions while the replica is behind.
const THREADS_BEHIND: Duration = Duration::from_secs(1);

/// The pace of the questions to one replica: slower while it idles at the head, faster while it is behind, and fastest right
/// after a new head has woken it. However often the head moves, there is at most one such burst each `poll_min`.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    min: Duration,
    max: Duration,
    burst: Option<Duration>,
    idle: Duration,
}

impl Pace {
    /// Between `min` (behind) and `max` (idle).
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), burst: None, idle: min }
    }

    /// An answer came in: how long to wait before the next question.
    pub(super) fn answered(&mut self, behind: bool) -> Duration {
        if !behind {
            self.burst = None;
            let wait = self.idle;
            self.idle = (self.idle * 2).min(self.max);
            return wait;
        }
        self.idle = self.min;
        match self.burst.take() {
            Some(step) if step < self.min => {
                self.burst = Some(step * 2);
                step
            }
            _ => self.min,
        }
    }

    /// The head moved while the replica was at it: how long to wait before the next question.
    pub(super) fn new_head(&mut self, since_last: Duration) -> Duration {
        self.idle = self.min;
        if since_last < self.min {
            self.burst = None;
            return self.min - since_last;
        }
        self.burst = Some(QUICK * 2);
        QUICK.min(self.min)
    }
}

/// How long after something new arrived (or after the last sample, if that was later) the next sample is there, with room for a slow
/// answer: when it is not, the poller fails, hangs or has no session.
pub(super) fn overdue_after(poll_min: Duration) -> Duration {
    poll_min.saturating_mul(2).saturating_add(ANSWER)
}

/// What is known when deciding whether to ask for the threads' state too.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadsDue {
    /// Since they were last asked; `None` if never, or if the replica came or left since.
    pub(super) since_last: Option<Duration>,
    /// The replica is behind the head.
    pub(super) behind: bool,
    /// It is behind and has applied nothing since the sample before.
    pub(super) stuck: bool,
    /// The last answer was not "both running".
    pub(super) unwell: bool,
}

/// Whether to ask for the threads' state along with this sample. `idle` is the time between two questions to an idle replica.
pub(super) fn threads_due(due: ThreadsDue, idle: Duration) -> bool {
    let Some(since) = due.since_last else { return true };
    let after = if due.stuck || due.unwell {
        THREADS_MIN
    } else if due.behind {
        THREADS_BEHIND
    } else {
        idle
    };
    since >= after
}

/// Pauses between attempts to reach a replica: 0.2 s, doubled each time up to 10 s.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The replica answered.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// An attempt failed: how long to wait. `jitter`, between 0 and 1, spreads replicas that failed together over the upper
    /// half of the pause.
    pub(super) fn failed(&mut self, jitter: f64) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn pace() -> Pace {
        Pace::new(ms(100), ms(5000))
    }

    #[test]
    fn an_idle_replica_is_asked_ever_more_rarely() {
        let mut pace = pace();
        let waits: Vec<_> = (0..8).map(|_| pace.answered(false)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000].map(ms));
    }

    #[test]
    fn a_new_head_wakes_an_idle_replica_within_10_ms_and_asks_quickly_until_it_has_applied() {
        let mut pace = pace();
        pace.answered(false);
        assert!(pace.new_head(ms(3000)) <= ms(10));
        let waits: Vec<_> = (0..8).map(|_| pace.answered(true)).collect();
        assert_eq!(waits, [4, 8, 16, 32, 64, 100, 100, 100].map(ms));
        assert_eq!(pace.answered(false), ms(100));
    }

    #[test]
    fn a_busy_head_does_not_make_one_question_a_transaction() {
        let mut pace = pace();
        assert_eq!(pace.new_head(ms(30)), ms(70));
        assert_eq!(pace.answered(true), ms(100), "no burst: it was asked just before");
    }

    #[test]
    fn a_replica_that_answers_is_always_asked_again_before_its_sample_is_overdue() {
        for (min, max) in [(1, 1), (100, 5000), (3000, 3000)] {
            let mut pace = Pace::new(ms(min), ms(max));
            for _ in 0..8 {
                pace.answered(false);
            }
            let woken = (0..20).map(|n| pace.new_head(ms(min * n / 10))).max();
            let behind = pace.answered(true);
            assert!(woken.into_iter().chain([behind]).all(|wait| wait + ANSWER <= overdue_after(ms(min))));
        }
    }

    #[test]
    fn a_pace_faster_than_the_burst_stays_as_configured() {
        let mut pace = Pace::new(ms(1), ms(1));
        assert_eq!(pace.new_head(ms(50)), ms(1));
        assert_eq!(pace.answered(true), ms(1));
        assert_eq!(pace.answered(false), ms(1));
    }

    #[test]
    fn threads_are_asked_sooner_the_worse_the_replica_does() {
        let ask = |since: u64, behind, stuck, unwell| {
            threads_due(ThreadsDue { since_last: Some(ms(since)), behind, stuck, unwell }, ms(5000))
        };
        assert!(threads_due(ThreadsDue { since_last: None, behind: false, stuck: false, unwell: false }, ms(5000)));
        assert!(!ask(4999, false, false, false));
        assert!(ask(5000, false, false, false));
        assert!(!ask(900, true, false, false));
        assert!(ask(1000, true, false, false));
        assert!(ask(250, true, true, false));
        assert!(ask(250, false, false, true));
        assert!(!ask(100, true, true, true));
    }

    #[test]
    fn back_off_doubles_to_10_s_and_starts_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.failed(1.0)).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000].map(ms));
        assert_eq!(backoff.failed(0.0), ms(5000));
        backoff.reset();
        assert_eq!(backoff.failed(0.0), ms(100));
    }
}
