//! What the log tells others about itself.

use std::fmt;

use baton_wire::Flavor;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::mariadb::GtidList;
use baton_wire::gtid::{GtidPosition, TransactionId};

use crate::clock::Micros;

/// A place in the log: a file's number and an offset in bytes. Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPos {
    /// Number of the file in the log's own numbering (`mysql-bin.000007` is 7).
    pub file: u64,
    /// Bytes from the file's beginning; the first event lies at 4.
    pub offset: u64,
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}:{}", self.file, self.offset)
    }
}

/// The last complete, durable transaction (or whole event outside of one): what replicas may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// End of the last whole transaction or event.
    pub pos: LogPos,
    /// Everything up to here.
    pub gtid: GtidPosition,
    /// Transactions in the log so far, counted from its beginning.
    pub transactions: u64,
    /// When the last transaction arrived; zero if none has.
    pub arrived: Micros,
}

/// A transaction on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its identity.
    pub id: TransactionId,
    /// Offset of its first event in the file.
    pub begins: u64,
    /// Offset behind its last event.
    pub ends: u64,
    /// When its last byte arrived.
    pub arrived: Micros,
}

/// One file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its number in the log.
    pub number: u64,
    /// Its name in the log, such as `mysql-bin.000007`.
    pub name: String,
    /// Visible bytes: all of a closed file, up to the head in the last one.
    pub size: u64,
    /// What was executed before the file's first transaction.
    pub start: GtidPosition,
    /// Checksums of its events.
    pub checksum: ChecksumAlg,
    /// The upstream's version, from the format description.
    pub server_version: String,
    /// Whether a later file follows.
    pub closed: bool,
}

/// How a position relates to the head: what somebody at that position still misses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Begin of the first missing transaction; the head's position if none is missing.
    pub pos: LogPos,
    /// The GTID position at that place (for one asked by GTID: what was asked).
    pub gtid: GtidPosition,
    /// Transactions between there and the head that are missing.
    pub missing_transactions: u64,
    /// Bytes of log from `pos` to the head.
    pub missing_bytes: u64,
    /// When the oldest missing transaction arrived; `None` if none is missing.
    pub oldest_missing: Option<Micros>,
}

/// Health of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogStatus {
    /// The log's identity, a UUID made when it was created.
    pub log_id: String,
    /// Whether the last attempt to write succeeded (an idle log counts as writable).
    pub writable: bool,
    /// Why it is not writable.
    pub error: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// Set if durable data was found damaged: where and how. Then nothing more is written.
    pub damaged: Option<String>,
    /// Files kept.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that recovery cut off at the last start.
    pub recovered_bytes_dropped: u64,
    /// Failed writes and syncs since the start.
    pub storage_errors: u64,
    /// Files that retention has removed since the start.
    pub files_removed: u64,
    /// Readers whose file was removed under them because of `retain_hard_bytes`, since the start.
    pub readers_cut: u64,
}

/// Whose log this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// A UUID made when the log was created.
    pub log_id: String,
    /// The cluster that it belongs to.
    pub cluster: String,
    /// Base name of its files; `None` until the first file is begun.
    pub base: Option<String>,
    /// The family that wrote it; `None` until the first file is begun.
    pub flavor: Option<Flavor>,
    /// `server_id` of the present primary; `None` until the first file is begun.
    pub upstream_server_id: Option<u32>,
    /// Changes of primary, oldest first.
    pub epochs: Vec<Epoch>,
}

/// The time of one primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Grows by one at each change of primary.
    pub epoch: u64,
    /// `server_id` of the primary.
    pub server_id: u32,
    /// Number of its first file, as the primary counts.
    pub first_upstream_file: u64,
    /// A file's number in the log minus the one that the primary gave it.
    pub shift: i64,
    /// Where the epoch begins in the log.
    pub begin: LogPos,
    /// GTID position there, as text; `None` until the file's own list of GTIDs has been seen, and for MySQL.
    pub gtid: Option<String>,
    /// Base name of the primary's files.
    pub base: String,
}

impl Epoch {
    /// The name that the primary gave to the file of that number in the log.
    pub fn upstream_name(&self, number: u64) -> Option<String> {
        let number = i64::try_from(number).ok()?.checked_sub(self.shift)?;
        (number > 0).then(|| format!("{}.{number:06}", self.base))
    }
}

impl LogIdentity {
    /// The epoch that the file of that number belongs to.
    pub fn epoch_of(&self, file: u64) -> Option<&Epoch> {
        self.epochs.iter().rfind(|e| e.begin.file <= file).or(self.epochs.first())
    }
}

/// Where a replica that knows its GTID position goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidStart {
    /// Begin of the first transaction that it lacks; the head if it lacks none.
    pub pos: LogPos,
    /// What lies before `pos`. Where that is less than what the replica has (several domains), transactions behind `pos` are to be left out.
    pub gtid: GtidList,
    /// Whether nothing of the file is skipped: `gtid` is the position that its own list of GTIDs says.
    pub at_file_start: bool,
}
