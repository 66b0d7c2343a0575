//! The relay's durable log: the upstream's binlog files, byte for byte, as one continuous sequence.
//!
//! Owns the data directory. Bytes come in through the one [`Appender`], in batches that may end anywhere; one thread writes them and
//! syncs by group; what is whole and durable becomes visible, as the head, to any number of [`LogReader`]s.
//!
//! Promises: every file equals the upstream's, byte for byte; the head never lies inside a transaction and never beyond what a successful
//! sync covers; what was once durable is never cut, and damage to it is told, not mended. Never does: speak to anybody, or look into rows.
//!
//! The directory holds, beside each file `<base>.<number>`, an index (`.idx`), arrival times (`.arr`) and, where events carry no
//! checksums, checksums of our own (`.crc`); further `meta.json`, `mark` and `promise`.

mod appender;
mod arrivals;
mod crcs;
mod error;
mod index;
mod live;
mod locate;
mod mark;
mod meta;
mod observer;
mod promise;
mod reader;
mod recovery;
mod reopen;
mod retention;
mod ring;
mod rotate;
mod scan;
mod segment;
mod sets;
mod storage;
mod store;
mod tail;
mod tally;
mod types;
mod writer;

pub use appender::{Appender, Batch, FileEpoch, OpenFile};
pub use error::{AppendError, GtidStartError, LogError, ReadError, StorageFailure};
pub use observer::LogObserver;
pub use promise::{Grant, PROMISE_FILE, PromiseFile, Promised, may_promise};
pub use reader::{Chunk, LogReader};
pub use storage::{DiskStorage, Storage, StorageFile};
pub use store::{Log, LogConfig};
pub use types::{Epoch, FileInfo, GtidStart, Head, LogIdentity, LogPos, LogStatus, Place, Transaction};
