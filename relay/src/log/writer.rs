//! The one thread that writes: takes all that waits, writes it, syncs once, publishes once.
//!
//! Promises: the head moves only behind a successful sync, and only to where the log is whole. After a failure nothing behind the head
//! is trusted: it is cut off, and fetched again by whoever feeds the log.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use baton_wire::event::FIRST_EVENT;
use baton_wire::gtid::GtidPosition;
use bytes::{Bytes, BytesMut};
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::appender::{Batch, OpenFile};
use super::error::{AppendError, LogError, StorageFailure};
use super::index::Entry;
use super::live::Recent;
use super::mark::Mark;
use super::meta::{Meta, MetaEpoch};
use super::segment::{Segment, lock};
use super::store::Log;
use super::tail::Tail;
use super::types::{Head, LogPos, Transaction};
use super::{arrivals, crcs, index};
use crate::clock::Micros;

/// Bytes and batches written before a sync, at most.
const GROUP_BYTES: usize = 8 << 20;
const GROUP_BATCHES: usize = 16 * 1024;
/// Small batches are joined up to this size: one write, and one chunk for the readers.
const JOIN: usize = 256 * 1024;
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
}

/// Everything whole is durable, and nothing else is there.
pub(super) struct Settled {
    pub(super) head: Option<Arc<Head>>,
    /// Where the next byte belongs; `None` before the first file.
    pub(super) end: Option<LogPos>,
}

/// The thread's state.
pub(super) struct Writer {
    log: Arc<Log>,
    mark: Option<Mark>,
    mark_synced: Instant,
    retention_done: Instant,
    tail: Option<Tail>,
    gtid: GtidPosition,
    /// A job taken while a group was gathered.
    stash: Option<Job>,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, mark: Option<Mark>, tail: Option<Tail>) -> Self {
        let gtid = log.head().map_or_else(|| log.empty_gtid(), |head| head.gtid.clone());
        let now = Instant::now();
        Self { log, mark, mark_synced: now, retention_done: now, tail, gtid, stash: None }
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
                None => match jobs.recv_timeout(TICK) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.housekeeping();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            };
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
            }
            self.housekeeping();
        }
        self.finish();
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
        let whole = batches.iter().filter_map(|b| b.whole).max().unwrap_or(0).max(tail.whole);
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
        let advances = whole > tail.whole;
        if advances || tail.unsynced >= SYNC_EVERY {
            tail.sync()?;
        }
        if advances {
            self.publish(whole, transactions, received);
        }
        Ok(())
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
            if tail.head.is_done() && tail.head.end() <= whole {
                if let Some(start) = tail.head.start.take() {
                    self.gtid = start;
                    reset = true;
                }
                tail.segment.set_start(self.gtid.clone());
                tail.start_known = true;
            }
        }
        let mut noted = Vec::new();
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
                if tail.note_end(ends) {
                    let (gtid, tally) = (self.gtid.clone(), tail.tally.clone());
                    tail.push_entry(Entry { offset: ends, gtid, tally, arrived });
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
        if noted.is_empty() {
            arrivals::note(&mut noted, from, whole, received);
        }
        tail.note_arrivals(&noted);
        self.write_mark();
        if reset {
            self.note_epoch_gtid(number);
        }
    }

    /// The first file of an epoch tells the position at which the epoch began.
    fn note_epoch_gtid(&self, number: u64) {
        let GtidPosition::MariaDb(list) = &self.gtid_at_start(number) else { return };
        let mut meta = lock(&self.log.meta);
        let mut changed = meta.clone();
        let Some(epoch) = changed.epochs.last_mut() else { return };
        if epoch.begin.0 != number || epoch.gtid.is_some() {
            return;
        }
        epoch.gtid = Some(list.to_string());
        match changed.store(&*self.log.storage) {
            Ok(()) => *meta = changed,
            Err(error) => tracing::warn!(%error, "the position at which the epoch began is not recorded"),
        }
    }

    fn gtid_at_start(&self, number: u64) -> GtidPosition {
        self.log.segment(number).map_or_else(|| self.log.empty_gtid(), |s| s.start())
    }

    /// Begins the next file.
    fn open(&mut self, spec: &OpenFile) -> Result<LogPos, AppendError> {
        let log = Arc::clone(&self.log);
        if let Some(error) = log.failure.borrow().clone() {
            return Err(error);
        }
        let start = LogPos { file: spec.number, offset: FIRST_EVENT };
        let last = log.segments.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        let again = self.tail.as_ref().is_some_and(|t| t.segment.number == spec.number && t.written == FIRST_EVENT);
        let last = last.unwrap_or_else(|| lock(&log.meta).purged_through);
        if !again && spec.number <= last {
            return Err(AppendError::Invalid {
                detail: format!("file number {} can't follow number {last}: numbers only grow", spec.number),
            });
        }
        let mut meta = lock(&log.meta).clone();
        identify(&mut meta, spec)?;
        if again {
            return Ok(start);
        }
        if let Some(tail) = &mut self.tail {
            if tail.written > tail.whole {
                tracing::warn!(
                    file = tail.segment.name,
                    offset = tail.whole,
                    bytes = tail.written - tail.whole,
                    "the file ends inside a transaction, which is left out"
                );
                tail.cut()?;
                tail.sync()?;
            }
            if tail.whole > FIRST_EVENT {
                meta.closed.push((tail.segment.number, tail.whole));
            }
        }
        meta.store(&*log.storage).map_err(storage_failure)?;
        *lock(&log.meta) = meta.clone();
        self.close_tail();
        self.sync_mark();
        let name = meta.file_name(spec.number).unwrap_or_default();
        let base = lock(&log.live).tally.clone();
        let segment = Arc::new(Segment::new(spec.number, name, FIRST_EVENT, self.gtid_or_empty(spec), base));
        segment.set_last_arrival(Micros::now());
        self.tail = Some(Tail::create(&*log.storage, Arc::clone(&segment))?);
        log.segments.write().unwrap_or_else(PoisonError::into_inner).insert(spec.number, segment);
        tracing::info!(file = meta.file_name(spec.number), "began a file");
        self.retain();
        Ok(start)
    }

    /// The position carried into the next file; the first file decides the family.
    fn gtid_or_empty(&mut self, spec: &OpenFile) -> GtidPosition {
        if self.gtid.flavor() != spec.flavor {
            self.gtid = GtidPosition::empty(spec.flavor);
        }
        self.gtid.clone()
    }

    fn close_tail(&mut self) {
        let Some(tail) = self.tail.take() else { return };
        if tail.whole > FIRST_EVENT {
            let (offset, gtid, tally) = (tail.whole, self.gtid.clone(), tail.tally.clone());
            let arrived = tail.segment.last_arrival();
            tail.close(Entry { offset, gtid, tally, arrived });
            return;
        }
        // Nothing was ever in it.
        let (log, name) = (&self.log, tail.segment.name.clone());
        log.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&tail.segment.number);
        for name in [index::name(&name), arrivals::name(&name), crcs::name(&name), name] {
            let _ = log.storage.remove(&name);
        }
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
                log.counters.storage_errors.fetch_add(1, Ordering::Relaxed);
                let error = AppendError::from(failure);
                log.failure.send_replace(Some(error.clone()));
                return Err(error);
            }
        }
        Ok(Settled { head: log.head(), end: self.end() })
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
            let wrap = |e| StorageFailure::new(PROBE, 0, "write", e);
            let file = storage.create(PROBE).map_err(wrap)?;
            let written = file.write_all_at(&[0; 64 * 1024], 0).and_then(|()| file.sync_data());
            let removed = storage.remove(PROBE);
            written.and(removed).map_err(wrap)?;
        }
        Ok(())
    }

    /// Notes a failure; everything behind the head is cut off, now or when the appender settles.
    fn fail(&mut self, error: AppendError) {
        let hint = error.hint().unwrap_or_default();
        tracing::error!(%error, hint, "the log can't be written; what is not durable is dropped");
        self.log.counters.storage_errors.fetch_add(1, Ordering::Relaxed);
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

    fn sync_mark(&mut self) {
        self.mark_synced = Instant::now();
        if let Some(Err(error)) = self.mark.as_mut().map(Mark::sync) {
            tracing::warn!(%error, "the durable mark may stay behind");
        }
    }

    fn housekeeping(&mut self) {
        if self.mark.as_ref().is_some_and(Mark::is_dirty) && self.mark_synced.elapsed() >= MARK_EVERY {
            self.sync_mark();
        }
        if self.retention_done.elapsed() >= RETENTION_EVERY {
            self.retain();
        }
    }

    fn retain(&mut self) {
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
        let Some(tail) = &mut self.tail else { return self.sync_mark() };
        let cut = if tail.written > tail.whole { tail.cut() } else { Ok(()) };
        if let Err(error) = cut.and_then(|()| tail.sync()) {
            tracing::warn!(%error, "the log's end was not cut clean; the next start does it");
        }
        self.sync_mark();
    }
}

/// Checks who feeds the log against what is recorded, and records it in a new log.
fn identify(meta: &mut Meta, spec: &OpenFile) -> Result<(), AppendError> {
    let differs = |what, ours: String, theirs: String| AppendError::Identity { what, ours, theirs };
    if spec.base.is_empty() || spec.base.contains(['/', '\0']) {
        return Err(AppendError::Invalid { detail: format!("{:?} is not a base name of files", spec.base) });
    }
    match (&meta.base, meta.flavor()) {
        (Some(base), _) if *base != spec.base => return Err(differs("base name", base.clone(), spec.base.clone())),
        (_, Some(flavor)) if flavor != spec.flavor => {
            return Err(differs("family", flavor.name().into(), spec.flavor.name().into()));
        }
        _ => {}
    }
    match meta.epochs.last() {
        Some(epoch) if epoch.server_id != spec.upstream_server_id => {
            Err(differs("server_id", epoch.server_id.to_string(), spec.upstream_server_id.to_string()))
        }
        Some(_) => Ok(()),
        None => {
            meta.base = Some(spec.base.clone());
            meta.set_flavor(spec.flavor);
            meta.upstream_server_id = Some(spec.upstream_server_id);
            meta.epochs.push(MetaEpoch {
                epoch: 1,
                server_id: spec.upstream_server_id,
                first_file: spec.number,
                shift: 0,
                begin: (spec.number, FIRST_EVENT),
                gtid: None,
            });
            Ok(())
        }
    }
}

fn storage_failure(error: LogError) -> AppendError {
    match error {
        LogError::Storage(failure) => failure.into(),
        other => AppendError::Invalid { detail: other.to_string() },
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
