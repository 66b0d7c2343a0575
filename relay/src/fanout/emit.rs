//! Events on their way out: framed as they stand, or with those left out or replaced that this client must not see.
//!
//! Owns the framing and the choice. Promises: bytes of events that go out are the log's own, except for stand-ins of the same size
//! (wire-facts: what a server sends to a client that does not know MariaDB's events). Transactions are told apart only where the choice
//! depends on them: a client may begin at any event.

use baton_wire::WireError;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{EventHeader, EventKind, HEADER_LEN, Mark, TransactionTracker};
use baton_wire::frame::EventFramer;
use baton_wire::gtid::TransactionId;
use baton_wire::gtid::mariadb::{Gtid, GtidList};
use thiserror::Error;

use super::stand_in::stand_in;

/// Why events can't go out.
#[derive(Debug, Error)]
pub(super) enum EmitError {
    /// The log holds something that is no event.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The client has transactions in a domain that was new to the log, which now begins with another one than the client's last.
    #[error("{requested} is not in the log, which has {ours}")]
    Forked {
        /// What the client has.
        requested: Gtid,
        /// What the log has.
        ours: Gtid,
    },
}

type Result<T> = std::result::Result<T, EmitError>;

/// What a client must not see, or sees in other words.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    /// Leave ANNOTATE_ROWS out; with `stand_ins`, replace it: such a client adds up positions event by event.
    pub(super) drop_annotate: bool,
    /// Replace MariaDB's own events by stand-ins.
    pub(super) stand_ins: bool,
    /// Transactions at or before this position are known to the client already.
    pub(super) known: GtidList,
    /// What the client has in domains of which the log had nothing: what turns up there is the same, or not what the client has.
    pub(super) foreign: GtidList,
    /// Nothing beyond this position is wanted; of domains that it does not name, nothing at all.
    pub(super) until: Option<GtidList>,
}

impl Filter {
    /// Whether the choice depends on transactions.
    fn tracks(&self) -> bool {
        !self.known.is_empty() || !self.foreign.is_empty() || self.until.is_some()
    }

    fn drops(&self, kind: EventKind) -> bool {
        kind == EventKind::ANNOTATE_ROWS && self.drop_annotate && !self.stand_ins
    }

    fn replaces(&self, kind: EventKind) -> bool {
        self.stand_ins && (kind != EventKind::ANNOTATE_ROWS || self.drop_annotate)
    }

    fn is_transparent(&self) -> bool {
        !self.drop_annotate && !self.stand_ins && !self.tracks()
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
    /// The position up to which the log was passed.
    reached: GtidList,
    /// What of `until` is still to come.
    remaining: GtidList,
    until_reached: bool,
    events: u64,
    /// Set for a client that acknowledges.
    semi_sync: Option<AckRequests>,
}

/// Asks a client for acknowledgements: of the last transaction that ends in what is framed at a time.
#[derive(Debug, Default)]
struct AckRequests {
    tracker: TransactionTracker,
    /// Where the event that ends a transaction stands in what was framed, and where it ends in the log's bytes.
    last: Option<(usize, usize)>,
    /// Of the log's bytes that were taken last: where the last transaction ends that went out.
    ends: Option<u64>,
}

impl AckRequests {
    /// Whether an event ends a transaction. A client may begin inside of one: what does not fit is not looked at.
    fn ends(&mut self, header: &EventHeader, body: &[u8]) -> bool {
        let mark = self.tracker.observe(header, body).or_else(|_| {
            self.tracker.reset();
            self.tracker.observe(header, body)
        });
        mark.is_ok_and(|mark| mark == Mark::End)
    }
}

impl Emitter {
    /// For a stream whose next packet has number `sequence`, and which begins at the log's position `at`; `semi_sync`: for a client that
    /// acknowledges.
    pub(super) fn new(filter: Filter, checksum: ChecksumAlg, at: GtidList, sequence: u8, semi_sync: bool) -> Self {
        let have = at.union(&filter.known);
        let remaining = filter.until.as_ref().map(|until| until.subtract(&have)).unwrap_or_default();
        Self {
            framer: EventFramer::new(sequence, semi_sync),
            until_reached: filter.until.is_some() && remaining.is_empty(),
            filter,
            checksum,
            tracker: TransactionTracker::new(),
            skipping: false,
            reached: at,
            remaining,
            events: 0,
            semi_sync: semi_sync.then(AckRequests::default),
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

    /// Whether an event was begun and lacks pieces.
    pub(super) fn inside_event(&self) -> bool {
        self.framer.inside_event()
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
        Ok(self.framer.frame(out, event)?)
    }

    /// Frames the whole events at the front of `bytes`, of which the last one may be cut off; gives how many bytes are done with (fewer than the
    /// whole events have only when UNTIL is reached).
    pub(super) fn run(&mut self, out: &mut Vec<u8>, bytes: &[u8]) -> Result<usize> {
        if self.is_transparent() {
            let run = self.framer.frame_front(out, bytes)?;
            self.events += run.events as u64;
            return Ok(run.bytes);
        }
        let mut at = 0;
        while bytes.len() - at >= HEADER_LEN && !self.until_reached {
            let header = EventHeader::parse(&bytes[at..])?;
            let Some(event) = bytes.get(at..at + header.size as usize) else { break };
            at += event.len();
            self.one(out, &header, event, at)?;
        }
        self.ask_for_ack(out)?;
        Ok(at)
    }

    /// Whether events go out as they stand, and in the same packets for everybody whose packets have the same numbers.
    pub(super) fn is_transparent(&self) -> bool {
        self.semi_sync.is_none() && self.filter.is_transparent()
    }

    /// Counts events that were framed by somebody else; `next` is the number of the packet behind them.
    pub(super) fn pass(&mut self, events: u64, next: u8) {
        self.events += events;
        self.framer.set_sequence(next);
    }

    /// Takes back what was counted of events that have not gone out yet; `first` is the number of their first packet.
    pub(super) fn pass_back(&mut self, events: u64, first: u8) {
        self.events -= events;
        self.framer.set_sequence(first);
    }

    /// Of the log's bytes that were taken last: where the last transaction ends that went out to a client that acknowledges.
    pub(super) fn take_ends(&mut self) -> Option<u64> {
        self.semi_sync.as_mut()?.ends.take()
    }

    /// Makes the last transaction's end in what was framed one that is to be acknowledged; behind it the numbers restart at 1, as a server's do.
    fn ask_for_ack(&mut self, out: &mut [u8]) -> Result<()> {
        let Some(acks) = &mut self.semi_sync else { return Ok(()) };
        let Some((at, ends)) = acks.last.take() else { return Ok(()) };
        let next = self.framer.want_ack(&mut out[at..])?;
        self.framer.set_sequence(next);
        acks.ends = Some(ends as u64);
        Ok(())
    }

    /// Begins an event that comes in pieces (it is larger than a read): says whether it goes out.
    pub(super) fn begin_large(&mut self, out: &mut Vec<u8>, header: &EventHeader, prefix: &[u8]) -> Result<bool> {
        let sent = self.passes(header, prefix)?;
        let ends = self.semi_sync.as_mut().is_some_and(|acks| acks.ends(header, prefix));
        if !sent {
            return Ok(false);
        }
        self.events += 1;
        match &mut self.semi_sync {
            Some(acks) if ends => {
                acks.ends = Some(u64::from(header.size));
                self.framer.start_wanting_ack(out, header.size as usize)?;
            }
            _ => self.framer.start(out, header.size as usize)?,
        }
        Ok(true)
    }

    /// The next piece of it.
    pub(super) fn push_large(&mut self, out: &mut Vec<u8>, piece: &[u8]) -> Result<()> {
        Ok(self.framer.push(out, piece)?)
    }

    /// Frames an event that ends `ends` bytes behind the beginning of what is taken.
    fn one(&mut self, out: &mut Vec<u8>, header: &EventHeader, bytes: &[u8], ends: usize) -> Result<()> {
        let body = &bytes[HEADER_LEN..bytes.len().saturating_sub(self.checksum.len()).max(HEADER_LEN)];
        let sent = self.passes(header, body)?;
        let ends_transaction = self.semi_sync.as_mut().is_some_and(|acks| acks.ends(header, body));
        if !sent {
            return Ok(());
        }
        if let (true, Some(acks)) = (ends_transaction, &mut self.semi_sync) {
            acks.last = Some((out.len(), ends));
        }
        self.events += 1;
        let other = if self.filter.replaces(header.kind) { stand_in(header, body, self.checksum) } else { None };
        Ok(self.framer.frame(out, other.as_deref().unwrap_or(bytes))?)
    }

    /// Whether an event goes out; follows the transactions.
    fn passes(&mut self, header: &EventHeader, body: &[u8]) -> Result<bool> {
        let mut hidden = self.filter.drops(header.kind);
        if self.filter.tracks() {
            let mark = self.tracker.observe(header, body)?;
            if let Mark::Begin(TransactionId::MariaDb(gtid), _) = &mark {
                self.begin(*gtid)?;
            }
            hidden |= self.skipping;
            if mark == Mark::End {
                self.end();
            }
        }
        Ok(!hidden)
    }

    fn begin(&mut self, gtid: Gtid) -> Result<()> {
        match self.filter.foreign.get(gtid.domain) {
            Some(requested) if requested == gtid => {
                self.filter.foreign.remove(gtid.domain);
                self.filter.known.set(gtid);
            }
            Some(requested) => return Err(EmitError::Forked { requested, ours: gtid }),
            None => {}
        }
        self.skipping = self.filter.known.contains(&gtid);
        if self.filter.until.is_some() {
            let last = self.remaining.get(gtid.domain).map(|g| g.sequence);
            if last.is_some_and(|last| gtid.sequence >= last) {
                // Reached with this transaction; or, where the log lacks it, before.
                self.remaining.remove(gtid.domain);
            }
            self.skipping |= last.is_none_or(|last| gtid.sequence > last);
        }
        if !self.skipping || self.filter.known.contains(&gtid) {
            self.reached.set(gtid);
        }
        Ok(())
    }

    fn end(&mut self) {
        self.skipping = false;
        if self.reached.covers(&self.filter.known) {
            self.filter.known = GtidList::default(); // from here on everything is new to the client
        }
        self.until_reached = self.filter.until.is_some() && self.remaining.is_empty();
    }
}

#[cfg(test)]
mod tests;
