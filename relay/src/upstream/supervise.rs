//! What follows when a stream has ended: over which path, and after what wait, the next attempt is made; and when the preferred path is
//! tried again beside a stream over another one. Pure.
//!
//! Promises: a path that fails is left for the next one within 20 ms, unless all have just failed; of as many failures in a row as there are paths at least one is followed by a wait, whatever the primary sends in between;
//! waits are bounded; a stream that had held is followed by an attempt at once. A preferred path that comes and goes is tried ever less often.

use std::time::Duration;

use super::backoff::Backoff;
use super::status::UpstreamState;

/// First and longest wait before a broken connection is tried again.
const QUICK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(3));
/// The same where an operator has to act first.
const SLOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A stream that lived this long had held: what ended it is news, not the same fault over again.
const HELD: Duration = QUICK.1;
/// First and longest wait before the preferred path is tried again beside a stream over another one.
const RETURN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A stream over the preferred path that lived this long was no flicker: the next time it fails it is tried again soon.
const STEADY: Duration = RETURN.1;

/// How a stream ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// What its error leads to.
    pub(super) state: UpstreamState,
    /// Time since its first event; `None` if none came.
    pub(super) lived: Option<Duration>,
    /// Whether the log's head has moved.
    pub(super) advanced: bool,
}

/// Chooses paths and waits.
#[derive(Debug)]
pub(super) struct Supervision {
    paths: usize,
    path: usize,
    /// Failures since the last stream that held or advanced, it included.
    failures: usize,
    quick: Backoff,
    slow: Backoff,
    /// Before the preferred path is tried again.
    back: Backoff,
}

impl Supervision {
    /// Begins with the first of `paths` paths.
    pub(super) fn new(paths: usize) -> Self {
        Self {
            paths: paths.max(1),
            path: 0,
            failures: 0,
            quick: Backoff::new(QUICK.0, QUICK.1),
            slow: Backoff::new(SLOW.0, SLOW.1),
            back: Backoff::new(RETURN.0, RETURN.1),
        }
    }

    /// How long the present stream is to go on before the preferred path is tried beside it; `None` if it goes over that one.
    pub(super) fn try_preferred_in(&mut self) -> Option<Duration> {
        (self.path != 0).then(|| self.back.next_wait())
    }

    /// The preferred path answers: the present stream is ended, without blame, and goes on over that one at once.
    pub(super) fn prefer(&mut self) {
        self.path = 0;
        self.failures = 0;
    }

    /// The path to be used.
    pub(super) fn path(&self) -> usize {
        self.path
    }

    /// Whether what ended a stream is to be told even if it was told before: there was a good stream in between.
    pub(super) fn is_news(ended: &Ended) -> bool {
        ended.advanced || ended.lived.is_some_and(|lived| lived >= HELD)
    }

    /// Notes how a stream ended; gives the wait before the next attempt, which goes over the next path.
    pub(super) fn ended(&mut self, ended: &Ended) -> Duration {
        if Self::is_news(ended) {
            self.failures = 0;
            self.quick.reset();
            self.slow.reset();
        }
        self.failures += 1;
        if self.path == 0 && ended.lived.is_some_and(|lived| lived >= STEADY) {
            self.back.reset();
        }
        self.path = (self.path + 1) % self.paths;
        let held = ended.lived.is_some_and(|lived| lived >= HELD);
        let untried_path = ended.lived.is_none() && !self.failures.is_multiple_of(self.paths);
        match ended.state {
            // A server that restarts is back in an instant; and a failed path is left for the next one at once.
            UpstreamState::Connecting if held || untried_path => Duration::ZERO,
            UpstreamState::Connecting => self.quick.next_wait(),
            _ => self.slow.next_wait(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Ended = Ended { state: UpstreamState::Connecting, lived: None, advanced: false };
    const SHORT: Ended = Ended { lived: Some(Duration::from_millis(1)), ..FAILED };
    const HELD_LONG: Ended = Ended { lived: Some(Duration::from_secs(3600)), ..FAILED };
    const DIVERGED: Ended = Ended { state: UpstreamState::Diverged, lived: None, advanced: false };

    /// The longest wait that a step of the given kind allows, in milliseconds, for each of a row of ends.
    fn waits(paths: usize, ends: &[Ended]) -> Vec<u128> {
        let mut s = Supervision::new(paths);
        ends.iter().map(|e| s.ended(e).as_millis()).collect()
    }

    #[test]
    fn a_stream_that_held_is_followed_by_an_attempt_at_once_and_then_by_growing_waits() {
        let got = waits(1, &[HELD_LONG, FAILED, FAILED, FAILED]);
        assert_eq!(got[0], 0);
        for (got, longest) in got[1..].iter().zip([20, 40, 80]) {
            assert!((longest / 2..=longest).contains(got), "{got} of {longest}");
        }
    }

    #[test]
    fn a_primary_that_sends_the_same_bad_event_again_and_again_is_asked_ever_less_often() {
        let got = waits(1, &[SHORT; 12]);
        assert!(got[0] >= 10, "{got:?}");
        assert!(got[11] >= 1500, "{got:?}");
    }

    #[test]
    fn a_primary_that_sends_a_transaction_and_closes_is_never_asked_without_a_wait() {
        for paths in 1..4 {
            let got = waits(paths, &[Ended { advanced: true, ..SHORT }; 50]);
            assert!(got.iter().all(|w| (10..=20).contains(w)), "{paths} paths: {got:?}");
        }
    }

    #[test]
    fn a_failed_path_is_left_at_once_and_only_when_all_have_failed_there_is_a_wait() {
        let got = waits(3, &[FAILED; 7]);
        let zero: Vec<bool> = got.iter().map(|w| *w == 0).collect();
        assert_eq!(zero, [true, true, false, true, true, false, true], "{got:?}");
    }

    #[test]
    fn of_as_many_failures_as_there_are_paths_at_least_one_is_followed_by_a_wait() {
        // Every mixture of ends, none of which held.
        let kinds = [FAILED, SHORT, Ended { advanced: true, ..SHORT }, DIVERGED];
        for paths in 1..4 {
            for mix in 0..kinds.len().pow(8) {
                let ends: Vec<_> = (0..8).map(|i| kinds[mix / kinds.len().pow(i) % kinds.len()]).collect();
                let got = waits(paths, &ends);
                let quiet = got.windows(paths).all(|w| w.iter().any(|wait| *wait > 0));
                assert!(quiet, "{paths} paths, {ends:?}: {got:?}");
            }
        }
    }

    #[test]
    fn the_path_changes_with_every_end_so_that_the_one_that_failed_is_not_the_next() {
        let mut s = Supervision::new(2);
        let mut used = Vec::new();
        for end in [HELD_LONG, FAILED, SHORT, HELD_LONG, Ended { advanced: true, ..SHORT }] {
            used.push(s.path());
            s.ended(&end);
        }
        assert_eq!(used, [0, 1, 0, 1, 0]);
    }

    #[test]
    fn a_path_that_fails_for_the_first_time_is_left_within_20_ms_however_long_it_had_lived() {
        let lives = [0, 1, 100, 2999, 3000, 100_000].map(|ms| Some(Duration::from_millis(ms)));
        for lived in lives.into_iter().chain([None]) {
            for advanced in [false, true] {
                let mut s = Supervision::new(2);
                let wait = s.ended(&Ended { lived, advanced, ..FAILED });
                assert!(wait <= Duration::from_millis(20) && s.path() == 1, "lived {lived:?}: {wait:?}");
            }
        }
    }

    #[test]
    fn only_a_stream_over_another_path_looks_for_the_preferred_one_and_goes_back_to_it() {
        let mut s = Supervision::new(3);
        assert_eq!(s.try_preferred_in(), None);
        s.ended(&HELD_LONG);
        s.ended(&FAILED);
        assert!(s.path() == 2 && s.try_preferred_in().is_some_and(|wait| wait <= RETURN.0));
        s.prefer();
        assert_eq!((s.path(), s.try_preferred_in()), (0, None));
        // Going back was no failure: what comes now is the first one.
        assert_eq!(s.ended(&FAILED), Duration::ZERO);
    }

    #[test]
    fn a_preferred_path_that_comes_and_goes_is_tried_ever_less_often_until_it_has_held_for_a_minute() {
        let mut s = Supervision::new(2);
        let mut waits = Vec::new();
        for _ in 0..8 {
            s.ended(&Ended { lived: Some(STEADY / 2), ..HELD_LONG });
            waits.extend(s.try_preferred_in());
            s.prefer();
        }
        assert!(waits[7] >= RETURN.1 / 2 && waits.iter().all(|wait| *wait <= RETURN.1), "{waits:?}");
        s.ended(&HELD_LONG);
        assert!(s.try_preferred_in().is_some_and(|wait| wait <= RETURN.0));
    }

    #[test]
    fn what_an_operator_must_mend_is_asked_about_slowly() {
        for state in [UpstreamState::Diverged, UpstreamState::Refused, UpstreamState::Stopped] {
            let got = waits(2, &[Ended { state, lived: None, advanced: false }; 8]);
            assert!(got[0] >= 500 && got[7] >= 5000 && got.iter().all(|w| *w <= 10_000), "{state:?}: {got:?}");
        }
    }
}
