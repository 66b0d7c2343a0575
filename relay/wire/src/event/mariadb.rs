//! MariaDB's own events: GTID, GTID_LIST, BINLOG_CHECKPOINT (`sql/log_event.h`, `Gtid_log_event` and following).

use crate::checksum::ChecksumAlg;
use crate::error::{Result, WireError};
use crate::event::{EventHeader, EventKind, FLAG_ARTIFICIAL, Xid, build};
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
    /// The XA transaction, with [`GtidFlags::PREPARED_XA`] or [`GtidFlags::COMPLETED_XA`].
    pub xid: Option<Xid>,
    /// What newer servers add.
    pub extra: GtidExtra,
}

/// `flags_extra` of a MariaDB GTID event and what it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GtidExtra {
    /// The byte itself; 0 if it is not there.
    pub flags: u8,
    /// Storage engines that can recover the transaction, beyond the first one.
    pub engines: Option<u8>,
    /// Sequence number of the START ALTER that this COMMIT or ROLLBACK ALTER completes.
    pub start_alter: Option<u64>,
    /// Connection on the primary (11.5 and newer).
    pub thread_id: Option<u32>,
}

impl GtidExtra {
    /// The number of engines follows.
    pub const MULTI_ENGINE: u8 = 0x01;
    /// START ALTER: the first half of a two-phase ALTER TABLE.
    pub const START_ALTER: u8 = 0x02;
    /// COMMIT ALTER.
    pub const COMMIT_ALTER: u8 = 0x04;
    /// ROLLBACK ALTER.
    pub const ROLLBACK_ALTER: u8 = 0x08;
    /// The thread id follows.
    pub const THREAD_ID: u8 = 0x10;

    fn parse(r: &mut Reader<'_>) -> Result<Self> {
        let mut extra = Self::default();
        if r.is_empty() {
            return Ok(extra);
        }
        extra.flags = r.u8()?;
        if extra.flags & Self::MULTI_ENGINE != 0 {
            extra.engines = Some(r.u8()?);
        }
        if extra.flags & (Self::COMMIT_ALTER | Self::ROLLBACK_ALTER) != 0 {
            extra.start_alter = Some(r.u64()?);
        }
        if extra.flags & Self::THREAD_ID != 0 {
            extra.thread_id = Some(r.u32()?);
        }
        Ok(extra) // what is left is zero padding, or what still newer servers add
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.flags == 0 {
            return;
        }
        out.push(self.flags);
        out.extend(self.engines);
        if let Some(sequence) = self.start_alter {
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        if let Some(id) = self.thread_id {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }
}

impl GtidEvent {
    /// Servers pad a shorter body to this.
    const MIN_BODY: usize = 19;

    /// Reads an event's body; the server id comes from the event's header.
    pub fn parse(server_id: u32, body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("gtid event", body);
        let sequence = r.u64()?;
        let domain = r.u32()?;
        let flags = GtidFlags(r.u8()?);
        let commit_id = if flags.has(GtidFlags::GROUP_COMMIT_ID) { Some(r.u64()?) } else { None };
        let xid = if flags.0 & (GtidFlags::PREPARED_XA | GtidFlags::COMPLETED_XA) != 0 {
            let format_id = r.u32()?;
            let (gtrid, bqual) = (usize::from(r.u8()?), usize::from(r.u8()?));
            Some(Xid::new(format_id, r.bytes(gtrid)?, r.bytes(bqual)?)?)
        } else {
            None
        };
        let extra = GtidExtra::parse(&mut r)?;
        Ok(Self { gtid: Gtid { domain, server_id, sequence }, flags, commit_id, xid, extra })
    }

    /// The body. The fields are taken as they are: the flags must announce them.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.extend_from_slice(&self.gtid.sequence.to_le_bytes());
        out.extend_from_slice(&self.gtid.domain.to_le_bytes());
        out.push(self.flags.0);
        if let Some(id) = self.commit_id {
            out.extend_from_slice(&id.to_le_bytes());
        }
        if let Some(xid) = &self.xid {
            out.extend_from_slice(&xid.format_id.to_le_bytes());
            out.extend_from_slice(&[xid.gtrid().len() as u8, xid.bqual().len() as u8]);
            out.extend_from_slice(xid.gtrid());
            out.extend_from_slice(xid.bqual());
        }
        self.extra.write(&mut out);
        out.resize(out.len().max(Self::MIN_BODY), 0);
        out
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
            out.extend_from_slice(&[0, 0]); // as servers do: a body never falls below six bytes
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
