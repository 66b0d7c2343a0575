//! The other documents in etcd: who is there, what each epoch was, what was asked for, what has happened.

use serde::{Deserialize, Serialize};

use crate::grant::Grant;
use crate::state::{Cause, ClusterState, OperationKind, Tail};

/// `nodes/<name>`: a database server with its agent, as the agent announces it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node's name.
    pub name: String,
    /// `host:port` of its server, the preferred path first.
    pub mysql: Vec<String>,
    /// `host:port` of the agent's HTTP; empty: not known; [`NO_AGENT`](Self::NO_AGENT).
    pub http: String,
    /// What shares a host dies together.
    #[serde(default)]
    pub host: String,
    /// Where it stands.
    #[serde(default)]
    pub site: String,
    /// Preference among equally fresh candidates; 0: never.
    pub priority: u32,
    /// `server_id`, once the server has been asked.
    #[serde(default)]
    pub server_id: Option<u32>,
    /// Hardware address of the interface that holds the virtual IP, as `02:00:00:00:00:01`; empty without one.
    #[serde(default)]
    pub hardware: String,
    /// The agent's `address.fence_after`, in milliseconds; null: not told (an older agent, or none).
    #[serde(default)]
    pub fence_after_ms: Option<u64>,
    /// The agent's `address.valid_for`, in milliseconds; null: as there.
    #[serde(default)]
    pub valid_for_ms: Option<u64>,
    /// Version of the agent.
    pub version: String,
}

impl NodeRecord {
    /// In place of the agent's address: the controllers' configuration says that there is none, and the server is ordered over SQL.
    pub const NO_AGENT: &str = "none";

    /// Whether it is known that there is no agent.
    pub fn has_no_agent(&self) -> bool {
        self.http == Self::NO_AGENT
    }
}

/// `relays/<name>`, as the relay announces it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RelayRecord {
    /// The relay's name.
    pub name: String,
    /// `host:port` where replicas and further relays connect.
    pub replication: String,
    /// `host:port` of its HTTP.
    pub http: String,
    /// What shares a host dies together: the acker is never on the primary's host.
    #[serde(default)]
    pub host: String,
    /// Where it stands.
    #[serde(default)]
    pub site: String,
    /// Its `server_id`: names its dump thread on the primary.
    pub server_id: u32,
    /// Its account on the servers: what is locked to revoke it there.
    pub user: String,
    /// Identity of its log.
    pub log_id: String,
    /// The highest grant that it has promised or taken, and whether it holds that.
    pub promised: Grant,
    /// Whether it may acknowledge under `promised`.
    pub held: bool,
    /// Version of the relay.
    pub version: String,
}

/// `controllers/<name>`, as the controller announces it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// The controller's name.
    pub name: String,
    /// `host:port` of its HTTP.
    pub http: String,
    /// Digest of what all controllers must agree on.
    pub config: String,
    /// Version of the controller.
    pub version: String,
}

/// `leader`: the controller that leads. The key's create revision is the term.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// Its name.
    pub name: String,
    /// `host:port` of its HTTP.
    pub http: String,
}

/// `epochs/<epoch>`: where the log of an epoch comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: u64,
    /// The node that is its primary.
    pub node: String,
    /// `host:port` of the primary's server, the preferred path first.
    pub mysql: Vec<String>,
    /// Its `server_id`.
    pub server_id: u32,
    /// The primary's own name of the binlog file with which the epoch begins, at offset 4. Null in the first epoch: there a relay
    /// begins as its own configuration says.
    pub first_file: Option<String>,
    /// What is added to a file's number at the primary to get its number in the log.
    pub shift: i64,
    /// GTID position at which the epoch begins.
    pub gtid: String,
}

/// One stage of an operation, for `history/<epoch>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stage {
    /// `decided`, `revoked`, `caught_up`, `prepared`, `promoted`, `writable`, ...
    pub name: String,
    /// Milliseconds since the operation began.
    pub at_ms: u64,
    /// What it brought.
    #[serde(default)]
    pub detail: String,
}

/// `history/<epoch>`: who or what ordered an operation, on what evidence, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// The epoch that it began.
    pub epoch: u64,
    /// What it was.
    pub kind: OperationKind,
    /// Who served before.
    pub from: Option<String>,
    /// Who serves since; null if it was taken back or is not finished.
    pub to: Option<String>,
    /// Who ordered it and why.
    pub cause: Cause,
    /// What was seen, a sentence each.
    pub evidence: Vec<String>,
    /// RFC 3339.
    pub started: String,
    /// RFC 3339; null while it is under way.
    pub finished: Option<String>,
    /// `done`, `taken_back`, `superseded` or `running`.
    pub outcome: String,
    /// Its stages, in order.
    pub stages: Vec<Stage>,
    /// The tail that was taken over.
    pub tail: Option<Tail>,
}

/// `request`: a switchover or manual failover that somebody asked for; removed by the leader that takes it up or refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SwitchoverRequest {
    /// Made by who asks, to follow it.
    pub id: String,
    /// Whom to promote; null: the best.
    pub to: Option<String>,
    /// Whether the present primary is given up without its cooperation (`batonctl failover`).
    pub force: bool,
    /// Who asks.
    pub by: String,
    /// RFC 3339.
    pub asked_at: String,
}

/// `paused`: automatic failover rests while this key is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PausedRecord {
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// RFC 3339.
    pub since: String,
}

/// `left`: the cluster was given up. Nobody changes anything any more; relays go on as `state` says, agents leave their servers as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeftRecord {
    /// The last state.
    pub state: ClusterState,
    /// Who gave it up.
    pub by: String,
    /// RFC 3339.
    pub at: String,
}
