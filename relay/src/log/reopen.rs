//! Recovery of the file that was being written: what behind the mark is whole, and what a crash left of the rest.
//!
//! Promises: nothing before the mark is touched; what behind it is kept has been written again (see [`storage::rewrite`]), so that the sync
//! that follows makes it durable whatever became of the syncs before; nothing is taken from bytes whose checksum was not verified.

use std::sync::Arc;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::FIRST_EVENT;

use super::arrivals::Arrival;
use super::crcs::{Kept, Run};
use super::error::{LogError, StorageFailure};
use super::index::Entry;
use super::live::Recent;
use super::recovery::{Recovery, Stop, damaged};
use super::scan::{FileHead, ScanError, Walk, check_magic};
use super::segment::{Segment, collect};
use super::storage::{self, Rewrite, StorageFile};
use super::tail::Tail;
use super::tally::Tally;
use super::types::LogPos;
use super::{arrivals, crcs, index};
use crate::clock::Micros;

/// Files up to this size are verified from their beginning, larger ones from the last index entry before the mark.
const VERIFY_WHOLE: u64 = 64 * 1024 * 1024;

impl Recovery<'_> {
    /// The file that was being written; `durable` of its bytes are known to be on disk.
    pub(super) fn open_file(&mut self, number: u64, name: &str, len: u64, durable: u64) -> Result<Option<Tail>, Stop> {
        let file = self.storage.open(name).map_err(|e| LogError::storage(name, 0, "open", e))?;
        let (limit, unread) = renew(&*file, name, len, durable)?;
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
        let found = self.find(&*file, number, name, limit, durable, unread)?;
        let Found { head, whole, entries, arrived, arrivals, kept, error } = found;
        let start = head.start.clone().unwrap_or_else(|| self.carried());
        let segment = Segment::new(number, name.to_owned(), whole, start, self.tally.clone());
        if let Some(format) = head.format.clone() {
            segment.set_format(format);
        }
        segment.set_entries(entries.clone());
        let segment = if let Some(last) = entries.last() {
            self.add(segment, last, arrived);
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
        let tail = Tail::resume(self.storage, Arc::clone(&segment), file, whole, entries, &arrivals, &kept)?;
        self.segments.insert(number, segment);
        Ok(Some(tail))
    }

    /// Finds the last whole place of the open file, and tells the transactions up to there to the live part.
    fn find(
        &mut self,
        file: &dyn StorageFile,
        number: u64,
        name: &str,
        mut limit: u64,
        durable: u64,
        mut error: Option<ScanError>,
    ) -> Result<Found, Stop> {
        let renewed = limit > durable;
        let head = match FileHead::read(file, name, limit) {
            Ok(head) => head,
            Err(e) if e.failure.is_some() => return Err(damaged(name, e)),
            Err(e) => return Ok(Found { error: error.or(Some(e)), ..Found::default() }),
        };
        let alg = head.alg();
        let mut runs = Vec::new();
        if alg == ChecksumAlg::None && head.format.is_some() {
            if renewed {
                crcs::rewrite(self.storage, name).map_err(LogError::from)?;
            }
            let verified = crcs::verify(self.storage, file, name, limit).map_err(LogError::from)?;
            let sound = if verified.mismatch { verified.end } else { verified.end.max(durable).min(limit) };
            let cause =
                if verified.mismatch { "the bytes differ from their checksum" } else { "no checksum covers this" };
            if sound < limit {
                error = error.or(Some(ScanError { offset: sound, cause: cause.into(), failure: None }));
                limit = sound;
            }
            runs = verified.runs;
        }
        let head = self.verified(file, name, head, limit)?;
        if !head.is_done() {
            let cause = "its first events are not complete";
            let nothing = || ScanError { offset: FIRST_EVENT, cause: cause.into(), failure: None };
            return Ok(Found { error: error.or_else(|| Some(nothing())), ..Found::default() });
        }
        let Scanned { whole, entries, arrivals, result } = self.scan(file, number, name, &head, limit, durable)?;
        runs.retain(|run| run.end() <= whole);
        let covered = runs.last().map_or(FIRST_EVENT, Run::end);
        let lacks = alg == ChecksumAlg::None && covered < whole;
        let add = if lacks { Some(checksum_of(file, name, covered, whole)?) } else { None };
        let kept = Kept { runs: runs.len() as u64, add };
        // A failure of the disk outweighs that the bytes before it end somewhere.
        let failed = error.take_if(|e| e.failure.is_some());
        let (arrived, arrivals) = (arrivals.last(), arrivals.into_records(whole));
        Ok(Found { head, whole, entries, arrived, arrivals, kept, error: failed.or(result.err()).or(error) })
    }

    /// What of the file's first events can be trusted.
    fn verified(&self, file: &dyn StorageFile, name: &str, head: FileHead, limit: u64) -> Result<FileHead, Stop> {
        let range = FIRST_EVENT..head.end().min(limit);
        let mut walk = Walk::new(file, name, head.alg(), range, self.carried(), Tally::default()).verifying();
        let result = loop {
            match walk.step() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        match result {
            Err(e) if e.failure.is_some() => Err(damaged(name, e)),
            _ if walk.whole == head.end() => Ok(head),
            _ => FileHead::read(file, name, walk.whole).map_err(|e| damaged(name, e)),
        }
    }

    /// Walks over the events up to `limit`: where the last whole one ends, and the index so far.
    fn scan(
        &mut self,
        file: &dyn StorageFile,
        number: u64,
        name: &str,
        head: &FileHead,
        limit: u64,
        durable: u64,
    ) -> Result<Scanned, Stop> {
        let mut entries = Vec::new();
        if limit > VERIFY_WHOLE {
            entries = index::load(self.storage, name, number).unwrap_or_default();
            entries.retain(|e| e.offset <= durable && e.offset <= limit);
        }
        let (from, gtid, tally) = match entries.last() {
            Some(entry) => (entry.offset, entry.gtid.clone(), entry.tally.clone()),
            None => (FIRST_EVENT, head.start.clone().unwrap_or_else(|| self.carried()), Tally::default()),
        };
        self.live.begin(LogPos { file: number, offset: from }, gtid.clone(), self.tally.plus(&tally));
        let mut arrivals = arrivals::Recovered::load(self.storage, name, self.arrived, Micros::now());
        let (live, mut before) = (&mut self.live, gtid.clone());
        let walk = Walk::new(file, name, head.alg(), from..limit, gtid, tally);
        let (walk, result) = collect(walk.verifying(), &mut entries, |id, range, timestamp| {
            let arrived = arrivals.of(range.end, timestamp);
            let begins = LogPos { file: number, offset: range.start };
            live.push(Recent { id: id.clone(), begins, ends: range.end, arrived }, &before);
            before.advance(id);
            arrived
        });
        Ok(Scanned { whole: walk.whole, entries, arrivals, result })
    }
}

/// What a walk over the events met.
struct Scanned {
    /// Where the last whole transaction or event ends.
    whole: u64,
    entries: Vec<Entry>,
    arrivals: arrivals::Recovered,
    /// Why the walk ended before its limit.
    result: Result<(), ScanError>,
}

/// What a scan found.
struct Found {
    head: FileHead,
    whole: u64,
    entries: Vec<Entry>,
    /// When the last transaction arrived.
    arrived: Micros,
    arrivals: Vec<Arrival>,
    kept: Kept,
    error: Option<ScanError>,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            head: FileHead::default(),
            whole: FIRST_EVENT,
            entries: Vec::new(),
            arrived: Micros::default(),
            arrivals: Vec::new(),
            kept: Kept::default(),
            error: None,
        }
    }
}

/// Writes again what lies behind `durable`, before anything of it is looked at: a page that was read once may be gone from memory a moment
/// later, and its old content be back. How much of the file could be read, and why not all of it.
fn renew(file: &dyn StorageFile, name: &str, len: u64, durable: u64) -> Result<(u64, Option<ScanError>), LogError> {
    match storage::rewrite(file, durable.min(len)..len) {
        (_, Ok(())) => Ok((len, None)),
        (end, Err(Rewrite::Write(e))) => Err(LogError::storage(name, end, "rewrite", e)),
        (end, Err(Rewrite::Read(e))) => {
            // Damage, unless it passes: what lies behind is not looked at.
            let failure = StorageFailure::new(name, end, "read", e);
            Ok((end, Some(ScanError { offset: end, cause: failure.to_string(), failure: Some(failure) })))
        }
    }
}

/// The run from `from` to `to`, read from the file.
fn checksum_of(file: &dyn StorageFile, name: &str, from: u64, to: u64) -> Result<Run, LogError> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buf = vec![0; 256 * 1024];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(buf.len()).min(buf.len());
        let n = storage::read_full(file, &mut buf[..want], at).map_err(|e| LogError::storage(name, at, "read", e))?;
        if n == 0 {
            break;
        }
        hasher.update(&buf[..n]);
        at += n as u64;
    }
    Ok(Run { offset: from, len: to - from, crc: hasher.finalize() })
}
