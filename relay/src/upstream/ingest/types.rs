//! What the stream's bytes are turned from and into.

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::Flavor;
use baton_wire::gtid::GtidPosition;

use crate::log::{Batch, LogPos};

/// What has to happen next, in this order.
#[derive(Debug)]
pub(in crate::upstream) enum Effect {
    /// Begin the log's next file, whose name at the upstream has the base `upstream_base`.
    OpenFile { number: u64, base: String, upstream_base: String },
    /// Append bytes.
    Append(Batch),
    /// A transaction was cut off by the primary's crash: forget what was appended of it.
    DropPartial,
}

/// Where a stream begins.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct Start {
    /// Place of the next byte, and what was executed before it; `None` for an empty log.
    pub(in crate::upstream) resume: Option<(LogPos, GtidPosition)>,
    /// Name of the file to be resumed, as the upstream knows it; `None` if the stream begins with a new file.
    pub(in crate::upstream) file: Option<String>,
    /// What to add to an upstream file's number to get the log's.
    pub(in crate::upstream) shift: i64,
    /// The log's base name, once it has one.
    pub(in crate::upstream) base: Option<String>,
    /// The upstream's family.
    pub(in crate::upstream) flavor: Flavor,
    /// Whether the session's first (artificial) events carry checksums.
    pub(in crate::upstream) checksum: ChecksumAlg,
}

/// Counters of what came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::upstream) struct Counts {
    pub(in crate::upstream) events: u64,
    pub(in crate::upstream) transactions: u64,
    pub(in crate::upstream) heartbeats: u64,
}
