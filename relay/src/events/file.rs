//! Reads the events of a binlog file one after the other, with their offsets and checksums.
//!
//! Promises: whatever the bytes are, no more memory is taken than an event really has, and an error names the offset.

use std::io::{self, Read};

use baton_wire::checksum;
use baton_wire::event::{EventHeader, EventKind, FIRST_EVENT, Flavor, FormatDescription, HEADER_LEN, MAGIC};
use baton_wire::{ChecksumAlg, WireError};
use thiserror::Error;

/// The first bytes of a file that MySQL encrypted (`binlog_encryption`).
const MAGIC_ENCRYPTED: [u8; 4] = *b"\xfdbin";

/// Why a file could not be read further.
#[derive(Debug, Error)]
pub(super) enum FileError {
    /// The operating system's error.
    #[error("at offset {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// What.
        source: io::Error,
    },
    /// The first four bytes are something else.
    #[error("at offset 0: not a binlog file: it begins with {found}, not with fe62696e")]
    NotABinlog {
        /// The bytes in hex.
        found: String,
    },
    /// The file, or the rest of it, is encrypted.
    #[error(
        "at offset {offset}: encrypted from here on; only the server that wrote it has the key: read it over replication"
    )]
    Encrypted {
        /// Where.
        offset: u64,
    },
    /// The file ends within an event.
    #[error("at offset {offset}: the file ends within an event: {have} of its {need} bytes are there")]
    Truncated {
        /// Where the event begins.
        offset: u64,
        /// Bytes that it should have.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// What should be an event is none.
    #[error("at offset {offset}: {source}")]
    Malformed {
        /// Where the event begins.
        offset: u64,
        /// Why.
        source: WireError,
    },
}

/// How an event's checksum turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// It matches.
    Ok,
    /// The file has none.
    None,
    /// It does not match: the event is damaged.
    Bad,
}

impl Checksum {
    /// As the output spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::None => "none",
            Self::Bad => "bad",
        }
    }
}

/// One event, whole.
#[derive(Debug)]
pub(super) struct RawEvent {
    /// Where it begins.
    pub(super) offset: u64,
    /// Where it ends; in a stream the same place for an event that is in no file.
    pub(super) end: u64,
    /// Its header.
    pub(super) header: EventHeader,
    /// Header, body and checksum.
    pub(super) bytes: Vec<u8>,
    /// How its checksum turned out.
    pub(super) checksum: Checksum,
    /// Which kind of checksum it has.
    pub(super) alg: ChecksumAlg,
    /// The family of the server that wrote it.
    pub(super) flavor: Flavor,
}

impl RawEvent {
    /// What lies between header and checksum; empty if there is no room for it.
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..self.bytes.len().saturating_sub(self.alg.len())).unwrap_or_default()
    }
}

/// What the events of a file or stream have in common: set by its format description.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    alg: ChecksumAlg,
    flavor: Flavor,
}

impl Format {
    /// No checksums until a format description says otherwise.
    pub(super) fn of(flavor: Flavor) -> Self {
        Self { alg: ChecksumAlg::None, flavor }
    }

    /// Verifies a whole event's checksum; a format description is taken over.
    ///
    /// # Errors
    /// The event is a format description that can't be read.
    pub(super) fn take(&mut self, offset: u64, header: EventHeader, bytes: Vec<u8>) -> Result<RawEvent, FileError> {
        if header.kind == EventKind::FORMAT_DESCRIPTION {
            let format = FormatDescription::parse(&bytes).map_err(|source| FileError::Malformed { offset, source })?;
            *self = Self { alg: format.checksum, flavor: Flavor::of_version(&format.server_version) };
        }
        let checksum = match self.alg {
            ChecksumAlg::None => Checksum::None,
            ChecksumAlg::Crc32 if checksum::verify(&bytes).is_ok() => Checksum::Ok,
            ChecksumAlg::Crc32 => Checksum::Bad,
        };
        // A format description has the field even where it is not used.
        let alg = if header.kind == EventKind::FORMAT_DESCRIPTION { ChecksumAlg::Crc32 } else { self.alg };
        let end = offset + u64::from(header.size);
        Ok(RawEvent { offset, end, header, bytes, checksum, alg, flavor: self.flavor })
    }
}

/// The events of one file. Ends at the first error.
pub(super) struct EventFile<R> {
    input: R,
    offset: u64,
    format: Format,
    encrypted: bool,
    ended: bool,
}

impl<R: Read> EventFile<R> {
    /// Reads the file's first bytes.
    pub(super) fn open(mut input: R) -> Result<Self, FileError> {
        let magic = read_up_to(&mut input, 0, MAGIC.len() as u64)?;
        if magic == MAGIC_ENCRYPTED {
            return Err(FileError::Encrypted { offset: 0 });
        }
        if magic != MAGIC {
            let found = if magic.is_empty() { "nothing".to_owned() } else { hex(&magic) };
            return Err(FileError::NotABinlog { found });
        }
        Ok(Self { input, offset: FIRST_EVENT, format: Format::of(Flavor::MariaDb), encrypted: false, ended: false })
    }

    fn read(&mut self) -> Result<Option<RawEvent>, FileError> {
        let offset = self.offset;
        let mut bytes = read_up_to(&mut self.input, offset, HEADER_LEN as u64)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.encrypted {
            return Err(FileError::Encrypted { offset });
        }
        let have = bytes.len() as u64;
        if have < HEADER_LEN as u64 {
            return Err(FileError::Truncated { offset, need: HEADER_LEN as u64, have });
        }
        let header = EventHeader::parse(&bytes).map_err(|source| FileError::Malformed { offset, source })?;
        let need = u64::from(header.size);
        bytes.append(&mut read_up_to(&mut self.input, offset, need - have)?);
        let have = bytes.len() as u64;
        if have < need {
            return Err(FileError::Truncated { offset, need, have });
        }
        self.offset += need;
        let event = self.format.take(offset, header, bytes)?;
        Ok(Some(event))
    }
}

impl<R: Read> Iterator for EventFile<R> {
    type Item = Result<RawEvent, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().transpose();
        match &item {
            Some(Ok(event)) => self.encrypted = event.header.kind == EventKind::START_ENCRYPTION,
            _ => self.ended = true,
        }
        item
    }
}

fn read_up_to(input: &mut impl Read, offset: u64, n: u64) -> Result<Vec<u8>, FileError> {
    // Grows as bytes come: a size that the file does not have costs nothing.
    let mut bytes = Vec::new();
    input.take(n).read_to_end(&mut bytes).map_err(|source| FileError::Io { offset, source })?;
    Ok(bytes)
}

/// Bytes as lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
