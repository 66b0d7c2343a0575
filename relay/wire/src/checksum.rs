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

impl ChecksumAlg {
    /// Checks a whole event of a file that uses this algorithm. Without checksums there is nothing to check.
    pub fn verify(self, event: &[u8]) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Crc32 => verify(event),
        }
    }
}

/// Checks an event that comes in pieces. Not for format descriptions, whose flags count as cleared; those come whole.
#[derive(Debug, Clone)]
pub struct EventChecksum {
    hasher: crc32fast::Hasher,
    /// Bytes before the checksum that are still to come.
    content_left: u64,
    stored: [u8; CHECKSUM_LEN],
    stored_len: usize,
}

impl EventChecksum {
    /// For an event of `size` bytes, checksum included.
    pub fn new(size: u32) -> Self {
        Self {
            hasher: crc32fast::Hasher::new(),
            content_left: u64::from(size).saturating_sub(CHECKSUM_LEN as u64),
            stored: [0; CHECKSUM_LEN],
            stored_len: 0,
        }
    }

    /// Takes the next piece. What exceeds the size is passed over.
    pub fn update(&mut self, piece: &[u8]) {
        let content = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(piece.len());
        let (content, footer) = piece.split_at(content);
        self.hasher.update(content);
        self.content_left -= content.len() as u64;
        for (to, from) in self.stored.iter_mut().skip(self.stored_len).zip(footer) {
            *to = *from;
            self.stored_len += 1;
        }
    }

    /// Whether the last four bytes are the CRC32 of those before. Error: they are not, or the event is not complete.
    pub fn finish(self) -> Result<()> {
        if self.content_left > 0 || self.stored_len < CHECKSUM_LEN {
            let missing = self.content_left as usize + CHECKSUM_LEN - self.stored_len;
            return Err(WireError::Truncated { what: "checksummed event", need: missing, have: 0 });
        }
        let (stored, computed) = (u32::from_le_bytes(self.stored), self.hasher.finalize());
        if stored == computed { Ok(()) } else { Err(WireError::Checksum { stored, computed }) }
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
