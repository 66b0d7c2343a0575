//! The durable mark: how far the log is known to be on disk.
//!
//! A file of two sectors, allocated once, so that a full disk can't keep the mark from moving. A mark is written only after the data
//! before it was synced, so whatever survives a crash is true. The slot that was synced last is never overwritten before the other
//! one is synced: one valid slot always exists. Both unreadable means that the disk lost data. A record whose sync failed, or which was found
//! at the start, is written again before a sync counts for it: a sync says nothing of what an earlier, failed one has dropped.

use std::sync::Arc;

use super::error::LogError;
use super::storage::{Storage, StorageFile, read_full};
use super::types::LogPos;

const NAME: &str = "mark";
const MAGIC: [u8; 8] = *b"BATONMK1";
/// Distance of the slots: more than any sector.
const SLOT: u64 = 4096;
const RECORD: usize = 36;

/// The open mark.
pub(super) struct Mark {
    file: Arc<dyn StorageFile>,
    serial: u64,
    /// The slot that is known to be on disk.
    synced: u64,
    /// The position in the other slot, if one was written since.
    dirty: Option<LogPos>,
    /// Whether the last sync failed.
    failed: bool,
}

impl Mark {
    /// Makes the mark of a new log, at no position.
    pub(super) fn create(storage: &dyn Storage) -> Result<Self, LogError> {
        let wrap = |e| LogError::storage(NAME, 0, "create the mark", e);
        let file = storage.create(NAME).map_err(wrap)?;
        let mut content = vec![0; 2 * SLOT as usize];
        content[..RECORD].copy_from_slice(&encode(1, LogPos::default()));
        file.write_all_at(&content, 0).map_err(wrap)?;
        file.sync_data().map_err(wrap)?;
        storage.sync_dir().map_err(wrap)?;
        Ok(Self { file, serial: 1, synced: 0, dirty: None, failed: false })
    }

    /// Opens it and tells the newest position. `Ok(None)` if it is missing or neither slot can be read.
    pub(super) fn open(storage: &dyn Storage) -> Result<Option<(Self, LogPos)>, LogError> {
        let wrap = |e| LogError::storage(NAME, 0, "read the mark", e);
        let file = match storage.open(NAME) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(wrap(e)),
        };
        let mut newest: Option<(u64, u64, LogPos)> = None;
        for slot in 0..2 {
            let mut record = [0; RECORD];
            let n = read_full(&*file, &mut record, slot * SLOT).map_err(wrap)?;
            if let Some((serial, pos)) = (n == RECORD).then(|| decode(&record)).flatten() {
                if newest.is_none_or(|(s, ..)| s < serial) {
                    newest = Some((serial, slot, pos));
                }
            }
        }
        let Some((serial, slot, pos)) = newest else { return Ok(None) };
        // What was read may be only in the page cache, and clean there after a failed sync.
        let wrap = |e| LogError::storage(NAME, slot * SLOT, "write the mark", e);
        file.write_all_at(&encode(serial, pos), slot * SLOT).map_err(wrap)?;
        file.sync_data().map_err(wrap)?;
        Ok(Some((Self { file, serial, synced: slot, dirty: None, failed: false }, pos)))
    }

    /// Notes that everything up to `pos` is durable. Not synced by itself.
    pub(super) fn write(&mut self, pos: LogPos) -> Result<(), LogError> {
        let slot = 1 - self.synced;
        let wrap = |e| LogError::storage(NAME, slot * SLOT, "write the mark", e);
        if let Err(e) = self.file.write_all_at(&encode(self.serial + 1, pos), slot * SLOT) {
            // What the slot holds now is not known.
            self.failed = true;
            return Err(wrap(e));
        }
        self.serial += 1;
        self.dirty = Some(pos);
        self.failed = false;
        Ok(())
    }

    /// Whether something was written since the last sync.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }

    /// Makes the last written position durable.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        let Some(pos) = self.dirty else { return Ok(()) };
        if self.failed {
            self.write(pos)?;
        }
        if let Err(e) = self.file.sync_data() {
            self.failed = true;
            return Err(LogError::storage(NAME, 0, "sync the mark", e));
        }
        self.synced = 1 - self.synced;
        self.dirty = None;
        Ok(())
    }
}

fn encode(serial: u64, pos: LogPos) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&serial.to_le_bytes());
    out[16..24].copy_from_slice(&pos.file.to_le_bytes());
    out[24..32].copy_from_slice(&pos.offset.to_le_bytes());
    let crc = crc32fast::hash(&out[..32]);
    out[32..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(record: &[u8; RECORD]) -> Option<(u64, LogPos)> {
    let u64_at = |at: usize| record[at..].first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let crc = record[32..].first_chunk::<4>().map(|b| u32::from_le_bytes(*b))?;
    if record[..8] != MAGIC || crc != crc32fast::hash(&record[..32]) {
        return None;
    }
    Some((u64_at(8)?, LogPos { file: u64_at(16)?, offset: u64_at(24)? }))
}
