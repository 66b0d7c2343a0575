//! The shared face of the log: head, files, identity and status. Writing is the [`Appender`]'s, reading the [`LogReader`]'s.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use baton_wire::Flavor;
use baton_wire::gtid::GtidPosition;
use tokio::sync::watch;

use super::appender::{self, Appender};
use super::error::{AppendError, LogError};
use super::live::Live;
use super::meta::Meta;
use super::observer::{LogObserver, Observed};
use super::recovery::{self, Recovered};
use super::ring::Ring;
use super::segment::{EntryFound, Segment, Segments, lock};
use super::storage::Storage;
use super::types::{FileInfo, Head, LogIdentity, LogPos, LogStatus};
use super::{index, retention, writer};

/// Indexes of closed files that are kept in memory.
const INDEXES: usize = 8;

/// How the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The cluster's name; a directory of another one is refused.
    pub cluster: String,
    /// Files whose last transaction arrived longer ago are removed; `None` keeps them.
    pub retain: Option<Duration>,
    /// The oldest files are removed while the log has more bytes; `None` sets no limit.
    pub retain_bytes: Option<u64>,
    /// As `retain_bytes`, but without regard to readers; `None` never takes a file from a reader.
    pub retain_hard_bytes: Option<u64>,
    /// Newest bytes kept in memory for readers at the head. A transaction larger than that is read from disk.
    pub ring_bytes: usize,
    /// Bytes that may wait for the writer before [`Appender::append`] waits.
    pub queue_bytes: usize,
    /// Between two syncs at least, so that each serves more: what is written meanwhile becomes visible that much later. For a log that nobody waits
    /// for to be durable; zero where somebody does.
    pub sync_pause: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            retain: None,
            retain_bytes: None,
            retain_hard_bytes: None,
            ring_bytes: 16 << 20,
            queue_bytes: 32 << 20,
            sync_pause: Duration::ZERO,
        }
    }
}

/// The log. Shared by all who read it or look at it.
pub struct Log {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) config: LogConfig,
    pub(super) meta: Mutex<Meta>,
    pub(super) segments: RwLock<Segments>,
    pub(super) live: Mutex<Live>,
    pub(super) ring: Mutex<Ring>,
    pub(super) head: watch::Sender<Option<Arc<Head>>>,
    /// Why nothing can be appended at present.
    pub(super) failure: watch::Sender<Option<AppendError>>,
    pub(super) damaged: Option<String>,
    pub(super) counters: Counters,
    pub(super) observed: Observed,
    recovered_bytes_dropped: u64,
    /// Numbers of closed files whose index was loaded, the newest use last.
    indexes: Mutex<VecDeque<u64>>,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) storage_errors: AtomicU64,
    pub(super) files_removed: AtomicU64,
    pub(super) readers_cut: AtomicU64,
}

impl Counters {
    pub(super) fn storage_error(&self, observed: &Observed) {
        self.storage_errors.fetch_add(1, Ordering::Relaxed);
        observed.tell(|o| o.failed());
    }
}

impl Log {
    /// Opens the log in `storage`, or begins a new one in an empty directory: recovers what a crash left, and starts the thread that writes.
    ///
    /// A log whose durable part is damaged opens too, with what is whole before the damage: see [`LogStatus::damaged`].
    /// Errors: the directory is another cluster's, its description can't be read, or the disk fails. Blocks on disk I/O.
    pub fn open(storage: Arc<dyn Storage>, config: LogConfig) -> Result<(Arc<Self>, Appender), LogError> {
        let recovered = recovery::recover(&*storage, &config.cluster)?;
        let Recovered { meta, segments, live, tail, mark, damaged, dropped } = recovered;
        if let Some(detail) = &damaged {
            tracing::error!(%detail, "the log is damaged: it is served up to there, and takes nothing more");
        }
        let failure = damaged.clone().map(|detail| AppendError::Damaged { detail });
        let log = Arc::new(Self {
            ring: Mutex::new(Ring::new(config.ring_bytes)),
            head: watch::Sender::new(live.head.clone()),
            live: Mutex::new(live),
            storage,
            config,
            meta: Mutex::new(meta),
            segments: RwLock::new(segments),
            failure: watch::Sender::new(failure),
            damaged,
            counters: Counters::default(),
            observed: Observed::default(),
            recovered_bytes_dropped: dropped,
            indexes: Mutex::default(),
        });
        let writer = writer::Writer::new(Arc::clone(&log), mark, tail);
        let appender = appender::start(Arc::clone(&log), writer)?;
        Ok((log, appender))
    }

    /// Tells `observer` from now on what is written; the first one that is set stays.
    pub fn observe(&self, observer: Arc<dyn LogObserver>) {
        self.observed.by(observer);
    }

    /// What replicas may see; `None` while nothing is there.
    pub fn head(&self) -> Option<Arc<Head>> {
        self.head.borrow().clone()
    }

    /// Wakes at each new head, once for each group of transactions.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Head>>> {
        self.head.subscribe()
    }

    /// Wakes when appending begins to fail, and when it works again (`None`).
    pub fn subscribe_failure(&self) -> watch::Receiver<Option<AppendError>> {
        self.failure.subscribe()
    }

    /// The log's UUID.
    pub fn log_id(&self) -> String {
        lock(&self.meta).log_id.clone()
    }

    /// Base name of the files; `None` until the first one is begun.
    pub fn base_name(&self) -> Option<String> {
        lock(&self.meta).base.clone()
    }

    /// The family that wrote the log; `None` until the first file is begun.
    pub fn flavor(&self) -> Option<Flavor> {
        lock(&self.meta).flavor()
    }

    /// Whose log this is, and its epochs.
    pub fn identity(&self) -> LogIdentity {
        lock(&self.meta).identity()
    }

    /// Files of which at least the format description is visible, oldest first.
    pub fn files(&self) -> Vec<FileInfo> {
        self.all_segments().iter().filter_map(|s| s.info()).collect()
    }

    /// One file.
    pub fn file(&self, number: u64) -> Option<FileInfo> {
        self.segment(number).and_then(|s| s.info())
    }

    /// The name that the file of that number has, whether it exists or not; `None` until the base name is known.
    pub fn file_name(&self, number: u64) -> Option<String> {
        lock(&self.meta).file_name(number)
    }

    /// The number in a file's name; `None` if it does not have the log's base name.
    pub fn parse_file_name(&self, name: &str) -> Option<u64> {
        parse_file_name(lock(&self.meta).base.as_deref()?, name)
    }

    /// Health and size.
    pub fn status(&self) -> LogStatus {
        let (files, bytes) = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            (segments.len() as u64, segments.values().map(|s| s.size()).sum())
        };
        let failure = self.failure.borrow().clone();
        LogStatus {
            log_id: self.log_id(),
            writable: failure.is_none(),
            error: failure.as_ref().map(ToString::to_string),
            hint: failure.as_ref().and_then(AppendError::hint).map(str::to_owned),
            damaged: self.damaged.clone(),
            files,
            bytes,
            recovered_bytes_dropped: self.recovered_bytes_dropped,
            storage_errors: self.counters.storage_errors.load(Ordering::Relaxed),
            files_removed: self.counters.files_removed.load(Ordering::Relaxed),
            readers_cut: self.counters.readers_cut.load(Ordering::Relaxed),
        }
    }

    /// Removes what the configured retention lets go; done by itself at each new file and each minute.
    /// Blocks on disk I/O.
    pub fn apply_retention(&self) -> Result<(), LogError> {
        retention::apply(self, crate::clock::Micros::now())
    }

    pub(super) fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn all_segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The error that names the files there are.
    pub(super) fn no_file(&self, number: u64) -> LogError {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        match (segments.keys().next(), segments.keys().next_back()) {
            (Some(first), Some(last)) => LogError::NoFile { number, first: *first, last: *last },
            _ => LogError::Empty,
        }
    }

    /// An index entry of a file; keeps the number of loaded indexes bounded.
    pub(super) fn entry_before(
        &self,
        segment: &Segment,
        before: impl Fn(&index::Entry) -> bool,
    ) -> Result<EntryFound, LogError> {
        let found = segment.entry_before(&*self.storage, before)?;
        if found.loaded {
            let mut indexes = lock(&self.indexes);
            indexes.retain(|n| *n != segment.number);
            indexes.push_back(segment.number);
            let forget = if indexes.len() > INDEXES { indexes.pop_front() } else { None };
            drop(indexes);
            if let Some(old) = forget.and_then(|n| self.segment(n)) {
                old.unload_entries();
            }
        }
        Ok(found)
    }

    /// Bytes of events between two places.
    pub(super) fn bytes_between(&self, from: LogPos, to: LogPos) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        if from >= to {
            return 0;
        }
        let first = baton_wire::event::FIRST_EVENT;
        let ends = segments.range(from.file..to.file).map(|(_, s)| s.size());
        let before: u64 = ends.map(|size| size.saturating_sub(first)).sum();
        (before + to.offset.saturating_sub(first)).saturating_sub(from.offset.saturating_sub(first))
    }

    /// The position of nothing, in the log's family.
    pub(super) fn empty_gtid(&self) -> GtidPosition {
        GtidPosition::empty(self.flavor().unwrap_or(Flavor::MariaDb))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("identity", &self.identity()).field("head", &self.head()).finish_non_exhaustive()
    }
}

/// The number in `<base>.<at least six digits>`.
pub(super) fn parse_file_name(base: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(base)?.strip_prefix('.')?;
    let number = digits.parse().ok()?;
    // Exactly the form that the log gives: no sign, no superfluous zeros.
    (digits == format!("{number:06}")).then_some(number)
}
