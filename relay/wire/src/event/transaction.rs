//! Where transactions begin and end in a stream of events, told from headers and the first bytes of bodies.
//!
//! Owns: the state between two events, one per stream. Promises: the last event of a transaction is marked as such the moment
//! it is seen. Never looks at rows, and holds no bytes.
//!
//! Rules: the end-of-group test in `queue_event` of MariaDB's `sql/slave.cc` with `Log_event::is_part_of_group`;
//! `Transaction_boundary_parser` of MySQL's `sql/rpl_trx_boundary_parser.cc`.

use crate::error::{Result, WireError};
use crate::event::{
    EventHeader, EventKind, FLAG_IGNORABLE, FORMAT_DESCRIPTION_SERVER_VERSION_LEN, GtidEvent, GtidFlags,
    MysqlGtidEvent, query_text,
};
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
    MariaStandalone,
    /// MariaDB: ended by XID, XA PREPARE, COMMIT or ROLLBACK.
    MariaOpen,
    /// MySQL, right behind the GTID: `BEGIN` opens, anything else stands alone.
    MysqlFirst,
    /// MySQL, behind `BEGIN`.
    MysqlOpen,
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

    /// Forgets the transaction that is open, if any: what comes next begins anew.
    pub fn reset(&mut self) {
        self.state = State::Idle;
    }

    /// Takes the next event; `body` is its body, or at least its first [`BODY_PREFIX`] bytes, without checksum.
    ///
    /// A GTID inside a transaction is an error: the stream has lost its end. So is an event of a transaction outside of one.
    /// A format description that a server wrote at its start ends a transaction that the crash before cut short: it never
    /// happened. The mark is [`Mark::Outside`], and [`in_transaction`](Self::in_transaction) turns false.
    pub fn observe(&mut self, header: &EventHeader, body: &[u8]) -> Result<Mark> {
        let kind = header.kind;
        match kind {
            EventKind::MARIADB_GTID => {
                let gtid = GtidEvent::parse(header.server_id, body)?;
                let next =
                    if gtid.flags.has(GtidFlags::STANDALONE) { State::MariaStandalone } else { State::MariaOpen };
                self.begin(next, TransactionId::MariaDb(gtid.gtid), gtid.flags)
            }
            EventKind::GTID | EventKind::GTID_TAGGED => {
                let gtid = MysqlGtidEvent::parse(kind, body)?;
                self.begin(State::MysqlFirst, TransactionId::MySql(gtid.gtid), GtidFlags::default())
            }
            EventKind::ANONYMOUS_GTID => self.begin(State::MysqlFirst, TransactionId::Anonymous, GtidFlags::default()),
            EventKind::FORMAT_DESCRIPTION => {
                if self.in_transaction() && is_server_start(body)? {
                    self.state = State::Idle;
                }
                Ok(Mark::Outside)
            }
            EventKind::ROTATE
            | EventKind::STOP
            | EventKind::GTID_LIST
            | EventKind::PREVIOUS_GTIDS
            | EventKind::BINLOG_CHECKPOINT
            | EventKind::HEARTBEAT
            | EventKind::HEARTBEAT_V2
            | EventKind::START_ENCRYPTION => Ok(Mark::Outside),
            _ => self.content(header, body),
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

    fn content(&mut self, header: &EventHeader, body: &[u8]) -> Result<Mark> {
        let kind = header.kind;
        let ends = match self.state {
            State::Idle if kind == EventKind::INCIDENT || is_ignorable(header) => return Ok(Mark::Outside),
            State::Idle => return Err(WireError::invalid("event stream", format!("{kind} outside of a transaction"))),
            State::MariaStandalone => !is_prefix(kind),
            State::MariaOpen => match kind {
                EventKind::XID | EventKind::XA_PREPARE => true,
                // Neither is ever compressed, and there is no other spelling.
                EventKind::QUERY => matches!(query_text(body)?, b"COMMIT" | b"ROLLBACK"),
                _ => false,
            },
            State::MysqlFirst if is_prefix(kind) || is_ignorable(header) => false,
            State::MysqlFirst => {
                let opens = kind == EventKind::QUERY && is_mysql_begin(query_text(body)?);
                if opens {
                    self.state = State::MysqlOpen;
                }
                !opens
            }
            State::MysqlOpen => match kind {
                EventKind::XID | EventKind::XA_PREPARE | EventKind::TRANSACTION_PAYLOAD | EventKind::INCIDENT => true,
                EventKind::QUERY => is_mysql_end(query_text(body)?),
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

/// Whether a format description was written by a server that started, rather than by a rotation.
fn is_server_start(body: &[u8]) -> Result<bool> {
    let mut r = Reader::new("format description", body);
    r.bytes(2 + FORMAT_DESCRIPTION_SERVER_VERSION_LEN)?;
    Ok(r.u32()? != 0)
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

/// A kind that a reader may pass over unseen, and that therefore bounds nothing.
fn is_ignorable(header: &EventHeader) -> bool {
    header.kind == EventKind::IGNORABLE || (header.flags & FLAG_IGNORABLE != 0 && header.kind.name().is_none())
}

fn is_mysql_begin(query: &[u8]) -> bool {
    query == b"BEGIN" || query.starts_with(b"XA START")
}

fn is_mysql_end(query: &[u8]) -> bool {
    // `ROLLBACK TO` a savepoint does not end the transaction; a comment may follow `ROLLBACK`.
    query == b"COMMIT"
        || (starts_with(query, b"ROLLBACK") && !starts_with(query, b"ROLLBACK TO "))
        || starts_with(query, b"XA ROLLBACK")
}

fn starts_with(query: &[u8], word: &[u8]) -> bool {
    query.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}
