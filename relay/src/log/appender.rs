//! The one handle through which the log grows: checks that what is offered continues the log, and bounds what waits.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use baton_wire::Flavor;
use baton_wire::event::FIRST_EVENT;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use super::error::{AppendError, LogError};
use super::store::Log;
use super::types::{Head, LogPos, Transaction};
use super::writer::{Job, Writer};
use crate::clock::Micros;

/// What a batch counts at least towards the queue's bound, in bytes: it takes memory also when it is nearly empty.
const MIN_WEIGHT: usize = 256;

/// The next file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// Its number in the log: the upstream's plus the epoch's shift. Greater than all before; not necessarily the next.
    pub number: u64,
    /// The log's base name. The first file decides it for ever.
    pub base: String,
    /// `server_id` of the primary that wrote it; the same within an epoch.
    pub upstream_server_id: u32,
    /// The upstream's family; the same for ever.
    pub flavor: Flavor,
    /// The epoch that the file belongs to: one that is new to the log begins with this file. `None` where nobody counts epochs: then a log has
    /// one, number 1, in which files have the upstream's numbers.
    pub epoch: Option<FileEpoch>,
}

/// How the files of an epoch are named at its primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEpoch {
    /// Its number; never lower than that of the file before.
    pub epoch: u64,
    /// A file's number in the log minus the one that the primary gave it.
    pub shift: i64,
    /// Base name of the primary's files, which need not be the log's.
    pub base: String,
}

/// Bytes that continue the log. Checksums have been verified and transactions told apart by whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of the file in the log.
    pub file: u64,
    /// Where in it the bytes belong: at the end of what was appended before.
    pub offset: u64,
    /// The file's bytes; they may begin and end inside of events and transactions. An unpublished or recent batch keeps the memory
    /// behind it alive, so it should not be a small part of a large buffer.
    pub data: Bytes,
    /// The last offset in `offset + 1 ..= offset + data.len()` that lies between two events and outside of any transaction.
    pub whole: Option<u64>,
    /// Transactions that end in this batch, in order; all of them end at or before `whole`.
    pub transactions: Vec<Transaction>,
    /// When the last byte arrived.
    pub received_at: Micros,
}

/// The log's growing end. There is one; dropping it ends the writer as [`Appender::close`] does.
pub struct Appender {
    log: Arc<Log>,
    jobs: Option<mpsc::Sender<Job>>,
    room: Arc<Semaphore>,
    capacity: usize,
    thread: Option<JoinHandle<()>>,
    end: Option<LogPos>,
}

/// Starts the writer's thread.
pub(super) fn start(log: Arc<Log>, writer: Writer) -> Result<Appender, LogError> {
    let (sender, receiver) = mpsc::channel();
    let end = writer.end();
    let thread = std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || writer.run(&receiver))
        .map_err(|e| LogError::storage(&log.storage.describe(), 0, "start the writer's thread", e))?;
    let capacity = log.config.queue_bytes.clamp(MIN_WEIGHT, u32::MAX as usize >> 4);
    let room = Arc::new(Semaphore::new(capacity));
    Ok(Appender { log, jobs: Some(sender), room, capacity, thread: Some(thread), end })
}

impl Appender {
    /// The log that it feeds.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Where the next byte belongs; `None` before the first file.
    pub fn end(&self) -> Option<LogPos> {
        self.end
    }

    /// Begins the next file (its first four bytes are written by this), once everything before is durable. What an unfinished transaction
    /// has left at the end of the file before is dropped. Beginning the last file again while nothing is in it changes nothing.
    ///
    /// Errors: the number does not grow, the upstream is not the recorded one, or the disk fails (then [`Appender::settle`]).
    pub async fn open_file(&mut self, spec: OpenFile) -> Result<(), AppendError> {
        self.check()?;
        let (done, answer) = oneshot::channel();
        self.send(Job::Open(spec, done))?;
        self.end = Some(answer.await.map_err(|_| AppendError::Closed)??);
        Ok(())
    }

    /// Queues bytes; waits while [`LogConfig::queue_bytes`](super::LogConfig::queue_bytes) are queued already. That they are durable is told
    /// by the head.
    ///
    /// Errors: the batch does not continue the log; or the disk has failed since the last [`Appender::settle`]: then what was
    /// appended and is not covered by the head is gone, and everything fails until that is called. If the future is dropped, nothing was queued.
    pub async fn append(&mut self, batch: Batch) -> Result<(), AppendError> {
        self.check()?;
        let end = self.continues(&batch)?;
        let weight = batch.data.len().clamp(MIN_WEIGHT, self.capacity);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).acquire_many_owned(weight).await.map_err(|_| AppendError::Closed)?;
        self.check()?;
        self.send(Job::Batch(batch, permit))?;
        self.end = Some(end);
        Ok(())
    }

    /// Drops what an unfinished transaction has left at the end, waits until everything whole is durable, and tells the head: where a new
    /// connection to the upstream goes on. After a failure of the disk this tries again to write; while it fails, so does this.
    pub async fn settle(&mut self) -> Result<Option<Head>, AppendError> {
        let (done, answer) = oneshot::channel();
        self.send(Job::Settle(done))?;
        let settled = answer.await.map_err(|_| AppendError::Closed)??;
        self.end = settled.end;
        Ok(settled.head.map(|head| (*head).clone()))
    }

    /// Drops what an unfinished transaction has left at the end, so that a stream can go on without it. Everything whole that was appended
    /// before is durable then. Cheap: where nothing is to be dropped, nothing is written.
    ///
    /// Errors: the disk has failed since the last [`Appender::settle`]. Other than by that one, a failure is not settled by this: the
    /// stream must not go on behind transactions that are gone.
    pub async fn drop_partial(&mut self) -> Result<(), AppendError> {
        let (done, answer) = oneshot::channel();
        self.send(Job::DropPartial(done))?;
        self.end = answer.await.map_err(|_| AppendError::Closed)??;
        Ok(())
    }

    /// Writes and syncs everything whole that was appended, and ends the writer.
    pub async fn close(mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let ended = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
            if !matches!(ended, Ok(true)) {
                tracing::error!("the log's writer ended by a panic");
            }
        }
    }

    fn send(&self, job: Job) -> Result<(), AppendError> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(AppendError::Closed)
    }

    /// The failure that has not been settled yet: what was appended before it may be gone, so whoever waits for more to append has to look here.
    pub fn check(&self) -> Result<(), AppendError> {
        self.log.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Where the log will end with `batch`.
    fn continues(&self, batch: &Batch) -> Result<LogPos, AppendError> {
        let got = LogPos { file: batch.file, offset: batch.offset };
        let expected = self.end.unwrap_or_default();
        if got != expected || got.offset < FIRST_EVENT {
            return Err(AppendError::OutOfPlace { expected, got });
        }
        let end = batch.offset.saturating_add(batch.data.len() as u64);
        let invalid = |detail: String| Err(AppendError::Invalid { detail: format!("batch at {got}: {detail}") });
        if let Some(whole) = batch.whole.filter(|w| *w <= batch.offset || *w > end) {
            return invalid(format!("it can't be whole at {whole}, it ends at {end}"));
        }
        let limit = batch.whole.unwrap_or(0);
        let mut last = batch.offset;
        for transaction in &batch.transactions {
            let Transaction { id, begins, ends, .. } = transaction;
            if *begins >= *ends || *ends <= last || *ends > limit {
                return invalid(format!("transaction {id} at {begins} to {ends} is not one of it"));
            }
            last = *ends;
        }
        Ok(LogPos { file: batch.file, offset: end })
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // An error means that it panicked, which the panic itself has reported.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("end", &self.end).finish_non_exhaustive()
    }
}
