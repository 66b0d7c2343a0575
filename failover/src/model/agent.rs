//! What an agent tells: `GET /v1/status`, and the lines of `GET /v1/watch`.

use serde::{Deserialize, Serialize};

/// What the agent knows of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MysqldState {
    /// The pidfd says that it lives, and it answers.
    Running,
    /// It lives and does not answer (yet).
    Silent,
    /// It does not run.
    Dead,
    /// It is kept from starting until the agent knows its role.
    Waiting,
}

/// What the server is for, as the agent has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerRole {
    /// The cluster's state names it primary.
    Primary,
    /// It replicates from a relay.
    Replica,
    /// It was kept from committing for good, until it follows.
    Fenced,
    /// No state yet: read-only.
    Unassigned,
    /// It has transactions that the cluster's log lacks: waits for `batonctl rejoin`.
    Diverged,
}

/// The replication of a server, of `SHOW SLAVE STATUS`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ReplicationStatus {
    /// `host:port` of its source.
    pub source: String,
    /// `Slave_IO_Running`: `Yes`, `No`, `Connecting`.
    pub io: String,
    /// `Slave_SQL_Running`.
    pub sql: bool,
    /// Last error number and text of the IO thread.
    pub io_error: Option<(u32, String)>,
    /// Last error number and text of the SQL thread.
    pub sql_error: Option<(u32, String)>,
    /// What was received (`Gtid_IO_Pos`).
    pub received: String,
    /// `SQL_Delay` in seconds.
    pub delay: u64,
    /// Whether replication filters are set.
    pub filtered: bool,
}

/// The server, as it answered last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ServerStatus {
    /// `@@version`.
    pub version: String,
    /// `@@server_id`.
    pub server_id: u32,
    /// `@@read_only`.
    pub read_only: bool,
    /// `@@gtid_binlog_pos`.
    pub gtid_binlog: String,
    /// `@@gtid_slave_pos`.
    pub gtid_slave: String,
    /// `Rpl_semi_sync_master_status`.
    pub semi_sync: bool,
    /// `Rpl_semi_sync_master_clients`.
    pub semi_sync_clients: u32,
    /// `Rpl_semi_sync_master_wait_sessions`: commits that wait for an ack.
    pub waiting_commits: u32,
    /// Client connections.
    pub connections: u32,
    /// Its replication; null if it has none.
    pub replication: Option<ReplicationStatus>,
    /// What it lacks of what Baton needs, each with the statement that mends it. Not empty: no candidate.
    pub unmet: Vec<String>,
}

/// `GET /v1/status` of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The cluster.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// The process.
    pub mysqld: MysqldState,
    /// Milliseconds since `mysqld` changed.
    pub mysqld_ms: u64,
    /// What the server is for.
    pub role: ServerRole,
    /// The server's answer; null while it does not answer.
    pub server: Option<ServerStatus>,
    /// Milliseconds since the server answered last; null: never.
    pub server_age_ms: Option<u64>,
    /// Why the server does not answer.
    pub error: Option<String>,
    /// Whether writes to the data directory's file system succeed in time; null: not tried yet.
    pub disk_ok: Option<bool>,
    /// The virtual IP while the node's interface holds it.
    pub address: Option<String>,
    /// Why the address could not be taken, or that it was lost.
    pub address_error: Option<String>,
    /// Whether the interface of the virtual IP has a carrier; null: not known, or none is configured.
    #[serde(default)]
    pub carrier: Option<bool>,
    /// Whether etcd answers the agent, which has to ask it before it makes its server writable; null: not told (an older agent).
    #[serde(default)]
    pub etcd_ok: Option<bool>,
    /// Whether this agent has fenced its server because it was cut off.
    pub self_fenced: bool,
    /// What the server was for when the cluster was given up: since then it is left alone; null: it was not given up.
    #[serde(default)]
    pub given_up: Option<ServerRole>,
    /// Number of the last order obeyed: term, epoch, step.
    pub last_order: [u64; 3],
    /// Progress of a clone, in words: `running: ...`, and how the last one ended, `done: ...` or `failed: ...`; null if there was none since the
    /// agent began.
    pub clone: Option<String>,
    /// File with what this server had committed and the cluster's log lacks; null if nothing was found.
    pub surplus: Option<String>,
}

impl AgentStatus {
    /// Whether the server's data are being replaced by a copy.
    pub fn is_cloning(&self) -> bool {
        self.clone.as_ref().is_some_and(|progress| progress.starts_with("running"))
    }

    /// What the server is used for: its role, or the one that it had when the cluster was given up.
    pub fn used_as(&self) -> ServerRole {
        self.given_up.unwrap_or(self.role)
    }
}

/// A line of `GET /v1/watch` of an agent, newline-delimited JSON; `status` comes at once, at each change, and at least every second as a sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// The whole status.
    Status(Box<AgentStatus>),
    /// The server's process has ended: sent within microseconds of it.
    MysqldDied {
        /// How, such as `killed by signal 9`, where known.
        how: String,
    },
    /// A sign of life without news but how old the server's last answer is by now.
    Alive {
        /// Milliseconds since the server answered last; null: never, or not told (an older agent).
        #[serde(default)]
        server_age_ms: Option<u64>,
    },
}
