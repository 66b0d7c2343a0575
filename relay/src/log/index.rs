//! The sparse index `<file>.idx`: at least every 64 KiB of file, at the end of a transaction, the GTID position, the number of
//! transactions so far, and the arrival time. The last two entries lie where the last transaction and where the file ends.
//!
//! Written without syncs until the file is closed, checked by CRCs, rebuilt from the file when it does not fit: it is never the truth. The last record of a
//! closed file's index lies at the file's end, and a footer points to it, so that a log of many files opens by reading little.

use std::sync::Arc;

use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mariadb::{Gtid, GtidList};
use baton_wire::gtid::mysql::{GtidSet, Source, Uuid};
use baton_wire::read::Reader;

use super::storage::{Storage, StorageFile, read_full, read_whole};
use super::tally::Tally;
use crate::clock::Micros;

/// Bytes of file between two records, at least.
pub(super) const INTERVAL: u64 = 64 * 1024;
const MAGIC: [u8; 8] = *b"BATONIX1";
const FOOTER_MAGIC: [u8; 8] = *b"BATONIXF";
const HEADER: u64 = 16;
const FOOTER: usize = 28;
const RECORD_HEADER: usize = 8;
const MAX_RECORD: usize = 64 * 1024 * 1024;

/// What holds at the end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where, in the file.
    pub(super) offset: u64,
    /// Position there.
    pub(super) gtid: GtidPosition,
    /// Transactions since the file's beginning.
    pub(super) tally: Tally,
    /// When the last of them arrived; zero if unknown.
    pub(super) arrived: Micros,
}

/// Name of a file's index.
pub(super) fn name(file: &str) -> String {
    format!("{file}.idx")
}

/// Appends to a file's index. After a failure it writes nothing more: the index, then without its footer, is rebuilt when it is needed.
pub(super) struct IndexWriter {
    file: Option<Arc<dyn StorageFile>>,
    at: u64,
    last: u64,
}

impl IndexWriter {
    /// Begins the index anew with `entries`.
    pub(super) fn create(storage: &dyn Storage, file_name: &str, number: u64, entries: &[Entry]) -> Self {
        let mut writer = Self { file: storage.create(&name(file_name)).ok(), at: 0, last: HEADER };
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&number.to_le_bytes());
        for entry in entries {
            writer.last = header.len() as u64;
            header.extend_from_slice(&record(entry));
        }
        writer.write(&header);
        writer
    }

    /// Appends an entry.
    pub(super) fn push(&mut self, entry: &Entry) {
        self.last = self.at;
        self.write(&record(entry));
    }

    /// Appends the footer of a file of `size` bytes whose last entry lies there.
    pub(super) fn close(mut self, size: u64) {
        let mut footer = FOOTER_MAGIC.to_vec();
        footer.extend_from_slice(&self.last.to_le_bytes());
        footer.extend_from_slice(&size.to_le_bytes());
        footer.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        self.write(&footer);
        // Saves reading the whole file after a crash.
        if let Some(Err(error)) = self.file.map(|file| file.sync_data()) {
            tracing::warn!(%error, "index not synced");
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &self.file else { return };
        match file.write_all_at(bytes, self.at) {
            Ok(()) => self.at += bytes.len() as u64,
            Err(error) => {
                tracing::warn!(%error, "index not written; it is rebuilt from the log when it is needed");
                self.file = None;
            }
        }
    }
}

/// Entries of an index, as far as they can be read; `None` if it is not this file's index.
pub(super) fn load(storage: &dyn Storage, file_name: &str, number: u64) -> Option<Vec<Entry>> {
    let bytes = read_whole(&*storage.open(&name(file_name)).ok()?).ok()?;
    let mut rest = bytes.get(HEADER as usize..)?;
    if bytes[..8] != MAGIC || bytes[8..16] != number.to_le_bytes() {
        return None;
    }
    let mut entries: Vec<Entry> = Vec::new();
    while let Some((entry, used)) = parse_record(rest) {
        if entries.last().is_some_and(|last| last.offset >= entry.offset) {
            break;
        }
        entries.push(entry);
        rest = &rest[used..];
    }
    Some(entries)
}

/// The last entry of a closed file of `size` bytes; `None` if the index does not fit.
pub(super) fn load_last(storage: &dyn Storage, file_name: &str, number: u64, size: u64) -> Option<Entry> {
    let file = storage.open(&name(file_name)).ok()?;
    let mut header = [0; HEADER as usize];
    let mut footer = [0; FOOTER];
    let footer_at = file.size().ok()?.checked_sub(FOOTER as u64)?;
    if read_full(&*file, &mut header, 0).ok()? < header.len()
        || read_full(&*file, &mut footer, footer_at).ok()? < FOOTER
    {
        return None;
    }
    let mut r = Reader::new("index footer", &footer);
    let (magic, last, of_size) = (r.array::<8>().ok()?, r.u64().ok()?, r.u64().ok()?);
    let sound = r.u32().ok()? == crc32fast::hash(&footer[..FOOTER - 4]) && magic == FOOTER_MAGIC;
    if !sound || header[..8] != MAGIC || header[8..] != number.to_le_bytes() || of_size != size {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(footer_at.checked_sub(last)?).ok().filter(|n| *n <= MAX_RECORD)?];
    read_full(&*file, &mut bytes, last).ok()?;
    parse_record(&bytes).map(|(entry, _)| entry).filter(|entry| entry.offset == size)
}

/// Writes the index of a closed file of `size` bytes anew, with nothing in it that arrived later than `latest`.
pub(super) fn cap_arrivals(storage: &dyn Storage, file_name: &str, number: u64, size: u64, latest: Micros) {
    let Some(mut entries) = load(storage, file_name, number) else { return };
    entries.iter_mut().for_each(|entry| entry.arrived = entry.arrived.min(latest));
    IndexWriter::create(storage, file_name, number, &entries).close(size);
}

fn record(entry: &Entry) -> Vec<u8> {
    let mut payload = Vec::with_capacity(96);
    payload.extend_from_slice(&entry.offset.to_le_bytes());
    payload.extend_from_slice(&entry.arrived.0.to_le_bytes());
    payload.extend_from_slice(&entry.tally.total.to_le_bytes());
    put_len(&mut payload, entry.tally.domains.len());
    for (domain, n) in &entry.tally.domains {
        payload.extend_from_slice(&domain.to_le_bytes());
        payload.extend_from_slice(&n.to_le_bytes());
    }
    match &entry.gtid {
        GtidPosition::MariaDb(list) => {
            payload.push(0);
            put_len(&mut payload, list.len());
            for gtid in list.iter() {
                payload.extend_from_slice(&gtid.domain.to_le_bytes());
                payload.extend_from_slice(&gtid.server_id.to_le_bytes());
                payload.extend_from_slice(&gtid.sequence.to_le_bytes());
            }
        }
        GtidPosition::MySql(set) => {
            payload.push(1);
            put_len(&mut payload, set.iter().count());
            for (source, intervals) in set.iter() {
                payload.extend_from_slice(&source.uuid.0);
                put_len(&mut payload, source.tag.len());
                payload.extend_from_slice(source.tag.as_bytes());
                put_len(&mut payload, intervals.len());
                for (start, end) in intervals {
                    payload.extend_from_slice(&start.to_le_bytes());
                    payload.extend_from_slice(&end.to_le_bytes());
                }
            }
        }
    }
    let mut out = Vec::with_capacity(RECORD_HEADER + payload.len());
    put_len(&mut out, payload.len());
    out.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    out.extend_from_slice(&payload);
    out
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // What does not fit is over MAX_RECORD and refused by the reader: the index is then rebuilt.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

/// The record at the front and its length.
fn parse_record(bytes: &[u8]) -> Option<(Entry, usize)> {
    let mut r = Reader::new("index record", bytes);
    let (len, crc) = (r.u32().ok()? as usize, r.u32().ok()?);
    if len > MAX_RECORD {
        return None;
    }
    let payload = r.bytes(len).ok()?;
    if crc32fast::hash(payload) != crc {
        return None;
    }
    parse_payload(&mut Reader::new("index record", payload)).ok().map(|entry| (entry, RECORD_HEADER + len))
}

fn parse_payload(r: &mut Reader<'_>) -> baton_wire::error::Result<Entry> {
    let offset = r.u64()?;
    let arrived = Micros(i64::from_le_bytes(r.array()?));
    let mut tally = Tally { total: r.u64()?, ..Tally::default() };
    for _ in 0..r.u32()? {
        let domain = r.u32()?;
        tally.domains.insert(domain, r.u64()?);
    }
    let gtid = if r.u8()? == 0 {
        let mut list = GtidList::default();
        for _ in 0..r.u32()? {
            list.set(Gtid { domain: r.u32()?, server_id: r.u32()?, sequence: r.u64()? });
        }
        GtidPosition::MariaDb(list)
    } else {
        let mut set = GtidSet::default();
        for _ in 0..r.u32()? {
            let uuid = Uuid(r.array()?);
            let tag_len = r.u32()? as usize;
            let tag = String::from_utf8_lossy(r.bytes(tag_len)?).into_owned();
            let source = Source { uuid, tag };
            for _ in 0..r.u32()? {
                let start = r.u64()?;
                set.add_interval(&source, start, r.u64()?);
            }
        }
        GtidPosition::MySql(set)
    };
    Ok(Entry { offset, gtid, tally, arrived })
}
