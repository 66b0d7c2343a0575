//! The place between two files, where a client takes no heartbeat.
//!
//! After a Rotate a MariaDB replica reads what follows in the format of version 3, until a format description says otherwise (`process_io_rotate` and
//! `queue_event` in sql/slave.cc). Anything else makes it stop with error 1595. A server has the next file at once; a relay may have to wait for it.

use baton_wire::event::{EventHeader, EventKind, FIRST_EVENT, HEADER_LEN};

use super::dump::{Dump, DumpEnd, Flow, read_end};
use crate::log::{Chunk, LogPos};

/// Bytes of a position, in front of the name in a Rotate.
const POSITION: usize = 8;
/// Bytes of the largest Rotate: a file's name has 255 at most (`NAME_MAX`), a checksum 4.
const LARGEST: usize = HEADER_LEN + POSITION + 255 + 4;

impl Dump<'_> {
    /// Whether the client was sent a Rotate last, and the next file's beginning is still to come.
    pub(super) async fn between_files(&self, flow: &mut Flow) -> Result<bool, DumpEnd> {
        let pos = flow.reader.position();
        if pos.offset == FIRST_EVENT {
            return Ok(true);
        }
        if pos.offset < flow.reader.visible() {
            return Ok(false);
        }
        let length = usize::try_from(pos.offset - FIRST_EVENT).unwrap_or(LARGEST).min(LARGEST);
        flow.reader.go_to(LogPos { offset: pos.offset - length as u64, ..pos });
        let read = flow.reader.read_at_least(length, length, &mut flow.buf).await;
        flow.reader.go_to(pos);
        let tail = match read.map_err(read_end)? {
            Chunk::Shared(bytes) => bytes.to_vec(),
            Chunk::Buffered(n) => flow.buf.get(..n).unwrap_or_default().to_vec(),
            Chunk::AtEnd | Chunk::NextFile(_) => Vec::new(),
        };
        Ok(ends_with_rotate(&tail, pos.offset))
    }
}

/// Whether `tail`, the last bytes before offset `end` of a file, ends with a Rotate.
fn ends_with_rotate(tail: &[u8], end: u64) -> bool {
    let starts = 0..(tail.len() + 1).saturating_sub(HEADER_LEN + POSITION);
    starts.rev().any(|start| {
        let event = tail.get(start..).unwrap_or_default();
        EventHeader::parse(event).is_ok_and(|header| {
            header.kind == EventKind::ROTATE
                && header.size as usize == event.len()
                && u64::from(header.log_pos) == end & u64::from(u32::MAX)
        })
    })
}

#[cfg(test)]
mod tests {
    use baton_wire::checksum::ChecksumAlg;
    use baton_wire::event::{self, Rotate};

    use super::*;

    fn event(kind: EventKind, body: &[u8], alg: ChecksumAlg, end: u64) -> Vec<u8> {
        let log_pos = u32::try_from(end).unwrap();
        event::build(EventHeader { timestamp: 7, kind, server_id: 1, size: 0, log_pos, flags: 0 }, body, alg)
    }

    #[test]
    fn only_a_rotate_at_the_very_end_is_one() {
        for alg in [ChecksumAlg::None, ChecksumAlg::Crc32] {
            for name in ["b.1", "mysql-bin.000007", &"n".repeat(255)] {
                let rotate = Rotate { position: 4, file: name.to_owned() }.body();
                let mut log = event(EventKind::XID, &[9; 8], alg, 500);
                log.extend(event(EventKind::ROTATE, &rotate, alg, 900));
                let from = log.len().saturating_sub(LARGEST);
                assert!(ends_with_rotate(&log[from..], 900), "{name}");
                assert!(!ends_with_rotate(&log[from..], 901), "{name}: of another place");
                log.extend(event(EventKind::XID, &[9; 8], alg, 930));
                let from = log.len().saturating_sub(LARGEST);
                assert!(!ends_with_rotate(&log[from..], 930), "{name}: with an event behind it");
            }
        }
        for tail in [&b""[..], &[0; 18], &[4; 40], &[0; LARGEST]] {
            assert!(!ends_with_rotate(tail, 4), "{tail:?}");
        }
    }
}
