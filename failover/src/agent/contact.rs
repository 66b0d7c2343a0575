//! Whether this node is cut off: when etcd, a controller or a relay was last in touch, and what follows from that. The decision is pure.
//!
//! Counted on the clock that goes on while the machine is suspended. Once the time is over that is final until it was looked at: an answer
//! that comes later, as after a freeze, does not undo it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspension included (`CLOCK_BOOTTIME`).
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

/// What is known when it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutOff {
    /// Time since the last contact.
    pub silence: Duration,
    /// Whether the time was over at any moment since this was last looked at.
    pub lapsed: bool,
    /// `fence_after`.
    pub fence_after: Duration,
    /// Whether the server lives and is, or was, the primary; or the address is held.
    pub primary: bool,
}

/// Whether the server is to be fenced now.
pub fn must_fence(cut_off: CutOff) -> bool {
    cut_off.primary && (cut_off.lapsed || cut_off.silence >= cut_off.fence_after)
}

/// The last contact.
#[derive(Debug)]
pub struct Contact {
    fence_after: Duration,
    last: Mutex<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Duration,
    lapsed: bool,
}

impl Contact {
    /// In touch now.
    pub fn new(fence_after: Duration) -> Self {
        Self { fence_after, last: Mutex::new(Last { at: boottime(), lapsed: false }) }
    }

    /// Somebody answered what was sent at `sent`, or sent something then. An answer says nothing of the time after the question.
    pub fn heard(&self, sent: Duration) {
        self.heard_at(sent, boottime());
    }

    fn heard_at(&self, sent: Duration, now: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(last.at) >= self.fence_after {
            last.lapsed = true;
        }
        last.at = last.at.max(sent);
    }

    /// Silence so far, and whether it was too long at any moment since this was last asked.
    pub fn look(&self) -> (Duration, bool) {
        self.look_at(boottime())
    }

    fn look_at(&self, now: Duration) -> (Duration, bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (now.saturating_sub(last.at), std::mem::take(&mut last.lapsed))
    }

    /// Forgets that the time was over: nothing runs that it could have mattered to.
    pub fn forget(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).lapsed = false;
    }

    /// Time since the last contact.
    pub fn silence(&self) -> Duration {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).at;
        boottime().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_a_primary_that_was_cut_off_for_long_enough_is_fenced() {
        for (silence_ms, lapsed, primary, expected) in [
            (0, false, true, false),
            (999, false, true, false),
            (1000, false, true, true),
            (60_000, false, true, true),
            (60_000, false, false, false),
            (5, true, true, true),
            (5, true, false, false),
        ] {
            let silence = Duration::from_millis(silence_ms);
            let cut_off = CutOff { silence, lapsed, fence_after: SECOND, primary };
            assert_eq!(must_fence(cut_off), expected, "{cut_off:?}");
        }
    }

    #[test]
    fn an_answer_that_comes_after_the_time_was_over_does_not_undo_that() {
        let contact = Contact::new(SECOND);
        let begin = contact.last.lock().unwrap().at;
        let at = |ms| begin + Duration::from_millis(ms);
        contact.heard_at(at(500), at(510));
        assert_eq!(contact.look_at(at(600)), (Duration::from_millis(100), false));
        // Frozen until 4 s; then the answer to a question of 3.9 s is read before anything else.
        contact.heard_at(at(3900), at(4000));
        assert_eq!(contact.look_at(at(4000)), (Duration::from_millis(100), true));
        assert_eq!(contact.look_at(at(4001)), (Duration::from_millis(101), false));
    }

    #[test]
    fn an_answer_counts_from_when_its_question_was_sent() {
        let contact = Contact::new(SECOND);
        let begin = contact.last.lock().unwrap().at;
        let at = |ms| begin + Duration::from_millis(ms);
        contact.heard_at(at(100), at(900));
        assert_eq!(contact.look_at(at(900)).0, Duration::from_millis(800));
        // An older one that comes later changes nothing.
        contact.heard_at(at(50), at(950));
        assert_eq!(contact.look_at(at(950)).0, Duration::from_millis(850));
    }
}
