//! ROTATE: the stream goes on in another file.

use crate::checksum::ChecksumAlg;
use crate::error::{Result, WireError};
use crate::event::{EventHeader, EventKind, FLAG_ARTIFICIAL, build};
use crate::read::Reader;

/// A file name and the position in it at which the next event lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotate {
    /// Position of the next event in `file`; 4 in a real rotation.
    pub position: u64,
    /// Name of the file, such as `mysql-bin.000002`.
    pub file: String,
}

impl Rotate {
    /// Reads an event's body (without header and checksum).
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("rotate event", body);
        let position = r.u64()?;
        let file = std::str::from_utf8(r.take_rest())
            .map_err(|_| WireError::invalid("rotate event", "file name is not UTF-8"))?;
        if file.is_empty() || file.contains(['\0', '/']) {
            return Err(WireError::invalid("rotate event", format!("{file:?} is not a file name")));
        }
        Ok(Self { position, file: file.to_owned() })
    }

    /// The body.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.file.len());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(self.file.as_bytes());
        out
    }

    /// The whole artificial event that a server sends at the start of a stream and when it opens the next file.
    pub fn artificial(&self, server_id: u32, alg: ChecksumAlg) -> Vec<u8> {
        let header = EventHeader {
            timestamp: 0,
            kind: EventKind::ROTATE,
            server_id,
            size: 0,
            log_pos: 0,
            flags: FLAG_ARTIFICIAL,
        };
        build(header, &self.body(), alg)
    }
}
