//! A replica on its way into the report: what is known of it, and where that stands in the log.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_wire::gtid::GtidPosition;

use crate::clock::Micros;
use crate::fanout::Replica;
use crate::lag::arithmetic::place_missing_nothing;
use crate::lag::history::History;
use crate::lag::sample::Sample;
use crate::lag::server::{Observed, Server};
use crate::log::{Head, LogPos, Place};

/// For this long all of a replica is tried to be placed against one head, where that moves all the time.
const PATIENCE: Duration = Duration::from_millis(1);

/// One replica. Its places stand against the report's head, or a little later one.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) replica: Arc<Replica>,
    pub(super) observed: Observed,
    /// When `sent` was looked at.
    pub(super) seen_at: Micros,
    server: Option<Arc<Server>>,
    sent: Option<LogPos>,
    sent_place: Option<io::Result<Place>>,
    applied_place: Option<io::Result<Place>>,
    /// Where the log ended when the sample was taken.
    since_place: Option<io::Result<Place>>,
}

impl Entry {
    pub(super) fn new(name: String, server: Option<Arc<Server>>, replica: Arc<Replica>, now: Micros) -> Self {
        let sent = replica.received();
        let observed = server.as_ref().map(|s| {
            s.saw_sent(sent, now);
            s.observed()
        });
        Self {
            name,
            replica,
            observed: observed.unwrap_or_default(),
            seen_at: now,
            server,
            sent,
            sent_place: None,
            applied_place: None,
            since_place: None,
        }
    }

    /// Where what was sent ends.
    pub(super) fn sent_place(&self) -> Option<&Place> {
        self.sent_place.as_ref()?.as_ref().ok()
    }

    /// The sample, and where its position stands.
    pub(super) fn applied_place(&self) -> Option<(&Sample, &Place)> {
        self.observed.sample.as_ref().zip(self.applied_place.as_ref()?.as_ref().ok())
    }

    /// Where the log ended when the sample was taken; `None` if that is not kept any more.
    pub(super) fn since_place(&self) -> Option<&Place> {
        self.since_place.as_ref()?.as_ref().ok()
    }

    /// What could not be placed, and why.
    pub(super) fn unplaced(&self) -> Option<String> {
        let why = |what: &str, place: &Option<io::Result<Place>>| match place {
            Some(Err(error)) => Some(format!("what it has {what} can't be placed in the log: {error}")),
            _ => None,
        };
        why("applied", &self.applied_place).or_else(|| why("received", &self.sent_place))
    }

    fn applied(&self) -> Option<&GtidPosition> {
        self.observed.sample.as_ref().map(|s| &s.gtid)
    }

    /// Places what needs no disk; true if nothing is left.
    pub(super) fn place_at_hand(&mut self, head: Option<&Head>) -> bool {
        let Some(head) = head else {
            // An empty log: nobody can miss anything of it.
            let nothing = |gtid: &GtidPosition| place_missing_nothing(LogPos::default(), gtid);
            self.applied_place = self.applied().map(nothing).map(Ok);
            return true;
        };
        let at_head = || place_missing_nothing(head.pos, &head.gtid);
        // What was reached since the head was read misses nothing of it either.
        let known =
            |pos: LogPos| if pos >= head.pos { Some(at_head()) } else { self.observed.known_position(head.pos, pos) };
        let sent = self.sent.map(known);
        let mut applied = None;
        let mut since = None;
        if let Some(sample) = &self.observed.sample {
            let at_head = (sample.gtid == head.gtid).then(at_head);
            applied = Some(at_head.or_else(|| self.observed.known_gtid(head.pos, &sample.gtid)));
            since = sample.head.map(known);
        }
        let open = [&sent, &applied, &since].into_iter().any(|place| matches!(place, Some(None)));
        (self.sent_place, self.applied_place, self.since_place) =
            (sent.flatten().map(Ok), applied.flatten().map(Ok), since.flatten().map(Ok));
        !open
    }

    /// Places the rest, from the disk, and remembers it for as long as the head stays.
    pub(super) fn place(&mut self, history: &dyn History, head: &Head) {
        let sampled_at = self.observed.sample.as_ref().and_then(|sample| sample.head);
        let began = Instant::now();
        loop {
            let before = history.head().map(|h| h.pos);
            if before != Some(head.pos) {
                // What stands against the older head would not fit.
                (self.sent_place, self.applied_place, self.since_place) = (None, None, None);
            }
            if let (None, Some(sent)) = (&self.sent_place, self.sent) {
                self.sent_place = Some(history.place_of(sent));
            }
            if let (None, Some(gtid)) = (&self.applied_place, self.applied()) {
                self.applied_place = Some(history.place_of_gtid(gtid));
            }
            if let (None, Some(pos)) = (&self.since_place, sampled_at) {
                self.since_place = Some(history.place_of(pos));
            }
            if history.head().map(|h| h.pos) == before {
                if let Some(head) = before {
                    self.remember(head, sampled_at);
                }
                return;
            }
            if began.elapsed() >= PATIENCE {
                return;
            }
        }
    }

    fn remember(&self, head: LogPos, sampled_at: Option<LogPos>) {
        let Some(server) = &self.server else { return };
        if let Some((pos, place)) = self.sent.zip(self.sent_place()) {
            server.remember_position(head, pos, place);
        }
        if let Some((pos, place)) = sampled_at.zip(self.since_place()) {
            server.remember_position(head, pos, place);
        }
        if let Some((sample, place)) = self.applied_place() {
            server.remember_gtid(head, &sample.gtid, place);
        }
    }
}
