//! The newest visible bytes, shared: replicas at the head are fed from here without a read and without a copy.

use std::collections::VecDeque;

use bytes::Bytes;

use super::types::LogPos;

/// Chunks of the log in ascending order, a bounded number of bytes. A transaction that does not fit is simply not in it.
#[derive(Debug)]
pub(super) struct Ring {
    chunks: VecDeque<(LogPos, Bytes)>,
    bytes: usize,
    limit: usize,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self { chunks: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds visible bytes behind all others.
    pub(super) fn push(&mut self, pos: LogPos, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.bytes += data.len();
        self.chunks.push_back((pos, data));
        while self.bytes > self.limit {
            let Some((_, old)) = self.chunks.pop_front() else { break };
            self.bytes -= old.len();
        }
    }

    /// At most `max` bytes from `pos` on, none at or beyond `end` of that file; `None` if `pos` is not here.
    pub(super) fn get(&self, pos: LogPos, end: u64, max: usize) -> Option<Bytes> {
        let n = self.chunks.partition_point(|(at, _)| *at <= pos);
        let (at, data) = self.chunks.get(n.checked_sub(1)?)?;
        if at.file != pos.file {
            return None;
        }
        let skip = usize::try_from(pos.offset.checked_sub(at.offset)?).ok().filter(|skip| *skip < data.len())?;
        let visible = usize::try_from(end.saturating_sub(pos.offset)).unwrap_or(usize::MAX);
        let len = (data.len() - skip).min(max).min(visible);
        (len > 0).then(|| data.slice(skip..skip + len))
    }
}
