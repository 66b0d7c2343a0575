//! MariaDB's own events: GTID, GTID_LIST, BINLOG_CHECKPOINT (`sql/log_event.h`, `Gtid_log_event` and following).

use crate::checksum::ChecksumAlg;
use crate::error::{Result, WireError};
use crate::event::{EventHeader, EventKind, FLAG_ARTIFICIAL, build};
use crate::gtid::mariadb::{Gtid, GtidList};
use crate::read::Reader;

/// `flags2` of a MariaDB GTID event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GtidFlags(pub u8);

impl GtidFlags {
    /// One event follows and ends the group: DDL.
    pub const STANDALONE: u8 = 0x01;
    /// A commit id follows in the body.
    pub const GROUP_COMMIT_ID: u8 = 0x02;
    /// Can be rolled back.
    pub const TRANSACTIONAL: u8 = 0x04;
    /// May be applied in parallel.
    pub const ALLOW_PARALLEL: u8 = 0x08;
    /// Waited for a row lock on the primary.
    pub const WAITED: u8 = 0x10;
    /// Is DDL.
    pub const DDL: u8 = 0x20;
    /// XA PREPARE.
    pub const PREPARED_XA: u8 = 0x40;
    /// XA COMMIT or ROLLBACK.
    pub const COMPLETED_XA: u8 = 0x80;

    /// Whether all bits of `flag` are set.
    pub fn has(self, flag: u8) -> bool {
        self.0 & flag == flag
    }
}

/// Begins a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GtidEvent {
    /// The transaction's identity; its server id is the event header's.
    pub gtid: Gtid,
    /// What kind of transaction it is.
    pub flags: GtidFlags,
    /// Transactions of one group commit share it.
    pub commit_id: Option<u64>,
}

impl GtidEvent {
    /// Reads an event's body; the server id comes from the event's header.
    pub fn parse(server_id: u32, body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("gtid event", body);
        let sequence = r.u64()?;
        let domain = r.u32()?;
        let flags = GtidFlags(r.u8()?);
        let commit_id = if flags.has(GtidFlags::GROUP_COMMIT_ID) { Some(r.u64()?) } else { None };
        Ok(Self { gtid: Gtid { domain, server_id, sequence }, flags, commit_id })
    }
}

/// The GTID state at the place where the event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidListEvent {
    /// Last GTID of each (domain, server id) pair, in the writer's order; the last entry of a domain is its newest.
    pub gtids: Vec<Gtid>,
    /// The four high bits of the count (`FLAG_UNTIL_REACHED`, `FLAG_IGN_GTIDS`).
    pub flags: u8,
}

impl GtidListEvent {
    /// Reads an event's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("gtid list event", body);
        let word = r.u32()?;
        let count = (word & 0x0fff_ffff) as usize;
        if r.remaining() < count.saturating_mul(16) {
            return Err(WireError::Truncated {
                what: "gtid list event",
                need: count.saturating_mul(16),
                have: r.remaining(),
            });
        }
        let mut gtids = Vec::with_capacity(count);
        for _ in 0..count {
            let domain = r.u32()?;
            let server_id = r.u32()?;
            let sequence = r.u64()?;
            gtids.push(Gtid { domain, server_id, sequence });
        }
        Ok(Self { gtids, flags: (word >> 28) as u8 })
    }

    /// The state as a position: the newest GTID of each domain (a later entry of a domain wins, as in the server).
    pub fn position(&self) -> GtidList {
        let mut list = GtidList::default();
        for gtid in &self.gtids {
            list.set(*gtid);
        }
        list
    }

    /// The body.
    pub fn body(&self) -> Vec<u8> {
        let count = u32::try_from(self.gtids.len()).unwrap_or(0x0fff_ffff) & 0x0fff_ffff;
        let mut out = Vec::with_capacity(4 + 16 * self.gtids.len().max(1));
        out.extend_from_slice(&(count | u32::from(self.flags) << 28).to_le_bytes());
        for g in &self.gtids {
            out.extend_from_slice(&g.domain.to_le_bytes());
            out.extend_from_slice(&g.server_id.to_le_bytes());
            out.extend_from_slice(&g.sequence.to_le_bytes());
        }
        if self.gtids.is_empty() {
            out.extend_from_slice(&[0, 0]); // the server pads an empty list so that it is not taken for an old format
        }
        out
    }

    /// The whole artificial event that tells a replica where in the file the stream goes on: `log_pos` is that place.
    pub fn artificial(list: &GtidList, server_id: u32, log_pos: u32, alg: ChecksumAlg) -> Vec<u8> {
        let header = EventHeader {
            timestamp: 0,
            kind: EventKind::GTID_LIST,
            server_id,
            size: 0,
            log_pos,
            flags: FLAG_ARTIFICIAL,
        };
        build(header, &Self { gtids: list.iter().collect(), flags: 0 }.body(), alg)
    }
}

/// Names the oldest file that the server's crash recovery still needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogCheckpoint {
    /// The file's name.
    pub file: String,
}

impl BinlogCheckpoint {
    /// Reads an event's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("binlog checkpoint event", body);
        let len = r.u32()? as usize;
        let name = r.bytes(len)?;
        let file = String::from_utf8(name.to_vec())
            .map_err(|_| WireError::invalid("binlog checkpoint event", "file name is not UTF-8"))?;
        Ok(Self { file })
    }

    /// The body.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.file.len());
        out.extend_from_slice(&u32::try_from(self.file.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(self.file.as_bytes());
        out
    }
}
