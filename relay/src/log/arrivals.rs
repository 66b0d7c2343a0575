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

/// Appends arrival times.
pub(super) struct ArrivalWriter {
    file: Option<Arc<dyn StorageFile>>,
    at: u64,
    /// Whether the last ones could not be written: said once, not for each.
    failing: bool,
}

impl ArrivalWriter {
    /// Goes on behind the records that are `kept`; whatever else the file holds is cut off.
    pub(super) fn open(storage: &dyn Storage, file_name: &str, kept: &[Arrival]) -> Self {
        let name = name(file_name);
        let records = encode(kept);
        let at = records.len() as u64;
        let existing = storage.open(&name).ok();
        let stored = existing.as_ref().and_then(|file| read_whole(&**file).ok()).unwrap_or_default();
        if stored.starts_with(&records) {
            if let Some(file) = &existing {
                if let Err(error) = if stored.len() > records.len() { file.set_len(at) } else { Ok(()) } {
                    tracing::warn!(%error, file = name, "arrival times not cut to the log's end");
                }
            }
            return Self { file: existing.or_else(|| storage.create(&name).ok()), at, failing: false };
        }
        let mut writer = Self { file: storage.create(&name).ok(), at: 0, failing: false };
        writer.push(kept);
        writer
    }

    /// Notes arrivals.
    pub(super) fn push(&mut self, arrivals: &[Arrival]) {
        let Some(file) = &self.file else { return };
        let records = encode(arrivals);
        match file.write_all_at(&records, self.at) {
            Ok(()) => {
                self.at += records.len() as u64;
                self.failing = false;
            }
            // The next ones overwrite what got there of these.
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "arrival times not written; timestamps of the events stand in for them");
                }
            }
        }
    }

    /// Nothing more comes: makes it outlast a crash, as far as the disk does not fail.
    pub(super) fn close(self) {
        if let Some(Err(error)) = self.file.map(|file| file.sync_data()) {
            tracing::warn!(%error, "arrival times not synced");
        }
    }
}

fn encode(arrivals: &[Arrival]) -> Vec<u8> {
    let mut records = Vec::with_capacity(arrivals.len() * RECORD);
    for Arrival { from, to, at } in arrivals {
        let begin = records.len();
        records.extend_from_slice(&from.to_le_bytes());
        records.extend_from_slice(&to.to_le_bytes());
        records.extend_from_slice(&at.0.to_le_bytes());
        records.extend_from_slice(&crc32fast::hash(&records[begin..]).to_le_bytes());
    }
    records
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

/// All sound records, in ascending order: what a crash may have mixed in of an earlier write is left out. The clock may have been set back since they
/// were written: nothing has arrived later than now.
fn load(storage: &dyn Storage, file_name: &str) -> Vec<Arrival> {
    let now = Micros::now();
    let bytes = storage.open(&name(file_name)).and_then(|f| read_whole(&*f)).unwrap_or_default();
    let mut out: Vec<Arrival> = Vec::new();
    for mut arrival in bytes.chunks_exact(RECORD).filter_map(parse) {
        arrival.at = arrival.at.min(now);
        if out.last().is_none_or(|last| last.to <= arrival.from && last.at <= arrival.at) {
            out.push(arrival);
        }
    }
    out
}

/// Arrival times of a recovered file, asked in ascending order.
pub(super) struct Recovered {
    known: Vec<Arrival>,
    /// What stood in for those that were lost.
    stood_in: Vec<Arrival>,
    /// The one told last, and up to where.
    before: Micros,
    end: u64,
    /// Nothing that was lost is taken to have arrived later.
    latest: Micros,
}

impl Recovered {
    /// What is known of a file between others: nothing of it arrived before `before`, nor after `latest`.
    pub(super) fn load(storage: &dyn Storage, file_name: &str, before: Micros, latest: Micros) -> Self {
        Self { known: load(storage, file_name), stood_in: Vec::new(), before, end: 0, latest }
    }

    /// When what ends at `end` arrived. If that was lost, `timestamp` (the primary's clock, in seconds) stands in, but never runs
    /// backwards nor ahead of what is known.
    pub(super) fn of(&mut self, end: u64, timestamp: u32) -> Micros {
        let n = self.known.partition_point(|a| a.to < end);
        self.before = match self.known.get(n) {
            Some(known) if known.from < end => known.at,
            next => {
                let previous = n.checked_sub(1).and_then(|n| self.known.get(n));
                let earliest = previous.map_or(self.before, |p| p.at.max(self.before));
                let at = stand_in(timestamp, earliest, next.map_or(self.latest, |next| next.at));
                let from = previous.map_or(0, |p| p.to).max(self.end);
                match self.stood_in.last_mut() {
                    Some(last) if (last.to, last.at) == (from, at) => last.to = end,
                    _ => self.stood_in.push(Arrival { from, to: end, at }),
                }
                at
            }
        };
        self.end = end;
        self.before
    }

    /// Everything that is known by now of the file's first `end` bytes: the same is told at the next start.
    pub(super) fn into_records(self, end: u64) -> Vec<Arrival> {
        let mut records = self.known;
        records.extend(self.stood_in);
        records.sort_by_key(|a| a.to);
        records.retain(|a| a.to <= end);
        records
    }

    /// What was told last.
    pub(super) fn last(&self) -> Micros {
        self.before
    }
}

/// An event's timestamp in place of an arrival time that was lost.
pub(super) fn stand_in(timestamp: u32, earliest: Micros, latest: Micros) -> Micros {
    Micros(i64::from(timestamp) * 1_000_000).min(latest).max(earliest)
}

/// When what begins at `offset` arrived, or between which of the file's known arrivals.
pub(super) fn lookup(storage: &dyn Storage, file_name: &str, offset: u64) -> Result<Micros, [Option<Micros>; 2]> {
    let Ok(file) = storage.open(&name(file_name)) else { return Err([None; 2]) };
    let around = search(&*file, offset).unwrap_or_else(|| {
        // Torn: what is sound of it still tells between which times the others lie.
        let known = load(storage, file_name);
        let n = known.partition_point(|a| a.to <= offset);
        [n.checked_sub(1).and_then(|n| known.get(n)).copied(), known.get(n).copied()]
    });
    match around {
        [_, Some(next)] if next.from <= offset => Ok(next.at),
        around => Err(around.map(|arrival| arrival.map(|a| a.at))),
    }
}

/// The last record that ends at or before `offset`, and the one behind it; `None` where a record on the way is unsound or out of order.
fn search(file: &dyn StorageFile, offset: u64) -> Option<[Option<Arrival>; 2]> {
    let count = file.size().unwrap_or(0) / RECORD as u64;
    let (mut low, mut high) = (0, count);
    let (mut before, mut next): (Option<Arrival>, Option<Arrival>) = (None, None);
    while low < high {
        let middle = low + (high - low) / 2;
        let arrival = read_record(file, middle)?;
        let after = before.is_none_or(|b| b.to <= arrival.from && b.at <= arrival.at);
        if !after || next.is_some_and(|n| arrival.to > n.from || arrival.at > n.at) {
            return None;
        }
        if arrival.to <= offset {
            (before, low) = (Some(arrival), middle + 1);
        } else {
            (next, high) = (Some(arrival), middle);
        }
    }
    Some([before, next])
}

/// When the file's first bytes arrived, as far as it is known.
pub(super) fn first(storage: &dyn Storage, file_name: &str) -> Option<Micros> {
    load(storage, file_name).first().map(|arrival| arrival.at)
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
