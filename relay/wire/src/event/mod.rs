//! Binlog events: the 19-byte header, the kinds, and the bodies that a relay has to understand.
//!
//! Format: "Binlog Event Header" in the MySQL internals manual, `sql/log_event.h` of MariaDB and
//! `libs/mysql/binlog/event/` of MySQL. Numbers are little endian.

mod body;
mod display;
mod format;
mod heartbeat;
mod kind;
mod mariadb;
mod mysql;
mod query;
mod rotate;
mod rows;
mod transaction;
mod xa;

pub use body::{EventBody, Incident};
pub use display::OneLine;
pub use format::{FORMAT_DESCRIPTION_SERVER_VERSION_LEN, FormatDescription};
pub use heartbeat::Heartbeat;
pub use kind::{EventKind, Flavor};
pub use mariadb::{BinlogCheckpoint, GtidEvent, GtidExtra, GtidFlags, GtidListEvent};
pub use mysql::{MysqlGtidEvent, PreviousGtids, TransactionPayload};
pub use query::{Compressed, Intvar, LoadBlock, Query, Rand, UserValue, UserVar, query_text};
pub use rotate::Rotate;
pub use rows::{Rows, RowsAction, RowsLayout, TableMap};
pub use transaction::{BODY_PREFIX, Mark, TransactionTracker};
pub use xa::{XaPrepare, Xid};

use crate::checksum::{self, CHECKSUM_LEN, ChecksumAlg};
use crate::error::{Result, WireError};

/// Length of an event header.
pub const HEADER_LEN: usize = 19;
/// The first four bytes of every binlog file.
pub const MAGIC: [u8; 4] = *b"\xfebin";
/// Position of the first event of a file, right behind [`MAGIC`].
pub const FIRST_EVENT: u64 = 4;
/// Offset of the kind in an event.
const KIND_OFFSET: usize = 4;
/// Offset of the flags in an event (and 21 in a file: the in-use bit of its format description).
pub const FLAGS_OFFSET: usize = 17;
/// `LOG_EVENT_BINLOG_IN_USE_F`: set on disk in the format description of a file that is being written.
pub const FLAG_IN_USE: u16 = 0x0001;
/// `LOG_EVENT_SUPPRESS_USE_F`.
pub const FLAG_SUPPRESS_USE: u16 = 0x0008;
/// `LOG_EVENT_ARTIFICIAL_F`: made by the sender, not in any file.
pub const FLAG_ARTIFICIAL: u16 = 0x0020;
/// `LOG_EVENT_IGNORABLE_F`: a reader that does not know the type may skip it.
pub const FLAG_IGNORABLE: u16 = 0x0080;

/// The common header of every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// Seconds since 1970 at which the statement began; 0 in artificial events.
    pub timestamp: u32,
    /// What the event is.
    pub kind: EventKind,
    /// `server_id` of the server on which the event originated.
    pub server_id: u32,
    /// Bytes of the whole event: header, body and checksum.
    pub size: u32,
    /// Position of the next event in the file, modulo 2^32; 0 in artificial events.
    pub log_pos: u32,
    /// `FLAG_*` bits.
    pub flags: u16,
}

impl EventHeader {
    /// Reads the header at the front of `bytes`. A size below [`HEADER_LEN`] is an error.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(b) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(WireError::Truncated { what: "event header", need: HEADER_LEN, have: bytes.len() });
        };
        let header = Self {
            timestamp: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            kind: EventKind(b[4]),
            server_id: u32::from_le_bytes([b[5], b[6], b[7], b[8]]),
            size: u32::from_le_bytes([b[9], b[10], b[11], b[12]]),
            log_pos: u32::from_le_bytes([b[13], b[14], b[15], b[16]]),
            flags: u16::from_le_bytes([b[17], b[18]]),
        };
        if (header.size as usize) < HEADER_LEN {
            return Err(WireError::invalid(
                "event header",
                format!("size {} is below the header's own 19 bytes", header.size),
            ));
        }
        Ok(header)
    }

    /// Appends the 19 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.push(self.kind.0);
        out.extend_from_slice(&self.server_id.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.log_pos.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
    }

    /// Whether the sender made the event up (it is in no file).
    pub fn is_artificial(&self) -> bool {
        self.flags & FLAG_ARTIFICIAL != 0
    }
}

/// The body of a whole event: what lies between its header and its checksum. A format description always has a checksum
/// field, whatever `alg` says.
pub fn body(event: &[u8], alg: ChecksumAlg) -> Result<&[u8]> {
    let is_format = event.get(KIND_OFFSET) == Some(&EventKind::FORMAT_DESCRIPTION.0);
    let footer = if is_format { CHECKSUM_LEN } else { alg.len() };
    let need = HEADER_LEN + footer;
    if event.len() < need {
        return Err(WireError::Truncated { what: "event", need, have: event.len() });
    }
    Ok(&event[HEADER_LEN..event.len() - footer])
}

/// Builds a whole event from a header template and a body: sets the size, appends and computes the checksum.
pub fn build(mut header: EventHeader, body: &[u8], alg: ChecksumAlg) -> Vec<u8> {
    let size = HEADER_LEN + body.len() + alg.len();
    header.size = u32::try_from(size).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(size);
    header.write(&mut out);
    out.extend_from_slice(body);
    if !alg.is_empty() {
        out.extend_from_slice(&[0; CHECKSUM_LEN]);
        checksum::sign(&mut out);
    }
    out
}
