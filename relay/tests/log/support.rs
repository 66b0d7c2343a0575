//! Builds files, cuts them into batches, feeds them, reads them back; and a disk that fails on demand.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use baton_relay::clock::Micros;
use baton_relay::log::{
    Appender, Batch, Chunk, DiskStorage, Log, LogConfig, LogPos, OpenFile, Storage, StorageFile, Transaction,
};
use baton_wire::Flavor;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{self, EventHeader, EventKind, FormatDescription, GtidListEvent, Mark, TransactionTracker};
use baton_wire::gtid::TransactionId;
use baton_wire::gtid::mariadb::{Gtid, GtidList};
use bytes::Bytes;

pub(crate) const BASE: &str = "mysql-bin";
/// Arrival of the transaction that ends at `offset` of a file, in these tests.
pub(crate) fn arrival(file: u64, offset: u64) -> Micros {
    Micros(1_700_000_000_000_000 + file as i64 * 1_000_000_000 + offset as i64)
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire/tests/captures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file as the upstream's side would have parsed it.
#[derive(Clone)]
pub(crate) struct Parsed {
    pub(crate) number: u64,
    pub(crate) data: Bytes,
    /// Begin of each event, and the end.
    pub(crate) boundaries: Vec<u64>,
    /// Boundaries outside of transactions, but for the end of the format description.
    pub(crate) wholes: BTreeSet<u64>,
    pub(crate) transactions: Vec<Transaction>,
}

pub(crate) fn parse(number: u64, data: Vec<u8>) -> Parsed {
    let alg = {
        let size = EventHeader::parse(&data[4..]).unwrap().size as usize;
        FormatDescription::parse(&data[4..4 + size]).unwrap().checksum
    };
    let mut tracker = TransactionTracker::new();
    let (mut at, mut open) = (4, None);
    let mut out =
        Parsed { number, data: Bytes::new(), boundaries: vec![4], wholes: BTreeSet::new(), transactions: Vec::new() };
    while at < data.len() {
        let header = EventHeader::parse(&data[at..]).unwrap();
        let end = at + header.size as usize;
        let body = event::body(&data[at..end], alg).unwrap();
        match tracker.observe(&header, body).unwrap() {
            Mark::Begin(id, _) => open = Some((id, at as u64)),
            Mark::End => {
                let (id, begins) = open.take().unwrap();
                let arrived = arrival(number, end as u64);
                out.transactions.push(Transaction { id, begins, ends: end as u64, arrived });
            }
            Mark::Outside | Mark::Inside => {}
        }
        // A format description alone is not shown to anybody.
        if !tracker.in_transaction() && out.boundaries.len() > 1 {
            out.wholes.insert(end as u64);
        }
        out.boundaries.push(end as u64);
        at = end;
    }
    out.data = data.into();
    out
}

impl Parsed {
    pub(crate) fn len(&self) -> u64 {
        self.data.len() as u64
    }

    /// The last boundary outside of transactions, up to `to`.
    fn whole_before(&self, to: u64) -> Option<u64> {
        let described = self.boundaries.get(1).copied().filter(|end| *end <= to);
        self.wholes.range(..=to).next_back().copied().or(described)
    }

    /// The bytes from `from` to `to` as a batch.
    pub(crate) fn batch(&self, from: u64, to: u64) -> Batch {
        let ends_here = |t: &&Transaction| t.ends > from && t.ends <= to;
        Batch {
            file: self.number,
            offset: from,
            data: self.data.slice(from as usize..to as usize),
            whole: self.whole_before(to).filter(|whole| *whole > from),
            transactions: self.transactions.iter().filter(ends_here).cloned().collect(),
            received_at: arrival(self.number, to),
        }
    }

    /// Everything from `from` to `to`, cut at pseudo-random places.
    pub(crate) fn batches(&self, from: u64, to: u64, seed: u64) -> Vec<Batch> {
        let mut random = Random(seed);
        let (mut at, mut out) = (from, Vec::new());
        while at < to {
            let next = (at + 1 + random.next() % (1 << (random.next() % 14))).min(to);
            out.push(self.batch(at, next));
            at = next;
        }
        out
    }
}

/// A reproducible sequence (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    /// A size of 1 to about 2 to the power of `bits`, small ones as likely as large ones.
    pub(crate) fn size(&mut self, bits: u64) -> usize {
        let bits = self.next() % bits + 1;
        1 + self.below(1 << bits)
    }
}

/// Makes MariaDB files, one after the other, whose GTIDs go on.
pub(crate) struct Primary {
    alg: ChecksumAlg,
    state: Vec<Gtid>,
    data: Vec<u8>,
    /// Of the events, in seconds.
    pub(crate) timestamp: u32,
}

impl Primary {
    pub(crate) fn new(alg: ChecksumAlg, state: &[&str]) -> Self {
        let state = state.iter().map(|g| g.parse().unwrap()).collect();
        let mut primary = Self { alg, state, data: Vec::new(), timestamp: 1_700_000_000 };
        primary.begin();
        primary
    }

    fn begin(&mut self) {
        let name = if self.alg == ChecksumAlg::Crc32 { "mariadb-row-crc32.binlog" } else { "mariadb-row-nocrc.binlog" };
        let first = fixture(name);
        let size = EventHeader::parse(&first[4..]).unwrap().size as usize;
        self.data = first[..4 + size].to_vec();
        let list = GtidListEvent { gtids: self.state.clone(), flags: 0 };
        self.event(EventKind::GTID_LIST, 1, &list.body());
    }

    pub(crate) fn event(&mut self, kind: EventKind, server_id: u32, body: &[u8]) -> &mut Self {
        let size = 19 + body.len() + self.alg.len();
        let log_pos = (self.data.len() + size) as u32;
        let header = EventHeader { timestamp: self.timestamp, kind, server_id, size: 0, log_pos, flags: 0 };
        self.data.extend_from_slice(&event::build(header, body, self.alg));
        self
    }

    /// A transaction of `bytes` of rows in events of up to 8000 bytes.
    pub(crate) fn transaction(&mut self, gtid: &str, bytes: usize) -> &mut Self {
        let sequence = gtid.parse::<Gtid>().unwrap().sequence;
        let rows: Vec<u8> = (0..bytes).map(|i| (i as u64 + sequence) as u8).collect();
        self.group(gtid, 0x0c, |primary, server_id| {
            for chunk in rows.chunks(8000) {
                primary.event(EventKind::WRITE_ROWS_V1, server_id, chunk);
            }
            primary.event(EventKind::XID, server_id, &sequence.to_le_bytes());
        })
    }

    /// A GTID with `flags`, and what belongs to it.
    pub(crate) fn group(&mut self, gtid: &str, flags: u8, content: impl FnOnce(&mut Self, u32)) -> &mut Self {
        let gtid: Gtid = gtid.parse().unwrap();
        self.gtid_event(&gtid, flags);
        content(self, gtid.server_id);
        self.state.retain(|g| (g.domain, g.server_id) != (gtid.domain, gtid.server_id));
        self.state.push(gtid);
        self
    }

    pub(crate) fn gtid_event(&mut self, gtid: &Gtid, flags: u8) {
        let mut body = gtid.sequence.to_le_bytes().to_vec();
        body.extend_from_slice(&gtid.domain.to_le_bytes());
        body.extend_from_slice(&[flags, 0, 0, 0, 0, 0, 0]);
        self.event(EventKind::MARIADB_GTID, gtid.server_id, &body);
    }

    /// Ends the file, and begins the next one.
    pub(crate) fn rotate(&mut self, number: u64) -> Parsed {
        let mut body = 4_u64.to_le_bytes().to_vec();
        body.extend_from_slice(format!("{BASE}.{:06}", number + 1).as_bytes());
        self.event(EventKind::ROTATE, 1, &body);
        self.take(number)
    }

    /// The file as it is, without an end.
    pub(crate) fn take(&mut self, number: u64) -> Parsed {
        let data = std::mem::take(&mut self.data);
        self.begin();
        parse(number, data)
    }
}

pub(crate) fn config() -> LogConfig {
    LogConfig { cluster: "shop".into(), ..LogConfig::default() }
}

pub(crate) fn open_dir(dir: &Path) -> (Arc<Log>, Appender) {
    Log::open(Arc::new(DiskStorage::open(dir).unwrap()), config()).unwrap()
}

pub(crate) fn spec(number: u64) -> OpenFile {
    OpenFile { number, base: BASE.into(), upstream_server_id: 1, flavor: Flavor::MariaDb, epoch: None }
}

/// Appends a whole file, and waits until all of it is durable.
pub(crate) async fn feed(appender: &mut Appender, file: &Parsed) {
    appender.open_file(spec(file.number)).await.unwrap();
    for batch in file.batches(4, file.len(), file.number) {
        appender.append(batch).await.unwrap();
    }
    appender.settle().await.unwrap();
}

/// Reads everything that is visible of a file, from its first byte.
pub(crate) async fn read_all(log: &Arc<Log>, number: u64) -> Vec<u8> {
    read_from(log, LogPos { file: number, offset: 0 }).await
}

pub(crate) async fn read_from(log: &Arc<Log>, pos: LogPos) -> Vec<u8> {
    let mut reader = log.reader(pos).unwrap();
    let (mut out, mut buf) = (Vec::new(), Vec::new());
    loop {
        match reader.read(10_000, &mut buf).await.unwrap() {
            Chunk::Shared(bytes) => {
                out.extend_from_slice(&bytes);
                reader.advance(bytes.len() as u64);
            }
            Chunk::Buffered(n) => {
                assert_eq!(n, buf.len());
                out.extend_from_slice(&buf);
                reader.advance(n as u64);
            }
            Chunk::AtEnd | Chunk::NextFile(_) => return out,
        }
    }
}

pub(crate) fn on_disk(dir: &Path, number: u64) -> Vec<u8> {
    std::fs::read(dir.join(format!("{BASE}.{number:06}"))).unwrap()
}

/// What a kill leaves: the directory as it is at this instant.
pub(crate) fn copy_dir(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

pub(crate) fn gtids(text: &str) -> GtidList {
    text.parse().unwrap()
}

pub(crate) fn mariadb(id: &TransactionId) -> Gtid {
    match id {
        TransactionId::MariaDb(gtid) => *gtid,
        other => panic!("{other} is not a MariaDB GTID"),
    }
}

/// A real directory whose writes and syncs fail on demand.
pub(crate) struct Faulty {
    disk: DiskStorage,
    pub(crate) faults: Arc<Faults>,
}

#[derive(Default)]
pub(crate) struct Faults {
    /// Bytes that can still be written; then the disk is full.
    pub(crate) room: Mutex<Option<u64>>,
    pub(crate) fail_sync: AtomicBool,
    pub(crate) fail_truncate: AtomicBool,
    pub(crate) syncs: AtomicU64,
    /// Bytes that the page cache has from each place on; 0 for none.
    pub(crate) cached: AtomicUsize,
}

impl Faulty {
    pub(crate) fn new(dir: &Path) -> (Arc<Self>, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        (Arc::new(Self { disk: DiskStorage::open(dir).unwrap(), faults: Arc::clone(&faults) }), faults)
    }

    fn wrap(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { file, faults: Arc::clone(&self.faults) })
    }
}

impl Storage for Faulty {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(self.disk.open(name)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(self.disk.create(name)?))
    }
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn describe(&self) -> String {
        self.disk.describe()
    }
}

struct FaultyFile {
    file: Arc<dyn StorageFile>,
    faults: Arc<Faults>,
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let n = self.faults.cached.load(Ordering::SeqCst).min(buf.len());
        if n == 0 { Ok(None) } else { self.file.read_at(&mut buf[..n], offset).map(Some) }
    }
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut room = self.faults.room.lock().unwrap();
        let fits = room.map_or(data.len(), |room| data.len().min(room as usize));
        // A full disk takes what fits, as a real one does.
        self.file.write_all_at(&data[..fits], offset)?;
        if let Some(room) = room.as_mut() {
            *room -= fits as u64;
        }
        if fits < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.faults.fail_truncate.load(Ordering::SeqCst) {
            return Err(io::Error::other("no truncation today"));
        }
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        if self.faults.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("input/output error"));
        }
        self.file.sync_data()
    }
}
