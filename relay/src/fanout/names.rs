//! Names of files inside of events, on their way out: pure.
//!
//! A primary's events name its files as it does; the log counts on across primaries, under one base name. Promises: what a client reads names
//! the log's files; events that name none are not touched; offsets of events in their file stay what they are.

use baton_wire::WireError;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{self, BinlogCheckpoint, EventHeader, EventKind, HEADER_LEN, Rotate};

use crate::log::Log;

/// How a file's events have to be changed so that they name the log's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The log's base name.
    base: String,
    /// Base name at the primary, and what a number in the log is larger by.
    upstream: (String, i64),
    /// Number of the file in the log.
    number: u64,
    /// Checksums of its events.
    checksum: ChecksumAlg,
}

impl Names {
    /// For the file of that number; `None` where its primary named it as the log does.
    pub(super) fn of(log: &Log, number: u64, checksum: ChecksumAlg) -> Option<Self> {
        let identity = log.identity();
        let (base, epoch) = (identity.base.clone()?, identity.epoch_of(number)?);
        if epoch.shift == 0 && epoch.base == base {
            return None;
        }
        Some(Self { base, upstream: (epoch.base.clone(), epoch.shift), number, checksum })
    }

    /// Bytes before the first event that names a file; all of them if there is none, or it is not known yet whether the last one does.
    pub(super) fn plain(bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(Ok(header)) = bytes.get(at..at + HEADER_LEN).map(EventHeader::parse) {
            if matches!(header.kind, EventKind::ROTATE | EventKind::BINLOG_CHECKPOINT) {
                return at;
            }
            at = at.saturating_add(header.size as usize);
        }
        bytes.len()
    }

    /// The event at the front of `bytes` with the log's names, and how many bytes it takes of them; `None` if it is not whole.
    pub(super) fn rename(&self, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, WireError> {
        if bytes.len() < HEADER_LEN {
            return Ok(None);
        }
        let header = EventHeader::parse(bytes)?;
        let Some(event) = bytes.get(..header.size as usize) else { return Ok(None) };
        let body = event::body(event, self.checksum)?;
        let renamed = match header.kind {
            // The file that follows in the log is the next one, whatever the primary called it.
            EventKind::ROTATE => {
                let rotate = Rotate::parse(body)?;
                Some(Rotate { file: self.name(self.number + 1), ..rotate }.body())
            }
            EventKind::BINLOG_CHECKPOINT => self.checkpoint(&BinlogCheckpoint::parse(body)?.file, body.len()),
            _ => None,
        };
        let out = renamed.map_or_else(|| event.to_vec(), |body| event::build(header, &body, self.checksum));
        Ok(Some((out, event.len())))
    }

    /// A checkpoint that names the log's file, in a body of `room` bytes: clients add up the sizes of such events. `None` where it does not fit, or
    /// names no file of the epoch.
    fn checkpoint(&self, file: &str, room: usize) -> Option<Vec<u8>> {
        let (base, shift) = &self.upstream;
        let number: u64 = file.strip_prefix(base)?.strip_prefix('.')?.parse().ok()?;
        let mut body = BinlogCheckpoint { file: self.name(number.checked_add_signed(*shift)?) }.body();
        if body.len() > room {
            return None;
        }
        body.resize(room, 0);
        Some(body)
    }

    fn name(&self, number: u64) -> String {
        format!("{}.{number:06}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALGS: [ChecksumAlg; 2] = [ChecksumAlg::None, ChecksumAlg::Crc32];

    /// File 9 of a log, which the primary calls other.000004 (or what `base` makes of it).
    fn names(base: &str, checksum: ChecksumAlg) -> Names {
        Names { base: "mysql-bin".into(), upstream: (base.into(), 5), number: 9, checksum }
    }

    fn event(kind: EventKind, body: &[u8], alg: ChecksumAlg) -> Vec<u8> {
        let header = EventHeader { timestamp: 7, kind, server_id: 2, size: 0, log_pos: 900, flags: 0 };
        event::build(header, body, alg)
    }

    fn renamed(names: &Names, bytes: &[u8]) -> (EventHeader, Vec<u8>, usize) {
        let (out, used) = names.rename(bytes).unwrap_or_else(|e| panic!("{e}")).unwrap_or_else(|| panic!("whole"));
        let header = EventHeader::parse(&out).unwrap_or_else(|e| panic!("{e}"));
        assert!(names.checksum.verify(&out).is_ok());
        let body = event::body(&out, names.checksum).unwrap_or_else(|e| panic!("{e}")).to_vec();
        (header, body, used)
    }

    #[test]
    fn a_rotation_leads_to_the_logs_next_file() {
        for alg in ALGS {
            for base in ["mysql-bin", "other", "a-much-longer-name-than-that"] {
                let rotate = Rotate { position: 4, file: format!("{base}.000005") };
                let bytes = event(EventKind::ROTATE, &rotate.body(), alg);
                let (header, body, used) = renamed(&names(base, alg), &bytes);
                assert_eq!(Rotate::parse(&body), Ok(Rotate { position: 4, file: "mysql-bin.000010".into() }));
                assert_eq!((header.log_pos, header.timestamp, header.server_id, used), (900, 7, 2, bytes.len()));
            }
        }
    }

    #[test]
    fn a_checkpoint_keeps_its_size() {
        for alg in ALGS {
            for (base, file, expected) in [
                ("mysql-bin", "mysql-bin.000004", "mysql-bin.000009"),
                ("mysql-bin", "mysql-bin.000003", "mysql-bin.000008"),
                ("a-longer-name", "a-longer-name.000004", "mysql-bin.000009"),
                // No room for the log's longer name.
                ("b", "b.000004", "b.000004"),
                // Not a file of this primary: left as it is.
                ("mysql-bin", "stray.000004", "stray.000004"),
            ] {
                let bytes = event(EventKind::BINLOG_CHECKPOINT, &BinlogCheckpoint { file: file.into() }.body(), alg);
                let (header, body, used) = renamed(&names(base, alg), &bytes);
                assert_eq!(BinlogCheckpoint::parse(&body).map(|c| c.file), Ok(expected.into()), "{file}");
                assert_eq!((header.size as usize, used), (bytes.len(), bytes.len()), "{file}");
            }
        }
    }

    #[test]
    fn only_events_that_name_files_are_stopped_at() {
        let alg = ChecksumAlg::Crc32;
        let other = event(EventKind::XID, &[1; 8], alg);
        let rotate = event(EventKind::ROTATE, &Rotate { position: 4, file: "b.000001".into() }.body(), alg);
        assert_eq!(Names::plain(&[&other[..], &other, &rotate].concat()), 2 * other.len());
        assert_eq!(Names::plain(&rotate), 0);
        assert_eq!(Names::plain(&[&other[..], &other].concat()), 2 * other.len());
        assert_eq!(Names::plain(&[&other[..], &rotate[..10]].concat()), other.len() + 10);
        assert_eq!(Names::plain(&other[..30]), 30);
        assert_eq!(names("b", alg).rename(&rotate[..rotate.len() - 1]), Ok(None));
    }
}
