//! FORMAT_DESCRIPTION: the first event of a file; says how all others are laid out.

use crate::checksum::{self, ChecksumAlg};
use crate::error::{Result, WireError};
use crate::event::{EventHeader, EventKind, FLAG_IN_USE, FLAGS_OFFSET, Flavor, HEADER_LEN, body, build};
use crate::read::Reader;

/// Bytes of the NUL-padded server version in a format description.
pub const FORMAT_DESCRIPTION_SERVER_VERSION_LEN: usize = 50;
const CREATE_TS_OFFSET: usize = HEADER_LEN + 2 + FORMAT_DESCRIPTION_SERVER_VERSION_LEN;
const LOG_POS_OFFSET: usize = 13;
const BINLOG_VERSION: u16 = 4;
const WHAT: &str = "format description";

/// What a format description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatDescription {
    /// Version of the server that wrote the file, such as `10.11.19-MariaDB-log`.
    pub server_version: String,
    /// Seconds since 1970 of the server's start; 0 in a file begun by a rotation.
    pub created: u32,
    /// Bytes of fixed fields in the body of each kind of event, from kind 1 on.
    pub post_header_lengths: Vec<u8>,
    /// Checksums of the events in this file.
    pub checksum: ChecksumAlg,
}

impl FormatDescription {
    /// Reads a whole event (header, body, checksum field). The checksum is not verified.
    pub fn parse(event: &[u8]) -> Result<Self> {
        let header = EventHeader::parse(event)?;
        if header.kind != EventKind::FORMAT_DESCRIPTION {
            return Err(WireError::invalid(WHAT, format!("{} is none", header.kind)));
        }
        if header.size as usize != event.len() {
            return Err(WireError::invalid(
                WHAT,
                format!("size says {}, {} bytes are there", header.size, event.len()),
            ));
        }
        Self::parse_body(body(event, ChecksumAlg::Crc32)?)
    }

    /// Reads an event's body, without the checksum field (which is always there, also with `binlog_checksum=NONE`).
    pub fn parse_body(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, body);
        let binlog_version = r.u16()?;
        if binlog_version != BINLOG_VERSION {
            return Err(WireError::invalid(
                WHAT,
                format!("binlog version {binlog_version}; only 4 (MySQL 5.0 and newer) is read"),
            ));
        }
        let version = r.bytes(FORMAT_DESCRIPTION_SERVER_VERSION_LEN)?;
        let end = version.iter().position(|b| *b == 0).unwrap_or(version.len());
        let server_version = String::from_utf8_lossy(&version[..end]).into_owned();
        let created = r.u32()?;
        let header_len = r.u8()?;
        if usize::from(header_len) != HEADER_LEN {
            return Err(WireError::invalid(WHAT, format!("event headers of {header_len} bytes; only 19 is read")));
        }
        let Some((checksum, post_header_lengths)) = r.take_rest().split_last() else {
            return Err(WireError::Truncated { what: WHAT, need: body.len() + 1, have: body.len() });
        };
        let checksum = ChecksumAlg::from_byte(*checksum)?;
        Ok(Self { server_version, created, post_header_lengths: post_header_lengths.to_vec(), checksum })
    }

    /// The family of the server that wrote the file: told by its version, or by its knowledge of MariaDB's own events.
    pub fn flavor(&self) -> Flavor {
        match Flavor::of_version(&self.server_version) {
            Flavor::MySql if self.post_header_lengths.len() >= usize::from(EventKind::GTID_LIST.0) => Flavor::MariaDb,
            flavor => flavor,
        }
    }

    /// The whole event, with a checksum also where the file's events have none. A longer version is cut at 49 bytes.
    pub fn event(&self, header: EventHeader) -> Vec<u8> {
        let mut version = [0; FORMAT_DESCRIPTION_SERVER_VERSION_LEN];
        let len = self.server_version.len().min(FORMAT_DESCRIPTION_SERVER_VERSION_LEN - 1);
        version[..len].copy_from_slice(&self.server_version.as_bytes()[..len]);
        let mut body = Vec::with_capacity(HEADER_LEN + FORMAT_DESCRIPTION_SERVER_VERSION_LEN + 256);
        body.extend_from_slice(&BINLOG_VERSION.to_le_bytes());
        body.extend_from_slice(&version);
        body.extend_from_slice(&self.created.to_le_bytes());
        body.push(HEADER_LEN as u8);
        body.extend_from_slice(&self.post_header_lengths);
        body.push(self.checksum.to_byte());
        build(EventHeader { kind: EventKind::FORMAT_DESCRIPTION, ..header }, &body, ChecksumAlg::Crc32)
    }

    /// Clears the in-use bit of a whole event. Its checksum does not change: it is always computed without the bit.
    pub fn clear_in_use(event: &mut [u8]) {
        if let Some(flags) = event.get_mut(FLAGS_OFFSET) {
            *flags &= !(FLAG_IN_USE as u8);
        }
    }

    /// Rewrites a whole event as a sender does before events from the middle of a file: `created` is zeroed so that the
    /// replica keeps its temporary tables; with `zero_log_pos` the position too. The checksum is recomputed; where the file has none, the
    /// field keeps what is in it, as servers do.
    pub fn as_sent_mid_file(event: &mut [u8], zero_log_pos: bool) {
        Self::clear_in_use(event);
        if let Some(created) = event.get_mut(CREATE_TS_OFFSET..CREATE_TS_OFFSET + 4) {
            created.fill(0);
        }
        if zero_log_pos {
            if let Some(pos) = event.get_mut(LOG_POS_OFFSET..LOG_POS_OFFSET + 4) {
                pos.fill(0);
            }
        }
        let alg = event.len().checked_sub(checksum::CHECKSUM_LEN + 1).and_then(|at| event.get(at));
        if alg == Some(&ChecksumAlg::Crc32.to_byte()) {
            checksum::sign(event);
        }
    }
}
