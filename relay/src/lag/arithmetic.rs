//! Lag figures and the bottleneck, from what is known at a moment. Pure: time comes in as an argument.

use std::time::Duration;

use baton_wire::gtid::GtidPosition;

use crate::clock::Micros;
use crate::fanout::ReplicaState;
use crate::lag::report::{AppliedReport, Bottleneck, ReceivedReport};
use crate::lag::sample::{Sample, ThreadState, Threads};
use crate::log::{LogPos, Place};

/// A replica that takes nothing of what waits for it for this long is held back by the network.
pub(super) const STALLED: Duration = Duration::from_millis(200);
/// Distance between two files of the log whose sizes are not at hand: enough that more files are always farther.
const FILE_DISTANCE: u64 = 1 << 40;

/// The place of somebody who misses nothing.
pub(super) fn place_missing_nothing(pos: LogPos, gtid: &GtidPosition) -> Place {
    Place { pos, gtid: gtid.clone(), missing_transactions: 0, missing_bytes: 0, oldest_missing: None }
}

/// Head against what was sent.
pub(super) fn received(sent: &Place, now: Micros) -> ReceivedReport {
    ReceivedReport {
        gtid: sent.gtid.to_string(),
        lag_transactions: sent.missing_transactions,
        lag_bytes: sent.missing_bytes,
        lag_ms: missing_for(sent, now),
    }
}

/// Head against what was applied when the sample was taken. `place` is where the sample's position stands *now*: what arrived
/// since the sample counts as missing, so that the figures are wrong by the sample's age at most.
pub(super) fn applied(sample: &Sample, place: &Place, now: Micros) -> AppliedReport {
    AppliedReport {
        gtid: sample.gtid.to_string(),
        lag_transactions: place.missing_transactions,
        lag_bytes: place.missing_bytes,
        lag_ms: missing_for(place, now),
        age_ms: now.millis_since(sample.taken_at),
    }
}

/// Age of the oldest missing transaction in milliseconds; 0 if none is missing.
fn missing_for(place: &Place, now: Micros) -> u64 {
    place.oldest_missing.map_or(0, |arrived| now.millis_since(arrived))
}

/// What is known of a replica.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    /// Its stream from this relay.
    pub(super) stream: ReplicaState,
    /// Since when.
    pub(super) stream_since: Micros,
    /// The error that the stream ended with.
    pub(super) stream_error: Option<&'a str>,
    /// Where what was sent ends.
    pub(super) sent: Option<&'a Place>,
    /// When more was last seen to be taken.
    pub(super) sent_moved: Option<Micros>,
    /// The last sample, and where its position stands now.
    pub(super) sample: Option<(&'a Sample, &'a Place)>,
    /// The threads, as last asked.
    pub(super) threads: Option<&'a Threads>,
    /// Why it can't be asked.
    pub(super) asking: Option<&'a str>,
    /// Now.
    pub(super) now: Micros,
}

/// What holds the replica back, and the text for `error`.
///
/// `error` and `stopped` are told at the head too: such a replica will not take the next transaction.
pub(super) fn bottleneck(view: &View<'_>) -> (Option<Bottleneck>, Option<String>) {
    if let Some(text) = replication_error(view) {
        return (Some(Bottleneck::Error), Some(text));
    }
    let asking = view.asking.map(str::to_owned);
    if is_stopped(view) {
        return (Some(Bottleneck::Stopped), asking);
    }
    let bottleneck = lagging(view);
    let delayed = view.threads.filter(|t| bottleneck == Some(Bottleneck::Apply) && !t.delay.is_zero());
    let delay = delayed.map(|t| format!("its replication is delayed on purpose by {} s", t.delay.as_secs()));
    (bottleneck, asking.or(delay))
}

/// The error that stopped the replica: of its stream, or of a thread that does not run.
fn replication_error(view: &View<'_>) -> Option<String> {
    if view.stream == ReplicaState::Stopped {
        if let Some(text) = view.stream_error {
            return Some(text.to_owned());
        }
    }
    let threads = view.threads?;
    if threads.sql == ThreadState::Stopped {
        if let Some(text) = &threads.sql_error {
            return Some(format!("its applying thread stopped: {text}"));
        }
    }
    if io_state(view, threads) != ThreadState::Running {
        if let Some(text) = &threads.io_error {
            return Some(format!("its receiving thread stopped: {text}"));
        }
    }
    None
}

fn is_stopped(view: &View<'_>) -> bool {
    let left = matches!(view.stream, ReplicaState::Gone | ReplicaState::Stopped);
    let stopped = |t: &Threads| t.sql == ThreadState::Stopped || io_state(view, t) == ThreadState::Stopped;
    left || view.threads.is_some_and(stopped)
}

/// The receiving thread: an answer from before it attached here says nothing about it.
fn io_state(view: &View<'_>, threads: &Threads) -> ThreadState {
    let attached = matches!(view.stream, ReplicaState::Streaming | ReplicaState::Held);
    if attached && threads.taken_at <= view.stream_since { ThreadState::Running } else { threads.io }
}

/// Where the larger part of what is missing waits: before the network, in it, or behind it.
fn lagging(view: &View<'_>) -> Option<Bottleneck> {
    let unsent = view.sent.map_or(0, |p| p.missing_bytes);
    let unapplied = view.sample.map_or(0, |(_, p)| p.missing_bytes);
    let lags = view.sent.is_some_and(|p| p.missing_transactions > 0)
        || view.sample.is_some_and(|(_, p)| p.missing_transactions > 0);
    if !lags {
        return None;
    }
    if unsent > 0 && unsent >= unapplied.saturating_sub(unsent) {
        return Some(if is_stalled(view) { Bottleneck::Network } else { Bottleneck::Receive });
    }
    let sent_then = view.sample.and_then(|(s, _)| s.sent);
    if let (Some(sent), Some(threads)) = (sent_then, view.threads) {
        if let (Some(received), Some(applied)) = (threads.received, threads.applied) {
            if distance(received, sent) > distance(applied, received) {
                return Some(Bottleneck::Receive);
            }
        }
    }
    Some(Bottleneck::Apply)
}

fn is_stalled(view: &View<'_>) -> bool {
    let Some(waiting_since) = view.sent.and_then(|p| p.oldest_missing) else { return false };
    let Some(moved) = view.sent_moved else { return false };
    u128::from(view.now.millis_since(moved.max(waiting_since))) >= STALLED.as_millis()
}

/// Bytes from one position to a later one, 0 if it is not later; a guess where files lie between.
fn distance(from: LogPos, to: LogPos) -> u64 {
    if to <= from {
        return 0;
    }
    match to.file - from.file {
        0 => to.offset - from.offset,
        files => files.saturating_mul(FILE_DISTANCE).saturating_add(to.offset).saturating_sub(from.offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_000_000_000);

    fn ago(ms: i64) -> Micros {
        Micros(NOW.0 - ms * 1000)
    }

    fn gtid(text: &str) -> GtidPosition {
        GtidPosition::MariaDb(text.parse().unwrap())
    }

    fn place(transactions: u64, bytes: u64, oldest_ms: Option<i64>) -> Place {
        Place {
            pos: LogPos { file: 1, offset: 10_000 - bytes },
            gtid: gtid("0-1-10"),
            missing_transactions: transactions,
            missing_bytes: bytes,
            oldest_missing: oldest_ms.map(ago),
        }
    }

    fn sample(age_ms: i64, sent: u64) -> Sample {
        Sample { gtid: gtid("0-1-10"), taken_at: ago(age_ms), sent: Some(LogPos { file: 1, offset: sent }) }
    }

    fn threads() -> Threads {
        Threads {
            taken_at: ago(50),
            io: ThreadState::Running,
            sql: ThreadState::Running,
            io_error: None,
            sql_error: None,
            delay: Duration::ZERO,
            received: None,
            applied: None,
        }
    }

    fn view<'a>(sent: Option<&'a Place>, sample: Option<(&'a Sample, &'a Place)>) -> View<'a> {
        View {
            stream: ReplicaState::Streaming,
            stream_since: ago(60_000),
            stream_error: None,
            sent,
            sent_moved: Some(ago(10)),
            sample,
            threads: None,
            asking: None,
            now: NOW,
        }
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_missing_transaction_and_0_at_the_head() {
        // (missing transactions, bytes, oldest arrived ms ago) -> lag_ms
        for (transactions, bytes, oldest, expected) in [
            (0, 0, None, 0),
            (1, 300, Some(0), 0),
            (11, 5120, Some(37), 37),
            (1, 1, Some(86_400_000), 86_400_000), // the primary is dead for a day: lag keeps growing
        ] {
            let place = place(transactions, bytes, oldest);
            let report = received(&place, NOW);
            assert_eq!((report.lag_transactions, report.lag_bytes, report.lag_ms), (transactions, bytes, expected));
            let report = applied(&sample(12, 0), &place, NOW);
            assert_eq!((report.lag_transactions, report.lag_bytes, report.lag_ms), (transactions, bytes, expected));
            assert_eq!((report.age_ms, report.gtid.as_str()), (12, "0-1-10"));
        }
    }

    #[test]
    fn a_transaction_that_arrives_later_than_now_is_not_negative_lag() {
        assert_eq!(received(&place(1, 1, Some(-5)), NOW).lag_ms, 0);
    }

    #[test]
    fn the_bottleneck_is_where_most_of_what_is_missing_waits() {
        let none = place(0, 0, None);
        // (unsent place, applied place, last taken ms ago) -> bottleneck
        let table = [
            (none.clone(), Some(none.clone()), 0, None),
            (none.clone(), None, 0, None),
            (none.clone(), Some(place(5, 900, Some(40))), 0, Some(Bottleneck::Apply)),
            (place(1, 100, Some(2)), Some(place(90, 9000, Some(400))), 0, Some(Bottleneck::Apply)),
            (place(50, 5000, Some(400)), Some(place(60, 6000, Some(400))), 10, Some(Bottleneck::Receive)),
            (place(50, 5000, Some(400)), Some(place(60, 6000, Some(400))), 250, Some(Bottleneck::Network)),
            (place(50, 5000, Some(400)), None, 250, Some(Bottleneck::Network)),
            // Nothing was taken for long, but then there was nothing to take until 5 ms ago.
            (place(1, 100, Some(5)), Some(place(1, 100, Some(5))), 60_000, Some(Bottleneck::Receive)),
        ];
        for (sent, applied, moved_ms, expected) in table {
            let sample = sample(20, 10_000 - sent.missing_bytes);
            let applied = applied.as_ref().map(|p| (&sample, p));
            let view = View { sent_moved: Some(ago(moved_ms)), ..view(Some(&sent), applied) };
            assert_eq!(bottleneck(&view), (expected, None), "{sent:?} {applied:?}");
        }
    }

    #[test]
    fn what_was_sent_but_not_received_is_the_receiving_threads() {
        let (sent, missing, sample) = (place(0, 0, None), place(9, 900, Some(40)), sample(20, 10_000));
        let at = |file, offset| Some(LogPos { file, offset });
        // (received, applied) by the threads; 1:10000 was sent
        let table = [
            (at(1, 9_100), at(1, 9_100), Bottleneck::Receive),
            (at(1, 9_900), at(1, 9_100), Bottleneck::Apply),
            (at(1, 10_000), at(1, 9_100), Bottleneck::Apply),
            (at(0, 9_000), at(0, 10), Bottleneck::Receive),
            (at(1, 20), at(0, 10), Bottleneck::Apply),
            (at(1, 11_000), at(1, 10_500), Bottleneck::Apply), // asked a little later than the sample
            (None, None, Bottleneck::Apply),
        ];
        for (received, applied, expected) in table {
            let threads = Threads { received, applied, ..threads() };
            let view = View { threads: Some(&threads), ..view(Some(&sent), Some((&sample, &missing))) };
            assert_eq!(bottleneck(&view).0, Some(expected), "{received:?} {applied:?}");
        }
    }

    #[test]
    fn a_replica_that_left_or_whose_threads_stopped_is_stopped_even_at_the_head() {
        let none = place(0, 0, None);
        let sample = sample(20, 10_000);
        for (stream, io, sql) in [
            (ReplicaState::Gone, ThreadState::Running, ThreadState::Running),
            (ReplicaState::Stopped, ThreadState::Running, ThreadState::Running),
            (ReplicaState::Streaming, ThreadState::Stopped, ThreadState::Running),
            (ReplicaState::Streaming, ThreadState::Running, ThreadState::Stopped),
        ] {
            let threads = Threads { io, sql, ..threads() };
            let view = View { stream, threads: Some(&threads), ..view(Some(&none), Some((&sample, &none))) };
            assert_eq!(bottleneck(&view), (Some(Bottleneck::Stopped), None), "{stream:?} {io:?} {sql:?}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_text_and_before_anything_else() {
        let missing = place(5, 500, Some(900));
        let failed = Threads {
            sql: ThreadState::Stopped,
            sql_error: Some("1062 Duplicate entry '1'".into()),
            io: ThreadState::Connecting,
            io_error: Some("2003 can't connect".into()),
            ..threads()
        };
        let sql = View { threads: Some(&failed), stream: ReplicaState::Gone, ..view(Some(&missing), None) };
        let text = Some("its applying thread stopped: 1062 Duplicate entry '1'".to_owned());
        assert_eq!(bottleneck(&sql), (Some(Bottleneck::Error), text));

        let failed = Threads { sql: ThreadState::Running, sql_error: None, ..failed.clone() };
        let io = View { threads: Some(&failed), ..sql.clone() };
        let text = Some("its receiving thread stopped: 2003 can't connect".to_owned());
        assert_eq!(bottleneck(&io), (Some(Bottleneck::Error), text));

        let purged = View { stream: ReplicaState::Stopped, stream_error: Some("1236 purged"), ..io };
        assert_eq!(bottleneck(&purged), (Some(Bottleneck::Error), Some("1236 purged".to_owned())));
    }

    #[test]
    fn an_answer_from_before_it_attached_says_nothing_about_its_receiving_thread() {
        let none = place(0, 0, None);
        let old = Threads {
            taken_at: ago(70_000),
            io: ThreadState::Connecting,
            io_error: Some("2003 can't connect".into()),
            ..threads()
        };
        let view = View { threads: Some(&old), ..view(Some(&none), None) };
        assert_eq!(bottleneck(&view), (None, None));
    }

    #[test]
    fn why_it_cannot_be_asked_and_a_delay_on_purpose_are_told() {
        let (none, missing) = (place(0, 0, None), place(5, 500, Some(900)));
        let view = View { asking: Some("connection refused"), ..view(Some(&none), None) };
        assert_eq!(bottleneck(&view), (None, Some("connection refused".to_owned())));

        let (sample, delayed) = (sample(5, 10_000), Threads { delay: Duration::from_secs(3600), ..threads() });
        let view = View { asking: None, threads: Some(&delayed), sample: Some((&sample, &missing)), ..view };
        let text = Some("its replication is delayed on purpose by 3600 s".to_owned());
        assert_eq!(bottleneck(&view), (Some(Bottleneck::Apply), text));
    }
}
