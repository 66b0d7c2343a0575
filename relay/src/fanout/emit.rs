//! Events on their way out: framed as they stand, or with those left out or replaced that this client must not see.
//!
//! Owns the framing and the choice. Promises: bytes of events that go out are the log's own, except for stand-ins of the same size
//! (wire-facts: what a server sends to a client that does not know MariaDB's events).

use baton_wire::Result;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{
    self, EventHeader, EventKind, FLAG_SUPPRESS_USE, GtidEvent, GtidFlags, HEADER_LEN, Mark, TransactionTracker,
};
use baton_wire::frame::EventFramer;
use baton_wire::gtid::TransactionId;
use baton_wire::gtid::mariadb::GtidList;

/// What a client must not see, or sees in other words.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    /// Leave ANNOTATE_ROWS out.
    pub(super) drop_annotate: bool,
    /// Replace MariaDB's own events by stand-ins.
    pub(super) stand_ins: bool,
    /// Transactions at or before this position are known to the client already.
    pub(super) known: Option<GtidList>,
    /// Nothing beyond this position is wanted.
    pub(super) until: Option<GtidList>,
}

impl Filter {
    fn is_transparent(&self) -> bool {
        !self.drop_annotate && !self.stand_ins && self.known.is_none() && self.until.is_none()
    }
}

/// Frames events for one client.
#[derive(Debug)]
pub(super) struct Emitter {
    framer: EventFramer,
    filter: Filter,
    checksum: ChecksumAlg,
    tracker: TransactionTracker,
    /// Inside a transaction that is left out.
    skipping: bool,
    /// What the client has got, as far as `until` asks for it.
    reached: GtidList,
    until_reached: bool,
    events: u64,
}

impl Emitter {
    /// For a stream whose first packet has number 1.
    pub(super) fn new(filter: Filter, checksum: ChecksumAlg, reached: GtidList) -> Self {
        let until_reached = filter.until.as_ref().is_some_and(|u| reached.covers(u));
        Self {
            framer: EventFramer::new(1, false),
            filter,
            checksum,
            tracker: TransactionTracker::new(),
            skipping: false,
            reached,
            until_reached,
            events: 0,
        }
    }

    /// How the events that follow are checksummed.
    pub(super) fn set_checksum(&mut self, alg: ChecksumAlg) {
        self.checksum = alg;
    }

    /// How the events of the current file are checksummed.
    pub(super) fn checksum(&self) -> ChecksumAlg {
        self.checksum
    }

    /// Number of the next packet.
    pub(super) fn sequence(&self) -> u8 {
        self.framer.sequence()
    }

    /// Events framed so far.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Whether the client has everything that it asked for with UNTIL.
    pub(super) fn until_reached(&self) -> bool {
        self.until_reached
    }

    /// The position reached, for UNTIL.
    pub(super) fn reached(&self) -> &GtidList {
        &self.reached
    }

    /// Frames one event that the relay made up or rewrote: it goes out whatever the filter says.
    pub(super) fn own(&mut self, out: &mut Vec<u8>, event: &[u8]) -> Result<()> {
        self.events += 1;
        self.framer.frame(out, event)
    }

    /// Frames the whole events at the front of `bytes`, of which the last one may be cut off; gives how many bytes are done with (fewer than the
    /// whole events have only when UNTIL is reached).
    pub(super) fn run(&mut self, out: &mut Vec<u8>, bytes: &[u8]) -> Result<usize> {
        if self.filter.is_transparent() {
            let run = self.framer.frame_front(out, bytes)?;
            self.events += run.events as u64;
            return Ok(run.bytes);
        }
        let mut at = 0;
        while bytes.len() - at >= HEADER_LEN && !self.until_reached {
            let header = EventHeader::parse(&bytes[at..])?;
            let Some(event) = bytes.get(at..at + header.size as usize) else { break };
            self.one(out, &header, event)?;
            at += event.len();
        }
        Ok(at)
    }

    /// Begins an event that comes in pieces (it is larger than a read): says whether it goes out.
    pub(super) fn begin_large(&mut self, out: &mut Vec<u8>, header: &EventHeader, prefix: &[u8]) -> Result<bool> {
        let sent = if self.filter.is_transparent() {
            true
        } else {
            let mark = self.observe(header, prefix)?;
            let hidden = self.skipping || (self.filter.drop_annotate && header.kind == EventKind::ANNOTATE_ROWS);
            if mark == Mark::End {
                self.end_transaction();
            }
            !hidden
        };
        if sent {
            self.events += 1;
            self.framer.start(out, header.size as usize)?;
        }
        Ok(sent)
    }

    /// The next piece of it.
    pub(super) fn push_large(&mut self, out: &mut Vec<u8>, piece: &[u8]) -> Result<()> {
        self.framer.push(out, piece)
    }

    fn one(&mut self, out: &mut Vec<u8>, header: &EventHeader, bytes: &[u8]) -> Result<()> {
        let body = &bytes[HEADER_LEN..bytes.len().saturating_sub(self.checksum.len()).max(HEADER_LEN)];
        let mark = self.observe(header, body)?;
        let hidden = self.skipping || (self.filter.drop_annotate && header.kind == EventKind::ANNOTATE_ROWS);
        if mark == Mark::End {
            self.end_transaction();
        }
        if hidden {
            return Ok(());
        }
        self.events += 1;
        match stand_in(header, body, self.checksum).filter(|_| self.filter.stand_ins) {
            Some(other) => self.framer.frame(out, &other),
            None => self.framer.frame(out, bytes),
        }
    }

    fn observe(&mut self, header: &EventHeader, body: &[u8]) -> Result<Mark> {
        let mark = if self.tracker.in_transaction() || header.kind != EventKind::ROTATE {
            self.tracker.observe(header, body)?
        } else {
            Mark::Outside
        };
        if let Mark::Begin(TransactionId::MariaDb(gtid), _) = &mark {
            let known = self.filter.known.as_ref().is_some_and(|k| k.contains(gtid));
            let beyond = self.filter.until.as_ref().is_some_and(|u| u.sequence(gtid.domain) < gtid.sequence);
            self.skipping = known || beyond;
            if !beyond {
                self.reached.set(*gtid);
            }
        }
        Ok(mark)
    }

    fn end_transaction(&mut self) {
        self.skipping = false;
        if self.filter.known.as_ref().is_some_and(|known| self.reached.covers(known)) {
            self.filter.known = None; // from here on everything is new to the client
        }
        if let Some(until) = &self.filter.until {
            self.until_reached = self.reached.covers(until);
        }
    }
}

/// What a server sends in place of MariaDB's own events to a client that does not know them: a QUERY of the same size, so that
/// positions stay right (`Gtid_log_event::make_compatible_event`, `Query_log_event::dummy_event`).
fn stand_in(header: &EventHeader, body: &[u8], alg: ChecksumAlg) -> Option<Vec<u8>> {
    const QUERY_HEADER: usize = 13;
    let text_room = body.len().checked_sub(QUERY_HEADER + 1)?;
    let begins = match header.kind {
        EventKind::MARIADB_GTID => {
            let gtid = GtidEvent::parse(header.server_id, body).ok()?;
            !gtid.flags.has(GtidFlags::STANDALONE)
        }
        EventKind::GTID_LIST | EventKind::BINLOG_CHECKPOINT | EventKind::ANNOTATE_ROWS => false,
        _ => return None,
    };
    let mut query = vec![0; QUERY_HEADER];
    if begins {
        // What is too much for BEGIN goes into a status variable (Q_TIME_ZONE, an empty or blank name).
        let extra = text_room.checked_sub(5).filter(|n| *n != 1 && *n <= 257)?;
        query[11..13].copy_from_slice(&(extra as u16).to_le_bytes());
        if let Some(name) = extra.checked_sub(2) {
            query.extend_from_slice(&[5, name as u8]);
            query.resize(query.len() + name, b' ');
        }
        query.push(0);
        query.extend_from_slice(b"BEGIN");
    } else {
        query.push(0);
        let text = b"# event of the primary that this client does not know";
        query.extend((0..text_room).map(|i| text.get(i).copied().unwrap_or(b' ')));
    }
    let header = EventHeader { kind: EventKind::QUERY, flags: header.flags | FLAG_SUPPRESS_USE, ..*header };
    Some(event::build(header, &query, alg))
}
