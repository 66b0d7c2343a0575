//! Whether a stream that is silent but for its heartbeats may be believed.
//!
//! RESET MASTER, and whatever else takes files away under a primary's sending thread, leaves that thread waiting at a place that is no more:
//! it beats, and never sends anything again. What the primary says of itself over the other connection shows it: a position that lacks what the
//! log has. Then the stream is to be begun anew, which finds out why.

use std::time::{Duration, Instant};

use baton_wire::gtid::mariadb::GtidList;
use tokio::sync::watch;

use super::context::Context;
use super::status::UpstreamStatus;

/// Time between two heads that are kept.
const APART: Duration = Duration::from_secs(1);

/// Compares what the primary says with what the log had before that was asked.
pub(super) struct Doubt {
    status: watch::Receiver<UpstreamStatus>,
    floor: Floor,
    settled: bool,
}

impl Doubt {
    /// Begins with a stream; never doubts if it was `settled` before that the primary may have less.
    pub(super) fn new(context: &Context, settled: bool) -> Self {
        Self { status: context.status.subscribe(), floor: Floor::new(head(context), Instant::now()), settled }
    }

    /// Waits until the primary says that it has less than the log; gives what it said. Nothing is lost if the future is dropped.
    pub(super) async fn justified(&mut self, context: &Context) -> String {
        loop {
            if self.settled || self.status.changed().await.is_err() {
                return std::future::pending().await;
            }
            let status = self.status.borrow_and_update();
            let said = status.primary_gtid.clone().zip(status.primary_asked);
            drop(status);
            self.floor.note(head(context), Instant::now());
            if let Some((said, _)) = said.filter(|(said, asked)| self.floor.undercut(said, *asked)) {
                return said;
            }
        }
    }
}

fn head(context: &Context) -> GtidList {
    context.log.head().and_then(|h| h.gtid.mariadb().cloned()).unwrap_or_default()
}

/// Two heads of the log and when it had them, the older one first: what the primary must have if it was asked later.
#[derive(Debug)]
struct Floor([(Instant, GtidList); 2]);

impl Floor {
    fn new(head: GtidList, now: Instant) -> Self {
        Self([(now, head.clone()), (now, head)])
    }

    fn note(&mut self, head: GtidList, now: Instant) {
        if now.duration_since(self.0[1].0) >= APART {
            self.0.swap(0, 1);
            self.0[1] = (now, head);
        }
    }

    /// Whether an answer lacks what the log had before it was asked for.
    fn undercut(&self, said: &str, asked: Instant) -> bool {
        let Some((_, floor)) = self.0.iter().rfind(|(at, _)| *at < asked) else { return false };
        said.parse::<GtidList>().is_ok_and(|said| !said.covers(floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of (milliseconds at which the primary was asked, its answer, the head when that came) behind a beginning with a head.
    fn undercut(began: &str, steps: &[(u64, &str, &str)]) -> Vec<bool> {
        let start = Instant::now();
        let mut floor = Floor::new(began.parse().unwrap_or_default(), start);
        let step = |(ms, said, head): &(u64, &str, &str)| {
            let asked = start + Duration::from_millis(*ms);
            floor.note(head.parse().unwrap_or_default(), asked + Duration::from_millis(1));
            floor.undercut(said, asked)
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_primary_that_has_less_than_the_log_had_is_noticed() {
        assert_eq!(undercut("0-1-5", &[(500, "", "0-1-5")]), [true]);
        // Also if the log began empty, and the primary lost what it had at once.
        let got = undercut("", &[(500, "0-1-1", "0-1-6"), (1000, "0-1-1", "0-1-6"), (1500, "0-1-1", "0-1-6")]);
        assert_eq!(got, [false, false, true]);
    }

    #[test]
    fn an_answer_that_was_under_way_while_the_log_moved_is_not_held_against_it() {
        let busy =
            [(500, "0-1-5", "0-1-5"), (1000, "0-1-7", "0-1-9"), (2000, "0-1-11", "0-1-14"), (2500, "0-1-14", "0-1-20")];
        assert_eq!(undercut("", &busy), [false; 4]);
    }

    #[test]
    fn an_old_answer_tells_nothing() {
        let start = Instant::now();
        let mut floor = Floor::new(GtidList::default(), start);
        for seconds in 1..9 {
            floor.note("0-1-99".parse().unwrap_or_default(), start + APART * seconds);
            assert!(!floor.undercut("0-1-5", start + Duration::from_millis(900)));
        }
    }
}
