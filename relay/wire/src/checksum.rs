//! Event checksums: which algorithm a file uses, verifying, and signing events that are rewritten.
//!
//! Format: `Log_event::write_footer` in MariaDB's `sql/log_event_server.cc`; the CRC32 (IEEE) of header and body,
//! little endian, at the event's end. A format description of an active file is summed with its in-use flag cleared.

use crate::error::{Result, WireError};
use crate::event::{FLAG_IN_USE, FLAGS_OFFSET, HEADER_LEN};

/// Bytes of a CRC32 at an event's end.
pub const CHECKSUM_LEN: usize = 4;

/// `binlog_checksum` of a file, as its format description says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChecksumAlg {
    /// `NONE`: events end with their body.
    None,
    /// `CRC32`: four bytes follow the body.
    #[default]
    Crc32,
}

impl ChecksumAlg {
    /// From the algorithm byte of a format description (0 or 1).
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::None),
            1 => Ok(Self::Crc32),
            other => Err(WireError::invalid(
                "checksum algorithm",
                format!("{other} is unknown; 0 (NONE) and 1 (CRC32) are known"),
            )),
        }
    }

    /// The algorithm byte.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Crc32 => 1,
        }
    }

    /// Bytes that follow an event's body: 0 or 4.
    pub fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32 => CHECKSUM_LEN,
        }
    }

    /// Whether nothing follows an event's body.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The name that `@@binlog_checksum` has.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32 => "CRC32",
        }
    }
}

/// Checks the CRC32 at the end of a whole event (header, body, CRC), with the in-use flag taken as cleared.
pub fn verify(event: &[u8]) -> Result<()> {
    if event.len() < HEADER_LEN + CHECKSUM_LEN {
        return Err(WireError::Truncated {
            what: "checksummed event",
            need: HEADER_LEN + CHECKSUM_LEN,
            have: event.len(),
        });
    }
    let (content, footer) = event.split_at(event.len() - CHECKSUM_LEN);
    let stored = u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]);
    let computed = crc_without_in_use(content);
    if stored == computed { Ok(()) } else { Err(WireError::Checksum { stored, computed }) }
}

/// Recomputes the CRC32 in the last four bytes of a whole event. Does nothing to an event too short to have one.
pub fn sign(event: &mut [u8]) {
    if event.len() < HEADER_LEN + CHECKSUM_LEN {
        return;
    }
    let at = event.len() - CHECKSUM_LEN;
    let crc = crc_without_in_use(&event[..at]);
    event[at..].copy_from_slice(&crc.to_le_bytes());
}

fn crc_without_in_use(content: &[u8]) -> u32 {
    // Only a format description ever carries the flag, so the common path is one pass over the bytes.
    if content[FLAGS_OFFSET] & (FLAG_IN_USE as u8) == 0 || content[4] != crate::event::EventKind::FORMAT_DESCRIPTION.0 {
        return crc32fast::hash(content);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&content[..FLAGS_OFFSET]);
    hasher.update(&[content[FLAGS_OFFSET] & !(FLAG_IN_USE as u8)]);
    hasher.update(&content[FLAGS_OFFSET + 1..]);
    hasher.finalize()
}
