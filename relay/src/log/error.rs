//! What can go wrong with the log: each error names the file, the place and what to do.

use std::io;
use std::sync::Arc;

use baton_wire::gtid::mariadb::Gtid;
use thiserror::Error;

use super::types::LogPos;

/// A failed operation on the disk.
#[derive(Debug, Clone, Error)]
#[error("{file}, offset {offset}: could not {action}: {source}")]
pub struct StorageFailure {
    /// The file (or directory).
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was tried.
    pub action: &'static str,
    /// What the system answered.
    #[source]
    pub source: Arc<io::Error>,
}

impl StorageFailure {
    pub(super) fn new(file: &str, offset: u64, action: &'static str, source: io::Error) -> Self {
        Self { file: file.to_owned(), offset, action, source: Arc::new(source) }
    }

    /// What an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free space on the volume of data_dir (or lower log.retain / log.retain_bytes); the relay goes on by itself"
            }
            io::ErrorKind::ReadOnlyFilesystem => "remount the volume of data_dir writable; the relay goes on by itself",
            io::ErrorKind::PermissionDenied => "give the relay's user the right to write in data_dir",
            _ => "check the volume of data_dir (kernel log, SMART); the relay tries again by itself",
        }
    }
}

/// Why the log can't be opened, or can't answer.
#[derive(Debug, Clone, Error)]
pub enum LogError {
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageFailure),
    /// Another process has the directory.
    #[error("{dir} is in use by another relay; give each relay a data_dir of its own")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// The directory belongs to another cluster.
    #[error(
        "{dir} holds the log of cluster {found:?}, but cluster {wanted:?} is configured; check cluster and data_dir"
    )]
    WrongCluster {
        /// The directory.
        dir: String,
        /// Whose log it is.
        found: String,
        /// Who was configured.
        wanted: String,
    },
    /// `meta.json` can't be used.
    #[error("{file}: {detail}")]
    Meta {
        /// The file.
        file: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A file's content is not what was written.
    #[error("{file}, offset {offset}: {cause}")]
    Damaged {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What was found.
        cause: String,
    },
    /// Nothing is in the log yet.
    #[error("the log is empty")]
    Empty,
    /// A file that the log does not have.
    #[error("the log has no file number {number}; it has {first} to {last}")]
    NoFile {
        /// The number asked for.
        number: u64,
        /// The oldest.
        first: u64,
        /// The newest.
        last: u64,
    },
    /// Beyond what is visible.
    #[error("{pos} lies outside of the file, whose events lie at 4 to {end}")]
    OutOfRange {
        /// The place asked for.
        pos: LogPos,
        /// Visible end of that file, in bytes.
        end: u64,
    },
    /// Not between two events.
    #[error("{pos} is not at the beginning of an event")]
    NotABoundary {
        /// The place asked for.
        pos: LogPos,
    },
    /// A GTID of the other server family.
    #[error("the log holds {log} GTIDs, asked was for {asked} ones")]
    WrongFlavor {
        /// The log's family.
        log: &'static str,
        /// The position's.
        asked: &'static str,
    },
}

impl LogError {
    pub(super) fn storage(file: &str, offset: u64, action: &'static str, source: io::Error) -> Self {
        Self::Storage(StorageFailure::new(file, offset, action, source))
    }
}

/// Why something was not appended.
#[derive(Debug, Clone, Error)]
pub enum AppendError {
    /// The disk failed: what was not durable is dropped, and [`settle`](super::Appender::settle) tries again.
    #[error(transparent)]
    Storage(#[from] StorageFailure),
    /// Durable data is damaged: nothing more is written.
    #[error("the log is damaged ({detail}) and takes nothing more")]
    Damaged {
        /// File, offset and cause.
        detail: String,
    },
    /// The bytes do not continue what is there.
    #[error("{got} does not continue the log, which ends at {expected}")]
    OutOfPlace {
        /// Where the log goes on.
        expected: LogPos,
        /// What was offered.
        got: LogPos,
    },
    /// The upstream is not the one that the log has recorded.
    #[error("the log belongs to {what} {ours}, the upstream says {theirs}")]
    Identity {
        /// What differs.
        what: &'static str,
        /// As recorded.
        ours: String,
        /// As offered.
        theirs: String,
    },
    /// Something that can't be stored.
    #[error("{detail}")]
    Invalid {
        /// What, and why not.
        detail: String,
    },
    /// The writer has ended.
    #[error("the log's writer has ended")]
    Closed,
}

impl AppendError {
    /// What an operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Storage(failure) => Some(failure.hint()),
            Self::Damaged { .. } => Some("move the data directory away and let the relay fetch anew"),
            _ => None,
        }
    }
}

/// Why a reader can't go on.
#[derive(Debug, Clone, Error)]
pub enum ReadError {
    /// The file was removed by retention, or never was.
    #[error("the log has no file number {number} (any more)")]
    Gone {
        /// The file's number.
        number: u64,
    },
    /// The file was taken away under the reader, for the log had reached `retain_hard_bytes`.
    #[error("file number {number} was removed under this reader: the log had reached log.retain_hard_bytes")]
    Cut {
        /// The file's number.
        number: u64,
    },
    /// Beyond what is visible.
    #[error("{pos} lies beyond the end of that file, {end}")]
    Beyond {
        /// The place asked for.
        pos: LogPos,
        /// Visible end of that file, in bytes.
        end: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageFailure),
}

/// Why a replica's GTID position gives no place to start from.
#[derive(Debug, Clone, Error)]
pub enum GtidStartError {
    /// The log does not reach back that far.
    #[error(
        "the log begins behind what the replica lacks in domain {domain}: {first} was the last before its first file"
    )]
    Purged {
        /// The domain.
        domain: u32,
        /// The last GTID of the domain before the log's first file.
        first: Gtid,
    },
    /// The replica has more than the log; what is asked for may still come.
    #[error("{requested} lies ahead of the log, which has {}", .have.map_or("nothing of that domain".into(), |g| g.to_string()))]
    Ahead {
        /// The domain.
        domain: u32,
        /// What the replica has.
        requested: Gtid,
        /// What the log has.
        have: Option<Gtid>,
    },
    /// The log went past that sequence number without that GTID: histories differ.
    #[error("{requested} is not in the log, which has {ours}: the replica has diverged")]
    Forked {
        /// What the replica has.
        requested: Gtid,
        /// The log's GTID at that sequence number, or the last one before it (or the first behind, if there is none before).
        ours: Gtid,
    },
    /// The log can't answer; [`LogError::Empty`] while nothing is in it.
    #[error(transparent)]
    Log(#[from] LogError),
}
