//! FORMAT_DESCRIPTION: the first event of a file; says how all others are laid out.

use crate::checksum::{self, ChecksumAlg};
use crate::error::{Result, WireError};
use crate::event::{EventHeader, FLAG_IN_USE, FLAGS_OFFSET, HEADER_LEN};
use crate::read::Reader;

/// Bytes of the NUL-padded server version in a format description.
pub const FORMAT_DESCRIPTION_SERVER_VERSION_LEN: usize = 50;
const CREATE_TS_OFFSET: usize = HEADER_LEN + 2 + FORMAT_DESCRIPTION_SERVER_VERSION_LEN;
const LOG_POS_OFFSET: usize = 13;
/// Algorithm byte and checksum are always there, also with `binlog_checksum=NONE`.
const TAIL_LEN: usize = 1 + checksum::CHECKSUM_LEN;

/// What a format description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatDescription {
    /// Version of the server that wrote the file, such as `10.11.19-MariaDB-log`.
    pub server_version: String,
    /// Seconds since 1970 of the server's start; 0 in a file begun by a rotation.
    pub created: u32,
    /// Checksums of the events in this file.
    pub checksum: ChecksumAlg,
}

impl FormatDescription {
    /// Reads a whole event (header, body, checksum field).
    pub fn parse(event: &[u8]) -> Result<Self> {
        let header = EventHeader::parse(event)?;
        if header.size as usize != event.len() {
            return Err(WireError::invalid(
                "format description",
                format!("size says {}, {} bytes are there", header.size, event.len()),
            ));
        }
        let mut r = Reader::new("format description", &event[HEADER_LEN..]);
        let binlog_version = r.u16()?;
        if binlog_version != 4 {
            return Err(WireError::invalid(
                "format description",
                format!("binlog version {binlog_version}; only 4 (MySQL 5.0 and newer) is read"),
            ));
        }
        let version = r.bytes(FORMAT_DESCRIPTION_SERVER_VERSION_LEN)?;
        let end = version.iter().position(|b| *b == 0).unwrap_or(version.len());
        let server_version = String::from_utf8_lossy(&version[..end]).into_owned();
        let created = r.u32()?;
        let header_len = r.u8()?;
        if usize::from(header_len) != HEADER_LEN {
            return Err(WireError::invalid(
                "format description",
                format!("event headers of {header_len} bytes; only 19 is read"),
            ));
        }
        if r.remaining() < TAIL_LEN {
            return Err(WireError::Truncated { what: "format description", need: TAIL_LEN, have: r.remaining() });
        }
        let checksum = ChecksumAlg::from_byte(r.rest()[r.remaining() - TAIL_LEN])?;
        Ok(Self { server_version, created, checksum })
    }

    /// Clears the in-use bit of a whole event. Its checksum does not change: it is always computed without the bit.
    pub fn clear_in_use(event: &mut [u8]) {
        if let Some(flags) = event.get_mut(FLAGS_OFFSET) {
            *flags &= !(FLAG_IN_USE as u8);
        }
    }

    /// Rewrites a whole event as a sender does before events from the middle of a file: `created` is zeroed so that the
    /// replica keeps its temporary tables; with `zero_log_pos` the position too. The checksum is recomputed.
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
        checksum::sign(event);
    }
}
