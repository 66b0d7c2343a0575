//! Opening a log: what is there, what of it is whole, and what a crash left behind.
//!
//! Names, and what lies behind the mark, are made durable before anything is built on them: the process before may have died between a failed
//! sync and the cut, and what it could not sync looks sound in the page cache.
//!
//! Promises: cuts only behind the durable mark, to the last whole transaction whose checksums hold, and counts the bytes. Damage before
//! the mark is never cut: the log then opens with what is whole before it, and says where it is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::FIRST_EVENT;
use baton_wire::gtid::GtidPosition;

use super::error::LogError;
use super::index::{Entry, IndexWriter};
use super::live::Live;
use super::mark::Mark;
use super::meta::{self, Meta};
use super::scan::{FileHead, ScanError, Walk};
use super::segment::{Segment, Segments, collect};
use super::storage::Storage;
use super::store::parse_file_name;
use super::tail::Tail;
use super::tally::Tally;
use super::types::{Head, LogPos};
use super::{arrivals, crcs, index};
use crate::clock::Micros;

/// A log as it was found.
pub(super) struct Recovered {
    pub(super) meta: Meta,
    pub(super) segments: Segments,
    pub(super) live: Live,
    /// The file that is being written.
    pub(super) tail: Option<Tail>,
    /// `None` only if the log is damaged.
    pub(super) mark: Option<Mark>,
    /// Where and how it is damaged.
    pub(super) damaged: Option<String>,
    /// Bytes cut off.
    pub(super) dropped: u64,
}

/// Opens what is in `storage`, or begins a new log there.
pub(super) fn recover(storage: &dyn Storage, cluster: &str) -> Result<Recovered, LogError> {
    let listed = storage.list().map_err(|e| LogError::storage(&storage.describe(), 0, "list the directory", e))?;
    let listed: BTreeMap<String, u64> = listed.into_iter().collect();
    let Some(meta) = Meta::load(storage)? else { return begin(storage, cluster, &listed) };
    if meta.cluster != cluster {
        return Err(LogError::WrongCluster {
            dir: storage.describe(),
            found: meta.cluster,
            wanted: cluster.to_owned(),
        });
    }
    // The files' names and the description may be known to the page cache only.
    storage.sync_dir().map_err(|e| LogError::storage(&storage.describe(), 0, "sync the directory", e))?;
    let mut recovery = Recovery {
        storage,
        gtid: meta.flavor().map(GtidPosition::empty),
        tally: Tally { total: meta.purged_transactions, ..Tally::default() },
        meta,
        numbers: Vec::new(),
        segments: Segments::new(),
        live: Live::empty(),
        end: LogPos::default(),
        arrived: Micros::default(),
        dropped: 0,
    };
    let (mark, durable) = match Mark::open(storage)? {
        Some((mark, durable)) => (Some(mark), durable),
        None if recovery.meta.base.is_none() => (Some(Mark::create(storage)?), LogPos::default()),
        None => (None, LogPos::default()),
    };
    let (damaged, tail) = match recovery.files(&listed, durable) {
        Ok(tail) => (None, tail),
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Damaged { file, offset, cause }) => (Some(format!("{file}, offset {offset}: {cause}")), None),
    };
    let lost_mark = mark.is_none().then(|| "mark, offset 0: neither of its two records can be read".to_owned());
    let damaged = damaged.or(lost_mark);
    recovery.fill_epoch();
    let Recovery { meta, segments, mut live, gtid, tally, end, arrived, dropped, .. } = recovery;
    if let Some(gtid) = gtid.filter(|_| end.file != 0) {
        if live.tally != tally {
            live.begin(end, gtid.clone(), tally.clone());
        }
        live.head = Some(Arc::new(Head { pos: end, gtid, transactions: tally.total, arrived }));
    }
    Ok(Recovered { meta, segments, live, tail: tail.filter(|_| damaged.is_none()), mark, damaged, dropped })
}

/// A new log in an empty directory.
fn begin(storage: &dyn Storage, cluster: &str, listed: &BTreeMap<String, u64>) -> Result<Recovered, LogError> {
    let temporary = format!("{}.new", meta::NAME);
    // A promise outlives the log that it was given beside.
    let promise = |name: &str| name.strip_suffix(".new").unwrap_or(name) == super::promise::PROMISE_FILE;
    if let Some(name) = listed.keys().find(|name| **name != temporary && !promise(name)) {
        return Err(LogError::Meta {
            file: format!("{}/{}", storage.describe(), meta::NAME),
            detail: format!("it is missing, but {name:?} is there; a new log begins only in an empty directory"),
        });
    }
    let meta = Meta::new(cluster);
    meta.store(storage)?;
    let mark = Some(Mark::create(storage)?);
    tracing::info!(log_id = meta.log_id, dir = storage.describe(), "began a new log");
    Ok(Recovered { meta, segments: Segments::new(), live: Live::empty(), tail: None, mark, damaged: None, dropped: 0 })
}

/// Why the walk over the files ended early.
pub(super) enum Stop {
    Failed(LogError),
    Damaged { file: String, offset: u64, cause: String },
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

pub(super) fn damaged(file: &str, error: ScanError) -> Stop {
    Stop::Damaged { file: file.to_owned(), offset: error.offset, cause: error.cause }
}

/// The walk's state.
pub(super) struct Recovery<'a> {
    pub(super) storage: &'a dyn Storage,
    meta: Meta,
    /// Numbers of all files that are there.
    numbers: Vec<u64>,
    pub(super) segments: Segments,
    pub(super) live: Live,
    /// Position, transactions, place and time of the last whole one so far.
    gtid: Option<GtidPosition>,
    pub(super) tally: Tally,
    end: LogPos,
    pub(super) arrived: Micros,
    pub(super) dropped: u64,
}

impl Recovery<'_> {
    /// All files in order; the last one if it is still open.
    fn files(&mut self, listed: &BTreeMap<String, u64>, durable: LogPos) -> Result<Option<Tail>, Stop> {
        let Some(base) = self.meta.base.clone() else { return Ok(None) };
        let purged = self.meta.purged_through;
        let mut stored = BTreeMap::new();
        for (name, len) in listed {
            let stem = name.strip_suffix(".idx").or(name.strip_suffix(".arr")).or(name.strip_suffix(".crc"));
            match parse_file_name(&base, stem.unwrap_or(name)) {
                Some(number) if number <= purged => {
                    tracing::info!(file = name, "removing what retention had let go");
                    self.storage.remove(name).map_err(|e| LogError::storage(name, 0, "remove", e))?;
                }
                Some(number) if stem.is_none() => drop(stored.insert(number, *len)),
                _ => {}
            }
        }
        self.numbers = stored.keys().copied().collect();
        for (number, size) in self.meta.closed.clone() {
            let name = format!("{base}.{number:06}");
            let Some(len) = stored.remove(&number) else {
                return Err(Stop::Damaged { file: name, offset: 0, cause: "the file is missing".into() });
            };
            self.closed_file(number, &name, size, len)?;
        }
        let last = self.meta.closed.last().map_or(purged, |(n, _)| *n);
        stored.retain(|number, _| *number > last);
        self.remove_empty(&base, &mut stored, durable)?;
        let mut open = stored.into_iter();
        let tail = match open.next() {
            Some((number, len)) => {
                let from = if durable.file == number { durable.offset } else { 0 };
                self.open_file(number, &format!("{base}.{number:06}"), len, from)?
            }
            None => None,
        };
        if let Some((number, _)) = open.next() {
            let cause = format!("it is there, but {} says nothing of it", meta::NAME);
            return Err(Stop::Damaged { file: format!("{base}.{number:06}"), offset: 0, cause });
        }
        if durable > self.end {
            let cause = format!("the log was durable up to {durable}, and ends at {}", self.end);
            return Err(Stop::Damaged { file: format!("{base}.{:06}", durable.file), offset: durable.offset, cause });
        }
        Ok(tail)
    }

    /// A file that was begun, and left for a later one before anything came, may outlast its removal.
    fn remove_empty(&self, base: &str, open: &mut BTreeMap<u64, u64>, durable: LogPos) -> Result<(), LogError> {
        while let Some((number, len)) = open.first_key_value().map(|(n, len)| (*n, *len)) {
            if open.len() == 1 || len > FIRST_EVENT || durable.file == number {
                break;
            }
            let name = format!("{base}.{number:06}");
            self.storage.remove(&name).map_err(|e| LogError::storage(&name, 0, "remove", e))?;
            open.remove(&number);
        }
        Ok(())
    }

    /// The position at which the last epoch began, if a crash came before it was recorded.
    fn fill_epoch(&mut self) {
        let Some(epoch) = self.meta.epochs.last_mut().filter(|e| e.gtid.is_none()) else { return };
        let begun = self.segments.get(&epoch.begin.0).filter(|s| s.info().is_some());
        if let Some(GtidPosition::MariaDb(list)) = begun.map(|s| s.start()) {
            epoch.gtid = Some(list.to_string());
        }
    }

    pub(super) fn carried(&self) -> GtidPosition {
        self.gtid.clone().unwrap_or_else(|| GtidPosition::empty(baton_wire::Flavor::MariaDb))
    }

    /// A file that was closed with `size` bytes, of which `len` are there.
    fn closed_file(&mut self, number: u64, name: &str, size: u64, len: u64) -> Result<(), Stop> {
        let file = self.storage.open(name).map_err(|e| Stop::Damaged {
            file: name.to_owned(),
            offset: 0,
            cause: format!("it can't be opened: {e}"),
        })?;
        if len > size {
            tracing::warn!(file = name, bytes = len - size, "cutting what lies behind the end of a closed file");
            file.set_len(size).map_err(|e| LogError::storage(name, size, "truncate", e))?;
            self.dropped += len - size;
        }
        let head = FileHead::read(&*file, name, size.min(len)).map_err(|e| damaged(name, e))?;
        let start = head.start.clone().unwrap_or_else(|| self.carried());
        let segment = Segment::new(number, name.to_owned(), size, start.clone(), self.tally.clone());
        if let Some(format) = head.format.clone() {
            segment.set_format(format);
        }
        segment.set_closed();
        let stored = if len < size { None } else { index::load_last(self.storage, name, number, size) };
        if let Some(last) = stored {
            let now = Micros::now();
            if last.arrived > now {
                // The clock was set back. Now is as late as it can have been; later it would be out of order with what comes next.
                index::cap_arrivals(self.storage, name, number, size, now);
            }
            self.add(segment, &last, last.arrived.min(now));
            return Ok(());
        }
        tracing::info!(file = name, "index missing or unsound; verifying the file and rebuilding it");
        let (mut limit, mut error) = (size.min(len), None);
        if head.alg() == ChecksumAlg::None {
            let verified = crcs::verify(self.storage, &*file, name, limit).map_err(LogError::from)?;
            if verified.mismatch {
                limit = verified.end;
                let cause = "the bytes differ from their checksum".into();
                error = Some(ScanError { offset: limit, cause, failure: None });
            }
        }
        let walk = Walk::new(&*file, name, head.alg(), FIRST_EVENT..limit, start, Tally::default());
        let mut entries = Vec::new();
        let mut arrivals = arrivals::Recovered::load(self.storage, name, self.arrived, self.next_arrival(number));
        let (walk, result) =
            collect(walk.verifying(), &mut entries, |_, range, timestamp| arrivals.of(range.end, timestamp));
        let whole = walk.whole;
        if let Some(last) = entries.last().cloned() {
            segment.set_size(whole);
            segment.set_entries(entries.clone());
            self.add(segment, &last, arrivals.last());
        }
        if let Some(error) = error.or(result.err()) {
            return Err(damaged(name, error));
        }
        if whole < size {
            let cause = format!("it had {size} bytes when it was closed; whole are {whole}");
            return Err(Stop::Damaged { file: name.to_owned(), offset: whole, cause });
        }
        IndexWriter::create(self.storage, name, number, &entries).close(size);
        Ok(())
    }

    /// When the first of what lies behind a closed file arrived: what is in it came before that.
    fn next_arrival(&self, number: u64) -> Micros {
        let base = self.meta.base.as_deref().unwrap_or_default();
        let mut later = self.numbers.iter().filter(|n| **n > number);
        let known = later.find_map(|n| arrivals::first(self.storage, &format!("{base}.{n:06}")));
        known.map_or_else(Micros::now, |at| at.min(Micros::now()))
    }

    /// Makes a file part of the log; `last` holds at its end, and its last transaction, if any, came at `arrived`.
    pub(super) fn add(&mut self, segment: Segment, last: &Entry, arrived: Micros) {
        if last.tally.total > 0 {
            self.arrived = arrived;
        }
        // A file without transactions is as old as the ones before it; unknown is as good as new.
        let age = if self.arrived == Micros::default() { Micros::now() } else { self.arrived };
        segment.set_last_arrival(age);
        self.tally = segment.base.plus(&last.tally);
        self.gtid = Some(last.gtid.clone());
        self.end = LogPos { file: segment.number, offset: segment.size() };
        self.segments.insert(segment.number, Arc::new(segment));
    }
}
