//! Reading what is visible: from shared memory near the head, from the page cache without a thread, else from the disk on a
//! blocking thread.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::error::{ReadError, StorageFailure};
use super::segment::{Segment, lock};
use super::storage::{StorageFile, read_full};
use super::store::Log;
use super::types::LogPos;

/// What a read gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes from the reader's position on, shared with other readers.
    Shared(Bytes),
    /// That many bytes from the reader's position on are in the buffer.
    Buffered(usize),
    /// Everything visible has been read.
    AtEnd,
    /// This file is closed and fully read; the log goes on at offset 4 of the file of that number.
    NextFile(u64),
}

/// A place in the log that a reader moves along. Its file, and so all later ones, is kept from retention while it lives.
#[derive(Debug)]
pub struct LogReader {
    log: Arc<Log>,
    pos: LogPos,
    pin: Option<Pin>,
    file: Option<OpenFile>,
}

struct OpenFile(Arc<dyn StorageFile>);

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenFile")
    }
}

/// Holds a file against retention.
struct Pin(Arc<Segment>);

impl Pin {
    fn new(log: &Log, number: u64) -> Option<Self> {
        // Under the lock that retention takes to remove: a file is either pinned or gone.
        let segments = log.segments.read().unwrap_or_else(PoisonError::into_inner);
        let segment = segments.get(&number)?;
        segment.pins.fetch_add(1, Ordering::AcqRel);
        Some(Self(Arc::clone(segment)))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pin").field(&self.0.name).finish()
    }
}

impl Log {
    /// A reader that begins at `at`, which is not checked to be the beginning of an event.
    ///
    /// Errors: the file is not there, or `at` lies beyond what is visible of it.
    pub fn reader(self: &Arc<Self>, at: LogPos) -> Result<LogReader, ReadError> {
        let pin = Pin::new(self, at.file).ok_or(ReadError::Gone { number: at.file })?;
        let end = pin.0.size();
        if at.offset > end {
            return Err(ReadError::Beyond { pos: at, end });
        }
        Ok(LogReader { log: Arc::clone(self), pos: at, pin: Some(pin), file: None })
    }
}

impl LogReader {
    /// Where the next byte comes from.
    pub fn position(&self) -> LogPos {
        self.pos
    }

    /// Offset up to which bytes of the present file are visible.
    pub fn visible(&self) -> u64 {
        // First the head, then the size: a file that the head has left has its final size.
        let (Some(head), Some(pin)) = (self.log.head(), &self.pin) else { return 0 };
        let size = pin.0.size();
        if head.pos.file == self.pos.file { size.min(head.pos.offset) } else { size }
    }

    /// Goes `n` bytes further in the same file: what of a chunk was used.
    pub fn advance(&mut self, n: u64) {
        self.pos.offset = self.pos.offset.saturating_add(n);
    }

    /// Goes elsewhere. That the place does not exist is told by the next read.
    pub fn go_to(&mut self, pos: LogPos) {
        if self.pin.as_ref().is_none_or(|pin| pin.0.number != pos.file) {
            self.pin = Pin::new(&self.log, pos.file);
            self.file = None;
        }
        self.pos = pos;
    }

    /// Up to `max` bytes (at least 1) from the position on, within its file and within what is visible; the position stays. Chunks need not
    /// end between events. `buf` is overwritten unless the answer is [`Chunk::Shared`]; if the future is dropped, its content is lost.
    ///
    /// Errors: the file is gone or was cut off by `retain_hard_bytes`, the position lies beyond its end, or the disk fails.
    pub async fn read(&mut self, max: usize, buf: &mut Vec<u8>) -> Result<Chunk, ReadError> {
        self.read_at_least(1, max, buf).await
    }

    /// As [`read`](Self::read), but with `least` bytes or more (at most `max`), unless fewer are visible of the file: for what lies across two
    /// chunks.
    pub async fn read_at_least(&mut self, least: usize, max: usize, buf: &mut Vec<u8>) -> Result<Chunk, ReadError> {
        let number = self.pos.file;
        let segment = match &self.pin {
            Some(pin) if pin.0.cut.load(Ordering::Acquire) => return Err(ReadError::Cut { number }),
            Some(pin) => Arc::clone(&pin.0),
            None => return Err(ReadError::Gone { number }),
        };
        // First the head, then the size: a file that the head has left has its final size.
        let Some(head) = self.log.head() else { return Ok(Chunk::AtEnd) };
        let end = segment.size();
        if self.pos.offset > end {
            return Err(ReadError::Beyond { pos: self.pos, end });
        }
        if self.pos.offset == end {
            return Ok(if head.pos.file > number { self.next_file(head.pos) } else { Chunk::AtEnd });
        }
        let end = if head.pos.file == number { end.min(head.pos.offset) } else { end };
        if self.pos.offset >= end {
            return Ok(Chunk::AtEnd);
        }
        let max = max.max(1);
        let want = usize::try_from(end - self.pos.offset).unwrap_or(max).min(max);
        let least = least.min(want);
        let shared = lock(&self.log.ring).get(self.pos, end, max);
        if let Some(bytes) = shared.filter(|bytes| bytes.len() >= least) {
            return Ok(Chunk::Shared(bytes));
        }
        self.read_file(&segment, least, want, buf).await.map(Chunk::Buffered)
    }

    fn next_file(&self, head: LogPos) -> Chunk {
        let segments = self.log.segments.read().unwrap_or_else(PoisonError::into_inner);
        match segments.range(self.pos.file + 1..=head.file).next() {
            Some((number, _)) => Chunk::NextFile(*number),
            None => Chunk::AtEnd,
        }
    }

    async fn read_file(
        &mut self,
        segment: &Arc<Segment>,
        least: usize,
        want: usize,
        buf: &mut Vec<u8>,
    ) -> Result<usize, ReadError> {
        let at = self.pos.offset;
        let file = match &self.file {
            Some(OpenFile(file)) => Arc::clone(file),
            None => {
                let file = segment.open(&*self.log.storage)?;
                self.file = Some(OpenFile(Arc::clone(&file)));
                file
            }
        };
        let failed = |e| StorageFailure::new(&segment.name, at, "read", e);
        buf.resize(want, 0);
        // The page cache may have the first bytes only: a read must not end there.
        let cached = file.read_cached_at(buf, at).map_err(failed)?.filter(|n| *n == want);
        let n = match cached {
            Some(n) => n,
            None => {
                let mut owned = std::mem::take(buf);
                let read = tokio::task::spawn_blocking(move || {
                    let n = read_full(&*file, &mut owned, at);
                    (owned, n)
                });
                let (owned, n) = read.await.map_err(|e| failed(std::io::Error::other(e)))?;
                *buf = owned;
                n.map_err(failed)?
            }
        };
        buf.truncate(n);
        if n < least.max(1) {
            let cause = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file is shorter than it was");
            return Err(failed(cause).into());
        }
        Ok(n)
    }
}
