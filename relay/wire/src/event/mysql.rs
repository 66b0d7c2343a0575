//! MySQL's own events: GTID, ANONYMOUS_GTID, GTID_TAGGED, PREVIOUS_GTIDS, TRANSACTION_PAYLOAD.
//!
//! Format: `Gtid_event`, `Previous_gtids_event` (`control_events.h`) and `Transaction_payload_event` (`codecs/binary.cpp`) in
//! MySQL's `libs/mysql/binlog/event/`; the tagged form is a message of `libs/mysql/serialization/`.

use crate::error::{Result, WireError};
use crate::event::EventKind;
use crate::gtid::mysql::{Gtid, GtidSet, MAX_NUMBER, MAX_TAG_LEN, Source, Uuid};
use crate::read::Reader;
use crate::varlen;

const WHAT: &str = "gtid event";
/// Says that two logical timestamps follow.
const LOGICAL_TIMESTAMPS: u8 = 2;
/// In a commit timestamp of seven bytes: another one follows.
const ORIGINAL_TIMESTAMP_FOLLOWS: u64 = 1 << 55;
/// In a server version: another one follows.
const ORIGINAL_VERSION_FOLLOWS: u32 = 1 << 31;

/// Begins a transaction. What older servers do not write is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlGtidEvent {
    /// The transaction's identity; number 0 of no server in an ANONYMOUS_GTID event.
    pub gtid: Gtid,
    /// 1: may hold statements logged as such; 0: rows only.
    pub flags: u8,
    /// Logical time at which the last transaction had committed that this one must wait for, counted within the file.
    pub last_committed: Option<i64>,
    /// The transaction's own logical time.
    pub sequence_number: Option<i64>,
    /// Microseconds since 1970 of the commit on the server that wrote this log.
    pub immediate_commit_timestamp: Option<u64>,
    /// Microseconds since 1970 of the commit on the server where the transaction was born.
    pub original_commit_timestamp: Option<u64>,
    /// Bytes of the whole transaction, from this event on.
    pub transaction_length: Option<u64>,
    /// Version of the server that wrote this log, as 90704 for 9.7.4.
    pub immediate_server_version: Option<u32>,
    /// Version of the server where the transaction was born.
    pub original_server_version: Option<u32>,
    /// Ticket of the group that committed together.
    pub commit_group_ticket: Option<u64>,
}

impl MysqlGtidEvent {
    /// Reads the body of a GTID (33), ANONYMOUS_GTID (34) or GTID_TAGGED (42) event.
    pub fn parse(kind: EventKind, body: &[u8]) -> Result<Self> {
        let event = match kind {
            EventKind::GTID | EventKind::ANONYMOUS_GTID => Self::parse_plain(body)?,
            EventKind::GTID_TAGGED => Self::parse_tagged(body)?,
            _ => return Err(WireError::invalid(WHAT, format!("{kind} is not a GTID event"))),
        };
        let number = event.gtid.number;
        if kind != EventKind::ANONYMOUS_GTID && !(1..=MAX_NUMBER).contains(&number) {
            return Err(WireError::invalid(
                WHAT,
                format!("transaction number {number} is not within 1..={MAX_NUMBER}"),
            ));
        }
        Ok(event)
    }

    fn empty() -> Self {
        Self {
            gtid: Gtid { source: Source::default(), number: 0 },
            flags: 0,
            last_committed: None,
            sequence_number: None,
            immediate_commit_timestamp: None,
            original_commit_timestamp: None,
            transaction_length: None,
            immediate_server_version: None,
            original_server_version: None,
            commit_group_ticket: None,
        }
    }

    fn parse_plain(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, body);
        let mut event = Self::empty();
        event.flags = r.u8()?;
        event.gtid.source.uuid = Uuid(r.array()?);
        event.gtid.number = r.u64()?;
        if r.is_empty() || r.u8()? != LOGICAL_TIMESTAMPS {
            return Ok(event); // 5.6 and before
        }
        event.last_committed = Some(r.u64()? as i64);
        event.sequence_number = Some(r.u64()? as i64);
        if r.is_empty() {
            return Ok(event); // 5.7
        }
        let immediate = u56(&mut r)?;
        let follows = immediate & ORIGINAL_TIMESTAMP_FOLLOWS != 0;
        let immediate = immediate & !ORIGINAL_TIMESTAMP_FOLLOWS;
        event.immediate_commit_timestamp = Some(immediate);
        event.original_commit_timestamp = Some(if follows { u56(&mut r)? } else { immediate });
        if !r.is_empty() {
            event.transaction_length = r.lenenc()?;
        }
        if !r.is_empty() {
            let immediate = r.u32()?;
            let follows = immediate & ORIGINAL_VERSION_FOLLOWS != 0;
            let immediate = immediate & !ORIGINAL_VERSION_FOLLOWS;
            event.immediate_server_version = Some(immediate);
            event.original_server_version = Some(if follows { r.u32()? } else { immediate });
        }
        if !r.is_empty() {
            event.commit_group_ticket = Some(r.u64()?);
        }
        Ok(event)
    }

    /// A serialized message: version, size of the whole, last field that a reader must know, then fields in ascending order.
    fn parse_tagged(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("tagged gtid event", body);
        let version = varlen::read(&mut r)?;
        if version > 1 {
            return Err(WireError::invalid(WHAT, format!("serialization version {version}; 0 and 1 are known")));
        }
        let size = varlen::read(&mut r)?;
        if size != body.len() as u64 {
            return Err(WireError::invalid(WHAT, format!("message of {size} bytes in a body of {}", body.len())));
        }
        let last_needed = varlen::read(&mut r)?;
        let mut event = Self::empty();
        let mut next_field = 0;
        while !r.is_empty() {
            let field = varlen::read(&mut r)?;
            if field < next_field {
                return Err(WireError::invalid(
                    WHAT,
                    format!("field {field} stands behind field {next_field} or twice"),
                ));
            }
            next_field = field.saturating_add(1);
            match field {
                0 => event.flags = narrow(varlen::read(&mut r)?, "flags")?,
                1 => {
                    for byte in &mut event.gtid.source.uuid.0 {
                        *byte = narrow(varlen::read(&mut r)?, "uuid byte")?;
                    }
                }
                2 => {
                    let number = varlen::read_signed(&mut r)?;
                    event.gtid.number = u64::try_from(number)
                        .map_err(|_| WireError::invalid(WHAT, format!("transaction number {number} is negative")))?;
                }
                3 => {
                    let tag = String::from_utf8_lossy(varlen::read_bytes(&mut r, WHAT, MAX_TAG_LEN)?);
                    event.gtid.source = Source::new(event.gtid.source.uuid, &tag)?;
                }
                4 => event.last_committed = Some(varlen::read_signed(&mut r)?),
                5 => event.sequence_number = Some(varlen::read_signed(&mut r)?),
                6 => event.immediate_commit_timestamp = Some(varlen::read(&mut r)?),
                7 => event.original_commit_timestamp = Some(varlen::read(&mut r)?),
                8 => event.transaction_length = Some(varlen::read(&mut r)?),
                9 => event.immediate_server_version = Some(narrow(varlen::read(&mut r)?, "server version")?),
                10 => event.original_server_version = Some(narrow(varlen::read(&mut r)?, "server version")?),
                11 => event.commit_group_ticket = Some(varlen::read(&mut r)?),
                // Fields come in order and without lengths: behind an unknown one nothing known follows.
                _ if field > last_needed => break,
                _ => return Err(WireError::invalid(WHAT, format!("field {field} is unknown and may not be ignored"))),
            }
        }
        // Equal values are left out.
        event.original_commit_timestamp = event.original_commit_timestamp.or(event.immediate_commit_timestamp);
        event.original_server_version = event.original_server_version.or(event.immediate_server_version);
        Ok(event)
    }
}

fn u56(r: &mut Reader<'_>) -> Result<u64> {
    let b: [u8; 7] = r.array()?;
    Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], 0]))
}

fn narrow<T: TryFrom<u64>>(value: u64, what: &str) -> Result<T> {
    T::try_from(value).map_err(|_| WireError::invalid(WHAT, format!("{what} {value} is out of range")))
}

/// What was executed before the file's first transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousGtids {
    /// All of it.
    pub set: GtidSet,
}

impl PreviousGtids {
    /// Reads an event's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        Ok(Self { set: GtidSet::decode(body)? })
    }

    /// The body.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.set.encode(&mut out);
        out
    }
}

/// A whole transaction but for its GTID, compressed. Events inside have no checksums and position 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionPayload<'a> {
    /// 0 is zstd, 255 none.
    pub compression: u64,
    /// Bytes of the events inside, uncompressed.
    pub uncompressed_size: Option<u64>,
    /// The events, compressed.
    pub payload: &'a [u8],
}

impl<'a> TransactionPayload<'a> {
    /// `compression` of zstd.
    pub const ZSTD: u64 = 0;
    /// `compression` of events that are stored as they are.
    pub const NONE: u64 = 255;

    /// Reads an event's body: fields (type, length, value), an end mark, the payload.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        const WHAT: &str = "transaction payload event";
        let mut r = Reader::new(WHAT, body);
        let (mut compression, mut uncompressed_size, mut size) = (Self::NONE, None, None);
        let missing = || WireError::invalid(WHAT, "a header field is NULL");
        loop {
            let field = r.lenenc()?.ok_or_else(missing)?;
            if field == 0 {
                break;
            }
            let value = r.lenenc_bytes()?.ok_or_else(missing)?;
            let number = |what| Reader::new(what, value).lenenc()?.ok_or_else(missing);
            match field {
                1 => size = Some(number("payload size")?),
                2 => compression = number("payload compression")?,
                3 => uncompressed_size = Some(number("payload uncompressed size")?),
                _ => {}
            }
        }
        let payload = r.take_rest();
        if size.is_some_and(|size| size != payload.len() as u64) {
            return Err(WireError::invalid(
                WHAT,
                format!("says its payload has {} bytes, {} are there", size.unwrap_or(0), payload.len()),
            ));
        }
        Ok(Self { compression, uncompressed_size, payload })
    }

    /// Name of the compression, if it is known.
    pub fn compression_name(&self) -> Option<&'static str> {
        match self.compression {
            Self::ZSTD => Some("zstd"),
            Self::NONE => Some("none"),
            _ => None,
        }
    }
}
