//! One file of the log in memory: what is known of it, who reads it, and its index.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{FIRST_EVENT, FormatDescription};
use baton_wire::gtid::GtidPosition;

use super::error::{LogError, StorageFailure};
use super::index::{self, Entry, IndexWriter};
use super::scan::Walk;
use super::storage::{Storage, StorageFile};
use super::tally::Tally;
use super::types::FileInfo;
use crate::clock::Micros;

/// All files by number.
pub(super) type Segments = BTreeMap<u64, Arc<Segment>>;

/// One file.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) name: String,
    /// Transactions of the log before this file.
    pub(super) base: Tally,
    /// Readers that hold it.
    pub(super) pins: AtomicUsize,
    /// Set when it was removed under its readers.
    pub(super) cut: AtomicBool,
    size: AtomicU64,
    closed: AtomicBool,
    last_arrival: AtomicI64,
    about: RwLock<About>,
    /// The index; `None` if it is to be loaded.
    entries: Mutex<Option<Vec<Entry>>>,
    file: Mutex<Option<Weak<dyn StorageFile>>>,
}

#[derive(Clone)]
struct About {
    start: GtidPosition,
    format: Option<FormatDescription>,
}

impl Segment {
    /// A file whose first `size` bytes are visible.
    pub(super) fn new(number: u64, name: String, size: u64, start: GtidPosition, base: Tally) -> Self {
        Self {
            number,
            name,
            base,
            pins: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            size: AtomicU64::new(size),
            closed: AtomicBool::new(false),
            last_arrival: AtomicI64::new(0),
            about: RwLock::new(About { start, format: None }),
            entries: Mutex::new(None),
            file: Mutex::new(None),
        }
    }

    /// Visible bytes.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// When its last transaction arrived; zero if none has.
    pub(super) fn last_arrival(&self) -> Micros {
        Micros(self.last_arrival.load(Ordering::Acquire))
    }

    pub(super) fn set_last_arrival(&self, arrived: Micros) {
        self.last_arrival.store(arrived.0, Ordering::Release);
    }

    /// What was executed before its first transaction.
    pub(super) fn start(&self) -> GtidPosition {
        self.about.read().unwrap_or_else(PoisonError::into_inner).start.clone()
    }

    pub(super) fn set_start(&self, start: GtidPosition) {
        self.about.write().unwrap_or_else(PoisonError::into_inner).start = start;
    }

    pub(super) fn set_format(&self, format: FormatDescription) {
        self.about.write().unwrap_or_else(PoisonError::into_inner).format = Some(format);
    }

    /// Checksums of its events.
    pub(super) fn alg(&self) -> ChecksumAlg {
        let about = self.about.read().unwrap_or_else(PoisonError::into_inner);
        about.format.as_ref().map_or(ChecksumAlg::None, |f| f.checksum)
    }

    /// As others see it; `None` until its format description is visible.
    pub(super) fn info(&self) -> Option<FileInfo> {
        let About { start, format } = self.about.read().unwrap_or_else(PoisonError::into_inner).clone();
        format.map(|format| FileInfo {
            number: self.number,
            name: self.name.clone(),
            size: self.size(),
            start,
            checksum: format.checksum,
            server_version: format.server_version,
            closed: self.is_closed(),
        })
    }

    /// An open handle, shared by all who use the file at the same time.
    pub(super) fn open(&self, storage: &dyn Storage) -> Result<Arc<dyn StorageFile>, StorageFailure> {
        let mut slot = lock(&self.file);
        if let Some(file) = slot.as_ref().and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = storage.open(&self.name).map_err(|e| StorageFailure::new(&self.name, 0, "open", e))?;
        *slot = Some(Arc::downgrade(&file));
        Ok(file)
    }

    /// Lets others share the writer's handle.
    pub(super) fn share(&self, file: &Arc<dyn StorageFile>) {
        *lock(&self.file) = Some(Arc::downgrade(file));
    }

    /// Makes `entries` the index, complete up to now.
    pub(super) fn set_entries(&self, entries: Vec<Entry>) {
        *lock(&self.entries) = Some(entries);
    }

    /// Adds to an index that is in memory.
    pub(super) fn push_entry(&self, entry: Entry) {
        if let Some(entries) = lock(&self.entries).as_mut() {
            entries.push(entry);
        }
    }

    /// Forgets the index of a closed file.
    pub(super) fn unload_entries(&self) {
        if self.is_closed() {
            *lock(&self.entries) = None;
        }
    }

    /// The last entry of which `before` holds (it holds for all entries up to some one, and for none behind). Loads the index if
    /// needed, or rebuilds it from the file.
    pub(super) fn entry_before(
        &self,
        storage: &dyn Storage,
        before: impl Fn(&Entry) -> bool,
    ) -> Result<EntryFound, LogError> {
        let mut slot = lock(&self.entries);
        let loaded = slot.is_none();
        if slot.is_none() {
            let size = self.size();
            let stored = index::load(storage, &self.name, self.number)
                .filter(|entries| entries.last().is_some_and(|last| last.offset == size));
            *slot = Some(match stored {
                Some(entries) => entries,
                None => self.rebuild(storage, size)?,
            });
        }
        let entries = slot.as_deref().unwrap_or_default();
        let n = entries.partition_point(before);
        let next = entries.get(n).map(|e| (e.offset, e.tally.total));
        let entry = n.checked_sub(1).and_then(|n| entries.get(n)).cloned();
        Ok(EntryFound { entry: entry.unwrap_or_else(|| self.beginning()), next, loaded })
    }

    /// What holds before the first event.
    fn beginning(&self) -> Entry {
        Entry { offset: FIRST_EVENT, gtid: self.start(), tally: Tally::default(), arrived: Micros::default() }
    }

    fn rebuild(&self, storage: &dyn Storage, size: u64) -> Result<Vec<Entry>, LogError> {
        tracing::info!(file = self.name, "index missing or unsound; rebuilding it");
        let file = self.open(storage)?;
        let walk = Walk::new(&*file, &self.name, self.alg(), FIRST_EVENT..size, self.start(), Tally::default());
        let mut entries = Vec::new();
        collect(walk, &mut entries, |_, _, _| self.last_arrival()).1.map_err(|e| e.into_log_error(&self.name))?;
        if self.is_closed() {
            IndexWriter::create(storage, &self.name, self.number, &entries).close(size);
        }
        Ok(entries)
    }
}

/// What [`Segment::entry_before`] found.
pub(super) struct EntryFound {
    /// The entry, or the file's beginning.
    pub(super) entry: Entry,
    /// Offset and transactions of the entry behind it.
    pub(super) next: Option<(u64, u64)>,
    /// Whether the index had to be loaded.
    pub(super) loaded: bool,
}

/// Walks to the end and collects index entries, among them one where the last transaction ends, and one at the last whole place. `each` is told every transaction that ends: where it
/// began, its end, and the timestamp of its last event, and tells when it arrived. The walk is returned as it ended, with the reason if it ended early.
pub(super) fn collect<'a>(
    mut walk: Walk<'a>,
    entries: &mut Vec<Entry>,
    mut each: impl FnMut(&baton_wire::gtid::TransactionId, std::ops::Range<u64>, u32) -> Micros,
) -> (Walk<'a>, Result<(), super::scan::ScanError>) {
    let mut last = entries.last().map_or(FIRST_EVENT, |e| e.offset);
    let (mut ended, mut arrived) = (FIRST_EVENT, Micros::default());
    let result = loop {
        match walk.step() {
            Ok(Some(step)) => {
                let Some((id, began)) = &step.ended else { continue };
                arrived = each(id, *began..step.ends, step.timestamp);
                ended = step.ends;
                if step.ends >= last + index::INTERVAL {
                    last = step.ends;
                    entries.push(Entry { offset: last, gtid: walk.gtid.clone(), tally: walk.tally.clone(), arrived });
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    for offset in [ended, walk.whole] {
        if offset > last {
            last = offset;
            entries.push(Entry { offset, gtid: walk.gtid.clone(), tally: walk.tally.clone(), arrived });
        }
    }
    (walk, result)
}

/// The lock, whether or not a holder panicked: what it guards is changed in single steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
