//! Opening a log: what is there, what of it is whole, and what a crash left behind.
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
use super::live::{Live, Recent};
use super::mark::Mark;
use super::meta::{self, Meta};
use super::scan::{FileHead, ScanError, Walk, check_magic};
use super::segment::{Segment, Segments, collect};
use super::storage::{Storage, StorageFile};
use super::store::parse_file_name;
use super::tail::Tail;
use super::tally::Tally;
use super::types::{Head, LogPos};
use super::{arrivals, crcs, index};
use crate::clock::Micros;

/// Last files up to this size are verified from their beginning, larger ones from the last index entry before the mark.
const VERIFY_WHOLE: u64 = 64 * 1024 * 1024;

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
    let mut recovery = Recovery {
        storage,
        gtid: meta.flavor().map(GtidPosition::empty),
        tally: Tally { total: meta.purged_transactions, ..Tally::default() },
        meta,
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
enum Stop {
    Failed(LogError),
    Damaged { file: String, offset: u64, cause: String },
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

fn damaged(file: &str, error: ScanError) -> Stop {
    Stop::Damaged { file: file.to_owned(), offset: error.offset, cause: error.cause }
}

struct Recovery<'a> {
    storage: &'a dyn Storage,
    meta: Meta,
    segments: Segments,
    live: Live,
    /// Position, transactions, place and time of the last whole one so far.
    gtid: Option<GtidPosition>,
    tally: Tally,
    end: LogPos,
    arrived: Micros,
    dropped: u64,
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
        for (number, size) in self.meta.closed.clone() {
            let name = format!("{base}.{number:06}");
            let Some(len) = stored.remove(&number) else {
                return Err(Stop::Damaged { file: name, offset: 0, cause: "the file is missing".into() });
            };
            self.closed_file(number, &name, size, len)?;
        }
        let last = self.meta.closed.last().map_or(purged, |(n, _)| *n);
        let mut open = stored.into_iter().filter(|(n, _)| *n > last);
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

    /// The position at which the last epoch began, if a crash came before it was recorded.
    fn fill_epoch(&mut self) {
        let Some(epoch) = self.meta.epochs.last_mut().filter(|e| e.gtid.is_none()) else { return };
        let begun = self.segments.get(&epoch.begin.0).filter(|s| s.info().is_some());
        if let Some(GtidPosition::MariaDb(list)) = begun.map(|s| s.start()) {
            epoch.gtid = Some(list.to_string());
        }
    }

    fn carried(&self) -> GtidPosition {
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
            self.add(segment, &last);
            return Ok(());
        }
        tracing::info!(file = name, "index missing or unsound; verifying the file and rebuilding it");
        let walk = Walk::new(&*file, name, head.alg(), FIRST_EVENT..size.min(len), start, Tally::default());
        let mut entries = Vec::new();
        let (walk, result) = collect(walk.verifying(), &mut entries, |_, _, _| {});
        let whole = walk.whole;
        if let Some(last) = entries.last().cloned() {
            segment.set_size(whole);
            segment.set_entries(entries.clone());
            self.add(segment, &last);
        }
        result.map_err(|e| damaged(name, e))?;
        if whole < size {
            let cause = format!("it had {size} bytes when it was closed; whole are {whole}");
            return Err(Stop::Damaged { file: name.to_owned(), offset: whole, cause });
        }
        IndexWriter::create(self.storage, name, number, &entries).close(size);
        Ok(())
    }

    /// Makes a file part of the log; `last` holds at its end.
    fn add(&mut self, segment: Segment, last: &Entry) {
        let arrived = arrivals::last(self.storage, &segment.name, segment.size()).unwrap_or(last.arrived);
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

    /// The file that was being written; `durable` of its bytes are known to be on disk.
    fn open_file(&mut self, number: u64, name: &str, len: u64, durable: u64) -> Result<Option<Tail>, Stop> {
        let file = self.storage.open(name).map_err(|e| LogError::storage(name, 0, "open", e))?;
        let magic = check_magic(&*file, name);
        if let Err(error @ ScanError { failure: Some(_), .. }) = magic {
            return Err(damaged(name, error));
        }
        if durable <= FIRST_EVENT && magic.is_err() {
            tracing::warn!(file = name, bytes = len, "removing a file that a crash left before its first event");
            self.storage.remove(name).map_err(|e| LogError::storage(name, 0, "remove", e))?;
            self.dropped += len;
            return Ok(None);
        }
        let (head, head_error) = match FileHead::read(&*file, name, len) {
            Ok(head) => (head, None),
            Err(error) if error.failure.is_some() => return Err(damaged(name, error)),
            Err(error) => (FileHead::default(), Some(error)),
        };
        let start = head.start.clone().unwrap_or_else(|| self.carried());
        let segment = Segment::new(number, name.to_owned(), FIRST_EVENT, start, self.tally.clone());
        // Without what follows the format description it is not known at which position the file begins.
        let found = match head.format.clone().filter(|_| head.is_done() || durable > FIRST_EVENT) {
            Some(format) => {
                segment.set_format(format);
                self.scan(&*file, &segment, head.alg(), len, durable)?
            }
            None => Found { error: head_error, ..Found::nothing() },
        };
        let Found { whole, entries, runs, error } = found;
        segment.set_size(whole);
        segment.set_entries(entries.clone());
        let segment = if let Some(last) = entries.last() {
            self.add(segment, last);
            self.segments.get(&number).cloned().ok_or(LogError::Empty)?
        } else {
            Arc::new(segment)
        };
        if let Some(error) = error.clone().filter(|e| whole < durable || e.failure.is_some()) {
            return Err(damaged(name, error));
        }
        if whole < durable {
            let cause = format!("it was durable up to {durable}; whole are {whole}");
            return Err(Stop::Damaged { file: name.to_owned(), offset: whole, cause });
        }
        if len > whole {
            let cause = error.map_or_else(|| "the last transaction is not whole".to_owned(), |e| e.cause);
            tracing::warn!(
                file = name,
                offset = whole,
                bytes = len - whole,
                cause,
                "cutting the tail that a crash left"
            );
            file.set_len(whole).map_err(|e| LogError::storage(name, whole, "truncate", e))?;
            file.sync_data().map_err(|e| LogError::storage(name, whole, "sync", e))?;
            self.dropped += len - whole;
        }
        let tail = Tail::resume(self.storage, Arc::clone(&segment), file, whole, entries, runs)?;
        self.segments.insert(number, segment);
        Ok(Some(tail))
    }

    /// Finds the last whole place of the open file, and tells the transactions up to there to the live part.
    fn scan(
        &mut self,
        file: &dyn StorageFile,
        segment: &Segment,
        alg: ChecksumAlg,
        len: u64,
        durable: u64,
    ) -> Result<Found, Stop> {
        let name = segment.name.as_str();
        let (mut limit, mut runs, mut error) = (len, Vec::new(), None);
        if alg == ChecksumAlg::None {
            let verified = crcs::verify(self.storage, file, name, len).map_err(LogError::from)?;
            limit = if verified.mismatch { verified.end } else { verified.end.max(durable).min(len) };
            runs = verified.runs;
            let cause =
                if verified.mismatch { "the bytes differ from their checksum" } else { "no checksum covers this" };
            error = (limit < len).then(|| ScanError { offset: limit, cause: cause.into(), failure: None });
        }
        let mut entries = Vec::new();
        if len > VERIFY_WHOLE {
            entries = index::load(self.storage, name, segment.number).unwrap_or_default();
            entries.retain(|e| e.offset <= durable && e.offset <= limit);
        }
        let (from, gtid, tally) = match entries.last() {
            Some(entry) => (entry.offset, entry.gtid.clone(), entry.tally.clone()),
            None => (FIRST_EVENT, segment.start(), Tally::default()),
        };
        self.live.begin(LogPos { file: segment.number, offset: from }, gtid.clone(), segment.base.plus(&tally));
        let arrivals = arrivals::load(self.storage, name);
        let (live, mut before, number) = (&mut self.live, gtid.clone(), segment.number);
        let walk = Walk::new(file, name, alg, from..limit, gtid, tally);
        let (walk, result) = collect(walk.verifying(), &mut entries, |id, range, timestamp| {
            let known = arrivals.get(arrivals.partition_point(|a| a.to < range.end)).filter(|a| a.from < range.end);
            let arrived = known.map_or(Micros(i64::from(timestamp) * 1_000_000), |a| a.at);
            let begins = LogPos { file: number, offset: range.start };
            live.push(Recent { id: id.clone(), begins, ends: range.end, arrived }, &before);
            before.advance(id);
        });
        let whole = walk.whole;
        runs.retain(|run| run.end() <= whole);
        let covered = runs.last().map_or(FIRST_EVENT, crcs::Run::end);
        if alg == ChecksumAlg::None && covered < whole {
            runs.push(checksum_of(file, name, covered, whole)?);
        }
        Ok(Found { whole, entries, runs, error: result.err().or(error) })
    }
}

/// What a scan found.
struct Found {
    whole: u64,
    entries: Vec<Entry>,
    runs: Vec<crcs::Run>,
    error: Option<ScanError>,
}

impl Found {
    fn nothing() -> Self {
        Self { whole: FIRST_EVENT, entries: Vec::new(), runs: Vec::new(), error: None }
    }
}

/// The run from `from` to `to`, read from the file.
fn checksum_of(file: &dyn StorageFile, name: &str, from: u64, to: u64) -> Result<crcs::Run, LogError> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buf = vec![0; 256 * 1024];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(buf.len()).min(buf.len());
        let n = super::storage::read_full(file, &mut buf[..want], at)
            .map_err(|e| LogError::storage(name, at, "read", e))?;
        if n == 0 {
            break;
        }
        hasher.update(&buf[..n]);
        at += n as u64;
    }
    Ok(crcs::Run { offset: from, len: to - from, crc: hasher.finalize() })
}
