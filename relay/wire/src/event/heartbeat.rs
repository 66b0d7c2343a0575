//! HEARTBEAT and HEARTBEAT_V2: the sender lives, and this is where it stands. Sent over the wire only.
//!
//! Format: `send_heartbeat_event` in MariaDB's `sql/sql_repl.cc`; `Heartbeat_event_v2` in MySQL's
//! `libs/mysql/binlog/event/control_events.h`.

use crate::checksum::ChecksumAlg;
use crate::error::{Result, WireError};
use crate::event::{EventHeader, EventKind, Flavor, build};
use crate::read::Reader;

const WHAT: &str = "heartbeat event";
const FIELD_END: u64 = 0;
const FIELD_FILE: u64 = 1;
const FIELD_POSITION: u64 = 2;

/// Where the sender stands: the end of the last event that it sent or skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The file's name.
    pub file: String,
    /// Offset in the file. From a MySQL sender with the older form (27) only its low 32 bits.
    pub position: u64,
}

impl Heartbeat {
    /// Reads an event of either form; `body` is without checksum. The flavor is the sender's.
    pub fn parse(header: &EventHeader, body: &[u8], flavor: Flavor) -> Result<Self> {
        match header.kind {
            EventKind::HEARTBEAT => Self::parse_v1(header, body, flavor),
            EventKind::HEARTBEAT_V2 => Self::parse_v2(body),
            other => Err(WireError::invalid(WHAT, format!("{other} is not a heartbeat"))),
        }
    }

    fn parse_v1(header: &EventHeader, body: &[u8], flavor: Flavor) -> Result<Self> {
        let mut r = Reader::new(WHAT, body);
        // MariaDB moves a position beyond 4 GiB from the header to the body.
        let long = flavor == Flavor::MariaDb && header.log_pos == 0 && body.len() > 8;
        let position = if long { r.u64()? } else { u64::from(header.log_pos) };
        Ok(Self { file: file_name(r.take_rest())?, position })
    }

    fn parse_v2(body: &[u8]) -> Result<Self> {
        let missing = || WireError::invalid(WHAT, "a field is NULL");
        let mut r = Reader::new(WHAT, body);
        let (mut file, mut position) = (None, None);
        loop {
            let field = r.lenenc()?.ok_or_else(missing)?;
            if field == FIELD_END {
                break;
            }
            let value = r.lenenc_bytes()?.ok_or_else(missing)?;
            match field {
                FIELD_FILE => file = Some(file_name(value)?),
                FIELD_POSITION => position = Some(Reader::new(WHAT, value).lenenc()?.ok_or_else(missing)?),
                _ => {}
            }
        }
        match (file, position) {
            (Some(file), Some(position)) => Ok(Self { file, position }),
            _ => Err(WireError::invalid(WHAT, "file name or position is missing")),
        }
    }

    /// The whole event in the older form (27), for replicas of `flavor`.
    pub fn v1(&self, flavor: Flavor, server_id: u32, alg: ChecksumAlg) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + self.file.len());
        let mut log_pos = self.position as u32;
        // A MariaDB replica looks into the body whenever the header says 0, so position 0 goes there too.
        if flavor == Flavor::MariaDb && !(1..=u64::from(u32::MAX)).contains(&self.position) {
            log_pos = 0;
            body.extend_from_slice(&self.position.to_le_bytes());
        }
        body.extend_from_slice(self.file.as_bytes());
        build(header(EventKind::HEARTBEAT, server_id, log_pos), &body, alg)
    }

    /// The whole event in the newer form (41), for MySQL replicas that asked for it.
    pub fn v2(&self, server_id: u32, alg: ChecksumAlg) -> Vec<u8> {
        let mut position = Vec::with_capacity(9);
        write_lenenc(&mut position, self.position);
        let mut body = Vec::with_capacity(self.file.len() + 24);
        write_lenenc(&mut body, FIELD_FILE);
        write_lenenc(&mut body, self.file.len() as u64);
        body.extend_from_slice(self.file.as_bytes());
        write_lenenc(&mut body, FIELD_POSITION);
        write_lenenc(&mut body, position.len() as u64);
        body.extend_from_slice(&position);
        write_lenenc(&mut body, FIELD_END);
        build(header(EventKind::HEARTBEAT_V2, server_id, self.position as u32), &body, alg)
    }
}

fn header(kind: EventKind, server_id: u32, log_pos: u32) -> EventHeader {
    EventHeader { timestamp: 0, kind, server_id, size: 0, log_pos, flags: 0 }
}

fn file_name(bytes: &[u8]) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && !name.contains(['\0', '/']) => Ok(name.to_owned()),
        _ => Err(WireError::invalid(WHAT, format!("{:?} is not a file name", String::from_utf8_lossy(bytes)))),
    }
}

/// A length-encoded integer of the client/server protocol.
fn write_lenenc(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=0xfa => out.push(bytes[0]),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&bytes);
        }
    }
}
