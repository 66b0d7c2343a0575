//! Where transactions begin and end in a stream of events, told from headers and the first bytes of bodies.
//!
//! Rules: `rpl_group_info::is_begin_event` and the end-of-group test in `queue_event` of MariaDB's `sql/slave.cc`;
//! `Transaction_boundary_parser` of MySQL's `sql/rpl_trx_boundary_parser.cc`.

use crate::error::{Result, WireError};
use crate::event::{EventHeader, EventKind, GtidEvent, GtidFlags, MysqlGtidEvent};
use crate::gtid::TransactionId;
use crate::read::Reader;

/// Bytes of a body that [`TransactionTracker::observe`] looks at, at most (a QUERY's status variables are up to 64 KiB).
pub const BODY_PREFIX: usize = 128 * 1024;

/// What an event means for the transaction around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Belongs to no transaction: format description, rotation, list of GTIDs, checkpoint, heartbeat, stop.
    Outside,
    /// First event of a transaction.
    Begin(TransactionId, GtidFlags),
    /// In the middle of one.
    Inside,
    /// Its last event: behind it the log is whole.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// MariaDB STANDALONE: the first event that can stand alone ends it.
    Standalone,
    /// Ended by XID, XA PREPARE, COMMIT or ROLLBACK.
    Open,
    /// MySQL, right behind the GTID: `BEGIN` opens, anything else stands alone.
    MysqlFirst,
}

/// Follows a stream event by event.
#[derive(Debug, Clone)]
pub struct TransactionTracker {
    state: State,
}

impl Default for TransactionTracker {
    fn default() -> Self {
        Self { state: State::Idle }
    }
}

impl TransactionTracker {
    /// A tracker outside of any transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a transaction has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.state != State::Idle
    }

    /// Takes the next event; `body` is its body, or at least its first [`BODY_PREFIX`] bytes, without checksum.
    ///
    /// A GTID inside a transaction is an error: the stream has lost its end. So is an event of a transaction outside of one.
    pub fn observe(&mut self, header: &EventHeader, body: &[u8]) -> Result<Mark> {
        let kind = header.kind;
        match kind {
            EventKind::MARIADB_GTID => {
                let gtid = GtidEvent::parse(header.server_id, body)?;
                let next = if gtid.flags.has(GtidFlags::STANDALONE) { State::Standalone } else { State::Open };
                self.begin(next, TransactionId::MariaDb(gtid.gtid), gtid.flags)
            }
            EventKind::GTID | EventKind::GTID_TAGGED => {
                let gtid = MysqlGtidEvent::parse(kind, body)?;
                self.begin(State::MysqlFirst, TransactionId::MySql(gtid.gtid), GtidFlags::default())
            }
            EventKind::ANONYMOUS_GTID => self.begin(State::MysqlFirst, TransactionId::Anonymous, GtidFlags::default()),
            EventKind::FORMAT_DESCRIPTION
            | EventKind::ROTATE
            | EventKind::STOP
            | EventKind::GTID_LIST
            | EventKind::PREVIOUS_GTIDS
            | EventKind::BINLOG_CHECKPOINT
            | EventKind::HEARTBEAT
            | EventKind::HEARTBEAT_V2
            | EventKind::START_ENCRYPTION => Ok(Mark::Outside),
            _ => self.content(kind, body),
        }
    }

    fn begin(&mut self, next: State, id: TransactionId, flags: GtidFlags) -> Result<Mark> {
        if self.in_transaction() {
            return Err(WireError::invalid(
                "event stream",
                format!("transaction {id} begins before the one before it has ended"),
            ));
        }
        self.state = next;
        Ok(Mark::Begin(id, flags))
    }

    fn content(&mut self, kind: EventKind, body: &[u8]) -> Result<Mark> {
        let ends = match self.state {
            State::Idle if kind == EventKind::INCIDENT => return Ok(Mark::Outside),
            State::Idle => return Err(WireError::invalid("event stream", format!("{kind} outside of a transaction"))),
            State::Standalone => !is_prefix(kind),
            State::MysqlFirst if is_prefix(kind) => false,
            State::MysqlFirst => {
                let opens = kind == EventKind::QUERY && is_begin(query_text(body)?);
                if opens {
                    self.state = State::Open;
                }
                !opens
            }
            State::Open => match kind {
                EventKind::XID | EventKind::XA_PREPARE | EventKind::TRANSACTION_PAYLOAD => true,
                EventKind::QUERY => is_commit_or_rollback(query_text(body)?),
                _ => false,
            },
        };
        if ends {
            self.state = State::Idle;
            return Ok(Mark::End);
        }
        Ok(Mark::Inside)
    }
}

/// Events that only prepare the one behind them (`Log_event::is_part_of_group`).
fn is_prefix(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::INTVAR
            | EventKind::RAND
            | EventKind::USER_VAR
            | EventKind::TABLE_MAP
            | EventKind::ANNOTATE_ROWS
            | EventKind::ROWS_QUERY
    )
}

/// The statement of a QUERY event's body.
pub fn query_text(body: &[u8]) -> Result<&[u8]> {
    let mut r = Reader::new("query event", body);
    r.bytes(8)?; // thread id, execution time
    let database = usize::from(r.u8()?);
    r.u16()?; // error code
    let variables = usize::from(r.u16()?);
    r.bytes(variables)?;
    r.bytes(database + 1)?;
    Ok(r.take_rest())
}

fn is_begin(query: &[u8]) -> bool {
    query == b"BEGIN" || query.starts_with(b"XA START")
}

fn is_commit_or_rollback(query: &[u8]) -> bool {
    // `ROLLBACK TO` a savepoint does not end the transaction.
    matches!(query, b"COMMIT" | b"ROLLBACK")
}
