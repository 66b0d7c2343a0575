//! What relays say, as it is kept beside the facts for whoever shows it.

use std::time::Duration;

use baton_cluster::Grant;

/// What a relay said last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelayView {
    /// `upstream.state`.
    pub upstream: String,
    /// Where it streams from.
    pub upstream_address: Option<String>,
    /// How long before the answer it had received anything.
    pub upstream_heard: Option<Duration>,
    /// What it follows, in its own words: `primary`, `relay`, `none`.
    pub follows: String,
    /// GTID position of its head.
    pub head: String,
    /// Whether its log can be written.
    pub writable: bool,
    /// Whether its log is complete.
    pub complete: bool,
    /// Identity of its log.
    pub log_id: String,
    /// The highest grant promised or taken.
    pub promised: Grant,
    /// Whether it holds that.
    pub held: bool,
    /// Whether it has lost etcd.
    pub etcd_lost: bool,
    /// The relay's words about its upstream or its log, if something is wrong.
    pub error: Option<String>,
}

/// What a relay says of one of its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaView {
    /// Received GTID position.
    pub received: String,
    /// Applied GTID position.
    pub applied: Option<String>,
    /// Milliseconds of lag in applying.
    pub lag_ms: Option<u64>,
    /// `network`, `receive`, `apply`, `stopped`, `error`.
    pub bottleneck: Option<String>,
    /// The relay's words, if it can't be asked.
    pub error: Option<String>,
}
