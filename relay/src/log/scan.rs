//! Walks over the events of a stored file: verifying all of it (recovery, rebuilding of an index) or just reading headers and the
//! beginnings of bodies (finding a place). Never holds more than one block, however large an event is.

use baton_wire::checksum::{self, CHECKSUM_LEN, ChecksumAlg};
use baton_wire::event::{BODY_PREFIX, EventHeader, FIRST_EVENT, HEADER_LEN, MAGIC, Mark, TransactionTracker};
use baton_wire::event::{EventKind, FormatDescription, GtidListEvent};
use baton_wire::gtid::{GtidPosition, TransactionId};

use super::error::{LogError, StorageFailure};
use super::storage::{StorageFile, read_full};
use super::tally::Tally;

/// Bytes read at once.
const BLOCK: usize = 256 * 1024;
/// Largest first events (format description, list of GTIDs) that are kept in memory while they arrive.
const MAX_HEAD: usize = 256 * 1024 * 1024;

/// Why a walk ended before its end.
#[derive(Debug, Clone)]
pub(super) struct ScanError {
    /// Begin of the event that could not be read.
    pub(super) offset: u64,
    /// What was found.
    pub(super) cause: String,
    /// The disk's failure, if it was that.
    pub(super) failure: Option<StorageFailure>,
}

impl ScanError {
    pub(super) fn into_log_error(self, file: &str) -> LogError {
        match self.failure {
            Some(failure) => LogError::Storage(failure),
            None => LogError::Damaged { file: file.to_owned(), offset: self.offset, cause: self.cause },
        }
    }
}

/// What the first events of a file say, taken from the file's bytes as they arrive.
#[derive(Debug, Default)]
pub(super) struct FileHead {
    bytes: Vec<u8>,
    at: usize,
    done: bool,
    /// The format description, once seen.
    pub(super) format: Option<FormatDescription>,
    /// The list of GTIDs (MariaDB), once seen.
    pub(super) start: Option<GtidPosition>,
}

impl FileHead {
    /// Takes the file's next bytes; the first ones lie at offset 4.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), String> {
        if self.done {
            return Ok(());
        }
        self.bytes.extend_from_slice(data);
        while !self.done {
            let rest = &self.bytes[self.at..];
            if rest.len() < HEADER_LEN {
                break;
            }
            let header = EventHeader::parse(rest).map_err(|e| e.to_string())?;
            let size = header.size as usize;
            let expected = self.format.is_none() == (header.kind == EventKind::FORMAT_DESCRIPTION);
            if !expected {
                return Err(format!("{} where a file's format description belongs, and only that", header.kind));
            }
            let interesting = matches!(
                header.kind,
                EventKind::FORMAT_DESCRIPTION | EventKind::GTID_LIST | EventKind::START_ENCRYPTION
            );
            if interesting && size > MAX_HEAD {
                return Err(format!("{} of {size} bytes", header.kind));
            }
            if interesting && rest.len() < size {
                break;
            }
            match header.kind {
                EventKind::FORMAT_DESCRIPTION => {
                    self.format = Some(FormatDescription::parse(&rest[..size]).map_err(|e| e.to_string())?);
                }
                EventKind::GTID_LIST => {
                    let body = baton_wire::event::body(&rest[..size], self.alg()).map_err(|e| e.to_string())?;
                    let list = GtidListEvent::parse(body).map_err(|e| e.to_string())?;
                    self.start = Some(GtidPosition::MariaDb(list.position()));
                    self.done = true;
                }
                EventKind::START_ENCRYPTION => {}
                _ => self.done = true,
            }
            self.at += if interesting { size } else { 0 };
        }
        if self.done {
            self.bytes = Vec::new();
        }
        Ok(())
    }

    /// Reads it from a file whose content ends at `end`.
    pub(super) fn read(file: &dyn StorageFile, name: &str, end: u64) -> Result<Self, ScanError> {
        let mut head = Self::default();
        let mut buf = vec![0; 4096];
        check_magic(file, name)?;
        let mut at = FIRST_EVENT;
        while at < end && !head.done {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let n = read_full(file, &mut buf[..want], at).map_err(|e| read_error(name, at, e))?;
            if n == 0 {
                break;
            }
            head.push(&buf[..n]).map_err(|cause| ScanError { offset: FIRST_EVENT, cause, failure: None })?;
            at += n as u64;
            buf.resize(BLOCK, 0);
        }
        Ok(head)
    }

    /// Offset behind what has been understood.
    pub(super) fn end(&self) -> u64 {
        FIRST_EVENT + self.at as u64
    }

    /// Whether nothing more is expected.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Checksums of the file's events.
    pub(super) fn alg(&self) -> ChecksumAlg {
        self.format.as_ref().map_or(ChecksumAlg::None, |f| f.checksum)
    }
}

/// Checks a file's first four bytes.
pub(super) fn check_magic(file: &dyn StorageFile, name: &str) -> Result<(), ScanError> {
    let mut magic = [0; MAGIC.len()];
    let n = read_full(file, &mut magic, 0).map_err(|e| read_error(name, 0, e))?;
    if n < MAGIC.len() || magic != MAGIC {
        return Err(ScanError { offset: 0, cause: "it does not begin as a binlog file does".into(), failure: None });
    }
    Ok(())
}

fn read_error(name: &str, offset: u64, source: std::io::Error) -> ScanError {
    let failure = StorageFailure::new(name, offset, "read", source);
    ScanError { offset, cause: failure.to_string(), failure: Some(failure) }
}

/// One event, as a walk sees it.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Seconds since 1970.
    pub(super) timestamp: u32,
    /// Where it begins.
    pub(super) begins: u64,
    /// Where the next one begins.
    pub(super) ends: u64,
    /// What it means.
    pub(super) mark: Mark,
    /// With [`Mark::End`]: the transaction that ended, and where it began.
    pub(super) ended: Option<(TransactionId, u64)>,
}

/// A walk over a file's events, carrying the GTID position and the tally along.
pub(super) struct Walk<'a> {
    file: &'a dyn StorageFile,
    name: &'a str,
    alg: ChecksumAlg,
    verify: bool,
    at: u64,
    end: u64,
    block: Vec<u8>,
    block_at: u64,
    tracker: TransactionTracker,
    open: Option<(TransactionId, u64)>,
    /// Position behind the last whole transaction passed.
    pub(super) gtid: GtidPosition,
    /// Transactions passed, on top of what it began with.
    pub(super) tally: Tally,
    /// Behind the last place passed that lies outside of any transaction.
    pub(super) whole: u64,
}

impl<'a> Walk<'a> {
    /// Begins at `at`, outside of any transaction, where `gtid` and `tally` hold; ends at `end`.
    pub(super) fn new(
        file: &'a dyn StorageFile,
        name: &'a str,
        alg: ChecksumAlg,
        range: std::ops::Range<u64>,
        gtid: GtidPosition,
        tally: Tally,
    ) -> Self {
        Self {
            file,
            name,
            alg,
            verify: false,
            at: range.start,
            end: range.end,
            block: Vec::new(),
            block_at: 0,
            tracker: TransactionTracker::new(),
            open: None,
            gtid,
            tally,
            whole: range.start,
        }
    }

    /// Checks every checksum.
    pub(super) fn verifying(mut self) -> Self {
        self.verify = true;
        self
    }

    /// The next event; `None` at the end.
    pub(super) fn step(&mut self) -> Result<Option<Step>, ScanError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (begins, left) = (self.at, self.end - self.at);
        let bad = |cause: String| ScanError { offset: begins, cause, failure: None };
        if left < HEADER_LEN as u64 {
            return Err(bad(format!("the file ends {left} bytes into an event's header")));
        }
        let header = EventHeader::parse(self.bytes(begins, HEADER_LEN)?).map_err(|e| bad(e.to_string()))?;
        let (size, alg) = (header.size as usize, self.alg);
        if u64::from(header.size) > left {
            return Err(bad(format!("the file ends {left} bytes into {} of {size} bytes", header.kind)));
        }
        if size < HEADER_LEN + alg.len() {
            return Err(bad(format!("{} of {size} bytes is too short for its checksum", header.kind)));
        }
        if self.verify && !alg.is_empty() {
            self.check(begins, size)?;
        }
        let body = (size - HEADER_LEN - alg.len()).min(BODY_PREFIX);
        let needed = if needs_body(header.kind) { body } else { 0 };
        let start = self.bytes(begins, HEADER_LEN + needed)?[HEADER_LEN..].to_vec();
        let mark = self.tracker.observe(&header, &start).map_err(|e| bad(e.to_string()))?;
        self.at = begins + size as u64;
        let mut ended = None;
        match &mark {
            Mark::Begin(id, _) => self.open = Some((id.clone(), begins)),
            Mark::End => {
                if let Some((id, began)) = self.open.take() {
                    self.gtid.advance(&id);
                    self.tally.note(&id);
                    ended = Some((id, began));
                }
            }
            Mark::Outside | Mark::Inside => {}
        }
        if !self.tracker.in_transaction() {
            self.whole = self.at;
        }
        Ok(Some(Step { timestamp: header.timestamp, begins, ends: self.at, mark, ended }))
    }

    /// Verifies the checksum of the event at `begins`.
    fn check(&mut self, begins: u64, size: usize) -> Result<(), ScanError> {
        let bad = |cause: String| ScanError { offset: begins, cause, failure: None };
        if size <= BLOCK {
            return checksum::verify(self.bytes(begins, size)?).map_err(|e| bad(e.to_string()));
        }
        // Too large to hold; only a format description is summed in a special way, and none is that large.
        let mut hasher = crc32fast::Hasher::new();
        let content_end = begins + (size - CHECKSUM_LEN) as u64;
        let mut at = begins;
        while at < content_end {
            let n = usize::try_from(content_end - at).unwrap_or(BLOCK).min(BLOCK);
            hasher.update(self.bytes(at, n)?);
            at += n as u64;
        }
        let computed = hasher.finalize();
        let stored = self.bytes(content_end, CHECKSUM_LEN)?;
        if stored != computed.to_le_bytes() {
            return Err(bad(format!("event checksum: stored {stored:02x?}, computed {:02x?}", computed.to_le_bytes())));
        }
        Ok(())
    }

    /// `n` bytes of the file, through the block.
    fn bytes(&mut self, at: u64, n: usize) -> Result<&[u8], ScanError> {
        let have = self.block_at + self.block.len() as u64;
        if at < self.block_at || at + n as u64 > have {
            let want = usize::try_from(self.end - at).unwrap_or(usize::MAX).min(n.max(BLOCK));
            self.block.resize(want, 0);
            self.block_at = at;
            let read = read_full(self.file, &mut self.block, at).map_err(|e| read_error(self.name, at, e))?;
            self.block.truncate(read);
            if read < n {
                let cause = format!("the file ends at {}", at + read as u64);
                return Err(ScanError { offset: at, cause, failure: None });
            }
        }
        let from = usize::try_from(at - self.block_at).unwrap_or(0);
        Ok(&self.block[from..from + n])
    }
}

/// Kinds whose body the transaction tracker reads.
fn needs_body(kind: EventKind) -> bool {
    matches!(kind, EventKind::MARIADB_GTID | EventKind::GTID | EventKind::GTID_TAGGED | EventKind::QUERY)
}
