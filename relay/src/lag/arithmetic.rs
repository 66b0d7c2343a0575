//! Lag figures and the bottleneck, from what is known at a moment. Pure: time comes in as an argument.
//!
//! A figure tells what was missing *when that was looked at*: for what was applied, when the replica was asked. Only where a look is
//! overdue does what has arrived since count as missing too. Either way a figure is wrong by the look's age and 20 ms at most.

use std::time::Duration;

use baton_wire::gtid::GtidPosition;

use crate::clock::Micros;
use crate::fanout::ReplicaState;
use crate::lag::report::{AppliedReport, Bottleneck, ReceivedReport};
use crate::lag::sample::{Sample, ThreadState, Threads};
use crate::log::{LogPos, Place};

/// A replica that takes nothing of what waits for it, or leaves a question unanswered, for this long is held back by the network.
pub(super) const STALLED: Duration = Duration::from_millis(200);
/// What arrived less than this before the replica was asked is on its way to be applied: no lag yet.
pub(super) const APPLYING: Duration = Duration::from_millis(20);
/// What arrived less than this ago is on its way to be sent: no lag yet. With the time for which a report is shared, 20 ms.
pub(super) const SENDING: Duration = Duration::from_millis(10);
/// Distance between two files of the log whose sizes are not at hand: enough that more files are always farther.
const FILE_DISTANCE: u64 = 1 << 40;

/// The place of somebody who misses nothing.
pub(super) fn place_missing_nothing(pos: LogPos, gtid: &GtidPosition) -> Place {
    Place { pos, gtid: gtid.clone(), missing_transactions: 0, missing_bytes: 0, oldest_missing: None }
}

/// What somebody lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Missing {
    pub(super) transactions: u64,
    /// Bytes of log from the first of them to the end.
    pub(super) bytes: u64,
    /// When the first of them arrived; `None` if nothing is missing.
    pub(super) oldest: Option<Micros>,
}

impl Missing {
    const NOTHING: Self = Self { transactions: 0, bytes: 0, oldest: None };

    /// All that lies behind a place.
    fn behind(place: &Place) -> Self {
        match place.oldest_missing.filter(|_| place.missing_transactions > 0) {
            Some(oldest) => {
                Self { transactions: place.missing_transactions, bytes: place.missing_bytes, oldest: Some(oldest) }
            }
            None => Self::NOTHING,
        }
    }

    /// Its age in milliseconds; 0 if nothing is missing.
    fn millis(self, now: Micros) -> u64 {
        self.oldest.map_or(0, |arrived| now.millis_since(arrived))
    }
}

/// What was not sent at `now`, when `sent` was looked at.
pub(super) fn unsent(sent: &Place, now: Micros) -> Missing {
    let all = Missing::behind(sent);
    let lags = all.oldest.is_some_and(|arrived| is_older(arrived, now, SENDING));
    if lags { all } else { Missing::NOTHING }
}

/// What was not applied. `applied` is where the sample's position stands now. `since` is where the log ended when the replica was asked,
/// seen from now: what lies behind it has arrived since; `None` if that can't be told any more. A sample is overdue when something
/// arrived and it was not followed by another within `due`.
pub(super) fn unapplied(
    sample: &Sample,
    applied: &Place,
    since: Option<&Place>,
    due: Duration,
    now: Micros,
) -> Missing {
    let all = Missing::behind(applied);
    let (Some(oldest), Some(since)) = (all.oldest, since) else { return all };
    let overdue = |arrived: Micros| is_older(arrived.max(sample.taken_at), now, due);
    if since.oldest_missing.is_some_and(overdue) {
        return all;
    }
    if applied.pos >= since.pos || !is_older(oldest, sample.taken_at, APPLYING) {
        return Missing::NOTHING;
    }
    Missing {
        // At least the oldest one: the two places may have been looked up an instant apart.
        transactions: all.transactions.saturating_sub(since.missing_transactions).max(1),
        bytes: all.bytes.saturating_sub(since.missing_bytes),
        oldest: Some(oldest),
    }
}

fn is_older(moment: Micros, now: Micros, age: Duration) -> bool {
    i128::from(now.0) - i128::from(moment.0) > age.as_micros().cast_signed()
}

/// Head against what was sent.
pub(super) fn received(sent: &Place, missing: Missing, now: Micros) -> ReceivedReport {
    ReceivedReport {
        gtid: sent.gtid.to_string(),
        lag_transactions: missing.transactions,
        lag_bytes: missing.bytes,
        lag_ms: missing.millis(now),
    }
}

/// Head against what was applied.
pub(super) fn applied(sample: &Sample, missing: Missing, now: Micros) -> AppliedReport {
    AppliedReport {
        gtid: sample.gtid.to_string(),
        lag_transactions: missing.transactions,
        lag_bytes: missing.bytes,
        lag_ms: missing.millis(now),
        age_ms: now.millis_since(sample.taken_at),
    }
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
    /// What was not sent.
    pub(super) unsent: Option<Missing>,
    /// When more was last seen to be taken.
    pub(super) sent_moved: Option<Micros>,
    /// What was not applied.
    pub(super) unapplied: Option<Missing>,
    /// Since when it leaves a question unanswered.
    pub(super) silent_since: Option<Micros>,
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
    let (unsent, unapplied) = (view.unsent.unwrap_or_default(), view.unapplied.unwrap_or_default());
    if unsent.transactions == 0 && unapplied.transactions == 0 {
        return None;
    }
    if unsent.transactions > 0 && unsent.bytes >= unapplied.bytes.saturating_sub(unsent.bytes) {
        let waits_since = view.sent_moved.max(unsent.oldest);
        return Some(if is_stalled(waits_since, view.now) { Bottleneck::Network } else { Bottleneck::Receive });
    }
    if is_stalled(view.silent_since, view.now) {
        return Some(Bottleneck::Network);
    }
    if let Some(Threads { sent: Some(sent), received: Some(received), applied: Some(applied), .. }) = view.threads {
        if distance(*received, *sent) > distance(*applied, *received) {
            return Some(Bottleneck::Receive);
        }
    }
    Some(Bottleneck::Apply)
}

fn is_stalled(since: Option<Micros>, now: Micros) -> bool {
    since.is_some_and(|since| is_older(since, now, STALLED))
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
mod tests;
