//! The relay's own checksums, `<file>.crc`, for files with `binlog_checksum=NONE`: one for each run of bytes that was written at
//! once, cut where the log was whole. Synced before the group that they cover counts as durable.

use std::sync::Arc;

use super::error::StorageFailure;
use super::storage::{self, Storage, StorageFile, read_full, read_whole};

const RECORD: usize = 24;

/// The checksum of some bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) crc: u32,
}

impl Run {
    pub(super) fn of(offset: u64, bytes: &[u8]) -> Self {
        Self { offset, len: bytes.len() as u64, crc: crc32fast::hash(bytes) }
    }

    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Name of a file's checksums.
pub(super) fn name(file: &str) -> String {
    format!("{file}.crc")
}

/// Appends checksums.
pub(super) struct CrcWriter {
    file: Arc<dyn StorageFile>,
    name: String,
    runs: u64,
    /// Ends of the runs since the last durable point, to cut back to it.
    recent: Vec<u64>,
}

impl CrcWriter {
    /// Begins the checksums of a file in which nothing is durable. The name is made durable.
    pub(super) fn create(storage: &dyn Storage, file_name: &str) -> Result<Self, StorageFailure> {
        let name = name(file_name);
        let wrap = |e| StorageFailure::new(&name, 0, "create", e);
        let file = storage.create(&name).map_err(wrap)?;
        storage.sync_dir().map_err(wrap)?;
        Ok(Self { file, name, runs: 0, recent: Vec::new() })
    }

    /// Goes on with the checksums of a recovered file; at no moment are those missing that are `kept`.
    pub(super) fn resume(storage: &dyn Storage, file_name: &str, kept: &Kept) -> Result<Self, StorageFailure> {
        let mut writer = match storage.open(&name(file_name)) {
            Ok(file) => Self { file, name: name(file_name), runs: kept.runs, recent: Vec::new() },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::create(storage, file_name)?,
            Err(e) => return Err(StorageFailure::new(&name(file_name), 0, "open", e)),
        };
        let at = writer.runs * RECORD as u64;
        let truncated = writer.file.size().and_then(|size| if size > at { writer.file.set_len(at) } else { Ok(()) });
        truncated.map_err(|e| StorageFailure::new(&writer.name, at, "truncate", e))?;
        if let Some(run) = kept.add {
            writer.push(run)?;
        }
        writer.sync()?;
        writer.recent.clear();
        Ok(writer)
    }

    pub(super) fn push(&mut self, run: Run) -> Result<(), StorageFailure> {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&run.offset.to_le_bytes());
        record[8..16].copy_from_slice(&run.len.to_le_bytes());
        record[16..20].copy_from_slice(&run.crc.to_le_bytes());
        let crc = crc32fast::hash(&record[..20]);
        record[20..].copy_from_slice(&crc.to_le_bytes());
        let at = self.runs * RECORD as u64;
        self.file.write_all_at(&record, at).map_err(|e| StorageFailure::new(&self.name, at, "write", e))?;
        self.runs += 1;
        self.recent.push(run.end());
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), StorageFailure> {
        self.file.sync_data().map_err(|e| StorageFailure::new(&self.name, self.runs * RECORD as u64, "sync", e))
    }

    /// Everything up to `whole` is durable: it will not be cut again.
    pub(super) fn settled(&mut self, whole: u64) {
        self.recent.retain(|end| *end > whole);
    }

    /// Forgets the runs behind `whole`.
    pub(super) fn cut(&mut self, whole: u64) -> Result<(), StorageFailure> {
        let beyond = self.recent.iter().filter(|end| **end > whole).count() as u64;
        self.recent.clear();
        self.runs -= beyond.min(self.runs);
        let at = self.runs * RECORD as u64;
        self.file.set_len(at).map_err(|e| StorageFailure::new(&self.name, at, "truncate", e))
    }
}

/// What recovery makes of a file's checksums.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    /// So many records from the beginning on stay.
    pub(super) runs: u64,
    /// What they lack.
    pub(super) add: Option<Run>,
}

/// Writes all checksums of a file again: see [`storage::rewrite`].
pub(super) fn rewrite(storage: &dyn Storage, file_name: &str) -> Result<(), StorageFailure> {
    let name = name(file_name);
    match storage.open(&name) {
        Ok(file) => {
            let size = file.size().map_err(|e| StorageFailure::new(&name, 0, "read the size", e))?;
            let (at, result) = storage::rewrite(&*file, 0..size);
            result.map_err(|e| StorageFailure::new(&name, at, "rewrite", e.into()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StorageFailure::new(&name, 0, "open", e)),
    }
}

/// What a file's own checksums say about it.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// The sound runs, in order.
    pub(super) runs: Vec<Run>,
    /// Up to here every byte is covered and sound.
    pub(super) end: u64,
    /// Whether bytes differ from their checksum there (and not just lack one).
    pub(super) mismatch: bool,
}

/// Compares the first `len` bytes of a file with its checksums.
pub(super) fn verify(
    storage: &dyn Storage,
    file: &dyn StorageFile,
    file_name: &str,
    len: u64,
) -> Result<Verified, StorageFailure> {
    let mut out = Verified { end: baton_wire::event::FIRST_EVENT, ..Verified::default() };
    let name = name(file_name);
    let records = match storage.open(&name).and_then(|f| read_whole(&*f)) {
        Ok(records) => records,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        Err(e) => return Err(StorageFailure::new(&name, 0, "read", e)),
    };
    let mut buf = vec![0; 256 * 1024];
    for record in records.chunks_exact(RECORD) {
        let Some(run) = parse(record).filter(|run| run.offset == out.end && run.end() <= len) else { break };
        let mut hasher = crc32fast::Hasher::new();
        let mut at = run.offset;
        while at < run.end() {
            let want = usize::try_from(run.end() - at).unwrap_or(buf.len()).min(buf.len());
            let n = read_full(file, &mut buf[..want], at).map_err(|e| StorageFailure::new(file_name, at, "read", e))?;
            hasher.update(&buf[..n]);
            if n < want {
                break;
            }
            at += n as u64;
        }
        if hasher.finalize() != run.crc {
            out.mismatch = true;
            break;
        }
        out.end = run.end();
        out.runs.push(run);
    }
    Ok(out)
}

fn parse(record: &[u8]) -> Option<Run> {
    let u64_at = |at: usize| record.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let u32_at = |at: usize| record.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b));
    if u32_at(20)? != crc32fast::hash(record.get(..20)?) {
        return None;
    }
    Some(Run { offset: u64_at(0)?, len: u64_at(8)?, crc: u32_at(16)? })
}
