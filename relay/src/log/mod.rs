//! The relay's durable log: the upstream's binlog files, byte for byte, as one continuous sequence.

mod types;

pub use types::{FileInfo, Head, LogPos, LogStatus, Place, Transaction};
