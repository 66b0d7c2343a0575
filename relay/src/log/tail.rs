//! The file that is being written, with everything beside it: bytes, checksums of our own, index, arrival times.
//!
//! Distinguishes three ends: what was written, what is whole and durable (`whole`), and in between what may still be cut.

use std::collections::VecDeque;
use std::sync::Arc;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{FIRST_EVENT, MAGIC};
use bytes::Bytes;

use super::arrivals::{Arrival, ArrivalWriter};
use super::crcs::{CrcWriter, Kept, Run};
use super::error::{AppendError, LogError, StorageFailure};
use super::index::{self, Entry, IndexWriter};
use super::scan::FileHead;
use super::segment::Segment;
use super::storage::{Storage, StorageFile};
use super::tally::Tally;

/// Bytes asked of the file system ahead of the writes.
const ALLOCATE: u64 = 4 << 20;

/// The last file of the log.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    file: Arc<dyn StorageFile>,
    /// End of what was written.
    pub(super) written: u64,
    /// End of what is whole, durable and published.
    pub(super) whole: u64,
    /// Bytes written since the last sync.
    pub(super) unsynced: u64,
    allocated: u64,
    pub(super) head: FileHead,
    /// Whether the position before the first transaction is known and published.
    pub(super) start_known: bool,
    /// Transactions in the file.
    pub(super) tally: Tally,
    index: IndexWriter,
    last_entry: u64,
    /// End of the last transaction.
    last_transaction: u64,
    arrivals: ArrivalWriter,
    crcs: Option<CrcWriter>,
    /// Checksums of the first bytes, kept until the format description says whether they are needed.
    crcs_waiting: Vec<Run>,
    /// Written, not yet whole: to be shared with readers once it is.
    pending: VecDeque<(u64, Bytes)>,
    pending_bytes: usize,
}

impl Tail {
    /// Begins a new file: durable, with its name, once this returned.
    pub(super) fn create(storage: &dyn Storage, segment: Arc<Segment>) -> Result<Self, StorageFailure> {
        let name = segment.name.as_str();
        let file = storage.create(name).map_err(|e| StorageFailure::new(name, 0, "create", e))?;
        file.write_all_at(&MAGIC, 0).map_err(|e| StorageFailure::new(name, 0, "write", e))?;
        file.sync_data().map_err(|e| StorageFailure::new(name, 0, "sync", e))?;
        storage.sync_dir().map_err(|e| StorageFailure::new(&storage.describe(), 0, "sync the directory", e))?;
        // What an earlier file of that name may have left.
        for sidecar in [super::arrivals::name(name), super::crcs::name(name)] {
            match storage.remove(&sidecar) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StorageFailure::new(&sidecar, 0, "remove", e));
                }
                _ => {}
            }
        }
        segment.set_entries(Vec::new());
        Ok(Self::new(storage, segment, file, FIRST_EVENT, &[], &[]))
    }

    /// Goes on with a recovered file whose first `whole` bytes count; `kept` are their checksums, if it needs any of ours.
    pub(super) fn resume(
        storage: &dyn Storage,
        segment: Arc<Segment>,
        file: Arc<dyn StorageFile>,
        whole: u64,
        entries: Vec<Entry>,
        arrivals: &[Arrival],
        kept: &Kept,
    ) -> Result<Self, LogError> {
        // What lies behind the mark was written again by recovery: from here on it is durable.
        file.sync_data().map_err(|e| LogError::storage(&segment.name, whole, "sync", e))?;
        storage.sync_dir().map_err(|e| LogError::storage(&storage.describe(), 0, "sync the directory", e))?;
        let mut tail = Self::new(storage, Arc::clone(&segment), Arc::clone(&file), whole, &entries, arrivals);
        tail.tally = entries.last().map(|e| e.tally.clone()).unwrap_or_default();
        tail.head = FileHead::read(&*file, &segment.name, whole).map_err(|e| e.into_log_error(&segment.name))?;
        tail.start_known = tail.head.is_done();
        if tail.needs_crcs() {
            tail.crcs = Some(CrcWriter::resume(storage, &segment.name, kept)?);
        }
        Ok(tail)
    }

    fn new(
        storage: &dyn Storage,
        segment: Arc<Segment>,
        file: Arc<dyn StorageFile>,
        whole: u64,
        entries: &[Entry],
        arrivals: &[Arrival],
    ) -> Self {
        segment.share(&file);
        Self {
            index: IndexWriter::create(storage, &segment.name, segment.number, entries),
            last_entry: entries.last().map_or(FIRST_EVENT, |e| e.offset),
            last_transaction: FIRST_EVENT,
            arrivals: ArrivalWriter::open(storage, &segment.name, arrivals),
            segment,
            file,
            written: whole,
            whole,
            unsynced: 0,
            allocated: whole,
            head: FileHead::default(),
            start_known: false,
            tally: Tally::default(),
            crcs: None,
            crcs_waiting: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
        }
    }

    fn needs_crcs(&self) -> bool {
        self.head.format.as_ref().is_some_and(|f| f.checksum == ChecksumAlg::None)
    }

    fn failure(&self, offset: u64, action: &'static str, source: std::io::Error) -> StorageFailure {
        StorageFailure::new(&self.segment.name, offset, action, source)
    }

    /// Writes bytes at the end. `whole` is where the log will be whole once they are durable; at most `keep` bytes are kept for readers.
    pub(super) fn write(
        &mut self,
        storage: &dyn Storage,
        data: &Bytes,
        whole: u64,
        keep: usize,
    ) -> Result<(), AppendError> {
        let (from, to) = (self.written, self.written + data.len() as u64);
        if to > self.allocated {
            // Only a hint: a file system that has none, or no room, says so at the write.
            let _ = self.file.allocate(self.allocated, to - self.allocated + ALLOCATE);
            self.allocated = to + ALLOCATE;
        }
        self.file.write_all_at(data, from).map_err(|e| self.failure(from, "write", e))?;
        self.written = to;
        self.unsynced += data.len() as u64;
        self.head.push(data).map_err(|cause| AppendError::Invalid {
            detail: format!("{}: the file does not begin as a binlog file does: {cause}", self.segment.name),
        })?;
        self.checksum(storage, data, from, whole)?;
        self.pending_bytes += data.len();
        self.pending.push_back((from, data.clone()));
        while self.pending_bytes > keep {
            // Too large for the ring: readers will take the beginning from the file.
            let Some((_, old)) = self.pending.pop_front() else { break };
            self.pending_bytes -= old.len();
        }
        Ok(())
    }

    /// Adds checksums of our own where the events have none, cut at `whole`: so all of them stay valid if what is behind is cut off.
    fn checksum(&mut self, storage: &dyn Storage, data: &[u8], from: u64, whole: u64) -> Result<(), StorageFailure> {
        if self.head.format.is_some() && !self.needs_crcs() {
            self.crcs_waiting = Vec::new();
            return Ok(());
        }
        let cut = usize::try_from(whole.saturating_sub(from)).unwrap_or(data.len()).min(data.len());
        let (first, second) = data.split_at(cut);
        for run in [Run::of(from, first), Run::of(from + cut as u64, second)] {
            if run.len > 0 {
                self.crcs_waiting.push(run);
            }
        }
        if self.head.format.is_none() {
            return Ok(());
        }
        let crcs = match &mut self.crcs {
            Some(crcs) => crcs,
            None => self.crcs.insert(CrcWriter::create(storage, &self.segment.name)?),
        };
        for run in self.crcs_waiting.drain(..) {
            crcs.push(run)?;
        }
        Ok(())
    }

    /// Whether the file's first events, which tell the position at its beginning, are complete up to `whole`.
    pub(super) fn begun_by(&self, whole: u64) -> bool {
        self.head.is_done() && self.head.end() <= whole
    }

    /// Makes everything written durable.
    pub(super) fn sync(&mut self) -> Result<(), StorageFailure> {
        if let Some(crcs) = &mut self.crcs {
            crcs.sync()?;
        }
        self.file.sync_data().map_err(|e| self.failure(self.whole, "sync", e))?;
        self.unsynced = 0;
        Ok(())
    }

    /// Everything up to `whole` is durable. Returns those of its bytes that are still in memory.
    pub(super) fn settle(&mut self, whole: u64) -> Vec<(u64, Bytes)> {
        self.whole = whole;
        if let Some(crcs) = &mut self.crcs {
            crcs.settled(whole);
        }
        let mut visible = Vec::with_capacity(self.pending.len());
        let mut rest = VecDeque::new();
        for (at, mut data) in self.pending.drain(..) {
            let n = usize::try_from(whole.saturating_sub(at)).unwrap_or(data.len()).min(data.len());
            if n < data.len() {
                rest.push_back((at + n as u64, data.split_off(n)));
            }
            if n > 0 {
                visible.push((at, data));
            }
        }
        self.pending_bytes = rest.iter().map(|(_, data)| data.len()).sum();
        self.pending = rest;
        visible
    }

    /// Notes that a transaction ends at `offset`; whether an index entry is due there.
    /// `due` is the last entry that was due and is not added yet.
    pub(super) fn note_end(&mut self, offset: u64, due: Option<&Entry>) -> bool {
        self.last_transaction = offset;
        offset >= due.map_or(self.last_entry, |entry| entry.offset) + index::INTERVAL
    }

    /// Adds an index entry.
    pub(super) fn push_entry(&mut self, entry: Entry) {
        self.last_entry = entry.offset;
        self.index.push(&entry);
        self.segment.push_entry(entry);
    }

    /// Notes arrivals, the last of them that of the newest transaction.
    pub(super) fn note_arrivals(&mut self, arrivals: &[Arrival]) {
        self.arrivals.push(arrivals);
        if let Some(last) = arrivals.last() {
            self.segment.set_last_arrival(last.at);
        }
    }

    /// Throws away what is not whole and durable, and its blocks with it.
    pub(super) fn cut(&mut self) -> Result<(), StorageFailure> {
        self.pending.clear();
        self.pending_bytes = 0;
        self.crcs_waiting = Vec::new();
        self.file.set_len(self.whole).map_err(|e| self.failure(self.whole, "truncate", e))?;
        if let Some(crcs) = &mut self.crcs {
            crcs.cut(self.whole)?;
        }
        if !self.start_known {
            let read = FileHead::read(&*self.file, &self.segment.name, self.whole);
            self.head = read.map_err(|e| {
                e.failure.unwrap_or_else(|| self.failure(e.offset, "read", std::io::Error::other(e.cause)))
            })?;
        }
        self.written = self.whole;
        self.unsynced = 0;
        self.allocated = self.whole;
        Ok(())
    }

    /// Nothing more will be written: `end` holds at the end of the file.
    pub(super) fn close(mut self, end: Entry) {
        // Gives back what was allocated ahead.
        if let Err(error) = self.file.set_len(self.whole) {
            tracing::warn!(%error, file = self.segment.name, "blocks allocated ahead were not given back");
        }
        // One where the last transaction ends, and one at the end.
        for offset in [self.last_transaction, end.offset] {
            if offset > self.last_entry {
                self.push_entry(Entry { offset, ..end.clone() });
            }
        }
        self.index.close(self.whole);
        self.arrivals.close();
        self.segment.set_closed();
        self.segment.unload_entries();
    }
}
