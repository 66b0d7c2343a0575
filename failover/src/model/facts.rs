//! What a controller knows of the cluster, each fact with its age; and the policy that it decides by.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{ClusterState, Grant, NodeRecord, RelayRecord, SwitchoverRequest};

use super::agent::AgentStatus;

/// A fact and its age at the moment of deciding.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen<T> {
    /// What was seen.
    pub value: T,
    /// How long ago.
    pub age: Duration,
}

/// What a controller's own SQL probe of a node says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SqlFacts {
    /// A query was answered.
    Answers {
        /// `@@read_only`.
        read_only: bool,
    },
    /// The server lives but lets nobody in: too many connections, access denied. The text says what.
    Alive(String),
    /// Connecting was refused: nothing listens there.
    Refused,
    /// No answer within `probe.timeout` on any path. The text says what was tried.
    Silent(String),
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AgentFacts {
    /// It answers; its status.
    Answers(Box<AgentStatus>),
    /// Connecting was refused: the host lives, the agent does not.
    Refused,
    /// No answer within `probe.timeout`.
    Silent,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeFacts {
    /// Its name, addresses, host, site, priority.
    pub record: NodeRecord,
    /// Whether its agent's key is in etcd at present.
    pub announced: bool,
    /// The SQL probe's last verdict.
    pub sql: Option<Seen<SqlFacts>>,
    /// The agent's last verdict.
    pub agent: Option<Seen<AgentFacts>>,
    /// How long ago the agent gave its last sign of life to this controller or to etcd; none: never since this controller started.
    pub agent_last_seen: Option<Duration>,
}

/// What is known of a relay, of its `/v1/status` and `/v1/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayFacts {
    /// Its name, addresses, host, site, account.
    pub record: RelayRecord,
    /// Whether its key is in etcd at present.
    pub announced: bool,
    /// Whether it answers; the time of the answer is `age`.
    pub answers: bool,
    /// Age of the last answer, or of the last failure.
    pub age: Duration,
    /// `upstream.state`: `connecting | streaming | stopped | diverged | refused`.
    pub upstream: String,
    /// Address that it streams from.
    pub upstream_address: Option<String>,
    /// How long ago the relay received anything from its upstream, heartbeats included.
    pub upstream_heard: Option<Duration>,
    /// GTID position of its head.
    pub head: String,
    /// Whether its log can be written.
    pub writable: bool,
    /// Whether its log is complete (not damaged).
    pub complete: bool,
    /// Identity of its log.
    pub log_id: String,
    /// The highest grant promised or taken, and whether it is held.
    pub promised: Grant,
    /// Whether it holds `promised`.
    pub held: bool,
    /// Whether etcd answers it, by its own word; also where it has not said.
    pub etcd_ok: bool,
    /// Received and applied GTID positions of replicas attached to it, by name: `(received, applied, lag_ms)`.
    pub replicas: BTreeMap<String, (String, Option<String>, Option<u64>)>,
}

impl RelayFacts {
    /// Whether it is cut off from etcd: it says so, and its key there has gone. One of the two is also so for a moment after an outage of etcd.
    pub fn has_lost_etcd(&self) -> bool {
        !self.etcd_ok && !self.announced
    }

    /// Whether replicas get from it what is committed: one that etcd has lost does not learn whom to follow, once its stream has ended.
    pub fn feeds(&self) -> bool {
        self.answers && (!self.has_lost_etcd() || self.upstream == "streaming")
    }
}

/// What another controller says of the primary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControllerFacts {
    /// Its name.
    pub name: String,
    /// How long ago it said so.
    pub age: Duration,
    /// Whether it sees the primary's server answer.
    pub sees_primary: Option<bool>,
}

/// Everything that a decision is made from. No clock and no I/O behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterFacts {
    /// The state document; none: not bootstrapped.
    pub state: Option<ClusterState>,
    /// How long ago etcd answered; a leader without etcd decides nothing.
    pub etcd_age: Duration,
    /// Why etcd does not answer, as far as it is known.
    pub etcd_trouble: Option<String>,
    /// Whether automatic failover is paused.
    pub paused: bool,
    /// What was asked for.
    pub request: Option<SwitchoverRequest>,
    /// By name.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// By name.
    pub relays: BTreeMap<String, RelayFacts>,
    /// Other controllers.
    pub controllers: Vec<ControllerFacts>,
    /// Ages of the automatic failovers within the guard's window.
    pub recent_failovers: Vec<Duration>,
    /// How long this controller has been looking: whatever it never saw has been silent for at least this long.
    pub watching_for: Duration,
    /// Keys in etcd whose content can't be read, a sentence each.
    pub etcd_errors: Vec<String>,
}

/// What the configuration says about deciding.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Silence of all paths that counts as death.
    pub probe_timeout: Duration,
    /// An agent that is cut off fences its server after this long.
    pub fence_after: Duration,
    /// A node whose agent is silent: `true`: wait until it must have fenced itself (`unreachable = "wait"`), `false`: do not (`"now"`).
    pub wait_for_self_fence: bool,
    /// At most this many automatic failovers ...
    pub guard_max: u32,
    /// ... in this window.
    pub guard_window: Duration,
    /// Something that must be had before promoting is missing (`on_missing`): none: stop; some: force after that long.
    pub force_after: Option<Duration>,
    /// A switchover's target may be this far behind.
    pub max_lag: Duration,
    /// For a candidate to apply what it lacks.
    pub catch_up_timeout: Duration,
    /// The primary's agent is gone for `valid_for` and its server lives: move the primary away (`agent_lost = "switchover"`).
    pub switchover_when_agent_lost: bool,
    /// The interface of the virtual IP has no carrier on the primary's host: move the primary to a host that has one (`link_lost = "switchover"`).
    pub switchover_when_link_lost: bool,
    /// Lifetime of the virtual IP, and of patience with a lost agent.
    pub valid_for: Duration,
    /// A disk that does not take writes for this long makes the primary unfit.
    pub disk_timeout: Duration,
    /// A primary that this controller never saw alive is not given up before it has been looking for this long: after a cold start of
    /// everything the last primary serves again.
    pub start_grace: Duration,
    /// Switchover: running transactions may end by themselves for this long, then they are cut.
    pub drain: Duration,
    /// Switchover: for blocking the old primary's writes, `drain` included; then it is taken back.
    pub block_timeout: Duration,
    /// Promotion: how long the new primary waits for the acker's connection before it becomes writable anyway.
    pub acker_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            probe_timeout: Duration::from_secs(1),
            fence_after: Duration::from_secs(1),
            wait_for_self_fence: true,
            guard_max: 2,
            guard_window: Duration::from_secs(600),
            force_after: None,
            max_lag: Duration::from_secs(5),
            catch_up_timeout: Duration::from_secs(30),
            switchover_when_agent_lost: true,
            switchover_when_link_lost: false,
            valid_for: Duration::from_secs(5),
            disk_timeout: Duration::from_secs(5),
            start_grace: Duration::from_secs(10),
            drain: Duration::from_millis(500),
            block_timeout: Duration::from_secs(3),
            acker_timeout: Duration::from_secs(1),
        }
    }
}
