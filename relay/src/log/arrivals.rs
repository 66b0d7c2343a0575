//! When what arrived, to the millisecond: `<file>.arr`, fixed records that are appended without sync.
//!
//! Survives a restart of the process, and mostly a crash; where records were lost, an event's own timestamp stands in.

use std::sync::Arc;

use super::storage::{Storage, StorageFile, read_full, read_whole};
use crate::clock::Micros;

const RECORD: usize = 28;

/// When some bytes of a file arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) at: Micros,
}

/// Name of a file's arrival times.
pub(super) fn name(file: &str) -> String {
    format!("{file}.arr")
}

/// Appends arrival times. A failure ends it until the next file.
pub(super) struct ArrivalWriter {
    file: Option<Arc<dyn StorageFile>>,
    at: u64,
}

impl ArrivalWriter {
    /// Goes on behind the records that lie before `end` of the file; what lies beyond is cut off.
    pub(super) fn open(storage: &dyn Storage, file_name: &str, end: u64) -> Self {
        let name = name(file_name);
        let existing = storage.open(&name).ok();
        let mut at = 0;
        if let Some(file) = &existing {
            let mut count = file.size().unwrap_or(0) / RECORD as u64;
            while count > 0 && read_record(&**file, count - 1).is_none_or(|a| a.to > end) {
                count -= 1;
            }
            at = count * RECORD as u64;
            if let Err(error) = file.set_len(at) {
                tracing::warn!(%error, file = name, "arrival times not cut to the log's end");
            }
        }
        Self { file: existing.or_else(|| storage.create(&name).ok()), at }
    }

    /// Notes arrivals.
    pub(super) fn push(&mut self, arrivals: &[Arrival]) {
        let Some(file) = &self.file else { return };
        let mut records = Vec::with_capacity(arrivals.len() * RECORD);
        for Arrival { from, to, at } in arrivals {
            let begin = records.len();
            records.extend_from_slice(&from.to_le_bytes());
            records.extend_from_slice(&to.to_le_bytes());
            records.extend_from_slice(&at.0.to_le_bytes());
            records.extend_from_slice(&crc32fast::hash(&records[begin..]).to_le_bytes());
        }
        match file.write_all_at(&records, self.at) {
            Ok(()) => self.at += records.len() as u64,
            Err(error) => {
                tracing::warn!(%error, "arrival times not written; timestamps of the events stand in for them");
                self.file = None;
            }
        }
    }
}

/// Adds what arrived at `at` and ends at `to` to `arrivals`, which begin at `from`; joined with the one before if both came within a
/// millisecond.
pub(super) fn note(arrivals: &mut Vec<Arrival>, from: u64, to: u64, at: Micros) {
    match arrivals.last_mut() {
        Some(last) if at.0.saturating_sub(last.at.0) < 1000 => last.to = to,
        Some(last) => {
            let from = last.to;
            arrivals.push(Arrival { from, to, at });
        }
        None => arrivals.push(Arrival { from, to, at }),
    }
}

/// All sound records in the order of the file.
pub(super) fn load(storage: &dyn Storage, file_name: &str) -> Vec<Arrival> {
    let bytes = storage.open(&name(file_name)).and_then(|f| read_whole(&*f)).unwrap_or_default();
    bytes.chunks_exact(RECORD).filter_map(parse).collect()
}

/// When what begins at `offset` arrived.
pub(super) fn lookup(storage: &dyn Storage, file_name: &str, offset: u64) -> Option<Micros> {
    let file = storage.open(&name(file_name)).ok()?;
    let (mut low, mut high) = (0, file.size().ok()? / RECORD as u64);
    while low < high {
        let middle = low + (high - low) / 2;
        if read_record(&*file, middle)?.to > offset { high = middle } else { low = middle + 1 }
    }
    read_record(&*file, low).filter(|a| a.from <= offset).map(|a| a.at)
}

/// The last arrival in the file's first `end` bytes.
pub(super) fn last(storage: &dyn Storage, file_name: &str, end: u64) -> Option<Micros> {
    let file = storage.open(&name(file_name)).ok()?;
    let mut count = file.size().ok()? / RECORD as u64;
    while count > 0 {
        count -= 1;
        if let Some(arrival) = read_record(&*file, count).filter(|a| a.to <= end) {
            return Some(arrival.at);
        }
    }
    None
}

fn read_record(file: &dyn StorageFile, n: u64) -> Option<Arrival> {
    let mut record = [0; RECORD];
    let read = read_full(file, &mut record, n * RECORD as u64).ok()?;
    parse(&record[..read])
}

fn parse(record: &[u8]) -> Option<Arrival> {
    let crc = record.get(24..RECORD)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))?;
    if crc != crc32fast::hash(&record[..24]) {
        return None;
    }
    let eight = |at: usize| record[at..].first_chunk::<8>();
    Some(Arrival {
        from: u64::from_le_bytes(*eight(0)?),
        to: u64::from_le_bytes(*eight(8)?),
        at: Micros(i64::from_le_bytes(*eight(16)?)),
    })
}
