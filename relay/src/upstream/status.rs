//! What the upstream side tells others about itself.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::clock::Micros;
use crate::log::Promised;

/// State of the stream from the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamState {
    /// No stream yet, or it broke: trying, with back-off.
    Connecting,
    /// Receiving.
    Streaming,
    /// Ended for good by something that only an operator can mend (the position was purged, the log is damaged).
    Stopped,
    /// The primary's history and the log's contradict each other: nothing is merged.
    Diverged,
    /// The primary refuses us: wrong password, missing grant.
    Refused,
}

impl UpstreamState {
    /// As the HTTP interface spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Streaming => "streaming",
            Self::Stopped => "stopped",
            Self::Diverged => "diverged",
            Self::Refused => "refused",
        }
    }
}

/// `Rpl_semi_sync_master_*` of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SemiSync {
    /// Whether it waits for acknowledgements at all.
    pub enabled: bool,
    /// Connections that acknowledge: more than one is one too many.
    pub clients: u64,
    /// Commits that wait now.
    pub waiting: u64,
}

/// What is followed in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// `primary`, `relay` or `none`.
    pub kind: &'static str,
    /// The node's or relay's name.
    pub of: Option<String>,
    /// The epoch whose primary is followed; of a relay's log, the last one that it began.
    pub epoch: Option<u64>,
}

/// The stream from the primary, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// What it is doing.
    pub state: UpstreamState,
    /// Since when.
    pub since: Micros,
    /// The path in use, or tried last: `host:port`.
    pub address: Option<String>,
    /// The primary's `server_id`.
    pub server_id: Option<u32>,
    /// The primary's version.
    pub server_version: Option<String>,
    /// Why it is not streaming: one sentence that names the thing and the value.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// When the oldest transaction that the primary is known to have and the relay has not was first heard of.
    pub behind_since: Option<Micros>,
    /// The primary's own GTID position, as last heard.
    pub primary_gtid: Option<String>,
    /// Whether this relay's acknowledgements let the primary's commits return (semi-sync).
    pub acking: bool,
    /// What this relay has promised, and whether it holds the right to acknowledge.
    pub promised: Promised,
    /// Semi-sync as the primary tells it; `None` if it was not asked or does not know it.
    pub semi_sync: Option<SemiSync>,
    /// Settings of the primary that break what acknowledgements promise, each with the statement that mends it.
    pub warnings: Vec<String>,
    /// When it was asked for that.
    pub primary_asked: Option<Instant>,
    /// Connections made since the start.
    pub connects: u64,
    /// How the primary writes its log, by the name of the variable.
    pub settings: BTreeMap<&'static str, String>,
    /// What is followed; `None` where the relay stands alone.
    pub followed: Option<Followed>,
    /// When anything came last over the stream. A change of it alone wakes nobody.
    pub heard: Option<Instant>,
}

/// Variables of the primary that readers of its log ask for.
pub(super) const SETTINGS: [&str; 3] = ["binlog_format", "binlog_row_image", "binlog_row_metadata"];

impl Default for UpstreamStatus {
    fn default() -> Self {
        Self {
            state: UpstreamState::Connecting,
            since: Micros::now(),
            address: None,
            server_id: None,
            server_version: None,
            error: None,
            hint: None,
            behind_since: None,
            primary_gtid: None,
            acking: false,
            promised: Promised::default(),
            semi_sync: None,
            warnings: Vec::new(),
            primary_asked: None,
            connects: 0,
            settings: BTreeMap::new(),
            followed: None,
            heard: None,
        }
    }
}

impl UpstreamStatus {
    /// Milliseconds for which the primary is known to have had something that the relay has not.
    pub fn lag_ms(&self, now: Micros) -> u64 {
        self.behind_since.map_or(0, |since| now.millis_since(since))
    }
}
