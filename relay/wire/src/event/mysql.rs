//! MySQL's own events: GTID, GTID_TAGGED, PREVIOUS_GTIDS.

use crate::error::{Result, WireError};
use crate::event::EventKind;
use crate::gtid::mysql::{Gtid, Source, Uuid};
use crate::read::Reader;

/// Begins a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlGtidEvent {
    /// The transaction's identity.
    pub gtid: Gtid,
    /// 1: may hold statements logged as such; 0: rows only.
    pub flags: u8,
}

impl MysqlGtidEvent {
    /// Reads the body of a GTID (33) event. The tagged form (42) is not read by this function yet.
    pub fn parse(kind: EventKind, body: &[u8]) -> Result<Self> {
        if kind != EventKind::GTID {
            return Err(WireError::invalid("gtid event", format!("{kind} is not a GTID event")));
        }
        let mut r = Reader::new("gtid event", body);
        let flags = r.u8()?;
        let uuid = Uuid(r.array()?);
        let number = r.u64()?;
        Ok(Self { gtid: Gtid { source: Source { uuid, tag: String::new() }, number }, flags })
    }
}
