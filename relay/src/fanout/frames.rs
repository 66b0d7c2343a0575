//! What the streams share on their way out: chunks of the log that are framed already, and the pace of deliveries.
//!
//! Owns the chunks, [`CHUNKS`] at most, and only while two or more clients are behind. Clients at the same place whose packets have the same numbers are sent
//! the same memory: one of them frames it while the others wait. Chunks end at places that depend on the log alone, so that clients which began anywhere meet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::log::LogPos;

/// Distance of the places where chunks end, in bytes of a file; a chunk is half as long as that to half again as long.
const CHUNK: u64 = 512 * 1024;
/// Chunks kept: more than the buffers of a connection hold, so that a client which was not scheduled for a while still finds its next one.
const CHUNKS: usize = 64;
/// Buffers kept to be used again.
const SPARE: usize = 8;
/// Deliveries to all clients together, in a second, above which those to one client are gathered.
const DELIVERIES: u32 = 50_000;
/// Longest time for which they are.
const LONGEST_PACE: Duration = Duration::from_millis(20);
/// Timers are no finer than this.
const SHORTEST_PACE: Duration = Duration::from_millis(1);

/// A piece of the log as packets.
#[derive(Debug)]
pub(super) struct Framed {
    /// The packets.
    pub(super) packets: Vec<u8>,
    /// Bytes of log that they carry.
    pub(super) log_bytes: u64,
    /// Events in them.
    pub(super) events: u64,
    /// Number of the packet behind them.
    pub(super) next: u8,
}

/// Where a piece begins, and the number of its first packet.
type Key = (LogPos, u8);

/// A piece, once somebody has framed it.
pub(super) type Cell = OnceCell<Framed>;

#[derive(Debug, Default)]
struct Cache {
    chunks: VecDeque<(Key, Arc<Cell>)>,
    spare: Vec<Vec<u8>>,
}

/// Shared by all streams.
#[derive(Debug, Default)]
pub(super) struct Frames {
    cache: Mutex<Cache>,
    /// Clients that are behind.
    behind: AtomicUsize,
    /// Clients that are streamed to.
    streams: AtomicUsize,
}

/// Counts a client for as long as it lives.
pub(super) struct Counted {
    frames: Arc<Frames>,
    which: fn(&Frames) -> &AtomicUsize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.frames).fetch_sub(1, Ordering::AcqRel);
        if self.frames.behind.load(Ordering::Acquire) == 0 {
            *self.frames.cache() = Cache::default();
        }
    }
}

impl Frames {
    /// Counts a client that is streamed to.
    pub(super) fn stream(self: &Arc<Self>) -> Counted {
        self.count(|frames| &frames.streams)
    }

    /// Counts a client that is behind.
    pub(super) fn behind(self: &Arc<Self>) -> Counted {
        self.count(|frames| &frames.behind)
    }

    fn count(self: &Arc<Self>, which: fn(&Self) -> &AtomicUsize) -> Counted {
        which(self).fetch_add(1, Ordering::AcqRel);
        Counted { frames: Arc::clone(self), which }
    }

    /// Whether there is somebody to share with.
    pub(super) fn is_shared(&self) -> bool {
        self.behind.load(Ordering::Acquire) > 1
    }

    /// How long after one delivery to a client the next one waits for more to go with it: nothing unless there are very many clients.
    pub(super) fn pace(&self) -> Duration {
        pace(self.streams.load(Ordering::Relaxed))
    }

    /// Where the chunk that begins at `offset` of a file ends, or the last whole event before that.
    pub(super) fn chunk_end(offset: u64) -> u64 {
        ((offset + CHUNK / 2) / CHUNK + 1) * CHUNK
    }

    /// The chunk at a place for a client whose next packet has the number `sequence`, if somebody has framed it or is about to.
    pub(super) fn get(&self, pos: LogPos, sequence: u8) -> Option<Arc<Cell>> {
        self.cache().get((pos, sequence))
    }

    /// The number that the first packet has in the chunks that are there for a place.
    pub(super) fn sequence_at(&self, pos: LogPos) -> Option<u8> {
        self.cache().chunks.iter().rev().find(|((at, _), _)| *at == pos).map(|((_, sequence), _)| *sequence)
    }

    /// An empty buffer to frame into.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.cache().spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK as usize * 2))
    }

    /// As [`Frames::get`]; where there is none, one that the caller is to fill.
    pub(super) fn get_or_begin(&self, pos: LogPos, sequence: u8) -> Arc<Cell> {
        let mut cache = self.cache();
        if let Some(cell) = cache.get((pos, sequence)) {
            return cell;
        }
        let cell = Arc::new(Cell::new());
        cache.chunks.push_back(((pos, sequence), Arc::clone(&cell)));
        while cache.chunks.len() > CHUNKS {
            let old = cache.chunks.pop_front().and_then(|(_, old)| Arc::try_unwrap(old).ok()?.into_inner());
            if let (Some(Framed { mut packets, .. }), true) = (old, cache.spare.len() < SPARE) {
                packets.clear();
                cache.spare.push(packets);
            }
        }
        cell
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn get(&self, wanted: Key) -> Option<Arc<Cell>> {
        self.chunks.iter().rev().find(|(key, _)| *key == wanted).map(|(_, cell)| Arc::clone(cell))
    }
}

fn pace(streams: usize) -> Duration {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    let pace = (Duration::from_secs(1) / DELIVERIES).saturating_mul(streams).min(LONGEST_PACE);
    if pace < SHORTEST_PACE { Duration::ZERO } else { pace }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> LogPos {
        LogPos { file: 1, offset }
    }

    fn framed(len: usize) -> Framed {
        Framed { packets: vec![7; len], log_bytes: len as u64, events: 1, next: 9 }
    }

    #[test]
    fn clients_that_begin_anywhere_meet_at_the_same_places() {
        for begin in [4, 1000, CHUNK / 2 - 1, CHUNK / 2, CHUNK - 1, CHUNK, CHUNK + 1] {
            let mut offset = begin;
            for _ in 0..3 {
                let end = Frames::chunk_end(offset);
                assert!(end - offset >= CHUNK / 2 && end - offset <= CHUNK * 3 / 2, "{offset} to {end}");
                // The last event does not fit: the chunk ends before.
                offset = end - 100;
                assert_eq!(Frames::chunk_end(offset), end + CHUNK);
            }
        }
    }

    #[test]
    fn only_those_with_the_same_place_and_number_share_and_memory_is_bounded() {
        let frames = Arc::new(Frames::default());
        let (one, two) = (frames.behind(), frames.behind());
        assert!(frames.is_shared());
        frames.get_or_begin(at(4), 7).set(framed(1000)).unwrap();
        assert!(frames.get_or_begin(at(4), 7).initialized());
        assert!(frames.get(at(4), 7).is_some() && frames.get(at(4), 8).is_none() && frames.get(at(5), 7).is_none());
        assert_eq!((frames.sequence_at(at(4)), frames.sequence_at(at(5))), (Some(7), None));
        for n in 1..=2 * CHUNKS as u64 {
            frames.get_or_begin(at(n * 1000), 1).set(framed(1000)).unwrap();
            assert!(frames.cache().chunks.len() <= CHUNKS && frames.cache().spare.len() <= SPARE);
        }
        assert!(frames.get(at(4), 7).is_none() && frames.get(at(2000 * CHUNKS as u64), 1).is_some());
        drop(one);
        assert!(!frames.is_shared());
        drop(two);
        assert!(frames.cache().chunks.is_empty());
    }

    #[test]
    fn deliveries_are_gathered_for_very_many_clients_only_and_for_20_ms_at_most() {
        let millis = |streams| pace(streams).as_millis();
        assert_eq!([0, 1, 10, 49].map(millis), [0; 4]);
        assert_eq!([100, 500, 1000, 5000, usize::MAX].map(millis), [2, 10, 20, 20, 20]);
    }
}
