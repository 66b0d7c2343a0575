//! The one thread that writes: takes all that waits, writes it, syncs once, publishes once.
//!
//! Promises: the head moves only behind a successful sync, and only to where the log is whole. After a failure nothing behind the head
//! is trusted: it is cut off, and fetched again by whoever feeds the log.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use baton_wire::event::FIRST_EVENT;
use baton_wire::gtid::GtidPosition;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::appender::{Batch, OpenFile};
use super::arrivals;
use super::error::{AppendError, StorageFailure};
use super::index::Entry;
use super::live::Recent;
use super::mark::Mark;
use super::rotate::Later;
use super::segment::lock;
use super::store::Log;
use super::tail::Tail;
use super::types::{Head, LogPos, Transaction};
use crate::clock::Micros;

/// Bytes and batches written before a sync, at most.
const GROUP_BYTES: usize = 8 << 20;
const GROUP_BATCHES: usize = 16 * 1024;
/// Small batches are joined up to this size: one write, and one chunk for the readers.
const JOIN: usize = 256 * 1024;
/// Longest time for which the thread does not look at its queue.
const GATHER: Duration = Duration::from_millis(5);
/// What can wait is done once nothing came for so long, or after the longest time that it may wait.
const LATER: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);
/// Bytes of an unfinished transaction between two syncs.
const SYNC_EVERY: u64 = 8 << 20;
const MARK_EVERY: Duration = Duration::from_secs(1);
const RETENTION_EVERY: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(500);
const PROBE: &str = "probe";

/// What the appender asks for.
pub(super) enum Job {
    Batch(Batch, OwnedSemaphorePermit),
    Open(OpenFile, oneshot::Sender<Result<LogPos, AppendError>>),
    Settle(oneshot::Sender<Result<Settled, AppendError>>),
    DropPartial(oneshot::Sender<Result<Option<LogPos>, AppendError>>),
}

/// What is whole and written, and not durable yet.
struct Unsynced {
    whole: u64,
    transactions: Vec<Transaction>,
    received: Micros,
}

/// Everything whole is durable, and nothing else is there.
pub(super) struct Settled {
    pub(super) head: Option<Arc<Head>>,
    /// Where the next byte belongs; `None` before the first file.
    pub(super) end: Option<LogPos>,
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) log: Arc<Log>,
    mark: Option<Mark>,
    mark_synced: Instant,
    retention_done: Instant,
    pub(super) tail: Option<Tail>,
    pub(super) gtid: GtidPosition,
    /// What the next sync makes visible, and when the last one was.
    unsynced: Option<Unsynced>,
    synced: Instant,
    pub(super) later: Later,
    /// A job taken while a group was gathered.
    stash: Option<Job>,
    /// Bytes behind the head that were to be written last: with less room than that, a failed disk has not recovered.
    wanted: u64,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, mark: Option<Mark>, tail: Option<Tail>) -> Self {
        let gtid = log.head().map_or_else(|| log.empty_gtid(), |head| head.gtid.clone());
        let now = Instant::now();
        Self {
            log,
            mark,
            mark_synced: now,
            retention_done: now,
            tail,
            gtid,
            unsynced: None,
            synced: now,
            later: Later::default(),
            stash: None,
            wanted: 0,
        }
    }

    /// Where the next byte belongs.
    pub(super) fn end(&self) -> Option<LogPos> {
        self.tail.as_ref().map(|tail| LogPos { file: tail.segment.number, offset: tail.written })
    }

    /// Works until the appender is gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        if self.log.damaged.is_none() {
            self.write_mark();
            self.sync_mark();
            self.retain();
        }
        loop {
            let job = match self.stash.take() {
                Some(job) => job,
                None => match self.wait(jobs) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        if self.until_sync().is_some_and(|left| left.is_zero()) {
                            self.sync_now();
                        }
                        if self.later.waits().is_some_and(|waited| waited >= LATER) {
                            self.do_later();
                        }
                        self.housekeeping();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            };
            if !matches!(job, Job::Batch(..)) {
                self.sync_now();
            }
            match job {
                Job::Batch(batch, permit) => self.group(batch, permit, jobs),
                Job::Open(spec, done) => {
                    let result = self.open(&spec);
                    if let Err(AppendError::Storage(failure)) = &result {
                        self.fail(failure.clone().into());
                    }
                    let _ = done.send(result);
                }
                Job::Settle(done) => {
                    let result = self.settle();
                    let _ = done.send(result);
                }
                Job::DropPartial(done) => {
                    let result = self.drop_partial();
                    let _ = done.send(result);
                }
            }
            self.housekeeping();
        }
        self.finish();
    }

    /// The next job. Where a sync is put off, what comes meanwhile gathers: nobody waits for it to be written, and each wake-up would take a core
    /// from whoever commits.
    fn wait(&self, jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        if let Some(left) = self.until_sync().filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(GATHER));
        }
        let tick = self.later.waits().map_or(TICK, |_| LATER);
        jobs.recv_timeout(self.until_sync().map_or(tick, |left| left.min(tick)))
    }

    /// Takes what else waits, and writes it.
    fn group(&mut self, batch: Batch, permit: OwnedSemaphorePermit, jobs: &Receiver<Job>) {
        let mut bytes = batch.data.len();
        let mut permits = vec![permit];
        let mut batches = vec![batch];
        while bytes < GROUP_BYTES && batches.len() < GROUP_BATCHES {
            match jobs.try_recv() {
                Ok(Job::Batch(batch, permit)) => {
                    bytes += batch.data.len();
                    batches.push(batch);
                    permits.push(permit);
                }
                Ok(other) => {
                    self.stash = Some(other);
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        // What follows a failure is dropped until the appender has settled.
        if self.log.failure.borrow().is_some() {
            return;
        }
        if let Err(error) = self.write(batches) {
            self.fail(error);
        }
    }

    fn write(&mut self, batches: Vec<Batch>) -> Result<(), AppendError> {
        let log = Arc::clone(&self.log);
        let Some(tail) = &mut self.tail else {
            return Err(AppendError::Invalid { detail: "no file was begun".into() });
        };
        let bytes: usize = batches.iter().map(|b| b.data.len()).sum();
        self.wanted = tail.written - tail.whole + bytes as u64;
        let before = self.unsynced.as_ref().map_or(tail.whole, |u| u.whole);
        let whole = batches.iter().filter_map(|b| b.whole).max().unwrap_or(0).max(before);
        let received = batches.first().map_or_else(Micros::now, |b| b.received_at);
        let mut transactions = Vec::new();
        let mut data = Vec::with_capacity(batches.len());
        for batch in batches {
            transactions.extend(batch.transactions);
            data.push(batch.data);
        }
        for run in join(data) {
            tail.write(&*log.storage, &run, whole, log.config.ring_bytes)?;
        }
        // Of a file whose position at the beginning is not known nothing is visible: a start after a kill could not tell it either.
        let whole = if tail.start_known || tail.begun_by(whole) { whole } else { tail.whole };
        if whole > before {
            let empty = || Unsynced { whole: before, transactions: Vec::new(), received };
            let unsynced = self.unsynced.get_or_insert_with(empty);
            unsynced.whole = whole;
            unsynced.transactions.extend(transactions);
        }
        if tail.unsynced >= SYNC_EVERY || self.until_sync().is_some_and(|left| left.is_zero()) {
            self.sync()?;
        }
        Ok(())
    }

    /// How long what is whole waits for its sync; `None` if nothing does.
    fn until_sync(&self) -> Option<Duration> {
        let pause = self.log.config.sync_pause;
        self.unsynced
            .as_ref()
            .map(|_| if pause.is_zero() { pause } else { pause.saturating_sub(self.synced.elapsed()) })
    }

    /// Makes durable what is written, and visible what of it is whole.
    fn sync(&mut self) -> Result<(), AppendError> {
        let Some(tail) = &mut self.tail else { return Ok(()) };
        let (bytes, began) = (tail.unsynced, Instant::now());
        tail.sync()?;
        self.synced = Instant::now();
        self.log.observed.tell(|o| o.synced(bytes, began.elapsed()));
        if let Some(Unsynced { whole, transactions, received }) = self.unsynced.take() {
            self.publish(whole, transactions, received);
        }
        Ok(())
    }

    /// Puts nothing off any longer.
    fn sync_now(&mut self) {
        if self.unsynced.is_some() {
            if let Err(error) = self.sync() {
                self.fail(error);
            }
        }
    }

    /// Makes everything up to `whole`, which is durable, visible.
    fn publish(&mut self, whole: u64, transactions: Vec<Transaction>, received: Micros) {
        let log = Arc::clone(&self.log);
        let Some(tail) = &mut self.tail else { return };
        let number = tail.segment.number;
        let pos = LogPos { file: number, offset: whole };
        let from = tail.whole;
        let visible = tail.settle(whole);
        let mut reset = false;
        if !tail.start_known {
            if let Some(format) = tail.head.format.clone() {
                tail.segment.set_format(format);
            }
            if let Some(start) = tail.head.start.take() {
                self.gtid = start;
                reset = true;
            }
            tail.segment.set_start(self.gtid.clone());
            tail.start_known = true;
        }
        let (mut noted, mut entries) = (Vec::new(), Vec::new());
        let last_arrived = transactions.last().map(|t| t.arrived);
        {
            let mut live = lock(&log.live);
            if live.head.is_none() {
                live.begin(LogPos { file: number, offset: FIRST_EVENT }, self.gtid.clone(), tail.segment.base.clone());
            } else if reset {
                live.reset_gtid(&self.gtid);
            }
            for transaction in transactions {
                let Transaction { id, begins, ends, arrived } = transaction;
                arrivals::note(&mut noted, from, ends, arrived);
                let recent = Recent { id: id.clone(), begins: LogPos { file: number, offset: begins }, ends, arrived };
                live.push(recent, &self.gtid);
                self.gtid.advance(&id);
                tail.tally.note(&id);
                if tail.note_end(ends, entries.last()) {
                    let (gtid, tally) = (self.gtid.clone(), tail.tally.clone());
                    entries.push(Entry { offset: ends, gtid, tally, arrived });
                }
            }
            tail.segment.set_size(whole);
            let before = live.head.as_ref().map(|h| h.arrived).unwrap_or_default();
            live.head = Some(Arc::new(Head {
                pos,
                gtid: self.gtid.clone(),
                transactions: live.tally.total,
                arrived: last_arrived.unwrap_or(before),
            }));
            let mut ring = lock(&log.ring);
            for (at, data) in visible {
                ring.push(LogPos { file: number, offset: at }, data);
            }
            drop(ring);
            log.head.send_replace(live.head.clone());
        }
        for entry in entries {
            tail.push_entry(entry);
        }
        if noted.is_empty() {
            arrivals::note(&mut noted, from, whole, received);
        }
        tail.note_arrivals(&noted);
        self.write_mark();
        if reset && self.note_epoch_gtid(number) {
            self.later.store();
        }
    }

    /// The first file of an epoch tells the position at which the epoch began. Whether that is to be stored.
    fn note_epoch_gtid(&self, number: u64) -> bool {
        let GtidPosition::MariaDb(list) = &self.gtid_at_start(number) else { return false };
        let mut meta = lock(&self.log.meta);
        let Some(epoch) = meta.epochs.last_mut().filter(|e| e.begin.0 == number && e.gtid.is_none()) else {
            return false;
        };
        epoch.gtid = Some(list.to_string());
        true
    }

    fn gtid_at_start(&self, number: u64) -> GtidPosition {
        self.log.segment(number).map_or_else(|| self.log.empty_gtid(), |s| s.start())
    }

    /// Drops what is not whole; after a failure, finds out whether the disk works again.
    fn settle(&mut self) -> Result<Settled, AppendError> {
        let log = Arc::clone(&self.log);
        let failed = log.failure.borrow().clone();
        if let Some(damaged @ AppendError::Damaged { .. }) = failed {
            return Err(damaged);
        }
        let result = self.make_whole(failed.is_some());
        match result {
            Ok(()) if failed.is_some() => {
                tracing::info!("the log can be written again");
                log.failure.send_replace(None);
            }
            Ok(()) => {}
            Err(failure) => {
                log.counters.storage_error(&log.observed);
                let error = AppendError::from(failure);
                log.failure.send_replace(Some(error.clone()));
                return Err(error);
            }
        }
        self.do_later();
        Ok(Settled { head: log.head(), end: self.end() })
    }

    /// Drops what is not whole. A failure that was not settled stays one: whole transactions may be gone with it.
    fn drop_partial(&mut self) -> Result<Option<LogPos>, AppendError> {
        if let Some(failure) = self.log.failure.borrow().clone() {
            return Err(failure);
        }
        if let Err(failure) = self.make_whole(false) {
            self.fail(failure.clone().into());
            return Err(failure.into());
        }
        Ok(self.end())
    }

    fn make_whole(&mut self, probe: bool) -> Result<(), StorageFailure> {
        if let Some(tail) = &mut self.tail {
            if probe || tail.written > tail.whole {
                tail.cut()?;
            }
            if probe {
                tail.sync()?;
            }
        }
        if probe {
            let storage = &*self.log.storage;
            // A description that could not be made durable may be the one on disk all the same, and names a file closed that grows on.
            let meta = lock(&self.log.meta);
            if meta.base.is_some() {
                meta.store(storage)?;
            }
            drop(meta);
            let wrap = |e| StorageFailure::new(PROBE, 0, "write", e);
            let file = storage.create(PROBE).map_err(wrap)?;
            let written = file.write_all_at(&[0; 64 * 1024], 0).and_then(|()| file.sync_data());
            let written = written.and_then(|()| match file.allocate(0, self.wanted.max(1)) {
                // Not every file system can allocate; only a lack of room tells something.
                Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Err(e),
                _ => Ok(()),
            });
            let removed = storage.remove(PROBE);
            written.and(removed).map_err(wrap)?;
        }
        Ok(())
    }

    /// Notes a failure; everything behind the head is cut off, now or when the appender settles.
    fn fail(&mut self, error: AppendError) {
        let hint = error.hint().unwrap_or_default();
        tracing::error!(%error, hint, "the log can't be written; what is not durable is dropped");
        if matches!(error, AppendError::Storage(_)) {
            self.log.counters.storage_error(&self.log.observed);
        }
        self.unsynced = None;
        if let Some(tail) = &mut self.tail {
            if let Err(error) = tail.cut() {
                tracing::warn!(%error, "what is not durable could not be cut off yet");
            }
        }
        self.log.failure.send_replace(Some(error));
    }

    fn write_mark(&mut self) {
        let (Some(mark), Some(head)) = (&mut self.mark, self.log.head()) else { return };
        if let Err(error) = mark.write(head.pos) {
            tracing::warn!(%error, "the durable mark stays behind");
        }
    }

    pub(super) fn sync_mark(&mut self) {
        self.mark_synced = Instant::now();
        if let Some(Err(error)) = self.mark.as_mut().map(Mark::sync) {
            tracing::warn!(%error, "the durable mark may stay behind");
        }
    }

    fn housekeeping(&mut self) {
        if self.later.waits().is_some_and(|waited| waited >= LATEST) {
            self.do_later();
        }
        if self.mark.as_ref().is_some_and(Mark::is_dirty) && self.mark_synced.elapsed() >= MARK_EVERY {
            self.sync_mark();
        }
        if self.retention_done.elapsed() >= RETENTION_EVERY {
            self.retain();
        }
    }

    pub(super) fn retain(&mut self) {
        self.retention_done = Instant::now();
        if self.log.damaged.is_some() {
            return;
        }
        if let Err(error) = self.log.apply_retention() {
            tracing::warn!(%error, "retention failed; it is tried again in a minute");
        }
    }

    /// The clean end: nothing but whole transactions, all of it on disk.
    fn finish(&mut self) {
        self.sync_now();
        self.do_later();
        let Some(tail) = &mut self.tail else { return self.sync_mark() };
        let cut = if tail.written > tail.whole { tail.cut() } else { Ok(()) };
        if let Err(error) = cut.and_then(|()| tail.sync()) {
            tracing::warn!(%error, "the log's end was not cut clean; the next start does it");
        }
        self.sync_mark();
    }
}

/// Joins small neighbours; large ones are passed on as they are.
fn join(data: Vec<Bytes>) -> Vec<Bytes> {
    let mut out: Vec<Bytes> = Vec::with_capacity(data.len());
    let mut open = BytesMut::new();
    let mut data = data.into_iter().peekable();
    while let Some(bytes) = data.next() {
        let next = data.peek().map_or(usize::MAX, Bytes::len);
        let fits = |len: usize| open.len() + bytes.len() + len <= JOIN;
        if open.is_empty() && !fits(next.min(JOIN + 1)) {
            out.push(bytes);
            continue;
        }
        open.extend_from_slice(&bytes);
        if open.len() + next.min(JOIN + 1) > JOIN {
            out.push(open.split().freeze());
        }
    }
    out.retain(|b| !b.is_empty());
    out
}
